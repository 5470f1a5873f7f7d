"""The study of one set of features: every probe, applied alike to latents and to the baseline of pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.latent import probes
from histocae.latent.clusters import PairsTogether, cluster, impurity, share_together
from histocae.latent.maps import LEAST_POINTS, tsne, umap
from histocae.params import Latent, Tissue
from histocae.patches.sampling import draw

EXPLAINED = 0.9
NEIGHBORS = 10  # whose labels are compared
QUERIES = 6  # test patches whose nearest training patches are shown


@dataclass(frozen=True)
class Components:
    """The principal components of features.

    Attributes:
        leading: shares of the variance of the first ten.
        held: share of the variance of all together.
        for_90_percent: number of leading components with 90 % of the variance; None where all have less.

    """

    leading: list[float]
    held: float
    for_90_percent: int | None


@dataclass(frozen=True, kw_only=True)
class ClusterScores:
    """How clusters of test patches relate to tissues and cases.

    Attributes:
        count: number of clusters.
        gini: Gini impurity of the tissues, mean over patches.
        gini_without_clusters: that of all test patches together.
        entropy: of the tissues in bits, mean over patches.
        entropy_without_clusters: that of all test patches together.
        pairs_together: shares of pairs of patches in one cluster.
        ari: adjusted Rand index of clusters and tissues (Hubert and Arabie 1985, J. Classification
            2:193-218); None where there is one tissue only.
        nmi: normalized mutual information of clusters and tissues; None likewise.
        ari_case: adjusted Rand index of clusters and cases; None where there is one case only.
        nmi_case: normalized mutual information of clusters and cases; None likewise.

    """

    count: int
    gini: float
    gini_without_clusters: float
    entropy: float
    entropy_without_clusters: float
    pairs_together: PairsTogether
    ari: float | None
    nmi: float | None
    ari_case: float | None
    nmi_case: float | None


@dataclass(frozen=True)
class MapSettings:
    """How the maps were made.

    Attributes:
        points: number of test patches on them.
        perplexity: of t-SNE.

    """

    points: int
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class FeatureStudy:
    """The results for one set of features.

    Attributes:
        features: number of features.
        dead: number of features that are constant on the training patches.
        classification: of tumor and normal, or why there is none.
        regression: by column with a percentage, or why there is none.
        explained: float64, share of the variance per principal component.
        components: a summary of these.
        clusters: int64, the cluster of each test patch.
        cluster_scores: of all clusters together.
        table: one row per cluster.
        typical: per cluster, positions of its test patches, the nearest to its center first.
        sample: positions of the test patches on the maps.
        maps: float32, shape (points, 2), by method: tsne, umap.
        map_settings: how the maps were made, or why there are none.
        agreement: of the labels of neighbors.
        queries: positions of the test patches whose neighbors are shown.
        neighbors: their nearest training patches, positions in train, shape (queries, `NEIGHBORS`).
        distances: to these.

    """

    features: int
    dead: int
    classification: probes.Classification | probes.Unanswered
    regression: dict[str, probes.Regression | probes.Unanswered]
    explained: NDArray[np.float64]
    components: Components
    clusters: NDArray[np.intp]
    cluster_scores: ClusterScores
    table: pd.DataFrame
    typical: list[NDArray[np.intp]]
    sample: NDArray[np.int64]
    maps: dict[str, NDArray[np.float32]]
    map_settings: MapSettings | probes.Unanswered
    agreement: probes.NeighborAgreement
    queries: NDArray[np.intp]
    neighbors: NDArray[np.intp]
    distances: NDArray[np.floating[Any]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: rounding, and with it maps and clusters, then does not depend on the number of cores."""
    import sklearn.manifold  # noqa: F401 (the limit holds for libraries that are loaded)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


@dataclass(frozen=True)
class Points:
    """Test patches that are shown, the same for all features.

    Attributes:
        sample: positions of the patches on the maps.
        queries: positions of patches whose nearest training patches are shown.

    """

    sample: NDArray[np.int64]
    queries: NDArray[np.intp]


def draw_points(test: pd.DataFrame, latent: Latent, seed: int, having: NDArray[np.bool_] | None = None) -> Points:
    """Draw the test patches that are shown.

    Args:
        test: rows of the split.
        latent: the number of points on the maps.
        seed: of the draws.
        having: which test patches all features are known of, bool, shape (test patches,); only their neighbors are
            shown. None: all.

    Returns:
        The patches.

    """
    known = np.arange(len(test)) if having is None or not having.any() else np.flatnonzero(having)
    return Points(draw(len(test), latent.sample, seed), known[_draw_queries(test.iloc[known], seed)])


