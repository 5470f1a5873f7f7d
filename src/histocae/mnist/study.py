"""What latents know of the digits: a classifier, clusters, principal components. Test images report."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histocae.latent.clusters import cluster, impurity
from histocae.latent.maps import tsne
from histocae.mnist.images import DIGITS
from histocae.patches.sampling import draw
from histocae.statistics import classifier
from histocae.statistics.intervals import wilson

CONFIDENCE = 0.95
# inverse strengths of the penalty; on pixels the weaker ones take minutes and are worse
PIXEL_STRENGTHS = classifier.STRENGTHS[:4]


def accuracy(digits: np.ndarray, scores: np.ndarray) -> float:
    """Share of images whose highest score (n x 10) is that of their digit."""
    return float((scores.argmax(axis=1) == digits).mean())


def classify(
    features: dict[str, np.ndarray], digits: dict[str, np.ndarray], seed: int, strengths: tuple[float, ...]
) -> dict[str, Any]:
    """Tell the digits by a multinomial logistic regression, its penalty chosen on validation.

    Args:
        features: of train, validation and test, images x features.
        digits: of these.
        seed: of the solver.
        strengths: inverse strengths of the penalty to choose from.

    Returns:
        metrics: accuracy of each part, of test with an interval; strength, of the penalty that was
        chosen; predicted, the digits of test; report, as `reports` gives it for train and test.

    """
    fitted = classifier.fit_classifier(
        features["train"],
        digits["train"],
        features["validation"],
        digits["validation"],
        seed=seed,
        quality=accuracy,
        strengths=strengths,
    )
    predicted = {part: fitted.predict(one) for part, one in features.items()}
    metrics = {f"{part}_accuracy": float((said == digits[part]).mean()) for part, said in predicted.items()}
    return {
        "metrics": metrics | interval(metrics["test_accuracy"], len(digits["test"])),
        "strength": fitted["classify"].C,
        "predicted": predicted["test"],
        "report": reports(digits, {part: predicted[part] for part in ("train", "test")}),
    }


def interval(share: float, count: int) -> dict[str, float]:
    """Give the 95 % interval (Wilson) of a share of the test images that were named right."""
    low, high = wilson(share, count, CONFIDENCE)
    return {"test_accuracy_low": low, "test_accuracy_high": high}


def one_vs_rest(features: dict[str, np.ndarray], digits: dict[str, np.ndarray]) -> float:
    """Test accuracy of the classifier as the notebook fitted it: ten regressions of one digit against the rest.

    On latents as they are, at strength 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    fitted = OneVsRestClassifier(LogisticRegression(max_iter=5_000)).fit(
        features["train"].astype(np.float64), digits["train"]
    )
    return float((fitted.predict(features["test"].astype(np.float64)) == digits["test"]).mean())


def reports(digits: dict[str, np.ndarray], predicted: dict[str, np.ndarray]) -> pd.DataFrame:
    """Give precision, recall, F1 and support per digit and on average, for each part of `predicted`."""
    from sklearn.metrics import classification_report

    parts = []
    for part, said in predicted.items():
        found = classification_report(digits[part], said, output_dict=True, zero_division=0.0)
        rows = {name: row for name, row in found.items() if isinstance(row, dict)}
        one = pd.DataFrame(rows).T.rename_axis("digit").reset_index()
        one.insert(0, "part", part)
        parts.append(one.astype({"support": int}))
    return pd.concat(parts)


def confusion(digits: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count images by what they are (rows) and what they were taken for (columns); int64, 10 x 10."""
    return np.bincount(digits * DIGITS + predicted, minlength=DIGITS**2).reshape(DIGITS, DIGITS)


@dataclass(frozen=True)
class Latents:
    """What was found in the latents of one model.

    Attributes:
        about: the numbers, JSON-able.
        explained: share of the variance of the training images per principal component.
        plane: the two leading components of the test images that are mapped, float32, n x 2.
        tsne: the same images by t-SNE, float32, n x 2.
        sample: positions of these in test.
        clusters: of all test images, int64.
        table: one row per cluster.

    """

    about: dict[str, Any]
    explained: np.ndarray
    plane: np.ndarray
    tsne: np.ndarray
    sample: np.ndarray
    clusters: np.ndarray
    table: pd.DataFrame


def study(
    features: dict[str, np.ndarray],
    digits: dict[str, np.ndarray],
    sample: int,
    clusters: int,
    perplexity: float,
    seed: int,
) -> Latents:
    """Map the latents and cluster them.

    Clusters are found among the latents of training images; on a t-SNE plane, where the notebook
    looked for them, distances mean little.

    Args:
        features: of train, validation and test.
        digits: of these.
        sample: at most so many test images are mapped.
        clusters: of KMeans.
        perplexity: of t-SNE.
        seed: of every draw.

    """
    from sklearn.decomposition import PCA
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    train, test = (features[part].astype(np.float64) for part in ("train", "test"))
    components = PCA(svd_solver="covariance_eigh").fit(train)
    chosen = draw(len(test), sample, seed)
    in_train, far = cluster(features["train"], digits["train"], features["test"], clusters, seed, numbering=_by_digit)
    found = far.argmin(axis=1)
    table = _table(in_train, found, digits["test"], far.shape[1])
    plane, used = tsne(features["test"][chosen], perplexity, seed)
    weights = table["images"] / len(test)
    whole, entropy = impurity(np.bincount(digits["test"], minlength=DIGITS)[None])
    about = {
        "explained_by_two": float(components.explained_variance_ratio_[:2].sum()),
        "clusters": len(table),
        "points": len(chosen),
        "perplexity": used,
        # of clusters without test images nothing is known, and they weigh nothing
        "gini": float((weights * table["gini"]).sum()),
        "gini_without_clusters": float(whole[0]),
        "entropy": float((weights * table["entropy"]).sum()),
        "entropy_without_clusters": float(entropy[0]),
        "ari": float(adjusted_rand_score(digits["test"], found)),
        "nmi": float(normalized_mutual_info_score(digits["test"], found)),
        "purity": float(table["images_of_digit"].sum() / len(test)),
    }
    return Latents(
        about,
        components.explained_variance_ratio_,
        components.transform(test[chosen])[:, :2].astype(np.float32),
        plane,
        chosen,
        found,
        table,
    )


def _by_digit(clusters: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Order clusters by their most frequent digit, of one digit the purest first."""
    counts = np.bincount(clusters * DIGITS + digits, minlength=(clusters.max() + 1) * DIGITS).reshape(-1, DIGITS)
    return np.lexsort((-counts.max(axis=1) / counts.sum(axis=1), counts.argmax(axis=1)))


def _table(in_train: np.ndarray, found: np.ndarray, digits: np.ndarray, count: int) -> pd.DataFrame:
    counts = np.bincount(found * DIGITS + digits, minlength=count * DIGITS).reshape(count, DIGITS)
    gini, entropy = impurity(counts)
    about = {
        "cluster": range(count),
        "train_images": np.bincount(in_train, minlength=count),
        "images": counts.sum(axis=1),
        "digit": counts.argmax(axis=1),
        "images_of_digit": counts.max(axis=1),
        "gini": gini,
        "entropy": entropy,
    }
    return pd.DataFrame(about | {f"digit_{digit}": counts[:, digit] for digit in range(DIGITS)})
