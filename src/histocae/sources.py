"""The sources differ in two things only: the table of slides, and where a slide's files are.

Nothing downstream of the slides stage knows which source ran.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from histocae import demo, tables
from histocae.errors import ParamsError, SlideError
from histocae.params import Data


@dataclass(frozen=True)
class Source:
    """What a source gives.

    Attributes:
        folder: where the files lie.
        tiles: the files are pre-cut pictures, many a slide.
        demo_spec: of the demo cohort, whose slides are drawn where they are missing.
        slides: one row per slide with the columns of `tables.COLUMNS`; `file_name` is
            None for tiles.
        files: one row per file with columns slide_id and file (relative to `folder`).
        inputs: the user's own files that a change must be noticed of; empty for demo.

    """

    folder: Path
    tiles: bool = False
    demo_spec: demo.DemoSpec | None = None
    slides: pd.DataFrame | None = None
    files: pd.DataFrame | None = None
    inputs: tuple[Path, ...] = ()

    def fetch(self, slide_id: str, file: str) -> Path:
        """Give the path of a file, making or getting it first where the source can.

        Raises:
            SlideError: the file is not there.

        """
        path = self.folder / file
        if self.demo_spec is not None and not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            demo.write_slide(self.demo_spec, slide_id, self.folder)
        if not path.is_file():
            raise SlideError(f"{file}: no such file in {self.folder}")
        return path

    def forget_others(self, files: set[str]) -> None:
        """Delete slides of earlier cohorts that this source made itself; never a user's file."""
        if self.demo_spec is not None:
            stems = {Path(file).stem for file in files}
            for path in self.folder.glob("DEMO-*"):
                if path.name.removesuffix(".tif").removesuffix(".truth.png") not in stems:
                    path.unlink()


def parts_of(path: Path) -> list[Path]:
    """List the files that make up a slide: itself, and for MIRAX those of the folder beside it."""
    beside = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and beside.is_dir():
        return [path, *sorted(one for one in beside.rglob("*") if one.is_file())]
    return [path]


def load(data: Data, seed: int, slide_files: Path) -> Source:
    """Read the table of the source that `data.source` names.

    Args:
        data: the section `data` of params.yaml.
        seed: of the demo cohort.
        slide_files: the folder for slides that the source makes itself.

    Raises:
        ParamsError: the source is not there yet.
        TableError: the user's table breaks a rule.

    """
    source = place(data, seed, slide_files)
    if source.demo_spec is not None:
        slides = demo.cohort(source.demo_spec)
        files = slides[["slide_id", "file_name"]].rename(columns={"file_name": "file"})
        return replace(source, slides=slides, files=files)
    return _with_own_table(source, data.table)


def place(data: Data, seed: int, slide_files: Path) -> Source:
    """Give the same source without its tables: all that fetching a file needs.

    Raises:
        ParamsError: the source is not there yet.

    """
    if data.source == "gdc":
        raise ParamsError(
            "data.source: gdc can't be fetched by this version; download the slides "
            "(gdc-client), list them in a table and set data.source to slides"
        )
    if data.source == "demo":
        spec = demo.DemoSpec(seed=seed, cases=data.demo.cases, side_microns=data.demo.side_microns)
        return Source(slide_files, demo_spec=spec)
    return Source(Path(data.path), tiles=data.source == "tiles")


def _with_own_table(source: Source, table_name: str) -> Source:
    folder, tiles = source.folder, source.tiles
    path = folder / table_name  # an absolute table stays absolute
    column = "path" if tiles else "file_name"
    table = tables.read(path, ("slide_id", "case_id", "sample_type", column))
    table = tables.check_types(table, path)
    if not tiles:
        tables.check_unique(table, "slide_id", path)
    table[column] = tables.check_files(table, column, folder, path)
    slides = tables.one_per_slide(table, path) if tiles else table
    files = table[["slide_id", column]].rename(columns={column: "file"})
    inputs = (path, *(folder / file for file in files["file"]))
    return replace(source, slides=slides[list(tables.COLUMNS)], files=files, inputs=inputs)
