"""Questions to the latents of a model: the class, percentages, directions, clusters, neighbors.

Features are float32, patches x features: the latents of a model, or the leading principal components
of the pixels, the baseline that no one had to train. What is fitted is fitted on train, what
is chosen is chosen on validation, and test reports. A patch has the label of its slide: 1
tumor, 0 normal.

Distances are taken between features as they are. Scaled to one variance, near-dead latents and
components that hold next to nothing would weigh as much as the leading ones.
"""

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from histocae.errors import DataError
from histocae.identifiers import PRIMARY_TUMOR
from histocae.params import Tissue
from histocae.patches.images import batches
from histocae.patches.sampling import draw
from histocae.patches.store import Patches
from histocae.statistics import discrimination
from histocae.statistics.classifier import fit_classifier
from histocae.statistics.levels import LEVELS

if TYPE_CHECKING:  # scikit-learn takes seconds to load
    pass

PENALTIES = tuple(10.0**i for i in range(-1, 7))
PERCENTS = ("percent_tumor_nuclei", "percent_tumor_cells", "percent_normal_cells", "percent_stromal_cells")
LEAST_SLIDES = {"train": 8, "validation": 3, "test": 4}  # with a percentage: to fit, to choose, to judge by
SIDE = 32  # least side of the reduced patches whose pixels are the baseline
MOST_FITTED = 5_000  # training patches that the components of the pixels are fitted on


def labels_of(table: pd.DataFrame) -> np.ndarray:
    """Give 1 for patches of tumor slides and 0 for the others, int8."""
    return (table["sample_type"] == PRIMARY_TUMOR).to_numpy(np.int8)


def classify(features: dict[str, np.ndarray], tables: dict[str, pd.DataFrame], tissue: Tissue, seed: int) -> dict:
    """Tell tumor from normal by a logistic regression on features.

    Args:
        features: of train, validation and test.
        tables: rows of the splits, in the same order.
        tissue: bootstrap, permutations and confidence.
        seed: of draws of cases.

    Returns:
        strength, validation_auroc (per patch), and for test `patch`, `slide` and `case`: see
        `discrimination.Discrimination.as_json`. A `reason` alone where only one class is there.

    """
    labels = {split: labels_of(table) for split, table in tables.items()}
    try:
        fitted = fit_classifier(
            features["train"], labels["train"], features["validation"], labels["validation"], seed=seed
        )
        scores = fitted.decision_function(features["test"])
        judged = tables["test"][["case_id", "slide_id"]].assign(label=labels["test"], score=scores)
        found = {
            level: discrimination.discriminate(
                judged,
                level,
                seed=seed,
                bootstrap=tissue.bootstrap,
                permutations=tissue.permutations,
                confidence=tissue.confidence,
            ).as_json()
            for level in LEVELS
        }
    except DataError as error:
        return {"reason": str(error)}
    held = fitted.decision_function(features["validation"])
    return {
        "strength": fitted["classify"].C,
        "validation_auroc": discrimination.auroc(labels["validation"], held),
        **found,
    }


def regress(features: dict[str, np.ndarray], tables: dict[str, pd.DataFrame]) -> dict[str, dict]:
    """Predict the percentages that slides come with from the mean features of their patches.

    Ridge regression (Hoerl and Kennard 1970, Technometrics 12:55-67) on standardized
    features, fitted on training slides, its penalty chosen by the squared error on
    validation slides.

    Args:
        features: of train, validation and test.
        tables: rows of the splits, in the same order.

    Returns:
        By column, of test slides: r2, mae (percentage points), spearman (None where all
        predictions are equal), slides (counts per split), penalty, and two baselines: the
        MAE of always saying the mean of the training slides (mae_mean) and that of the
        training slides of the same tissue (mae_tissue_mean, r2_tissue_mean: what telling
        the tissue alone gives). A `reason` alone where too few slides have a value.

    """
    means = {split: _slide_means(features[split], table) for split, table in tables.items()}
    slides = {
        split: table.drop_duplicates("slide_id").set_index("slide_id").loc[means[split].index]
        for split, table in tables.items()
    }
    return {column: _regress(column, means, slides) for column in PERCENTS}


