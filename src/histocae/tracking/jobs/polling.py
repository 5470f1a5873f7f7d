"""Poll jobs on their machines: follow their logs, cancel them, fetch their changes."""

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
from histocae.tracking.jobs.job_files import LOG, JobEnd

log = logging.getLogger(__name__)
FIRST_POLL_SECONDS, POLL_SECONDS = 1, 5  # the pause grows from the first to the second: a short job is soon over
CANCEL_SECONDS = 90
LOG_BYTES = 2**20  # of a log that are read at once
_MARK = "histocae-job:"
# deletes credentials, and ends a command that outlived its supervisor
CLEAN_UP = """
rm -f "$1/job.json"
if [ -f "$1/payload.json" ]; then
  session=$(grep -o '"session": [0-9]*' "$1/payload.json" | grep -o '[0-9]*$')
  if grep -qs "MLFLOW_RUN_ID=$(basename "$1")" "/proc/$session/environ"; then kill -KILL -- "-$session" || true; fi
fi
"""


def _place(job: job_runs.Job) -> places.Place:
    place = job.place
    if place is None:
        user = job.tags.get("mlflow.user")
        raise RemoteError(
            f"job {job.run_id}: sent by {user} from another machine or account; use histocae jobs there"
        )
    return place


def run_script(place: places.Place, script: str, *arguments: str) -> str:
    """Run a bash script on a job's machine.

    Args:
        place: of the job.
        script: its $1 is the job's folder, its $2 the job's id on the machine.
        arguments: $3 and further ones.

    Returns:
        What the script printed.

    """
    return Host(place.host, place.ssh_config).run(script, place.folder, place.id or "", *arguments, setup=place.setup)


def _poll_machine(place: places.Place, offset: int) -> tuple[str, bytes]:
    """Return a job's state (waiting, running or ended), and its log from an offset on."""
    script = f"""
state=$({QUEUES[place.backend].poll}
)
echo "{_MARK}$state"
if [ -f "$1/{LOG}" ]; then tail -c +$(($3 + 1)) "$1/{LOG}" | head -c {LOG_BYTES} | base64 || true; fi"""
    out = run_script(place, script, str(offset))
    state, _, encoded = out.rpartition(_MARK)[2].partition("\n")
    return state.strip(), base64.b64decode(encoded)


def poll(job: job_runs.Job) -> job_runs.Job:
    """Read a job as it is now; a job whose machine or process died without a report is marked FAILED.

    Raises:
        FAILURES: the tracking server is unreachable.

    """
    job = job_runs.read(job.run_id)
    place = job.place
    if job.is_over or place is None or place.is_being_sent:
        return job
    try:
        state, _ = _poll_machine(place, 0)
    except RemoteError as error:  # the machine is unreachable, or its scheduler does not answer
        return _fail_if_silent(job, str(error))
    return _conclude_if_ended(job, state)


def _conclude_if_ended(job: job_runs.Job, state: str) -> job_runs.Job:
    """Conclude a job that ended without a final status: as its end.json says, or else as FAILED."""
    place = _place(job)
    if state != "ended" or place.is_being_sent:
        return job
    job = job_runs.read(job.run_id)  # the job may have reported its end meanwhile
    if job.is_over:
        return job
    out = run_script(place, CLEAN_UP + 'if [ -f "$1/end.json" ]; then cat "$1/end.json"; fi')
    if (text := out[out.find("{") :]).startswith("{"):
        end = JobEnd.from_json(json.loads(text))
        job_runs.conclude(job.run_id, end.status, end.reason, end.changed)
        return job_runs.read(job.run_id)
    if job_runs.CANCELLED in job.tags:
        job_runs.conclude(job.run_id, "KILLED", "canceled")
        return job_runs.read(job.run_id)
    if place.id is None:
        return _fail(job, "it was never started")
    return _fail(job, f"it is no longer there, and did not report why; see {place.folder}/{LOG}")


