"""Stage compare: one table, one page, and the figures of the whole."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from histocae import paths, plots
from histocae.files import replacing_folder, write_json, write_table, write_text
from histocae.mnist import paths as places
from histocae.mnist.params import Params
from histocae.mnist.record import DigitsRecord
from histocae.report import render

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write reports/comparison.csv, metrics.json, figures and index.html."""
    records = {name: DigitsRecord(name) for name in params.models}
    pixels = _read(places.PIXELS / "metrics.json")["metrics"]
    ten = _read(places.CLASSES_REPORT / "metrics.json")["metrics"]
    studies = {name: _read(paths.latent(name) / "metrics.json")["metrics"] for name in params.study.models}
    table = _table(records)
    write_table(table, places.COMPARISON, separator=",")
    metrics = _metrics(params, records, pixels, ten)
    write_json(metrics, places.METRICS)
    curves = {name: one.history for name, one in records.items() if len(one.history) > 1}
    with replacing_folder(paths.FIGURES) as folder:
        plots.save(plots.plot_curves(curves, plots.model_colors(list(records))), folder / "curves.png")
    text = render(
        "mnist.html", params=params, table=table.to_dict("records"), metrics=metrics, pixels=pixels, classes=ten,
        linear=pd.read_csv(places.CLASSES_REPORT / "pca.csv").to_dict("records"),
        studies=studies, samples=places.SAMPLES, curves=paths.FIGURES / "curves.png",
        evaluations={name: paths.evaluation(name) for name in records},
        latents={name: paths.latent(name) for name in studies},
        reports={
            name: pd.read_csv(paths.evaluation(name) / "classification.csv").to_dict("records")
            for name in (params.compare.notebook[0], params.compare.own)
        },
        pixels_folder=places.PIXELS, classes_folder=places.CLASSES_REPORT,
    )  # fmt: skip
    write_text(text, places.PAGE)
    log.info("%s and %s", places.METRICS, places.PAGE)


def _table(records: dict[str, DigitsRecord]) -> pd.DataFrame:
    rows = []
    for name, record in records.items():
        training, metrics = record.training, record.metrics
        about = {
            "model": name, "architecture": training["model"]["architecture"],
            "filters": "-".join(str(one) for one in record.filters), "latents": training["latent_features"],
            "parameters": training["parameters"], "epochs": training["epochs"], "seconds": record.run["seconds"],
        }  # fmt: skip
        kept = (
            "train_mse", "validation_mse", "test_mse", "train_accuracy", "validation_accuracy", "test_accuracy",
            "test_accuracy_low", "test_accuracy_high", "one_vs_rest_accuracy", "dead_latents",
        )  # fmt: skip
        rows.append(about | {key: metrics[key] for key in kept})
    return pd.DataFrame(rows)


def _metrics(params: Params, records: dict[str, DigitsRecord], pixels: dict, ten: dict) -> dict:
    """Give the figures that count; `seed_` is the notebook's model, of whose runs the first stands for all."""
    notebooks = [records[name].metrics for name in params.compare.notebook]
    own = records[params.compare.own]
    return {
        "seed_test_mse": notebooks[0]["test_mse"],
        "seed_accuracy": notebooks[0]["one_vs_rest_accuracy"],
        "seed_over_seeds": {
            key: {
                "values": [one[key] for one in notebooks],
                "mean": float(np.mean([one[key] for one in notebooks])),
            }
            for key in ("test_mse", "one_vs_rest_accuracy", "test_accuracy", "dead_latents")
        },
        "test_mse": own.metrics["test_mse"],
        "accuracy": own.metrics["test_accuracy"],
        "per_class_accuracy": ten["test_accuracy"],
        "per_class_pca_accuracy": ten["pca_test_accuracy"],
        "pca_test_mse": records[params.compare.pca].metrics["test_mse"],
        "pca_accuracy": records[params.compare.pca].metrics["test_accuracy"],
        "pixel_accuracy": pixels["test_accuracy"],
        "seconds": own.run["seconds"],
    }


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
