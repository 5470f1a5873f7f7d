"""The user's table of slides or tiles: read, typed and checked; errors name the row."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from histocae.errors import TableError
from histocae.files import read_table
from histocae.identifiers import COMPARED, sample_of, sample_type
from histocae.scanners import MPP_EXPECTED, MPP_RANGE
from histocae.sources.table_text import read_text, split_separator
from histocae.sources.texts import listed, problem, quoted

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
FILE_COLUMNS = ("file_id", "md5", "size", "state", "access")  # of a slide of the GDC
FILE_NAMES = ("file_name", "path")  # column of the files: of slides, of tiles
HASHES = {"sha256": 64, "md5": 32}  # optional columns, and their numbers of hexadecimal digits
MOST_COLUMNS = 16_384  # of a spreadsheet
MISSING = frozenset(("", "--", "'--", "na", "nan", "null", "none", "n/a"))


def read_metadata(path: Path, further: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read the table of slides that the stage metadata wrote.

    Args:
        path: of the table.
        further: columns that it must have beside those of `COLUMNS`.

    Returns:
        One row per slide.

    Raises:
        DataError: the table is not there yet, or damaged.

    """
    return read_table(path, METADATA_TEXTS, needed=(*COLUMNS, *further), numbers=(*PERCENTS, "mpp"))


def read(path: Path, required: tuple[str, ...], remedy: str = "set data.table to a CSV in data.path") -> pd.DataFrame:
    """Read a table separated by `,`, `|`, `;` or tabs; a first line `sep=;` may name the separator.

    Args:
        path: of the table.
        required: columns that must be there, without empty cells.
        remedy: of a missing file.

    Returns:
        The table: all cells are text, empty ones None; its index is the line number in the file, for messages.

    Raises:
        TableError: no such file, not a text of UTF-8 or UTF-16, a missing or duplicate column, too many columns, a
            row with too few or too many cells, an empty cell in a required column, or no rows.

    """
    separator, text, before = split_separator(read_text(path, remedy), path)
    header, rows, lines = _cells(text, separator, path, before)
    if len(header) > MOST_COLUMNS:
        raise TableError(f"{path}: {len(header):,} columns, more than {MOST_COLUMNS:,}; is a line end missing?")
    for name in required:
        if name not in header:
            raise TableError(f"{path}: no column {name!r}; it has {listed(header) or 'none'}")
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise TableError(f"{path}: two columns are called {quoted(min(twice))}")
    for line, cells in zip(lines, rows, strict=True):
        if len(cells) != len(header):
            remedy = f"put cells that contain {separator!r} in quotes, and separate empty cells too"
            raise TableError(f"{path}: row {line}: {len(cells)} cells under {len(header)} columns; {remedy}")
    if not rows:
        raise TableError(f"{path}: no rows")
    values = [[None if cell.lower() in MISSING else cell for cell in cells] for cells in rows]
    table = pd.DataFrame(values, columns=header, index=lines, dtype=object)
    for name in required:
        for line in table.index[table[name].isna()][:1]:
            raise TableError(f"{path}: row {line}: {name} is empty")
    return table


def _cells(text: str, separator: str, path: Path, before: int) -> tuple[list[str], list[list[str]], list[int]]:
    """Split a text, after some lines, into its header, its rows and the line of the file on which each row ends."""
    # newline="": a cell may contain a line break, and only \n and \r end a row
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, lines = [], []
    try:
        for cells in reader:
            cells = [" ".join(cell.strip().splitlines()) for cell in cells]
            if any(cells):
                rows.append(cells)
                lines.append(before + reader.line_num)
    except csv.Error as error:
        raise TableError(f"{path}: row {before + reader.line_num}: {error}; is a quote not closed?") from None
    return (rows[0] if rows else []), rows[1:], lines[1:]


