"""Work on many slides, distributed by Dask: over a running cluster, jobs of Slurm, or workers of this machine."""

import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, Security, wait

from histocae.errors import DataError, raise_if_machine
from histocae.files import code_fingerprint, write_text
from histocae.params import Executor as ExecutorParams
from histocae.paths import PACKAGE, SCRATCH
from histocae.workers.processes import spared_ctrl_c

if TYPE_CHECKING:
    from dask_jobqueue.slurm import SLURMCluster

    from histocae.progress import Bar

log = logging.getLogger(__name__)
LOGS = SCRATCH / "dask"  # of Slurm's jobs
# of a scheduler's pages, which no setting turns off: by default it is port 8787, for everybody and without keys
HTTP = "127.0.0.1:0"
MAX_SUBMITTED = 256  # tasks that the scheduler has at once
CONNECT_SECONDS = 30
POLL_SECONDS = 10  # between two checks for workers
SUBMIT_POLLS = 6  # after so many checks, sbatch has taken the jobs
SETTINGS = {
    # a worker gets no task in advance: when it dies, few tasks are suspects
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 1,
    "distributed.worker.daemon": False,  # a task may start processes
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
}
_HELD: list[Client] = []


class _OtherEnvironmentError(Exception):
    """A worker runs other code than this process, or does not have its folder."""


def spread(
    function: Callable[[Any], Any], tasks: Sequence[Any], params: ExecutorParams, cores: int, progress: "Bar"
) -> Generator[tuple[int, Any], None, list[int]]:
    """Run a function over tasks on workers of Dask, which have the same files under the same paths.

    Dask moves a task whose worker died to another worker. A task on which several workers died is tried once more,
    alone.

    Args:
        function: defined in a module; its argument and its result are pickled.
        tasks: its arguments.
        params: the section `executor` of params.yaml.
        cores: of this machine.
        progress: bar of the tasks.

    Yields:
        The task's position and its result, in the order in which tasks end.

    Returns:
        Positions of the tasks whose workers died each time.

    Raises:
        DataError: the cluster is unreachable, runs other code, or has no workers left.

    """
    with nullcontext(_HELD[-1]) if _HELD else _client(params, cores) as client:
        try:
            died = yield from _all(client, function, tasks, range(len(tasks)), progress)
            again: list[int] = []
            for position in died:
                again += yield from _all(client, function, tasks, [position], progress)
        except _OtherEnvironmentError as error:
            raise DataError(str(error)) from None
        except CancelledError:
            raise DataError("the Dask scheduler has ended; run this again: finished slides are kept") from None
    return again


def _all(
    client: Client,
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    positions: Sequence[int],
    progress: "Bar",
) -> Generator[tuple[int, Any], None, list[int]]:
    """Yield positions and results; return the positions of tasks whose workers died."""
    died: list[int] = []
    running: dict[Future[Any], int] = {}
    waiting = iter(positions)
    here = os.getcwd()  # noqa: PTH109 (compared as text by workers)
    try:
        while True:
            for position in islice(waiting, MAX_SUBMITTED - len(running)):
                call = (here, code(), function, tasks[position])
                running[client.submit(_run_on_worker, call, pure=False)] = position
            if not running:
                return died
            for future in _ended(client, list(running)):
                position = running.pop(future)
                try:
                    result = future.result()
                except KilledWorker:
                    died.append(position)
                    continue
                progress.update()
                yield position, result
    finally:
        client.cancel(list(running))


