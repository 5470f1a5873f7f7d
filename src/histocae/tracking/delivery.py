"""From the outputs of a training, or of a pair of them, to its MLflow run: everything that is not there yet."""

import contextlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
from filelock import FileLock
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from histocae import paths
from histocae.errors import TrackingError
from histocae.files import fingerprint, sha256
from histocae.networks import backend
from histocae.tracking import pairs, runs, views
from histocae.tracking.record import SPLIT_CONTEXTS, PairRecord, TrainingRecord, flat
from histocae.tracking.server import FAILURES, MlflowClient, call_limits, client, experiment, failure_message
from histocae.tracking.split_tables import TableSummary

log = logging.getLogger(__name__)
MODEL = "model"
EVALUATION = "histocae.evaluation"
LATENT = "histocae.latent"
RESULTS = "histocae.results"
WEIGHTS = "histocae.weights"
COLOR = "mlflow.runColor"
PACKAGES = ("mlflow", "tensorflow", "keras", "numpy", "pandas")
RETRIES, SECONDS = 3, 60


class Delivered(NamedTuple):
    """A model with its run on the server, and its logged model if it may be registered."""

    record: TrainingRecord
    run_id: str
    model_id: str | None


class Results(NamedTuple):
    """What was found with trained models, or without any, and goes into a run of its own.

    Attributes:
        name: of the run.
        state: a fingerprint of all that the results are made of.
        params: nested dicts.
        metrics: by name.
        files: tables and pictures, or folders of such.
        tags: of the run.
        end: milliseconds since 1970.
        view: a name in `views.VIEWS`.

    """

    name: str
    state: str
    params: dict[str, Any]
    metrics: dict[str, float]
    files: tuple[Path, ...]
    tags: dict[str, str]
    end: int
    view: str = "slides"


@contextlib.contextmanager
def _delivery(experiment_name: str, view: str) -> Iterator[tuple[MlflowClient, str]]:
    """Give a client and the experiment's id; a failure inside is told as one."""
    folder = paths.SCRATCH / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # two deliveries at once would each make a run
        with FileLock(folder / "delivery.lock"), call_limits(RETRIES, SECONDS):
            with call_limits(retries=1, timeout=10):  # is it there at all?
                api = client()
                place = experiment(api, experiment_name)
            views.save(api, place, views.VIEWS[view])
            yield api, place
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def deliver(record: TrainingRecord, experiment_name: str, color: str | None = None) -> tuple[Run, str | None]:
    """Complete a training's run on the server; doing it twice changes nothing.

    Args:
        record: of the training.
        experiment_name: of MLflow.
        color: of the run in charts, as #rrggbb.

    Returns:
        The run, and the id of its logged model; None for what is never registered, which has none.

    Raises:
        TrackingError: the server is away or refuses.

    """
    start = time.perf_counter()
    with _delivery(experiment_name, record.view) as (api, place):
        tags = {
            **record.run["tags"],
            "mlflow.source.name": record.command,
            "model": record.name,
            "cohort": record.training["cohort"],
            "architecture": record.training["model"]["architecture"],
            "source": record.training["params"]["data"]["source"],
        }
        if record.layout.fold is not None:
            tags["fold"] = str(record.layout.fold)
        about = record.run
        run = _run(api, place, record.label, about["training_id"], about["run_id"], about["start"], tags)
        run_id = run.info.run_id
        known = run.data.tags
        if color is not None and known.get(COLOR) != color:
            api.set_tag(run_id, COLOR, color)
        runs.log_params(api, run_id, flat(record.training["params"]))
        runs.log_metrics(api, run_id, _points(record))
        _inputs(api, run_id, record)
        _files(api, run_id, record, known)
        _pictures(api, run_id, record)
        _reports(api, run_id, record, known)
        model_id = _autoencoder(api, place, run_id, record) if record.is_candidate else None
        run = _end(api, run_id, about["end"])
    log.info("%s: run %s is complete, %.1f s", record.name, run_id, time.perf_counter() - start)
    return run, model_id


