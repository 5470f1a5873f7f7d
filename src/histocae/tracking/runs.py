"""Runs: identified by their training, filled in batches; repeating a call changes nothing."""

import getpass
import os
import tempfile
import uuid
from collections.abc import Mapping
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
    """Find the run of a training.

    Args:
        api: client of the server.
        experiment_id: where to look.
        training_id: in the run's tag.
        hint: id of the run that the training had; it is tried first.

    Returns:
        The run; None if there is none.

    Raises:
        MlflowException: the server refuses.

    """
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
    matches = api.search_runs(
        [experiment_id], f"tags.`{TRAINING_ID}` = '{training_id}'", max_results=1, order_by=["start_time"]
    )
    return matches[0] if matches else None


def create(
    api: MlflowClient, experiment_id: str, name: str, *, training_id: str, start: int, tags: dict[str, str]
) -> Run:
    """Create a run without a parent in MLflow's sense.

    Args:
        api: client of the server.
        experiment_id: of the run.
        name: of the run.
        training_id: by which the run is found again.
        start: milliseconds since 1970.
        tags: of the run.

    Returns:
        The run.

    Raises:
        MlflowException: the server refuses, or is none of MLflow.

    """
    all_tags = {
        TRAINING_ID: training_id,
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        **tags,
    }
    run = api.create_run(experiment_id, start_time=start, run_name=name, tags=all_tags)
    if not run.info.run_id:  # what answers is no server of MLflow
        raise MlflowException("the answer to a new run has no id")
    return run


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def log_params(api: MlflowClient, run_id: str, params: dict[str, object]) -> None:
    """Log params; those that the run has stay as they are.

    Args:
        api: client of the server.
        run_id: of the run.
        params: by dotted key.

    """
    known = api.get_run(run_id).data.params
    new = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items() if key not in known]
    for start in range(0, len(new), PARAMS_BATCH):
        api.log_batch(run_id, params=new[start : start + PARAMS_BATCH])


def log_metrics(api: MlflowClient, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
    """Log points of metrics; MLflow keeps equal points once.

    Args:
        api: client of the server.
        run_id: of the run.
        points: key, value, timestamp (milliseconds since 1970) and step of each.

    """
    metrics = [Metric(key, value, stamp, step) for key, value, stamp, step in points]
    for start in range(0, len(metrics), BATCH):
        api.log_batch(run_id, metrics=metrics[start : start + BATCH])


def epoch_points(row: dict[str, float], stamp: int) -> list[tuple[str, float, int, int]]:
    """Make the points of an epoch's losses.

    Args:
        row: of the history.
        stamp: the epoch's end, milliseconds since 1970.

    Returns:
        Points as `log_metrics` takes them.

    """
    return [(key, row[key], stamp, int(row["epoch"])) for key in ("loss", "validation_loss")]


def log_image(
    api: MlflowClient, run_id: str, path: Path, *, key: str, step: int, stamp: int, known: set[str]
) -> None:
    """Log an image for the image grid of MLflow's UI once; `MlflowClient.log_image` would add a copy at each call.

    The file's name has the form that `log_image` gives, with an id derived from run, key and step.

    Args:
        api: client of the server.
        run_id: of the run.
        path: of the image.
        key: under which the UI shows it.
        step: the same.
        stamp: milliseconds since 1970.
        known: images that the run has, which are not sent again.

    """
    unique = uuid.uuid5(uuid.NAMESPACE_URL, f"histocae:{run_id}:{key}:{step}")
    stem = f"{key.replace('/', '~')}+step+{step}+timestamp+{stamp}+{unique}"
    if {f"images/{stem}.png", f"images/{stem}+compressed.webp"} <= known:
        return
    with tempfile.TemporaryDirectory() as folder, Image.open(path) as image:
        small = image.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(Path(folder) / f"{stem}.png")
        small.save(Path(folder) / f"{stem}+compressed.webp")
        api.log_artifacts(run_id, folder, "images")
    api.set_tag(run_id, "mlflow.loggedImages", "True")


def artifacts(api: MlflowClient, run_id: str, folder: str) -> set[str]:
    """List the files in one artifact folder.

    Args:
        api: client of the server.
        run_id: of the run.
        folder: of its artifacts.

    Returns:
        Paths of the files, without those of subfolders.

    """
    return {entry.path for entry in api.list_artifacts(run_id, folder) if not entry.is_dir}


def has_files(api: MlflowClient, run_id: str, sizes: Mapping[str, int]) -> bool:
    """Check whether files are among the artifacts of a run; a tag that says so may be older than their loss.

    Args:
        api: client of the server.
        run_id: of the run.
        sizes: of the files in bytes, by path relative to the run's artifacts.

    Returns:
        Whether all are there, with these sizes.

    """
    folders = {path.rpartition("/")[0] for path in sizes}
    found = {
        entry.path: entry.file_size for folder in folders for entry in api.list_artifacts(run_id, folder or None)
    }
    return are_among(found, sizes)


def are_among(found: Mapping[str, int | None], sizes: Mapping[str, int | None]) -> bool:
    """Check whether files are among those that a server has.

    Args:
        found: sizes of the server's files in bytes, by path; None where it does not state one.
        sizes: of the files to look for; None where it is not known.

    Returns:
        Whether all are there, with these sizes.

    """
    return all(path in found and (found[path] == size or None in (found[path], size)) for path, size in sizes.items())
