"""Stage latent: maps and clusters of one model's latents."""

import logging
from dataclasses import asdict

import pandas as pd

from histocae import paths
from histocae.files import replacing_folder, write_json, write_table
from histocae.latent import probes, stored
from histocae.latent import study as latent_study
from histocae.mnist import figures, images, study
from histocae.mnist.params import Params
from histocae.report import plots

log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Write reports/models/<name>/latent.

    Args:
        params: of the pipeline.
        name: of the model.

    """
    description = stored.read_description(paths.LATENTS / name)
    parts = images.load()
    digits = {name: part.labels for name, part in parts.items()}
    features = stored.read_features(paths.LATENTS / name, digits, description.pop("features"))
    options = params.study
    if any(probes.constant(features[part]).all() for part in ("train", "test")):
        with replacing_folder(paths.latent(name)) as folder:
            write_json(description | {"reason": "every latent is constant", "metrics": {}}, folder / "metrics.json")
        log.info("%s: every latent is constant; its latents are not studied", name)
        return
    with latent_study.one_thread():
        results = study.study_latents(
            features, digits, options.sample, options.clusters, options.perplexity, params.seed
        )
    metrics = {f"latent_{key}": value for key, value in asdict(results.scores).items()}
    shown = digits["test"][results.sample]
    positions = pd.DataFrame({"image": results.sample, "label": shown, "cluster": results.clusters[results.sample]})
    positions[["pca_1", "pca_2"]], positions[["tsne_1", "tsne_2"]] = results.plane, results.tsne
    explained = pd.DataFrame({"component": range(1, len(results.explained) + 1), "share": results.explained})
    with replacing_folder(paths.latent(name)) as folder:
        write_json(description | {"metrics": metrics}, folder / "metrics.json")
        write_table(results.table, folder / "clusters.csv", separator=",")
        write_table(positions, folder / "maps.csv", separator=",")
        write_table(explained, folder / "components.csv", separator=",")
        test = parts["test"]
        for file, figure in figures.latent_figures(results, test.images, test.labels, params.seed, name):
            plots.save(figure, folder / f"{file}.png")
    gini, whole = results.scores.gini, results.scores.gini_without_clusters
    log.info("%s: Gini %.3f in the clusters, %.3f without them", name, gini, whole)
