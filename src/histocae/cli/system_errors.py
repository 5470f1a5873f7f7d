"""Errors of the operating system in words: a full disk, missing permission, too little memory."""

import errno
import os
import re
from pathlib import Path

from histocae.errors import system_errno

_SPACE = "make space there, then run this again"
_MODE = "change its owner or mode (chown, chmod), or work elsewhere"
_OPEN_FILES = "raise the limit (ulimit -n), then run this again"
_DRIVE = "check the network drive, then run this again"
_OTHER_NAME = "move or rename it"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit (ulimit -f), or use a file system that takes larger files",
    errno.EROFS: "work in a folder that can be written to",
    errno.EACCES: _MODE,
    errno.EPERM: _MODE,
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
    errno.EIO: "check the disk or the network drive, then run this again",
    errno.ESTALE: _DRIVE,
    errno.ENOTCONN: _DRIVE,
    errno.ETIMEDOUT: _DRIVE,
    errno.EHOSTDOWN: _DRIVE,
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or lower executor.workers (histocae score: --workers)",
    errno.EBUSY: "close what uses it, then run this again",
    errno.ENAMETOOLONG: "work in a folder with a shorter path, or shorten the name",
    errno.ELOOP: _OTHER_NAME,
    errno.ENOTDIR: _OTHER_NAME,
    errno.EISDIR: _OTHER_NAME,
    errno.EEXIST: _OTHER_NAME,
}
_OUTPUTS = {("data",), ("models",), ("reports",)}
_MEMORY = (
    "close other programs, use a machine with more memory, or lower executor.workers (histocae score: --workers) or "
    "training.batch_size"
)
_NAME_IN_TEXT = re.compile(r"filename = '([^']+)'")  # h5py
# of native libraries: TensorFlow, jax; Python says it of threads
_NO_MEMORY = ("ResourceExhaustedError", "RESOURCE_EXHAUSTED")
_NO_THREAD = "can't start new thread"


def explain(error: Exception) -> str | None:
    """Say in one line what the operating system refused, where, and the remedy.

    Args:
        error: any.

    Returns:
        The line; None where the error is a bug of this package or of a library.

    """
    number = system_errno(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return f"out of memory{_details(error)}; {_MEMORY}"
    if number in _REMEDIES:
        name = _name(error)
        return f"{name + ': ' if name else ''}{os.strerror(number)}; {_REMEDIES[number]}"
    if number == errno.ENOENT and (name := _name(error)) and Path(name).parts[:1] in _OUTPUTS:
        return f"{name}: not there yet; run the stages before this one: dvc repro"
    text = str(error)
    if type(error).__name__ in _NO_MEMORY or any(name in text for name in _NO_MEMORY):
        return f"out of memory{_details(error)}; {_MEMORY}"
    if isinstance(error, RuntimeError) and text == _NO_THREAD:
        return f"{text}; {_REMEDIES[errno.EAGAIN]}"
    if isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":
        part = error.object[error.start : error.end]
        return f"{part!a} in {error.object!a} can't be written as {error.encoding}; set LC_ALL=C.UTF-8"
    return None


def _name(error: Exception) -> str | None:
    """Find the file that an error is about."""
    if isinstance(error, OSError) and error.filename is not None:
        return " and ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
    found = _NAME_IN_TEXT.search(str(error))
    return found.group(1) if found else None


def _details(error: Exception) -> str:
    """Return the first line of a message, where it says something, and the notes on the error."""
    lines = [] if isinstance(error, OSError) else str(error).splitlines()[:1]
    return "".join(f": {line}" for line in [*lines, *getattr(error, "__notes__", ())])
