"""SHA256SUMS: the hashes of a folder's files, so that a damaged or foreign file is noticed before it is used.

The format is that of the command `sha256sum`, which checks a folder as well: `sha256sum -c SHA256SUMS`.
"""

import re
from pathlib import Path

from histocae.errors import DataError, raise_if_machine
from histocae.files import sha256_once, write_text

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def write(folder: Path) -> None:
    """Write the hashes of all files of a folder and its subfolders into it."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    lines = [f"{sha256_once(folder / file)}  {file}\n" for file in files if file != FILE]
    write_text("".join(lines), folder / FILE)


def check(path: Path, remedy: str) -> None:
    """Check a file against the hashes of its folder; a folder without hashes is of an earlier version, and passes.

    A file is hashed once per process while its size and times stay.

    Args:
        path: of the file.
        remedy: end of the error's line.

    Raises:
        DataError: the file is missing, can't be read, or is not the one that was saved.

    """
    expected = _read(path.parent / FILE, remedy)
    if expected is None:
        return
    if path.name not in expected:
        raise DataError(f"{path.parent / FILE}: has no line for {path.name}; {remedy}")
    try:
        found = sha256_once(path)
    except OSError as error:
        raise_if_machine(error)
        raise DataError(f"{path}: can't be read: {error.strerror}; {remedy}") from None
    if found != expected[path.name]:
        raise DataError(f"{path}: changed since it was saved (its SHA-256 is not that in {FILE}); {remedy}")


def lists(path: Path, remedy: str) -> bool:
    """Return whether the hashes of a file's folder have a line for it.

    Args:
        path: of the file.
        remedy: end of the error's line.

    Returns:
        Whether they do; False where the folder has no hashes.

    Raises:
        DataError: the hashes are damaged.

    """
    return path.name in (_read(path.parent / FILE, remedy) or {})


def compare(folder: Path, remedy: str) -> dict[Path, str | None]:
    """Compare all files of a folder and its subfolders with its hashes: those that have a line, and all others.

    Args:
        folder: that `write` wrote the hashes of.
        remedy: end of an error's line.

    Returns:
        For each file, why it is not the one that was saved; None if it is. Empty where the folder has no hashes.

    Raises:
        DataError: the hashes are damaged.
        OSError: this machine can't read any file.

    """
    expected = _read(folder / FILE, remedy)
    if expected is None:
        return {}
    found: dict[Path, str | None] = {folder / name: _differs(folder / name, expected[name]) for name in expected}
    others = {file for file in folder.rglob("*") if file.is_file()} - found.keys() - {folder / FILE}
    return found | {folder / FILE: None} | dict.fromkeys(sorted(others), f"is not in {FILE}")


def _differs(path: Path, expected: str) -> str | None:
    try:
        found = sha256_once(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        raise_if_machine(error)
        return f"can't be read: {error.strerror}"
    return None if found == expected else f"is not as it was written (its SHA-256 is not that in {FILE})"


def _read(path: Path, remedy: str) -> dict[str, str] | None:
    """Read the hashes by the name of the file; None where there are none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise_if_machine(error)
        raise DataError(f"{path}: can't be read: {error}; {remedy}") from None
    hashes = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DataError(f"{path}: line {number} is not a SHA-256 and a file's name; {remedy}")
        hashes[match[2]] = match[1]
    return hashes