def deliver_pair(pair: PairRecord, experiment_name: str, own_runs: dict[str, str]) -> tuple[Run, str]:
    """Deliver what comparing two models gave as a run of its own, with both as one model.

    Another comparison, or other weights, is another run.

    Args:
        pair: what was compared.
        experiment_name: of MLflow.
        own_runs: model -> run id of its training; both are there.

    Returns:
        The run, and the id of its logged model.

    Raises:
        TrackingError: the server is away or refuses.

    """
    start = time.perf_counter()
    end = max(one.run["end"] for one in (pair.tumor, pair.normal))
    with _delivery(experiment_name, pair.tumor.view) as (api, place):
        tags = {
            "mlflow.source.name": "histocae tissue",
            "model": "pair",
            "tumor": pair.tumor.name,
            "normal": pair.normal.name,
            "tumor.run_id": own_runs[pair.tumor.name],
            "normal.run_id": own_runs[pair.normal.name],
        }
        both = dict(pair.tumor.training["params"])
        both |= {"tissue": pair.tissue["settings"]}
        both |= {"model": {**both["model"], "name": "pair", "cohort": "tumor and normal"}}
        results = Results("pair", pair.state, both, pair.metrics, (paths.TISSUE,), tags, end)
        run_id = _results(api, place, results)

        def save(model_id: str) -> None:
            with pairs.as_python_model(pair) as arguments:
                Model.log(None, mlflow.pyfunc, name=MODEL, model_id=model_id, run_id=run_id, **arguments)

        model_id = _logged(api, place, run_id, pair.state, {"cohort": "pair"}, save)
        run = _end(api, run_id, end)
    log.info("pair: run %s is complete, %.1f s", run_id, time.perf_counter() - start)
    return run, model_id


def deliver_results(results: Results, experiment_name: str) -> str:
    """Deliver what was found without a training of its own, as a run; other results are another run.

    Returns:
        The run's id.

    Raises:
        TrackingError: the server is away or refuses.

    """
    with _delivery(experiment_name, results.view) as (api, place):
        run_id = _results(api, place, results)
        _end(api, run_id, results.end)
    log.info("%s: run %s is complete", results.name, run_id)
    return run_id


def _results(api: MlflowClient, place: str, results: Results) -> str:
    run = _run(api, place, results.name, results.state, None, results.end, results.tags)
    run_id = run.info.run_id
    runs.log_params(api, run_id, flat(results.params))
    stamp = run.info.start_time
    runs.log_metrics(api, run_id, [(key, value, stamp, 0) for key, value in results.metrics.items()])
    state = _hash(results.files)
    if run.data.tags.get(RESULTS) != state:
        for path in results.files:
            if path.is_dir():
                api.log_artifacts(run_id, str(path), path.name)
            else:
                api.log_artifact(run_id, str(path))
        api.set_tag(run_id, RESULTS, state)
    return run_id


def _hash(files: Iterable[Path]) -> str:
    each = [one for path in files for one in (sorted(path.rglob("*")) if path.is_dir() else [path]) if one.is_file()]
    return fingerprint([[one.as_posix(), sha256(one)] for one in each])


def _end(api: MlflowClient, run_id: str, end: int) -> Run:
    if api.get_run(run_id).info.status != "FINISHED":
        api.set_terminated(run_id, "FINISHED", end_time=end)
    return api.get_run(run_id)


def _run(
    api: MlflowClient, place: str, name: str, known_as: str, hint: str | None, start: int, tags: dict[str, str]
) -> Run:
    run = runs.find(api, place, known_as, hint)
    if run is None:
        run = runs.create(api, place, name, known_as, start, tags)
    for key, value in tags.items():
        if run.data.tags.get(key) != value:
            api.set_tag(run.info.run_id, key, value)
    return run


def _points(record: TrainingRecord) -> list[tuple[str, float, int, int]]:
    points = []
    for row, stamp in zip(record.history.to_dict("records"), record.run["stamps"], strict=True):
        points += runs.epoch_points(row, stamp)
    end, last = record.run["end"], record.training["epochs"]
    results = {
        "seconds": record.run["seconds"],
        "best_epoch": record.training["best_epoch"],
        "parameters": record.training["parameters"],
        "latent_size": record.training["latent_size"],
    }
    return points + [(key, float(value), end, last) for key, value in results.items()]


def _inputs(api: MlflowClient, run_id: str, record: TrainingRecord) -> None:
    """Log the patch tables as dataset inputs; MLflow keeps equal ones once."""
    inputs = []
    for split, context in SPLIT_CONTEXTS.items():
        table = record.tables[split]
        if table is None:
            log.info("%s: no %s patches listed, %s has changed since", record.name, split, record.layout.splits)
            continue
        dataset = _dataset(record, split, table)
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    api.log_inputs(run_id, inputs)


def _dataset(record: TrainingRecord, split: str, table: TableSummary) -> Dataset:
    """Describe a table as `mlflow.data.from_pandas` would, which takes it whole."""
    source = (record.layout.splits / f"{split}.csv").as_posix()
    digest = record.training["splits"][split][:16]
    with warnings.catch_warnings():
        # hints: integer columns (the tables have no missing integers) and what else the path could be (it is a file)
        warnings.simplefilter("ignore")
        fields = from_pandas(table.example, source, name=f"{split}-{record.name}", digest=digest).to_dict()
    profile = {"num_rows": table.rows, "num_elements": table.rows * len(table.example.columns)}
    return Dataset(**fields | {"profile": json.dumps(profile)})


