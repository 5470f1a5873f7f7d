"""Scores where they belong: on the grid of patches, over the slide or tile that they were cut from.

All places are in level-0 pixels of the slide (of a tile: its own pixels), from the top left corner.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from histocae import demo
from histocae.demo_tissue import TRUTH_MICRONS
from histocae.errors import SlideError
from histocae.slide import Slide
from histocae.sources import Source
from histocae.tiles import read_tile

MOST_TILES = 4  # of a slide that was given as tiles
THUMBNAIL = 480  # longest side of a thumbnail, in pixels
BLOCK = 2048  # side of what is read at once, in pixels of the level read
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


def look(source: Source, rows: pd.DataFrame, scores: np.ndarray, pixels: int, mpp: float) -> list[View]:
    """Put the scores of a slide's patches over its picture.

    Args:
        source: of the slide; it makes or gets again what was let go.
        rows: slide_id, file, row, column and mpp of its patches.
        scores: one per patch.
        pixels: side of a patch, in its own pixels.
        mpp: microns per level-0 pixel of the slide; NaN for tiles.

    Returns:
        One view; of cut tiles one each of the first four.

    Raises:
        SlideError: its file is not there or can't be opened.

    """
    views = []
    for file, part in list(rows.groupby("file", sort=False))[:MOST_TILES]:
        path, own = source.fetch(part["slide_id"].iloc[0], file), scores[(rows["file"] == file).to_numpy()]
        if source.tiles:
            picture = read_tile(path)
            extent = (0.0, float(picture.width), float(picture.height), 0.0)
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            views.append(View(np.asarray(picture), extent, *score_grid(part, own, pixels)))
            continue
        side = patch_side(part, pixels, mpp)
        view = View(*thumbnail(path), *score_grid(part, own, side))
        if source.demo_spec is not None:
            truth = demo.truth_mask(path.with_suffix(".truth.png"))
            view = replace(view, truth=truth, shares=truth_shares(truth, part, side, TRUTH_MICRONS / mpp))
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


def thumbnail(path: Path) -> tuple[np.ndarray, Extent]:
    """Read a whole slide small, block by block; a block that can't be read is left white.

    Returns:
        uint8, height x width x 3, and where it lies.

    Raises:
        SlideError: the slide can't be opened.

    """
    with Slide(path) as slide:
        full = slide.levels[0]
        step = max(1.0, max(full.width, full.height) / THUMBNAIL)
        width, height = max(1, round(full.width / step)), max(1, round(full.height / step))
        level = slide.level_for(step)
        # pixels of the level that make one of the thumbnail
        across, down = slide.levels[level].width / width, slide.levels[level].height / height
        picture = np.full((height, width, 3), 255, np.uint8)
        for top in range(0, height, rows := max(1, int(BLOCK / down))):
            bottom = min(top + rows, height)
            for left in range(0, width, columns := max(1, int(BLOCK / across))):
                right = min(left + columns, width)
                box = (left * across, top * down, right * across, bottom * down)
                try:
                    picture[top:bottom, left:right] = slide.read_scaled(level, box, right - left, bottom - top)
                except SlideError:
                    continue  # it was told when the patches were cut
    return picture, (0.0, float(full.width), float(full.height), 0.0)
