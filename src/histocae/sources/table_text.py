"""The text of a table, whatever program saved it: its encoding, and the character between its cells."""

import codecs
import re
from pathlib import Path

from histocae.errors import TableError, raise_if_machine
from histocae.sources.texts import quoted

SEPARATORS = ",|;\t"
_SAVE = 'save it as "CSV UTF-8"'
_ARCHIVES = {
    b"PK\x03\x04": "a spreadsheet (xlsx, ods) or another zip archive",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a spreadsheet (xls)",
    b"\x1f\x8b": "a gzip archive",
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, remedy: str) -> str:
    """Read a table in UTF-8, with or without byte order mark, or in UTF-16 with one.

    Args:
        path: of the table.
        remedy: of a missing file.

    Returns:
        The text; its line ends stay as they are.

    Raises:
        TableError: the file is missing, no text, or of another encoding.

    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise TableError(f"{path}: no such table; {remedy_here(path, remedy)}") from None
    except OSError as error:
        raise_if_machine(error)
        raise TableError(f"{path}: can't be read as a table: {error.strerror}") from None
    for magic, kind in _ARCHIVES.items():
        if content.startswith(magic):
            raise TableError(f"{path}: is {kind}, not a CSV; {_SAVE}")
    try:
        if content.startswith(_UTF16):
            return content.decode("utf-16")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith(_UTF16):
            raise TableError(f"{path}: is damaged: its UTF-16 ends or breaks midway; {_SAVE}") from None
        line = content.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if b"\0" in content[:200] else "perhaps cp1252, as spreadsheets save a plain CSV"
        raise TableError(f"{path}: row {line} is not UTF-8 ({guess}); {_SAVE}") from None
    # plain letters in UTF-16 or UTF-32 are valid UTF-8 too: each beside a NUL
    if text[:200].count("\0") > 0.2 * len(text[:200]):
        raise TableError(f"{path}: is not UTF-8 (perhaps UTF-16 or UTF-32 without its mark); {_SAVE}")
    return text


def split_separator(text: str, path: Path) -> tuple[str, str, int]:
    """Find the character between cells: the one of a first line `sep=;`, else the most frequent in the header.

    Args:
        text: of the table.
        path: of the table, for messages.

    Returns:
        The separator, the text from the header on, and the number of lines before the header.

    Raises:
        TableError: `sep=` names another character than `SEPARATORS`.

    """
    head, *rest = re.split(r"\r\n|\n|\r", text, maxsplit=1)
    named = re.fullmatch(r'"?sep=(.*?)"?', head, re.IGNORECASE)
    if named is None:
        return max(SEPARATORS, key=head.count), text, 0
    separator = named[1]
    if len(separator) != 1 or separator not in SEPARATORS:
        raise TableError(f"{path}: row 1: sep={quoted(separator)} is not among , | ; and tabs")
    return separator, rest[0] if rest else "", 1


def remedy_here(path: Path, remedy: str) -> str:
    """Return the remedy of a missing file or folder, which is another one inside a temporary experiment of DVC.

    Args:
        path: of the file or folder.
        remedy: outside of such an experiment.

    Returns:
        The remedy.

    """
    parts = Path.cwd().parts
    copied = any(parts[i : i + 3] == (".dvc", "tmp", "exps") for i in range(len(parts)))
    if path.is_absolute() or not copied:
        return remedy
    return (
        "dvc exp run --temp and --queue run in a copy of the project, which has only files that git or DVC track; "
        "make this path absolute in params.yaml (data.path), or run the experiment without --temp and --queue"
    )