def study_features(
    features: dict[str, NDArray[np.float32]],
    explained: NDArray[np.float64],
    tables: dict[str, pd.DataFrame],
    latent: Latent,
    tissue: Tissue,
    seed: int,
    points: Points | None = None,
) -> FeatureStudy:
    """Apply every probe to features.

    Args:
        features: of train, validation and test; not all constant on train.
        explained: share of the variance per principal component.
        tables: rows of the splits, in the same order.
        latent: points on the maps, perplexity, clusters, whether there is a UMAP.
        tissue: bootstrap, permutations and confidence of the intervals.
        seed: of every draw.
        points: the test patches that are shown; None: they are drawn.

    Returns:
        The results.

    """
    points = points or draw_points(tables["test"], latent, seed)
    train, test = features["train"], features["test"]
    labels = {split: probes.labels_of(table) for split, table in tables.items()}
    in_train, distances_to_centers = cluster(train, labels["train"], test, latent.clusters, seed)
    clusters = distances_to_centers.argmin(axis=1)
    count = distances_to_centers.shape[1]
    table = _cluster_table(in_train, clusters, count, tables["test"])
    sample, queries = points.sample, points.queries
    maps, map_settings = _maps(test[sample], latent, seed)
    neighbors_of_sample, _ = probes.nearest(train, test[sample], NEIGHBORS)
    neighbors, distances = probes.nearest(train, test[queries], NEIGHBORS)
    typical = []
    for number in range(count):
        members = np.flatnonzero(clusters == number)
        typical.append(members[np.argsort(distances_to_centers[members, number], kind="stable")])
    return FeatureStudy(
        features=train.shape[1],
        dead=int(probes.constant(train).sum()),
        classification=probes.classify(features, tables, tissue, seed),
        regression=probes.regress(features, tables),
        explained=explained,
        components=_components(explained),
        clusters=clusters,
        cluster_scores=_cluster_scores(clusters, table, tables["test"]),
        table=table,
        typical=typical,
        sample=sample,
        maps=maps,
        map_settings=map_settings,
        agreement=probes.neighbor_agreement(neighbors_of_sample, labels["train"], labels["test"][sample]),
        queries=queries,
        neighbors=neighbors,
        distances=distances,
    )


def _components(explained: NDArray[np.float64]) -> Components:
    held = np.cumsum(explained)
    enough = int((held < EXPLAINED).sum()) + 1 if held[-1] >= EXPLAINED else None
    return Components(explained[:10].tolist(), float(held[-1]), enough)


def _cluster_table(
    in_train: NDArray[np.intp], clusters: NDArray[np.intp], count: int, test: pd.DataFrame
) -> pd.DataFrame:
    """Count the patches of each cluster; Gini and entropy are missing where it has no test patches."""
    tumors = np.bincount(clusters, probes.labels_of(test), count).astype(int)
    patches = np.bincount(clusters, minlength=count)
    gini, entropy = impurity(np.stack([tumors, patches - tumors], axis=1))
    by_case = pd.crosstab(test["case_id"].to_numpy(), clusters).reindex(columns=range(count), fill_value=0)
    return pd.DataFrame(
        {
            "cluster": range(count),
            "train_patches": np.bincount(in_train, minlength=count),
            "patches": patches,
            "tumor": tumors,
            "normal": patches - tumors,
            "gini": gini,
            "entropy": entropy,
            "cases": (by_case > 0).sum().to_numpy(),
            "patches_of_largest_case": by_case.max().to_numpy(),
        }
    )


def _cluster_scores(clusters: NDArray[np.intp], table: pd.DataFrame, test: pd.DataFrame) -> ClusterScores:
    labels, cases = probes.labels_of(test), test["case_id"].to_numpy()
    # clusters without test patches have weight 0, and `sum` skips their missing values
    weights = table["patches"] / len(test)
    gini, entropy = impurity(table[["tumor", "normal"]].sum().to_numpy()[None])
    ari, nmi = _agreement(labels, clusters)
    ari_case, nmi_case = _agreement(cases, clusters)
    return ClusterScores(
        count=len(table),
        gini=float((weights * table["gini"]).sum()),
        gini_without_clusters=float(gini[0]),
        entropy=float((weights * table["entropy"]).sum()),
        entropy_without_clusters=float(entropy[0]),
        pairs_together=share_together(clusters, cases, labels),
        ari=ari,
        nmi=nmi,
        ari_case=ari_case,
        nmi_case=nmi_case,
    )


def _agreement(truth: NDArray[Any], clusters: NDArray[np.intp]) -> tuple[float | None, float | None]:
    """Compute ARI and NMI; None where the truth is a single group."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    if len(np.unique(truth)) < 2:
        return None, None
    return float(adjusted_rand_score(truth, clusters)), float(normalized_mutual_info_score(truth, clusters))


def _maps(
    points: NDArray[np.float32], latent: Latent, seed: int
) -> tuple[dict[str, NDArray[np.float32]], MapSettings | probes.Unanswered]:
    if len(points) < LEAST_POINTS:
        return {}, probes.Unanswered(f"{len(points)} test patches are too few for a map")
    if probes.constant(points).all():
        return {}, probes.Unanswered("all test patches have the same features")
    plane, perplexity = tsne(points, latent.perplexity, seed)
    maps = {"tsne": plane}
    if latent.umap:
        maps["umap"] = umap(points, seed)
    return maps, MapSettings(len(points), perplexity)


def _draw_queries(test: pd.DataFrame, seed: int) -> NDArray[np.intp]:
    """Draw test patches whose neighbors are shown: of different cases, and of tumor and normal in turn."""
    drawn = test[["case_id", "sample_type"]].reset_index(drop=True).sample(frac=1, random_state=seed)
    drawn["again"] = drawn.groupby(["case_id", "sample_type"]).cumcount()
    drawn["turn"] = drawn.groupby(["sample_type", "again"]).cumcount()
    queries: NDArray[np.intp] = drawn.sort_values(["again", "turn", "sample_type"]).index.to_numpy()[:QUERIES]
    return queries
