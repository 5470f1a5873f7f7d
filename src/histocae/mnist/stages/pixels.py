"""Stage pixels: the baseline that needs no model, the same classifier on the pixels themselves."""

import logging

import numpy as np

from histocae.files import replacing_folder, write_json, write_table
from histocae.latent import study as latent_study
from histocae.mnist import figures, images, study
from histocae.mnist import paths as mnist_paths
from histocae.mnist.params import Params
from histocae.report import plots

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write reports/pixels."""
    parts = images.load()
    digits = {name: part.labels for name, part in parts.items()}
    features = {name: part.images.reshape(len(part.images), -1) / np.float32(255) for name, part in parts.items()}
    with latent_study.one_thread():
        result = study.classify(features, digits, params.seed, study.PIXEL_STRENGTHS)
    metrics, counts = result.metrics(), study.confusion(digits["test"], result.predicted)
    with replacing_folder(mnist_paths.PIXELS) as folder:
        write_table(result.report, folder / "classification.csv", separator=",")
        title = f"Logistic regression on the pixels, test ({metrics['test_accuracy']:.3f} right)"
        plots.save(figures.plot_confusion(counts, title), folder / "confusion.png")
        write_json({"strength": result.strength, "metrics": metrics}, folder / "metrics.json")
    log.info("logistic regression on %d pixels: accuracy %.4f", features["test"].shape[1], metrics["test_accuracy"])
