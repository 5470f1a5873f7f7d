"""The study of outside features, those of a pretrained encoder, beside the latents of a model.

Patches may lack outside features. They are left out of this study alone; the results name patches by their positions
among all patches, as the other studies do.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.latent import probes
from histocae.latent.study import FeatureStudy, Points, study_features
from histocae.params import Latent, Tissue
from histocae.patches.outside import Joined

NONE = -1  # the cluster of a test patch without features


def lacking(joined: Mapping[str, Joined], tables: Mapping[str, pd.DataFrame], points: Points) -> str | None:
    """Say why outside features can't be studied.

    Args:
        joined: the features of train, validation and test.
        tables: rows of the splits.
        points: the test patches that are shown.

    Returns:
        The reason; None where they can be studied.

    """
    for split, table in tables.items():
        kinds = table["sample_type"]
        known = set(kinds[joined[split].matched])
        if missing := [kind for kind in kinds.unique() if kind not in known]:
            return f"no {split} patch of {missing[0]} has features"
    if not joined["test"].matched[points.sample].any():
        return "no test patch on the maps has features"
    train = joined["train"].features
    if len(train) < 2 or probes.constant(train).all():
        return "every training patch has the same features"
    return None


def study(
    joined: Mapping[str, Joined],
    tables: Mapping[str, pd.DataFrame],
    latent: Latent,
    tissue: Tissue,
    seed: int,
    points: Points,
) -> FeatureStudy:
    """Apply every probe to the patches that have outside features.

    Args:
        joined: the features of train, validation and test; see `lacking`.
        tables: rows of the splits.
        latent: points on the maps, perplexity, clusters, whether there is a UMAP.
        tissue: bootstrap, permutations and confidence of the intervals.
        seed: of every draw.
        points: the test patches that are shown.

    Returns:
        The results, whose patches are positions among all patches of their split. The cluster of a test patch without
        features is `NONE`.

    """
    kept = {split: np.flatnonzero(part.matched) for split, part in joined.items()}
    features = {split: part.features for split, part in joined.items()}
    found = study_features(
        features,
        probes.explained_variance(features["train"]),
        {split: tables[split].iloc[rows].reset_index(drop=True) for split, rows in kept.items()},
        latent,
        tissue,
        seed,
        Points(_among(joined["test"].matched, points.sample), _among(joined["test"].matched, points.queries)),
    )
    clusters = np.full(len(joined["test"].matched), NONE, found.clusters.dtype)
    clusters[kept["test"]] = found.clusters
    return dataclasses.replace(
        found,
        clusters=clusters,
        typical=[kept["test"][members] for members in found.typical],
        sample=kept["test"][found.sample],
        queries=kept["test"][found.queries],
        neighbors=kept["train"][found.neighbors],
    )


def _among(matched: NDArray[np.bool_], chosen: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Number the chosen patches among those with features; the others are left out."""
    numbers = np.cumsum(matched) - 1
    among: NDArray[np.int64] = numbers[chosen[matched[chosen]]]
    return among


def notes(joined: Mapping[str, Joined], reason: str | None) -> list[str]:
    """Say which patches have no outside features.

    Args:
        joined: the features of train, validation and test.
        reason: why outside features are not studied, if they are not.

    Returns:
        At most one sentence.

    """
    if reason is not None:
        return [f"No study of outside features: {reason}."]
    counts = [
        f"{int((~part.matched).sum()):,} of {len(part.matched):,} {split} patches"
        for split, part in joined.items()
        if not part.matched.all()
    ]
    return [f"Without outside features, and left out of their study alone: {', '.join(counts)}."] if counts else []
