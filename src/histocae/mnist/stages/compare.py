"""Stage compare: a table of all models, the metrics of the comparison, and the page of the report."""

import logging
from dataclasses import asdict

from histocae import paths
from histocae.files import read_table, replacing_folder, write_json, write_table, write_text
from histocae.mnist import paths as mnist_paths
from histocae.mnist import summary
from histocae.mnist.images import DIGITS
from histocae.mnist.params import Params
from histocae.mnist.record import MnistRecord, read_metrics
from histocae.report import plots
from histocae.report.page import render

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write reports/comparison.csv, metrics.json, figures and index.html."""
    records = {name: MnistRecord(name) for name in params.models}
    pixels = read_metrics(mnist_paths.PIXELS, "pixels")
    classes = read_metrics(mnist_paths.CLASSES_REPORT, "classes")
    studies = {name: read_metrics(paths.latent(name), f"latent@{name}") for name in params.study.models}
    table = summary.table(records)
    of_one_digit = [MnistRecord(f"digit-{digit}", mnist_paths.CLASSES_LAYOUT) for digit in range(DIGITS)]
    metrics = asdict(summary.compare(params.compare, records, of_one_digit, pixels, classes))
    write_table(table, paths.COMPARISON, separator=",")
    write_json(metrics, paths.METRICS)
    curves = {name: record.history for name, record in records.items() if not record.is_linear}
    with replacing_folder(paths.FIGURES) as folder:
        plots.save(plots.plot_curves(curves, plots.model_colors(list(records))), folder / "curves.png")
    text = render(
        "mnist.html",
        params=params,
        table=table.to_dict("records"),
        metrics=metrics,
        pixels=pixels,
        classes=classes,
        studies=studies,
        samples=mnist_paths.SAMPLES,
        curves=paths.FIGURES / "curves.png",
        evaluations={name: paths.evaluation(name) for name in records},
        latents={name: paths.latent(name) for name in studies},
        reports={
            name: read_table(paths.evaluation(name) / "classification.csv", ("digit",), ",").to_dict("records")
            for name in (params.compare.notebook[0], params.compare.own)
        },
        pixels_folder=mnist_paths.PIXELS,
        classes_folder=mnist_paths.CLASSES_REPORT,
    )
    write_text(text, paths.PAGE)
    log.info("%s and %s", paths.METRICS, paths.PAGE)
