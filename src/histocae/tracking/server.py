"""The tracking server: its client, its experiments, and what its failures mean."""

import logging
import os
import re

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from histocae.tracking.environment import address, call_limits, default_address, home

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # all retries are reported as one failure
logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # that it checks an example
# what an unreachable, full or broken server can raise: uploads raise errors of requests (which are OSErrors), a
# database those of SQLAlchemy
FAILURES = (MlflowException, OSError, SQLAlchemyError)
__all__ = ["FAILURES", "MlflowClient", "MlflowException", "call_limits", "client", "experiment", "failure_message"]


def failure_message(error: Exception) -> str:
    """Describe a failure of the server in one line, without the password that its address may contain."""
    if isinstance(error.__context__ or error, RequestException):
        uri = re.sub(r"//[^/@]*@", "//", mlflow.get_tracking_uri())
        return f"tracking server {uri} can't be reached, or fails"
    return f"tracking server: {(str(error).splitlines() or [type(error).__name__])[0]}"


def client() -> MlflowClient:
    """Return a client of the server that MLFLOW_TRACKING_URI names, or of the project's mlflow.db.

    Making it may call the server or create the database.
    """
    uri = address()
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def experiment(api: MlflowClient, name: str) -> str:
    """Find an experiment, and create or restore it if needed.

    Args:
        api: client of the server.
        name: of the experiment.

    Returns:
        The experiment's id.

    Raises:
        MlflowException: the server refuses.

    """
    existing = api.get_experiment_by_name(name)
    if existing is None:
        try:
            return str(api.create_experiment(name, _artifacts(name)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            existing = api.get_experiment_by_name(name)  # another process was faster
            if existing is None:  # and a third one deleted it for good
                raise
    if existing.lifecycle_stage == "deleted":
        api.restore_experiment(existing.experiment_id)
    return str(existing.experiment_id)


def _artifacts(name: str) -> str | None:
    """Return the folder of an experiment's files; None for the default of the server or of MLflow here."""
    above = home()
    # MLflow itself puts the address it uses into the environment
    if above is None or os.environ.get("MLFLOW_TRACKING_URI", default_address()) != default_address():
        return None
    return (above / "mlruns" / name).as_uri()
