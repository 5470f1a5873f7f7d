"""The files that a user's table names: each must be inside the folder, there, and named once."""

import difflib
import logging
import os
import unicodedata
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from histocae.errors import TableError, raise_if_machine, shortened
from histocae.sources.table_text import remedy_here
from histocae.sources.tables import check_unique
from histocae.sources.texts import quoted

MOST_COMPARED = 20_000  # names of a folder among which a similar one is searched
log = logging.getLogger(__name__)


def check_files(
    table: pd.DataFrame,
    name: str,
    folder: Path,
    path: Path,
    remedy: str = "set data.path to a folder that has all files",
) -> pd.Series:
    """Check that a column names files inside a folder, each once.

    A link inside the folder may lead outside: the owner of the folder made it. A path in a table must not.
    A path with backslashes, or in another form of Unicode than the file's name, is taken where one file fits.

    Args:
        table: whose index is the line number in the file.
        name: of the column.
        folder: of the files.
        path: of the table, for messages.
        remedy: for a path that leaves the folder.

    Returns:
        The files in normal form: `a/./b` becomes `a/b`.

    Raises:
        TableError: an absolute path, a path that leaves the folder, a missing file, or the same file in two rows.

    """
    if not folder.is_dir():
        here = remedy_here(folder, "set data.path to the folder of your files")
        raise TableError(f"{folder}: no such folder; {here}")
    listing = _Listing(folder)
    files: list[str] = []
    other: list[str] = []
    for line, file in table[name].items():
        posix, windows = PurePosixPath(file), PureWindowsPath(file)
        if posix.is_absolute() or windows.is_absolute() or ".." in (*posix.parts, *windows.parts):
            raise TableError(f"{path}: row {line}: {name} {quoted(file)} leads out of {folder}; {remedy}")
        found = posix if listing.has(posix) else listing.same(windows)
        if found is None:
            # another row's file is no typing error: slides are often called by numbers
            similar = listing.similar(windows, set(table[name]))
            hint = f"; did you mean {quoted(similar)}?" if similar else ""
            raise TableError(f"{path}: row {line}: {name} {quoted(file)}: no such file in {folder}{hint}")
        if found != posix:
            other.append(f"row {line}: {quoted(file)} is {quoted(found.as_posix())}")
        files.append(found.as_posix())
    if other:
        log.info("%s: %s in another form of Unicode or with other slashes: %s", path, name, shortened(other))
    found_files = pd.Series(files, index=table.index, name=name, dtype=object)
    check_unique(found_files.to_frame(), name, path)
    return found_files


class _Listing:
    """The files and subfolders of a folder, each folder listed once.

    100,000 single checks take minutes on a network drive.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._listed: dict[PurePosixPath, _Names] = {}

    def _in(self, folder: PurePosixPath) -> "_Names":
        if folder not in self._listed:
            self._listed[folder] = _Names(self._folder / folder)
        return self._listed[folder]

    def has(self, file: PurePosixPath) -> bool:
        """Return whether there is a file of exactly this path."""
        return file.name in self._in(file.parent).files

    def same(self, file: PureWindowsPath) -> PurePosixPath | None:
        """Return the only file whose path differs at most in the form of Unicode and in slashes."""
        found = PurePosixPath()
        for position, part in enumerate(file.parts, start=1):
            names = self._in(found)
            here = names.files if position == len(file.parts) else names.folders
            matches = [part] if part in here else [name for name in names.alike(part) if name in here]
            if len(matches) != 1:
                return None
            found /= matches[0]
        return found if file.parts else None

    def similar(self, file: PureWindowsPath, others: set[str]) -> str | None:
        """Return the path of a file whose name differs in capitals or by a typing error, and is none of `others`."""
        found = PurePosixPath()
        for position, part in enumerate(file.parts, start=1):
            names = self._in(found)
            here = names.files if position == len(file.parts) else names.folders
            if part not in here:
                lower = {_form(name).casefold(): name for name in sorted(here)[:MOST_COMPARED]}
                near = difflib.get_close_matches(_form(part).casefold(), list(lower), 1, 0.8)
                if not near:
                    return None
                part = lower[near[0]]
            found /= part
        return found.as_posix() if file.parts and found.as_posix() not in others else None


class _Names:
    """The names in one folder; none where it can't be listed."""

    def __init__(self, folder: Path):
        self.files: set[str] = set()
        self.folders: set[str] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        if entry.is_file():
                            self.files.add(entry.name)
                        elif entry.is_dir():
                            self.folders.add(entry.name)
                    except OSError as error:  # a link to itself
                        raise_if_machine(error)
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL
            raise_if_machine(error)

    def alike(self, name: str) -> list[str]:
        """Return the names that differ at most in the form of Unicode."""
        return self._by_form.get(_form(name), [])

    @cached_property
    def _by_form(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in sorted(self.files | self.folders):
            names.setdefault(_form(name), []).append(name)
        return names


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
