"""Standard output and standard error, which may be closed, full, or unable to show every character."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from io import UnsupportedOperation
from typing import TextIO

NAME = "standard output"


def prepare() -> None:
    """Open what the caller closed, and let no character of a name fail.

    Else the first file that is opened would become standard output or error, and get what is printed there.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - stays open
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error has it


def write(text: str) -> None:
    """Print a text without a further line end.

    Raises:
        OSError: standard output can't be written to; the error names it.

    """
    with _naming():
        sys.stdout.write(text)


def flush() -> None:
    """Write out what was printed.

    Raises:
        OSError: standard output can't be written to; the error names it.

    """
    with _naming():
        sys.stdout.flush()
    _flush_log()


@contextlib.contextmanager
def _naming() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = NAME
        _discard(sys.stdout)
        raise


def is_unread(error: Exception) -> bool:
    """Return whether the reader of standard output has ended (`histocae ... | head`); else name it in its errors."""
    if isinstance(error, OSError) and error.filename is None and not _takes_output():
        error.filename = NAME
        _discard(sys.stdout)
    return isinstance(error, BrokenPipeError) and error.filename == NAME


def _takes_output() -> bool:
    """Find out, without printing anything, whether standard output can be written to."""
    try:
        sys.stdout.flush()
        number = sys.stdout.fileno()
        os.write(number, b"")  # a device that is full refuses even this; a pipe without a reader does not
    except UnsupportedOperation:  # no file, as in a notebook
        return True
    except OSError:
        return False
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(number, 0)  # errors are always reported
    return not any(state & select.POLLERR for _, state in poll.poll(0))


def report(line: str) -> None:
    """Print a line on standard error, if that can be."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)
    _flush_log()


def _flush_log() -> None:
    """Write out standard error; work does not fail because nobody reads its log."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Discard what could not be written: the interpreter would try again at its end, and complain."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())
