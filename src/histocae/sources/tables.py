"""The user's table of slides or tiles: read, typed and checked; errors name the row."""

import csv
import io
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd

from histocae.errors import TableError
from histocae.identifiers import COMPARED, sample_of, sample_type

# columns of data/slides_metadata.csv, in their order
SEED_COLUMNS = (
    "case_id",
    "sample_id",
    "slide_id",
    "disease_type",
    "sample_type",
    "percent_normal_cells",
    "percent_stromal_cells",
    "percent_tumor_cells",
    "percent_tumor_nuclei",
)
PERCENTS = tuple(name for name in SEED_COLUMNS if name.startswith("percent_"))
TEXTS = ("case_id", "sample_id", "slide_id", "disease_type", "sample_type", "file_name")
# text columns of the table that the stage metadata writes: an md5 may look like a number
METADATA_TEXTS = (*TEXTS, "file_id", "md5", "state", "access")
COLUMNS = (*SEED_COLUMNS, "file_name", "mpp")
MISSING = frozenset(("", "--", "'--", "na", "nan", "null", "none", "n/a"))


def read(path: Path, required: tuple[str, ...], remedy: str = "set data.table to a CSV in data.path") -> pd.DataFrame:
    """Read a table separated by `,`, `|`, `;` or tabs.

    Args:
        path: of the table.
        required: columns that must be there, without empty cells.
        remedy: of a missing file.

    Returns:
        The table: all cells are text, empty ones None; its index is the line number in the file, for messages.

    Raises:
        TableError: no such file, not UTF-8, a missing or duplicate column, a row with too few or too many cells,
            an empty cell in a required column, or no rows.

    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TableError(f"{path}: no such table; {remedy}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise TableError(f"{path}: can't be read as a UTF-8 table: {error}") from None
    head = text.split("\n", 1)[0]
    separator = max(",|;\t", key=head.count)
    header, rows, lines = _cells(text, separator, path)
    for name in required:
        if name not in header:
            raise TableError(f"{path}: no column {name!r}; it has {', '.join(header) or 'none'}")
    duplicates = {name for name in header if name and header.count(name) > 1}
    if duplicates:
        raise TableError(f"{path}: two columns are called {sorted(duplicates)[0]!r}")
    for line, cells in zip(lines, rows, strict=True):
        if len(cells) != len(header):
            raise TableError(f"{path}: row {line}: {len(cells)} cells under {len(header)} columns")
    if not rows:
        raise TableError(f"{path}: no rows")
    values = [[None if cell.lower() in MISSING else cell for cell in cells] for cells in rows]
    table = pd.DataFrame(values, columns=header, index=lines, dtype=object)
    for name in required:
        for line in table.index[table[name].isna()][:1]:
            raise TableError(f"{path}: row {line}: {name} is empty")
    return table


def _cells(text: str, separator: str, path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Split a text into its header, its rows and the line on which each row ends."""
    # newline="": a cell may contain a line break, and only \n and \r end a row
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, lines = [], []
    try:
        for cells in reader:
            cells = [" ".join(cell.strip().splitlines()) for cell in cells]
            if any(cells):
                rows.append(cells)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise TableError(f"{path}: row {reader.line_num}: {error}; is a quote not closed?") from None
    return (rows[0] if rows else []), rows[1:], lines[1:]


