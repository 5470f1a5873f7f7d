"""Environment variables that MLflow reads; they are set here, before MLflow is imported.

While a training is running, only the thread that trains may change the environment. Native code reads it without a
lock, and would read a variable that another thread is changing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULT_URI = "sqlite:///mlflow.db"
# no telemetry, progress bars or addresses on the terminal
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def address() -> str:
    """Return the address of the server that MLFLOW_TRACKING_URI names, else of the project's mlflow.db."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_address()


def home() -> Path | None:
    """Return the project's folder where the pipeline lies deeper in it, as examples/mnist does; else None.

    So all pipelines of a project use one database.
    """
    here = Path.cwd()
    if (here / "MLproject").is_file():
        return None
    return next((folder for folder in here.parents if (folder / "MLproject").is_file()), None)


def default_address() -> str:
    """Return the address of the project's mlflow.db."""
    above = home()
    return DEFAULT_URI if above is None else f"sqlite:///{above}/mlflow.db"


@contextmanager
def call_limits(retries: int, timeout: int) -> Iterator[None]:
    """Bound how long each call to a server may take; MLflow reads these variables at each call.

    Args:
        retries: after a call that failed.
        timeout: of each try, in seconds.

    Yields:
        Nothing; the former limits hold again afterwards.

    """
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
    }
    former = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
