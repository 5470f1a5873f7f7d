"""Scores of the test slides as GeoJSON, which QuPath shows over the slides."""

from pathlib import Path

import pandas as pd

from histocae.contrast.truth import patch_side
from histocae.errors import DataError
from histocae.exports import geojson
from histocae.patches import previews
from histocae.patches.grid import MASK_PIXELS
from histocae.progress import bar
from histocae.slides.units import Level0Pixels, MicronsPerPixel


def write_slides(folder: Path, previews_folder: Path, test: pd.DataFrame, slides: pd.DataFrame, pixels: int) -> None:
    """Write <shard>.geojson of each slide: its tissue, and its patches with their scores and errors.

    Args:
        folder: to write to.
        previews_folder: folder of the slides' tissue masks; see `patches.previews`.
        test: shard, slide_id, x, y (level-0 pixels), mpp, tissue_share, error_tumor, error_normal, score, probability
            and called (a sample type) of each test patch.
        slides: slide_id and mpp (microns per level-0 pixel) of each slide.
        pixels: side of a patch, in its own pixels.

    Raises:
        DataError: the tissue mask of a slide is missing.
        StoreError: it is damaged.

    """
    mpps = slides.set_index("slide_id")["mpp"]
    for shard, rows in bar(test.groupby("shard"), "annotations for QuPath", "slides"):
        mask = previews.read_tissue(previews_folder, shard)
        if mask is None:
            raise DataError(f"{previews.tissue_file(previews_folder, shard)}: not there; run dvc repro patches")
        side = patch_side(rows, pixels, MicronsPerPixel(mpps[rows["slide_id"].iloc[0]]))
        patches = rows.rename(columns={"called": "class"}).assign(width=side)
        geojson.write_slide(folder / f"{shard}.geojson", patches, mask, Level0Pixels(side / MASK_PIXELS))
