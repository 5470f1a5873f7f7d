"""The sources differ in two things only: the table of slides, and where a slide's files are.

Nothing downstream of the slides stage knows which source ran.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histocae import demo, tables
from histocae.errors import ParamsError, SlideError
from histocae.params import Data


@dataclass(frozen=True)
class Source:
    """Where files lie, and how one that is missing is made.

    Attributes:
        folder: where the files lie.
        tiles: the files are pre-cut pictures, many a slide.
        demo_spec: of the demo cohort, whose slides are drawn where they are missing.

    """

    folder: Path
    tiles: bool = False
    demo_spec: demo.DemoSpec | None = None

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


def place(data: Data, seed: int, slide_files: Path) -> Source:
    """Say where the files of the source that `data.source` names lie.

    Args:
        data: the section `data` of params.yaml.
        seed: of the demo cohort.
        slide_files: the folder for slides that the source makes itself.

    Raises:
        ParamsError: the source is not there yet.

    """
    if data.source == "gdc":
        raise ParamsError(
            "data.source: gdc can't be fetched by this version; download the slides "
            "(gdc-client), list them in a table and set data.source to slides"
        )
    if data.source == "demo":
        return Source(slide_files, demo_spec=_demo_spec(data, seed))
    return Source(Path(data.path), tiles=data.source == "tiles")


def inputs(data: Data) -> tuple[Path, tuple[Path, ...]]:
    """List the user's own files that a change must be noticed of, and the folder that they are named in.

    Raises:
        TableError: the user's table breaks a rule.

    """
    folder = Path(data.path)
    if data.source not in ("slides", "tiles"):
        return folder, ()
    _, files, table = _own(data)
    return folder, (table, *(folder / file for file in files["file"]))


def cohort(data: Data, seed: int) -> pd.DataFrame:
    """Read or make the table of slides.

    Returns:
        One row per slide with the columns of `tables.COLUMNS`; `file_name` is None for tiles.

    Raises:
        TableError: the user's table breaks a rule.

    """
    if data.source == "demo":
        return demo.cohort(_demo_spec(data, seed))
    return _own(data)[0]


def tile_files(data: Data) -> pd.DataFrame:
    """List the tiles: slide_id and file (relative to `data.path`) of each.

    Raises:
        TableError: the user's table breaks a rule.

    """
    return _own(data)[1]


def _demo_spec(data: Data, seed: int) -> demo.DemoSpec:
    return demo.DemoSpec(seed=seed, cases=data.demo.cases, side_microns=data.demo.side_microns)


def _own(data: Data) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Read the user's table: slides, files of the slides, and where the table lies."""
    folder, tiles = Path(data.path), data.source == "tiles"
    path = folder / data.table  # an absolute table stays absolute
    column = "path" if tiles else "file_name"
    table = tables.read(path, ("slide_id", "case_id", "sample_type", column))
    table = tables.check_types(table, path)
    if not tiles:
        tables.check_unique(table, "slide_id", path)
    table[column] = tables.check_files(table, column, folder, path)
    slides = tables.one_per_slide(table, path) if tiles else table
    files = table[["slide_id", column]].rename(columns={column: "file"})
    return slides[list(tables.COLUMNS)], files, path
