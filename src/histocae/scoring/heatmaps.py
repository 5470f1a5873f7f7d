"""The figure of a scored slide: the slide beside the scores of its patches."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from PIL import Image

from histocae.contrast.contract import PAIR, Contract
from histocae.contrast.heatmaps import HeatmapView, score_grid
from histocae.contrast.plots import ERRORS, TISSUES, plot_heatmap
from histocae.patches.tiles import read_tile
from histocae.report.plots import save
from histocae.scoring.scored import BOUNDS, Scored, patch_params
from histocae.slides.thumbnails import LONGEST
from histocae.slides.units import Level0Pixels

MOST_TILES = 4  # of a slide that consists of tiles
LONGEST_NAME = 50  # characters of a slide's name in a title
SMALL = 160  # longest side of the image in the table of the page


def write(path: Path, scored: Scored, summary: dict[str, Any], contract: Contract) -> None:
    """Write the figure of a slide; all slides of a model have the same color scale.

    Args:
        path: of the PNG file.
        scored: the slide.
        summary: its row in slides.csv.
        contract: of the model.

    """
    measure = "score" if contract.kind == PAIR else "error"
    values = scored.patches[measure].to_numpy()
    if contract.kind == PAIR:
        legend, verdict = TISSUES, f"score {summary['score']:z.3f}, called {summary['class']}"
    else:
        legend, verdict = ERRORS, f"mean error {summary['error']:.5f}"
    name = scored.given.slide_id
    title = f"{name if len(name) <= LONGEST_NAME else f'{name[:LONGEST_NAME]}…'}: {verdict}"
    views = [_view(scored, values)] if scored.image is not None else _tile_views(scored, values, contract)
    hidden = scored.patches["file"].nunique() - len(views) if scored.given.tiles else 0
    title += f" ({hidden} more tiles not shown)" * (hidden > 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the font lacks letters of a slide's name
        save(plot_heatmap(views, _scale(contract, measure), title, legend=legend), path)


def _scale(contract: Contract, measure: str) -> Normalize:
    """Make the color scale from the training patches: symmetric about the threshold, if there is one."""
    low, high = (contract.training.quantile(measure, level) for level in (0.01, 0.99))
    if contract.levels is None:
        return Normalize(0.0, high)
    threshold = contract.levels.patch.threshold
    reach = max(high - threshold, threshold - low) or 1.0
    return Normalize(threshold - reach, threshold + reach)


def _view(scored: Scored, values: NDArray[np.float64]) -> HeatmapView:
    if scored.image is None or scored.size is None:
        raise ValueError("tiles have no image of a slide")
    grid, area = score_grid(scored.patches, values, Level0Pixels(float(scored.patches["width"].iloc[0])))
    width, height = scored.size
    return HeatmapView(scored.image, (0.0, float(width), float(height), 0.0), grid, area)


def _tile_views(scored: Scored, values: NDArray[np.float64], contract: Contract) -> list[HeatmapView]:
    """Show the tiles that are spread evenly from the lowest to the highest mean."""
    table = scored.patches.assign(value=values)
    reduced = patch_params(contract, BOUNDS, tiles=True).tiles == "reduce"  # to one patch each
    pixels = contract.patches.pixels
    order = table.groupby("file", sort=False)["value"].mean().sort_values(kind="stable").index
    chosen = np.unique(np.linspace(0, len(order) - 1, MOST_TILES).round().astype(int))
    views = []
    for file in order[chosen]:
        rows = table[table["file"] == file]
        tile = read_tile(scored.given.folder / file)
        extent = (0.0, float(tile.width), float(tile.height), 0.0)
        side = float(min(tile.size) if reduced else pixels)
        tile.thumbnail((LONGEST, LONGEST))
        views.append(
            HeatmapView(np.asarray(tile), extent, *score_grid(rows, rows["value"].to_numpy(), Level0Pixels(side)))
        )
    return views


def small(scored: Scored) -> NDArray[np.uint8]:
    """Give the image of a slide, or of the first tile that was scored, for the table of the page.

    Returns:
        uint8, shape (height, width, 3), RGB.

    """
    if scored.image is None:
        image = read_tile(scored.given.folder / scored.patches["file"].iloc[0])
    else:
        image = Image.fromarray(scored.image)
    image.thumbnail((SMALL, SMALL))
    return np.asarray(image)
