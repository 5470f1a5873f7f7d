"""Deliver a training, or a pair of them, to its MLflow run: whatever the server lacks of the outputs on disk."""

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Dataset, DatasetInput, InputTag, Run

from histocae import paths
from histocae.errors import TrackingError
from histocae.files import fingerprint, sha256
from histocae.networks import saved
from histocae.tracking import contracts, logged_models, runs, views
from histocae.tracking.impatient import impatient
from histocae.tracking.record import SPLIT_CONTEXTS, PairRecord, TrainingRecord, flat
from histocae.tracking.server import (
    FAILURES,
    MlflowClient,
    call_limits,
    client,
    delivering,
    experiment,
    failure_message,
)
from histocae.tracking.split_tables import TableSummary

log = logging.getLogger(__name__)
EVALUATION = "histocae.evaluation"
LATENT = "histocae.latent"
RESULTS = "histocae.results"
WEIGHTS = "histocae.weights"
COLOR = "mlflow.runColor"
RETRIES, SECONDS = 3, 60  # of each call


class Delivered(NamedTuple):
    """A model whose run is on the server.

    Attributes:
        record: of its training.
        run_id: of its run.
        model_id: of its logged model; None where the model may not be registered, or is not evaluated yet.

    """

    record: TrainingRecord
    run_id: str
    model_id: str | None

    @property
    def lacks_contract(self) -> bool:
        """Whether the model can't be registered yet, since its training data are not measured."""
        return self.record.is_candidate and self.model_id is None


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results that belong to no single training, and go into a run of their own.

    Attributes:
        name: of the run.
        state: a fingerprint of everything from which the results are made.
        params: nested dicts.
        metrics: by name.
        files: tables and figures, or folders of them.
        tags: of the run.
        end: of the run, milliseconds since 1970.
        view: of the experiment, a name in `views.VIEWS`.

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
def _delivery(experiment_name: str, view: str, patient: bool = True) -> Iterator[tuple[MlflowClient, str]]:
    """Yield a client and the experiment's id; failures of the server become a TrackingError."""
    try:
        with delivering(), call_limits(RETRIES if patient else 1, SECONDS):
            with call_limits(retries=1, timeout=10):  # an unreachable server is noticed soon
                api = client() if patient else impatient(client())
                experiment_id = experiment(api, experiment_name)
            views.save(api, experiment_id, views.VIEWS[view])
            yield api, experiment_id
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def deliver(
    record: TrainingRecord, experiment_name: str, color: str | None = None, patient: bool = True
) -> tuple[Run, str | None]:
    """Complete a training's run on the server; repeating it changes nothing.

    Args:
        record: of the training.
        experiment_name: of MLflow.
        color: of the run in charts, as #rrggbb.
        patient: whether to wait for a slow server as long as it takes.

    Returns:
        The run, and the id of its logged model; None where the model is never registered, or not evaluated yet.

    Raises:
        TrackingError: the server is unreachable or refuses, or is too slow.

    """
    start = time.perf_counter()
    with _delivery(experiment_name, record.view, patient) as (api, experiment_id):
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
        own = record.run
        run = _run(
            api,
            experiment_id,
            record.label,
            state=own["training_id"],
            hint=own["run_id"],
            start=own["start"],
            tags=tags,
        )
        run_id = run.info.run_id
        known = run.data.tags
        if color is not None and known.get(COLOR) != color:
            api.set_tag(run_id, COLOR, color)
        runs.log_params(api, run_id, flat(record.training["params"]))
        runs.log_metrics(api, run_id, _points(record))
        _inputs(api, run_id, record)
        _files(api, run_id, record, known)
        _samples(api, run_id, record)
        _reports(api, run_id, record, known)
        model_id = _model(api, experiment_id, run_id, record) if record.is_candidate else None
        run = _end(api, run_id, own["end"])
    log.info("%s: run %s is complete, %.1f s", record.name, run_id, time.perf_counter() - start)
    return run, model_id


def _model(api: MlflowClient, experiment_id: str, run_id: str, record: TrainingRecord) -> str | None:
    """Log a model; None where its contract needs an evaluation first."""
    if not record.has_contract:
        return logged_models.autoencoder(api, experiment_id, run_id, record)
    contract = contracts.of_training(record)
    if contract is None:
        return None
    return logged_models.python_model(api, experiment_id, run_id, contract, (record,), record.training["cohort"])


def deliver_pair(pair: PairRecord, experiment_name: str, own_runs: dict[str, str]) -> tuple[Run, str]:
    """Deliver the comparison of two models as a run of its own, with both as one logged model.

    Another comparison, or other weights, gets another run.

    Args:
        pair: both models and the results of the comparison.
        experiment_name: of MLflow.
        own_runs: run id of the training of each of the two models.

    Returns:
        The run, and the id of its logged model.

    Raises:
        TrackingError: the server is unreachable or refuses.

    """
    start = time.perf_counter()
    end = max(record.run["end"] for record in (pair.tumor, pair.normal))
    with _delivery(experiment_name, pair.tumor.view) as (api, experiment_id):
        tags = {
            "mlflow.source.name": "histocae tissue",
            "model": "pair",
            "tumor": pair.tumor.name,
            "normal": pair.normal.name,
            "tumor.run_id": own_runs[pair.tumor.name],
            "normal.run_id": own_runs[pair.normal.name],
        }
        params = dict(pair.tumor.training["params"])
        params |= {"tissue": pair.tissue["settings"]}
        params |= {"model": {**params["model"], "name": "pair", "cohort": "tumor and normal"}}
        results = Results(
            name="pair",
            state=pair.state,
            params=params,
            metrics=pair.metrics,
            files=(paths.TISSUE,),
            tags=tags,
            end=end,
        )
        run_id = _results(api, experiment_id, results)
        contract, records = contracts.of_pair(pair), (pair.tumor, pair.normal)
        model_id = logged_models.python_model(api, experiment_id, run_id, contract, records, "pair")
        run = _end(api, run_id, end)
    log.info("pair: run %s is complete, %.1f s", run_id, time.perf_counter() - start)
    return run, model_id


