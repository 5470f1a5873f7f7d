"""Stage tissue: tumor against normal, by the pair of models and by simpler means."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from histocae import paths
from histocae.cohort import balance
from histocae.cohort.split import SPLITS
from histocae.contrast import baselines, comparison, truth, verdicts
from histocae.errors import DataError
from histocae.files import read_json_or_none, read_table, replacing_folder, write_json, write_table
from histocae.latent import study as latent_study
from histocae.networks import backend
from histocae.params import Params
from histocae.patches.store import PatchStore
from histocae.tracking.record import TrainingRecord

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write reports/tissue: numbers, tables and pictures; without a pair, only that there is none."""
    with replacing_folder(paths.TISSUE) as folder:
        if params.pair is None:
            missing = [one for one in (params.tissue.tumor, params.tissue.normal) if one not in params.models]
            reason = f"models has no {' and no '.join(missing)}, of the pair that tissue names"
            metrics = {"pair": None, "reason": reason}
        else:
            metrics = _compare(params, folder)
        write_json(metrics, folder / "metrics.json")
    for sentence in metrics.get("sentences", [metrics.get("reason")]):
        log.info("%s", sentence)


def _compare(params: Params, folder: Path) -> dict:
    settings, seed, records = params.tissue, params.seed, [TrainingRecord(name) for name in params.pair]
    tables = {split: balance.read_split(paths.SPLITS / f"{split}.csv") for split in SPLITS}
    validation = comparison.join(tables["validation"], *(_errors(one, "per_patch_validation") for one in records))
    test = comparison.join(tables["test"], *(_errors(one, "per_patch") for one in records))
    store = PatchStore(paths.PATCHES)
    learnt = tuple(balance.rows_for_model(tables["train"], one.training) for one in records)
    encoded, without = _latents(settings.latents, tables)
    size = records[0].training["latent_size"]
    others, left_out = baselines.make(store, learnt, validation, test, size, encoded, seed)
    metrics = comparison.study(validation, test, others, settings, seed) | {"left_out": left_out | without}
    metrics["settings"] = settings.model_dump()
    for key, values in (("pair", params.pair), ("weights", [one.training["weights"] for one in records])):
        metrics[key] = dict(zip(("tumor", "normal"), values, strict=True))
    bands = comparison.curves(test, settings, seed)
    levels = {level: comparison.called(one, level, metrics) for level, one in comparison.by_level(test).items()}

    from histocae.contrast import (
        plots as contrast_plots,  # matplotlib takes its time, and a refusal should not wait for it
    )

    contrast_plots.write_pictures(folder, test, bands, metrics, settings.confidence)
    tiles = store.mpp is None
    if not tiles or params.patches.tiles == "cut":  # a tile that is one patch has no grid
        sizes = read_table(paths.PATCHING_REPORT / "counts.csv", ("slide_id",), separator=",")
        slides = levels["slide"].merge(sizes[["slide_id", "width", "height", "mpp"]], on="slide_id")
        shares = truth.tumor_shares(paths.PREVIEWS, test, slides, store.pixels)
        if shares is not None:
            metrics["truth"] = comparison.against_truth(test, shares, others, settings, seed)
        contrast_plots.write_heatmaps(
            folder / "heatmaps",
            paths.PREVIEWS,
            test,
            slides,
            pixels=store.pixels,
            threshold=metrics["threshold"]["patch"],
            tiles=tiles,
            shares=shares,
        )
    metrics["sentences"] = verdicts.sentences(metrics, settings.confidence)
    kept = [*comparison.KEPT, "error_tumor", "error_normal", "score", "probability"]
    named = {"scores": levels["patch"][kept], "slides": levels["slide"], "cases": levels["case"], "roc": bands}
    for name, table in {**named, "baselines": comparison.methods(metrics)}.items():
        write_table(table, folder / f"{name}.csv", separator=",")
    backend.start()
    backend.repeatable(seed)
    from histocae.networks.cae import CAE

    models = {name: CAE(path=one.folder, load=True) for name, one in zip(("tumor", "normal"), records, strict=True)}
    contrast_plots.write_pairs(folder, models, store, test, seed)
    return metrics


def _errors(record: TrainingRecord, name: str) -> pd.DataFrame:
    if record.evaluation is None:
        remedy = f"run dvc repro evaluate@{record.name}"
        raise DataError(f"{paths.evaluation(record.name)}: not there, or not of the present weights; {remedy}")
    return read_table(paths.evaluation(record.name) / f"{name}.csv", ("shard",), separator=",")


def _latents(
    name: str | None, tables: dict[str, pd.DataFrame]
) -> tuple[dict[str, np.ndarray] | None, dict[str, str]]:
    """Read the latents of a model, or say why there are none."""
    if name is None:
        return None, {"latents": "tissue.latents names no model"}
    folder = paths.LATENTS / name
    file = folder / "latents.json"
    about = read_json_or_none(file)
    if about is None or about["weights"] != TrainingRecord(name).training["weights"]:
        raise DataError(f"{file}: not there, or not of the present weights; run dvc repro evaluate@{name}")
    if about["features"] is None:
        return None, {"latents": f"{name} has no latent layer"}
    return latent_study.read_features(folder, tables, about["features"]), {}
