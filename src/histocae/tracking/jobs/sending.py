"""Send a job to another machine: its commit, its environment, its command."""

import base64
import contextlib
import importlib.resources
import json
import logging
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
from histocae.remote import config, dvc_locks, places, tree
from histocae.remote.host import Host
from histocae.remote.queues import QUEUES
from histocae.tracking.jobs import job_runs
from histocae.tracking.jobs.polling import FORGET, cancel, fetch, follow, poll, run_there
from histocae.tracking.server import FAILURES

log = logging.getLogger(__name__)
# shallow clones may be sent
_REPOSITORY = """
cd "$1"
mkdir -p jobs environments cache
git init --quiet --bare repository.git
git -C repository.git config receive.shallowUpdate true
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
        self.job = poll(self.job)
        return self.job.status

    def cancel(self) -> None:
        """End it."""
        self.job = cancel(self.job)


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
    models = params_file.load(project / "params.yaml")
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
        run_there(place, FORGET)
    with contextlib.suppress(*FAILURES):
        cancelled = job_runs.CANCELLED in job_runs.read(job.run_id).tags
        job_runs.conclude(job.run_id, "KILLED" if cancelled else "FAILED", f"not sent: {why}")


def _defaults(spec: Any, entry_point: str) -> dict[str, Any]:
    """Give the parameters of an entry point that have a default."""
    known = spec.get_entry_point(entry_point).parameters
    return {name: one.default for name, one in known.items() if one.default is not None}


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
