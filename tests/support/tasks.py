"""Tasks for workers of Dask; in a light module, since each worker loads it."""

import os
from pathlib import Path

from distributed import get_worker


def deadly(task: tuple[str, int]) -> int:
    """Kill the worker: each time for number 1, the first time for number 2."""
    folder, number = task
    marker = Path(folder) / f"{number}"
    if number == 1 or (number == 2 and not marker.exists()):
        marker.touch()
        os._exit(1)
    return number


def scheduler(_: int) -> str:
    """Return the address of the scheduler of this worker."""
    return get_worker().scheduler.address
