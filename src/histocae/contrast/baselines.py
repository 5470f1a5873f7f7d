"""Baselines: simpler ways to distinguish tumor from normal than a pair of autoencoders, from the same patches.

A baseline that has a direction gets it from training or validation cases; test cases only report.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from histocae.contrast import linear_pair, pair
from histocae.errors import DataError
from histocae.evaluation import scales
from histocae.identifiers import COMPARED
from histocae.networks import linear
from histocae.patches.images import batches
from histocae.patches.store import PatchSelection, PatchStore
from histocae.statistics import classifier, discrimination

TUMOR, _ = COMPARED
MOST_PER_TISSUE = 2000  # training patches of a classifier: of a few hundred features, it gains nothing from more
BATCH = 64  # patches in memory at once
# from rows of patches to statistics of the errors that both models of a pair make, float32, shape (rows, features)
Describe = Callable[[pd.DataFrame], NDArray[np.float32]]


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
        linear: the function of features that gives the scores; None where it is not a linear one.
        train_features: of the training patches (`sample`) that the linear function was fitted on, floats, shape
            (patches, features); empty where there is no such function.
        covered: which test patches have a score, bool, shape (test patches,); the others have NaN. None: all have.

    """

    description: str
    scores: NDArray[np.float64]
    direction: int
    fixed_on: str
    details: dict[str, int] = field(default_factory=dict)
    validation_scores: NDArray[np.float64] | None = None
    linear: pair.Linear | None = None
    train_features: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    covered: NDArray[np.bool_] | None = None

    def on(self, test: pd.DataFrame) -> pd.DataFrame:
        """Give the test patches that have a score, with that score.

        Args:
            test: rows of all test patches.

        Returns:
            Rows with the column score.

        """
        scored = test.assign(score=self.scores)
        return scored if self.covered is None else scored[self.covered]


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
    errors_by_scale: Describe,
    encoded: Mapping[str, NDArray[np.float32]] | None,
    seed: int,
) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Compute all baselines from the patches that the pair was trained on.

    Classifiers are trained on at most 2,000 of these patches of either tissue, equally many of
    each. Validation patches choose the strength of their penalty, and the number of components of
    the linear pair (PCA), which is computed from at most 8,192 patches of either tissue.

    Args:
        store: the patches.
        training: rows of the training split that the tumor and the normal model were trained on.
        validation: the result of `comparison.join` for validation patches.
        test: the result of `comparison.join` for test patches.
        errors_by_scale: describes the errors of both models of the pair on rows of patches.
        encoded: latents per split (train, validation, test), float32, shape (rows, features); None
            leaves out the baseline that uses them.
        seed: of samples and fits.

    Returns:
        The baselines by name, and the reason for each that cannot be computed.

    """
    baselines = {
        f"error_{model}": _oriented(
            f"error of the {model.replace('_', ' ')} alone",
            test[column],
            validation[column],
            fixing=validation[column],
            labels=validation["label"],
            fixed_on="validation",
        )
        for model, column in pair.MODELS.items()
    }
    parts = Parts(sample(training, seed), validation, test)
    without_pair, left_out = simple(store, training, parts, seed)
    baselines |= without_pair
    baselines["errors_by_scale"] = parts.classify(
        "errors of both models by scale", [errors_by_scale(rows) for rows in parts.each], seed
    )
    if encoded is not None:
        train_latents = encoded["train"][parts.train.index.to_numpy()]
        baselines["latents"] = parts.classify(
            "latents", (train_latents, encoded["validation"], encoded["test"]), seed
        )
    return baselines, left_out


def sample(training: tuple[pd.DataFrame, pd.DataFrame], seed: int) -> pd.DataFrame:
    """Draw the training patches of a classifier: equally many of either tissue, at most 2,000.

    Args:
        training: rows of tumor and of normal training patches.
        seed: of the draw.

    Returns:
        The rows, in their order, with their label (1 tumor, 0 normal).

    """
    count = min(MOST_PER_TISSUE, *(len(rows) for rows in training))
    sampled = pd.concat(training).groupby("patch_label").sample(count, random_state=seed).sort_index()
    return sampled.assign(label=(sampled["patch_label"] == TUMOR).astype(int))


@dataclass(frozen=True)
class Parts:
    """Rows of patches with their label, which a classifier is trained on, chosen with and tested on.

    Attributes:
        train: the result of `sample`.
        validation: of validation patches.
        test: of test patches.

    """

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame

    @property
    def each(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The rows of training, validation and test."""
        return self.train, self.validation, self.test

    def _choice(self) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Choose the validation patches by which a penalty is chosen: those with a label, and their labels.

        Where the labeled ones are of one tissue, all are chosen, with the labels of their slides.
        """
        labels = self.validation["patch_label"]
        chosen = np.flatnonzero(labels.isin(COMPARED))
        tumor = (labels.iloc[chosen] == TUMOR).to_numpy(np.int64)
        if 0 < tumor.sum() < len(tumor):
            return chosen, tumor
        return np.arange(len(labels)), self.validation["label"].to_numpy(np.int64)

    def classify(self, description: str, features: Sequence[NDArray[Any]], seed: int) -> Baseline:
        """Score patches by a logistic regression; see `classifier.fit_classifier`.

        Args:
            description: of the features, for readers.
            features: floats, shape (rows, features), of the rows of training, validation and test.
            seed: of the fit.

        Returns:
            The scores of validation and test patches.

        """
        chosen, validation_labels = self._choice()
        labels = self.train["label"].to_numpy()
        fitted = classifier.fit_classifier(features[0], labels, features[1][chosen], validation_labels, seed=seed)
        linear = pair.Linear(
            fitted["scale"].mean_,
            fitted["scale"].scale_,
            fitted["classify"].coef_[0],
            fitted["classify"].intercept_[0],
        )
        scores, validation_scores = (linear.score(each) for each in (features[2], features[1]))
        return Baseline(
            f"{description} + logistic regression",
            scores,
            1,
            "training",
            validation_scores=validation_scores,
            linear=linear,
            train_features=features[0],
        )


def simple(
    store: PatchStore, training: tuple[pd.DataFrame, pd.DataFrame], parts: Parts, seed: int
) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Compute the baselines that need no autoencoder.

    Args:
        store: the patches.
        training: rows of tumor and of normal training patches, from which principal components are computed.
        parts: rows of which the baselines are trained, chosen and tested.
        seed: of samples and fits.

    Returns:
        The baselines by name, and the reason for each that cannot be computed.

    """
    means, histograms, textures = zip(*(_features(store.select(rows)) for rows in parts.each), strict=True)
    baselines = {
        "mean_intensity": _oriented(
            "mean intensity",
            means[2],
            means[1],
            fixing=means[0],
            labels=parts.train["label"],
            fixed_on="training",
        ),
        "color_histogram": parts.classify("color histogram", histograms, seed),
        "texture": parts.classify("texture", textures, seed),
        "texture_color": parts.classify(
            "texture and color histogram",
            [np.hstack(each) for each in zip(textures, histograms, strict=True)],
            seed,
        ),
    }
    samples = (rows.sample(min(len(rows), linear.MOST_AT_ONCE), random_state=seed).sort_index() for rows in training)
    try:
        tumor, normal = (store.select(rows) for rows in samples)
        fits = linear_pair.fit(tumor, normal, seed)
    except DataError as error:
        return baselines, dict.fromkeys(("pca_pair", "pca_errors_by_scale"), str(error))
    chosen = linear_pair.choose(fits, store.select(parts.validation), parts.validation["label"].to_numpy())
    baselines["pca_pair"] = Baseline(
        f"pair of linear models (PCA, {_number(chosen.components)})",
        chosen.scores(store.select(parts.test)),
        1,
        "definition",
        {"components": chosen.components},
    )
    baselines["pca_errors_by_scale"] = parts.classify(
        "errors of the linear pair by scale",
        [chosen.errors_by_scale(store.select(rows)) for rows in parts.each],
        seed,
    )
    return baselines, {}


def _number(components: int) -> str:
    return f"{components:,} component{'s' * (components != 1)}"


def _features(patches: PatchSelection) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    """Measure brightness, color and texture of patches.

    Returns:
        The mean over pixels and channels, 0 to 255, float64, shape (n,); the share of pixels in each of 16 bins of
        red, green, blue, hue, saturation and value, float32, shape (n, 96); and `scales.texture`.

    """
    parts = [
        (batch.mean((1, 2, 3), np.float64), _histograms(batch), scales.texture(batch))
        for batch in batches(patches, BATCH)
    ]
    means, histograms, textures = (np.concatenate(part) for part in zip(*parts, strict=True))
    return means, histograms, textures


def _histograms(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Count the pixels in 16 bins of each of red, green, blue, hue, saturation and value, as shares."""
    channels = np.concatenate([patches, [np.asarray(Image.fromarray(each).convert("HSV")) for each in patches]], 3)
    bins = (channels >> 4).astype(np.intp).reshape(len(patches), -1, channels.shape[3])
    bins += 16 * np.arange(channels.shape[3])
    counts = [np.bincount(each.ravel(), minlength=16 * channels.shape[3]) for each in bins]
    return (np.array(counts) / bins.shape[1]).astype(np.float32)
