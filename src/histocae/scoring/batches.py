"""Blocks of patches, as they are read, divided into batches and measured by a model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import SlideError, shortened
from histocae.patches import quality
from histocae.patches.conversion import convert
from histocae.patches.shard_record import NO_TISSUE
from histocae.scoring.flagging import Flagged, flag
from histocae.scoring.model import BATCH, Model

Blocks = Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]


def measure(
    blocks: Blocks,
    model: Model,
    kind: str,
    stains: NDArray[np.float64] | None,
    mpp: float | None,
    reasons: Sequence[str] = (),
) -> Flagged:
    """Measure all patches, join the columns and the latents of the batches, and flag the patches with faults.

    Args:
        blocks: columns and patches, as scanned.
        model: that scores.
        kind: color of the model's patches; see `conversion.convert`.
        stains: of the slide, float64, shape (3, 3); for macenko.
        mpp: microns per pixel of the patches; None: unknown.
        reasons: why patches may be missing.

    Returns:
        The patches without those that are left out.

    Raises:
        SlideError: there are no patches, or all are left out.

    """
    parts, latents = [], []
    # faults are measured on patches as scanned, as in the stage `patches`
    converted = (
        (columns | quality.measure(patches, mpp), convert(patches, kind, stains)) for columns, patches in blocks
    )
    for columns, features in model.measure(batches(converted, BATCH)):
        parts.append(columns)
        if features is not None:
            latents.append(features)
    if not parts:
        raise SlideError(shortened(reasons) if reasons else NO_TISSUE)
    table = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return flag(table, np.concatenate(latents) if latents else None, model.contract)


def batches(blocks: Blocks, size: int) -> Blocks:
    """Divide blocks of patches into batches.

    Args:
        blocks: columns (arrays of shape (n,), or a value for all) and patches (uint8, shape (n, height, width, 3)).
        size: of a batch; the last one may be smaller.

    Yields:
        Columns (arrays of shape (n,)) and patches, n at most `size`. The patches are overwritten when the next are
        requested.

    Example:
        >>> blocks = (({"x": np.full(n, n)}, np.zeros((n, 8, 8, 3), np.uint8)) for n in (3, 4))
        >>> [(columns["x"].tolist(), len(patches)) for columns, patches in batches(blocks, 5)]
        [([3, 3, 3, 4, 4], 5), ([4, 4], 2)]

    """
    buffer, held, filled = None, list[dict[str, Any]](), 0

    def joined() -> dict[str, Any]:
        return {name: np.concatenate([part[name] for part in held]) for name in held[0]}

    for columns, patches in blocks:
        if buffer is None:
            buffer = np.empty((size, *patches.shape[1:]), np.uint8)
        spread = {name: np.broadcast_to(value, len(patches)) for name, value in columns.items()}
        start = 0
        while start < len(patches):
            end = min(len(patches), start + size - filled)
            buffer[filled : filled + end - start] = patches[start:end]
            held.append({name: value[start:end] for name, value in spread.items()})
            filled += end - start
            start = end
            if filled == size:
                yield joined(), buffer
                held, filled = [], 0
    if buffer is not None and filled:
        yield joined(), buffer[:filled]
