"""MLflow's project backends `histocae-ssh` and `histocae-slurm`, and what can be asked of their jobs.

MLflow finds them by the entry points `mlflow.project_backend` of pyproject.toml.
"""

import base64
import json
import logging
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from histocae.errors import HistocaeError, RemoteError, TrackingError
from histocae.remote import dvc_locks, places
from histocae.remote.host import Host
from histocae.remote.queues import QUEUES
from histocae.tracking.jobs import job_runs

log = logging.getLogger(__name__)
FIRST_POLL_SECONDS, POLL_SECONDS = 1, 5  # looks become rarer, so that a short job is soon back
CANCEL_SECONDS = 90
MOST_LOG = 2**20  # bytes of a log that are fetched at once
_MARK = "histocae-job:"
# credentials, and a command that outlived what watched over it
FORGET = """
rm -f "$1/job.json"
if [ -f "$1/payload.json" ]; then
  session=$(grep -o '"session": [0-9]*' "$1/payload.json" | grep -o '[0-9]*$')
  if grep -qs "MLFLOW_RUN_ID=$(basename "$1")" "/proc/$session/environ"; then kill -KILL -- "-$session" || true; fi
fi
"""


def _own(job: job_runs.Job) -> places.Place:
    place = job.place
    if place is None:
        who = job.tags.get("mlflow.user")
        raise RemoteError(f"job {job.run_id}: sent by {who} from another machine or account; ask after it there")
    return place


def run_there(place: places.Place, script: str, *more: str) -> str:
    """Run a script on a job's machine, with the job's folder and id as its arguments."""
    return Host(place.host, place.ssh_config).run(script, place.folder, place.id or "", *more, setup=place.setup)


def _ask(place: places.Place, offset: int) -> tuple[str, bytes]:
    """Ask the job's machine: waiting, running or ended; and what its log has from an offset on."""
    script = f"""
state=$({QUEUES[place.backend].ask}
)
echo "{_MARK}$state"
if [ -f "$1/job.log" ]; then tail -c +$(($3 + 1)) "$1/job.log" | head -c {MOST_LOG} | base64 || true; fi"""
    out = run_there(place, script, str(offset))
    state, _, held = out.rpartition(_MARK)[2].partition("\n")
    return state.strip(), base64.b64decode(held)


def poll(job: job_runs.Job) -> job_runs.Job:
    """Read a job anew; one whose machine or process died without a word is marked FAILED.

    Raises:
        FAILURES: the tracking server is away.

    """
    job = job_runs.read(job.run_id)
    place = job.place
    if job.is_over or place is None or place.is_being_sent:
        return job
    try:
        state, _ = _ask(place, 0)
    except RemoteError as error:  # no way to the machine, or its scheduler does not answer
        return _silent(job, str(error))
    return _judged(job, state)


def _judged(job: job_runs.Job, state: str) -> job_runs.Job:
    """Conclude a job that has ended without a final status, as it says itself or else as FAILED."""
    place = _own(job)
    if state != "ended" or place.is_being_sent:
        return job
    job = job_runs.read(job.run_id)  # it may have told its end in the meantime
    if job.is_over:
        return job
    said = run_there(place, FORGET + 'if [ -f "$1/end.json" ]; then cat "$1/end.json"; fi')
    if (end := said[said.find("{") :]).startswith("{"):
        end = json.loads(end)
        job_runs.conclude(job.run_id, end["status"], end["reason"], end["changed"])
        return job_runs.read(job.run_id)
    if job_runs.CANCELLED in job.tags:
        job_runs.conclude(job.run_id, "KILLED", "cancelled")
        return job_runs.read(job.run_id)
    if place.id is None:
        return _failed(job, "it was never started")
    return _failed(job, f"it is no longer there, and did not say why; see {place.folder}/{Path(job_runs.LOG).name}")


def _silent(job: job_runs.Job, problem: str) -> job_runs.Job:
    """Give up a job that ran and was not heard of for long; one that waits in a queue says nothing."""
    if job.status != "RUNNING":
        log.warning("job %s: %s", job.run_id, problem)
        return job
    if job.silent_seconds < _own(job).silence:
        log.warning("job %s: %s; it was heard of %.0f s ago", job.run_id, problem, job.silent_seconds)
        return job
    return _failed(job, f"{problem}, and nothing heard for {job.silent_seconds:.0f} s")


def _failed(job: job_runs.Job, reason: str) -> job_runs.Job:
    job_runs.conclude(job.run_id, "FAILED", reason)
    log.warning("job %s: marked FAILED: %s", job.run_id, reason)
    return job_runs.read(job.run_id)


def follow(job: job_runs.Job) -> job_runs.Job:
    """Show a job's log until it is over.

    Raises:
        RemoteError: another user or backend sent it.

    """
    place, offset, pause = _own(job), 0, FIRST_POLL_SECONDS
    while True:
        before = job = job_runs.read(job.run_id)
        try:
            while True:
                state, new = _ask(place, offset)
                offset += len(new)
                sys.stdout.write(new.decode("utf-8", "replace"))
                sys.stdout.flush()
                if len(new) < MOST_LOG:
                    break
            if not before.is_over:
                job = _judged(job, state)
        except RemoteError as error:
            if not before.is_over:
                job = _silent(job, str(error))
        if before.is_over:
            return before  # and its log was read after its end
        if not job.is_over:
            time.sleep(pause)
            pause = min(1.2 * pause, POLL_SECONDS)


def cancel(job: job_runs.Job) -> job_runs.Job:
    """End a job; its run becomes KILLED.

    Raises:
        RemoteError: its machine does not answer, or it does not end; or another user or backend sent it.

    """
    job = poll(job)
    if job.is_over:
        return job
    _own(job)
    job = _told_to_end(job)
    start = time.monotonic()
    while not (job := poll(job)).is_over:
        if time.monotonic() - start > CANCEL_SECONDS:
            raise RemoteError(f"job {job.run_id}: told to end, and did not within {CANCEL_SECONDS} s")
        time.sleep(1)
    return job


def _told_to_end(job: job_runs.Job) -> job_runs.Job:
    place = _own(job)
    job = job_runs.tag(job, job_runs.CANCELLED, "true")
    if not place.is_being_sent:  # who sends it looks at the tag before it is started
        run_there(place, QUEUES[place.backend].cancel)
    return job


def cancel_all(some: Iterable[job_runs.Job]) -> list[str]:
    """Tell jobs to end, and wait for all of them; give what went wrong."""
    told_to, problems = [], []
    for job in some:
        try:
            told_to.append(_told_to_end(job))
        except HistocaeError as error:
            problems.append(str(error))
    for job in told_to:
        try:
            cancel(job)
        except HistocaeError as error:
            problems.append(str(error))
    return problems


def fetch(job: job_runs.Job, project: Path, but: Collection[str] = ()) -> list[str]:
    """Take over what a job changed in DVC's lock files; `dvc pull` then brings its files.

    Args:
        job: that is over.
        project: the folder.
        but: stages that stay as they are.

    Returns:
        The stages taken over.

    Raises:
        TrackingError: it goes on.

    """
    if not job.is_over:
        raise TrackingError(f"job {job.run_id}: not over yet")
    changed = job_runs.result(job)
    taken, left = dvc_locks.merge(project, changed, but) if changed else ([], [])
    for stage in left:
        log.warning("%s: changed here since the job was sent; job %s's is not taken over", stage, job.run_id)
    if taken:
        log.info("job %s: dvc.lock has what it made; dvc pull %s brings the files", job.run_id, " ".join(taken))
    return taken
