"""Stage latent: what one model's latents hold, and what plain pixels hold in their place."""

import logging

from histocae import paths
from histocae.cohort.balance import read_split
from histocae.cohort.split import SPLITS
from histocae.errors import DataError
from histocae.files import read_json_or_none, replacing_folder, write_json, write_table
from histocae.latent import probes
from histocae.latent import study as latent_study
from histocae.params import Params
from histocae.patches.store import PatchStore

log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Write reports/models/<name>/latent: metrics, tables and pictures, or why there are none."""
    folder = paths.LATENTS / name
    about = read_json_or_none(folder / "latents.json")
    if about is None:
        raise DataError(f"{folder / 'latents.json'}: not there yet; run dvc repro evaluate@{name}")
    about = {key: about[key] for key in ("model", "weights", "features")}
    if about["features"] is None:
        _without(name, about, "the model has no latent layer")
        return
    tables = {split: read_split(paths.SPLITS / f"{split}.csv") for split in SPLITS}
    features = latent_study.read_features(folder, tables, about["features"])
    if probes.constant(features["train"]).all():
        _without(name, about, "every latent is constant on the training patches: the model tells nothing apart")
        return
    from histocae.latent import plots as latent_plots
    from histocae.report import plots

    store = PatchStore(paths.PATCHES)
    patches = {split: store.select(table) for split, table in tables.items()}
    with latent_study.one_thread():
        pixels, shares, side = probes.pixel_features(patches, about["features"], params.seed)
        given = {
            "latents": (features, probes.explained_variance(features["train"])),
            "pixels": (pixels, shares),
        }
        studies = {
            kind: latent_study.study(*one, tables, params.latent, params.tissue, params.seed)
            for kind, one in given.items()
        }
    metrics = latent_study.flat(studies)
    found = about | {
        "patches": {split: len(table) for split, table in tables.items()},
        **{kind: one.about for kind, one in studies.items()},
        "pixels_a_side": side,
        "notes": latent_study.notes(studies, params.latent, params.tissue),
        "metrics": metrics,
    }
    clusters, components = latent_study.stacked(studies)
    with replacing_folder(paths.latent(name)) as out:
        write_json(found, out / "metrics.json")
        write_table(clusters, out / "clusters.csv", separator=",")
        write_table(components, out / "components.csv", separator=",")
        write_table(latent_study.embedding_table(studies, tables["test"]), out / "embedding.csv", separator=",")
        write_table(latent_study.neighbor_table(studies, tables), out / "neighbours.csv", separator=",")
        for file, figure in latent_plots.study_figures(studies, patches, tables, name):
            plots.save(figure, out / f"{file}.png")
    log.info(
        "%s: test AUROC per patch %s (pixels %s), ARI %s (%s)",
        name,
        *(
            f"{metrics[key]:.3f}" if key in metrics else "-"
            for key in ("latent_auroc_patch", "pixel_auroc_patch", "latent_ari", "pixel_ari")
        ),
    )


def _without(name: str, about: dict, reason: str) -> None:
    with replacing_folder(paths.latent(name)) as out:
        write_json(about | {"reason": reason, "metrics": {}}, out / "metrics.json")
    log.info("%s: %s; there is nothing to study", name, reason)
