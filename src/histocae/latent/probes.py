"""Probes of the latents of a model: tissue class, percentages, principal components, neighbors.

Features are float32, shape (patches, features): the latents of a model, or the leading principal
components of the pixels, a baseline that needs no training. Everything is fitted on train and selected on
validation; test only reports. A patch has the label of its slide: 1 tumor, 0 normal.

Distances are taken between features as they are. Scaled to one variance, near-dead latents and
components of nearly no variance would weigh as much as the leading ones.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError
from histocae.identifiers import PRIMARY_TUMOR
from histocae.params import Tissue
from histocae.patches.images import batches
from histocae.patches.sampling import draw
from histocae.patches.store import PatchSelection
from histocae.slides.area_means import reduce_image
from histocae.statistics import discrimination
from histocae.statistics.classifier import fit_classifier
from histocae.statistics.discrimination import Discrimination
from histocae.statistics.group_means import group_means
from histocae.statistics.levels import LEVELS

PENALTIES = tuple(10.0**i for i in range(-1, 7))
PERCENTS = ("percent_tumor_nuclei", "percent_tumor_cells", "percent_normal_cells", "percent_stromal_cells")
LEAST_SLIDES = {"train": 8, "validation": 3, "test": 4}  # with a percentage: to fit, to select, to report
SIDE = 32  # least side, in pixels, of the reduced patches of the baseline
MOST_FITTED = 5_000  # training patches that the components of the pixels are fitted on


@dataclass(frozen=True)
class Unanswered:
    """A probe that the data do not allow.

    Attributes:
        reason: why, in words.

    """

    reason: str


@dataclass(frozen=True)
class Classification:
    """How well a logistic regression on features distinguishes tumor from normal.

    Attributes:
        strength: inverse strength of the penalty, selected on validation.
        validation_auroc: per patch.
        levels: discrimination on test, by level: patch, slide, case.

    """

    strength: float
    validation_auroc: float
    levels: dict[str, Discrimination]


@dataclass(frozen=True, kw_only=True)
class Regression:
    """How well features predict a percentage of slides; all but the penalty on test slides.

    Attributes:
        slides: with a value, by split.
        penalty: of the ridge regression, selected on validation.
        r2: coefficient of determination.
        mae: mean absolute error, percentage points.
        spearman: rank correlation; None where all predictions are equal.
        mae_mean: MAE of always predicting the mean of the training slides.
        mae_tissue_mean: MAE of predicting the mean of the training slides of the same tissue.
        r2_tissue_mean: coefficient of determination of that prediction.

    """

    slides: dict[str, int]
    penalty: float
    r2: float
    mae: float
    spearman: float | None
    mae_mean: float
    mae_tissue_mean: float
    r2_tissue_mean: float


@dataclass(frozen=True)
class NeighborAgreement:
    """How often the neighbors of a patch have its label.

    Attributes:
        count: neighbors per patch.
        patches: whose neighbors were compared.
        share: of the neighbors that have the label of their patch.
        chance: the same share for neighbors drawn from all training patches.

    """

    count: int
    patches: int
    share: float
    chance: float


@dataclass(frozen=True)
class PixelFeatures:
    """The leading principal components of the pixels of reduced patches.

    Attributes:
        features: float32, shape (patches, components), by split.
        explained: share of the variance of the pixels per component, float64.
        side: of the reduced patches, in pixels.

    """

    features: dict[str, NDArray[np.float32]]
    explained: NDArray[np.float64]
    side: int


def labels_of(table: pd.DataFrame) -> NDArray[np.int8]:
    """Label patches by the sample type of their slide.

    Args:
        table: one row per patch, with sample_type.

    Returns:
        int8, one label per patch: 1 tumor, 0 normal.

    """
    labels: NDArray[np.int8] = (table["sample_type"] == PRIMARY_TUMOR).to_numpy(np.int8)
    return labels


def classify(
    features: dict[str, NDArray[np.float32]], tables: dict[str, pd.DataFrame], tissue: Tissue, seed: int
) -> Classification | Unanswered:
    """Classify patches as tumor or normal by a logistic regression on features.

    Args:
        features: of train, validation and test.
        tables: rows of the splits, in the same order.
        tissue: bootstrap, permutations and confidence.
        seed: of draws of cases.

    Returns:
        The classification; a reason where a split has one class only.

    """
    labels = {split: labels_of(table) for split, table in tables.items()}
    try:
        fitted = fit_classifier(
            features["train"], labels["train"], features["validation"], labels["validation"], seed=seed
        )
        scores = fitted.decision_function(features["test"])
        scored = tables["test"][["case_id", "slide_id"]].assign(label=labels["test"], score=scores)
        levels = {
            level: discrimination.discriminate(
                scored,
                level,
                seed=seed,
                bootstrap=tissue.bootstrap,
                permutations=tissue.permutations,
                confidence=tissue.confidence,
            )
            for level in LEVELS
        }
    except DataError as error:
        return Unanswered(str(error))
    validation_scores = fitted.decision_function(features["validation"])
    return Classification(fitted["classify"].C, discrimination.auroc(labels["validation"], validation_scores), levels)


def regress(
    features: dict[str, NDArray[np.float32]], tables: dict[str, pd.DataFrame]
) -> dict[str, Regression | Unanswered]:
    """Predict the percentages of the slides from the mean features of their patches.

    Ridge regression (Hoerl and Kennard 1970, Technometrics 12:55-67) on standardized
    features, fitted on training slides. Its penalty is selected by the squared error on
    validation slides.

    Args:
        features: of train, validation and test.
        tables: rows of the splits, in the same order.

    Returns:
        By column of `PERCENTS` the regression; a reason where too few slides have a value.

    """
    means = {split: _slide_means(features[split], table) for split, table in tables.items()}
    slides = {
        split: table.drop_duplicates("slide_id").set_index("slide_id").loc[means[split].index]
        for split, table in tables.items()
    }
    return {column: _regress(column, means, slides) for column in PERCENTS}


def _slide_means(features: NDArray[np.float32], table: pd.DataFrame) -> pd.DataFrame:
    values = pd.DataFrame(features.astype(np.float64))
    return group_means(values, table["slide_id"].to_numpy(), list(values))


def _regress(column: str, means: dict[str, pd.DataFrame], slides: dict[str, pd.DataFrame]) -> Regression | Unanswered:
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = {split: table[column].notna().to_numpy() for split, table in slides.items()}
    counts = {split: int(rows.sum()) for split, rows in known.items()}
    for split, least in LEAST_SLIDES.items():
        if counts[split] < least:
            return Unanswered(f"{counts[split]} {split} slides have a {column}, and this needs {least}")
    x = {split: means[split].to_numpy()[known[split]] for split in means}
    y = {split: slides[split][column].to_numpy(float)[known[split]] for split in means}
    for split in ("train", "test"):
        if np.ptp(y[split]) == 0:
            return Unanswered(f"all {split} slides have the same {column}")
    fitted = [make_pipeline(StandardScaler(), Ridge(penalty)).fit(x["train"], y["train"]) for penalty in PENALTIES]
    best = min(fitted, key=lambda ridge: mean_squared_error(y["validation"], ridge.predict(x["validation"])))
    predicted = best.predict(x["test"])
    types = {split: slides[split]["sample_type"].to_numpy()[known[split]] for split in means}
    by_tissue = group_means(pd.DataFrame({"y": y["train"]}), types["train"], ["y"])["y"]
    of_tissue = pd.Series(types["test"]).map(by_tissue).fillna(y["train"].mean()).to_numpy()
    return Regression(
        slides=counts,
        penalty=best[-1].alpha,
        r2=float(r2_score(y["test"], predicted)),
        mae=float(mean_absolute_error(y["test"], predicted)),
        spearman=float(spearmanr(y["test"], predicted).statistic) if np.ptp(predicted) > 0 else None,
        mae_mean=float(np.abs(y["test"] - y["train"].mean()).mean()),
        mae_tissue_mean=float(mean_absolute_error(y["test"], of_tissue)),
        r2_tissue_mean=float(r2_score(y["test"], of_tissue)),
    )


def explained_variance(train: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the share of the variance of features that each principal component explains.

    Features are not standardized: the shares are those of the variance that the decoder receives.

    Args:
        train: float32, shape (training patches, features).

    Returns:
        float64, one falling share per component.

    """
    from sklearn.decomposition import PCA

    pca = PCA(svd_solver="covariance_eigh").fit(train.astype(np.float64))
    shares: NDArray[np.float64] = pca.explained_variance_ratio_
    return shares


