"""Sources of slides. They differ in two things only: the table of slides, and how to get the file of a slide.

Stages after `patches` do not know which source the slides came from.
"""

from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from histocae.errors import SlideError
from histocae.files import write_json, write_text
from histocae.params import Data
from histocae.sources import demo, given_split, tables
from histocae.sources.gdc.remote import File, Server
from histocae.sources.hashes import Hashes
from histocae.sources.table_files import check_files


@dataclass(frozen=True)
class Source:
    """The folder of the slides' files, and how to get a file that is missing.

    Attributes:
        folder: of the files.
        tiles: the files are tiles, many per slide.
        demo_spec: of the demo cohort, whose missing slides are drawn.
        server: of the GDC, from which missing slides are fetched.
        remote: the file of the GDC that `fetch` gets; see `for_slide`.
        keep: False deletes a fetched slide once its patches are extracted.
        checked: the md5 of that file was checked before, so `fetch` need not read the file again.

    """

    folder: Path
    _: KW_ONLY
    tiles: bool = False
    demo_spec: demo.DemoSpec | None = None
    server: Server | None = None
    remote: File | None = None
    keep: bool = True
    checked: bool = False

    def for_slide(self, row: pd.Series, hashes: Hashes) -> "Source":
        """Return the source for one slide.

        Args:
            row: of the slide in the table of slides.
            hashes: remembered md5s of files.

        Returns:
            The same source, which for the GDC knows the slide's file.

        """
        if self.server is None:
            return self
        file = remote_file(row)
        return replace(self, remote=file, checked=hashes.remembered(self.folder / file.name) == file.md5)

    def fetch(self, slide_id: str, file: str) -> Path:
        """Return the path of a file; a missing slide of the demo is drawn, one of the GDC fetched.

        Args:
            slide_id: of the slide.
            file: relative to the folder.

        Returns:
            The path.

        Raises:
            SlideError: the file is not there.
            FetchError: it could not be fetched.

        """
        path = self.folder / file
        if self.server is not None:
            from histocae.sources.gdc import download  # HTTP, which other sources do not need

            if self.remote is None:
                raise SlideError(f"{file}: not a file of the GDC; see Source.for_slide")
            return download.provide(self.server, self.remote, self.folder, trusted=self.checked)
        if self.demo_spec is not None and not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            demo.write_slide(self.demo_spec, slide_id, self.folder)
        if not path.is_file():
            raise SlideError(f"{file}: no such file in {self.folder}")
        return path

    def delete_fetched(self, file: str) -> None:
        """Delete a slide of the GDC whose patches are extracted, unless slides are kept."""
        if self.server is not None and not self.keep:
            (self.folder / file).unlink(missing_ok=True)

    def forget_others(self, files: set[str]) -> None:
        """Delete drawn slides and partial downloads of former cohorts; never a user's file."""
        if self.server is not None:
            from histocae.sources.gdc import download

            download.forget_others(self.folder, files)
        if self.demo_spec is not None:
            stems = {Path(file).stem for file in files}
            for path in self.folder.glob("DEMO-*"):
                if path.name.removesuffix(".tif").removesuffix(".truth.png") not in stems:
                    path.unlink()


def remote_file(row: pd.Series) -> File:
    """Return the GDC's file of a slide from its row in the table of slides."""
    access = row["access"] if isinstance(row["access"], str) else None
    return File(row["file_name"], row["file_id"], row["md5"], int(row["size"]), access)


def from_params(data: Data, seed: int, slide_files: Path) -> Source:
    """Return the source that `data.source` names.

    Args:
        data: the section `data` of params.yaml.
        seed: of the demo cohort.
        slide_files: folder for slides that the source draws or fetches.

    Returns:
        The source.

    """
    if data.source == "gdc":
        return Source(slide_files, server=_server(data), keep=data.keep_slides)
    if data.source == "demo":
        return Source(slide_files, demo_spec=demo_spec(data, seed))
    return Source(Path(data.path), tiles=data.source == "tiles")


def inputs(data: Data) -> tuple[Path, tuple[Path, ...]]:
    """Return the folder of the user's own files, and those files whose changes must be noticed.

    Raises:
        TableError: the user's table breaks a rule.

    """
    folder = Path(data.path)
    if data.source == "gdc":
        return folder, tuple(Path(file) for file in (data.gdc.table, data.gdc.manifest) if file is not None)
    if data.source == "demo":
        return folder, ()
    own = own_files(data)
    return folder, (own.table, *(folder / file for file in own.files["file"]))


