"""Stage classes: one autoencoder per digit, and which of them reconstructs an image best."""

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from histocae.files import read_table, replacing_folder, write_json, write_table
from histocae.mnist import class_figures, classes, images
from histocae.mnist import paths as mnist_paths
from histocae.mnist.params import Params
from histocae.networks import backend
from histocae.report import plots
from histocae.training import recipe

if TYPE_CHECKING:  # keras takes seconds to load
    from histocae.networks.cae import CAE

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write models/classes and reports/classes."""
    parts = images.load()
    backend.start()
    backend.repeatable(params.seed)
    from histocae.evaluation import reconstruction
    from histocae.evaluation.samples import reconstruct

    models = [_trained(params, parts, digit) for digit in range(images.DIGITS)]
    held = {name: parts[name] for name in ("validation", "test")}
    errors = {
        name: np.stack([reconstruction.measure_mse(model, part.as_images, name) for model in models], axis=1)
        for name, part in held.items()
    }
    truth = {name: part.labels for name, part in held.items()}
    components = classes.by_components(parts, params.classes.components, params.seed)
    scores = classes.summarize(errors, truth, components)
    chosen = classes.examples(truth["test"], classes.predicted(errors["test"]), params.seed)
    originals = held["test"].as_images.take(chosen)
    reconstructions = np.rint(np.stack([reconstruct(model, originals) for model in models], axis=1) * 255).astype(
        np.uint8
    )
    names = [f"digit-{digit}" for digit in range(images.DIGITS)]
    curves = {name: read_table(mnist_paths.CLASSES_LAYOUT.trained / name / "history.csv") for name in names}
    with replacing_folder(mnist_paths.CLASSES_REPORT) as folder:
        write_table(classes.table(errors["test"], truth["test"]), folder / "errors.csv", separator=",")
        write_table(classes.reports(errors, truth), folder / "classification.csv", separator=",")
        write_table(components, folder / "pca.csv", separator=",")
        plots.save(plots.plot_curves(curves, plots.model_colors(names)), folder / "curves.png")
        shown = class_figures.plot_reconstructions(
            originals,
            reconstructions,
            errors["test"][chosen],
            truth["test"][chosen],
            "Test images under all ten models",
        )
        plots.save(shown, folder / "reconstructions.png")
        latents = params.classes.model.latent_features
        for file, figure in class_figures.summary_figures(errors["test"], truth["test"], components, scores, latents):
            plots.save(figure, folder / f"{file}.png")
        write_json({"metrics": asdict(scores)}, folder / "metrics.json")
    log.info("one autoencoder per digit: accuracy %.4f", scores.test_accuracy)


def _trained(params: Params, parts: dict[str, images.LabeledImages], digit: int) -> "CAE":
    """Train the model of a digit, unless that is done."""
    from histocae.mnist.recipe import describe
    from histocae.mnist.record import MnistRecord
    from histocae.networks.cae import CAE
    from histocae.tracking.trainings import fit_and_keep

    model, record = params.classes.model, MnistRecord(f"digit-{digit}", mnist_paths.CLASSES_LAYOUT)
    description = describe(params, record.name, model, params.seed, digit)
    if record.is_of(description):
        log.info("%s is trained already", record.name)
        return CAE(path=record.folder, load=True)
    own_images = {part: parts[part].only(digit).as_images for part in ("train", "validation")}
    fit = model.training(params.training)
    backend.repeatable(params.seed)
    cae = recipe.start(model, fit, own_images["train"], params.seed)
    fit_and_keep(
        cae, description, own_images, fit=fit, seed=params.seed, record=record, experiment=params.tracking.experiment
    )
    return cae
