"""The logged models of runs: saved once, and again where their files are lost."""

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import Schema, TensorSpec

from histocae.contrast.contract import Contract
from histocae.errors import YamlError
from histocae.files import read_yaml
from histocae.networks import backend
from histocae.tracking import python_models, runs
from histocae.tracking.record import TrainingRecord
from histocae.tracking.server import MlflowClient

MODEL = "model"
FILES = "histocae.files"  # tag with the sizes of the files in bytes, by path; models of earlier versions lack it
PACKAGES = ("mlflow", "tensorflow", "keras", "numpy", "pandas")


def logged(
    api: MlflowClient,
    experiment_id: str,
    run_id: str,
    state: str,
    tags: dict[str, str],
    save: Callable[[str, str | None], None],
) -> str:
    """Find the run's logged model of this state, or have it saved under a new id.

    A model whose files are lost is saved again under its id, so that its versions in the registry work again.

    Args:
        api: client of the server.
        experiment_id: of the run.
        run_id: of the run.
        state: of the model: a fingerprint of its weights and whatever else is saved, such as its contract.
        tags: of a new logged model.
        save: saves the model; it takes the logged model's id, and the id of the run that gets it as an output.

    Returns:
        The logged model's id.

    """
    for model in api.search_logged_models([experiment_id], f"source_run_id = '{run_id}' AND name = '{MODEL}'"):
        if model.status == LoggedModelStatus.READY and model.tags.get("weights") == state:
            if not _has_model_files(api, model):
                _save(api, save, model.model_id, None)  # the run already has it as an output
            return str(model.model_id)
        if model.status != LoggedModelStatus.READY:
            api.delete_logged_model(model.model_id)
    created = api.create_logged_model(
        experiment_id, name=MODEL, source_run_id=run_id, tags={"weights": state, **tags}
    )
    _save(api, save, created.model_id, run_id)
    return str(created.model_id)


def _save(api: MlflowClient, save: Callable[[str, str | None], None], model_id: str, run_id: str | None) -> None:
    # MLflow's check of the input example prints Keras' progress bar
    with contextlib.redirect_stdout(io.StringIO()):
        save(model_id, run_id)
    api.set_logged_model_tags(model_id, {FILES: json.dumps(_sizes(api, model_id), sort_keys=True)})


def _sizes(api: MlflowClient, model_id: str, folder: str | None = None) -> dict[str, int | None]:
    """Return the bytes of each file of a logged model, by path; None where the server does not state its size."""
    sizes: dict[str, int | None] = {}
    for entry in api.list_logged_model_artifacts(model_id, folder):
        sizes |= _sizes(api, model_id, entry.path) if entry.is_dir else {entry.path: entry.file_size}
    return sizes


def _has_model_files(api: MlflowClient, model: LoggedModel) -> bool:
    """Check whether all files of a logged model are there, with the sizes that they had when they were saved."""
    found = _sizes(api, model.model_id)
    if MLMODEL_FILE_NAME not in found:
        return False
    if FILES in model.tags:
        with contextlib.suppress(ValueError):  # the tag can be edited
            if isinstance(saved := json.loads(model.tags[FILES]), dict):
                return runs.are_among(found, saved)
    sizes = [size for path, size in found.items() if path != MLMODEL_FILE_NAME]
    return None in sizes or sum(filter(None, sizes)) >= _described_size(model)


def _described_size(model: LoggedModel) -> float:
    """Return the bytes of a logged model as MLflow's description of it states them, without some short files.

    So a model without the tag is checked: an earlier version saved it, or was killed before it wrote the tag.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = mlflow.artifacts.download_artifacts(f"{model.artifact_location}/{MLMODEL_FILE_NAME}", dst_path=folder)
        try:
            description = read_yaml(Path(file))
        except YamlError:
            return math.inf
    # MLflow writes the keys in alphabetical order, and the time is the last
    is_whole = isinstance(description, dict) and "utc_time_created" in description
    size = description.get("model_size_bytes") if is_whole else None
    return size if isinstance(size, int) else math.inf


class _KerasFlavor:
    """The flavor mlflow.tensorflow, logged without a check of the input example.

    The check loads the model and serves it, which takes longer than to log it. `Model.log` has a switch for it
    (validate_serving_input), but `mlflow.tensorflow.log_model` does not pass it on (MLflow 3.17), and its
    `save_model` does not take it. That the model can be served is tested in the tests.
    """

    name = "mlflow.tensorflow"

    @staticmethod
    def save_model(validate_serving_input: bool, **arguments: Any) -> None:
        mlflow.tensorflow.save_model(**arguments)


def load() -> None:
    """Import the modules that MLflow otherwise imports when a model is first logged."""
    for module in (mlflow.pyfunc, mlflow.tensorflow):
        module.save_model  # noqa: B018 (a lazy module is imported when one of its names is looked up)


def python_model(
    api: MlflowClient,
    experiment_id: str,
    run_id: str,
    contract: Contract,
    records: Sequence[TrainingRecord],
    cohort: str,
) -> str:
    """Log a model with its contract, once; another contract makes another logged model.

    Args:
        api: client of the server.
        experiment_id: of the run.
        run_id: of the run.
        contract: of the model.
        records: of its trainings: of one model, or of the pair.
        cohort: of the model; pair for a pair.

    Returns:
        The logged model's id.

    """

    def save(model_id: str, of_run: str | None) -> None:
        with python_models.saved_for_log(contract, records) as arguments:
            Model.log(None, python_models.Flavor, name=MODEL, model_id=model_id, run_id=of_run, **arguments)

    state = python_models.state(contract)
    return logged(api, experiment_id, run_id, state, {"cohort": cohort}, save)


def autoencoder(api: MlflowClient, experiment_id: str, run_id: str, record: TrainingRecord) -> str:
    """Log an autoencoder of other images than patches, which has no contract, once.

    Args:
        api: client of the server.
        experiment_id: of the run.
        run_id: of the run.
        record: of the training.

    Returns:
        The logged model's id.

    """

    def save(model_id: str, of_run: str | None) -> None:
        backend.start()
        from histocae.networks.cae import CAE, with_rescaling

        cae = CAE(path=record.folder, load=True)
        shape = tuple(cae.params["input_shape"])
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *shape))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, *shape))]),
        )
        Model.log(
            None,
            _KerasFlavor,
            name=MODEL,
            model_id=model_id,
            run_id=of_run,
            model=with_rescaling(cae),
            signature=signature,
            input_example=np.zeros((1, *shape), np.uint8),
            validate_serving_input=False,
            flavor_name=_KerasFlavor.name,
            pip_requirements=[f"{name}=={version(name)}" for name in PACKAGES],
        )

    tags = {"cohort": record.training["cohort"]}
    return logged(api, experiment_id, run_id, record.training["weights"], tags, save)
