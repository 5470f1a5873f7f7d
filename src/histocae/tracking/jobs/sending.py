"""Send a job to another machine: its commit, its environment, its command."""

import base64
import contextlib
import importlib.resources
import logging
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from mlflow.projects import utils
from mlflow.projects.submitted_run import SubmittedRun

from histocae import params_file
from histocae.errors import HistocaeError, RemoteError
from histocae.params import Params
from histocae.remote import dvc_locks, places, tree
from histocae.remote.config import PLAIN, JobConfig, SshConfig
from histocae.remote.host import Host
from histocae.remote.queues import QUEUES
from histocae.tracking.jobs import job_runs
from histocae.tracking.jobs.job_files import DESCRIPTION, JobDescription
from histocae.tracking.jobs.polling import CLEAN_UP, cancel, fetch, follow, poll, run_script
from histocae.tracking.server import FAILURES

log = logging.getLogger(__name__)
# the commit may come from a shallow clone
_REPOSITORY = """
cd "$1"
mkdir -p jobs environments cache
git init --quiet --bare repository.git
git -C repository.git config receive.shallowUpdate true
"""
_FOLDER = 'case $1 in "~"*) set -- "$HOME${1#"~"}" ;; esac; mkdir -p "$1"; cd "$1"; pwd'


@dataclass
class Submitted(SubmittedRun):
    """A job that was sent, as MLflow expects it of a backend.

    Attributes:
        job: as it was last read.
        project: its folder here; None where MLflow fetched the project from a repository.

    """

    job: job_runs.Job
    project: Path | None

    @property
    def run_id(self) -> str:
        """The id of the job's run."""
        return self.job.run_id

    def wait(self) -> bool:
        """Show the job's log until the job is over; return whether it finished."""
        self.job = follow(self.job)
        if self.job.status == "FINISHED" and self.project is not None:
            fetch(self.job, self.project)
        return self.job.status == "FINISHED"

    def get_status(self) -> str:
        """Return the status of the job's run."""
        self.job = poll(self.job)
        return self.job.status

    def cancel(self) -> None:
        """End the job."""
        self.job = cancel(self.job)


@dataclass(frozen=True)
class _Project:
    """The project of a job: its folder, its commit, the entry point and the models that may be trained."""

    folder: Path
    commit: tree.Commit
    entry_point: Any  # of MLflow
    models: list[str]
    model: str | None  # where the entry point has a parameter `model`


