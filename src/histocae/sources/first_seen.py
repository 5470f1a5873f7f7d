"""The hash of each of the user's files when it was first read. A slide that changes later is noticed.

A flipped bit in a compressed slide gives other pixels without an error: only a hash shows it.
"""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from histocae.errors import DataError
from histocae.files import read_cells
from histocae.sources.integrity import SHOWN
from histocae.sources.texts import quoted

COLUMNS = ("folder", "file", "sha256")
_Row = tuple[str, str]  # folder and file
_Hashes = dict[_Row, str]


def update(
    path: Path, folder: str, files: Mapping[str, str], confirmed: set[str], unused: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Compare files with their first hashes, and add those that are new.

    A folder may be named by another path than before, or be moved or copied: its first hashes count all the same.

    Args:
        path: of the table of first hashes; it may be missing.
        folder: of the files, as params.yaml names it.
        files: sha256 of each, by name.
        confirmed: names of files whose hash the user's table has too: they may change.
        unused: sha256 of files that can't be used, by name: compared like the others, but not added.

    Returns:
        The table: `COLUMNS`, sorted.

    Raises:
        DataError: a file has changed, or the table is damaged.

    """
    first, found = _read(path), {**files, **(unused or {})}
    names = sorted({name for name, _ in first}, key=lambda name: (name != folder, name))
    own = [name for name in names if os.path.abspath(name) == os.path.abspath(folder)]
    rows = _rows(first, own or _copies(first, found))
    changed = []
    for file, sha256 in found.items():
        before = [first[row] for row in rows.get(file, ())]
        if before and sha256 not in before and file not in confirmed:
            where = rows[file][0][0]
            named = "" if where == folder else f", there as {quoted(where)}"
            changed.append((f"{quoted(file)} (sha256 {before[0][:SHOWN]}… → {sha256[:SHOWN]}…)", named))
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        (file, named), *_ = changed
        raise DataError(
            f"{folder}: {file}{more} changed since first read: restore the former file, or if the change is "
            f"meant, delete its row in {path}{named}"
        )
    rows = _rows(first, own)
    for file, sha256 in files.items():
        here = rows.get(file) or [(own[0] if own else folder, file)]
        if file in confirmed or here[0] not in first:
            first |= dict.fromkeys(here, sha256)
    return pd.DataFrame([(*key, sha256) for key, sha256 in sorted(first.items())], columns=list(COLUMNS))


def _rows(first: _Hashes, folders: Collection[str]) -> dict[str, list[_Row]]:
    """List the rows of each file of a folder, which the table may have under several paths, in their order."""
    rows: dict[str, list[_Row]] = {}
    for folder in folders:
        for row in first:
            if row[0] == folder:
                rows.setdefault(row[1], []).append(row)
    return rows


def _copies(first: _Hashes, found: Mapping[str, str]) -> list[str]:
    """List the folders that were moved or copied here: at least half of the files of equal name have equal bytes."""
    equal, other = Counter[str](), Counter[str]()
    for (folder, file), sha256 in first.items():
        if file in found:
            (equal if found[file] == sha256 else other)[folder] += 1
    return sorted(folder for folder in equal if equal[folder] >= other[folder])


def _read(path: Path) -> _Hashes:
    if not path.is_file():
        return {}
    try:
        return {(folder, file): sha256 for folder, file, sha256 in read_cells(path, COLUMNS)}
    except DataError as error:
        problem = str(error).rpartition("; ")[0]
        raise DataError(f"{problem}; restore it, or delete the file, and all hashes are taken anew") from None
