"""Names under which files and folders are written before they are renamed, and what killed processes left there."""

import glob
import os
import shutil
from contextlib import suppress
from pathlib import Path

FORMER = ".former.part"  # end of the name of a folder that is being replaced


def recover(path: Path) -> None:
    """Delete what killed processes left beside a file or folder, and move back a folder that they were replacing.

    Args:
        path: of the file or folder.

    """
    # also what a database writes beside itself: name.part-journal
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part*"):
        owner = left.name.removeprefix(f".{path.name}.").split(".")[0]
        if owner != str(os.getpid()) and owner.isdecimal() and _runs(int(owner)):
            continue
        with suppress(FileNotFoundError):  # another process cleans up too
            if left.name.endswith(FORMER) and not path.exists():
                os.replace(left, path)
            elif left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def aside_of(path: Path) -> Path:
    """Return a path beside `path` to write to, after `recover`."""
    recover(path)
    return path.parent / f".{path.name}.{os.getpid()}.part"


def _runs(process: int) -> bool:
    try:
        import psutil
    except ImportError:  # a machine that only trains may have no more than keras
        return True
    return psutil.pid_exists(process)
