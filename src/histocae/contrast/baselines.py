"""Simpler ways to tell tumor from normal than a pair of autoencoders, from the same patches.

What has a direction gets it on training or validation cases; test cases only report.
"""

from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pandas as pd

from histocae.contrast import pair
from histocae.errors import DataError
from histocae.identifiers import COMPARED
from histocae.networks import linear
from histocae.patches.images import batches
from histocae.patches.store import Patches, PatchStore
from histocae.statistics import classifier, discrimination

TUMOR, _ = COMPARED
# a classifier of a few hundred features has learnt what it can from so many of each tissue
MOST_PER_TISSUE = 2000
BATCH = 64


@dataclass(frozen=True)
class Baseline:
    """Another way to tell tumor from normal.

    Attributes:
        about: what it is, in words.
        scores: float64, one per test patch; a higher one means tumor.
        direction: 1, or -1 where the measured values were turned round.
        fixed_on: what decided on the direction: training, validation or definition.
        more: what else there is to know of it.
        held: float64, the scores of the validation patches, which say what a score is worth
            among those of other models; None where 0 means the same for all.

    """

    about: str
    scores: np.ndarray
    direction: int
    fixed_on: str
    more: dict = field(default_factory=dict)
    held: np.ndarray | None = None


def _turned(
    about: str, values: np.ndarray, held: np.ndarray, fixing: np.ndarray, labels: np.ndarray, fixed_on: str
) -> Baseline:
    """Turn a measure the way round in which `fixing`, values of other patches, is higher for tumor."""
    direction = 1 if discrimination.auroc(labels, np.asarray(fixing)) >= 0.5 else -1
    values, held = (direction * np.asarray(one, np.float64) for one in (values, held))
    return Baseline(about, values, direction, fixed_on, held=held)


def make(
    store: PatchStore,
    learnt: tuple[pd.DataFrame, pd.DataFrame],
    validation: pd.DataFrame,
    test: pd.DataFrame,
    components: int,
    encoded: dict[str, np.ndarray] | None,
    seed: int,
) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Make all baselines, from what the pair learned from.

    Classifiers learn from at most 2,000 of these patches of either tissue, as many of each,
    and validation patches choose how strongly they are held back. The linear pair is computed
    from at most 8,192 of either.

    Args:
        store: the patches.
        learnt: rows of the training split that the tumor and the normal model learned from.
        validation: what `contrast.join` gave.
        test: likewise.
        components: of the linear pair: as many as the pair has latent numbers.
        encoded: train, validation, test: latents of each row of the split, float32, rows x
            features; None leaves out the baseline that uses them.
        seed: of samples and fits.

    Returns:
        The baselines by name, and those that can't be made, with the reason.

    """
    pool = pd.concat(learnt)
    count = min(MOST_PER_TISSUE, *(len(rows) for rows in learnt))
    learners = pool.groupby("sample_type").sample(count, random_state=seed).sort_index()
    labels, held = (learners["sample_type"] == TUMOR).to_numpy(int), validation["label"].to_numpy()
    means, histograms = zip(*(_colors(store.select(rows)) for rows in (learners, validation, test)), strict=True)

    def classified(about: str, features: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Baseline:
        fitted = classifier.fit_classifier(features[0], labels, features[1], held, seed)
        scores, on_held = (fitted.decision_function(some) for some in (features[2], features[1]))
        return Baseline(f"{about} + logistic regression", scores, 1, "training", held=on_held)

    found = {
        f"error_{model}": _turned(
            f"error of the {model.replace('_', ' ')} alone",
            test[column],
            held=validation[column],
            fixing=validation[column],
            labels=held,
            fixed_on="validation",
        )
        for model, column in pair.MODELS.items()
    }
    found["mean_intensity"] = _turned("mean intensity", means[2], means[1], means[0], labels, "training")
    found["color_histogram"] = classified("color histogram", histograms)
    left_out = {}
    some = (rows.sample(min(len(rows), linear.MOST_AT_ONCE), random_state=seed).sort_index() for rows in learnt)
    try:
        found["pca_pair"] = _of_pca(*(store.select(rows) for rows in (*some, test)), components, seed)
    except DataError as error:
        left_out["pca_pair"] = str(error)
    if encoded is not None:
        at_learners = encoded["train"][learners.index.to_numpy()]
        found["latents"] = classified("latents", (at_learners, encoded["validation"], encoded["test"]))
    return found, left_out


def _of_pca(tumor: Patches, normal: Patches, test: Patches, components: int, seed: int) -> Baseline:
    """Judge by the linear counterparts of the pair, both of as many components as the smaller sample allows."""
    wanted = min(components, len(tumor) - 1, len(normal) - 1)
    if wanted < 1:
        raise DataError("one training patch of a tissue has no principal components")
    fits = [linear.fit(patches, wanted, seed) for patches in (tumor, normal)]
    count = min(len(one.components) for one in fits)
    errors = [one.leading(count).errors(test) for one in fits]
    return Baseline(
        f"pair of linear models (PCA, {count:,} components)",
        pair.score(*errors),
        1,
        "definition",
        {"components": count, "components_wanted": components},
    )


def _colors(patches: Patches) -> tuple[np.ndarray, np.ndarray]:
    """Measure the color of patches.

    Returns:
        The mean over pixels and channels, 0 to 255 (float64, n), and the share of pixels in
        each of 8 x 8 x 8 bins (float32, n x 512).

    """
    means, histograms = np.empty(len(patches)), np.empty((len(patches), 512), np.float32)
    place = np.array([64, 8, 1], np.float32)
    for position, patch in enumerate(chain.from_iterable(batches(patches, BATCH))):
        means[position] = patch.mean()
        bins = ((patch >> 5) @ place).astype(np.intp).ravel()
        histograms[position] = np.bincount(bins, minlength=512) / len(bins)
    return means, histograms
