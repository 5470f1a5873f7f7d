"""What MLflow reads from the environment; it is set here, before MLflow is imported.

While a training goes on nothing may be added to or taken from the environment but by the thread that trains: native
code reads it, and is led astray by what other threads do to it meanwhile.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULT_URI = "sqlite:///mlflow.db"
# its chatter about fresh databases, bars and addresses
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def address() -> str:
    """Give the server that MLFLOW_TRACKING_URI names, or the project's mlflow.db."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_address()


def home() -> Path | None:
    """Give the project's folder where the pipeline lies deeper in it (examples/mnist): one database for all."""
    here = Path.cwd()
    if (here / "MLproject").is_file():
        return None
    return next((folder for folder in here.parents if (folder / "MLproject").is_file()), None)


def default_address() -> str:
    """Give the address of the project's mlflow.db."""
    above = home()
    return DEFAULT_URI if above is None else f"sqlite:///{above}/mlflow.db"


@contextmanager
def call_limits(retries: int, timeout: int) -> Iterator[None]:
    """Bound how long one call to a server may take; MLflow reads these at each call.

    Args:
        retries: after a call that failed.
        timeout: of each, in seconds.

    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
    }
    former = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
