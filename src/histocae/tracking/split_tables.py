"""The tables of a split in short, for runs and model cards; read in parts, since they may not fit into memory."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histocae.files import read_table_parts


@dataclass(frozen=True)
class TableSummary:
    """The rows of a table that a model uses, in short.

    Attributes:
        rows: number of rows.
        distinct: number of different values, for each column that was to be counted.
        example: up to two rows, with the column types of the whole table and a missing value in each column where
            any of the rows has one.

    """

    rows: int
    distinct: Mapping[str, int]
    example: pd.DataFrame


def summarize(
    path: Path,
    select: Callable[[pd.DataFrame], pd.DataFrame],
    text: Collection[str] = (),
    counted: Collection[str] = (),
) -> TableSummary:
    """Read a table in parts and summarize the rows that a model uses.

    Args:
        path: of the table, of any length.
        select: chooses these rows from a part; the index of a part is the number of the row in the table.
        text: columns that stay strings, as in `files.read_table`.
        counted: columns whose different values are counted.

    Returns:
        The summary.

    Raises:
        DataError: an earlier stage has not written the table yet.

    """
    rows, values = 0, {name: set[Any]() for name in counted}
    types: dict[str, Any] = {}
    first: dict[str, Any] = {}
    incomplete: set[str] = set()
    for part in read_table_parts(path, text, needed=counted):
        used = select(part)
        rows += len(used)
        for name, column in used.items():
            former = types.get(name, column.dtype)
            # a column of whole numbers may have fractions further down
            types[name] = former if former == column.dtype else np.result_type(former, column.dtype)
            missing = column.isna()
            if missing.any():
                incomplete.add(name)
            if name not in first and not missing.all():
                first[name] = column[~missing].iloc[0]
        for name, different in values.items():
            different.update(used[name].dropna().unique())
    example = {
        name: pd.Series([first.get(name), None if name in incomplete else first[name]][:rows], dtype=kind)
        if rows
        else pd.Series([], dtype=kind)
        for name, kind in types.items()
    }
    distinct = {name: len(different) for name, different in values.items()}
    return TableSummary(rows, distinct, pd.DataFrame(example))
