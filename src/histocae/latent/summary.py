"""The results of a study of latents as JSON, metrics, notes and tables."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from histocae.latent.probes import Classification, Regression, Unanswered
from histocae.latent.study import FeatureStudy
from histocae.params import Latent, Tissue
from histocae.statistics.levels import LEVELS

COMPARED = ("ari", "nmi", "ari_case", "nmi_case", "gini", "entropy")  # of clusters, between models
PATCH_COLUMNS = ["slide_id", "case_id", "sample_type", "shard", "position"]


def as_json(study: FeatureStudy) -> dict[str, Any]:
    """Return the numbers of a study for its JSON file, without NaN."""
    return {
        "features": study.features,
        "dead": study.dead,
        "classification": _classification_as_json(study.classification),
        "regression": {column: asdict(fit) for column, fit in study.regression.items()},
        "components": asdict(study.components),
        "clusters": asdict(study.cluster_scores),
        "neighbors": asdict(study.agreement),
        "map": asdict(study.map_settings),
    }


def _classification_as_json(classification: Classification | Unanswered) -> dict[str, Any]:
    if isinstance(classification, Unanswered):
        return asdict(classification)
    return {
        "strength": classification.strength,
        "validation_auroc": classification.validation_auroc,
        **{level: result.as_json() for level, result in classification.levels.items()},
    }


def metrics(latents: FeatureStudy, pixels: FeatureStudy, outside: FeatureStudy | None = None) -> dict[str, float]:
    """Collect the numbers that are compared between models.

    Args:
        latents: the study of the latents.
        pixels: the study of the baseline.
        outside: the study of outside features, where there is one.

    Returns:
        Metrics by name; the prefixes `latent_`, `pixel_` and `outside_` name the features.

    """
    collected: dict[str, float | None] = {}
    studies = [("latent", latents), ("pixel", pixels)] + ([] if outside is None else [("outside", outside)])
    for prefix, study in studies:
        classification, scores = study.classification, study.cluster_scores
        if isinstance(classification, Classification):
            collected[f"{prefix}_auroc_validation"] = classification.validation_auroc
            for level in LEVELS:
                collected[f"{prefix}_auroc_{level}"] = classification.levels[level].auroc.value
        for column, fit in study.regression.items():
            if isinstance(fit, Regression):
                collected[f"{prefix}_r2_{column}"] = fit.r2
        if scores.ari is not None:  # with one tissue only, all clusters are pure and all neighbors agree
            collected |= {f"{prefix}_{key}": getattr(scores, key) for key in COMPARED}
            collected[f"{prefix}_neighbors"] = study.agreement.share
    collected["latent_dead"] = latents.dead
    collected["pca_components_90"] = latents.components.for_90_percent
    collected["pixel_components_90"] = pixels.components.for_90_percent
    if outside is not None:
        collected["outside_components_90"] = outside.components.for_90_percent
    return {key: float(value) for key, value in collected.items() if value is not None}


def notes(
    latents: FeatureStudy,
    pixels: FeatureStudy,
    latent: Latent,
    tissue: Tissue,
    outside: FeatureStudy | None = None,
) -> list[str]:
    """Write the sentences that a reader of the numbers needs.

    Args:
        latents: the study of the latents.
        pixels: the study of the baseline.
        latent: the params section, for the perplexity.
        tissue: the params section, for the confidence.
        outside: the study of outside features, where there is one.

    Returns:
        The sentences.

    """
    sentences = ["The class is that of the slide: a patch of a tumor slide may show no tumor."]
    if latents.dead:
        sentences.append(f"{latents.dead} of {latents.features} latents are dead: constant on the training patches.")
    if pixels.features < latents.features:
        sentences.append(
            f"The baseline has {pixels.features} components of the pixels, not {latents.features}: "
            "the training patches allow no more."
        )
    named = [("latents", latents), ("pixels", pixels)] + ([] if outside is None else [("outside features", outside)])
    for name, study in named:
        sentences += _classification_notes(name, study, tissue)
        sentences += _regression_notes(name, study)
        sentences += _cluster_notes(name, study)
    settings = latents.map_settings
    if isinstance(settings, Unanswered):
        sentences.append(f"No map: {settings.reason}.")
    elif settings.perplexity < latent.perplexity:
        sentences.append(
            f"t-SNE has perplexity {settings.perplexity:.3g} instead of {latent.perplexity:.3g}: "
            f"there are only {settings.points} points."
        )
    return sentences


def _classification_notes(name: str, study: FeatureStudy, tissue: Tissue) -> list[str]:
    classification = study.classification
    if isinstance(classification, Unanswered):
        return [f"No logistic regression on the {name}: {classification.reason}."]
    unsure = [level for level in LEVELS if classification.levels[level].includes_chance]
    if not unsure:
        return []
    return [f"Logistic regression on the {name} may be no better than chance, by {', '.join(unsure)}."]


def _regression_notes(name: str, study: FeatureStudy) -> list[str]:
    beaten = [
        column
        for column, fit in study.regression.items()
        if isinstance(fit, Regression) and fit.mae >= fit.mae_tissue_mean
    ]
    if not beaten:
        return []
    return [f"Regression on the {name}: the tissue alone predicts {', '.join(beaten)} at least as well."]


def _cluster_notes(name: str, study: FeatureStudy) -> list[str]:
    pairs = study.cluster_scores.pairs_together
    same, other, tissues = pairs.same_case, pairs.other_case, pairs.other_tissue
    if same is None or other is None or same - other <= other - (tissues or 0):
        return []
    return [
        f"Clusters of the {name} follow cases more than tissues. Two patches of one case are in one "
        f"cluster in {same:.0%} of the pairs, of two cases of the same tissue in {other:.0%}"
        + (f", of the two tissues in {tissues:.0%}." if tissues is not None else ".")
    ]


def embedding_table(studies: dict[str, FeatureStudy], test: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the test patches on the maps.

    Args:
        studies: by the name of their features, latents first; outside features may lack some of the patches.
        test: rows of the split.

    Returns:
        One row per test patch on the maps: its cluster and its position on each map, by features. Both are missing
        where a patch has no features.

    """
    sample = next(iter(studies.values())).sample
    table = test[PATCH_COLUMNS].iloc[sample].reset_index(drop=True)
    for name, study in studies.items():
        known = np.isin(sample, study.sample)
        clusters = pd.Series(study.clusters[sample])
        table[f"{name}_cluster"] = clusters if known.all() else clusters.astype("Int64").where(known)
        for method, plane in study.maps.items():
            placed = np.full((len(sample), 2), np.nan, plane.dtype)
            placed[known] = plane  # in the order of the sample
            table[f"{name}_{method}_x"], table[f"{name}_{method}_y"] = placed.T
    return table


