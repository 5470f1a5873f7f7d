"""The logged models of runs: saved once, and again where their files are lost."""

import contextlib
import io
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from histocae.networks import backend
from histocae.tracking.record import TrainingRecord
from histocae.tracking.server import MlflowClient

MODEL = "model"
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
        state: of the model: a fingerprint of its weights and whatever else is saved.
        tags: of a new logged model.
        save: saves the model; it takes the logged model's id, and the id of the run that gets it as an output.

    Returns:
        The logged model's id.

    """
    for model in api.search_logged_models([experiment_id], f"source_run_id = '{run_id}' AND name = '{MODEL}'"):
        if model.status == LoggedModelStatus.READY and model.tags.get("weights") == state:
            if not _has_model_files(api, model.model_id):
                _save(save, model.model_id, None)  # the run already has it as an output
            return str(model.model_id)
        if model.status != LoggedModelStatus.READY:
            api.delete_logged_model(model.model_id)
    created = api.create_logged_model(
        experiment_id, name=MODEL, source_run_id=run_id, tags={"weights": state, **tags}
    )
    _save(save, created.model_id, run_id)
    return str(created.model_id)


def _save(save: Callable[[str, str | None], None], model_id: str, run_id: str | None) -> None:
    # MLflow's check of the input example prints Keras' progress bar
    with contextlib.redirect_stdout(io.StringIO()):
        save(model_id, run_id)


def _has_model_files(api: MlflowClient, model_id: str) -> bool:
    """Check whether the files of a logged model are there: its description, and a file in each of its folders."""
    entries = api.list_logged_model_artifacts(model_id)
    folders = [entry.path for entry in entries if entry.is_dir]
    is_described = "MLmodel" in {entry.path for entry in entries}
    return is_described and all(api.list_logged_model_artifacts(model_id, folder) for folder in folders)


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


def autoencoder(api: MlflowClient, experiment_id: str, run_id: str, record: TrainingRecord) -> str:
    """Log the autoencoder with signature, input example and pinned requirements, once.

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
