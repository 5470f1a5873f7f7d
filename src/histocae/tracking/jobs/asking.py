"""MLflow's project backends `histocae-ssh` and `histocae-slurm`, and what can be asked of their jobs.

MLflow finds them by the entry points `mlflow.project_backend` of pyproject.toml.
"""

import base64
import contextlib
import importlib.resources
import json
import logging
import re
import shlex
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from mlflow.exceptions import ExecutionException
from mlflow.projects import utils
from mlflow.projects.backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun

from histocae import params as parameters
from histocae.errors import HistocaeError, RemoteError, TrackingError
from histocae.remote import config, dvc_locks, places, tree
from histocae.remote.host import Host
from histocae.remote.queues import QUEUES
from histocae.tracking.jobs import job_runs
from histocae.tracking.server import FAILURES, told

log = logging.getLogger(__name__)
FIRST_POLL_SECONDS, POLL_SECONDS = 1, 5  # looks become rarer, so that a short job is soon back
CANCEL_SECONDS = 90
MOST_LOG = 2**20  # bytes of a log that are fetched at once
_MARK = "histocae-job:"
# shallow clones may be sent
_REPOSITORY = """
cd "$1"
mkdir -p jobs environments cache
git init --quiet --bare repository.git
git -C repository.git config receive.shallowUpdate true
"""
# credentials, and a command that outlived what watched over it
_FORGET = """
rm -f "$1/job.json"
if [ -f "$1/payload.json" ]; then
  session=$(grep -o '"session": [0-9]*' "$1/payload.json" | grep -o '[0-9]*$')
  if grep -qs "MLFLOW_RUN_ID=$(basename "$1")" "/proc/$session/environ"; then kill -KILL -- "-$session" || true; fi
fi
"""


@dataclass
class Submitted(SubmittedRun):
    """A job that was sent, as MLflow wants it.

    Attributes:
        job: as it was last read.
        project: its folder here; None where MLflow fetched it for the occasion.

    """

    job: job_runs.Job
    project: Path | None

    @property
    def run_id(self) -> str:
        """Of its run."""
        return self.job.run_id

    def wait(self) -> bool:
        """Show its log until it is over; tell whether it went well."""
        self.job = follow(self.job)
        if self.job.status == "FINISHED" and self.project is not None:
            fetch(self.job, self.project)
        return self.job.status == "FINISHED"

    def get_status(self) -> str:
        """Tell the status of its run."""
        self.job = look(self.job)
        return self.job.status

    def cancel(self) -> None:
        """End it."""
        self.job = cancel(self.job)


