"""What `histocae jobs` and `histocae sweep` do."""

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from histocae import params_file
from histocae.errors import RemoteError, TrackingError
from histocae.remote import tree
from histocae.tracking.jobs import job_runs, polling
from histocae.tracking.jobs import sweep as sweeps
from histocae.tracking.server import FAILURES, failure_message

ID_LENGTH = 8  # characters of a run's id that people read and type
HEADERS = ("run", "job", "status", "sent", "where", "")


@contextlib.contextmanager
def _server_failures() -> Iterator[None]:
    """Report errors of the tracking server in one line."""
    try:
        yield
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


@_server_failures()
def list_jobs() -> None:
    """Print all jobs of the tracking server; a job that died without a report is marked FAILED.

    Raises:
        TrackingError: the server is unreachable or refuses.

    """
    jobs = [job if job.is_over else polling.poll(job) for job in job_runs.all_jobs()]
    rows = [_row(job) for job in jobs]
    # else an id without letters would be aligned as a number
    print(tabulate(rows, HEADERS, tablefmt="plain", disable_numparse=True))


def _row(job: job_runs.Job) -> tuple[str, ...]:
    sent = datetime.datetime.fromtimestamp(job.start / 1000).strftime("%Y-%m-%d %H:%M")
    where = f"{job.tags[job_runs.BACKEND].removeprefix('histocae-')} {job.tags[job_runs.HOST]}".strip()
    return job.run_id[:ID_LENGTH], job.name, job.status, sent, where, job.tags.get(job_runs.REASON, "")


@_server_failures()
def show_log(run: str) -> None:
    """Print a job's log until the job is over; `run` is its run's id, or the first characters of it.

    Raises:
        TrackingError: the server is unreachable or refuses.
        RemoteError: there is no such job, it was sent from another machine, or it did not go well.

    """
    job = polling.follow(job_runs.find(run))
    if job.status != "FINISHED":
        raise RemoteError(job.failure)


@_server_failures()
def cancel(run: str) -> None:
    """End a job; `run` is its run's id, or the first characters of it.

    Raises:
        TrackingError: the server is unreachable or refuses.
        RemoteError: there is no such job, it was sent from another machine, or it does not end.

    """
    job = polling.cancel(job_runs.find(run))
    print(f"{job.run_id[:ID_LENGTH]}  {job.name}  {job.status}")


@_server_failures()
def fetch(runs: Sequence[str]) -> None:
    """Take over what jobs changed in dvc.lock, and print the `dvc pull` that brings their files.

    Args:
        runs: ids of the jobs' runs, or first characters of them; empty: all jobs of the commit that is checked out.

    Raises:
        TrackingError: the server is unreachable or refuses.
        RemoteError: there is no such job, or it belongs to another repository.

    """
    here = Path.cwd()
    if runs:
        jobs = [job_runs.find(run) for run in runs]
        if strangers := [
            job.run_id[:ID_LENGTH] for job in jobs if not tree.has_commit(here, job.tags[job_runs.HEAD])
        ]:
            raise RemoteError(f"{', '.join(strangers)}: of another repository; run histocae jobs fetch there")
    else:
        head = tree.head(here)
        jobs = [job for job in job_runs.all_jobs() if job.tags[job_runs.HEAD] == head]
    taken: list[str] = []
    for job in jobs:  # the newest job comes first: its entries are not overwritten by older jobs
        job = polling.poll(job)
        if job.is_over:
            taken += polling.fetch(job, here, taken)
    print(f"dvc pull {' '.join(dict.fromkeys(taken))}" if taken else "nothing to fetch")


@_server_failures()
def sweep(params: Path, backend: str, config: Path) -> None:
    """Train every model in a job of its own.

    Args:
        params: the file params.yaml.
        backend: a name in `histocae.remote.config.KINDS`.
        config: the backend config, JSON.

    Raises:
        TrackingError: the server is unreachable or refuses.
        RemoteError: the config is wrong, or a job can't be sent or fails.

    """
    sweeps.sweep(params_file.load(params), backend, config)
