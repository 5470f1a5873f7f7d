"""The latents of a slide's patches as .h5: one file for CLAM and TRIDENT, another for STAMP.

docs/exports.md describes both files, and explains why no single file fits all three programs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError
from histocae.exports.columns import ENCODER, About, check
from histocae.exports.forms import Reader
from histocae.files import replacing
from histocae.slides.units import Level0Pixels, MicronsPerPixel

OBJECTIVE = 10.0  # microns: the convention by which TRIDENT converts microns per pixel to a magnification


def write_features_h5(
    path: Path,
    table: pd.DataFrame,
    latents: NDArray[np.float32],
    about: About,
    *,
    reader: Reader,
    size: tuple[int, int] | None = None,
) -> None:
    """Write the latents of the patches of one slide. The same input gives the same bytes.

    Args:
        path: of the file, *.h5; readers take its stem as the name of the slide.
        table: one row a patch of the slide, with the columns of `columns.REQUIRED`.
        latents: float32, shape (patches, latents), in the order of the table.
        about: the model and its patches.
        reader: clam: also TRIDENT; features, and corners of patches in level-0 pixels. stamp: feats, and corners in
            microns.
        size: width and height of the slide in level-0 pixels, if known.

    Raises:
        DataError: there are no patches, they are of several slides, or of tiles, which have no position on a slide.

    """
    check(path, table, len(latents))
    if table["slide_id"].nunique() > 1:
        raise DataError(f"{path}: has patches of {table['slide_id'].nunique()} slides; write a file for each slide")
    if table[["width", "mpp"]].isna().any(axis=None):
        raise DataError(f"{path}: tiles have no position on a slide; write .h5ad or Parquet (--form h5ad)")
    write = _for_stamp if reader == "stamp" else _for_clam
    import h5py

    with replacing(path, "w+b") as handle, h5py.File(handle, "w") as file:
        write(file, table, np.ascontiguousarray(latents, np.float32), about, size)


def _for_clam(
    file: Any, table: pd.DataFrame, latents: NDArray[np.float32], about: About, size: tuple[int, int] | None
) -> None:
    slide, width = str(table["slide_id"].iloc[0]), Level0Pixels(float(table["width"].iloc[0]))
    file["features"] = latents
    file["features"].attrs["name"] = slide
    file["features"].attrs["encoder"] = _encoder(about)
    file["coords"] = table[["x", "y"]].to_numpy(np.int64)
    attributes: dict[str, Any] = {
        "patch_size": about.pixels,
        "patch_size_level0": round(width),
        # of TRIDENT, which only uses their quotient: the level-0 pixels per pixel of a patch
        "level0_magnification": OBJECTIVE / level0_mpp(table, about),
        "target_magnification": OBJECTIVE / float(table["mpp"].iloc[0]),
        "overlap": 0,
        "name": slide,
    }
    if size is not None:
        attributes |= {"level0_width": size[0], "level0_height": size[1]}
    if width == Level0Pixels(about.pixels):
        # CLAM reads `patch_size` pixels of this level: true only where the pixels of patches are those of level 0
        attributes["patch_level"] = 0
    file["coords"].attrs.update(attributes)


def _for_stamp(
    file: Any, table: pd.DataFrame, latents: NDArray[np.float32], about: About, size: tuple[int, int] | None
) -> None:
    mpp = float(table["mpp"].iloc[0])
    file["feats"] = latents
    file["coords"] = (table[["x", "y"]].to_numpy(np.float64) * level0_mpp(table, about)).astype(np.float32)
    file.attrs.update(
        {
            "unit": "um",
            "tile_size_um": about.pixels * mpp,
            "tile_size_px": about.pixels,
            "extractor": _encoder(about),
            "feat_type": "tile",  # and no stamp_version: STAMP refuses files of a version later than its own
        }
    )


def level0_mpp(table: pd.DataFrame, about: About) -> MicronsPerPixel:
    """Compute the microns per level-0 pixel of a slide.

    Args:
        table: width (level-0 pixels) and mpp of the patches of the slide.
        about: the side of a patch in its own pixels.

    Returns:
        The microns per pixel.

    """
    return MicronsPerPixel(about.pixels * float(table["mpp"].iloc[0]) / float(table["width"].iloc[0]))


def _encoder(about: About) -> str:
    return f"{ENCODER}{about.model}"
