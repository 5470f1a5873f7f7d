"""Scores on the grid of patches, over the thumbnail of the slide or tile that the patches were extracted from.

Positions are in level-0 pixels of the slide (of a tile: in its own pixels), from the top left corner.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.contrast.truth import patch_side
from histocae.errors import DataError
from histocae.patches import previews
from histocae.regions import stored
from histocae.slides.units import Level0Pixels, MicronsPerPixel

Extent = tuple[float, float, float, float]  # left, right, bottom, top, as matplotlib takes it


@dataclass(frozen=True)
class HeatmapView:
    """A slide or tile as a heatmap shows it.

    Attributes:
        image: uint8, shape (height, width, 3): all of it, small.
        image_extent: the area that the image covers.
        scores: float64, shape (rows, columns); NaN where there is no patch.
        scores_extent: the area that the scores cover.
        truth: bool, shape (height, width), True where tumor, over the image's extent; None where unknown.
        regions: that a pathologist drew: the kind (tumor, normal, exclude) and the x and y of each ring, float64,
            shape (points, 2).

    """

    image: NDArray[np.uint8]
    image_extent: Extent
    scores: NDArray[np.float64]
    scores_extent: Extent
    truth: NDArray[np.bool_] | None = None
    regions: tuple[tuple[str, NDArray[np.float64]], ...] = ()


def slide_view(
    folder: Path,
    rows: pd.DataFrame,
    scores: NDArray[np.float64],
    pixels: int,
    slide: pd.Series,
    regions: Path | None = None,
) -> HeatmapView:
    """Lay the scores of a slide's patches over its thumbnail.

    Args:
        folder: of previews.
        rows: shard, row, column and mpp of each patch of the slide.
        scores: float64, shape (patches,).
        pixels: side of a patch, in its own pixels.
        slide: width and height (level-0 pixels) and mpp (microns per level-0 pixel) of the slide.
        regions: folder of the regions of slides; see `regions.stored`. None: there are none.

    Returns:
        The view of the slide.

    Raises:
        DataError: the thumbnail is missing.
        StoreError: it is damaged.

    """
    shard = str(rows["shard"].iloc[0])
    grid, area = score_grid(rows, scores, patch_side(rows, pixels, MicronsPerPixel(slide["mpp"])))
    image = _read_image(previews.thumbnail_file(folder, shard))
    extent = (0.0, float(slide["width"]), float(slide["height"]), 0.0)
    rings = () if regions is None else _rings(regions, shard)
    return HeatmapView(image, extent, grid, area, previews.read_truth(folder, shard), rings)


def _rings(folder: Path, shard: str) -> tuple[tuple[str, NDArray[np.float64]], ...]:
    """List the rings of a slide's regions."""
    import shapely

    shapes = stored.read(folder, shard) or {}
    return tuple(
        (kind, shapely.get_coordinates(ring))
        for kind, shape in shapes.items()
        for part in shapely.get_parts(shape)
        for ring in (part.exterior, *part.interiors)
    )


def tile_views(folder: Path, rows: pd.DataFrame, scores: NDArray[np.float64], pixels: int) -> list[HeatmapView]:
    """Lay the scores of patches over the thumbnails of the tiles that they were extracted from.

    Args:
        folder: of previews.
        rows: shard, file, row and column of each patch of a slide.
        scores: float64, shape (patches,).
        pixels: side of a patch.

    Returns:
        A view of each tile whose thumbnail was kept.

    Raises:
        DataError: a thumbnail is missing.
        StoreError: one, or their list, is damaged.

    """
    shard = str(rows["shard"].iloc[0])
    tiles = previews.read_tiles(folder, shard)
    if tiles is None:
        raise DataError(f"{folder}: the thumbnails of the tiles of {shard} are missing; run dvc repro patches")
    views = []
    for number, tile in enumerate(tiles, 1):
        own = (rows["file"] == tile.file).to_numpy()
        image = _read_image(previews.tile_file(folder, shard, number))
        extent = (0.0, float(tile.width), float(tile.height), 0.0)
        views.append(HeatmapView(image, extent, *score_grid(rows[own], scores[own], Level0Pixels(pixels))))
    return views


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        return previews.read_image(path)
    except FileNotFoundError:
        raise DataError(f"{path}: not there; run dvc repro patches") from None


def score_grid(
    rows: pd.DataFrame, scores: NDArray[np.float64], side: Level0Pixels
) -> tuple[NDArray[np.float64], Extent]:
    """Lay scores on the grid of their patches.

    Args:
        rows: row and column of each patch.
        scores: float64, shape (patches,).
        side: of a patch, in level-0 pixels.

    Returns:
        float64, shape (rows, columns), NaN where there is no patch; and the area that the grid covers.

    """
    row, column = rows["row"].to_numpy(), rows["column"].to_numpy()
    grid = np.full((row.max() + 1, column.max() + 1), np.nan)
    grid[row, column] = scores
    return grid, (0.0, grid.shape[1] * side, grid.shape[0] * side, 0.0)
