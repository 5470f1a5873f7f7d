"""Stage latent: study one model's latents beside plain pixels, and beside outside features where there are any."""

import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae import paths
from histocae.cohort.balance import read_split
from histocae.cohort.split import SPLITS
from histocae.files import replacing_folder, write_json, write_table
from histocae.latent import outside, probes, stored, summary
from histocae.latent import study as latent_study
from histocae.latent.study import FeatureStudy
from histocae.params import Params
from histocae.patches.outside import Joined
from histocae.patches.store import PatchStore
from histocae.stages.outside import open_features

log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Write reports/models/<name>/latent: metrics, tables and figures, or why there are none.

    Args:
        params: of the pipeline.
        name: of the model.

    Raises:
        DataError: the model has not been evaluated yet, or its latents are damaged.

    """
    folder = paths.LATENTS / name
    description = stored.read_description(folder)
    if description["features"] is None:
        _write_reason(name, description, "the model has no latent layer")
        return
    tables = {split: read_split(paths.SPLITS / f"{split}.csv") for split in SPLITS}
    features = stored.read_features(folder, tables, description["features"])
    if probes.constant(features["train"]).all():
        _write_reason(name, description, "every latent is constant on the training patches")
        return
    from histocae.latent import plots as latent_plots
    from histocae.report import plots

    store = PatchStore(paths.PATCHES)
    patches = {split: store.select(table) for split, table in tables.items()}
    folder_of_features = open_features(params, store)
    joined = None
    if folder_of_features is not None:
        joined = {split: folder_of_features.join(table) for split, table in tables.items()}
    with latent_study.one_thread():
        pixels = probes.pixel_features(patches, description["features"], params.seed)
        inputs = {
            "latents": (features, probes.explained_variance(features["train"])),
            "pixels": (pixels.features, pixels.explained),
        }
        studies, further = _study(params, inputs, joined, tables)
    metrics = summary.metrics(**studies)
    report = description | {
        "patches": {split: len(table) for split, table in tables.items()},
        **{kind: summary.as_json(study) for kind, study in studies.items()},
        "pixels_a_side": pixels.side,
        "notes": summary.notes(**studies, latent=params.latent, tissue=params.tissue) + further,
        "metrics": metrics,
    }
    with replacing_folder(paths.latent(name)) as out:
        write_json(report, out / "metrics.json")
        write_table(summary.cluster_table(studies), out / "clusters.csv", separator=",")
        write_table(summary.component_table(studies), out / "components.csv", separator=",")
        write_table(summary.embedding_table(studies, tables["test"]), out / "embedding.csv", separator=",")
        write_table(summary.neighbor_table(studies, tables), out / "neighbors.csv", separator=",")
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


def _study(
    params: Params,
    inputs: dict[str, tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]],
    joined: dict[str, Joined] | None,
    tables: dict[str, pd.DataFrame],
) -> tuple[dict[str, FeatureStudy], list[str]]:
    """Study latents and pixels, and outside features where they are known; return the studies and notes on these."""
    latent, tissue, seed = params.latent, params.tissue, params.seed
    having = None if joined is None else joined["test"].matched
    points = latent_study.draw_points(tables["test"], latent, seed, having)
    studies = {
        kind: latent_study.study_features(*of_kind, tables, latent, tissue, seed, points)
        for kind, of_kind in inputs.items()
    }
    if joined is None:
        return studies, []
    reason = outside.lacking(joined, tables, points)
    if reason is None:
        studies["outside"] = outside.study(joined, tables, latent, tissue, seed, points)
    return studies, outside.notes(joined, reason)


def _write_reason(name: str, description: dict[str, Any], reason: str) -> None:
    with replacing_folder(paths.latent(name)) as out:
        write_json(description | {"reason": reason, "metrics": {}}, out / "metrics.json")
    log.info("%s: %s; its latents are not studied", name, reason)
