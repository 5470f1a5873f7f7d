"""Locks of stages: a killed `dvc` can leave its stage running, and two processes must not write the same outputs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from histocae.paths import SCRATCH

log = logging.getLogger(__name__)


@contextmanager
def stage_lock(name: str) -> Iterator[None]:
    """Hold the lock of a stage; while another process holds it, log that and wait."""
    folder = SCRATCH / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is running this stage; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
