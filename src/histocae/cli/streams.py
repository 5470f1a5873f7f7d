"""Standard output and standard error, which may be closed, full, or unable to show every character."""

import contextlib
import os
import sys
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


def flush() -> None:
    """Write out what was printed.

    Raises:
        OSError: standard output can't be written to; the error names it.

    """
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = NAME
        _discard(sys.stdout)
        raise
    _flush_log()


def is_unread(error: Exception) -> bool:
    """Return whether the reader of standard output has ended (`histocae ... | head`); else name it in its errors."""
    if isinstance(error, OSError) and error.filename is None:
        try:
            print(flush=True)  # Python forgets what it could not write, and a second flush alone would succeed
        except OSError:
            error.filename = NAME
            _discard(sys.stdout)
    return isinstance(error, BrokenPipeError) and error.filename == NAME


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
