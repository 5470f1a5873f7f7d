"""MLflow's project backends `histocae-ssh` and `histocae-slurm`, and what can be asked of their jobs.

MLflow finds them by the entry points `mlflow.project_backend` of pyproject.toml.
"""

import base64
import importlib.resources
import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from mlflow.exceptions import ExecutionException
from mlflow.projects import utils
from mlflow.projects.backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun

from histocae import params as parameters
from histocae.errors import HistocaeError, RemoteError, TrackingError
from histocae.params import Params
from histocae.remote import config, dvc_locks, tree
from histocae.remote.host import Host
from histocae.remote.queues import QUEUES
from histocae.tracking import jobs
from histocae.tracking.server import FAILURES, told

log = logging.getLogger(__name__)
POLL_SECONDS = 5
CANCEL_SECONDS = 90
MOST_LOG = 2**20  # bytes of a log that are fetched at once
_MARK = "histocae-job:"


@dataclass
class Submitted(SubmittedRun):
    """A job that was sent, as MLflow wants it.

    Attributes:
        job: as it was last read.
        project: its folder here; None where MLflow fetched it for the occasion.

    """

    job: jobs.Job
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
        self, project_uri: str, entry_point: str, params: dict[str, str], version: str | None,
        backend_config: dict[str, Any], tracking_uri: str, experiment_id: str,
    ) -> Submitted:  # fmt: skip
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
                    raise RemoteError(f"job {end.run_id}: {end.status.lower()}: {end.tags.get(jobs.REASON)}")
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
    backend: str, about: config.Job, uri: str, entry_point: str, params: dict[str, str], version: str | None,
    experiment_id: str, tags: Mapping[str, str] = MappingProxyType({}),
    variables: Mapping[str, str] = MappingProxyType({}), locks_changed: bool = False,
) -> Submitted:  # fmt: skip
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
    variables = {**jobs.variables(about.environment, about.tracking_uri), **variables}
    project = Path(utils.fetch_and_validate_project(uri, version, entry_point, params))
    spec = utils.load_project(str(project))
    # MLflow takes whatever it is given
    models = parameters.load(project / "params.yaml")
    needed = _models_before(project, models, params["model"]) if "model" in params else []
    commit = tree.commit_of(project, about.dirty, locks_changed)
    host = Host(about.host, about.ssh_config)
    folder = host.run('case $1 in "~"*) set -- "$HOME${1#"~"}" ;; esac; mkdir -p "$1"; cd "$1"; pwd', about.folder)
    folder = folder.splitlines()[-1]
    run = utils.get_or_create_run(None, uri, experiment_id, str(project), version, entry_point, params)
    run_id = run.info.run_id
    tags = {
        **tags,
        jobs.BACKEND: backend, jobs.HOST: about.host or "", jobs.SSH_CONFIG: about.ssh_config or "",
        jobs.SETUP: about.setup,
        jobs.FOLDER: f"{folder}/jobs/{run_id}", jobs.SILENCE: str(about.silence), jobs.HEAD: commit.head,
        "mlflow.source.git.commit": commit.head, "git.dirty": str(commit.sent != commit.head).lower(),
    }  # fmt: skip
    name = " ".join([entry_point, *map(str, params.values())])
    job = jobs.sent(run_id, tags, name)
    try:
        _prepare(host, about, commit, project, job, folder)
        command = spec.get_entry_point(entry_point).compute_command(params, None)
        work = PurePosixPath(folder, "jobs", run_id, "work", commit.prefix)
        told_job = {
            "run_id": run_id, "project": str(work), "command": command, "variables": variables, "dvc": about.dvc,
            "needed": needed, "models": [params["model"]] if "model" in params else list(models.models),
            "gpus": about.gpus, "devices": getattr(about, "devices", None), "scheduler": backend == "histocae-slurm",
            "seconds": about.seconds, "time": about.time, "bytes": about.bytes, "memory": about.memory,
        }  # fmt: skip
        _start(host, about, backend, told_job, job)
    except HistocaeError as error:
        jobs.conclude(run_id, "FAILED", f"not sent: {error}")
        raise
    job = jobs.read(run_id)
    log.info("job %s is sent: %s on %s, %s", run_id, name, host, job.tags[jobs.FOLDER])
    return Submitted(job, project if Path(uri.partition("#")[0]).is_dir() else None)


def _models_before(project: Path, models: Params, name: str) -> list[str]:
    """List the trainings, as stages of DVC, that a model starts from, where they are made: DVC does not know."""
    made = dvc_locks.read(project).get(dvc_locks.NAME, {})
    found, first = [], models.model(name).init_from
    while first is not None:
        found.append(f"train@{first}")
        first = models.model(first).init_from
    return [stage for stage in found if stage in made]


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
    host: Host, about: config.Job, commit: tree.Commit, project: Path, job: jobs.Job, folder: str
) -> None:
    """Send the commit, and make files and environment of it there; job.sh is written."""
    host.run('cd "$1"; mkdir -p jobs environments cache; git init --quiet --bare repository.git', folder)
    tree.push(project, commit, host, f"{folder}/repository.git", job.run_id)
    script = f"{about.setup}\n{_script('prepare.sh')}"
    names = (folder, job.run_id, commit.sent, commit.head, commit.prefix, about.python, about.lock)
    environment = host.run(script, *names, show=True).splitlines()[-1]
    place = job.tags[jobs.FOLDER]
    known = {"folder": place, "environment": environment, "project": f"{place}/work/{commit.prefix}"}
    head, _, rest = _script("job.sh").partition("\n")
    settings = "\n".join(f"{key}={shlex.quote(value)}" for key, value in known.items())
    _write(host, f"{place}/job.sh", "\n".join([head, settings, about.setup, rest]))


