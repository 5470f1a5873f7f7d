"""Baselines: simpler ways to distinguish tumor from normal than a pair of autoencoders, from the same patches.

A baseline that has a direction gets it from training or validation cases; test cases only report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from histocae.contrast import pair
from histocae.errors import DataError
from histocae.identifiers import COMPARED
from histocae.networks import linear
from histocae.patches.images import batches
from histocae.patches.store import PatchSelection, PatchStore
from histocae.statistics import classifier, discrimination

TUMOR, _ = COMPARED
MOST_PER_TISSUE = 2000  # training patches of a classifier: of a few hundred features, it gains nothing from more
BATCH = 64  # patches in memory at once


@dataclass(frozen=True)
class Baseline:
    """Scores of a simpler way to distinguish tumor from normal.

    Attributes:
        description: for readers.
        scores: float64, shape (test patches,); a higher score means tumor.
        direction: 1, or -1 where a low measure means tumor, so that its sign was changed.
        fixed_on: split that fixed the direction (training or validation), or definition.
        details: further numbers for the report.
        validation_scores: float64, shape (validation patches,). They give the scale of the scores,
            which differs between models; None where a score of 0 means the same for all models.

    """

    description: str
    scores: NDArray[np.float64]
    direction: int
    fixed_on: str
    details: dict[str, int] = field(default_factory=dict)
    validation_scores: NDArray[np.float64] | None = None


def _oriented(
    description: str,
    values: ArrayLike,
    validation_values: ArrayLike,
    *,
    fixing: ArrayLike,
    labels: ArrayLike,
    fixed_on: str,
) -> Baseline:
    """Give a measure the sign with which its values on the patches in `fixing` are higher for tumor."""
    direction = 1 if discrimination.auroc(labels, np.asarray(fixing)) >= 0.5 else -1
    scores, validation_scores = (direction * np.asarray(each, np.float64) for each in (values, validation_values))
    return Baseline(description, scores, direction, fixed_on, validation_scores=validation_scores)


def make(
    store: PatchStore,
    training: tuple[pd.DataFrame, pd.DataFrame],
    validation: pd.DataFrame,
    test: pd.DataFrame,
    *,
    components: int,
    encoded: Mapping[str, NDArray[np.float32]] | None,
    seed: int,
) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Compute all baselines from the patches that the pair was trained on.

    Classifiers are trained on at most 2,000 of these patches of either tissue, equally many of
    each. Validation patches choose the strength of their penalty. The linear pair (PCA) is computed
    from at most 8,192 patches of either tissue.

    Args:
        store: the patches.
        training: rows of the training split that the tumor and the normal model were trained on.
        validation: the result of `comparison.join` for validation patches.
        test: the result of `comparison.join` for test patches.
        components: number of components of the linear pair: the latent size of the pair.
        encoded: latents per split (train, validation, test), float32, shape (rows, features); None
            leaves out the baseline that uses them.
        seed: of samples and fits.

    Returns:
        The baselines by name, and the reason for each that cannot be computed.

    """
    pool = pd.concat(training)
    count = min(MOST_PER_TISSUE, *(len(rows) for rows in training))
    sampled = pool.groupby("sample_type").sample(count, random_state=seed).sort_index()
    labels, validation_labels = (sampled["sample_type"] == TUMOR).to_numpy(int), validation["label"].to_numpy()
    means, histograms = zip(
        *(_color_features(store.select(rows)) for rows in (sampled, validation, test)), strict=True
    )

    def classified(description: str, features: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]) -> Baseline:
        fitted = classifier.fit_classifier(features[0], labels, features[1], validation_labels, seed=seed)
        scores, validation_scores = (fitted.decision_function(each) for each in (features[2], features[1]))
        return Baseline(
            f"{description} + logistic regression", scores, 1, "training", validation_scores=validation_scores
        )

    baselines = {
        f"error_{model}": _oriented(
            f"error of the {model.replace('_', ' ')} alone",
            test[column],
            validation[column],
            fixing=validation[column],
            labels=validation_labels,
            fixed_on="validation",
        )
        for model, column in pair.MODELS.items()
    }
    baselines["mean_intensity"] = _oriented(
        "mean intensity", means[2], means[1], fixing=means[0], labels=labels, fixed_on="training"
    )
    baselines["color_histogram"] = classified("color histogram", histograms)
    left_out = {}
    samples = (rows.sample(min(len(rows), linear.MOST_AT_ONCE), random_state=seed).sort_index() for rows in training)
    try:
        tumor, normal = (store.select(rows) for rows in samples)
        baselines["pca_pair"] = _linear_pair(tumor, normal, store.select(test), components, seed)
    except DataError as error:
        left_out["pca_pair"] = str(error)
    if encoded is not None:
        train_latents = encoded["train"][sampled.index.to_numpy()]
        baselines["latents"] = classified("latents", (train_latents, encoded["validation"], encoded["test"]))
    return baselines, left_out


def _linear_pair(
    tumor: PatchSelection, normal: PatchSelection, test: PatchSelection, components: int, seed: int
) -> Baseline:
    """Score by the linear counterparts of the pair, with the components that the smaller sample allows."""
    wanted = min(components, len(tumor) - 1, len(normal) - 1)
    if wanted < 1:
        raise DataError("a tissue has one training patch, and principal components need two")
    fits = [linear.fit(patches, wanted, seed) for patches in (tumor, normal)]
    count = min(len(fit.components) for fit in fits)
    errors = [fit.leading(count).errors(test) for fit in fits]
    return Baseline(
        f"pair of linear models (PCA, {count:,} components)",
        pair.score(*errors),
        1,
        "definition",
        {"components": count, "components_wanted": components},
    )


def _color_features(patches: PatchSelection) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Measure the color of patches.

    Returns:
        The mean over pixels and channels, 0 to 255, float64, shape (n,); and the share of pixels in
        each of 8 x 8 x 8 bins, float32, shape (n, 512).

    """
    means, histograms = np.empty(len(patches)), np.empty((len(patches), 512), np.float32)
    strides = np.array([64, 8, 1], np.float32)  # of red, green and blue in the number of a bin
    for position, patch in enumerate(chain.from_iterable(batches(patches, BATCH))):
        means[position] = patch.mean()
        bins = ((patch >> 5) @ strides).astype(np.intp).ravel()
        histograms[position] = np.bincount(bins, minlength=512) / len(bins)
    return means, histograms
