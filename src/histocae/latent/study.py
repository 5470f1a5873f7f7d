"""The study of one model's latents: every question, to the latents and to plain pixels alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histocae.errors import DataError
from histocae.latent import probes
from histocae.latent.clusters import cluster, impurity, share_together
from histocae.latent.maps import LEAST_POINTS, tsne, umap
from histocae.params import Latent, Tissue
from histocae.patches.sampling import draw
from histocae.statistics.levels import LEVELS

EXPLAINED = 0.9
NEIGHBORS = 10  # whose labels are compared
QUERIES = 6  # test patches whose nearest training patches are shown
COMPARED = ("ari", "nmi", "ari_case", "nmi_case", "gini", "entropy")  # of clusters, between models
WHAT = ["slide_id", "case_id", "sample_type", "shard", "position"]


@dataclass(frozen=True)
class Study:
    """What was found in one set of features.

    Attributes:
        about: the numbers, JSON-able, without NaN.
        explained: share of the variance per principal component.
        clusters: of the test patches, int64.
        table: one row per cluster.
        typical: per cluster, positions of its test patches, from the nearest to its center on.
        sample: positions of the test patches on the maps.
        maps: float32, points x 2, by method: tsne, umap.
        queries: positions of the test patches whose neighbors are shown.
        neighbors, distances: queries x `NEIGHBORS`: the nearest training patches, positions in train.

    """

    about: dict[str, Any]
    explained: np.ndarray
    clusters: np.ndarray
    table: pd.DataFrame
    typical: list[np.ndarray]
    sample: np.ndarray
    maps: dict[str, np.ndarray]
    queries: np.ndarray
    neighbors: np.ndarray
    distances: np.ndarray


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: rounding, and with it maps and clusters, then does not depend on the number of cores."""
    import sklearn.manifold  # noqa: F401 (the limit holds for libraries that are loaded)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def read_features(folder: Path, tables: dict[str, pd.DataFrame], count: int) -> dict[str, np.ndarray]:
    """Read latents that belong to the rows of the splits, `count` of each patch.

    Returns:
        float32, rows x features, by split.

    Raises:
        DataError: a file is missing, broken, of other rows, or has numbers that are not finite.

    """
    found, remedy = {}, f"run dvc repro evaluate@{folder.name}"
    for split, table in tables.items():
        path = folder / f"{split}.npy"
        try:
            one = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: can't be read: {error}; {remedy}") from None
        if one.shape != (len(table), count):
            expected = f"{len(table)} rows of {split}.csv and {count} latents"
            raise DataError(f"{path}: has shape {one.shape}, which is not that of {expected}; {remedy}")
        if not np.isfinite(one).all():
            row = int(np.flatnonzero(~np.isfinite(one).all(axis=1))[0])
            raise DataError(f"{path}: row {row} has latents that are not finite numbers; {remedy}")
        found[split] = one
    return found


def study(
    features: dict[str, np.ndarray],
    explained: np.ndarray,
    tables: dict[str, pd.DataFrame],
    latent: Latent,
    tissue: Tissue,
    seed: int,
) -> Study:
    """Ask everything of features.

    Args:
        features: of train, validation and test; not all constant on train.
        explained: share of the variance per principal component.
        tables: rows of the splits, in the same order.
        latent: points on the maps, perplexity, clusters, whether there is a UMAP.
        tissue: bootstrap, permutations and confidence of the intervals.
        seed: of every draw.

    """
    train, test = features["train"], features["test"]
    labels = {split: probes.labels_of(table) for split, table in tables.items()}
    in_train, far = cluster(train, labels["train"], test, latent.clusters, seed)
    clusters = far.argmin(axis=1)
    table = _cluster_table(in_train, clusters, far.shape[1], tables["test"])
    sample = draw(len(test), latent.sample, seed)
    maps, mapped = _maps(test[sample], latent, seed)
    asked, _ = probes.nearest(train, test[sample], NEIGHBORS)
    queries = _queries(tables["test"], seed)
    neighbors, distances = probes.nearest(train, test[queries], NEIGHBORS)
    agreement = probes.neighbor_agreement(asked, labels["train"], labels["test"][sample])
    held = np.cumsum(explained)
    about = {
        "features": train.shape[1],
        "dead": int(probes.constant(train).sum()),
        "classification": probes.classify(features, tables, tissue, seed),
        "regression": probes.regress(features, tables),
        "components": {
            "leading": explained[:10].tolist(),
            "held": float(held[-1]),
            "for_90_percent": int((held < EXPLAINED).sum()) + 1 if held[-1] >= EXPLAINED else None,
        },
        "clusters": _about_clusters(clusters, table, tables["test"]),
        "neighbors": {"count": asked.shape[1], "patches": len(sample), **agreement},
        "map": mapped,
    }
    typical = [
        rows[np.argsort(far[rows, one], kind="stable")]
        for one in range(far.shape[1])
        for rows in [np.flatnonzero(clusters == one)]
    ]
    return Study(about, explained, clusters, table, typical, sample, maps, queries, neighbors, distances)


