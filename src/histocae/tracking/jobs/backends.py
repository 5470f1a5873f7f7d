"""MLflow's project backends `histocae-ssh` and `histocae-slurm`.

MLflow finds them by the entry points `mlflow.project_backend` of pyproject.toml.
"""

import logging
from typing import Any

from mlflow.exceptions import ExecutionException
from mlflow.projects.backend import AbstractBackend

from histocae.errors import HistocaeError, RemoteError
from histocae.remote import config
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
        """Send a job, and wait for its end if the config says so. The parameters are those of MLflow's backends.

        Args:
            project_uri: a folder, or a git repository's address.
            entry_point: of MLproject.
            params: of the entry point.
            version: commit or branch of the repository; None: the commit that is checked out.
            backend_config: see `histocae.remote.config`.
            tracking_uri: not used: the job gets the server's address from the environment and the config.
            experiment_id: of the job's run.

        Returns:
            The job.

        Raises:
            ExecutionException: the job can't be sent, or did not go well; the message is one line.

        """
        _show_log_lines()
        try:
            job_config = config.read(self.name, backend_config)
            submitted = submit(
                self.name,
                job_config,
                project_uri,
                entry_point=entry_point,
                params=params,
                version=version,
                experiment_id=experiment_id,
            )
            if job_config.wait:
                try:
                    finished = submitted.wait()
                except KeyboardInterrupt:
                    submitted.cancel()
                    raise
                if not finished:
                    raise RemoteError(submitted.job.failure)
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


def _show_log_lines() -> None:
    """Show this package's log lines: MLflow's command shows only its own."""
    logger = logging.getLogger("histocae")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