def read_metadata(path: Path, source: Source) -> pd.DataFrame:
    """Read the table of slides that the stage metadata wrote for a source.

    Args:
        path: of the table.
        source: of the slides.

    Returns:
        One row per slide, with the columns that the source needs.

    Raises:
        DataError: the table is not there yet, or damaged.

    """
    return tables.read_metadata(path, () if source.server is None else tables.FILE_COLUMNS)


@dataclass(frozen=True)
class Cohort:
    """The table of slides.

    Attributes:
        slides: one row per slide with the columns of `tables.COLUMNS`, and for the GDC those of its files;
            `file_name` is None for tiles.
        aside: slide_id and reason of slides that the source sets aside.
        query: the query to the GDC, or the portal's files in its place; empty for other sources.
        part_of: train, validation or test, for each slide, where the user's table gives a split; else empty.

    """

    slides: pd.DataFrame
    aside: list[tuple[str, str]] = field(default_factory=list)
    query: dict[str, Any] = field(default_factory=dict)
    part_of: dict[str, str] = field(default_factory=dict)

    def write_query(self, folder: Path) -> None:
        """Write the query (empty for sources other than the GDC) and, for the GDC, a manifest of the slides."""
        write_json(self.query, folder / "query.json")  # DVC warns of an empty folder
        if self.query:
            from histocae.sources.gdc import portal

            write_text(portal.write_manifest(self.slides), folder / "gdc_manifest.txt")


def cohort(data: Data, seed: int) -> Cohort:
    """Read the table of slides, compute it (demo) or query it (GDC).

    Args:
        data: the section `data` of params.yaml.
        seed: of the demo cohort, and of the choice among slides of the GDC.

    Returns:
        The slides.

    Raises:
        TableError: the user's table breaks a rule.
        FetchError: the GDC is unreachable.
        DataError: a slide of `data.gdc.slides` was not found.

    """
    if data.source == "demo":
        return Cohort(demo.cohort(demo_spec(data, seed)))
    if data.source == "gdc":
        from histocae.sources.gdc.cohort import find

        selection = find(data.gdc, _server(data), seed)
        return Cohort(selection.slides, selection.aside, selection.query)
    own = own_files(data)
    return Cohort(own.slides, part_of=own.part_of)


class OwnFiles(NamedTuple):
    """The user's table.

    Attributes:
        table: its path.
        slides: one row per slide with `tables.COLUMNS`.
        files: slide_id and file (relative to `data.path`) of each slide or tile, and the hashes that the table has
            of it (None for none); the index is the line number in the table.
        part_of: train, validation or test, for each slide; empty where the table does not give them.

    """

    table: Path
    slides: pd.DataFrame
    files: pd.DataFrame
    part_of: dict[str, str]


def own_files(data: Data) -> OwnFiles:
    """Read the user's table of slides or tiles.

    Raises:
        TableError: the table breaks a rule.

    """
    folder, tiles = Path(data.path), data.source == "tiles"
    path = folder / data.table  # an absolute table stays absolute
    column = "path" if tiles else "file_name"
    table = tables.read(path, ("slide_id", "case_id", "sample_type", column))
    # of tiles, `file_name` is not read
    known = {*tables.COLUMNS, *tables.HASHES, given_split.COLUMN}
    tables.check_names(table, known - ({"file_name"} if tiles else set()), path)
    table = tables.check_types(table, path)
    tables.check_texts(table, (column,), path)
    if not tiles:
        tables.check_unique(table, "slide_id", path)
    table[column] = check_files(table, column, folder, path)
    slides = tables.one_per_slide(table, path) if tiles else table
    files = table[["slide_id", column, *tables.HASHES]].rename(columns={column: "file"})
    return OwnFiles(path, slides[list(tables.COLUMNS)], files, given_split.check(table, path))


def demo_spec(data: Data, seed: int) -> demo.DemoSpec:
    """Return the input of the demo cohort.

    Args:
        data: the section `data` of params.yaml.
        seed: of the cohort.

    Returns:
        The spec.

    """
    return demo.DemoSpec(
        seed=seed, cases=data.demo.cases, side_microns=data.demo.side_microns, faults=data.demo.faults
    )


def _server(data: Data) -> Server:
    token_file = data.gdc.token_file
    return Server(data.gdc.url, data.gdc.streams, data.gdc.tries, None if token_file is None else Path(token_file))
