"""The columns of an exported table of patches, and the description of the model in exported files."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError

KEY = "histocae"  # of the description of the model: in `uns`, and in the metadata of Parquet's schema
ENCODER = "histocae-"  # what the name of the encoder begins with, in features of a slide
REQUIRED = ("slide_id", "x", "y", "width", "mpp", "tissue_share")
MEANING = {
    "slide_id": "the slide",
    "case_id": "the case of the slide",
    "label": "the sample type of the slide",
    "split": "train, validation or test",
    "file": "the file of the tile, where slides are given as tiles",
    "x": "left edge of the patch in level-0 pixels; of tiles: in pixels of the tile",
    "y": "upper edge of the patch in level-0 pixels; of tiles: in pixels of the tile",
    "width": "side of the patch in level-0 pixels; a fraction where patches are reduced; missing for tiles",
    "mpp": "microns per pixel of the patch, not of the slide; missing for tiles",
    "tissue_share": "share of the patch that the tissue mask covers, 0 to 1",
    "pen_share": "share of the patch under the ink of a pen, 0 to 1",
    "sharpness": "fine detail of the patch against coarse; blurred patches have about 1, patches without detail 99",
    "saturation": "mean optical density of the color of stained tissue; a fold has about twice that of its slide",
    "debris_share": "share of the patch that is near-black, but not ink, 0 to 1",
    "stain": "what a third of the patch exceeds of the optical density of color and half of that of green",
    "flags": "faults of the patch (pen, blur, fold, debris, pale), separated by a space; empty for none",
    "error": "mean squared error of the reconstruction by the model that made the latents, of pixels in [0, 1]",
    "error_tumor": "mean squared error of the reconstruction by the tumor model of the pair",
    "error_normal": "mean squared error of the reconstruction by the normal model of the pair",
    "color_distance": "distance of the mean color from that of the model's training patches (Mahalanobis)",
    "log_ratio": "logarithm of error_normal / error_tumor",
    "score": "score of the pair; higher is more like tumor",
    "probability": "probability of tumor by the score, calibrated on validation patches",
    "class": "sample type by the score, at a threshold chosen on validation cases",
}


@dataclass(frozen=True, kw_only=True)
class About:
    """The model that made the latents, and its patches.

    Attributes:
        model: name of the model.
        weights: fingerprint of the model's weights.
        pixels: side of a patch in pixels of the patch.
        mpp: microns per pixel that a patch should have; None for tiles.
        version: of histocae.
        parts: of a pair, whose latents are side by side: each model, and its number of latents (None: no latents).

    """

    model: str
    weights: str
    pixels: int
    mpp: float | None
    version: str
    parts: tuple[tuple[str, int | None], ...] = ()

    def as_dict(self, columns: Iterable[str]) -> dict[str, Any]:
        """Return the description of the model and the columns for a file.

        Args:
            columns: of the table; the columns of `MEANING` are explained.

        Returns:
            model, weights, patch_pixels, patch_mpp (not for tiles), latents_of (of a pair), histocae_version,
            latents, and columns with the meaning of each.

        """
        mpp = {} if self.mpp is None else {"patch_mpp": self.mpp}
        parts = {"latents_of": {name: count for name, count in self.parts if count}} if self.parts else {}
        return {
            "model": self.model,
            "weights": self.weights,
            "patch_pixels": self.pixels,
            **mpp,
            **parts,
            "histocae_version": self.version,
            "latents": "the encoder's output for a patch, float32, unscaled",
            "columns": {name: MEANING[name] for name in columns if name in MEANING},
        }


@dataclass(frozen=True, kw_only=True)
class SlidePatches:
    """The patches of a slide, which are read only when they are used, since all slides may not fit into memory.

    Attributes:
        slide_id: of the slide.
        stem: name of the slide's own file, without suffix.
        table: reads a row for each patch, with the columns of `REQUIRED`, and others.
        latents: reads float32, shape (patches, count), in the order of the table.
        count: latents of a patch, the same for all slides.
        size: width and height of the slide in level-0 pixels, if known.
        tiles: the patches are of tiles, which have no position on a slide.

    """

    slide_id: str
    stem: str
    table: Callable[[], pd.DataFrame]
    latents: Callable[[], NDArray[np.float32]]
    count: int
    size: tuple[int, int] | None = None
    tiles: bool = False


def check(path: Path, table: pd.DataFrame, latents: int | None) -> None:
    """Check a table before it is written.

    Args:
        path: of the file.
        table: one row a patch.
        latents: rows of latents; None for none.

    Raises:
        DataError: there is no patch, a column is missing, or there are more or fewer latents than patches.

    """
    if table.empty:
        raise DataError(f"{path}: there are no patches to write; choose slides that show tissue")
    if missing := [name for name in REQUIRED if name not in table]:
        raise DataError(f"{path}: the table of patches lacks {', '.join(missing)}; histocae export writes them")
    if latents is not None and latents != len(table):
        raise DataError(f"{path}: {latents} rows of latents for {len(table)} patches; encode these patches again")


def is_text(column: "pd.Series[Any]") -> bool:
    """Return whether a column has texts, in any of pandas' types for texts."""
    return not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))
