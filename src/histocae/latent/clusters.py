"""Clusters of latents, and what the patches of one cluster have in common."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

RESTARTS = 4


def cluster(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    count: int,
    seed: int,
    numbering: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find clusters of training patches by KMeans (k-means++, the best of four starts).

    Args:
        train: training patches x features.
        labels: of train; only the numbering depends on them.
        test: test patches x features.
        count: of clusters; fewer come where fewer distinct patches are there.
        seed: of the starts.
        numbering: of (clusters, labels) gives the clusters in the order of their numbers. By default
            from the one with the largest share of tumor to that with the least, of equal ones the
            larger first.

    Returns:
        The cluster of each training patch, int64; the distance of each test patch to each
        center, test patches x clusters. A test patch is of the cluster with the nearest.

    """
    from sklearn.cluster import KMeans

    found = KMeans(_distinct(train, count), n_init=RESTARTS, random_state=seed).fit(train)
    order = (numbering or _by_tumor_share)(found.labels_, labels)
    return np.argsort(order)[found.labels_], found.transform(test)[:, order]


def _by_tumor_share(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    sizes = np.bincount(clusters)
    return np.lexsort((-sizes, -np.bincount(clusters, labels) / sizes))


def _distinct(rows: np.ndarray, enough: int) -> int:
    """Count different rows, up to `enough`."""
    seen: set[bytes] = set()
    for row in rows:
        seen.add(row.tobytes())
        if len(seen) == enough:
            break
    return len(seen)


def impurity(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gini impurity, 1 - sum(p^2), and entropy in bits, -sum(p log2 p), of the labels in each cluster.

    Args:
        counts: clusters x labels.

    Returns:
        Two float64 arrays, one value a cluster; NaN where it is empty.

    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
        entropy = -np.where(shares == 0, 0, shares * np.log2(shares)).sum(axis=1)
    # a cluster of one label has 0.0, not -0.0
    return 1 - np.square(shares).sum(axis=1), entropy + 0.0


def cluster_gini(clusters: Sequence, labels: Sequence) -> dict:
    """Give the Gini impurity of the labels in each cluster, by cluster."""
    counts = pd.crosstab(np.asarray(clusters), np.asarray(labels))
    return dict(zip(counts.index.tolist(), impurity(counts.to_numpy())[0].tolist(), strict=True))


def share_together(clusters: np.ndarray, cases: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Share of the pairs of patches that are in one cluster, by what the two have in common.

    Returns:
        same_case (and the same tissue), other_case (the same tissue of two cases) and
        other_tissue; None where there is no such pair. Clusters that are made of cases and
        not of tissues have a large first and equal second and third.

    """
    groups = pd.MultiIndex.from_arrays([labels, cases]).factorize()[0]
    case, tissue, everything = (_pairs(one, clusters) for one in (groups, labels, np.zeros(len(labels), int)))
    found = {"same_case": case, "other_case": tissue - case, "other_tissue": everything - tissue}
    return {name: float(together / pairs) if pairs else None for name, (together, pairs) in found.items()}


def _pairs(groups: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Count pairs within a group: those in one cluster, and all."""
    counts = pd.crosstab(groups, clusters).to_numpy()
    whole = counts.sum(axis=1)
    return np.array([(counts * (counts - 1)).sum(), (whole * (whole - 1)).sum()]) // 2