def deliver_results(results: Results, experiment_name: str) -> str:
    """Deliver results as a run; other results get another run.

    Args:
        results: of the run.
        experiment_name: of MLflow.

    Returns:
        The run's id.

    Raises:
        TrackingError: the server is unreachable or refuses.

    """
    with _delivery(experiment_name, results.view) as (api, experiment_id):
        run_id = _results(api, experiment_id, results)
        _end(api, run_id, results.end)
    log.info("%s: run %s is complete", results.name, run_id)
    return run_id


def _results(api: MlflowClient, experiment_id: str, results: Results) -> str:
    run = _run(
        api,
        experiment_id,
        results.name,
        state=results.state,
        hint=None,
        start=results.end,
        tags=results.tags,
    )
    run_id = str(run.info.run_id)
    runs.log_params(api, run_id, flat(results.params))
    stamp = run.info.start_time
    runs.log_metrics(api, run_id, [(key, value, stamp, 0) for key, value in results.metrics.items()])
    state = _hash(results.files)
    sizes = {name: size for path in results.files for name, size in _sizes(path, path.name).items()}
    if run.data.tags.get(RESULTS) != state or not runs.has_files(api, run_id, sizes):
        for path in results.files:
            if path.is_dir():
                api.log_artifacts(run_id, str(path), path.name)
            else:
                api.log_artifact(run_id, str(path))
        api.set_tag(run_id, RESULTS, state)
    return run_id


def _hash(files: Iterable[Path]) -> str:
    entries = [entry for path in files for entry in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return fingerprint([[entry.as_posix(), sha256(entry)] for entry in entries if entry.is_file()])


def _sizes(path: Path, artifacts: str) -> dict[str, int]:
    """Return the bytes of each artifact that a file, or a folder of files, is uploaded as."""
    if path.is_file():
        return {artifacts: path.stat().st_size}
    files = (file for file in path.rglob("*") if file.is_file())
    return {f"{artifacts}/{file.relative_to(path).as_posix()}": file.stat().st_size for file in files}


def _end(api: MlflowClient, run_id: str, end: int) -> Run:
    if api.get_run(run_id).info.status != "FINISHED":
        api.set_terminated(run_id, "FINISHED", end_time=end)
    return api.get_run(run_id)


def _run(
    api: MlflowClient,
    experiment_id: str,
    name: str,
    *,
    state: str,
    hint: str | None,
    start: int,
    tags: dict[str, str],
) -> Run:
    """Find the run of a training or of results, or create it, and bring its tags up to date."""
    run = runs.find(api, experiment_id, state, hint)
    if run is None:
        run = runs.create(api, experiment_id, name, training_id=state, start=start, tags=tags)
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
    """Upload the saved autoencoder. The tag comes last: with it, the upload is complete."""
    # principal components are large, and computed again in little time
    skipped = ".h5" if record.is_linear else None
    files = [path for path in sorted(record.folder.iterdir()) if path.is_file() and path.suffix != skipped]
    sizes = {f"cae/{path.name}": path.stat().st_size for path in files}
    if tags.get(WEIGHTS) != record.training["weights"] or not runs.has_files(api, run_id, sizes):
        saved.check(record.folder)
        for path in files:
            api.log_artifact(run_id, str(path), "cae")
        api.set_tag(run_id, WEIGHTS, record.training["weights"])


def _reports(api: MlflowClient, run_id: str, record: TrainingRecord, tags: dict[str, str]) -> None:
    """Upload the evaluation and the study of the latents, and again where their results have changed since."""
    reports = (
        (EVALUATION, "evaluation", record.evaluation, paths.evaluation(record.name)),
        (LATENT, "latent", record.latent, paths.latent(record.name)),
    )
    for stamp, artifacts, report, folder in reports:
        if report is None:
            continue
        is_new = tags.get(stamp) != (state := fingerprint(report))
        if is_new or not runs.has_files(api, run_id, _sizes(folder, artifacts)):
            api.log_artifacts(run_id, str(folder), artifacts)
        if stamp == EVALUATION:  # an image at the same step of every model, whatever its number of epochs
            runs.log_image(
                api,
                run_id,
                folder / "pairs_test.png",
                key="test_reconstruction",
                step=0,
                stamp=record.run["end"],
                known=set() if is_new else runs.artifacts(api, run_id, "images"),
            )
        if is_new:
            # with the present time: of several values at one step the UI shows the latest
            now, last = int(time.time() * 1000), record.training["epochs"]
            runs.log_metrics(api, run_id, [(key, value, now, last) for key, value in report["metrics"].items()])
            api.set_tag(run_id, stamp, state)


def _samples(api: MlflowClient, run_id: str, record: TrainingRecord) -> None:
    known = runs.artifacts(api, run_id, "images")
    for path in sorted((record.folder / "samples").glob("epoch_*.png")):
        step = int(path.stem.removeprefix("epoch_"))
        stamp = record.run["stamps"][step - 1]
        runs.log_image(api, run_id, path, key="reconstruction", step=step, stamp=stamp, known=known)


def load() -> None:
    """Import the modules that the end of a training needs."""
    logged_models.load()
