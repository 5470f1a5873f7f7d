"""The faults of a slide's patches: which patches are flagged, and which are left out, as a model's contract says."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.contrast.contract import Contract
from histocae.errors import SlideError
from histocae.patches import quality
from histocae.patches.flags import TEXTS, as_bits, none_left
from histocae.patches.store import MEASURES

FLAGS = "flags"  # column: faults separated by a space, "" for none


class Flagged(NamedTuple):
    """The patches of a slide that are not left out.

    Attributes:
        patches: their columns, among them those of `store.MEASURES`, and `FLAGS`.
        latents: float32, shape (patches, features); or None.
        left_out: number of patches that were left out, by fault; a patch with several counts for the first of
            `quality.FAULTS`.

    """

    patches: pd.DataFrame
    latents: NDArray[np.float32] | None
    left_out: dict[str, int]


def flag(patches: pd.DataFrame, latents: NDArray[np.float32] | None, contract: Contract) -> Flagged:
    """Flag all patches of a slide, and leave out those that the contract leaves out.

    Models of earlier versions were trained without any of this: the default thresholds flag, and nothing is left out.

    Args:
        patches: of one slide, with the columns of `store.MEASURES`.
        latents: float32, shape (patches, features); or None.
        contract: of the model.

    Returns:
        The patches that are not left out.

    Raises:
        SlideError: all are left out.

    """
    rule = contract.patches.quality
    thresholds = quality.THRESHOLDS if rule is None else rule.thresholds.as_json()
    flags = quality.flag({name: patches[name] for name in MEASURES}, thresholds)
    patches = patches.assign(**{FLAGS: np.array(TEXTS, object)[as_bits(flags)]})
    kept, left_out = np.ones(len(patches), bool), dict[str, int]()
    for fault in quality.FAULTS:
        if rule is not None and fault in rule.left_out:
            left_out[fault] = int((kept & flags[fault]).sum())
            kept &= ~flags[fault]
    if not kept.any():
        raise SlideError(none_left(left_out))
    if kept.all():
        return Flagged(patches, latents, {})
    patches = patches[kept].reset_index(drop=True)
    return Flagged(patches, None if latents is None else latents[kept], {k: n for k, n in left_out.items() if n})


def count(flags: "pd.Series[Any]") -> dict[str, int]:
    """Count the patches with each fault.

    Args:
        flags: the column `FLAGS`.

    Returns:
        The number of patches by fault, in the order of `quality.FAULTS`, without zeros.

    Example:
        >>> count(pd.Series(["blur", "", "pen blur", "blur"]))
        {'pen': 1, 'blur': 3}

    """
    found = Counter[str]()
    for text, number in flags.value_counts().items():
        found.update(dict.fromkeys(str(text).split(), int(number)))
    return {fault: found[fault] for fault in quality.FAULTS if found[fault]}