def neighbor_table(studies: dict[str, FeatureStudy], tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tabulate the nearest training patches of the test patches that are shown.

    Args:
        studies: by the name of their features.
        tables: rows of train and test.

    Returns:
        One row per pair of a test patch and a neighbor.

    """
    parts = []
    for name, study in studies.items():
        count = study.neighbors.shape[1]
        query = tables["test"][PATCH_COLUMNS].iloc[study.queries.repeat(count)].reset_index(drop=True)
        neighbor = tables["train"][PATCH_COLUMNS].iloc[study.neighbors.ravel()].reset_index(drop=True)
        part = pd.concat([query, neighbor.add_prefix("neighbor_")], axis=1)
        part.insert(0, "features", name)
        part["rank"] = np.tile(np.arange(1, count + 1), len(study.queries))
        part["distance"] = study.distances.ravel()
        parts.append(part)
    return pd.concat(parts)


def cluster_table(studies: dict[str, FeatureStudy]) -> pd.DataFrame:
    """Join the tables of clusters of all features."""
    return pd.concat([study.table.assign(features=name) for name, study in studies.items()])


def component_table(studies: dict[str, FeatureStudy]) -> pd.DataFrame:
    """Tabulate the share of the variance of each principal component of all features."""
    parts = [
        pd.DataFrame(
            {"features": name, "component": np.arange(1, len(study.explained) + 1), "share": study.explained}
        )
        for name, study in studies.items()
    ]
    return pd.concat(parts)
