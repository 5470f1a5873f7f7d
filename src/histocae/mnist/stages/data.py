"""Stage data: the images of MNIST, divided into parts, and a figure of samples."""

import logging

import numpy as np

from histocae import paths
from histocae.files import replacing, replacing_folder, write_table
from histocae.mnist import images
from histocae.mnist import paths as mnist_paths
from histocae.mnist.params import Params
from histocae.report import plots

GRID = (2, 6)
log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write data/images, data/splits and reports/samples.png."""
    train, train_digits, test, test_digits = images.read(params.data.source, params.data.path)
    parts = images.divide(train, train_digits, params.data.train, params.data.validation)
    parts["test"] = (test, test_digits, np.arange(len(test)))
    images.check({name: digits for name, (_, digits, _) in parts.items()})
    with replacing_folder(mnist_paths.IMAGES) as folder:
        for name, (pixels, _, _) in parts.items():
            with replacing(folder / f"{name}.npy") as handle:
                np.save(handle, pixels[..., None])
    with replacing_folder(paths.SPLITS) as folder:
        for name, (_, digits, positions) in parts.items():
            write_table(images.table(digits, positions), folder / f"{name}.csv")
    pixels, digits, _ = parts["train"]
    figure = plots.plot_sample_imgs(
        pixels[..., None], *GRID, color=False, labels=digits.tolist(), seed=params.seed, title="Training images"
    )
    plots.save(figure, mnist_paths.SAMPLES)
    log.info("%s", ", ".join(f"{name}: {len(digits)} images" for name, (_, digits, _) in parts.items()))
