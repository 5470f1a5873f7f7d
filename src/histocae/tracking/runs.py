"""Runs: found again by their training, filled in batches, the same however often it is done."""

import getpass
import os
import tempfile
import uuid
from pathlib import Path

from mlflow.entities import Metric, Param, Run
from PIL import Image

from histocae.tracking.record import TRAINING_ID
from histocae.tracking.server import MlflowClient, MlflowException

BATCH = 500  # a server takes 1000 metrics and 100 params in a call
PARAMS_BATCH = 100
PARAM_LENGTH = 6000
THUMBNAIL = 256  # pixels, as MLflow's own


def find(api: MlflowClient, experiment_id: str, training_id: str, hint: str | None) -> Run | None:
    """Find the run of a training: by the id it had, else by its tag."""
    if hint is not None:
        try:
            run = api.get_run(hint)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
        else:
            same = run.data.tags.get(TRAINING_ID) == training_id
            same = same and run.info.experiment_id == experiment_id
            if same and run.info.lifecycle_stage == "active":
                return run
    found = api.search_runs(
        [experiment_id], f"tags.`{TRAINING_ID}` = '{training_id}'", max_results=1, order_by=["start_time"]
    )
    return found[0] if found else None


def create(
    api: MlflowClient, experiment_id: str, name: str, training_id: str, start: int, tags: dict[str, str]
) -> Run:
    """Make a flat run; `start` in milliseconds since 1970."""
    about = {
        TRAINING_ID: training_id,
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        **tags,
    }
    return api.create_run(experiment_id, start_time=start, run_name=name, tags=about)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def log_params(api: MlflowClient, run_id: str, params: dict[str, object]) -> None:
    """Log params; those already there stay as they are."""
    known = api.get_run(run_id).data.params
    new = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items() if key not in known]
    for start in range(0, len(new), PARAMS_BATCH):
        api.log_batch(run_id, params=new[start : start + PARAMS_BATCH])


def log_metrics(api: MlflowClient, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
    """Log (key, value, timestamp in ms, step) points; MLflow keeps equal points once."""
    metrics = [Metric(key, value, stamp, step) for key, value, stamp, step in points]
    for start in range(0, len(metrics), BATCH):
        api.log_batch(run_id, metrics=metrics[start : start + BATCH])


def epoch_points(row: dict[str, float], stamp: int) -> list[tuple[str, float, int, int]]:
    """Give the points of one epoch's row of the history."""
    return [(key, row[key], stamp, int(row["epoch"])) for key in ("loss", "validation_loss")]


def log_picture(api: MlflowClient, run_id: str, path: Path, key: str, step: int, stamp: int, known: set[str]) -> None:
    """Log a picture for the UI's image grid, once: `MlflowClient.log_image` would add another.

    The name has the form that log_image gives, with an id derived from the run and step.
    """
    unique = uuid.uuid5(uuid.NAMESPACE_URL, f"histocae:{run_id}:{key}:{step}")
    stem = f"{key.replace('/', '~')}+step+{step}+timestamp+{stamp}+{unique}"
    if {f"images/{stem}.png", f"images/{stem}+compressed.webp"} <= known:
        return
    with tempfile.TemporaryDirectory() as folder, Image.open(path) as picture:
        small = picture.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.save(Path(folder) / f"{stem}.png")
        small.save(Path(folder) / f"{stem}+compressed.webp")
        api.log_artifacts(run_id, folder, "images")
    api.set_tag(run_id, "mlflow.loggedImages", "True")


def artifacts(api: MlflowClient, run_id: str, folder: str) -> set[str]:
    """List the files of one artifact folder."""
    return {one.path for one in api.list_artifacts(run_id, folder) if not one.is_dir}
