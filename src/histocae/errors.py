"""The errors that a user can remedy. Each is one line: the problem, where it is, the remedy.

The command line prints them without a traceback and exits with 1. It does the same with errors of the operating
system, such as a full disk. Any other exception is a bug and keeps its traceback.
"""

import errno
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# A full disk, too few file handles, a network drive that fails: no fault of the file that is read, nor of its slide.
MACHINE = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
    )
)
ROOM = 2**30  # bytes of memory that a tile, decoded and converted, may need
_ON_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOMEM),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN),
)
# libraries in C report these by the system's text, or by `errno = 28`, in an exception of another type
_IN_TEXT = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN),
)
_PARTLY_WRITTEN = re.compile(r"\d+ requested and \d+ written")  # numpy


def system_errno(error: BaseException) -> int | None:
    """Return the number of the operating system's error that an exception reports; None if it reports none.

    >>> import errno
    >>> errno.errorcode[system_errno(RuntimeError("write failed: errno = 28, error message = 'No space left'"))]
    'ENOSPC'
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if isinstance(error, OSError) and _PARTLY_WRITTEN.search(text):
        return errno.ENOSPC
    texts = (number for number in _IN_TEXT if f"errno = {number}," in text or os.strerror(number) in text)
    return next(texts, None)


def blames_machine(error: BaseException) -> bool:
    """Return whether an error met with a file is the machine's: another file would fare no better."""
    if isinstance(error, MemoryError):  # a damaged header may ask for any amount
        return not _has_room()
    return system_errno(error) in MACHINE


def _has_room() -> bool:
    """Return whether there is memory for a slide or tile within bounds."""
    try:
        with mmap.mmap(-1, ROOM):  # takes no memory before it is written to
            return True
    except OSError:
        return False


def raise_if_machine(error: BaseException) -> None:
    """Raise an error met with a file again where it is the machine's, so that the file is not blamed.

    Args:
        error: that was caught.

    Raises:
        OSError: no file can be read now.
        MemoryError: there is too little memory.

    """
    if blames_machine(error):
        raise error


def check_opens(path: Path, error: BaseException) -> None:
    """Check, after a library failed to read a file, that the failure is the file's.

    OpenSlide calls a slide unsupported where this process has too many open files.

    Args:
        path: of the file.
        error: of the library.

    Raises:
        OSError: no file can be read now.

    """
    if blames_machine(error):
        number = system_errno(error)
        raise OSError(number, os.strerror(number or errno.EIO), str(path)) from error
    try:
        with open(path, "rb"):
            pass
    except OSError as failure:
        raise_if_machine(failure)


@contextmanager
def naming(path: Path, aside: Path) -> Iterator[None]:
    """Let the system's errors name a file: writing to an open file names none.

    Args:
        path: to be named.
        aside: where the file is written first, which says nothing to a user.

    Yields:
        Nothing.

    Raises:
        OSError: of the block, with the name.

    """
    try:
        yield
    except OSError as error:
        number = system_errno(error)
        if error.errno is None and number is not None:  # numpy
            raise OSError(number, os.strerror(number), str(path)) from error
        if error.filename is None and number in _ON_DISK:
            error.filename = str(path)
        elif isinstance(error.filename, str | Path):
            error.filename = str(error.filename).replace(str(aside), str(path))
        raise


def shortened(reasons: Sequence[str], most: int = 3) -> str:
    """Join the first reasons and count the rest.

    Args:
        reasons: any number of them.
        most: of them that are spelled out.

    Returns:
        The first reasons, and where there are more, their number.

    """
    rest = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + rest


def counted(slides: int) -> str:
    """Word a number of slides.

    Args:
        slides: their number.

    Returns:
        `1 slide`, `2 slides`.

    """
    return f"{slides} slide{'' if slides == 1 else 's'}"


def one_line(text: object, most: int = 300) -> str:
    """Make one line of a library's error or of another text, cut where it is long.

    Args:
        text: anything with a text.
        most: of its characters that are kept.

    Returns:
        The text without line ends.

    """
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[:most]} ..."


def printable(text: str) -> str:
    r"""Escape what a terminal or a table can't show: control characters and halves of characters.

    Args:
        text: of a user's file.

    Returns:
        One line that UTF-8 can hold.

    Example:
        >>> print(printable("a\nb \ud800"))
        a\nb \ud800

    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unreadable(name: str) -> str | None:
    """Give the name of a file in a form that can be shown, if the name is not UTF-8.

    Args:
        name: of a file, as Python reads it.

    Returns:
        The name, escaped; None for a name that is UTF-8.

    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return printable(name)
    return None


class HistocaeError(Exception):
    """Base of all errors that are reported in one line."""


class ParamsError(HistocaeError):
    """params.yaml has an unknown, missing or ill-typed key."""


class TableError(HistocaeError):
    """The user's table of slides or tiles breaks a rule."""


class SlideError(HistocaeError):
    """A slide or tile can't be used; its slide is set aside with this reason."""


class DataError(HistocaeError):
    """The data as a whole do not allow the command."""


class YamlError(DataError):
    """A file does not hold YAML."""


class FetchError(HistocaeError):
    """Something could not be fetched from a server; the next run tries again."""


class StuckError(FetchError):
    """Fetching failed for a reason that likely holds for all files: the network, the server or the disk."""


class StoreError(HistocaeError):
    """A patch store is missing, of another version, or not what its index says."""


class TrainingError(HistocaeError):
    """A training can't start or continue."""


class TrackingError(HistocaeError):
    """The tracking server is unreachable or refused a request."""


class RemoteError(HistocaeError):
    """Another machine is unreachable, or a command or job on it failed."""
