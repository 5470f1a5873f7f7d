"""Scores where they belong: on the grid of patches, over the slide or tile that they were cut from.

All places are in level-0 pixels of the slide (of a tile: its own pixels), from the top left corner.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from histocae.patches.tiles import read_tile
from histocae.slides.thumbnails import LONGEST
from histocae.sources import demo
from histocae.sources.demo_tissue import TRUTH_MICRONS
from histocae.sources.slide_source import Source

MOST_TILES = 4  # of a slide that was given as tiles
Extent = tuple[float, float, float, float]  # left, right, bottom, top, as matplotlib wants it


@dataclass(frozen=True)
class View:
    """What is shown of one slide or tile.

    Attributes:
        picture: uint8, height x width x 3: all of it, small.
        picture_extent: where that lies.
        scores: float64, rows x columns; NaN where there is no patch.
        scores_extent: where those lie.
        truth: bool, height x width, tumor or not, over the picture's extent; None where unknown.
        shares: float64, the part of each patch that is tumor, in the order of its rows; likewise.

    """

    picture: np.ndarray
    picture_extent: Extent
    scores: np.ndarray
    scores_extent: Extent
    truth: np.ndarray | None = None
    shares: np.ndarray | None = None


@dataclass(frozen=True)
class Seen:
    """What was kept of a slide when its patches were cut.

    Attributes:
        thumbnail: picture of all of it.
        width, height: level-0 pixels.
        mpp: microns per level-0 pixel.

    """

    thumbnail: Path
    width: int
    height: int
    mpp: float


def look(source: Source, rows: pd.DataFrame, scores: np.ndarray, pixels: int, seen: Seen | None) -> list[View]:
    """Put the scores of a slide's patches over its picture.

    Args:
        source: of the slide.
        rows: slide_id, file, row, column and mpp of its patches.
        scores: one per patch.
        pixels: side of a patch, in its own pixels.
        seen: the slide itself, which may have been let go; None for tiles.

    Returns:
        One view; of cut tiles one each of the first four.

    Raises:
        SlideError: a tile is not there or can't be opened.

    """
    views = []
    for file, part in list(rows.groupby("file", sort=False))[:MOST_TILES]:
        own = scores[(rows["file"] == file).to_numpy()]
        if seen is None:
            picture = read_tile(source.fetch(part["slide_id"].iloc[0], file))
            extent = (0.0, float(picture.width), float(picture.height), 0.0)
            picture.thumbnail((LONGEST, LONGEST))
            views.append(View(np.asarray(picture), extent, *score_grid(part, own, pixels)))
            continue
        side = patch_side(part, pixels, seen.mpp)
        with Image.open(seen.thumbnail) as picture:
            extent = (0.0, float(seen.width), float(seen.height), 0.0)
            view = View(np.asarray(picture.convert("RGB")), extent, *score_grid(part, own, side))
        if source.demo_spec is not None:
            path = source.fetch(part["slide_id"].iloc[0], file)
            truth = demo.truth_mask(path.with_suffix(".truth.png"))
            view = replace(view, truth=truth, shares=truth_shares(truth, part, side, TRUTH_MICRONS / seen.mpp))
        views.append(view)
    return views


def score_grid(rows: pd.DataFrame, scores: np.ndarray, side: float) -> tuple[np.ndarray, Extent]:
    """Lay scores on the grid of their patches.

    Args:
        rows: row and column of each patch.
        scores: one per patch.
        side: of a patch.

    Returns:
        float64, rows x columns, NaN where there is no patch; and where it lies.

    """
    row, column = rows["row"].to_numpy(), rows["column"].to_numpy()
    grid = np.full((row.max() + 1, column.max() + 1), np.nan)
    grid[row, column] = scores
    return grid, (0.0, grid.shape[1] * side, grid.shape[0] * side, 0.0)


def patch_side(rows: pd.DataFrame, pixels: int, mpp: float) -> float:
    """Give the side of a slide's patches.

    Args:
        rows: mpp of its patches.
        pixels: side of a patch, in its own pixels.
        mpp: microns per level-0 pixel of the slide.

    """
    return pixels * float(rows["mpp"].iloc[0]) / mpp


def truth_shares(truth: np.ndarray, rows: pd.DataFrame, side: float, pixel: float) -> np.ndarray:
    """Measure the part of each patch that is tumor.

    Args:
        truth: bool, height x width.
        rows: row and column of each patch.
        side: of a patch.
        pixel: side of a pixel of the truth.

    Returns:
        float64 in [0, 1].

    """
    corners = rows[["row", "column"]].to_numpy()
    first, end = (np.rint(one * side / pixel).astype(int) for one in (corners, corners + 1))
    boxes = zip(first.tolist(), end.tolist(), strict=True)
    return np.array([truth[top:bottom, left:right].mean() for (top, left), (bottom, right) in boxes])