def _ended(client: Client, futures: list[Future[Any]]) -> list[Future[Any]]:
    """Wait until some tasks have ended.

    Raises:
        DataError: there is no worker, and no job waits that would start a worker.

    """
    polls, reported = 0, set[str]()
    while True:
        try:
            return list(wait(futures, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            if client.scheduler_info()["n_workers"]:
                continue
        # no cluster: of a running scheduler
        reasons = [""] if isinstance(client.cluster, LocalCluster | None) else _queued(client.cluster, polls)
        if not reasons:
            raise DataError(f"all jobs of Slurm have ended before the work was done: see {LOGS}; then run this again")
        reason = ", ".join(filter(None, reasons))
        if reason not in reported:
            log.info("waiting for workers%s", f" (Slurm's reason: {reason})" if reason else "")
        reported.add(reason)
        polls += 1


def _queued(cluster: "SLURMCluster", polls: int) -> list[str]:
    """Return why jobs of the cluster wait, each reason once and empty where unknown; an empty list if all have ended.

    Slurm takes jobs that can never start, such as those that ask for more time than their partition gives.
    """
    ids = [job.job_id for job in cluster.workers.values() if getattr(job, "job_id", None)]
    if not ids:
        return [""] if polls < SUBMIT_POLLS else []
    command = ["squeue", "--noheader", "--format", "%r", "--jobs", ",".join(ids)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [] if "Invalid job id" in done.stderr else [""]
    return sorted({"" if line.strip() == "None" else line.strip() for line in done.stdout.splitlines()})


def _refused(script: str) -> str | None:
    """Return why Slurm would refuse a job; None where it would take the job."""
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        return "no programs sbatch and squeue on this machine"
    tried = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False)
    return " ".join(tried.stderr.split()) if tried.returncode else None


def _run_on_worker(call: tuple[str, str, Callable[[Any], Any], Any]) -> Any:
    """Run a task on a worker, in the project's folder."""
    folder, expected, function, task = call
    if code() != expected:
        raise _OtherEnvironmentError(
            f"the Dask worker on {os.uname().nodename} runs other code ({PACKAGE}) than this process; start workers "
            "in this environment, again after each change"
        )
    try:
        os.chdir(folder)
    except OSError as error:
        raise_if_machine(error)
        raise _OtherEnvironmentError(
            f"the Dask worker on {os.uname().nodename} has no folder {folder}; work in a folder that all workers have"
        ) from None
    return function(task)


@cache
def code() -> str:
    """Return a hash of this package's code."""
    return code_fingerprint(*(file.relative_to(PACKAGE).with_suffix("").as_posix() for file in PACKAGE.rglob("*.py")))


@contextmanager
def held(params: ExecutorParams, cores: int) -> Iterator[None]:
    """Keep one cluster for all `spread` in this block; its workers keep the modules that they have loaded.

    Args:
        params: the section `executor` of params.yaml.
        cores: of this machine.

    Yields:
        Nothing.

    """
    with _client(params, cores) as client:
        _HELD.append(client)
        try:
            yield
        finally:
            _HELD.pop()


@contextmanager
def _client(params: ExecutorParams, cores: int) -> Iterator[Client]:
    for name in ("asyncio", *(f"distributed{part}" for part in ("", ".client", ".worker", ".nanny", ".scheduler"))):
        # the death of a worker or of the scheduler is reported by `spread`
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(SETTINGS):
        if params.scheduler is not None:
            try:
                client = Client(params.scheduler, timeout=CONNECT_SECONDS)
            except (OSError, ValueError) as error:
                problem = str(error).splitlines()[0]
                raise DataError(
                    f"executor.scheduler: {params.scheduler} is unreachable: {problem}; start it, or correct the "
                    "address"
                ) from None
            with client:
                yield client
            return
        folder = None  # of the system, for workers of this machine
        if params.slurm is not None:
            LOGS.mkdir(parents=True, exist_ok=True)
            folder = Path.cwd() / LOGS
        with _keys(folder) as keys, _start(params, cores, keys) as cluster, Client(cluster) as client:
            yield client


@contextmanager
def _keys(folder: Path | None) -> Iterator[Security]:
    """Make TLS keys for one cluster, in files for its jobs: without keys anybody could run code on the cluster."""
    made = {key: text for key, text in Security.temporary().get_tls_config_for_role("worker").items() if text}
    with tempfile.TemporaryDirectory(prefix="histocae-keys-", dir=folder) as keys:
        files = {key: str(Path(keys) / key) for key in made}
        for key, text in made.items():
            write_text(text, Path(files[key]))
        roles = {
            f"tls_{role}_{key}": files[key] for role in ("client", "scheduler", "worker") for key in ("cert", "key")
        }
        yield Security(require_encryption=True, tls_ca_file=files["ca_file"], **roles)


def _start(params: ExecutorParams, cores: int, keys: Security) -> "LocalCluster | SLURMCluster":
    """Start a cluster. A signal that comes meanwhile waits: nothing closes a cluster that is half started."""
    kind = LocalCluster if params.slurm is None else _slurm_class()
    with ThreadPoolExecutor(1) as thread:
        with spared_ctrl_c():
            starting: ThreadFuture[LocalCluster | SLURMCluster] = thread.submit(_cluster, kind, params, cores, keys)
        try:
            return starting.result()
        except KeyboardInterrupt:
            if starting.exception() is None:
                starting.result().close()
            raise
        except RuntimeError as error:
            problem = error.__cause__ or error
            raise DataError(f"executor: Dask's workers did not start: {problem}; run this again") from None


def _slurm_class() -> "type[SLURMCluster]":
    """Import the class. Its package would let Ctrl-C end this process as if the work were done: with exit code 0."""
    former = signal.getsignal(signal.SIGINT)
    from dask_jobqueue.slurm import SLURMCluster

    signal.signal(signal.SIGINT, former)
    return SLURMCluster


def _cluster(kind: Any, params: ExecutorParams, cores: int, keys: Security) -> Any:
    if params.slurm is None:
        return kind(
            n_workers=params.workers or cores,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": HTTP},
            silence_logs=logging.CRITICAL,
            security=keys,
            protocol="tls://",
        )
    slurm, folder = params.slurm, Path.cwd()
    cluster = kind(
        queue=slurm.partition,
        account=slurm.account,
        cores=slurm.cores,
        processes=1,
        memory=f"{slurm.memory}iB",
        walltime=slurm.time,
        job_extra_directives=slurm.options,
        log_directory=str(folder / LOGS),
        job_script_prologue=[
            *slurm.setup.splitlines(),
            f'cd "{folder}"',
            f'export PYTHONPATH="{PACKAGE.parent}:$PYTHONPATH"',
            # for Slurm that does not confine a job to its cores: a model would take all cores of the machine
            f"export OMP_NUM_THREADS={slurm.cores} TF_NUM_INTRAOP_THREADS={slurm.cores}",
        ],
        # one task at a time: it uses all cores of the job by its own threads
        worker_extra_args=["--nthreads", "1", "--no-dashboard"],
        scheduler_options={"dashboard": False, "dashboard_address": HTTP},
        local_directory=slurm.scratch,
        job_name="histocae",
        security=keys,
    )
    # dask_jobqueue would only log a refusal
    problem = _refused(cluster.job_script())
    if problem is not None:
        cluster.close()
        raise DataError(f"executor.slurm: {problem}")
    cluster.scale(jobs=params.workers or 1)
    return cluster
