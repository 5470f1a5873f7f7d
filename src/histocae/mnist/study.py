"""What the latents of MNIST hold: a classifier, clusters, principal components. Test images only report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.latent.clusters import cluster, impurity
from histocae.latent.maps import tsne
from histocae.mnist.images import DIGITS
from histocae.patches.sampling import draw
from histocae.statistics import classifier
from histocae.statistics.intervals import wilson

CONFIDENCE = 0.95
# inverse strengths of the penalty; on pixels the weaker ones take minutes and are worse
PIXEL_STRENGTHS = classifier.STRENGTHS[:4]

Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ClassPredictions:
    """The digits that a classifier predicts.

    Attributes:
        accuracy: share of images with the right prediction, by part.
        interval: lower and upper bound of the 95 % confidence interval (Wilson) of the accuracy on test.
        strength: inverse strength of the penalty, selected on validation.
        predicted: the predictions on test, int64.
        report: precision, recall, F1 and support for train and test; see `reports`.

    """

    accuracy: dict[str, float]
    interval: tuple[float, float]
    strength: float
    predicted: Labels
    report: pd.DataFrame

    def metrics(self) -> dict[str, float]:
        """Return the accuracies and the bounds of the interval for a JSON file."""
        low, high = self.interval
        bounds = {"test_accuracy_low": low, "test_accuracy_high": high}
        return {f"{part}_accuracy": share for part, share in self.accuracy.items()} | bounds


def accuracy(digits: Labels, scores: NDArray[np.floating[Any]]) -> float:
    """Compute the share of images whose highest score is that of their digit.

    Args:
        digits: of the images.
        scores: float64, shape (n, 10).

    Returns:
        The share, 0 to 1.

    """
    return float((scores.argmax(axis=1) == digits).mean())


def classify(
    features: Mapping[str, NDArray[np.floating[Any]]],
    digits: Mapping[str, Labels],
    seed: int,
    strengths: Sequence[float],
) -> ClassPredictions:
    """Classify images by a multinomial logistic regression, its penalty selected on validation.

    Args:
        features: of train, validation and test, each of shape (images, features).
        digits: of the images.
        seed: of the solver.
        strengths: inverse strengths of the penalty to select from.

    Returns:
        The predictions.

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
    predicted = {part: fitted.predict(of_part) for part, of_part in features.items()}
    shares = {part: float((of_part == digits[part]).mean()) for part, of_part in predicted.items()}
    return ClassPredictions(
        shares,
        interval(shares["test"], len(digits["test"])),
        fitted["classify"].C,
        predicted["test"],
        reports(digits, {part: predicted[part] for part in ("train", "test")}),
    )


def interval(share: float, count: int) -> tuple[float, float]:
    """Compute the 95 % confidence interval (Wilson) of an accuracy.

    Args:
        share: of the images with the right prediction.
        count: of the images.

    Returns:
        The lower and the upper bound.

    """
    return wilson(share, count, CONFIDENCE)


