"""Two processes never write the same outputs: a killed `dvc` can leave its stage running."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from histocae.paths import SCRATCH

log = logging.getLogger(__name__)


@contextmanager
def stage_lock(name: str) -> Iterator[None]:
    """Hold the lock of a stage; wait, and say so, while another process holds it."""
    folder = SCRATCH / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is running this stage here; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
