"""The hash of each of the user's files when it was first read. A slide that changes later is noticed.

A flipped bit in a compressed slide gives other pixels without an error: only a hash shows it.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from histocae.errors import DataError
from histocae.files import read_cells
from histocae.sources.integrity import SHOWN
from histocae.sources.texts import quoted

COLUMNS = ("folder", "file", "sha256")


def update(
    path: Path, folder: str, files: Mapping[str, str], confirmed: set[str], unused: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Compare files with their first hashes, and add those that are new.

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
    first = _read(path)
    changed = []
    for file, sha256 in {**files, **(unused or {})}.items():
        before = first.get((folder, file), sha256)
        if file not in confirmed and before != sha256:
            changed.append(f"{quoted(file)} (sha256 {before[:SHOWN]}… → {sha256[:SHOWN]}…)")
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise DataError(
            f"{folder}: {changed[0]}{more} changed since first read: restore the former file, or if the change is "
            f"meant, delete its row in {path}"
        )
    for file, sha256 in files.items():
        if file in confirmed or (folder, file) not in first:
            first[folder, file] = sha256
    return pd.DataFrame([(*key, sha256) for key, sha256 in sorted(first.items())], columns=list(COLUMNS))


def _read(path: Path) -> dict[tuple[str, str], str]:
    if not path.is_file():
        return {}
    try:
        return {(folder, file): sha256 for folder, file, sha256 in read_cells(path, COLUMNS)}
    except DataError as error:
        problem = str(error).rpartition("; ")[0]
        raise DataError(f"{problem}; restore it, or delete the file, and all hashes are taken anew") from None