def _slide_means(features: np.ndarray, table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(features.astype(np.float64)).groupby(table["slide_id"].to_numpy()).mean()


def _regress(column: str, means: dict[str, pd.DataFrame], slides: dict[str, pd.DataFrame]) -> dict:
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    given = {split: table[column].notna().to_numpy() for split, table in slides.items()}
    counts = {split: int(one.sum()) for split, one in given.items()}
    for split, least in LEAST_SLIDES.items():
        if counts[split] < least:
            return {"reason": f"{counts[split]} {split} slides have a {column}, and this needs {least}"}
    x = {split: means[split].to_numpy()[given[split]] for split in means}
    y = {split: slides[split][column].to_numpy(float)[given[split]] for split in means}
    for split in ("train", "test"):
        if np.ptp(y[split]) == 0:
            return {"reason": f"all {split} slides have the same {column}"}
    fitted = [make_pipeline(StandardScaler(), Ridge(penalty)).fit(x["train"], y["train"]) for penalty in PENALTIES]
    best = min(fitted, key=lambda one: mean_squared_error(y["validation"], one.predict(x["validation"])))
    said = best.predict(x["test"])
    types = {split: slides[split]["sample_type"].to_numpy()[given[split]] for split in means}
    by_tissue = pd.Series(y["train"]).groupby(types["train"]).mean()
    of_tissue = pd.Series(types["test"]).map(by_tissue).fillna(y["train"].mean()).to_numpy()
    return {
        "slides": counts,
        "penalty": best[-1].alpha,
        "r2": float(r2_score(y["test"], said)),
        "mae": float(mean_absolute_error(y["test"], said)),
        "spearman": float(spearmanr(y["test"], said).statistic) if np.ptp(said) > 0 else None,
        "mae_mean": float(np.abs(y["test"] - y["train"].mean()).mean()),
        "mae_tissue_mean": float(mean_absolute_error(y["test"], of_tissue)),
        "r2_tissue_mean": float(r2_score(y["test"], of_tissue)),
    }


def explained_variance(train: np.ndarray) -> np.ndarray:
    """Share of the variance of features per principal component, falling, float64.

    Not standardized: the shares are those of the variance that the decoder gets to see.
    """
    from sklearn.decomposition import PCA

    return PCA(svd_solver="covariance_eigh").fit(train.astype(np.float64)).explained_variance_ratio_


def nearest(train: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the training patches nearest to each query, all of other cases as the split is by case.

    Returns:
        Positions in train and Euclidean distances, each queries x count (fewer where train
        has no more), from the nearest on.

    """
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=min(count, len(train)), algorithm="brute").fit(train)
    distances, positions = found.kneighbors(queries)
    return positions, distances


def neighbor_agreement(neighbors: np.ndarray, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share of the neighbors that have the label of their query, and what chance would give.

    Args:
        neighbors: positions in train, queries x k.
        train_labels: of all training patches.
        labels: of the queries.

    Returns:
        `share`, and `chance`: the same share if neighbors were drawn from all training patches.

    """
    tumors, own = train_labels.mean(), labels.mean()
    return {
        "share": float((train_labels[neighbors] == labels[:, None]).mean()),
        "chance": float(own * tumors + (1 - own) * (1 - tumors)),
    }


def constant(features: np.ndarray) -> np.ndarray:
    """Tell which features are the same for all patches but for rounding; bool, one a feature.

    The last digits of a latent depend on how many patches were encoded at once.
    """
    return np.ptp(features, axis=0) <= 1e-5 * np.abs(features).max(axis=0)


def pixel_features(
    patches: dict[str, Patches], count: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Give the leading principal components of the pixels of reduced patches.

    Patches are reduced to 32 to 63 pixels a side, by the mean of whole blocks where that can be
    had: the leading components of tissue are far smoother than that, and at full size they
    cost twenty times as much and tell the classes no better.

    Args:
        patches: of train, validation and test.
        count: of components; fewer come where the training patches or pixels allow no more.
        seed: of the sample of at most 5,000 training patches that they are fitted on, and of the
            decomposition.

    Returns:
        float32 features of the splits; the share of the variance of the pixels that each
        component explains; the side of the reduced patches.

    """
    from sklearn.decomposition import PCA

    pixels = patches["train"].pixels
    whole = [pixels // k for k in range(1, pixels + 1) if pixels % k == 0 and SIDE <= pixels // k < 2 * SIDE]
    side = min(whole, default=min(SIDE, pixels))
    reduced = {split: _reduced(one, side) for split, one in patches.items()}
    fitted_on = draw(len(reduced["train"]), MOST_FITTED, seed)
    some = _flat(reduced["train"][fitted_on])
    method = PCA(max(1, min(count, len(some) - 1, some.shape[1])), random_state=seed).fit(some)
    # in parts: as floats, all patches of a large cohort are not to be in memory at once
    features = {
        split: np.concatenate(
            [method.transform(_flat(one[start : start + MOST_FITTED])) for start in range(0, len(one), MOST_FITTED)]
        )
        for split, one in reduced.items()
    }
    return features, method.explained_variance_ratio_, side


def _reduced(patches: Patches, side: int) -> np.ndarray:
    out = np.empty((len(patches), side, side, 3), np.uint8)
    for position, patch in enumerate(chain.from_iterable(batches(patches, 1024))):
        out[position] = Image.fromarray(patch).resize((side, side), Image.Resampling.BOX)
    return out


def _flat(patches: np.ndarray) -> np.ndarray:
    return patches.reshape(len(patches), -1).astype(np.float32) / np.float32(255)
