"""The files that a slide consists of, for formats that OpenSlide reads from several. Nothing heavy is imported here.

| format | files |
|---|---|
| MIRAX | `a.mrxs`, and the folder `a` |
| Hamamatsu VMS, VMU | `a.vms`, and the files beside it, or in folders there, that it names |
| DICOM | the files of its folder that have the same SeriesInstanceUID |
"""

import logging
import os
import struct
import warnings
from functools import lru_cache
from pathlib import Path, PureWindowsPath

from histocae.errors import raise_if_machine

MIRAX_LIST = "Slidedat.ini"  # in the folder of a MIRAX slide
MOST_TEXT = 2**20  # bytes of a VMS or VMU file that are read; they have a few lines
DICOM_START, DICOM_MARK = 128, b"DICM"  # where the mark of a DICOM file begins
SERIES = 0x0020000E  # tag of the SeriesInstanceUID; elements are in the order of their tags
# of pydicom about files that are damaged
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    struct.error,
)


def parts_of(path: Path) -> list[Path]:
    """List the files of a slide: the file itself, then others that OpenSlide reads with it, sorted."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        beside = path.with_suffix("")
        return [path, *sorted(file for file in beside.rglob("*") if file.is_file())]
    if suffix in (".vms", ".vmu"):
        return [path, *_named_in(path)]
    # DICOM files are often named by numbers and dots, without a suffix
    if suffix in ("", ".dcm", ".dicom") or suffix[1:].isdecimal():
        return [path, *_same_series(path)]
    return [path]


def backslashes(path: Path) -> str | None:
    """Explain why OpenSlide finds no parts of a slide: it takes a backslash for a letter of their names.

    Args:
        path: of a slide that OpenSlide can't open.

    Returns:
        The problem and its remedy; None where no name of a part that is there has a backslash.

    """
    suffix = path.suffix.lower()
    listing = path.with_suffix("") / MIRAX_LIST if suffix == ".mrxs" else path
    if suffix not in (".mrxs", ".vms", ".vmu") or os.name == "nt":
        return None
    for name in sorted(_values(listing)):
        if "\\" in name and not _is_file(listing.parent / name) and _is_file(_beside(listing, name)):
            return f"{listing.name} names {name!r} with a backslash; write {_plain(name)!r} there"
    return None


def _named_in(path: Path) -> list[Path]:
    """List the files that the lines `key=name` of a file name, in its own folder or below it."""
    names = _values(path) - {"", path.name}
    # a value may be any text, also one that is no file's name
    here = {file for file in path.parent.iterdir() if file.name in names and file.is_file()} if names else set()
    below = {_beside(path, name) for name in names if "/" in name or "\\" in name}
    return sorted(here | {file for file in below if _is_file(file) and file != path})


def _values(path: Path) -> set[str]:
    """Read the values of the lines `key=value` of a file; none where it can't be read."""
    try:
        with open(path, "rb") as handle:
            text = handle.read(MOST_TEXT).decode("utf-8", "replace")
    except OSError as error:
        raise_if_machine(error)
        return set()
    return {line.partition("=")[2].strip() for line in text.splitlines()}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name that is too long
        raise_if_machine(error)
        return False


def _plain(name: str) -> str:
    return PureWindowsPath(name).as_posix().lstrip("/")


def _beside(path: Path, name: str) -> Path:
    """Return the file that a name in a file means; a backslash is a slash, and all names are relative."""
    return path.parent / _plain(name)


def _same_series(path: Path) -> list[Path]:
    """List the other files of a DICOM file's series."""
    try:
        series = _series(path, *_state(path))
        if series is None:
            return []
        files = [file for file in path.parent.iterdir() if file.name != path.name and file.is_file()]
        # where the series is unknown, any of them may belong to it
        others = {file: _series(file, *_state(file)) for file in files}
        return sorted(file for file, other in others.items() if other in (series, "") or (other and not series))
    except OSError as error:
        raise_if_machine(error)
        return []


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=100_000)
def _series(path: Path, *_state: int) -> str | None:
    """Read the SeriesInstanceUID of a DICOM file; empty where it can't be found, None for other files."""
    try:
        with open(path, "rb") as handle:
            handle.seek(DICOM_START)
            if handle.read(len(DICOM_MARK)) != DICOM_MARK:
                return None
            handle.seek(0)
            from pydicom.filereader import read_partial  # takes a while to load, and most slides are not DICOM

            logging.getLogger("pydicom").setLevel(logging.ERROR)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about values that do no harm here, as its log lines are
                found = read_partial(handle, stop_when=lambda tag, vr, length: tag > SERIES, specific_tags=[SERIES])
                return str(found.get(SERIES).value)
    except _DAMAGED as error:
        raise_if_machine(error)
        return ""