def one_vs_rest(features: Mapping[str, NDArray[np.floating[Any]]], digits: Mapping[str, Labels]) -> float:
    """Measure the classifier of the original notebook: ten regressions of one digit against the rest.

    Latents are not standardized, and the strength of the penalty is 1.

    Args:
        features: of train and test, each of shape (images, features).
        digits: of the images.

    Returns:
        The accuracy on test.

    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    fitted = OneVsRestClassifier(LogisticRegression(max_iter=5_000)).fit(
        features["train"].astype(np.float64), digits["train"]
    )
    return float((fitted.predict(features["test"].astype(np.float64)) == digits["test"]).mean())


def reports(digits: Mapping[str, Labels], predicted: Mapping[str, Labels]) -> pd.DataFrame:
    """Tabulate precision, recall, F1 and support per digit and on average.

    Args:
        digits: of the images, by part.
        predicted: predictions for the parts to report.

    Returns:
        One row per part and digit or average.

    """
    from sklearn.metrics import classification_report

    parts = []
    for part, of_part in predicted.items():
        report = classification_report(digits[part], of_part, output_dict=True, zero_division=0.0)
        rows = {name: row for name, row in report.items() if isinstance(row, dict)}
        table = pd.DataFrame(rows).T.rename_axis("digit").reset_index()
        table.insert(0, "part", part)
        parts.append(table.astype({"support": int}))
    return pd.concat(parts)


def confusion(digits: Labels, predicted: Labels) -> NDArray[np.int64]:
    """Count images by digit and prediction.

    Args:
        digits: of the images.
        predicted: the predictions.

    Returns:
        int64, shape (10, 10): digits in rows, predictions in columns.

    """
    return np.bincount(digits * DIGITS + predicted, minlength=DIGITS**2).reshape(DIGITS, DIGITS)


@dataclass(frozen=True, kw_only=True)
class LatentScores:
    """The numbers of a study of latents.

    Attributes:
        explained_by_two: share of the variance of the two leading principal components.
        clusters: number of clusters.
        points: number of test images on the maps.
        perplexity: of t-SNE.
        gini: Gini impurity of the clusters, mean over test images.
        gini_without_clusters: that of all test images together.
        entropy: of the clusters in bits, mean over test images.
        entropy_without_clusters: that of all test images together.
        ari: adjusted Rand index of clusters and digits.
        nmi: normalized mutual information of clusters and digits.
        purity: share of the test images of the most frequent digit of their cluster.

    """

    explained_by_two: float
    clusters: int
    points: int
    perplexity: float
    gini: float
    gini_without_clusters: float
    entropy: float
    entropy_without_clusters: float
    ari: float
    nmi: float
    purity: float


@dataclass(frozen=True, kw_only=True)
class LatentStudy:
    """The maps and clusters of the latents of one model.

    Attributes:
        scores: the numbers.
        explained: share of the variance of the training images per principal component.
        plane: float32, shape (n, 2): the two leading components of the test images on the maps.
        tsne: float32, shape (n, 2): the same images by t-SNE.
        sample: positions of these images in test.
        clusters: of all test images, int64.
        table: one row per cluster.

    """

    scores: LatentScores
    explained: NDArray[np.float64]
    plane: NDArray[np.float32]
    tsne: NDArray[np.float32]
    sample: NDArray[np.int64]
    clusters: NDArray[np.intp]
    table: pd.DataFrame


def study_latents(
    features: Mapping[str, NDArray[np.float32]],
    digits: Mapping[str, Labels],
    sample: int,
    clusters: int,
    perplexity: float,
    seed: int,
) -> LatentStudy:
    """Map the latents and cluster them.

    Clusters are those of the latents of training images. On a t-SNE plane, which the original notebook
    clustered, distances mean little.

    Args:
        features: of train, validation and test, each of shape (images, features).
        digits: of the images.
        sample: number of test images on the maps, at most.
        clusters: number of clusters of KMeans.
        perplexity: of t-SNE.
        seed: of every draw.

    Returns:
        The results.

    """
    from sklearn.decomposition import PCA
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    train, test = (features[part].astype(np.float64) for part in ("train", "test"))
    components = PCA(svd_solver="covariance_eigh").fit(train)
    chosen = draw(len(test), sample, seed)
    in_train, distances = cluster(
        features["train"], digits["train"], features["test"], clusters, seed, numbering=_by_digit
    )
    in_test = distances.argmin(axis=1)
    table = _table(in_train, in_test, digits["test"], distances.shape[1])
    plane, used = tsne(features["test"][chosen], perplexity, seed)
    # clusters without test images have weight 0, and `sum` skips their missing values
    weights = table["images"] / len(test)
    whole, entropy = impurity(np.bincount(digits["test"], minlength=DIGITS)[None])
    scores = LatentScores(
        explained_by_two=float(components.explained_variance_ratio_[:2].sum()),
        clusters=len(table),
        points=len(chosen),
        perplexity=used,
        gini=float((weights * table["gini"]).sum()),
        gini_without_clusters=float(whole[0]),
        entropy=float((weights * table["entropy"]).sum()),
        entropy_without_clusters=float(entropy[0]),
        ari=float(adjusted_rand_score(digits["test"], in_test)),
        nmi=float(normalized_mutual_info_score(digits["test"], in_test)),
        purity=float(table["images_of_digit"].sum() / len(test)),
    )
    return LatentStudy(
        scores=scores,
        explained=components.explained_variance_ratio_,
        plane=components.transform(test[chosen])[:, :2].astype(np.float32),
        tsne=plane,
        sample=chosen,
        clusters=in_test,
        table=table,
    )


def _by_digit(clusters: Labels, digits: Labels) -> NDArray[np.intp]:
    """Order clusters by their most frequent digit, then by falling purity."""
    counts = np.bincount(clusters * DIGITS + digits, minlength=(clusters.max() + 1) * DIGITS).reshape(-1, DIGITS)
    return np.lexsort((-counts.max(axis=1) / counts.sum(axis=1), counts.argmax(axis=1)))


def _table(in_train: Labels, in_test: Labels, digits: Labels, count: int) -> pd.DataFrame:
    counts = np.bincount(in_test * DIGITS + digits, minlength=count * DIGITS).reshape(count, DIGITS)
    gini, entropy = impurity(counts)
    columns = {
        "cluster": range(count),
        "train_images": np.bincount(in_train, minlength=count),
        "images": counts.sum(axis=1),
        "digit": counts.argmax(axis=1),
        "images_of_digit": counts.max(axis=1),
        "gini": gini,
        "entropy": entropy,
    }
    return pd.DataFrame(columns | {f"digit_{digit}": counts[:, digit] for digit in range(DIGITS)})
