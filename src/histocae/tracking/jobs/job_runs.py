"""Jobs as the tracking server knows them: runs of `mlflow run` on another machine, their tags, log and changes."""

import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mlflow.entities import Run, RunStatus, RunTag

from histocae.address import origin, without_credentials
from histocae.errors import RemoteError, TrackingError
from histocae.remote import dvc_locks, places
from histocae.tracking.environment import address
from histocae.tracking.record import PARENT
from histocae.tracking.server import FAILURES, MlflowClient, client, failure_message

log = logging.getLogger(__name__)
# tags of a job's run
BACKEND, HOST, FOLDER, ID = "job.backend", "job.host", "job.folder", "job.id"
SEEN, MACHINE, REASON, CANCELLED = "job.seen", "job.machine", "job.reason", "job.cancelled"
HEAD, SWEEP = "job.head", "sweep"
# its artifacts
RESULT, LOG = "job/result.json", "job/job.log"
REASON_LENGTH = 4000  # characters; MLflow refuses longer tags


def attach_changes(run_id: str, changed: dvc_locks.Changes, head: str) -> None:
    """Make a run of MLflow's own Kubernetes backend a job whose changes `histocae jobs fetch` takes over.

    Args:
        run_id: of MLflow.
        changed: what the job changed in DVC's lock files.
        head: the commit that the job ran.

    Raises:
        TrackingError: the server is unreachable or refuses.

    """
    try:
        api = client()
        _log_changes(api, run_id, changed)
        _set_tags(api, run_id, {BACKEND: "histocae-pod", HOST: platform.node(), HEAD: head})
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def _log_changes(api: MlflowClient, run_id: str, changed: dvc_locks.Changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / Path(RESULT).name
        result.write_text(json.dumps(changed), encoding="utf-8")
        api.log_artifact(run_id, str(result), str(Path(RESULT).parent))


def _set_tags(api: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set all tags or none, so that a list of jobs never shows a job without some of its tags."""
    api.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def conclude(run_id: str, status: str, reason: str | None, changed: dvc_locks.Changes | None = None) -> None:
    """Give a job's run its final status, and the same to its trainings that still run.

    Args:
        run_id: of the job.
        status: of MLflow: FINISHED, FAILED or KILLED.
        reason: why the job did not finish; None where it did.
        changed: what the job changed in DVC's lock files, logged with its run.

    Raises:
        FAILURES: the server is unreachable or refuses.

    """
    api = client()
    if changed:
        _log_changes(api, run_id, changed)
    for run in _search(f"tags.`{PARENT}` = '{run_id}'"):
        if run.info.status == "RUNNING":
            api.set_terminated(run.info.run_id, status)
    if reason is not None:
        api.set_tag(run_id, REASON, without_credentials(reason)[:REASON_LENGTH])
    api.set_terminated(run_id, status)


def _search(condition: str) -> list[Run]:
    """Find runs of all experiments that meet a condition in MLflow's language."""
    api = client()
    experiments = _all_pages(lambda token: api.search_experiments(max_results=1000, page_token=token))
    ids = [experiment.experiment_id for experiment in experiments]
    return _all_pages(lambda token: api.search_runs(ids, condition, max_results=500, page_token=token)) if ids else []


def _all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    """Gather the results of a search that gives them page by page."""
    results: list[Any] = []
    token: str | None = None
    while True:
        page = search(token)
        results += page
        token = page.token
        if not token:
            return results


@dataclass(frozen=True)
class Job:
    """A job's run as it was when it was read.

    Attributes:
        run_id: of MLflow.
        name: of the run.
        status: of the run: one of MLflow's.
        start: of the run, in ms since 1970.
        end: of the run, in ms since 1970; None until the job is over.
        tags: of the run.

    """

    run_id: str
    name: str
    status: str
    start: int
    end: int | None
    tags: dict[str, str]

    @classmethod
    def from_run(cls, run: Run) -> "Job":
        """Take over the fields of MLflow's run."""
        info = run.info
        return cls(info.run_id, info.run_name, info.status, info.start_time, info.end_time, dict(run.data.tags))

    @property
    def is_over(self) -> bool:
        """Whether its status is final."""
        return bool(RunStatus.is_terminated(RunStatus.from_string(self.status)))

    @property
    def silent_seconds(self) -> float:
        """Seconds since its last sign of life, or else since it was sent, by this machine's clock."""
        return time.time() - float(self.tags.get(SEEN, self.start / 1000))

    @property
    def place(self) -> places.Place | None:
        """Where the job lives; None unless this user sent it from this machine."""
        return places.read(self.run_id)

    @property
    def failure(self) -> str:
        """The sentence that reports a job that did not finish, with its reason."""
        return f"job {self.run_id}: {self.status.lower()}: {self.tags.get(REASON)}"


def mark_scheduled(run_id: str, tags: Mapping[str, str], name: str | None = None) -> Job:
    """Mark a run as a job that has not started yet.

    Args:
        run_id: of MLflow.
        tags: of the run, set beside those that it has.
        name: of the run; None leaves it.

    Returns:
        The job as it is now.

    """
    api = client()
    # MLflow's own tags have the address of the git remote, which may have a token in it
    known = api.get_run(run_id).data.tags
    clean = {key: text for key, value in known.items() if (text := without_credentials(value)) != value}
    _set_tags(api, run_id, clean | dict(tags))
    api.update_run(run_id, status="SCHEDULED", name=name)
    return read(run_id)


def set_tag(job: Job, key: str, value: str) -> Job:
    """Set a tag of a job's run.

    Args:
        job: whose run is changed.
        key: of the tag.
        value: of the tag.

    Returns:
        The job as it is now.

    """
    client().set_tag(job.run_id, key, value)
    return read(job.run_id)


def read(run_id: str) -> Job:
    """Read a job from the tracking server."""
    return Job.from_run(client().get_run(run_id))


def all_jobs() -> list[Job]:
    """List all jobs of the tracking server, the newest first."""
    runs = _search(f"tags.`{BACKEND}` LIKE 'histocae-%'")
    jobs = [Job.from_run(run) for run in runs if {HOST, HEAD} <= set(run.data.tags)]
    return sorted(jobs, key=lambda job: -job.start)


def find(start: str) -> Job:
    """Find a job by its run's id or the first characters of it.

    Raises:
        RemoteError: no job's id begins so, or those of several jobs do.

    """
    jobs = [job for job in all_jobs() if job.run_id.startswith(start)]
    if len(jobs) != 1:
        raise RemoteError(f"{start}: {len(jobs) or 'no'} jobs have an id that begins so; histocae jobs lists them")
    return jobs[0]


def changes_of(job: Job) -> dvc_locks.Changes:
    """Read the changes of a finished job in DVC's lock files."""
    api = client()
    if RESULT not in {artifact.path for artifact in api.list_artifacts(job.run_id, str(Path(RESULT).parent))}:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = api.download_artifacts(job.run_id, RESULT, folder)
        return cast("dvc_locks.Changes", json.loads(Path(path).read_text(encoding="utf-8")))


def environment_of_job(names: Sequence[str], uri: str | None) -> dict[str, str]:
    """Gather the environment variables of a job: server, credentials, and variables named in the backend config.

    Credentials come from the environment or from MLflow's own file, as for any MLflow client.

    Args:
        names: of further variables that the job gets from here.
        uri: of the tracking server as the job reaches it; None: as this machine reaches it.

    Returns:
        The variables by name.

    Raises:
        RemoteError: a variable is not set here, or no other machine can reach the server.

    """
    uri = uri or address()
    if not uri.startswith(("http://", "https://")):
        raise RemoteError(
            f"MLFLOW_TRACKING_URI is {origin(uri)}, which another machine can't reach; name a server (docs/remote.md)"
        )
    from mlflow.utils.credentials import read_mlflow_creds

    credentials = read_mlflow_creds()
    variables = {"MLFLOW_TRACKING_URI": uri}
    if credentials.username and credentials.password:
        variables["MLFLOW_TRACKING_USERNAME"] = credentials.username
        variables["MLFLOW_TRACKING_PASSWORD"] = credentials.password
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_INSECURE_TLS"):
        if value := os.environ.get(name):
            variables[name] = value
    for name in names:
        if name not in os.environ:
            raise RemoteError(f"backend config: environment: {name} is not set here")
        variables[name] = os.environ[name]
    return variables
