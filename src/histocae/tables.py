"""The user's table of slides or tiles: read, typed, checked, every fault told by its row."""

import csv
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd

from histocae.errors import TableError
from histocae.identifiers import COMPARED, sample_of, sample_type

# the seeds' columns, in their order
SEED_COLUMNS = (
    "case_id", "sample_id", "slide_id", "disease_type", "sample_type",
    "percent_normal_cells", "percent_stromal_cells", "percent_tumor_cells", "percent_tumor_nuclei",
)  # fmt: skip
PERCENTS = tuple(name for name in SEED_COLUMNS if name.startswith("percent_"))
TEXTS = ("case_id", "sample_id", "slide_id", "disease_type", "sample_type", "file_name")
COLUMNS = (*SEED_COLUMNS, "file_name", "mpp")
MISSING = frozenset(("", "--", "'--", "na", "nan", "null", "none", "n/a"))


def read(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """Read a table separated by `,`, `|`, `;` or tabs; every cell is text, missing is None.

    The index is the row's line number in the file, for messages.

    Raises:
        TableError: no such file, not UTF-8, a missing or doubled column, a ragged row,
            an empty cell in a required column, or no rows.

    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TableError(f"{path}: no such table; set data.table to a CSV in data.path") from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise TableError(f"{path}: can't be read as a UTF-8 table: {error}") from None
    head = text.split("\n", 1)[0]
    separator = max(",|;\t", key=head.count)
    reader = csv.reader(text.splitlines(), delimiter=separator)
    header = [name.strip() for name in next(reader, [])]
    for name in required:
        if name not in header:
            raise TableError(f"{path}: no column {name!r}; it has {', '.join(header) or 'none'}")
    doubled = {name for name in header if header.count(name) > 1}
    if doubled:
        raise TableError(f"{path}: column {sorted(doubled)[0]!r} stands twice")
    rows, lines = [], []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise TableError(
                f"{path}: row {reader.line_num}: {len(cells)} cells under {len(header)} columns"
            )
        rows.append([None if c.strip().lower() in MISSING else c.strip() for c in cells])
        lines.append(reader.line_num)
    if not rows:
        raise TableError(f"{path}: no rows")
    table = pd.DataFrame(rows, columns=header, index=lines, dtype=object)
    for name in required:
        for line in table.index[table[name].isna()][:1]:
            raise TableError(f"{path}: row {line}: {name} is empty")
    return table


def check_types(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Type the known columns, add the missing ones, drop the others.

    Raises:
        TableError: a sample type GDC does not know, a percent that is no number from 0
            to 100, an mpp that is no number.

    """
    table = table.copy()
    for line, word in table["sample_type"].items():
        if (known := sample_type(word)) is None:
            raise TableError(
                f"{path}: row {line}: sample_type {word!r} is not one of GDC's; use for example "
                + " or ".join(repr(one) for one in COMPARED)
            )
        table.at[line, "sample_type"] = known
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
    """Raise TableError where a value of column `name` stands in two rows."""
    for line in table.index[table[name].duplicated()][:1]:
        first = table.index[table[name] == table.at[line, name]][0]
        raise TableError(f"{path}: rows {first} and {line}: {name} {table.at[line, name]!r} stands twice")


def check_files(table: pd.DataFrame, name: str, folder: Path, path: Path) -> None:
    """Check that column `name` holds files inside `folder`.

    A link inside the folder may point anywhere: that is the owner's doing, a path in a
    table may be a stranger's.

    Raises:
        TableError: an absolute path, one that leaves the folder, a missing file.

    """
    if not folder.is_dir():
        raise TableError(f"{folder}: no such folder; set data.path to the folder of your files")
    for line, file in table[name].items():
        posix, windows = PurePosixPath(file), PureWindowsPath(file)
        if posix.is_absolute() or windows.is_absolute() or ".." in (*posix.parts, *windows.parts):
            raise TableError(f"{path}: row {line}: {name} {file!r} leads out of {folder}")
        if not (folder / file).is_file():
            raise TableError(f"{path}: row {line}: {name} {file!r}: no such file in {folder}")


def one_per_slide(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Reduce a table of tiles to one row per slide, in the order of first appearance.

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
