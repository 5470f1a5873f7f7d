"""Flags of patches as one number, as text and in words, and the reason of slides whose patches are all left out."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from histocae.patches.quality import FAULTS

# of the patches with a fault, in sentences
WORDS = {
    "pen": "under ink",
    "blur": "out of focus",
    "fold": "in folds",
    "debris": "under debris",
    "pale": "stained palely",
}
SEPARATOR = " "  # of the faults in a text of flags
# the text of flags for each value of `as_bits`: faults separated by a space, "" for none
TEXTS = tuple(
    SEPARATOR.join(fault for bit, fault in enumerate(FAULTS) if bits >> bit & 1) for bits in range(2 ** len(FAULTS))
)


def as_bits(flags: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Join the flags of each patch in one number.

    Args:
        flags: what `quality.flag` returns.

    Returns:
        uint8, shape (n,): bit i is set where a patch has fault i of `FAULTS`; `TEXTS` has the text of each value.

    Example:
        >>> flags = {fault: np.array([fault in ("pen", "fold"), False]) for fault in FAULTS}
        >>> [TEXTS[bits] for bits in as_bits(flags)]
        ['pen fold', '']

    """
    bits = np.zeros(len(flags[FAULTS[0]]), np.uint8)
    for bit, fault in enumerate(FAULTS):
        bits |= flags[fault].astype(np.uint8) << bit
    return bits


def none_left(counts: Mapping[str, int]) -> str:
    """Say why a slide has no patch: all are left out.

    Args:
        counts: of the patches that are left out, by reason.

    Returns:
        A sentence without its full stop.

    """
    return "all of its patches are left out: " + ", ".join(f"{n} {name}" for name, n in counts.items() if n)