def _start(host: Host, about: config.Job, backend: str, told_job: dict[str, Any], job: jobs.Job) -> None:
    place = job.tags[jobs.FOLDER]
    _write(host, f"{place}/job.json", json.dumps(told_job))
    jobs.tag(job, jobs.ID, QUEUES[backend].submit(host, about, place, f"histocae-{job.name.replace(' ', '-')}"))


def _write(host: Host, path: str, text: str) -> None:
    """Write a file there that only its owner reads: it may hold credentials."""
    held = base64.b64encode(text.encode()).decode()
    host.run(f'umask 077; base64 --decode >"$1.part" <<<{held}; mv "$1.part" "$1"', path)


def _own(job: jobs.Job) -> None:
    if not job.is_ours:
        who, how = job.tags.get("mlflow.user"), job.tags[jobs.BACKEND]
        raise RemoteError(f"job {job.run_id}: sent by {who} with {how}; it can't be asked after from here")


def _there(job: jobs.Job, script: str, *more: str) -> str:
    """Run a script on a job's machine, with the job's folder and id as its arguments."""
    host = Host(job.tags[jobs.HOST] or None, job.tags[jobs.SSH_CONFIG] or None)
    arguments = (job.tags[jobs.FOLDER], job.tags.get(jobs.ID, ""), *more)
    return host.run(f"{job.tags[jobs.SETUP]}\n{script}", *arguments)


def _ask(job: jobs.Job, offset: int) -> tuple[str, bytes]:
    """Ask the job's machine: waiting, running or ended; and what its log has from an offset on."""
    script = f"""
state=$({QUEUES[job.tags[jobs.BACKEND]].ask}
)
echo "{_MARK}$state"
if [ -f "$1/job.log" ]; then tail -c +$(($3 + 1)) "$1/job.log" | head -c {MOST_LOG} | base64 || true; fi"""
    out = _there(job, script, str(offset))
    state, _, held = out.rpartition(_MARK)[2].partition("\n")
    return state.strip(), base64.b64decode(held)


def look(job: jobs.Job) -> jobs.Job:
    """Read a job anew; one whose machine or process died without a word is marked FAILED.

    Raises:
        FAILURES: the tracking server is away.

    """
    job = jobs.read(job.run_id)
    if job.is_over or not job.is_ours:
        return job
    try:
        state, _ = _ask(job, 0)
    except RemoteError as error:  # no way to the machine, or its scheduler does not answer
        return _silent(job, str(error))
    return _judged(job, state)


def _judged(job: jobs.Job, state: str) -> jobs.Job:
    """Mark a job FAILED that has ended without a final status."""
    if state != "ended":
        return job
    job = jobs.read(job.run_id)  # it may have told its end in the meantime
    if job.is_over:
        return job
    if jobs.ID not in job.tags:
        return job if job.silent_seconds < float(job.tags[jobs.SILENCE]) else _failed(job, "it was never started")
    if jobs.CANCELLED in job.tags:
        jobs.conclude(job.run_id, "KILLED", "cancelled")
        return jobs.read(job.run_id)
    file = f"{job.tags[jobs.FOLDER]}/{Path(jobs.LOG).name}"
    return _failed(job, f"it is no longer there, and did not say why; see {file}")


def _silent(job: jobs.Job, problem: str) -> jobs.Job:
    """Give up a job that ran and was not heard of for long; one that waits in a queue says nothing."""
    if job.status != "RUNNING":
        log.warning("job %s: %s", job.run_id, problem)
        return job
    if job.silent_seconds < float(job.tags[jobs.SILENCE]):
        log.warning("job %s: %s; it was heard of %.0f s ago", job.run_id, problem, job.silent_seconds)
        return job
    return _failed(job, f"{problem}, and nothing heard for {job.silent_seconds:.0f} s")


def _failed(job: jobs.Job, reason: str) -> jobs.Job:
    jobs.conclude(job.run_id, "FAILED", reason)
    log.warning("job %s: marked FAILED: %s", job.run_id, reason)
    return jobs.read(job.run_id)


def follow(job: jobs.Job) -> jobs.Job:
    """Show a job's log until it is over.

    Raises:
        RemoteError: another user or backend sent it.

    """
    _own(job)
    offset = 0
    while True:
        before = job = jobs.read(job.run_id)
        try:
            while True:
                state, new = _ask(job, offset)
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
            time.sleep(POLL_SECONDS)


def cancel(job: jobs.Job) -> jobs.Job:
    """End a job; its run becomes KILLED.

    Raises:
        RemoteError: its machine does not answer, or it does not end; or another user or backend sent it.

    """
    job = look(job)
    if job.is_over:
        return job
    _own(job)
    job = jobs.tag(job, jobs.CANCELLED, "true")
    _there(job, QUEUES[job.tags[jobs.BACKEND]].cancel)
    start = time.monotonic()
    while not (job := look(job)).is_over:
        if time.monotonic() - start > CANCEL_SECONDS:
            raise RemoteError(f"job {job.run_id}: told to end, and did not within {CANCEL_SECONDS} s")
        time.sleep(1)
    return job


def fetch(job: jobs.Job, project: Path) -> list[str]:
    """Take over what a job changed in DVC's lock files; `dvc pull` then brings its files.

    Returns:
        The stages taken over.

    Raises:
        TrackingError: it goes on.

    """
    if not job.is_over:
        raise TrackingError(f"job {job.run_id}: not over yet")
    changed = jobs.result(job)
    taken, left = dvc_locks.merge(project, changed) if changed else ([], [])
    for stage in left:
        log.warning("%s: changed here since the job was sent; job %s's is not taken over", stage, job.run_id)
    if taken:
        log.info("job %s: dvc.lock has what it made; dvc pull %s brings the files", job.run_id, " ".join(taken))
    return taken