class _Backend(AbstractBackend):
    name: str

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: dict[str, str],
        version: str | None,
        backend_config: dict[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> Submitted:
        """Send a job, and stay with it if the config says so.

        Raises:
            ExecutionException: it can't be sent, or did not go well; in one line.

        """
        _speak()
        try:
            about = config.read(self.name, backend_config)
            submitted = submit(self.name, about, project_uri, entry_point, params, version, experiment_id)
            if about.wait:
                try:
                    well = submitted.wait()
                except KeyboardInterrupt:
                    submitted.cancel()
                    raise
                if not well:
                    end = submitted.job
                    raise RemoteError(f"job {end.run_id}: {end.status.lower()}: {end.tags.get(job_runs.REASON)}")
        except HistocaeError as error:
            raise ExecutionException(" ".join(str(error).split())) from None
        except FAILURES as error:
            raise ExecutionException(told(error)) from None
        return submitted


class SshBackend(_Backend):
    """Runs a project on a machine that ssh reaches."""

    name = "histocae-ssh"


class SlurmBackend(_Backend):
    """Runs a project on a cluster with Slurm."""

    name = "histocae-slurm"


def submit(
    backend: str,
    about: config.Job,
    uri: str,
    entry_point: str,
    params: dict[str, str],
    version: str | None,
    experiment_id: str,
    tags: Mapping[str, str] = MappingProxyType({}),
    variables: Mapping[str, str] = MappingProxyType({}),
    locks_changed: bool = False,
) -> Submitted:
    """Send a job.

    Args:
        backend: a name in `config.KINDS`.
        about: its config.
        uri: the project: a folder, or a git repository's address.
        entry_point: of MLproject.
        params: of the entry point.
        version: commit or branch, of a repository's address.
        experiment_id: of the job's run.
        tags: more tags of it.
        variables: more environment of the job.
        locks_changed: what changed in DVC's lock files goes along, whatever the config says of changes.

    Raises:
        RemoteError: the project, the machine or the server do not allow it.
        FAILURES: the server is away.

    """
    variables = {**job_runs.variables(about.environment, about.tracking_uri), **variables}
    project = Path(utils.fetch_and_validate_project(uri, version, entry_point, params))
    spec = utils.load_project(str(project))
    given = {**_defaults(spec, entry_point), **params}
    models = parameters.load(project / "params.yaml")
    if "model" in given:  # MLflow takes whatever it is given
        models.model(given["model"])
    commit = tree.commit_of(project, about.dirty, locks_changed)
    host = Host(about.host, about.ssh_config)
    folder = host.run('case $1 in "~"*) set -- "$HOME${1#"~"}" ;; esac; mkdir -p "$1"; cd "$1"; pwd', about.folder)
    folder = folder.splitlines()[-1]
    if not re.match(config.PLAIN, folder):
        raise RemoteError(f"{host}: {about.folder} is {folder!r} there, which make can't take; choose another folder")
    run = utils.get_or_create_run(None, uri, experiment_id, str(project), version, entry_point, params)
    run_id = run.info.run_id
    place = places.Place(
        backend,
        about.host,
        about.ssh_config,
        about.setup,
        f"{folder}/jobs/{run_id}",
        about.silence,
        places.this_process(),
    )
    places.write(run_id, place)
    tags = {
        **tags,
        job_runs.BACKEND: backend,
        job_runs.HOST: about.host or "",
        job_runs.FOLDER: place.folder,
        job_runs.HEAD: commit.head,
        "mlflow.source.git.commit": commit.head,
        "git.dirty": str(commit.sent != commit.head).lower(),
    }
    name = " ".join([entry_point, *map(str, params.values())])
    job = job_runs.sent(run_id, tags, name)
    started, why = False, "interrupted while it was sent"
    try:
        _prepare(host, about, commit, project, place, folder)
        command = spec.get_entry_point(entry_point).compute_command(params, None)
        work = PurePosixPath(folder, "jobs", run_id, "work", commit.prefix)
        told_job = {
            "run_id": run_id,
            "project": str(work),
            "command": command,
            "variables": variables,
            "dvc": about.dvc,
            "needed": dvc_locks.trainings_before(project, given.get("model", "")),
            "models": [given["model"]] if "model" in given else list(models.models),
            "gpus": about.gpus,
            "devices": getattr(about, "devices", None),
            "scheduler": backend == "histocae-slurm",
            "seconds": about.seconds,
            "time": about.time,
            "bytes": about.bytes,
            "memory": about.memory,
        }
        _write(host, f"{place.folder}/job.json", json.dumps(told_job))
        if job_runs.read(run_id).is_over or job_runs.CANCELLED in job_runs.read(run_id).tags:
            raise RemoteError("cancelled while it was sent")
        queued = QUEUES[backend].submit(host, about, place.folder, f"histocae-{name.replace(' ', '-')}")
        places.write(run_id, replace(place, id=queued, sender=None))
        started = True
    except HistocaeError as error:
        why = str(error)
        raise
    finally:
        if not started:
            _not_sent(job, why)
    job = job_runs.tag(job, job_runs.ID, queued)
    log.info("job %s is sent: %s on %s, %s", run_id, name, host, place.folder)
    return Submitted(job, project if Path(uri.partition("#")[0]).is_dir() else None)


def _not_sent(job: job_runs.Job, why: str) -> None:
    """Conclude a job that could not be sent; what fails at that is no news."""
    place = job.place
    with contextlib.suppress(HistocaeError):
        _there(place, _FORGET)
    with contextlib.suppress(*FAILURES):
        cancelled = job_runs.CANCELLED in job_runs.read(job.run_id).tags
        job_runs.conclude(job.run_id, "KILLED" if cancelled else "FAILED", f"not sent: {why}")


def _defaults(spec: Any, entry_point: str) -> dict[str, Any]:
    """Give the parameters of an entry point that have a default."""
    known = spec.get_entry_point(entry_point).parameters
    return {name: one.default for name, one in known.items() if one.default is not None}


def _speak() -> None:
    """Have our own lines shown by MLflow's command, which knows only its own."""
    ours = logging.getLogger("histocae")
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)