def check_types(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Convert the columns of `COLUMNS` to their types, and add those that are missing.

    Args:
        table: as `read` returns it.
        path: of the table, for messages.

    Returns:
        The table with all of `COLUMNS`; further columns stay as they are.

    Raises:
        TableError: a sample type that the GDC does not have, a percentage that is no number from 0 to 100, an mpp
            that no scanner has, a text that a report must not have (`texts.problem`), or no hash in a column of
            hashes.

    """
    table = table.copy()
    words = table["sample_type"]
    table["sample_type"] = words.map({word: sample_type(word) for word in words.unique()})
    for line in table.index[table["sample_type"].isna()][:1]:
        raise TableError(
            f"{path}: row {line}: sample_type {quoted(words[line])} is not among the GDC's; use for example "
            + " or ".join(map(repr, COMPARED))
        )
    for name in PERCENTS:
        table[name] = _numbers(table, name, path)
        for line in table.index[(table[name] < 0) | (table[name] > 100)][:1]:
            raise TableError(f"{path}: row {line}: {name} is {table.at[line, name]:g}, not 0 to 100")
    for name in TEXTS:
        if name not in table:
            table[name] = None
    check_texts(table, TEXTS, path)
    derived = table["slide_id"].map(sample_of)
    table["sample_id"] = table["sample_id"].where(table["sample_id"].notna(), derived)
    return check_files_columns(table, path)


def check_files_columns(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Convert the columns that describe files, mpp and the hashes, and add those that are missing.

    Args:
        table: as `read` returns it.
        path: of the table, for messages.

    Returns:
        The table with mpp (float64) and `HASHES` (hex or None).

    Raises:
        TableError: an mpp that no scanner has, or no hash in a column of hashes.

    """
    table = table.assign(mpp=_numbers(table, "mpp", path))
    out = (table["mpp"] < MPP_RANGE[0]) | (table["mpp"] > MPP_RANGE[1])
    for line in table.index[out][:1]:
        raise TableError(
            f"{path}: row {line}: mpp is {table.at[line, 'mpp']:g}, not {MPP_EXPECTED}; "
            "leave the cell empty to use the slide's own"
        )
    return table.assign(**{name: _hashes(table, name, path) for name in HASHES})


def check_names(table: pd.DataFrame, known: Iterable[str], path: Path) -> None:
    """Check that no column is left out because its name is written in another way: `SHA256` or `sha-256`.

    Args:
        table: as `read` returns it; further columns may have any other names.
        known: names of columns that are read.
        path: of the table, for messages.

    Raises:
        TableError: a name differs from a known one, which the table lacks, in case or punctuation only.

    """
    plain = {_plain(name): name for name in known if name not in table}
    for name in table.columns:
        if (meant := plain.get(_plain(name))) is not None:
            raise TableError(f"{path}: column {quoted(name)} would not be read; call it {meant!r}, or something else")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _numbers(table: pd.DataFrame, name: str, path: Path) -> pd.Series:
    if name not in table:
        return pd.Series(np.nan, index=table.index)
    # before pandas 3.1, `to_numeric` may be one bit off; `float` never is, but takes more texts for numbers: 1_0
    is_number = pd.to_numeric(table[name], errors="coerce").notna()
    values = [float(cell) if known else np.nan for cell, known in zip(table[name], is_number, strict=True)]
    numbers = pd.Series(values, table.index, dtype=float)
    for line in table.index[(numbers.isna() & table[name].notna()) | np.isinf(numbers)][:1]:
        raise TableError(f"{path}: row {line}: {name} is {quoted(table.at[line, name])}, not a number")
    return numbers


def _hashes(table: pd.DataFrame, name: str, path: Path) -> pd.Series:
    hashes: list[str | None] = [None] * len(table)
    if name in table:
        hashes = [None if text is None else text.lower() for text in table[name]]
    for line, text in zip(table.index, hashes, strict=True):
        if text is not None and not re.fullmatch(f"[0-9a-f]{{{HASHES[name]}}}", text):
            raise TableError(
                f"{path}: row {line}: {name} is {quoted(text)}, not {HASHES[name]} hexadecimal digits; leave the "
                "cell empty where it is not known"
            )
    return pd.Series(hashes, index=table.index, dtype=object)


def check_texts(table: pd.DataFrame, names: Iterable[str], path: Path) -> None:
    """Check columns whose texts reports/*.csv and the report page show.

    Args:
        table: whose index is the line number in the file.
        names: of the columns.
        path: of the table, for messages.

    Raises:
        TableError: a text begins as a formula does, or has a control character.

    """
    for name in names:
        problems = {text: problem(text) for text in table[name].dropna().unique()}
        for line in table.index[table[name].map(problems).notna()][:1]:
            text = table.at[line, name]
            remedy = "rename the file" if name in FILE_NAMES else "change this cell"
            raise TableError(f"{path}: row {line}: {name} {quoted(text)} {problems[text]}; {remedy}")


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
        raise TableError(f"{path}: rows {first} and {line}: {name} {quoted(table.at[line, name])} occurs twice")


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
            raise TableError(f"{path}: row {line}: the tiles of slide {quoted(slide_id)} differ in {name}")
    return table.drop_duplicates("slide_id")
