"""Names under which files and folders are written before they are renamed, and what killed processes left there."""

import glob
import hashlib
import os
import platform
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

FORMER = ".former.part"  # end of the name of a folder that is being replaced
_OF_A_FOLDER = re.compile(r"[0-9a-f]{8}\.\d+" + re.escape(FORMER))
# of this machine, in names on a file system that several share; short, and without dots
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
ABANDONED = 7 * 86_400  # seconds after which what another machine left is deleted: whether it still writes is unknown


def recover(path: Path) -> None:
    """Delete what killed processes left beside a file or folder, and move back a folder that they were replacing.

    Args:
        path: of the file or folder.

    """
    # also what a database writes beside itself: name.part-journal
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part*"):
        with suppress(FileNotFoundError):  # another process cleans up too
            owner = left.name.removeprefix(f".{path.name}.")
            if _is_written(left, owner):
                continue
            if _OF_A_FOLDER.fullmatch(owner) and not path.exists():
                os.replace(left, path)
            elif left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def aside_of(path: Path) -> Path:
    """Return a path beside `path` to write to, after `recover`."""
    recover(path)
    return path.parent / f".{path.name}.{HOST}.{os.getpid()}.part"


def _is_written(left: Path, owner: str) -> bool:
    """Return whether the process may still run that wrote a file or folder, by the end of its name."""
    host, process, *_ = owner.split(".")
    if host == HOST and process.isdecimal():
        return int(process) != os.getpid() and _runs(int(process))
    return time.time() - left.stat().st_mtime < ABANDONED


def _runs(process: int) -> bool:
    try:
        import psutil
    except ImportError:  # a machine that only trains may have no more than keras
        return True
    return psutil.pid_exists(process)
