"""What people ask of jobs: `histocae jobs` and `histocae sweep`."""

import argparse
import datetime
from pathlib import Path

from histocae import params_file
from histocae.errors import RemoteError, TrackingError
from histocae.remote import tree
from histocae.tracking.jobs import job_runs, polling
from histocae.tracking.jobs.sweep import sweep
from histocae.tracking.server import FAILURES, failure_message

SHORT = 8  # characters of a run's id that people read and type


def call(given: argparse.Namespace) -> None:
    """Run what was asked for.

    Raises:
        TrackingError: the server is away or refuses.
        RemoteError: a machine does, or there is no such job.

    """
    try:
        _CALLS[given.call](given)
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def _list(_: argparse.Namespace) -> None:
    rows = [("run", "job", "status", "sent", "where", "")]
    for job in job_runs.every():
        if not job.is_over:
            job = polling.poll(job)
        sent = datetime.datetime.fromtimestamp(job.start / 1000).strftime("%Y-%m-%d %H:%M")
        where = f"{job.tags[job_runs.BACKEND].removeprefix('histocae-')} {job.tags[job_runs.HOST]}".strip()
        rows.append((job.run_id[:SHORT], job.name, job.status, sent, where, job.tags.get(job_runs.REASON, "")))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _log(given: argparse.Namespace) -> None:
    _end(polling.follow(job_runs.find(given.run)))


def _cancel(given: argparse.Namespace) -> None:
    job = polling.cancel(job_runs.find(given.run))
    print(f"{job.run_id[:SHORT]}  {job.name}  {job.status}")


def _fetch(given: argparse.Namespace) -> None:
    here = Path.cwd()
    if given.runs:
        wanted = [job_runs.find(one) for one in given.runs]
        if strangers := [job.run_id[:SHORT] for job in wanted if not tree.has(here, job.tags[job_runs.HEAD])]:
            raise RemoteError(f"{', '.join(strangers)}: of another repository; fetch it there")
    else:
        head = tree.head(here)
        wanted = [job for job in job_runs.every() if job.tags[job_runs.HEAD] == head]
    taken: list[str] = []
    for job in wanted:  # the newest first, which has the last word
        job = polling.poll(job)
        if job.is_over:
            taken += polling.fetch(job, here, taken)
    print(f"dvc pull {' '.join(dict.fromkeys(taken))}" if taken else "nothing to fetch")


def _sweep(given: argparse.Namespace) -> None:
    sweep(params_file.load(given.params), given.backend, given.config)


def _end(job: job_runs.Job) -> None:
    if job.status != "FINISHED":
        raise RemoteError(f"job {job.run_id}: {job.status.lower()}: {job.tags.get(job_runs.REASON)}")


_CALLS = {"list": _list, "log": _log, "cancel": _cancel, "fetch": _fetch, "sweep": _sweep}
