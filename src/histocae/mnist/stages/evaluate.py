"""Stage evaluate: one model's reconstructions, and a classifier on its latents."""

import logging

import numpy as np

from histocae import paths
from histocae.files import replacing_folder, write_json, write_table
from histocae.latent import probes, stored
from histocae.latent import study as latent_study
from histocae.mnist import figures, images, study
from histocae.mnist.params import Params
from histocae.mnist.record import MnistRecord
from histocae.networks import backend
from histocae.patches.sampling import draw
from histocae.report import plots
from histocae.statistics import classifier

PAIRS = 6
log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Write models/latents/<name> and reports/models/<name>/evaluation.

    Args:
        params: of the pipeline.
        name: of the model.

    """
    trained = MnistRecord(name).training
    backend.start()
    backend.repeatable(params.seed)
    from histocae.evaluation import reconstruction
    from histocae.evaluation.samples import reconstruct, write_latents
    from histocae.networks.cae import CAE

    cae = CAE(path=paths.TRAINED / name, load=True)
    parts = images.load()
    digits = {name: part.labels for name, part in parts.items()}
    held = {name: part.as_images for name, part in parts.items()}
    metrics = {
        f"{part}_mse": reconstruction.measure_mse(cae, held[part], f"{name} on {part}").mean()
        for part in ("train", "validation")
    }
    measured = reconstruction.measure(cae, held["test"], f"{name} on test")
    metrics |= {f"test_{key}": value for key, value in reconstruction.summarize(measured).items()}
    write_latents(cae, paths.LATENTS / name, trained["weights"], held)
    features = stored.read_features(paths.LATENTS / name, digits, trained["latent_features"])
    with latent_study.one_thread():
        result = study.classify(features, digits, params.seed, classifier.STRENGTHS)
        metrics["one_vs_rest_accuracy"] = study.one_vs_rest(features, digits)
    metrics |= result.metrics()
    metrics["dead_latents"] = int(probes.constant(features["train"]).sum())
    counts = study.confusion(digits["test"], result.predicted)
    table = measured.assign(image=np.arange(len(measured)), label=digits["test"], predicted=result.predicted)
    with replacing_folder(paths.evaluation(name)) as folder:
        write_table(table, folder / "per_image.csv", separator=",")
        write_table(result.report, folder / "classification.csv", separator=",")
        for part in ("train", "test"):
            originals = held[part].take(draw(len(held[part]), PAIRS, params.seed))
            figure = plots.plot_paired_imgs(
                originals,
                reconstruct(cae, originals),
                PAIRS,
                color=False,
                shuffle=False,
                title=f"{name}: {part} images and their reconstructions",
            )
            plots.save(figure, folder / f"pairs_{part}.png")
        title = f"{name}: logistic regression on the latents, test ({metrics['test_accuracy']:.3f} right)"
        plots.save(figures.plot_confusion(counts, title), folder / "confusion.png")
        description = {"model": name, "weights": trained["weights"], "strength": result.strength}
        write_json(description | {"metrics": metrics}, folder / "metrics.json")
    log.info("%s: test MSE %.5f, accuracy %.4f", name, metrics["test_mse"], metrics["test_accuracy"])
