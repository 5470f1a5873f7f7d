"""Progress for people at a terminal; silence elsewhere, where the log lines tell enough."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


def bar(things: Iterable | None, label: str, unit: str, total: int | None = None) -> tqdm:
    """Wrap an iterable in a progress bar that shows only on a terminal."""
    return tqdm(things, desc=label, unit=f" {unit}", total=total, disable=None, leave=False)


@contextmanager
def timed(log: logging.Logger, what: str) -> Iterator[None]:
    """Log what is being done, and how long it took."""
    log.info("%s ...", what)
    start = time.perf_counter()
    yield
    log.info("%s: %.1f s", what, time.perf_counter() - start)