def _files(api: MlflowClient, run_id: str, record: TrainingRecord, tags: dict[str, str]) -> None:
    """Upload the saved autoencoder; the tag comes last, and says that all of it is there."""
    if tags.get(WEIGHTS) != record.training["weights"]:
        for path in sorted(record.folder.iterdir()):
            # principal components are large and quickly computed again
            if path.is_file() and not (record.is_linear and path.suffix == ".h5"):
                api.log_artifact(run_id, str(path), "cae")
        api.set_tag(run_id, WEIGHTS, record.training["weights"])


def _reports(api: MlflowClient, run_id: str, record: TrainingRecord, tags: dict[str, str]) -> None:
    """Upload the evaluation and the study of the latents, and again where they gave something else since."""
    found = (
        (EVALUATION, "evaluation", record.evaluation, paths.evaluation(record.name)),
        (LATENT, "latent", record.latent, paths.latent(record.name)),
    )
    for stamp, artifacts, report, folder in found:
        if report is None or tags.get(stamp) == (state := fingerprint(report)):
            continue
        api.log_artifacts(run_id, str(folder), artifacts)
        # stamped now: of several values at one step the UI shows the latest
        now, last = int(time.time() * 1000), record.training["epochs"]
        runs.log_metrics(api, run_id, [(key, value, now, last) for key, value in report["metrics"].items()])
        if stamp == EVALUATION:  # one picture that every model has, at whatever epoch it ended
            picture = folder / "pairs_test.png"
            runs.log_picture(api, run_id, picture, "test_reconstruction", 0, record.run["end"], set())
        api.set_tag(run_id, stamp, state)


def _pictures(api: MlflowClient, run_id: str, record: TrainingRecord) -> None:
    known = runs.artifacts(api, run_id, "images")
    for path in sorted((record.folder / "samples").glob("epoch_*.png")):
        step = int(path.stem.removeprefix("epoch_"))
        runs.log_picture(api, run_id, path, "reconstruction", step, record.run["stamps"][step - 1], known)


def _logged(
    api: MlflowClient, place: str, run_id: str, state: str, tags: dict[str, str], save: Callable[[str], None]
) -> str:
    """Find the run's logged model of this state, or have it saved under a new id; give the id."""
    for one in api.search_logged_models([place], f"source_run_id = '{run_id}' AND name = '{MODEL}'"):
        if one.status == LoggedModelStatus.READY and one.tags.get("weights") == state:
            return one.model_id
        if one.status != LoggedModelStatus.READY:
            api.delete_logged_model(one.model_id)
    logged = api.create_logged_model(place, name=MODEL, source_run_id=run_id, tags={"weights": state, **tags})
    # its check of the example prints Keras' progress bar
    with contextlib.redirect_stdout(io.StringIO()):
        save(logged.model_id)
    return logged.model_id


class _Keras:
    """mlflow.tensorflow as `Model.log` calls it, which can then be told not to try the example.

    To load the model and serve it takes longer than to log it, at the end of each training; that it can be served is
    for the tests.
    """

    name = "mlflow.tensorflow"

    @staticmethod
    def save_model(validate_serving_input: bool, **arguments: Any) -> None:
        mlflow.tensorflow.save_model(**arguments)


def load() -> None:
    """Load what MLflow loads when a model is first logged."""
    for module in (mlflow.pyfunc, mlflow.tensorflow):
        module.save_model  # noqa: B018 (they are loaded when one of their names is looked up)


def _autoencoder(api: MlflowClient, place: str, run_id: str, record: TrainingRecord) -> str:
    """Log the autoencoder with signature, input example and pinned requirements, once."""

    def save(model_id: str) -> None:
        backend.start()
        from histocae.networks.cae import CAE, on_bytes

        cae = CAE(path=record.folder, load=True)
        shape = tuple(cae.params["input_shape"])
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *shape))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, *shape))]),
        )
        Model.log(
            None,
            _Keras,
            name=MODEL,
            model_id=model_id,
            run_id=run_id,
            model=on_bytes(cae),
            signature=signature,
            input_example=np.zeros((1, *shape), np.uint8),
            validate_serving_input=False,
            flavor_name=_Keras.name,
            pip_requirements=[f"{name}=={version(name)}" for name in PACKAGES],
        )

    tags = {"cohort": record.training["cohort"]}
    return _logged(api, place, run_id, record.training["weights"], tags, save)