def check_types(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Convert the columns of `COLUMNS` to their types, and add those that are missing.

    Args:
        table: as `read` returns it.
        path: of the table, for messages.

    Returns:
        The table with all of `COLUMNS`; further columns stay as they are.

    Raises:
        TableError: a sample type that the GDC does not have, a percentage that is no number from 0 to 100, or an
            mpp that is no number.

    """
    table = table.copy()
    words = table["sample_type"]
    table["sample_type"] = words.map({word: sample_type(word) for word in words.unique()})
    for line in table.index[table["sample_type"].isna()][:1]:
        raise TableError(
            f"{path}: row {line}: sample_type {words[line]!r} is not among the GDC's; use for example "
            + " or ".join(map(repr, COMPARED))
        )
    for name in (*PERCENTS, "mpp"):
        table[name] = _numbers(table, name, path)
    for name in PERCENTS:
        for line in table.index[(table[name] < 0) | (table[name] > 100)][:1]:
            raise TableError(f"{path}: row {line}: {name} is {table.at[line, name]:g}, not 0 to 100")
    for name in TEXTS:
        if name not in table:
            table[name] = None
    derived = table["slide_id"].map(sample_of)
    table["sample_id"] = table["sample_id"].where(table["sample_id"].notna(), derived)
    return table


def _numbers(table: pd.DataFrame, name: str, path: Path) -> pd.Series:
    if name not in table:
        return pd.Series(np.nan, index=table.index)
    numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
    for line in table.index[(numbers.isna() & table[name].notna()) | np.isinf(numbers)][:1]:
        raise TableError(f"{path}: row {line}: {name} is {table.at[line, name]!r}, not a number")
    return numbers


def check_unique(table: pd.DataFrame, name: str, path: Path) -> None:
    """Check that no value of a column occurs twice.

    Args:
        table: whose index is the line number in the file.
        name: of the column.
        path: of the table, for messages.

    Raises:
        TableError: two rows have the same value.

    """
    for line in table.index[table[name].duplicated()][:1]:
        first = table.index[table[name] == table.at[line, name]][0]
        raise TableError(f"{path}: rows {first} and {line}: {name} {table.at[line, name]!r} occurs twice")


def check_files(table: pd.DataFrame, name: str, folder: Path, path: Path) -> pd.Series:
    """Check that a column names files inside a folder, each once.

    A link inside the folder may lead outside: the owner of the folder made it. A path in a table must not.

    Args:
        table: whose index is the line number in the file.
        name: of the column.
        folder: of the files.
        path: of the table, for messages.

    Returns:
        The files in normal form: `a/./b` becomes `a/b`.

    Raises:
        TableError: an absolute path, a path that leaves the folder, a missing file, or the same file in two rows.

    """
    if not folder.is_dir():
        raise TableError(f"{folder}: no such folder; set data.path to the folder of your files")
    listed: dict[Path, frozenset[str]] = {}
    for line, file in table[name].items():
        posix, windows = PurePosixPath(file), PureWindowsPath(file)
        if posix.is_absolute() or windows.is_absolute() or ".." in (*posix.parts, *windows.parts):
            raise TableError(f"{path}: row {line}: {name} {file!r} leads out of {folder}")
        parent = folder / posix.parent
        if parent not in listed:
            listed[parent] = _files_in(parent)
        if posix.name not in listed[parent]:
            raise TableError(f"{path}: row {line}: {name} {file!r}: no such file in {folder}")
    files = table[name].map(lambda file: PurePosixPath(file).as_posix())
    check_unique(files.to_frame(), name, path)
    return files


def _files_in(folder: Path) -> frozenset[str]:
    """List a folder's files at once: 100,000 single checks take minutes on a network drive."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def one_per_slide(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Reduce a table of tiles to one row per slide, in the order of first appearance.

    Args:
        table: with the columns of `SEED_COLUMNS`; its index is the line number in the file.
        path: of the table, for messages.

    Returns:
        The first row of each slide.

    Raises:
        TableError: tiles of one slide differ in case, sample type or another slide column.

    """
    names = [name for name in SEED_COLUMNS if name != "slide_id"]
    differing = table.groupby("slide_id", sort=False)[names].nunique(dropna=False)
    for slide_id, counts in differing.iterrows():
        for name in counts.index[counts > 1][:1]:
            line = table.index[table["slide_id"] == slide_id][0]
            raise TableError(f"{path}: row {line}: the tiles of slide {slide_id!r} differ in {name}")
    return table.drop_duplicates("slide_id")