def nearest(
    train: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.intp], NDArray[np.floating[Any]]]:
    """Find the training patches nearest to each query; the split is by case, so all are of other cases.

    Args:
        train: float32, shape (training patches, features).
        queries: float32, shape (queries, features).
        count: neighbors per query; fewer where train has fewer patches.

    Returns:
        Positions in train and Euclidean distances, each of shape (queries, neighbors), the nearest first.

    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(count, len(train)), algorithm="brute").fit(train)
    distances, positions = index.kneighbors(queries)
    return positions, distances


def neighbor_agreement(
    neighbors: NDArray[np.intp], train_labels: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]
) -> NeighborAgreement:
    """Compare the labels of neighbors with those of their queries.

    Args:
        neighbors: positions in train, shape (queries, neighbors).
        train_labels: of all training patches.
        labels: of the queries.

    Returns:
        The share of neighbors that agree, and the share by chance.

    """
    tumors, own = train_labels.mean(), labels.mean()
    return NeighborAgreement(
        count=neighbors.shape[1],
        patches=len(neighbors),
        share=float((train_labels[neighbors] == labels[:, None]).mean()),
        chance=float(own * tumors + (1 - own) * (1 - tumors)),
    )


def constant(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the features that are the same for all patches but for rounding.

    The last bits of a latent depend on how many patches were encoded at once.

    Args:
        features: float32, shape (patches, features).

    Returns:
        bool, one per feature.

    """
    same: NDArray[np.bool_] = np.ptp(features, axis=0) <= 1e-5 * np.abs(features).max(axis=0)
    return same


