"""Stage compare: all models of params.yaml in one table and on one page, and what DVC compares."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from histocae import paths
from histocae.cohort.setaside import COLUMNS
from histocae.cohort.split import SPLITS
from histocae.files import read_table, replacing_folder, write_json, write_table, write_text
from histocae.params import Params
from histocae.patches.shard_file import shard_name
from histocae.report import plots, summary
from histocae.report.page import Contents, LatentSection, ModelSection, page
from histocae.tracking import documents
from histocae.tracking.record import TrainingRecord

MOST_SLIDES = 6  # whose faults are shown
log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write reports/comparison.csv, reports/metrics.json, reports/plots and reports/index.html."""
    records = [TrainingRecord(name) for name in params.models]
    tissue = documents.read(paths.TISSUE / "metrics.json", documents.AnyComparison, "run dvc repro tissue")
    crossvalidation = _read(paths.CROSSVALIDATION / "metrics.json", "crossvalidate")
    codecs = documents.read(paths.CODECS / "metrics.json", documents.Codecs, "run dvc repro codecs")
    latents = {name: _study(name) for name in params.models}
    table = summary.table(records)
    metrics = summary.metrics(records, latents, tissue, crossvalidation)
    write_table(table, paths.COMPARISON, separator=",")
    write_json(metrics, paths.METRICS)
    with replacing_folder(paths.PLOTS) as folder:
        summary.write_plots(folder, records, table, paths.TISSUE / "roc.csv")
    sections = [
        ModelSection(
            record.name,
            summary.describe(record),
            [paths.evaluation(record.name) / f"{name}.png" for name in ("pairs_test", "pairs_train", "errors")],
        )
        for record in records
    ]
    first = paths.evaluation(records[0].name)
    contents = Contents(
        params=params,
        # the seconds differ from run to run: the table's file has them, and the page stays the same
        table=table.drop(columns="seconds"),
        query=_read(paths.ASKED / "query.json", "metadata"),
        findings=summary.findings(table),
        split=_read(paths.SPLIT_REPORT, "split"),
        patching=_read(paths.PATCHING_REPORT / "summary.json", "patches"),
        fault_images=_fault_images(),
        set_aside=read_table(paths.SET_ASIDE, ("slide_id",), ",", needed=COLUMNS),
        samples=[file for file in (first / "samples_tumor.png", first / "samples_normal.png") if file.is_file()],
        figures=_figures(records, table),
        codecs=codecs,
        codecs_figure=paths.CODECS / "codecs.png",
        tissue=tissue,
        tissue_figures={file.stem: file for file in sorted(paths.TISSUE.glob("*.png"))},
        heatmaps=sorted((paths.TISSUE / "heatmaps").glob("*.png")),
        crossvalidation=crossvalidation,
        latents=[
            LatentSection(name, study["metrics"], study["notes"], sorted(paths.latent(name).glob("*.png")))
            for name, study in latents.items()
            if study.get("metrics")
        ],
        sections=sections,
    )
    write_text(page(contents, SPLITS), paths.PAGE)
    log.info("%s and %s", paths.COMPARISON, paths.PAGE)


def _read(path: Path, stage: str) -> dict[str, Any]:
    return documents.read(path, documents.Document, f"run dvc repro {stage}")


def _fault_images() -> list[Path]:
    """List the images of the slides that have most flagged patches."""
    counts = read_table(paths.PATCHING_REPORT / "counts.csv", ("slide_id",), ",", needed=("slide_id",))
    flagged = counts.filter(like="flagged_").sum(axis=1)
    most = counts["slide_id"][flagged.sort_values(ascending=False, kind="stable").index[:MOST_SLIDES]]
    drawn = {file.stem.rpartition(".")[0]: file for file in paths.FAULTS.glob("*.png")}  # named by shard
    return [drawn[name] for name in map(shard_name, most) if name in drawn]


def _study(name: str) -> dict[str, Any]:
    return documents.read(paths.latent(name) / "metrics.json", documents.Study, f"run dvc repro latent@{name}")


def _figures(records: list[TrainingRecord], table: pd.DataFrame) -> list[tuple[str, str, Path]]:
    colors = plots.model_colors([record.name for record in records])
    figures = {
        "latent_features": (
            "Test error against the number of latents",
            "Cohort all. Lower and further to the left is better. A line joins the linear maps.",
            plots.plot_sizes(table[table["cohort"] == "all"]),
        ),
        "curves": (
            "Losses over the epochs",
            "Validation (solid) and training (dashed). The weights of the best epoch on validation are kept.",
            plots.plot_curves({r.name: r.history for r in records if len(r.history) > 1}, colors),
        ),
    }
    for name, (_, _, figure) in figures.items():
        plots.save(figure, paths.FIGURES / f"{name}.png")
    return [(title, caption, paths.FIGURES / f"{name}.png") for name, (title, caption, _) in figures.items()]
