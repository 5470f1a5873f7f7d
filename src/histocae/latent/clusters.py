"""Clusters of latents, and how they relate to tissues and cases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

RESTARTS = 4


@dataclass(frozen=True)
class PairsTogether:
    """Shares of pairs of patches that are in one cluster; None where there is no such pair.

    Clusters that follow cases and not tissues have a large first share, and equal second and third ones.

    Attributes:
        same_case: of the pairs of one case and one tissue.
        other_case: of the pairs of one tissue from two cases.
        other_tissue: of the pairs of a tumor and a normal patch.

    """

    same_case: float | None
    other_case: float | None
    other_tissue: float | None


def cluster(
    train: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    test: NDArray[np.float32],
    count: int,
    seed: int,
    numbering: Callable[[NDArray[np.intp], NDArray[np.integer[Any]]], NDArray[np.intp]] | None = None,
) -> tuple[NDArray[np.intp], NDArray[np.floating[Any]]]:
    """Cluster training patches by KMeans (k-means++, the best of four starts).

    Args:
        train: float32, shape (training patches, features).
        labels: of `train`; only the numbering of the clusters depends on them.
        test: float32, shape (test patches, features).
        count: number of clusters; fewer result where there are fewer distinct patches.
        seed: of the starts.
        numbering: a function of (clusters, labels) that returns the clusters in the order of their
            numbers. By default they are ordered by falling share of tumor, then by falling size.

    Returns:
        The cluster of each training patch, int64; the distance of each test patch to each
        center, shape (test patches, clusters). A test patch belongs to the nearest center.

    References:
        Arthur and Vassilvitskii 2007, Proc. 18th ACM-SIAM Symp. Discrete Algorithms, 1027-1035.

    """
    from sklearn.cluster import KMeans

    kmeans = KMeans(_count_distinct(train, count), n_init=RESTARTS, random_state=seed).fit(train)
    order = (numbering or _by_tumor_share)(kmeans.labels_, labels)
    return np.argsort(order)[kmeans.labels_], kmeans.transform(test)[:, order]


def _by_tumor_share(clusters: NDArray[np.intp], labels: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    sizes = np.bincount(clusters)
    return np.lexsort((-sizes, -np.bincount(clusters, labels) / sizes))


def _count_distinct(rows: NDArray[Any], most: int) -> int:
    """Count different rows, up to `most`."""
    distinct: set[bytes] = set()
    for row in rows:
        distinct.add(row.tobytes())
        if len(distinct) == most:
            break
    return len(distinct)


def impurity(counts: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure how mixed the labels of each cluster are.

    Args:
        counts: patches by cluster and label, shape (clusters, labels).

    Returns:
        The Gini impurity, 1 - sum(p^2), and the entropy in bits, -sum(p log2 p); float64, one value
        per cluster, NaN where it is empty.

    """
    # not scipy.stats.entropy: natural logarithms, divided by log(2), round differently
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
        entropy = -np.where(shares == 0, 0, shares * np.log2(shares)).sum(axis=1)
    # adding 0.0 turns -0.0, of a cluster of one label, into 0.0
    return 1 - np.square(shares).sum(axis=1), entropy + 0.0


def cluster_gini(clusters: ArrayLike, labels: ArrayLike) -> dict[Any, float]:
    """Compute the Gini impurity of the labels in each cluster.

    Args:
        clusters: the cluster of each patch.
        labels: the label of each patch.

    Returns:
        The impurity by cluster.

    """
    counts = pd.crosstab(np.asarray(clusters), np.asarray(labels))
    return dict(zip(counts.index.tolist(), impurity(counts.to_numpy())[0].tolist(), strict=True))


def share_together(
    clusters: NDArray[np.integer[Any]], cases: Sequence[Any] | NDArray[Any], labels: NDArray[np.integer[Any]]
) -> PairsTogether:
    """Compute how often two patches are in one cluster, by whether they share case and tissue.

    Args:
        clusters: the cluster of each patch.
        cases: the case of each patch.
        labels: the label of each patch, 1 tumor, 0 normal.

    Returns:
        The shares.

    """
    groups = pd.MultiIndex.from_arrays([labels, cases]).factorize()[0]
    same_case = _count_pairs(groups, clusters)
    same_tissue = _count_pairs(labels, clusters)
    every = _count_pairs(np.zeros(len(labels), int), clusters)
    counts = (same_case, same_tissue - same_case, every - same_tissue)
    return PairsTogether(*(float(together / pairs) if pairs else None for together, pairs in counts))


def _count_pairs(groups: NDArray[np.integer[Any]], clusters: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Count pairs of patches of one group: those that are also in one cluster, and all."""
    from sklearn.metrics.cluster import pair_confusion_matrix

    # ordered pairs: each is counted twice
    _, (apart, together) = pair_confusion_matrix(groups, clusters)
    return np.array([together, apart + together]) // 2
