"""Jobs as the tracking server knows them: runs of `mlflow run` on another machine, their tags, log and result."""

import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run, RunStatus, RunTag
from mlflow.store.entities import PagedList

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
REASON_LENGTH = 4000


def hand_on(run_id: str, changed: dvc_locks.Changes, head: str) -> None:
    """Keep with a run that MLflow's own backend sent what it changed in DVC's lock files, and the commit.

    Raises:
        TrackingError: the server is away.

    """
    try:
        api = client()
        _keep(api, run_id, changed)
        _set_tags(api, run_id, {BACKEND: "histocae-pod", HOST: platform.node(), HEAD: head})
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def _keep(api: MlflowClient, run_id: str, changed: dvc_locks.Changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / Path(RESULT).name
        result.write_text(json.dumps(changed), encoding="utf-8")
        api.log_artifact(run_id, str(result), str(Path(RESULT).parent))


def _set_tags(api: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set all tags or none: who lists jobs finds whole ones."""
    api.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def conclude(run_id: str, status: str, reason: str | None, changed: dvc_locks.Changes | None = None) -> None:
    """Give a job's run its final status, and the same to those of its trainings that did not end.

    With `changed`, what it changed in DVC's lock files is kept with it.

    Raises:
        FAILURES: the server does not take it.

    """
    api = client()
    if changed:
        _keep(api, run_id, changed)
    for run in _children(run_id):
        if run.info.status == "RUNNING":
            api.set_terminated(run.info.run_id, status)
    if reason is not None:
        api.set_tag(run_id, REASON, reason[:REASON_LENGTH])
    api.set_terminated(run_id, status)


def _children(run_id: str) -> list[Run]:
    return _search(f"tags.`{PARENT}` = '{run_id}'")


def _search(wanted: str) -> list[Run]:
    api = client()
    experiments = _pages(lambda token: api.search_experiments(max_results=1000, page_token=token))
    in_all = [one.experiment_id for one in experiments]
    return _pages(lambda token: api.search_runs(in_all, wanted, max_results=500, page_token=token)) if in_all else []


def _pages(search: Callable[[str | None], PagedList]) -> list[Any]:
    """Gather all that a search finds."""
    found, token = [], None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found


@dataclass(frozen=True)
class Job:
    """A job's run as it was when it was read.

    Attributes:
        run_id: of its run.
        name: of its run.
        status: of its run, one of MLflow's.
        start: of its run, in ms since 1970.
        end: the same; None while it goes on.
        tags: of its run.

    """

    run_id: str
    name: str
    status: str
    start: int
    end: int | None
    tags: dict[str, str]

    @classmethod
    def of(cls, run: Run) -> "Job":
        """Read a run."""
        info = run.info
        return cls(info.run_id, info.run_name, info.status, info.start_time, info.end_time, dict(run.data.tags))

    @property
    def is_over(self) -> bool:
        """Whether its status is final."""
        return RunStatus.is_terminated(RunStatus.from_string(self.status))

    @property
    def silent_seconds(self) -> float:
        """How long ago it gave a sign of life, or else was sent, by this machine's clock."""
        return time.time() - float(self.tags.get(SEEN, self.start / 1000))

    @property
    def place(self) -> places.Place | None:
        """Where it is, for who sent it from this machine."""
        return places.read(self.run_id)


def sent(run_id: str, tags: Mapping[str, str], name: str | None = None) -> Job:
    """Tag a run as a job that waits to begin."""
    api = client()
    _set_tags(api, run_id, tags)
    api.update_run(run_id, status="SCHEDULED", name=name)
    return read(run_id)


def tag(job: Job, key: str, value: str) -> Job:
    """Set a tag of a job's run."""
    client().set_tag(job.run_id, key, value)
    return read(job.run_id)


def read(run_id: str) -> Job:
    """Read a job anew."""
    return Job.of(client().get_run(run_id))


def every() -> list[Job]:
    """List all jobs of the server, the newest first."""
    wanted = f"tags.`{BACKEND}` LIKE 'histocae-%'"
    found = [Job.of(run) for run in _search(wanted) if {HOST, HEAD} <= set(run.data.tags)]
    return sorted(found, key=lambda job: -job.start)


def find(start: str) -> Job:
    """Find a job by its run's id or the first characters of it.

    Raises:
        RemoteError: none or several begin so.

    """
    found = [job for job in every() if job.run_id.startswith(start)]
    if len(found) != 1:
        raise RemoteError(f"{start}: {len(found) or 'no'} jobs whose run begins so; histocae jobs lists them")
    return found[0]


def result(job: Job) -> dvc_locks.Changes:
    """Read what a job that is over changed in DVC's lock files."""
    api = client()
    if RESULT not in {one.path for one in api.list_artifacts(job.run_id, str(Path(RESULT).parent))}:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = api.download_artifacts(job.run_id, RESULT, folder)
        return json.loads(Path(path).read_text(encoding="utf-8"))


def variables(names: list[str], uri: str | None) -> dict[str, str]:
    """Gather the environment that a job gets: the server with its credentials, and variables by name.

    Credentials are those of the environment, or of MLflow's own file, as for any MLflow client.

    Args:
        names: of more variables that are handed on.
        uri: of the server as the job reaches it; None: as we do.

    Raises:
        RemoteError: one is not set, or the server can't be reached from elsewhere.

    """
    uri = uri or address()
    if not uri.startswith(("http://", "https://")):
        raise RemoteError(
            f"MLFLOW_TRACKING_URI is {uri}, which another machine can't reach; name a server (docs/remote.md)"
        )
    from mlflow.utils.credentials import read_mlflow_creds

    known = read_mlflow_creds()
    found = {"MLFLOW_TRACKING_URI": uri}
    if known.username and known.password:
        found |= {"MLFLOW_TRACKING_USERNAME": known.username, "MLFLOW_TRACKING_PASSWORD": known.password}
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_INSECURE_TLS"):
        if value := os.environ.get(name):
            found[name] = value
    for name in names:
        if name not in os.environ:
            raise RemoteError(f"backend config: environment: {name} is not set here")
        found[name] = os.environ[name]
    return found
