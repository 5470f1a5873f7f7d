"""The share of each patch that is truly tumor, where the truth of a slide is known (the demo cohort)."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.patches import previews
from histocae.slides.units import Level0Pixels, MicronsPerPixel


def tumor_shares(folder: Path, test: pd.DataFrame, slides: pd.DataFrame, pixels: int) -> NDArray[np.float64] | None:
    """Measure the share of each test patch that is tumor.

    Args:
        folder: of previews, with the truth masks.
        test: shard, slide_id, row, column and mpp of each test patch.
        slides: slide_id, width (level-0 pixels) and mpp of each test slide.
        pixels: side of a patch, in its own pixels.

    Returns:
        float64 in [0, 1], shape (patches,), in the order of `test`; None where the truth of a slide is unknown.

    """
    by_id, shares = slides.set_index("slide_id"), []
    for shard, rows in test.groupby("shard"):
        truth = previews.read_truth(folder, str(shard))
        if truth is None:
            return None
        slide = by_id.loc[rows["slide_id"].iloc[0]]
        side = patch_side(rows, pixels, MicronsPerPixel(slide["mpp"]))
        pixel = Level0Pixels(slide["width"] / truth.shape[1])
        shares.append(pd.Series(truth_shares(truth, rows, side, pixel), rows.index))
    joined: NDArray[np.float64] = pd.concat(shares).sort_index().to_numpy()
    return joined


def patch_side(rows: pd.DataFrame, pixels: int, mpp: MicronsPerPixel) -> Level0Pixels:
    """Compute the side of a slide's patches.

    Args:
        rows: mpp (microns per pixel) of its patches.
        pixels: side of a patch, in its own pixels.
        mpp: microns per level-0 pixel of the slide.

    Returns:
        The side in level-0 pixels; a fraction where patches are reduced.

    """
    return Level0Pixels(pixels * float(rows["mpp"].iloc[0]) / mpp)


def truth_shares(
    truth: NDArray[np.bool_], rows: pd.DataFrame, side: Level0Pixels, pixel: Level0Pixels
) -> NDArray[np.float64]:
    """Measure the share of each patch of a slide that is tumor.

    Args:
        truth: bool, shape (height, width), True where tumor.
        rows: row and column of each patch.
        side: of a patch, in level-0 pixels.
        pixel: side of a pixel of the truth mask, in level-0 pixels.

    Returns:
        float64 in [0, 1], shape (patches,).

    """
    corners = rows[["row", "column"]].to_numpy()
    first, end = (np.rint(edge * side / pixel).astype(int) for edge in (corners, corners + 1))
    boxes = zip(first.tolist(), end.tolist(), strict=True)
    return np.array([truth[top:bottom, left:right].mean() for (top, left), (bottom, right) in boxes])
