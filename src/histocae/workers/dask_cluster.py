"""Work on many slides spread by Dask: over a cluster that runs, jobs of Slurm, or workers of this machine."""

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import dask
from dask_jobqueue import SLURMCluster
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, Security, wait
from tqdm import tqdm

from histocae.errors import DataError
from histocae.files import code_fingerprint, write_text
from histocae.params import Executor as ExecutorParams
from histocae.paths import PACKAGE, SCRATCH

log = logging.getLogger(__name__)
LOGS = SCRATCH / "dask"  # what Slurm's jobs say
UNDER_WAY = 256  # tasks that the scheduler has at once, at most
ANSWER_SECONDS = 30
LOOK_SECONDS = 10  # between two looks at whether there are workers
SUBMIT_LOOKS = 6  # by which sbatch has taken the jobs
SETTINGS = {
    # a worker has no task in advance: so few are suspects when it dies
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 1,
    "distributed.worker.daemon": False,  # a task may start processes
    "distributed.comm.timeouts.connect": f"{ANSWER_SECONDS}s",
}


_HELD: list[Client] = []


class _StrangerError(Exception):
    """A worker's code or folder is another than here."""


def spread(
    function: Callable[[Any], Any], tasks: Sequence[Any], params: ExecutorParams, cores: int, progress: tqdm
) -> Generator[tuple[int, Any], None, list[int]]:
    """Run a function over tasks on workers of Dask, which see the same files under the same paths.

    Dask gives a task whose worker died to another one; one that saw several die is tried once more alone.

    Args:
        function: of a module; what it is given and gives is pickled.
        tasks: its arguments.
        params: which cluster.
        cores: of this machine.
        progress: of the tasks.

    Yields:
        The task's position and its result, in the order in which they end.

    Returns:
        The tasks whose workers died each time.

    Raises:
        DataError: the cluster does not answer, runs other code, or has no workers any more.

    """
    with nullcontext(_HELD[-1]) if _HELD else _client(params, cores) as client:
        try:
            died = yield from _all(client, function, tasks, range(len(tasks)), progress)
            again: list[int] = []
            for position in died:
                again += yield from _all(client, function, tasks, [position], progress)
        except _StrangerError as error:
            raise DataError(str(error)) from None
        except CancelledError:
            raise DataError("the Dask scheduler has gone; run this again: what is finished stays") from None
    return again


def _all(
    client: Client, function: Callable, tasks: Sequence[Any], positions: Sequence[int], progress: tqdm
) -> Generator[tuple[int, Any], None, list[int]]:
    """Yield results; give the tasks that could not be done, since their workers died."""
    died: list[int] = []
    running: dict[Future, int] = {}
    waiting = iter(positions)
    here = os.getcwd()  # noqa: PTH109 (the same text there)
    try:
        while True:
            for position in islice(waiting, UNDER_WAY - len(running)):
                call = (here, code(), function, tasks[position])
                running[client.submit(_there, call, pure=False)] = position
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


