"""Environment variables that MLflow reads; they are set here, before MLflow is imported.

While a training is running, only the thread that trains may change the environment. Native code reads it without a
lock, and would read a variable that another thread is changing.
"""

import os
import re
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
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return default_address()
    relative = re.fullmatch(r"(sqlite(?:\+\w+)?):///([^/:?].*)", uri)
    here = Path.cwd()
    if relative is None or (workspace := _workspace(here)) == here:
        return uri
    return f"{relative[1]}:///{workspace / relative[2]}"


def project_folder() -> Path:
    """Return the folder with the project's mlflow.db: that of MLproject, here or above, else this folder.

    So all pipelines of a project use one database, also those that lie deeper, as examples/mnist does.
    """
    here = _workspace(Path.cwd())
    return next((folder for folder in (here, *here.parents) if (folder / "MLproject").is_file()), here)


def _workspace(folder: Path) -> Path:
    """Return the folder whose copy DVC runs an experiment in; a folder outside such copies itself.

    `dvc exp run --temp` and `--queue` work in a copy of the repository below .dvc/tmp/exps, and delete it afterwards.
    """
    dvc_root = next((above for above in (folder, *folder.parents) if (above / ".dvc").is_dir()), None)
    if dvc_root is None:
        return folder
    for above in dvc_root.parents:
        if above.parts[-3:] == (".dvc", "tmp", "exps"):
            return above.parents[2] / folder.relative_to(dvc_root)
    return folder


def default_address() -> str:
    """Return the address of the project's mlflow.db."""
    folder = project_folder()
    return DEFAULT_URI if folder == Path.cwd() else f"sqlite:///{folder}/mlflow.db"


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