def pixel_features(patches: dict[str, PatchSelection], count: int, seed: int) -> PixelFeatures:
    """Compute the leading principal components of the pixels of reduced patches.

    Patches are reduced to 32 to 63 pixels a side, by the mean of whole blocks where the side allows
    it. The leading components of tissue are far smoother than that. At full size they
    cost twenty times as much and distinguish the classes no better.

    Args:
        patches: of train, validation and test.
        count: number of components; fewer where the training patches or pixels allow no more.
        seed: of the sample of at most 5,000 training patches that they are fitted on, and of the
            decomposition.

    Returns:
        The features of the splits.

    """
    from sklearn.decomposition import PCA

    pixels = patches["train"].pixels
    whole = [pixels // k for k in range(1, pixels + 1) if pixels % k == 0 and SIDE <= pixels // k < 2 * SIDE]
    side = min(whole, default=min(SIDE, pixels))
    reduced = {split: _reduced(images, side) for split, images in patches.items()}
    fitted_on = draw(len(reduced["train"]), MOST_FITTED, seed)
    sample = _flat(reduced["train"][fitted_on])
    method = PCA(max(1, min(count, len(sample) - 1, sample.shape[1])), random_state=seed).fit(sample)
    # in parts, so that all patches of a large cohort are never in memory as floats
    features = {
        split: np.concatenate(
            [
                method.transform(_flat(images[start : start + MOST_FITTED]))
                for start in range(0, len(images), MOST_FITTED)
            ]
        )
        for split, images in reduced.items()
    }
    return PixelFeatures(features, method.explained_variance_ratio_, side)


def _reduced(patches: PatchSelection, side: int) -> NDArray[np.uint8]:
    out = np.empty((len(patches), side, side, 3), np.uint8)
    for position, patch in enumerate(chain.from_iterable(batches(patches, 1024))):
        out[position] = reduce_image(patch, side, side)
    return out


def _flat(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    return patches.reshape(len(patches), -1).astype(np.float32) / np.float32(255)
