"""The slides that a user gives: files, folders of slides, tables, and pre-cut tiles."""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from histocae.errors import TableError, shortened
from histocae.identifiers import case_of, slide_of
from histocae.patches.tiles import is_image
from histocae.scoring.given import RECORD, Given
from histocae.scoring.names import unique
from histocae.slides import slide as slide_reader
from histocae.slides.parts import parts_of
from histocae.slides.units import MicronsPerPixel
from histocae.sources import table_files, tables
from histocae.sources.texts import quoted

SLIDES = frozenset(
    (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi", ".dcm", ".dicom")
)
TILES = frozenset((".png", ".jpg", ".jpeg"))
TABLES = frozenset((".csv", ".tsv", ".txt"))
NEITHER = TABLES | {".md", ".json", ".xml", ".html", ".geojson", ".parquet"}
REMEDY = "give slides, folders of slides, tiles, or a table (.csv, .tsv, .txt)"
log = logging.getLogger(__name__)


def find(given: Sequence[Path], results: Path | None = None) -> list[Given]:
    """Find all slides and tiles of some paths.

    A table is one of the pipeline's: a row per slide with `slide_id` and `file_name`, or a row per tile with
    `slide_id` and `path`. All slides in a folder and below it are found. Tiles of one folder without slides
    are those of one slide, which has the name of the folder.

    Args:
        given: slides, tiles, folders, tables.
        results: folder that is left out, like all folders with a slide's results.

    Returns:
        The slides, each once, in the order of `given`; those of a folder in the order of their paths.

    Raises:
        TableError: a path does not exist, a folder has no slide, or a table breaks a rule.

    """
    found: list[tuple[Given, Path]] = []
    for path in given:
        if path.is_dir():
            in_folder = _of_folder(path, results)
            if not in_folder:
                raise TableError(f"{path}: has no slides and no tiles; {REMEDY}")
            found += [(each, path) for each in in_folder]
        elif not path.is_file():
            raise TableError(f"{path}: no such file; {REMEDY}")
        elif path.suffix.lower() in TABLES:
            found += [(each, path.parent) for each in _of_table(path)]
        else:
            found.append((_of_file(path), path.parent))
    return unique(found)


def _of_file(path: Path) -> Given:
    barcode = slide_of(path.name)  # the GDC calls files <barcode>.<uuid>.svs
    return Given(
        slide_id=path.stem if case_of(barcode) is None else barcode,
        folder=path.parent,
        files=(path.name,),
        tiles=_kind(path) == "tile",
    )


def _kind(path: Path) -> Literal["slide", "tile", "damaged", "other"]:
    """Return the kind of a file; a damaged TIFF may be a slide or a tile."""
    suffix = path.suffix.lower()
    if suffix in NEITHER or (path.exists() and not path.is_file()):  # opening a named pipe would wait forever
        return "other"
    if suffix in TILES:
        return "tile"
    if slide_reader.format_of(path) is not None:
        return "slide"
    if suffix not in SLIDES:
        return "other"
    if suffix not in (".tif", ".tiff"):
        return "slide"  # which can't be opened; the reason is reported
    return "tile" if is_image(path) else "damaged"


def _of_folder(folder: Path, results: Path | None) -> list[Given]:
    """Find the slides below a folder, and the tiles of each of its folders; hidden files are left out."""
    found: list[Given] = []
    other: list[str] = []
    # results may also lie among the slides
    seen: set[Path] = set() if results is None or results.resolve() == folder.resolve() else {results.resolve()}
    for root, folders, names in os.walk(folder, onerror=_warn, followlinks=True):
        here = Path(root)
        if here.resolve() in seen or RECORD in names:  # a link may lead back
            folders.clear()
            continue
        seen.add(here.resolve())
        slides, tiles, left_out = _of_files([here / name for name in sorted(names) if not name.startswith(".")])
        # MIRAX has a folder of parts
        parts = {
            part.relative_to(here).parts[0] for path in slides for part in parts_of(path) if here in part.parents
        }
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in parts)
        found += map(_of_file, slides)
        if tiles and not slides:
            found.append(Given(slide_id=here.resolve().name, folder=here, files=tuple(tiles), tiles=True))
            tiles = []
        other += [str((here / name).relative_to(folder)) for name in (*left_out, *tiles)]
    if other:
        log.info("%s: %d files are no slides and are left out: %s", folder, len(other), shortened(other))
    return found


def _warn(error: OSError) -> None:
    log.warning("%s: can't be listed (%s): what is below it is left out", error.filename, error.strerror)


def _of_files(paths: Sequence[Path]) -> tuple[list[Path], list[str], list[str]]:
    """Divide the files of one folder into slides, the names of tiles, and the names of all others."""
    parts = set[Path]()
    kinds = defaultdict[str, list[Path]](list)
    for path in paths:
        if path in parts:
            continue
        kind = _kind(path)
        kinds[kind].append(path)
        if kind == "slide":
            parts.update(parts_of(path)[1:])
    # a damaged file is set aside with its reason, as a slide or a tile like the other files of its folder
    kinds["tile" if kinds["tile"] and not kinds["slide"] else "slide"] += kinds.pop("damaged", [])
    tiles, other = ([path.name for path in sorted(kinds[kind])] for kind in ("tile", "other"))
    return sorted(kinds["slide"]), tiles, other


def _of_table(path: Path) -> list[Given]:
    """Read a table of slides or of tiles, as the pipeline takes them; only slide_id and the files are required."""
    remedy = "give a table that exists"
    table = tables.read(path, ("slide_id",), remedy)
    tables.check_names(table, {"slide_id", *tables.FILE_NAMES, "case_id", "sample_type", "mpp", *tables.HASHES}, path)
    names = [name for name in tables.FILE_NAMES if name in table]
    if len(names) != 1:
        raise TableError(f"{path}: needs a column file_name (slides) or path (tiles), and not both")
    (column,) = names
    for line in table.index[table[column].isna()][:1]:
        raise TableError(f"{path}: row {line}: {column} is empty")
    tiles = column == "path"
    table = tables.check_files_columns(table, path)
    described = [name for name in ("case_id", "sample_type") if name in table]
    tables.check_texts(table, ("slide_id", column, *described), path)
    if not tiles:
        tables.check_unique(table, "slide_id", path)
    remedy = "move the table into a folder above all files"
    table[column] = table_files.check_files(table, column, path.parent, path, remedy)
    return [_of_rows(str(slide_id), rows, column, path) for slide_id, rows in table.groupby("slide_id", sort=False)]


def _of_rows(slide_id: str, rows: pd.DataFrame, column: str, path: Path) -> Given:
    metadata = []
    for name in ("case_id", "sample_type"):
        values = rows[name].dropna().unique() if name in rows else []
        if len(values) > 1:
            raise TableError(f"{path}: row {rows.index[0]}: the tiles of slide {quoted(slide_id)} differ in {name}")
        metadata += [(name, str(value)) for value in values]
    mpp = rows["mpp"].iloc[0]
    hashes = [
        (file, kind, text)
        for kind in tables.HASHES
        for file, text in zip(rows[column], rows[kind], strict=True)
        if text
    ]
    return Given(
        slide_id=slide_id,
        folder=path.parent,
        files=tuple(rows[column]),
        tiles=column == "path",
        own_mpp=None if pd.isna(mpp) else MicronsPerPixel(float(mpp)),
        hashes=tuple(hashes),
        metadata=tuple(metadata),
        from_table=True,
    )
