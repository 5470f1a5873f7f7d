"""Work on many slides, distributed over processes of this machine or over Dask."""

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
from multiprocessing import resource_tracker
from multiprocessing.connection import wait as wait_for
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from histocae.params import Executor as ExecutorParams
from histocae.progress import bar

if TYPE_CHECKING:
    from histocae.progress import Bar

DIED = "the process that read it died: memory ran out, or a decoder crashed or hung"


class WorkerDiedError(Exception):
    """A worker process died on this task (memory ran out, or a decoder crashed or hung)."""


def spread(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    params: ExecutorParams,
    label: str,
    unit: str,
    fetching: int | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Run a function over tasks in worker processes of this machine, or of Dask (see `dask_cluster.spread`).

    There are `executor.workers` processes, else one per core. With `fetching` there are at least that many, since
    they mostly wait for the network, and at most twice that many, since fetched slides fill the disk.

    A task whose worker dies is tried once more, alone. If that worker dies too, its result is a `WorkerDiedError`;
    the remaining tasks are not affected.

    Args:
        function: defined in a module; its argument and its result are pickled.
        tasks: its arguments.
        params: the section `executor` of params.yaml.
        label: of the progress bar.
        unit: of the progress bar: what the tasks are, in the plural.
        fetching: number of downloads that run at once, where each task first fetches a slide.

    Yields:
        The task's position and its result, in the order in which tasks end.

    """
    with bar(None, label, unit, len(tasks)) as progress:
        if params.kind == "dask" and tasks:
            from histocae.workers import dask_cluster  # Dask takes a second to load

            lost = yield from dask_cluster.spread(function, tasks, params, count_cores(), progress)
            for position in lost:
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
    """Keep the workers of a Dask cluster for all `spread` in this block; processes of this machine are not kept."""
    if params.kind == "processes":
        yield
        return
    from histocae.workers import dask_cluster

    with dask_cluster.held(params, count_cores()):
        yield


def threads_each(tasks: int, params: ExecutorParams, fetching: int | None = None) -> int:
    """Return how many threads each task may start, so that few tasks use all cores too.

    Args:
        tasks: number of tasks.
        params: the section `executor` of params.yaml.
        fetching: as `spread` takes it.

    Returns:
        Threads per task.

    """
    if params.kind == "dask" and params.slurm is not None:
        return params.slurm.cores
    if params.kind == "dask" and params.scheduler is not None:
        return 1
    return max(1, count_cores() // max(1, min(tasks, _workers(params, fetching))))


def _workers(params: ExecutorParams, fetching: int | None) -> int:
    bounds = (1, math.inf) if fetching is None else (fetching, 2 * fetching)
    return params.workers or int(min(max(count_cores(), bounds[0]), bounds[1]))


def _until_death(
    function: Callable[[Any], Any], tasks: Sequence[Any], todo: list[int], workers: int, progress: "Bar"
) -> Generator[tuple[int, Any], None, tuple[set[int], set[int]]]:
    """Yield results until all tasks have ended or a worker dies.

    Returns:
        The positions of tasks that ended, and of those that were running when a worker died.

    """
    workers = min(workers, len(todo))
    ended: set[int] = set()
    waiting = iter(todo)
    with _pool(workers) as pool:
        running: dict[Future[Any], int] = {}
        try:
            while True:
                # no more tasks than workers: when a worker dies, few tasks are suspects
                for position in islice(waiting, workers - len(running)):
                    with spared_ctrl_c(), _signals_wait():  # submit starts processes
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
            # at once: a worker writes aside, and the next run deletes or continues a half-written file
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def spared_ctrl_c() -> Iterator[None]:
    """Let processes and threads that start in this block leave Ctrl-C to this one, from their first moment on."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # else the first process starts it, which lets the signal through again
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))  # they inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let signals wait: a process that is half started can't be ended, and would print a traceback of its own."""
    came: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    former = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None))}
        former = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in former:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def count_cores() -> int:
    """Return the number of cores that this process may use; a cluster's job has fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """Prepare a worker process: it ends with its parent, however that ends, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the default lock is a semaphore of the system, which a killed worker would leave behind
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _pool(workers: int) -> Executor:
    # a fresh interpreter each: forking a process that runs threads can hang
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
