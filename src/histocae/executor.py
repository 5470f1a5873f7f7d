"""How work on many slides is spread: processes of this machine, behind concurrent.futures."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from histocae.params import Executor as ExecutorParams
from histocae.progress import bar


class WorkerDiedError(Exception):
    """A worker process died on this task (memory ran out, or a decoder crashed)."""


def spread(
    function: Callable[[Any], Any], tasks: Sequence[Any], params: ExecutorParams, label: str, unit: str
) -> Iterator[tuple[int, Any]]:
    """Run a function over tasks in worker processes.

    A task whose worker dies is tried once more by itself; where that worker dies too,
    its result is a `WorkerDiedError`, and the other tasks go on.

    Yields:
        The task's position and its result, in the order in which they end.

    """
    if not tasks:
        return
    workers = min(params.workers or os.cpu_count() or 1, len(tasks))
    with bar(None, label, unit, len(tasks)) as progress:
        left = set(range(len(tasks)))
        for position, result in _finished(function, tasks, left, workers):
            left.discard(position)
            progress.update()
            yield position, result
        for position in sorted(left):
            alone = list(_finished(function, tasks, {position}, 1))
            progress.update()
            yield alone[0] if alone else (position, WorkerDiedError("the process that read it died"))


def _finished(
    function: Callable, tasks: Sequence[Any], which: set[int], workers: int
) -> Iterator[tuple[int, Any]]:
    """Yield what ends before the pool breaks, if it breaks."""
    with _pool(workers) as pool:
        futures = {pool.submit(function, tasks[i]): i for i in sorted(which)}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    continue
        finally:
            for future in futures:
                future.cancel()


def _pool(workers: int) -> Executor:
    # a fresh interpreter each: forking a process that runs threads can hang
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
