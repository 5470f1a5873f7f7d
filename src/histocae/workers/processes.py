"""How work on many slides is spread: processes of this machine, or Dask."""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait as wait_for
from typing import Any

from tqdm import tqdm

from histocae.params import Executor as ExecutorParams
from histocae.progress import bar

DIED = "the process that read it died"


class WorkerDiedError(Exception):
    """A worker process died on this task (memory ran out, or a decoder crashed)."""


def spread(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    params: ExecutorParams,
    label: str,
    unit: str,
    fetching: int | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Run a function over tasks in worker processes: of this machine, or of Dask (see `cluster.spread`).

    Here there are as many as `executor.workers` says, else one per core. Where each first fetches something,
    `fetching` of them at once, there are no fewer than that, since they wait for the network most of the time, and
    no more than twice that, since what they fetch fills the disk.

    A task whose worker dies is tried once more by itself; where that worker dies too,
    its result is a `WorkerDiedError`, and the other tasks go on.

    Yields:
        The task's position and its result, in the order in which they end.

    """
    with bar(None, label, unit, len(tasks)) as progress:
        if params.kind == "dask" and tasks:
            from histocae.workers import dask_cluster  # Dask takes a second to load

            for position in (yield from dask_cluster.spread(function, tasks, params, _cores(), progress)):
                progress.update()
                yield position, WorkerDiedError(DIED)
            return
        todo = list(range(len(tasks)))
        workers = _workers(params, fetching)
        while todo:
            ended, suspects = yield from _until_death(function, tasks, todo, workers, progress)
            for position in sorted(suspects):
                alone, died = yield from _until_death(function, tasks, [position], workers, progress)
                if died:
                    progress.update()
                    yield position, WorkerDiedError(DIED)
                ended |= alone | died
            todo = [position for position in todo if position not in ended]


@contextmanager
def held(params: ExecutorParams) -> Iterator[None]:
    """Keep the workers of a cluster for all that is spread meanwhile; processes of this machine come and go."""
    if params.kind == "processes":
        yield
        return
    from histocae.workers import dask_cluster

    with dask_cluster.held(params, _cores()):
        yield


def threads_each(tasks: int, params: ExecutorParams, fetching: int | None = None) -> int:
    """How many threads of its own each task may run, so that few tasks use all cores as well; see `spread`."""
    if params.kind == "dask":
        return params.slurm.cores if params.slurm is not None else 1
    return max(1, _cores() // max(1, min(tasks, _workers(params, fetching))))


def _workers(params: ExecutorParams, fetching: int | None) -> int:
    bounds = (1, math.inf) if fetching is None else (fetching, 2 * fetching)
    return params.workers or int(min(max(_cores(), bounds[0]), bounds[1]))


def _until_death(
    function: Callable, tasks: Sequence[Any], todo: list[int], workers: int, progress: tqdm
) -> Generator[tuple[int, Any], None, tuple[set[int], set[int]]]:
    """Yield results until all are done or a worker dies.

    Returns:
        The tasks that ended, and those that were under way when a worker died.

    """
    workers = min(workers, len(todo))
    ended: set[int] = set()
    waiting = iter(todo)
    with _pool(workers) as pool:
        running: dict[Future, int] = {}
        try:
            while True:
                # no more under way than there are workers: so few are suspects when one dies
                for position in islice(waiting, workers - len(running)):
                    running[pool.submit(function, tasks[position])] = position
                if not running:
                    return ended, set()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    position = running.pop(future)
                    ended.add(position)
                    progress.update()
                    yield position, result
        except BrokenProcessPool:
            return ended, set(running.values())
        except (KeyboardInterrupt, GeneratorExit):
            # at once: what a worker leaves half done it leaves aside, for the next run to clear away or to go on with
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Count the cores this process may use: a cluster's job has fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """Prepare a worker: it ends with its parent, however that ended, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # its default is a semaphore of the system, which a worker that is killed would leave behind
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    wait_for([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _pool(workers: int) -> Executor:
    # a fresh interpreter each: forking a process that runs threads can hang
    # and Ctrl-C is the main process' to answer, in one line
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
