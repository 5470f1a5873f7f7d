"""Stage latent: maps and clusters of one model's latents."""

import logging

import pandas as pd

from histocae import paths
from histocae.files import read_json, replacing_folder, write_json, write_table
from histocae.latent import probes
from histocae.latent import study as latent_study
from histocae.mnist import figures, images, study
from histocae.mnist.params import Params
from histocae.report import plots

log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Write reports/models/<name>/latent."""
    about = read_json(paths.LATENTS / name / "latents.json")
    parts = images.load()
    digits = {part: one.labels for part, one in parts.items()}
    features = latent_study.read_features(paths.LATENTS / name, digits, about.pop("features"))
    how = params.study
    if any(probes.constant(features[part]).all() for part in ("train", "test")):
        with replacing_folder(paths.latent(name)) as folder:
            write_json(about | {"reason": "every latent is constant", "metrics": {}}, folder / "metrics.json")
        log.info("%s: every latent is constant; there is nothing to study", name)
        return
    with latent_study.one_thread():
        found = study.study(features, digits, how.sample, how.clusters, how.perplexity, params.seed)
    metrics = {f"latent_{key}": value for key, value in found.about.items()}
    shown = digits["test"][found.sample]
    where = pd.DataFrame({"image": found.sample, "label": shown, "cluster": found.clusters[found.sample]})
    where[["pca_1", "pca_2"]], where[["tsne_1", "tsne_2"]] = found.plane, found.tsne
    explained = pd.DataFrame({"component": range(1, len(found.explained) + 1), "share": found.explained})
    with replacing_folder(paths.latent(name)) as folder:
        write_json(about | {"metrics": metrics}, folder / "metrics.json")
        write_table(found.table, folder / "clusters.csv", separator=",")
        write_table(where, folder / "maps.csv", separator=",")
        write_table(explained, folder / "components.csv", separator=",")
        test = parts["test"]
        for file, figure in figures.latent_figures(found, test.images, test.labels, params.seed, name):
            plots.save(figure, folder / f"{file}.png")
    gini, whole = found.about["gini"], found.about["gini_without_clusters"]
    log.info("%s: Gini %.3f in the clusters, %.3f without them", name, gini, whole)
