"""Stage tissue: tumor against normal, by the pair of models and by its baselines."""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae import paths
from histocae.cohort import balance
from histocae.cohort.split import SPLITS
from histocae.contrast import annotations, baselines, comparison, one_class, outside, training_data, truth, verdicts
from histocae.contrast.baselines import Baseline
from histocae.contrast.metrics import PairMetrics
from histocae.errors import DataError
from histocae.files import read_table, replacing_folder, write_json, write_table
from histocae.identifiers import COMPARED
from histocae.latent import stored
from histocae.networks import backend
from histocae.params import BaselinePair, Params
from histocae.patches.images import Images
from histocae.patches.store import PatchStore
from histocae.stages.outside import open_features
from histocae.tracking import documents
from histocae.tracking.record import TrainingRecord
from histocae.workers.processes import held

if TYPE_CHECKING:
    from histocae.networks.cae import CAE

TISSUES = ("tumor", "normal")
_, NORMAL = COMPARED
log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write reports/tissue: numbers, tables and figures; without a pair, only the reason."""
    with replacing_folder(paths.TISSUE) as folder:
        if params.pair is None:
            names = (params.tissue.tumor, params.tissue.normal)
            missing = [name for name in names if name not in params.models]
            reason = f"models has no {' and no '.join(missing)}, which tissue names as the pair"
            metrics: dict[str, Any] = {"pair": None, "reason": reason}
        else:
            metrics = _compare(params, params.pair, folder)
        metrics["one_class"] = alone = _normal_alone(params, folder)
        write_json(metrics, folder / "metrics.json")
    for part in (metrics, alone):
        for sentence in part.get("sentences", [part.get("reason")]):
            log.info("%s", sentence)


def _normal_alone(params: Params, folder: Path) -> dict[str, Any]:
    """Measure the normal model alone, write its scores, and give what metrics.json holds; else the reason."""
    name, settings = params.tissue.normal, params.tissue
    if name not in params.models or params.models[name].cohort != "normal":
        return {"model": None, "reason": f"models has no {name} of cohort normal"}
    tables = {split: balance.read_split(paths.SPLITS / f"{split}.csv") for split in SPLITS}
    if tables["test"]["sample_type"].nunique() < len(COMPARED):
        return {"model": None, "reason": "the test patches are of one tissue"}
    normal = (tables["validation"][["sample_type", "patch_label"]] == NORMAL).all(axis=1).to_numpy()
    if not normal.any():
        return {"model": None, "reason": "no validation patch is of normal tissue"}
    record = TrainingRecord(name)
    validation, test = tables["validation"][normal], tables["test"]
    validation, test = (one_class.labeled(rows) for rows in (validation, test))
    errors = (_errors(record, "per_patch_validation")["mse"].to_numpy()[normal], _errors(record, "per_patch")["mse"])
    encoded, no_latents = _latents(name, tables)
    latents = None
    if encoded is not None:
        rows = balance.rows_for_model(tables["train"], record.training)
        kept = rows.sample(min(len(rows), one_class.MOST_NEIGHBORS), random_state=params.seed).sort_index()
        latents = one_class.Latents(
            encoded["train"][kept.index.to_numpy()], encoded["validation"][normal], encoded["test"]
        )
    store = PatchStore(paths.PATCHES)
    scored = one_class.scores(
        (errors[0], errors[1].to_numpy()), (store.select(validation), store.select(test)), latents
    )
    found = one_class.study(validation, test, scored, settings, params.seed)
    table = test[comparison.KEPT_COLUMNS].assign(**{score: values for score, (_, values) in scored.items()})
    write_table(table, folder / "one_class.csv", separator=",")
    return {
        "model": name,
        "scores": {score: each.as_json() for score, each in found.items()},
        "left_out": dict.fromkeys(("mahalanobis", "neighbors"), no_latents["latents"]) if no_latents else {},
        "sentences": one_class.sentences(found, name),
    }


def _compare(params: Params, pair: tuple[str, str], folder: Path) -> dict[str, Any]:
    """Write tables and figures, and give what metrics.json holds."""
    settings, seed, records = params.tissue, params.seed, [TrainingRecord(name) for name in pair]
    tables = {split: balance.read_split(paths.SPLITS / f"{split}.csv") for split in SPLITS}
    validation, test = (
        comparison.join(tables[split], *(_errors(record, file) for record in records))
        for split, file in (("validation", "per_patch_validation"), ("test", "per_patch"))
    )
    store = PatchStore(paths.PATCHES)
    tumor, normal = (balance.rows_for_model(tables["train"], record.training) for record in records)
    encoded, no_latents = _latents(settings.latents, tables)
    models = _load(records, seed)

    from histocae.evaluation.inference import Passes

    passes = {
        record.name: Passes(params, cae, record.folder, record.training["weights"], store)
        for record, cae in zip(records, models.values(), strict=True)
    }

    def errors_by_scale(rows: pd.DataFrame) -> NDArray[np.float32]:
        return np.hstack([each.errors_by_scale(rows, f"errors of {name} by scale") for name, each in passes.items()])

    with held(params.executor):
        simpler, left_out = baselines.make(
            store,
            (tumor, normal),
            validation,
            test,
            errors_by_scale=errors_by_scale,
            encoded=encoded,
            seed=seed,
        )
    sampled = baselines.sample((tumor, normal), seed)
    learned = store.select(sampled)
    # before the chosen score is taken out of the baselines
    score = _score(settings.score, simpler["errors_by_scale"], learned, seed)
    validation, test, simpler = comparison.with_score(settings.score, validation, test, simpler)
    if settings.baseline_pair is not None:
        if (missing := settings.baseline_pair.missing(params.models)) is not None:
            left_out["baseline_pair"] = missing
        else:
            simpler["baseline_pair"] = _baseline_pair(settings.baseline_pair, test)
    parts = baselines.Parts(sampled, validation, test)
    compared, no_features = outside.compare(open_features(params, store), parts, seed)
    simpler |= compared
    metrics = comparison.study(validation, test, simpler, left_out | no_latents | no_features, settings, seed)
    bands = comparison.roc_curves(test, settings, seed)
    levels = {
        level: comparison.classify(units, metrics.decisions[level])
        for level, units in comparison.by_level(test).items()
    }

    from histocae.contrast import plots  # matplotlib loads slowly, and errors above should not wait for it

    plots.write_figures(folder, test, bands, metrics, settings.confidence)
    truths = None
    if store.mpp is not None or params.patches.tiles == "cut":  # a tile that is one patch has no grid
        slides = _with_sizes(levels["slide"])
        truths = truth.tumor_shares(paths.PREVIEWS, test, slides, store.pixels)
        plots.write_heatmaps(
            folder / "heatmaps",
            paths.PREVIEWS,
            test,
            slides,
            pixels=store.pixels,
            threshold=metrics.decisions["patch"].threshold,
            tiles=store.mpp is None,
            shares=truths,
            regions=paths.REGIONS,
        )
    if store.mpp is not None:
        annotations.write_slides(folder / "geojson", paths.PREVIEWS, levels["patch"], slides, store.pixels)
    if truths is not None:
        agreement = comparison.against_truth(test, truths, simpler, settings, seed)
        metrics = dataclasses.replace(metrics, truth=agreement)
    metrics = dataclasses.replace(
        metrics,
        regions=comparison.against_regions(test, simpler, settings, seed),
        unflagged=comparison.without_flagged(test, settings, seed),
    )
    _write_tables(folder, levels, bands, metrics)
    write_json(score, folder / "score.json")
    plots.write_pairs(folder, models, store, test, seed)
    weights = [record.training["weights"] for record in records]
    return metrics.as_json() | {
        "pair": dict(zip(TISSUES, pair, strict=True)),
        "weights": dict(zip(TISSUES, weights, strict=True)),
        "settings": settings.model_dump(),
        "score": verdicts.SCORES[settings.score],
        "summary": verdicts.summary(metrics, settings.confidence),
        "example": comparison.example(levels["slide"], test, truths),
        "sentences": verdicts.sentences(metrics, settings.confidence),
    }


def _score(kind: str, by_scale: Baseline, learned: Images, seed: int) -> dict[str, Any]:
    """Give what scores other patches: the kind of score, the function of errors by scale, and the training data."""
    linear = by_scale.linear if kind == "errors_by_scale" else None
    training = training_data.measure_pair(by_scale.train_features, linear, learned, seed)
    return {
        "kind": kind,
        "linear": None if linear is None else linear.as_json(),
        "training": training.as_json(),
        **training_data.rules(paths.PATCHING_REPORT / "summary.json"),
    }


def _baseline_pair(names: BaselinePair, test: pd.DataFrame) -> Baseline:
    """Score test patches by another pair of models."""
    records = [TrainingRecord(name) for name in (names.tumor, names.normal)]
    tumor, normal = (_errors(record, "per_patch") for record in records)
    return comparison.another_pair(test, tumor, normal, (names.tumor, names.normal))


def _with_sizes(slides: pd.DataFrame) -> pd.DataFrame:
    """Add width, height and mpp to the scores of slides."""
    numbers = ("width", "height", "mpp")
    sizes = read_table(
        paths.PATCHING_REPORT / "counts.csv", ("slide_id",), ",", needed=("slide_id",), numbers=numbers
    )
    return slides.merge(sizes[["slide_id", *numbers]], on="slide_id")


def _write_tables(folder: Path, levels: dict[str, pd.DataFrame], bands: pd.DataFrame, metrics: PairMetrics) -> None:
    """Write scores.csv, slides.csv, cases.csv, roc.csv and baselines.csv."""
    kept = [*comparison.KEPT_COLUMNS, "error_tumor", "error_normal", "log_ratio", "score", "probability"]
    tables = {
        "scores": levels["patch"][kept],
        "slides": levels["slide"],
        "cases": levels["case"],
        "roc": bands,
        "baselines": comparison.auroc_table(metrics),
    }
    for name, table in tables.items():
        write_table(table, folder / f"{name}.csv", separator=",")


def _load(records: list[TrainingRecord], seed: int) -> dict[str, "CAE"]:
    """Load the models of tumor and normal."""
    backend.start()
    backend.repeatable(seed)
    from histocae.networks.cae import CAE

    return {tissue: CAE(path=record.folder, load=True) for tissue, record in zip(TISSUES, records, strict=True)}


def _errors(record: TrainingRecord, name: str) -> pd.DataFrame:
    """Read the errors of one model, shard, position and mse, from its evaluation."""
    if record.evaluation is None:
        remedy = f"run dvc repro evaluate@{record.name}"
        raise DataError(f"{paths.evaluation(record.name)}: missing, or of other weights; {remedy}")
    file, remedy = paths.evaluation(record.name) / f"{name}.csv", f"run dvc repro evaluate@{record.name}"
    table = documents.read_numbers(file, ("position", "mse"), ",", remedy)
    if "shard" not in table:
        raise DataError(f"{file}: no column 'shard'; {remedy}")
    return table


def _latents(
    name: str | None, tables: dict[str, pd.DataFrame]
) -> tuple[dict[str, NDArray[np.float32]] | None, dict[str, str]]:
    """Read the latents of a model per split; without latents, give the reason why their baseline is left out."""
    if name is None:
        return None, {"latents": "tissue.latents names no model"}
    folder = paths.LATENTS / name
    description = stored.read_description(folder)
    if description["weights"] != TrainingRecord(name).training["weights"]:
        raise DataError(f"{folder / stored.FILE}: of other weights; run dvc repro evaluate@{name}")
    if description["features"] is None:
        return None, {"latents": f"{name} has no latent layer"}
    return stored.read_features(folder, tables, description["features"]), {}