def _fail_if_silent(job: job_runs.Job, problem: str) -> job_runs.Job:
    """Mark a running job as FAILED after a long silence; a job that waits in a queue gives no sign of life."""
    if job.status != "RUNNING":
        log.warning("job %s: %s", job.run_id, problem)
        return job
    if job.silent_seconds < _place(job).silence:
        log.warning("job %s: %s; its last sign of life was %.0f s ago", job.run_id, problem, job.silent_seconds)
        return job
    return _fail(job, f"{problem}, and no sign of life for {job.silent_seconds:.0f} s")


def _fail(job: job_runs.Job, reason: str) -> job_runs.Job:
    job_runs.conclude(job.run_id, "FAILED", reason)
    log.warning("job %s: marked FAILED: %s", job.run_id, reason)
    return job_runs.read(job.run_id)


def follow(job: job_runs.Job) -> job_runs.Job:
    """Print a job's log until the job is over, and return the job as it is then.

    Raises:
        RemoteError: the job was sent from another machine or account.

    """
    place, offset, pause = _place(job), 0, float(FIRST_POLL_SECONDS)
    while True:
        before = job = job_runs.read(job.run_id)
        try:
            while True:
                state, new = _poll_machine(place, offset)
                offset += len(new)
                sys.stdout.write(new.decode("utf-8", "replace"))
                sys.stdout.flush()
                if len(new) < LOG_BYTES:
                    break
            if not before.is_over:
                job = _conclude_if_ended(job, state)
        except RemoteError as error:
            if not before.is_over:
                job = _fail_if_silent(job, str(error))
        if before.is_over:
            return before  # its log was read after its end, so all of it was printed
        if not job.is_over:
            time.sleep(pause)
            pause = min(1.2 * pause, POLL_SECONDS)


def cancel(job: job_runs.Job) -> job_runs.Job:
    """End a job; its run becomes KILLED. Return the job as it is then.

    Raises:
        RemoteError: its machine does not answer, it does not end, or it was sent from another machine or account.

    """
    job = poll(job)
    if job.is_over:
        return job
    job = _request_end(job)
    start = time.monotonic()
    while not (job := poll(job)).is_over:
        if time.monotonic() - start > CANCEL_SECONDS:
            raise RemoteError(f"job {job.run_id}: got the signal to end, but still runs after {CANCEL_SECONDS} s")
        time.sleep(1)
    return job


def _request_end(job: job_runs.Job) -> job_runs.Job:
    place = _place(job)
    job = job_runs.set_tag(job, job_runs.CANCELLED, "true")
    if not place.is_being_sent:  # the process that sends a job checks the tag before it starts the job
        run_script(place, QUEUES[place.backend].cancel)
    return job


def cancel_all(jobs: Iterable[job_runs.Job]) -> list[str]:
    """Request the end of all jobs, then wait for all of them; return the problems."""
    requested, problems = [], []
    for job in jobs:
        try:
            requested.append(_request_end(job))
        except HistocaeError as error:
            problems.append(str(error))
    for job in requested:
        try:
            cancel(job)
        except HistocaeError as error:
            problems.append(str(error))
    return problems


def fetch(job: job_runs.Job, project: Path, skip: Collection[str] = ()) -> list[str]:
    """Take over what a job changed in DVC's lock files; `dvc pull` then brings its files.

    Args:
        job: that is over.
        project: the folder.
        skip: stages whose entries are left as they are.

    Returns:
        The stages taken over.

    Raises:
        TrackingError: the job is not over yet.

    """
    if not job.is_over:
        raise TrackingError(f"job {job.run_id}: not over yet")
    changed = job_runs.changes_of(job)
    taken, kept = dvc_locks.merge(project, changed, skip) if changed else ([], [])
    for stage in kept:
        log.warning("%s: changed here since the job was sent; kept as it is, without job %s", stage, job.run_id)
    if taken:
        log.info("job %s: dvc.lock has its outputs; dvc pull %s brings the files", job.run_id, " ".join(taken))
    return taken
