"""Stage compare: all models of params.yaml in one table and on one page."""

import json
import logging

import pandas as pd

from histocae import paths, plots
from histocae.files import read_table, write_table, write_text
from histocae.params import Params
from histocae.report import Section, page
from histocae.split import SPLITS
from histocae.tracking.record import Record

COLUMNS = [
    "model", "cohort", "filters", "latent_features", "parameters", "epochs", "train_mse",
    "validation_mse", "test_mse", "test_psnr", "test_ssim", "test_patches", "seconds",
]  # fmt: skip
log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write reports/comparison.csv and reports/index.html."""
    records = [Record(name) for name in params.models]
    table = pd.DataFrame([_row(record) for record in records], columns=COLUMNS)
    table = table.astype({"latent_features": "Int64"})
    write_table(table, paths.COMPARISON, separator=",")
    colors = plots.model_colors([record.name for record in records])
    curves = paths.FIGURES / "curves.png"
    plots.save(plots.plot_curves({r.name: r.history for r in records}, colors), curves)
    sections = [
        Section(
            record.name,
            f"Cohort {record.training['cohort']}, best epoch {record.training['best_epoch']} of "
            f"{record.training['epochs']}. Test MSE {record.metrics['test_mse']:.5f}; giving back only the mean "
            f"color of each patch would have {record.metrics['test_mean_color_mse']:.5f}.",
            [paths.evaluation(record.name) / f"{one}.png" for one in ("pairs_test", "pairs_train", "errors")],
        )
        for record in records
    ]
    first = paths.evaluation(records[0].name)
    samples = [path for path in (first / "samples_tumor.png", first / "samples_normal.png") if path.is_file()]
    counts = json.loads(paths.SPLIT_REPORT.read_text(encoding="utf-8"))
    split = {part: counts[part] for part in SPLITS}
    patching = json.loads((paths.PATCHING_REPORT / "summary.json").read_text(encoding="utf-8"))
    aside = read_table(paths.SET_ASIDE, ("slide_id",), separator=",")
    # times differ from run to run; they stand in the table's file, and the page stays the same
    write_text(
        page(params, table.drop(columns="seconds"), split, patching, aside, samples, curves, sections),
        paths.PAGE,
    )
    log.info("%s and %s", paths.COMPARISON, paths.PAGE)


def _row(record: Record) -> dict:
    model, metrics = record.training["model"], record.metrics
    return {
        "model": record.name, "cohort": model["cohort"],
        "filters": "-".join(str(one) for one in model["filters"]),
        "latent_features": model["latent_features"], "parameters": record.training["parameters"],
        "epochs": record.training["epochs"], "seconds": record.run["seconds"],
        "test_patches": int(metrics["test_patches"]),
        **{key: metrics.get(key) for key in COLUMNS if key not in ("test_patches",) and key in metrics},
    }  # fmt: skip
