"""The tracking server: which one, and how patiently it is spoken to."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# before mlflow is imported: its chatter about fresh databases, bars and addresses
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

DEFAULT_URI = "sqlite:///mlflow.db"
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries are told as one failure
logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # that it checks an example
# what a server that is away, full or broken can raise: uploads raise what requests raises
# (an OSError), a database what SQLAlchemy raises
FAILURES = (MlflowException, OSError, SQLAlchemyError)
__all__ = ["FAILURES", "MlflowClient", "MlflowException", "client", "experiment", "patience", "told"]


def told(error: Exception) -> str:
    """Tell a failure in one line."""
    if isinstance(error.__context__ or error, RequestException):
        return f"tracking server {mlflow.get_tracking_uri()} can't be reached, or fails"
    return f"tracking server: {(str(error).splitlines() or [type(error).__name__])[0]}"


def client() -> MlflowClient:
    """Give a client of the server that MLFLOW_TRACKING_URI names, or of the project's mlflow.db.

    Making it may touch the server or the database.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _default_uri()
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


def _home() -> Path | None:
    """Give the project's folder where the pipeline lies deeper in it (examples/mnist): one database for all."""
    here = Path.cwd()
    if (here / "MLproject").is_file():
        return None
    return next((folder for folder in here.parents if (folder / "MLproject").is_file()), None)


def _default_uri() -> str:
    home = _home()
    return DEFAULT_URI if home is None else f"sqlite:///{home}/mlflow.db"


def _artifacts(name: str) -> str | None:
    """Tell where an experiment's files go; None for where the server, or MLflow here, would have them."""
    home = _home()
    # MLflow puts the address in use into the environment
    beside = home is not None and os.environ.get("MLFLOW_TRACKING_URI", _default_uri()) == _default_uri()
    return (home / "mlruns" / name).as_uri() if beside else None


_LOCK = threading.Lock()
_ASKED: list[dict[str, str]] = []  # what those ask for that speak to the server now, the latest last
_FORMER: dict[str, str | None] = {}  # what stood there before


@contextmanager
def patience(retries: int, timeout: int) -> Iterator[None]:
    """Bound how long one call to a server may take; MLflow reads these at each call.

    They belong to the process: of several threads the latest that asked is obeyed.

    Args:
        retries: after a call that failed.
        timeout: of each, in seconds.

    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
    }
    with _LOCK:
        if not _ASKED:
            _FORMER.update({name: os.environ.get(name) for name in wanted})
        _ASKED.append(wanted)
        os.environ.update(wanted)
    try:
        yield
    finally:
        with _LOCK:
            _ASKED.remove(wanted)
            for name, value in (_ASKED[-1] if _ASKED else _FORMER).items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
