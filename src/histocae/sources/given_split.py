"""The split that a user gives: the optional column `split` of the table of slides or tiles."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from histocae.errors import DataError, TableError
from histocae.files import read_table, write_table
from histocae.sources.texts import quoted

COLUMN = "split"
# as cohort.split.SPLITS; trainings import that, and should not depend on the code that checks tables
PARTS = ("train", "validation", "test")


def check(table: pd.DataFrame, path: Path) -> dict[str, str]:
    """Check the column `split` of a user's table, and return the part of each slide.

    Args:
        table: with slide_id and case_id; empty cells are None, and the index is the line number in the file.
        path: of the table, for messages.

    Returns:
        The part of each slide; empty where the table has no such column, or only empty cells in it.

    Raises:
        TableError: some rows have a part and others none, a cell is no part, a slide or a case is in two parts, or a
            part has no row.

    """
    if COLUMN not in table or table[COLUMN].isna().all():
        return {}
    words = table[COLUMN]
    for line in table.index[words.isna()][:1]:
        raise TableError(
            f"{path}: row {line}: {COLUMN} is empty, and row {words.first_valid_index()} has one; fill in this "
            "column in every row, or in none"
        )
    parts = words.str.lower()
    for line in table.index[~parts.isin(PARTS)][:1]:
        raise TableError(
            f"{path}: row {line}: {COLUMN} is {quoted(words[line])}, not {_listed()}; rename this column if it means "
            "something else"
        )
    for name in ("slide_id", "case_id"):
        first = parts.groupby(table[name]).transform("first")
        for line in table.index[parts != first][:1]:
            value = table.at[line, name]
            before = table.index[table[name] == value][0]
            of_case = f" of case {quoted(table.at[line, 'case_id'])}" if name == "slide_id" else ""
            raise TableError(
                f"{path}: rows {before} and {line}: {name} {quoted(value)}{of_case} is in {first[line]} and in "
                f"{parts[line]}; give all rows of a case the same {COLUMN}"
            )
    present = set(parts)
    for part in PARTS:
        if part not in present:
            raise TableError(f"{path}: no row has {COLUMN} {part!r}; give some cases to each of {_listed('and')}")
    return dict(zip(table["slide_id"], parts, strict=True))


def write(part_of: Mapping[str, str], slide_ids: pd.Series, path: Path) -> None:
    """Write the given part of each slide; only the header where none is given.

    Args:
        part_of: the part of each slide, as `check` returns it.
        slide_ids: the slides that are used.
        path: of the table to write.

    """
    rows = [(slide_id, part_of[slide_id]) for slide_id in slide_ids] if part_of else []
    write_table(pd.DataFrame(rows, columns=["slide_id", COLUMN]), path)


def read(path: Path) -> dict[str, str]:
    """Read what `write` wrote.

    Args:
        path: of the table.

    Returns:
        The part of each slide; empty where none is given.

    Raises:
        DataError: the table is not there yet, or damaged.

    """
    columns = ("slide_id", COLUMN)
    table = read_table(path, columns, needed=columns)
    for word in table[COLUMN][~table[COLUMN].isin(PARTS)][:1]:
        raise DataError(f"{path}: {COLUMN} {quoted(word)} is not {_listed()}; run dvc repro metadata")
    return dict(zip(table["slide_id"], table[COLUMN], strict=True))


def _listed(before_last: str = "or") -> str:
    return f"{', '.join(PARTS[:-1])} {before_last} {PARTS[-1]}"
