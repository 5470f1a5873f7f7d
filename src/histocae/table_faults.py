"""What may be wrong with a table that a stage wrote: it was cut, or lacks columns, cells or numbers.

pandas reads such a table without an error: it fills short rows, and takes the first cells of long rows as an index.
"""

import csv
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pandas takes a third of a second to load
    import pandas as pd


def check_end(path: Path) -> None:
    """Check that the last row of a table has its line end, as each table of a stage has.

    Args:
        path: of the table.

    Raises:
        ValueError: the table was cut within a row.

    """
    with open(path, "rb") as handle:
        if handle.seek(0, os.SEEK_END):
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":
                raise ValueError("it was cut: its last row has no line end")


def check_columns(table: "pd.DataFrame", needed: Iterable[str], numbers: Iterable[str] = ()) -> None:
    """Check the columns of a table.

    Args:
        table: as pandas read it.
        needed: columns that must be there.
        numbers: columns that must be there, with numbers or empty cells only.

    Raises:
        ValueError: a column is missing, or has text where numbers should be.

    """
    numbers = tuple(numbers)
    for name in (*needed, *numbers):
        if name not in table:
            raise ValueError(f"it has no column {name!r}")
    for name in numbers if len(table) else ():
        if table[name].dtype.kind not in "iuf":
            raise ValueError(f"column {name!r} has something else than numbers")


def may_lack_cells(table: "pd.DataFrame") -> bool:
    """Return whether a row of a table may have too few or too many cells; `check_cells` tells.

    Args:
        table: as pandas read it.

    Returns:
        Whether the last cell of a row is empty, or pandas took the first cells of the rows as their index.

    """
    import pandas as pd

    return not isinstance(table.index, pd.RangeIndex) or bool(table.iloc[:, -1].isna().any())


def check_cells(path: Path, separator: str) -> None:
    """Check that each row of a table has as many cells as its header.

    Args:
        path: of the table.
        separator: of columns.

    Raises:
        ValueError: a row has too few or too many cells.

    """
    with open(path, encoding="utf-8", newline="") as handle:
        rows = csv.reader(handle, delimiter=separator)
        try:
            columns = len(next(rows, []))
            for row in rows:
                if row and len(row) != columns:  # pandas passes over empty lines
                    raise ValueError(f"row {rows.line_num} has {len(row)} cells under {columns} columns")
        except csv.Error as error:
            raise ValueError(f"row {rows.line_num}: {error}") from None


def cells(path: Path, columns: Sequence[str], separator: str) -> Iterator[tuple[str, ...]]:
    """Read some columns of a table row by row.

    Args:
        path: of the table.
        columns: names of two or more columns.
        separator: of columns.

    Yields:
        The cells of a row in these columns, as text.

    Raises:
        ValueError: the table was cut, lacks a column or cells, or is no text.

    """
    check_end(path)
    with open(path, encoding="utf-8", newline="") as handle:
        rows = csv.reader(handle, delimiter=separator)
        try:
            head = next(rows, [])
            if missing := [name for name in columns if name not in head]:
                raise ValueError(f"it has no column {missing[0]!r}")
            take, count = operator.itemgetter(*map(head.index, columns)), len(head)
            for row in rows:
                if len(row) != count:
                    raise ValueError(f"row {rows.line_num} has {len(row)} cells under {count} columns")
                yield take(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"row {rows.line_num}: {error}") from None
