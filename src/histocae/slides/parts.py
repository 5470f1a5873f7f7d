"""The files that a slide consists of, for formats that OpenSlide reads from several. Nothing heavy is imported here.

| format | files |
|---|---|
| MIRAX | `a.mrxs`, and the folder `a` |
| Hamamatsu VMS, VMU | `a.vms`, and the files beside it that it names |
| DICOM | the files of its folder that have the same SeriesInstanceUID |
"""

from functools import lru_cache
from pathlib import Path
from struct import Struct, error

MOST_TEXT = 2**20  # bytes of a VMS or VMU file that are read; they have a few lines
# a DICOM file begins with 128 bytes of any content and this mark; then its elements are in the order of their tags
DICOM_START = 128
DICOM_MARK = b"DICM"
SERIES = (0x0020, 0x000E)  # tag of the SeriesInstanceUID
MOST_DICOM = 2**20  # bytes in which that tag is looked for
# value representations whose length has four bytes, after two that are reserved
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
ELEMENT = Struct("<HH2sH")  # group, number, value representation, length
LENGTH = Struct("<I")
# items of a sequence have no value representation: group and number, length
ITEM_HEAD = Struct("<II")
ITEM, ITEM_END, SEQUENCE_END = 0xE000FFFE, 0xE00DFFFE, 0xE0DDFFFE
UNDEFINED = 0xFFFFFFFF  # a length: up to the mark of the end


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


def _named_in(path: Path) -> list[Path]:
    """List the files that the lines `key=name` of a file name in its own folder."""
    try:
        with open(path, "rb") as handle:
            text = handle.read(MOST_TEXT).decode("utf-8", "replace")
    except OSError:
        return []
    names = {line.partition("=")[2].strip() for line in text.splitlines()} - {"", path.name}
    # a value may be any text, also one that is no file's name
    return sorted(file for file in path.parent.iterdir() if file.name in names and file.is_file())


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
    except OSError:
        return []


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=100_000)
def _series(path: Path, *_state: int) -> str | None:
    """Read the SeriesInstanceUID of a DICOM file; empty where it can't be found, None for other files."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(DICOM_START + len(DICOM_MARK))
            if head[DICOM_START:] != DICOM_MARK:
                return None
            data = handle.read(MOST_DICOM)
    except OSError:  # OpenSlide does not read it either
        return None
    tag, position = (0, 0), 0
    try:
        while tag < SERIES:
            tag, start, end = _element(data, position)
            position = end
        return data[start:end].rstrip(b"\0 ").decode("ascii") if tag == SERIES else ""
    # not with explicit value representations, or too long, or damaged
    except (ValueError, error, RecursionError):
        return ""


def _element(data: bytes, position: int) -> tuple[tuple[int, int], int, int]:
    """Return the tag of an element, and where its value begins and ends."""
    group, number, kind, length = ELEMENT.unpack_from(data, position)
    start = position + ELEMENT.size
    if not kind.isalpha():
        raise ValueError(kind)
    if kind in LONG:
        (length,) = LENGTH.unpack_from(data, start)
        start += LENGTH.size
    return (group, number), start, start + length if length != UNDEFINED else _end_of_items(data, start)


def _end_of_items(data: bytes, position: int) -> int:
    """Return where a sequence of undefined length ends."""
    while True:
        mark, length = ITEM_HEAD.unpack_from(data, position)
        position += ITEM_HEAD.size
        if mark == SEQUENCE_END:
            return position
        if mark != ITEM:
            raise ValueError(mark)
        if length != UNDEFINED:
            position += length
            continue
        while ITEM_HEAD.unpack_from(data, position)[0] != ITEM_END:
            _, _, position = _element(data, position)
        position += ITEM_HEAD.size