def _cluster_table(in_train: np.ndarray, clusters: np.ndarray, count: int, test: pd.DataFrame) -> pd.DataFrame:
    """Count what each cluster has; of a cluster without test patches Gini and entropy are missing."""
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


def _about_clusters(clusters: np.ndarray, table: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    labels, cases = probes.labels_of(test), test["case_id"].to_numpy()
    weights = table["patches"] / len(test)
    gini, entropy = impurity(table[["tumor", "normal"]].sum().to_numpy()[None])
    about = {
        "count": len(table),
        # a cluster without test patches weighs nothing, and its missing value is skipped
        "gini": float((weights * table["gini"]).sum()),
        "gini_without_clusters": float(gini[0]),
        "entropy": float((weights * table["entropy"]).sum()),
        "entropy_without_clusters": float(entropy[0]),
        "pairs_together": share_together(clusters, cases, labels),
    }
    for name, truth in (("", labels), ("_case", cases)):
        told = len(np.unique(truth)) > 1
        about[f"ari{name}"] = float(adjusted_rand_score(truth, clusters)) if told else None
        about[f"nmi{name}"] = float(normalized_mutual_info_score(truth, clusters)) if told else None
    return about


def _maps(points: np.ndarray, latent: Latent, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if len(points) < LEAST_POINTS:
        return {}, {"reason": f"{len(points)} test patches are too few for a map of them"}
    if probes.constant(points).all():
        return {}, {"reason": "all test patches have the same features"}
    plane, perplexity = tsne(points, latent.perplexity, seed)
    maps = {"tsne": plane}
    if latent.umap:
        maps["umap"] = umap(points, seed)
    return maps, {"points": len(points), "perplexity": perplexity}


def _queries(test: pd.DataFrame, seed: int) -> np.ndarray:
    """Draw test patches to show the neighbors of: of other cases, tumor and normal in turn, as far as they go."""
    drawn = test[["case_id", "sample_type"]].reset_index(drop=True).sample(frac=1, random_state=seed)
    drawn["again"] = drawn.groupby(["case_id", "sample_type"]).cumcount()
    drawn["turn"] = drawn.groupby(["sample_type", "again"]).cumcount()
    return drawn.sort_values(["again", "turn", "sample_type"]).index.to_numpy()[:QUERIES]


def flat(studies: dict[str, Study]) -> dict[str, float]:
    """Give the numbers worth comparing between models, named by what they are of: latent_, pixel_."""
    found: dict[str, float | None] = {}
    for name, one in studies.items():
        prefix, about = name.removesuffix("s"), one.about
        classified, clusters = about["classification"], about["clusters"]
        if "reason" not in classified:
            found[f"{prefix}_auroc_validation"] = classified["validation_auroc"]
            found |= {f"{prefix}_auroc_{level}": classified[level]["auroc"]["value"] for level in LEVELS}
        for column, fit in about["regression"].items():
            found[f"{prefix}_r2_{column}"] = fit.get("r2")
        if clusters["ari"] is not None:  # of patches of one class all clusters are pure and all neighbors alike
            found |= {f"{prefix}_{key}": clusters[key] for key in COMPARED}
            found[f"{prefix}_neighbors"] = about["neighbors"]["share"]
    ours, pixels = studies["latents"].about, studies["pixels"].about
    found["latent_dead"] = ours["dead"]
    found["pca_components_90"] = ours["components"]["for_90_percent"]
    found["pixel_components_90"] = pixels["components"]["for_90_percent"]
    return {key: float(value) for key, value in found.items() if value is not None}


def notes(studies: dict[str, Study], latent: Latent, tissue: Tissue) -> list[str]:
    """Say in words what a reader of the numbers has to know."""
    ours, pixels = studies["latents"].about, studies["pixels"].about
    said = ["The class is that of the slide: a patch of a tumor slide may show no tumor."]
    if ours["dead"]:
        said.append(f"{ours['dead']} of {ours['features']} latents are constant on the training patches: dead.")
    if pixels["features"] < ours["features"]:
        said.append(
            f"The baseline has {pixels['features']} components of the pixels, not {ours['features']}: "
            "the training patches allow no more."
        )
    for name, about in (("latents", ours), ("pixels", pixels)):
        classified, clusters = about["classification"], about["clusters"]
        if "reason" in classified:
            said.append(f"No logistic regression on the {name}: {classified['reason']}.")
        elif unsure := [
            level
            for level in LEVELS
            if classified[level]["includes_chance"] or classified[level]["p_value"] > 1 - tissue.confidence
        ]:
            said.append(f"Logistic regression on the {name}: by {', '.join(unsure)} it may be no better than chance.")
        beaten = [
            column
            for column, fit in about["regression"].items()
            if "reason" not in fit and fit["mae"] >= fit["mae_tissue_mean"]
        ]
        if beaten:
            said.append(
                f"Regression on the {name}: to know the tissue alone tells {', '.join(beaten)} at least as well."
            )
        same, other, tissues = clusters["pairs_together"].values()
        if None not in (same, other) and same - other > other - (tissues or 0):
            said.append(
                f"Clusters of the {name} follow cases more than tissues: two patches of one case are in one "
                f"cluster in {same:.0%} of the pairs, of two cases of the same tissue in {other:.0%}"
                + (f", of the two tissues in {tissues:.0%}." if tissues is not None else ".")
            )
    mapped = ours["map"]
    if "reason" in mapped:
        said.append(f"No map: {mapped['reason']}.")
    elif mapped["perplexity"] < latent.perplexity:
        said.append(
            f"t-SNE has perplexity {mapped['perplexity']:.3g} instead of {latent.perplexity:.3g}: "
            f"there are only {mapped['points']} points."
        )
    return said


def embedding_table(studies: dict[str, Study], test: pd.DataFrame) -> pd.DataFrame:
    """Give the clusters of the test patches on the maps, and where they lie there."""
    sample = next(iter(studies.values())).sample
    table = test[WHAT].iloc[sample].reset_index(drop=True)
    for name, one in studies.items():
        table[f"{name}_cluster"] = one.clusters[sample]
        for method, plane in one.maps.items():
            table[f"{name}_{method}_x"], table[f"{name}_{method}_y"] = plane.T
    return table


def neighbor_table(studies: dict[str, Study], tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Give the nearest training patches of the test patches that are shown, a row each."""
    parts = []
    for name, one in studies.items():
        count = one.neighbors.shape[1]
        query = tables["test"][WHAT].iloc[one.queries.repeat(count)].reset_index(drop=True)
        found = tables["train"][WHAT].iloc[one.neighbors.ravel()].reset_index(drop=True)
        part = pd.concat([query, found.add_prefix("neighbor_")], axis=1)
        part.insert(0, "features", name)
        part["rank"] = np.tile(np.arange(1, count + 1), len(one.queries))
        part["distance"] = one.distances.ravel()
        parts.append(part)
    return pd.concat(parts)


def stacked(studies: dict[str, Study]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give the clusters and the principal components of all features, each in one table."""
    clusters = [one.table.assign(features=name) for name, one in studies.items()]
    components = [
        pd.DataFrame({"features": name, "component": np.arange(1, len(one.explained) + 1), "share": one.explained})
        for name, one in studies.items()
    ]
    return pd.concat(clusters), pd.concat(components)
