"""The table of the patches of an evaluated model: positions, errors and scores, joined patch by patch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError
from histocae.exports.columns import About, SlidePatches
from histocae.files import read_table

PATCH_KEY = ["shard", "position"]
LEADING = ["slide_id", "case_id", "label", "split"]
SLIDES_COLUMNS = ("case_id", "slide_id", "label", "split", "file")


def read_slides(path: Path) -> pd.DataFrame:
    """Read the sizes and microns per level-0 pixel of slides.

    Args:
        path: of reports/patching/counts.csv.

    Returns:
        width, height and mpp; the index is slide_id.

    """
    numbers = ("width", "height", "mpp")
    slides = read_table(path, ("slide_id",), ",", needed=("slide_id",), numbers=numbers)
    return slides.drop_duplicates("slide_id").set_index("slide_id")[list(numbers)]


def position(rows: pd.DataFrame, slides: pd.DataFrame | None, about: About, path: Path) -> pd.DataFrame:
    """Give the patches of a split the columns of an export.

    Args:
        rows: of the split, one a patch.
        slides: as `read_slides` returns it; None for tiles.
        about: the side of a patch.
        path: of the table of slides, for the error's line.

    Returns:
        slide_id, case_id, label, x, y, width, mpp and tissue_share; of tiles also file, without width and mpp.

    Raises:
        DataError: the microns per pixel of a slide are missing.

    """
    table = rows[["slide_id", "case_id", "sample_type", "file", "x", "y"]].rename({"sample_type": "label"}, axis=1)
    if slides is None:
        return table.assign(width=np.nan, mpp=np.nan, tissue_share=rows["tissue_share"])
    mpp = rows["slide_id"].map(slides["mpp"])
    if mpp.isna().any():
        slide = rows["slide_id"][mpp.isna()].iloc[0]
        raise DataError(f"{path}: has no microns per pixel of slide {slide}; run dvc repro patches")
    width = about.pixels * rows["mpp"] / mpp
    return table.drop(columns="file").assign(width=width, mpp=rows["mpp"], tissue_share=rows["tissue_share"])


def of_patches(
    numbers: pd.DataFrame, rows: pd.DataFrame, columns: Sequence[str], path: Path, remedy: str
) -> pd.DataFrame:
    """Take columns of a table of patches, which must be the rows of a split.

    Args:
        numbers: one row a patch.
        rows: of the split.
        columns: to take.
        path: of the table, for the error's line.
        remedy: end of the error's line.

    Returns:
        The columns.

    Raises:
        DataError: the patches are others.

    """
    keys = numbers[PATCH_KEY].to_numpy(object) if "shard" in numbers else None
    if keys is None or not np.array_equal(keys, rows[PATCH_KEY].to_numpy(object)):
        raise DataError(f"{path}: is of other patches; {remedy}")
    return numbers[list(columns)]


def join(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join the tables of splits; what a split lacks is missing.

    Args:
        parts: table of each split.

    Returns:
        A row for each patch, with the column split.

    """
    table = pd.concat([part.assign(split=split) for split, part in parts.items()], ignore_index=True)
    return table[LEADING + [column for column in table if column not in LEADING]]


def by_slide(
    table: pd.DataFrame,
    latents: Mapping[str, NDArray[np.float32]],
    slides: pd.DataFrame | None,
    name: Callable[[str], str],
) -> list[SlidePatches]:
    """Take the patches of each slide out of the table of all.

    Args:
        table: as `join` returns it.
        latents: float32, shape (patches, latents), of each split, in the order of the table; may be mapped files.
        slides: as `read_slides` returns it; None for tiles.
        name: names the file of a slide_id, without suffix.

    Returns:
        The slides in the order of their first patches.

    """
    found = list[SlidePatches]()
    for split, rows in table.groupby("split", sort=False):
        of_split = latents[str(split)]
        places = rows.groupby("slide_id", sort=False).indices  # in the split
        found.extend(
            SlidePatches(
                slide_id=slide_id,
                stem=name(slide_id),
                table=partial(rows.take, places[slide_id]),
                latents=partial(of_split.__getitem__, places[slide_id]),
                count=of_split.shape[1],
                size=_size(slides, slide_id),
                tiles=slides is None,
            )
            for slide_id in rows["slide_id"].unique()
        )
    return found


def list_slides(table: pd.DataFrame, slides: Sequence[SlidePatches]) -> pd.DataFrame:
    """List the slides with what CLAM and STAMP ask of a table of slides.

    Args:
        table: as `join` returns it.
        slides: of the table.

    Returns:
        A row for each slide, with the columns `SLIDES_COLUMNS`.

    """
    listed = table[["case_id", "slide_id", "label", "split"]].drop_duplicates("slide_id")
    listed = listed.sort_values(["case_id", "slide_id"])  # STAMP only joins slides of a case that follow each other
    return listed.assign(file=listed["slide_id"].map({slide.slide_id: f"{slide.stem}.h5" for slide in slides}))


def _size(slides: pd.DataFrame | None, slide_id: str) -> tuple[int, int] | None:
    if slides is None or slide_id not in slides.index or slides.loc[slide_id, ["width", "height"]].isna().any():
        return None
    return int(slides.loc[slide_id, "width"]), int(slides.loc[slide_id, "height"])