def _script(name: str) -> str:
    return importlib.resources.files("histocae.remote").joinpath(name).read_text(encoding="utf-8")


def _prepare(
    host: Host, about: config.Job, commit: tree.Commit, project: Path, place: places.Place, folder: str
) -> None:
    """Send the commit, and make files and environment of it there; job.sh is written."""
    host.run(_REPOSITORY, folder)
    name = PurePosixPath(place.folder).name
    tree.push(project, commit, host, f"{folder}/repository.git", name)
    names = (folder, name, commit.sent, commit.head, commit.prefix, about.python, about.lock)
    environment = host.run(_script("prepare.sh"), *names, setup=about.setup, show=True).splitlines()[-1]
    known = {
        "folder": place.folder,
        "environment": environment,
        "project": f"{place.folder}/work/{commit.prefix}",
    }
    head, _, rest = _script("job.sh").partition("\n")
    settings = "\n".join(f"{key}={shlex.quote(value)}" for key, value in known.items())
    # what setup sets is overwritten, not the other way round
    _write(host, f"{place.folder}/job.sh", "\n".join([head, about.setup, settings, rest]))


def _write(host: Host, path: str, text: str) -> None:
    """Write a file there that only its owner reads: it may hold credentials."""
    held = base64.b64encode(text.encode()).decode()
    host.run(f'umask 077; base64 --decode >"$1.part" <<<{held}; mv "$1.part" "$1"', path)


def _own(job: job_runs.Job) -> places.Place:
    place = job.place
    if place is None:
        who = job.tags.get("mlflow.user")
        raise RemoteError(f"job {job.run_id}: sent by {who} from another machine or account; ask after it there")
    return place


def _there(place: places.Place, script: str, *more: str) -> str:
    """Run a script on a job's machine, with the job's folder and id as its arguments."""
    return Host(place.host, place.ssh_config).run(script, place.folder, place.id or "", *more, setup=place.setup)


def _ask(place: places.Place, offset: int) -> tuple[str, bytes]:
    """Ask the job's machine: waiting, running or ended; and what its log has from an offset on."""
    script = f"""
state=$({QUEUES[place.backend].ask}
)
echo "{_MARK}$state"
if [ -f "$1/job.log" ]; then tail -c +$(($3 + 1)) "$1/job.log" | head -c {MOST_LOG} | base64 || true; fi"""
    out = _there(place, script, str(offset))
    state, _, held = out.rpartition(_MARK)[2].partition("\n")
    return state.strip(), base64.b64decode(held)


def look(job: job_runs.Job) -> job_runs.Job:
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
    said = _there(place, _FORGET + 'if [ -f "$1/end.json" ]; then cat "$1/end.json"; fi')
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
    job = look(job)
    if job.is_over:
        return job
    _own(job)
    job = _told_to_end(job)
    start = time.monotonic()
    while not (job := look(job)).is_over:
        if time.monotonic() - start > CANCEL_SECONDS:
            raise RemoteError(f"job {job.run_id}: told to end, and did not within {CANCEL_SECONDS} s")
        time.sleep(1)
    return job


def _told_to_end(job: job_runs.Job) -> job_runs.Job:
    place = _own(job)
    job = job_runs.tag(job, job_runs.CANCELLED, "true")
    if not place.is_being_sent:  # who sends it looks at the tag before it is started
        _there(place, QUEUES[place.backend].cancel)
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
