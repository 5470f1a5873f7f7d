"""MLflow's project backends `histocae-ssh` and `histocae-slurm`.

MLflow finds them by the entry points `mlflow.project_backend` of pyproject.toml.
"""

import logging
from typing import Any

from mlflow.exceptions import ExecutionException
from mlflow.projects.backend import AbstractBackend

from histocae.errors import HistocaeError, RemoteError
from histocae.remote import config
from histocae.tracking.jobs import job_runs
from histocae.tracking.jobs.sending import Submitted, submit
from histocae.tracking.server import FAILURES, failure_message


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
            raise ExecutionException(failure_message(error)) from None
        return submitted


class SshBackend(_Backend):
    """Runs a project on a machine that ssh reaches."""

    name = "histocae-ssh"


class SlurmBackend(_Backend):
    """Runs a project on a cluster with Slurm."""

    name = "histocae-slurm"


def _speak() -> None:
    """Have our own lines shown by MLflow's command, which knows only its own."""
    ours = logging.getLogger("histocae")
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