def _ended(client: Client, futures: list[Future]) -> list[Future]:
    """Wait until some tasks have ended.

    Raises:
        DataError: there is no worker, and none will come.

    """
    looks = 0
    while True:
        try:
            return list(wait(futures, timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            if client.scheduler_info()["n_workers"]:
                continue
        if isinstance(client.cluster, SLURMCluster) and not _queued(client.cluster, looks):
            raise DataError(f"all of Slurm's jobs have ended and work is left: see {LOGS}; then run this again")
        if not looks:
            log.info("waiting for workers")
        looks += 1


def _queued(cluster: SLURMCluster, looks: int) -> bool:
    """Tell whether a job of the cluster waits or runs; yes, where Slurm does not answer."""
    ids = [job.job_id for job in cluster.workers.values() if getattr(job, "job_id", None)]
    if not ids:
        return looks < SUBMIT_LOOKS
    ask = ["squeue", "--noheader", "--format", "%i", "--jobs", ",".join(ids)]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    if done.returncode:
        return "Invalid job id" not in done.stderr
    return bool(done.stdout.strip())


def _refused(script: str) -> str | None:
    """Tell why Slurm would not take a job."""
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        return "no programs sbatch and squeue on this machine"
    tried = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False)
    return " ".join(tried.stderr.split()) if tried.returncode else None


def _there(call: tuple[str, str, Callable, Any]) -> Any:
    """Run a task on a worker, in the project's folder."""
    folder, expected, function, task = call
    if code() != expected:
        told = f"the code of the Dask worker on {os.uname().nodename} ({PACKAGE}) is another than here"
        raise _StrangerError(f"{told}; start workers in this environment, anew after a change")
    try:
        os.chdir(folder)
    except OSError:
        raise _StrangerError(f"the Dask worker on {os.uname().nodename} does not see {folder}") from None
    return function(task)


@cache
def code() -> str:
    """Hash this package's code."""
    return code_fingerprint(*(one.relative_to(PACKAGE).with_suffix("").as_posix() for one in PACKAGE.rglob("*.py")))


@contextmanager
def held(params: ExecutorParams, cores: int) -> Iterator[None]:
    """Keep one cluster for all that is spread meanwhile: its workers keep what they have loaded."""
    with _client(params, cores) as client:
        _HELD.append(client)
        try:
            yield
        finally:
            _HELD.pop()


@contextmanager
def _client(params: ExecutorParams, cores: int) -> Iterator[Client]:
    for name in ("", ".client", ".worker", ".nanny", ".scheduler"):
        # a worker that died is told by what becomes of its task, a scheduler by the end
        logging.getLogger(f"distributed{name}").setLevel(logging.CRITICAL)
    with dask.config.set(SETTINGS):
        if params.scheduler is not None:
            try:
                client = Client(params.scheduler, timeout=ANSWER_SECONDS)
            except (OSError, ValueError) as error:
                problem = str(error).splitlines()[0]
                raise DataError(f"executor.scheduler: {params.scheduler} does not answer: {problem}") from None
            with client:
                yield client
            return
        LOGS.mkdir(parents=True, exist_ok=True)
        with _keys(Path.cwd() / LOGS) as keys, _cluster(params, cores, keys) as cluster, Client(cluster) as client:
            yield client


@contextmanager
def _keys(folder: Path) -> Iterator[Security]:
    """Make keys for one cluster, in files that its jobs read: who may speak to a scheduler may run anything."""
    made = {key: text for key, text in Security.temporary().get_tls_config_for_role("worker").items() if text}
    with tempfile.TemporaryDirectory(prefix="keys-", dir=folder) as place:
        files = {key: str(Path(place) / key) for key in made}
        for key, text in made.items():
            write_text(text, Path(files[key]))
        roles = {
            f"tls_{role}_{key}": files[key] for role in ("client", "scheduler", "worker") for key in ("cert", "key")
        }
        yield Security(require_encryption=True, tls_ca_file=files["ca_file"], **roles)


def _cluster(params: ExecutorParams, cores: int, keys: Security) -> LocalCluster | SLURMCluster:
    if params.slurm is None:
        return LocalCluster(
            n_workers=params.workers or cores,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            security=keys,
            protocol="tls://",
        )
    slurm, folder = params.slurm, Path.cwd()
    cluster = SLURMCluster(
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
            # a model on a worker takes the cores of its job, where Slurm does not keep it to them
            f"export OMP_NUM_THREADS={slurm.cores} TF_NUM_INTRAOP_THREADS={slurm.cores}",
        ],
        # a task uses all of a job's cores by threads of its own
        worker_extra_args=["--nthreads", "1", "--no-dashboard"],
        scheduler_options={"dashboard_address": None},
        local_directory=slurm.scratch,
        job_name="histocae",
        security=keys,
    )
    # what Slurm refuses would be told in the background alone
    problem = _refused(cluster.job_script())
    if problem is not None:
        cluster.close()
        raise DataError(f"executor.slurm: {problem}")
    cluster.scale(jobs=params.workers or 1)
    return cluster
