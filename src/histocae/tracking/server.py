"""The tracking server: which one, and how patiently it is spoken to."""

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
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries are told as one failure
logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # that it checks an example
# what a server that is away, full or broken can raise: uploads raise what requests raises
# (an OSError), a database what SQLAlchemy raises
FAILURES = (MlflowException, OSError, SQLAlchemyError)
__all__ = ["FAILURES", "MlflowClient", "MlflowException", "call_limits", "client", "experiment", "failure_message"]


def failure_message(error: Exception) -> str:
    """Tell a failure in one line."""
    if isinstance(error.__context__ or error, RequestException):
        # without a password that may stand in it
        uri = re.sub(r"//[^/@]*@", "//", mlflow.get_tracking_uri())
        return f"tracking server {uri} can't be reached, or fails"
    return f"tracking server: {(str(error).splitlines() or [type(error).__name__])[0]}"


def client() -> MlflowClient:
    """Give a client of the server that MLFLOW_TRACKING_URI names, or of the project's mlflow.db.

    Making it may touch the server or the database.
    """
    uri = address()
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def experiment(api: MlflowClient, name: str) -> str:
    """Give the id of an experiment, making it if need be."""
    found = api.get_experiment_by_name(name)
    if found is None:
        try:
            return api.create_experiment(name, _artifacts(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = api.get_experiment_by_name(name)  # another process was faster
    if found.lifecycle_stage == "deleted":
        api.restore_experiment(found.experiment_id)
    return found.experiment_id


def _artifacts(name: str) -> str | None:
    """Tell where an experiment's files go; None for where the server, or MLflow here, would have them."""
    above = home()
    # MLflow puts the address in use into the environment
    beside = above is not None and os.environ.get("MLFLOW_TRACKING_URI", default_address()) == default_address()
    return (above / "mlruns" / name).as_uri() if beside else None
