"""From the outputs of a training to its MLflow run: everything that is not there yet."""

import contextlib
import io
import logging
import time
import warnings
from importlib.metadata import version

import mlflow
import numpy as np
from filelock import FileLock
from mlflow.entities import DatasetInput, InputTag, LoggedModelStatus, Run
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from histocae import backend, paths
from histocae.errors import TrackingError
from histocae.files import fingerprint
from histocae.tracking import runs
from histocae.tracking.record import SPLIT_CONTEXTS, Record, flat
from histocae.tracking.server import FAILURES, MlflowClient, client, experiment, patience, told

log = logging.getLogger(__name__)
MODEL = "model"
EVALUATION = "histocae.evaluation"
WEIGHTS = "histocae.weights"
PACKAGES = ("mlflow", "tensorflow", "keras", "numpy", "pandas")
RETRIES, SECONDS = 3, 60


def deliver(record: Record, experiment_name: str) -> tuple[Run, str]:
    """Complete a training's run on the server; doing it twice changes nothing.

    Returns:
        The run, and the id of its logged model.

    Raises:
        TrackingError: the server is away or refuses.

    """
    folder = paths.SCRATCH / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        # two deliveries at once would each make a run
        with FileLock(folder / "delivery.lock"), patience(RETRIES, SECONDS):
            with patience(retries=1, timeout=10):  # is it there at all?
                api = client()
                place = experiment(api, experiment_name)
            run = _run(api, place, record)
            run_id = run.info.run_id
            known = run.data.tags
            runs.log_params(api, run_id, flat(record.training["params"]))
            runs.log_metrics(api, run_id, _points(record))
            _inputs(api, run_id, record)
            _files(api, run_id, record, known)
            _evaluation(api, run_id, record, known)
            _pictures(api, run_id, record)
            model_id = _model(api, place, run_id, record)
            if api.get_run(run_id).info.status != "FINISHED":
                api.set_terminated(run_id, "FINISHED", end_time=record.run["end"])
    except FAILURES as error:
        raise TrackingError(told(error)) from None
    log.info("%s: run %s is complete, %.1f s", record.name, run_id, time.perf_counter() - start)
    return api.get_run(run_id), model_id


def _run(api: MlflowClient, place: str, record: Record) -> Run:
    about = record.run
    tags = {
        **about["tags"], "model": record.name, "cohort": record.training["cohort"],
        "source": record.training["params"]["data"]["source"],
    }  # fmt: skip
    run = runs.find(api, place, about["training_id"], about["run_id"])
    if run is None:
        run = runs.create(api, place, record.name, about["training_id"], about["start"], tags)
    for key, value in tags.items():
        if run.data.tags.get(key) != value:
            api.set_tag(run.info.run_id, key, value)
    return run


def _points(record: Record) -> list[tuple[str, float, int, int]]:
    points = []
    for row, stamp in zip(record.history.to_dict("records"), record.run["stamps"], strict=True):
        points += runs.epoch_points(row, stamp)
    end, last = record.run["end"], record.training["epochs"]
    results = {
        "seconds": record.run["seconds"],
        "best_epoch": record.training["best_epoch"],
        "parameters": record.training["parameters"],
    }
    return points + [(key, float(value), end, last) for key, value in results.items()]


def _inputs(api: MlflowClient, run_id: str, record: Record) -> None:
    """Log the patch tables as dataset inputs; MLflow keeps equal ones once."""
    inputs = []
    for split, context in SPLIT_CONTEXTS.items():
        table = record.patches(split)
        if table is None:
            log.info("%s: data/splits has changed since; its %s patches are not listed", record.name, split)
            continue
        with warnings.catch_warnings():
            # hints: integer columns (the tables have no missing integers) and what else the
            # path could be (it is a local file)
            warnings.simplefilter("ignore")
            source = (paths.SPLITS / f"{split}.csv").as_posix()
            digest = record.training["splits"][split][:16]
            dataset = mlflow.data.from_pandas(table, source, name=f"{split}-{record.name}", digest=digest)
            entity = dataset._to_mlflow_entity()
        inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", context)]))
    api.log_inputs(run_id, inputs)


def _files(api: MlflowClient, run_id: str, record: Record, tags: dict[str, str]) -> None:
    """Upload the saved autoencoder; the tag comes last, and says that all of it is there."""
    if tags.get(WEIGHTS) != record.training["weights"]:
        for path in sorted(record.folder.iterdir()):
            if path.is_file():
                api.log_artifact(run_id, str(path), "cae")
        api.set_tag(run_id, WEIGHTS, record.training["weights"])


def _evaluation(api: MlflowClient, run_id: str, record: Record, tags: dict[str, str]) -> None:
    """Upload the evaluation, and again where it gave something else since."""
    if record.evaluation is None or tags.get(EVALUATION) == (state := fingerprint(record.evaluation)):
        return
    api.log_artifacts(run_id, str(paths.evaluation(record.name)), "evaluation")
    # stamped now: of several values at one step the UI shows the latest
    now, last = int(time.time() * 1000), record.training["epochs"]
    runs.log_metrics(api, run_id, [(key, value, now, last) for key, value in record.metrics.items()])
    api.set_tag(run_id, EVALUATION, state)


def _pictures(api: MlflowClient, run_id: str, record: Record) -> None:
    known = runs.artifacts(api, run_id, "images")
    for path in sorted((record.folder / "samples").glob("epoch_*.png")):
        step = int(path.stem.removeprefix("epoch_"))
        runs.log_picture(api, run_id, path, "reconstruction", step, record.run["stamps"][step - 1], known)


def _model(api: MlflowClient, place: str, run_id: str, record: Record) -> str:
    """Log the autoencoder with signature, input example and pinned requirements, once."""
    weights = record.training["weights"]
    found = api.search_logged_models([place], f"source_run_id = '{run_id}' AND name = '{MODEL}'")
    for one in found:
        if one.status == LoggedModelStatus.READY and one.tags.get("weights") == weights:
            return one.model_id
        if one.status != LoggedModelStatus.READY:
            api.delete_logged_model(one.model_id)

    backend.start()
    from histocae.model import CAE
    from histocae.training import on_bytes

    cae = CAE(path=record.folder, load=True)
    shape = tuple(cae.params["input_shape"])
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, *shape))]),
    )
    logged = api.create_logged_model(
        place, name=MODEL, source_run_id=run_id,
        tags={"weights": weights, "cohort": record.training["cohort"]},
    )  # fmt: skip
    # its check of the example prints Keras' progress bar
    with contextlib.redirect_stdout(io.StringIO()):
        mlflow.tensorflow.log_model(
            on_bytes(cae), name=MODEL, model_id=logged.model_id, run_id=run_id, signature=signature,
            input_example=np.zeros((1, *shape), np.uint8),
            pip_requirements=[f"{name}=={version(name)}" for name in PACKAGES],
        )  # fmt: skip
    return logged.model_id
