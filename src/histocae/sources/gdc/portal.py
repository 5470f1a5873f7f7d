"""Files of the GDC's portal that stand in for its API: a manifest, and a table of slides."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from histocae.errors import TableError
from histocae.identifiers import slide_of, strategy_of
from histocae.sources import tables
from histocae.sources.gdc.query import Slide
from histocae.sources.tables import PERCENTS

MANIFEST = ("id", "filename", "md5", "size", "state")
# what a slide image's name ends in; a manifest may list anything
IMAGES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif")
# our column: its name in the portal's older tables, and in those with dotted names
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


def read_manifest(path: Path) -> tuple[list[Slide], int]:
    """Read a manifest, as the portal and gdc-client have it.

    Returns:
        The slides whose images it lists, known by file name; and how many other files it lists.

    Raises:
        TableError: it is no manifest.

    """
    table = tables.read(path, MANIFEST[:4], "data.gdc.manifest names a manifest, or null")
    images = table["filename"].str.lower().str.endswith(IMAGES)
    slides = []
    for line, row in table[images].iterrows():
        if not re.fullmatch(r"[0-9]{1,18}", row["size"]):
            raise TableError(f"{path}: row {line}: size is {row['size']!r}, not a number of bytes")
        file = {"file_id": row["id"], "file_name": row["filename"], "md5": row["md5"], "size": int(row["size"])}
        slides.append(Slide(slide_of(row["filename"]), file | {"state": row.get("state"), "access": None}))
    return slides, int((~images).sum())


def write_manifest(slides: pd.DataFrame) -> str:
    """Write a manifest that gdc-client takes.

    Args:
        slides: file_id, file_name, md5, size and state of each.

    """
    names = {"file_id": "id", "file_name": "filename"}
    table = slides.rename(columns=names)[list(MANIFEST)]
    return table.to_csv(sep="\t", index=False, lineterminator="\n")


def read_slides(path: Path, project: str) -> list[Slide]:
    """Read a table of slides (slide.tsv of the portal's biospecimen download), of older or newer form.

    Returns:
        The slides of a project, without their files. A slide that stands in several rows counts by its first.

    Raises:
        TableError: it is no such table, or has no slide of the project.

    """
    table = tables.read(path, (), "data.gdc.table names a table of slides, or null")
    columns = {ours: next((name for name in theirs if name in table), None) for ours, theirs in SLIDE_TABLE.items()}
    if columns["slide_id"] is None:
        raise TableError(
            f"{path}: no column {' or '.join(SLIDE_TABLE['slide_id'])}; data.gdc.table is the slide.tsv of the "
            "portal's biospecimen download"
        )
    if columns["project"] is not None:
        found = table[columns["project"]]
        table = table[found == project]
        if table.empty:
            others = ", ".join(sorted(map(str, found.dropna().unique()))[:5])
            raise TableError(f"{path}: no slide of data.gdc.project {project}; it has {others}")
    if nameless := int(table[columns["slide_id"]].isna().sum()):
        log.warning("%s: %d rows name no slide", path, nameless)
    table = table.dropna(subset=columns["slide_id"]).drop_duplicates(columns["slide_id"])
    return list(_slides(table, columns))


def _slides(table: pd.DataFrame, columns: dict[str, str | None]) -> Iterator[Slide]:
    known = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    about = table[list(known.values())].set_axis(list(known), axis=1).drop(columns="project", errors="ignore")
    for row in about.to_dict("records"):
        yield Slide(row.pop("slide_id"), about=row)


def of_strategy(slides: list[Slide], strategy: str) -> list[Slide]:
    """Keep the slides of a strategy, and those whose barcode does not say."""
    return [one for one in slides if strategy_of(one.slide_id) in (None, strategy)]
