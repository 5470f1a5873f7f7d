"""Locks of stages: a killed `dvc` can leave its stage running, and two processes must not write the same outputs."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from histocae.paths import SCRATCH

log = logging.getLogger(__name__)


@contextmanager
def stage_lock(name: str) -> Iterator[float | None]:
    """Hold the lock of a stage; while another process holds it, log that and wait.

    Yields:
        When the wait began, in seconds since 1970; None where no other process held the lock.

    """
    folder = SCRATCH / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    since = None
    try:
        lock.acquire(timeout=0)
    except Timeout:
        since = time.time()
        log.warning("another process is running this stage; waiting for it")
        lock.acquire()
    try:
        yield since
    finally:
        lock.release()
