"""Files of the GDC's portal that replace queries to its API: a manifest, and a table of slides."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from histocae.errors import TableError
from histocae.identifiers import slide_of, strategy_of
from histocae.sources import tables
from histocae.sources.gdc.query import ListedSlide
from histocae.sources.tables import PERCENTS

MANIFEST = ("id", "filename", "md5", "size", "state")
# suffixes of slide images; a manifest may list other files as well
IMAGES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif")
# our column: its names in older tables of the portal, and in newer ones (with dots)
SLIDE_TABLE = {
    "slide_id": ("slide_submitter_id", "slides.submitter_id"),
    "case_id": ("case_submitter_id", "cases.submitter_id"),
    "sample_id": ("sample_submitter_id", "samples.submitter_id"),
    "project": ("project_id", "project.project_id", "cases.project.project_id"),
    "sample_type": ("sample_type", "samples.sample_type"),
    "disease_type": ("disease_type", "cases.disease_type"),
    **{name: (name, f"slides.{name}") for name in PERCENTS},
}
log = logging.getLogger(__name__)


def read_manifest(path: Path) -> tuple[list[ListedSlide], int]:
    """Read a manifest of the portal, as gdc-client takes it.

    Returns:
        The slides of the images that it lists, by their file names; and the number of its further files.

    Raises:
        TableError: the file is no manifest.

    """
    table = tables.read(path, MANIFEST[:4], "data.gdc.manifest names a manifest, or null")
    images = table["filename"].str.lower().str.endswith(IMAGES)
    slides = []
    for line, row in table[images].iterrows():
        if not re.fullmatch(r"[0-9]{1,18}", row["size"]):
            raise TableError(f"{path}: row {line}: size is {row['size']!r}, not a number of bytes")
        file = {"file_id": row["id"], "file_name": row["filename"], "md5": row["md5"], "size": int(row["size"])}
        slides.append(ListedSlide(slide_of(row["filename"]), file | {"state": row.get("state"), "access": None}))
    return slides, int((~images).sum())


def write_manifest(slides: pd.DataFrame) -> str:
    """Return the text of a manifest for gdc-client.

    Args:
        slides: with file_id, file_name, md5, size and state.

    Returns:
        The text.

    """
    names = {"file_id": "id", "file_name": "filename"}
    table = slides.rename(columns=names)[list(MANIFEST)]
    text: str = table.to_csv(sep="\t", index=False, lineterminator="\n")
    return text


def read_slides(path: Path, project: str) -> list[ListedSlide]:
    """Read a table of slides: slide.tsv of the portal's biospecimen download, in older or newer form.

    Args:
        path: of the table.
        project: whose slides are read.

    Returns:
        The slides, without their files. Of several rows for a slide the first counts.

    Raises:
        TableError: the file is no such table, or has no slide of the project.

    """
    table = tables.read(path, (), "data.gdc.table names a table of slides, or null")
    columns = {ours: next((name for name in theirs if name in table), None) for ours, theirs in SLIDE_TABLE.items()}
    if columns["slide_id"] is None:
        raise TableError(
            f"{path}: no column {' or '.join(SLIDE_TABLE['slide_id'])}; data.gdc.table is the slide.tsv of the "
            "portal's biospecimen download"
        )
    if columns["project"] is not None:
        projects = table[columns["project"]]
        table = table[projects == project]
        if table.empty:
            names = ", ".join(sorted(map(str, projects.dropna().unique()))[:5])
            raise TableError(f"{path}: no slide of data.gdc.project {project}; it has {names}")
    if nameless := int(table[columns["slide_id"]].isna().sum()):
        log.warning("%s: %d rows name no slide", path, nameless)
    table = table.dropna(subset=columns["slide_id"]).drop_duplicates(columns["slide_id"])
    return list(_slides(table, columns))


def _slides(table: pd.DataFrame, columns: dict[str, str | None]) -> Iterator[ListedSlide]:
    present = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    metadata = table[list(present.values())].set_axis(list(present), axis=1).drop(columns="project", errors="ignore")
    for row in metadata.to_dict("records"):
        yield ListedSlide(row.pop("slide_id"), metadata=row)


def of_strategy(slides: list[ListedSlide], strategy: str) -> list[ListedSlide]:
    """Return the slides of an experimental strategy, and those whose barcode encodes none.

    Args:
        slides: of any strategy.
        strategy: Tissue Slide or Diagnostic Slide.

    Returns:
        These slides, in their order.

    """
    return [slide for slide in slides if strategy_of(slide.slide_id) in (None, strategy)]