def submit(
    backend: str,
    config: JobConfig,
    uri: str,
    *,
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
        backend: a name in `histocae.remote.config.KINDS`.
        config: the backend config.
        uri: the project: a folder, or a git repository's address.
        entry_point: of MLproject.
        params: of the entry point.
        version: commit or branch, where `uri` is a repository's address.
        experiment_id: of the job's run.
        tags: further tags of the job's run.
        variables: further environment variables of the job.
        locks_changed: whether uncommitted changes of DVC's lock files are sent even if the config refuses changes.

    Returns:
        The job.

    Raises:
        RemoteError: the project can't be sent, the machine is unreachable or refuses, or the config is wrong.
        FAILURES: the tracking server is unreachable.

    """
    variables = {**job_runs.environment_of_job(config.environment, config.tracking_uri), **variables}
    project = _project(uri, version, entry_point, params, config.dirty, locks_changed)
    host = Host(config.host, config.ssh_config)
    shared = _shared_folder(host, config.folder)
    run = utils.get_or_create_run(  # type: ignore[no-untyped-call]  # MLflow's own
        None, uri, experiment_id, str(project.folder), version, entry_point, params
    )
    run_id = run.info.run_id
    place = places.Place(
        backend=backend,
        host=config.host,
        ssh_config=config.ssh_config,
        setup=config.setup,
        folder=f"{shared}/jobs/{run_id}",
        silence=config.silence,
        sender=places.this_process(),
    )
    places.write(run_id, place)
    tags = {
        **tags,
        job_runs.BACKEND: backend,
        job_runs.HOST: config.host or "",
        job_runs.FOLDER: place.folder,
        job_runs.HEAD: project.commit.head,
        "mlflow.source.git.commit": project.commit.head,
        "git.dirty": str(project.commit.sent != project.commit.head).lower(),
    }
    name = " ".join([entry_point, *map(str, params.values())])
    started, reason = False, "interrupted while it was sent"
    try:
        job = job_runs.mark_scheduled(run_id, tags, name)
        _prepare(host, config, project, place, shared)
        command = project.entry_point.compute_command(params, None)
        description = _description(config, project, place, command, variables)
        _write(host, f"{place.folder}/{DESCRIPTION}", description.to_json())
        if job_runs.read(run_id).is_over or job_runs.CANCELLED in job_runs.read(run_id).tags:
            raise RemoteError("canceled while it was sent")
        queue_id = QUEUES[backend].submit(host, config, place.folder, f"histocae-{name.replace(' ', '-')}")
        places.write(run_id, replace(place, id=queue_id, sender=None))
        started = True
    except HistocaeError as error:
        reason = str(error)
        raise
    finally:
        if not started:
            _conclude_unsent(run_id, place, reason)
    job = job_runs.set_tag(job, job_runs.ID, queue_id)
    log.info("job %s is sent: %s on %s, %s", run_id, name, host, place.folder)
    return Submitted(job, project.folder if Path(uri.partition("#")[0]).is_dir() else None)


def _project(
    uri: str, version: str | None, entry_point: str, params: dict[str, str], dirty: str, locks_changed: bool
) -> _Project:
    """Check the parts of a job: the entry point, the model's name, the commit."""
    folder = Path(
        utils.fetch_and_validate_project(uri, version, entry_point, params)  # type: ignore[no-untyped-call]  # MLflow's
    )
    spec = utils.load_project(str(folder))  # type: ignore[no-untyped-call]  # MLflow's own
    entry = spec.get_entry_point(entry_point)
    defaults = {name: param.default for name, param in entry.parameters.items() if param.default is not None}
    model = {**defaults, **params}.get("model")
    known = params_file.load(folder / "params.yaml")
    if model is not None:  # MLflow does not check a parameter's value
        known.model(model)
    models = list(known.models) if model is None else [model]
    commit = tree.commit_of(folder, dirty, locks_changed)
    _check_networks(folder, commit, known)
    # a job runs the supervisor of the commit that is sent, and version 0.1.0 has it under another name
    if tree.has_file(folder, commit, "src/histocae/remote/job.py"):
        raise RemoteError(
            f"commit {commit.sent[:8]} has histocae 0.1.0, which only that version can send; install it"
        )
    return _Project(folder, commit, entry, models, model)


def _check_networks(folder: Path, commit: tree.Commit, params: Params) -> None:
    """Check that the networks of perceptual losses are sent with the commit; the job's inventory hashes all of them.

    An absolute path may be right on the job's machine: the job itself checks it.
    """
    for name, model in params.models.items():
        if model.perceptual is None or Path(model.perceptual.network).is_absolute():
            continue
        file = Path(os.path.normpath(model.perceptual.network))
        if file.parts[0] == os.pardir or not tree.has_file(folder, commit, file.as_posix()):
            raise RemoteError(
                f"models.{name}.perceptual.network: {file} is not in the commit that is sent; git add and commit it, "
                "or give an absolute path that the job's machine has too"
            )


def _shared_folder(host: Host, folder: str) -> str:
    """Make the folder that all jobs share, and return its absolute path on the machine."""
    path = host.run(_FOLDER, folder).splitlines()[-1]
    if not re.match(PLAIN, path):
        raise RemoteError(f"{host}: {folder} is {path!r} there, a path that make can't handle; choose another folder")
    return path


def _description(
    config: JobConfig, project: _Project, place: places.Place, command: str, variables: Mapping[str, str]
) -> JobDescription:
    return JobDescription(
        run_id=PurePosixPath(place.folder).name,
        project=str(PurePosixPath(place.folder, "work", project.commit.prefix)),
        command=command,
        variables=dict(variables),
        dvc=config.dvc,
        needed=dvc_locks.trainings_before(project.folder, project.model or ""),
        models=project.models,
        gpus=config.gpus,
        devices=config.devices if isinstance(config, SshConfig) else None,
        scheduler=place.backend == "histocae-slurm",
        seconds=config.seconds,
        time=config.time,
        bytes=config.bytes,
        memory=config.memory,
    )


def _conclude_unsent(run_id: str, place: places.Place, reason: str) -> None:
    """Conclude a job that could not be sent; further failures add nothing to the reason."""
    with contextlib.suppress(HistocaeError):
        run_script(place, CLEAN_UP)
    with contextlib.suppress(*FAILURES):
        canceled = job_runs.CANCELLED in job_runs.read(run_id).tags
        job_runs.conclude(run_id, "KILLED" if canceled else "FAILED", f"not sent: {reason}")


def _script(name: str) -> str:
    return importlib.resources.files("histocae.remote").joinpath(name).read_text(encoding="utf-8")


def _prepare(host: Host, config: JobConfig, project: _Project, place: places.Place, shared: str) -> None:
    """Send the commit, check it out and make its environment on the machine; write job.sh."""
    host.run(_REPOSITORY, shared)
    commit, name = project.commit, PurePosixPath(place.folder).name
    tree.push(project.folder, commit, host, f"{shared}/repository.git", name)
    arguments = (shared, name, commit.sent, commit.head, commit.prefix, config.python, config.lock)
    environment = host.run(_script("prepare.sh"), *arguments, setup=config.setup, show=True).splitlines()[-1]
    settings = {
        "folder": place.folder,
        "environment": environment,
        "project": f"{place.folder}/work/{commit.prefix}",
    }
    head, _, rest = _script("job.sh").partition("\n")
    lines = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
    # after the lines of setup, so that those can't overwrite the settings
    _write(host, f"{place.folder}/job.sh", "\n".join([head, config.setup, *lines, rest]))


def _write(host: Host, path: str, text: str) -> None:
    """Write a file on the machine that only its owner can read: it may hold credentials."""
    encoded = base64.b64encode(text.encode()).decode()
    host.run(f'umask 077; base64 --decode >"$1.part" <<<{encoded}; mv "$1.part" "$1"', path)
