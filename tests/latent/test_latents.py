"""The study of latents: probes, clusters, maps, and the stage that writes the results."""

import importlib.util
import json
import shutil
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from histocae import params
from histocae.cohort.balance import read_split
from histocae.errors import DataError
from histocae.latent import maps, outside, probes, summary
from histocae.latent import study as latent_study
from histocae.latent.clusters import cluster, cluster_gini, impurity, share_together
from histocae.patches import store
from histocae.patches.outside import Joined
from histocae.patches.shard_file import ShardWriter
from histocae.statistics import classifier, discrimination
from histocae.statistics.levels import LEVELS
from support import outside_files
from support.cohorts import tissue_settings
from support.make_data import NORMAL, TUMOR

LATENT = params.Latent(sample=50, clusters=4, perplexity=10.0, umap=False)
TISSUE = tissue_settings(bootstrap=100)
CASES = {"train": 12, "validation": 6, "test": 6}
PER_CASE = 12


def make_features(
    signal: float, count: int = 6, seed: int = 0, cases_of: dict[str, int] = CASES
) -> tuple[dict[str, np.ndarray], dict[str, pd.DataFrame]]:
    """Draw noise whose first feature is `signal` higher in tumor, and tables of its patches without percentages."""
    rng = np.random.default_rng(seed)
    features, tables = {}, {}
    for split, cases in cases_of.items():
        numbers = np.arange(cases).repeat(PER_CASE)
        tumor = numbers % 2 == 0
        features[split] = rng.normal(size=(len(numbers), count)).astype(np.float32)
        features[split][:, 0] += signal * tumor
        table = pd.DataFrame(
            {
                "case_id": [f"{split}-{number}" for number in numbers],
                "slide_id": [f"{split}-{number}-s" for number in numbers],
                "sample_type": np.where(tumor, TUMOR, NORMAL),
                "shard": [f"{split}-{number}" for number in numbers],
                "position": np.tile(np.arange(PER_CASE), cases),
            }
        )
        for column in probes.PERCENTS:
            table[column] = np.nan
        tables[split] = table
    return features, tables


def run_study(features, tables, latent=LATENT):
    return latent_study.study_features(
        features, probes.explained_variance(features["train"]), tables, latent, TISSUE, 1
    )


# -- the class


def test_a_logistic_regression_finds_a_class_only_where_features_depend_on_it():
    enough = CASES | {"test": 8}  # of 6 cases, 2 of 20 ways to label them would separate features as well
    separable, noise = (probes.classify(*make_features(signal, cases_of=enough), TISSUE, 1) for signal in (8.0, 0.0))
    for level in LEVELS:
        assert separable.levels[level].auroc.value == 1 and not separable.levels[level].includes_chance
        assert noise.levels[level].includes_chance
    assert 0.3 < noise.levels["patch"].auroc.value < 0.7
    assert separable.levels["patch"].counts.units == 96 and separable.levels["slide"].counts.units == 8


def test_the_penalty_is_best_on_validation_whatever_the_scale_of_features():
    features, tables = make_features(0.7, count=60)
    y = {split: probes.labels_of(table) for split, table in tables.items()}

    def validation_auroc(scale, **options) -> float:
        x = {split: values * scale for split, values in features.items()}
        fitted = classifier.fit_classifier(
            x["train"], y["train"], x["validation"], y["validation"], seed=1, **options
        )
        return discrimination.auroc(y["validation"], fitted.decision_function(x["validation"]))

    selected = validation_auroc(1)
    assert validation_auroc(np.geomspace(1e-3, 1e3, 60).astype(np.float32)) == pytest.approx(selected, abs=1e-6)
    by_strength = [validation_auroc(1, strengths=(strength,)) for strength in classifier.STRENGTHS]
    assert selected == max(by_strength) > min(by_strength)


def test_both_classes_have_the_same_weight_whatever_their_sizes():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 12 == 0
    x = rng.normal(size=(600, 1)) + y[:, None]
    scores = classifier.fit_classifier(x, y, x, y, seed=1).decision_function(x)
    assert 0.5 < (scores > 0)[y].mean() < 0.9 and 0.5 < (scores < 0)[~y].mean() < 0.9


def test_patches_of_one_class_give_a_reason_instead_of_a_classification():
    features, tables = make_features(1.0)
    y = {split: probes.labels_of(table) for split, table in tables.items()}
    for split in ("train", "validation"):
        labels = {**y, split: np.ones_like(y[split])}
        with pytest.raises(DataError, match="needs both"):
            classifier.fit_classifier(
                features["train"], labels["train"], features["validation"], labels["validation"], seed=1
            )
    tables = {split: table.assign(sample_type=TUMOR) for split, table in tables.items()}
    study = run_study(features, tables)
    assert "needs both" in study.classification.reason
    cluster_scores = study.cluster_scores
    assert cluster_scores.ari is None and cluster_scores.pairs_together.other_tissue is None
    notes = summary.notes(study, study, LATENT, TISSUE)
    assert any(note.startswith("No logistic regression") for note in notes)
    assert summary.as_json(study)["classification"] == {"reason": study.classification.reason}
    metrics = summary.metrics(study, study)
    assert set(metrics) == {"latent_dead", "pca_components_90", "pixel_components_90"}


# -- percentages


def set_percentages(features, tables, column, value) -> None:
    """Set the percentage of each slide to `value(mean features, sample type)`."""
    for split, table in tables.items():
        means = pd.DataFrame(features[split]).groupby(table["slide_id"].to_numpy()).mean()
        sample_types = table.groupby("slide_id")["sample_type"].first()
        percentages = {slide: value(means.loc[slide], sample_types[slide]) for slide in means.index}
        table[column] = table["slide_id"].map(percentages)


def test_percentages_are_predicted_only_where_features_depend_on_them():
    features, tables = make_features(0.0, count=3)
    set_percentages(features, tables, "percent_tumor_nuclei", lambda mean, _: 50 + 30 * mean[0] - 20 * mean[2])
    rng = np.random.default_rng(5)
    set_percentages(features, tables, "percent_tumor_cells", lambda *_: rng.uniform(0, 100))
    regressions = probes.regress(features, tables)
    nuclei = regressions["percent_tumor_nuclei"]
    assert nuclei.r2 > 0.95 and nuclei.spearman > 0.9 and nuclei.mae < 0.2 * nuclei.mae_mean
    assert nuclei.slides == CASES
    assert regressions["percent_tumor_cells"].r2 < 0.3
    assert (
        regressions["percent_normal_cells"].reason == "0 train slides have a percent_normal_cells, and this needs 8"
    )


def test_predictions_of_a_percentage_are_compared_with_the_mean_of_each_tissue():
    features, tables = make_features(0.0)
    set_percentages(
        features, tables, "percent_tumor_nuclei", lambda _, sample_type: 80.0 if sample_type == TUMOR else 0.0
    )
    regression = probes.regress(features, tables)["percent_tumor_nuclei"]
    assert (regression.mae_mean, regression.mae_tissue_mean, regression.r2_tissue_mean) == (40, 0, 1)
    set_percentages(features, tables, "percent_tumor_nuclei", lambda *_: 7.0)
    assert "have the same" in probes.regress(features, tables)["percent_tumor_nuclei"].reason


@pytest.mark.parametrize(("split", "keep"), [("train", 7), ("validation", 2), ("test", 3)])
def test_too_few_slides_with_a_percentage_give_a_reason(split, keep):
    features, tables = make_features(1.0)
    set_percentages(features, tables, "percent_tumor_nuclei", lambda mean, _: mean[1])
    kept = tables[split]["slide_id"].unique()[:keep]
    tables[split].loc[~tables[split]["slide_id"].isin(kept), "percent_tumor_nuclei"] = np.nan
    assert probes.regress(features, tables)["percent_tumor_nuclei"].reason.startswith(f"{keep} {split} slides")


# -- directions


def test_explained_variance_is_that_of_unscaled_features():
    grid = np.array([(2, 1), (2, -1), (-2, 1), (-2, -1)], np.float32) + 1000
    np.testing.assert_allclose(probes.explained_variance(grid), [0.8, 0.2])


def test_dead_latents_are_counted_and_change_no_result():
    features, tables = make_features(2.0)
    with_dead_features = {split: np.insert(values, [0, 3], 0.25, axis=1) for split, values in features.items()}
    study, with_dead = run_study(features, tables), run_study(with_dead_features, tables)
    assert (study.dead, with_dead.dead) == (0, 2)
    np.testing.assert_array_equal(study.clusters, with_dead.clusters)
    auroc, auroc_with_dead = (each.classification.levels["patch"].auroc.value for each in (study, with_dead))
    assert auroc == pytest.approx(auroc_with_dead, abs=1e-6)
    assert study.components.for_90_percent == with_dead.components.for_90_percent == 6
    assert "2 of 8 latents are dead" in " ".join(summary.notes(with_dead, study, LATENT, TISSUE))


# -- clusters


def test_gini_and_entropy_by_hand():
    gini, entropy = impurity(np.array([[5, 5], [10, 0], [1, 3], [0, 0]]))
    np.testing.assert_allclose(gini, [0.5, 0, 0.375, np.nan])
    np.testing.assert_allclose(entropy, [1, 0, 0.25 * 2 + 0.75 * np.log2(4 / 3), np.nan])
    assert cluster_gini([0, 0, 1, 1, 1, 1], ["a", "b", "c", "c", "c", "d"]) == {0: 0.5, 1: 0.375}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=25))
def test_shares_of_pairs_in_one_cluster_agree_with_a_count_by_hand(rows):
    clusters, cases, labels = np.array(rows).T
    together: dict[str, list[bool]] = {"same_case": [], "other_case": [], "other_tissue": []}
    for i in range(len(rows)):
        for j in range(i):
            kind = "same_case" if cases[i] == cases[j] else "other_case"
            together[kind if labels[i] == labels[j] else "other_tissue"].append(clusters[i] == clusters[j])
    expected = {name: float(np.mean(values)) if values else None for name, values in together.items()}
    assert asdict(share_together(clusters, cases, labels)) == pytest.approx(expected)


def test_groups_are_recovered_as_clusters_numbered_from_most_to_least_tumor():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 90)
    points = (rng.normal(size=(90, 5)) + 30 * np.eye(5)[true]).astype(np.float32)
    # groups 1 and 2 are nearly all tumor, group 0 is normal
    labels = np.array([0, 1, 1])[true] * (np.arange(90) % 9 != 0)
    assigned, distances = cluster(points[:60], labels[:60], points[60:], 3, 7)
    predicted = np.concatenate([assigned, distances.argmin(axis=1)])
    assert adjusted_rand_score(true, predicted) == 1
    shares = [labels[:60][assigned == number].mean() for number in range(3)]
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0
    repeated, _ = cluster(points[:60], labels[:60], points[60:], 3, 7)
    np.testing.assert_array_equal(assigned, repeated)
    few = points[[0, 1, 0, 1, 0]]
    assert cluster(few, labels[:5], few, 4, 7)[1].shape == (5, 2)


def test_clusters_and_neighbors_do_not_depend_on_the_map():
    features, tables = make_features(3.0)
    study = run_study(features, tables)
    with_other_map = run_study(features, tables, LATENT.model_copy(update={"perplexity": 3.0}))
    assert not np.array_equal(study.maps["tsne"], with_other_map.maps["tsne"])
    np.testing.assert_array_equal(study.clusters, with_other_map.clusters)
    np.testing.assert_array_equal(study.neighbors, with_other_map.neighbors)
    assert sorted(np.concatenate(study.typical)) == list(range(72))


def test_a_note_states_that_clusters_follow_cases():
    features, tables = make_features(0.0)
    rng = np.random.default_rng(3)
    offsets = rng.normal(0, 20, (3, 6))  # of three scanners, each used for cases of both tissues
    for split, table in tables.items():
        features[split] += offsets[table["case_id"].str.split("-").str[1].astype(int) % 3].astype(np.float32)
    study = run_study(features, tables)
    together = study.cluster_scores.pairs_together
    assert together.same_case > 0.6 > 0.4 > together.other_case
    notes = " ".join(summary.notes(study, study, LATENT, TISSUE))
    assert "Clusters of the latents follow cases more than tissues" in notes
    separated = run_study(*make_features(30.0))
    assert "follow cases" not in " ".join(summary.notes(separated, separated, LATENT, TISSUE))


# -- neighbors and maps


def test_neighbors_are_the_nearest_patches_and_agree_by_chance_only_in_noise():
    features, tables = make_features(0.0)
    train, test = features["train"], features["test"]
    neighbors, distances = probes.nearest(train, test, 10)
    all_distances = np.linalg.norm(test[:, None].astype(float) - train[None], axis=2)
    np.testing.assert_array_equal(neighbors, all_distances.argsort(axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(distances, np.sort(all_distances, axis=1)[:, :10], atol=1e-4)
    y = {split: probes.labels_of(table) for split, table in tables.items()}
    agreement = probes.neighbor_agreement(neighbors, y["train"], y["test"])
    assert agreement.chance == 0.5 and abs(agreement.share - 0.5) < 0.1
    of_one_class = probes.neighbor_agreement(neighbors, np.ones(144, int), np.ones(72, int))
    assert of_one_class == probes.NeighborAgreement(count=10, patches=72, share=1, chance=1)
    separated = make_features(30.0)[0]
    neighbors, _ = probes.nearest(separated["train"], separated["test"], 10)
    assert probes.neighbor_agreement(neighbors, y["train"], y["test"]).share == 1


def test_patches_whose_neighbors_are_shown_are_of_both_tissues_and_several_cases():
    study = run_study(*make_features(1.0))
    shown = make_features(1.0)[1]["test"].iloc[study.queries]
    assert len(shown) == shown["case_id"].nunique() == 6 and shown["sample_type"].value_counts().to_list() == [3, 3]


def test_tsne_is_repeatable_and_its_perplexity_fits_the_number_of_points():
    points = make_features(3.0)[0]["test"]
    plane, perplexity = maps.tsne(points, 10.0, 1)
    assert perplexity == 10 and plane.dtype == np.float32
    assert plane.tobytes() == maps.tsne(points, 10.0, 1)[0].tobytes()
    assert maps.tsne(points[:13], 40.0, 1)[1] == 4
    line, _ = maps.tsne(points[:, :1], 5.0, 1)
    assert line.shape == (72, 2) and np.isfinite(line).all()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_is_repeatable():
    points = make_features(3.0)[0]["test"]
    plane = maps.umap(points, 1)
    assert plane.shape == (72, 2) and plane.tobytes() == maps.umap(points, 1).tobytes()
    assert np.isfinite(maps.umap(points[: maps.LEAST_POINTS], 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dead", "level", "spread", "seed"), [(15, 5.0, 1e-3, 16), (15, 5.0, 3e-4, 3), (1, 0.0, 1e-25, 1)]
)
def test_points_that_hardly_differ_have_a_map(dead, level, spread, seed):
    rng = np.random.default_rng(seed)
    live = level + (level or 1) * spread * rng.normal(size=(200, 1))
    points = np.c_[live, np.zeros((200, dead))].astype(np.float32)
    assert np.isfinite(maps.tsne(points, 10.0, 1)[0]).all()


@pytest.mark.slow
def test_umap_accepts_one_feature_and_points_far_from_zero():
    rng = np.random.default_rng(16)
    points = np.c_[5 + 5e-3 * rng.normal(size=(60, 1)), np.zeros((60, 15))].astype(np.float32)
    assert np.isfinite(maps.umap(points, 1)).all()
    assert np.isfinite(maps.umap(points[:, :1], 1)).all()


def test_features_that_differ_by_rounding_alone_are_constant():
    features = np.full((70, 3), 0.7, np.float32)
    features[-1] = np.nextafter(features[-1], np.float32(1))
    features[0, 1] += 1e-3
    assert probes.constant(features).tolist() == [True, False, True]
    assert probes.constant(np.zeros((4, 1), np.float32)).all()


def test_too_few_or_equal_points_have_no_map():
    features, tables = make_features(1.0)
    study = run_study(features, tables, LATENT.model_copy(update={"sample": 5}))
    assert study.maps == {} and "too few" in study.map_settings.reason
    assert summary.notes(study, study, LATENT, TISSUE)[-1] == "No map: 5 test patches are too few for a map."
    features["test"][:] = 0
    assert "same features" in run_study(features, tables).map_settings.reason


# -- pixels


@pytest.fixture
def patches(tmp_path):
    """A store of 40 patches of 64 pixels: shades of gray, each second patch has a fine checkerboard on it."""
    fine = np.indices((64, 64)).sum(axis=0)[..., None] % 2 * 20 - 10
    shades = np.linspace(40, 200, 20).astype(int)
    images = np.stack([np.full((64, 64, 3), shade) + fine * amplitude for shade in shades for amplitude in (0, 1)])
    with ShardWriter(tmp_path / "shards/a.npy", 64) as writer:
        writer.append(images.astype(np.uint8))
    rows = pd.DataFrame({"slide_id": "a", "shard": "a", "position": range(40)}).reindex(columns=store.INDEX_COLUMNS)
    store.write_index(tmp_path, rows, 64, 0.5)
    return store.PatchStore(tmp_path).select(rows)


def test_features_of_pixels_are_leading_components_of_reduced_patches(patches):
    with latent_study.one_thread():  # as in the stage: rounding depends on the number of threads
        baseline = probes.pixel_features({"train": patches, "test": patches}, 5, 1)
    features, shares = baseline.features, baseline.explained
    assert baseline.side == 32 and features["test"].shape == (40, 5) and features["train"].dtype == np.float32
    assert shares[0] == pytest.approx(1, abs=1e-5)  # of float32
    np.testing.assert_allclose(features["train"].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features["test"][::2, 0], features["test"][1::2, 0], atol=1e-4)
    steps = np.diff(features["test"][::2, 0])  # shades of gray lie on a line
    assert (steps > 0).all() or (steps < 0).all()
    assert probes.pixel_features({"train": patches}, 500, 1).features["train"].shape == (40, 39)


# -- the stage


@pytest.fixture
def ready(project):
    """A project with patches and a split."""
    project.slides(*"abcdefghij")
    project.params(
        latent__clusters=4,
        latent__perplexity=10.0,
        latent__sample=40,
        tissue__bootstrap=100,
        tissue__permutations=100,
    )
    project.make()
    return project


def write_latents(project, change=None, **fields) -> dict[str, pd.DataFrame]:
    """Write latents of a model `all`: the first distinguishes the tissues, the last is dead. Return the split."""
    folder = project.folder / "models/latents/all"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latents.json").write_text(json.dumps({"model": "all", "weights": "w", "features": 5} | fields))
    rng = np.random.default_rng(0)
    tables = {split: read_split(project.folder / f"data/splits/{split}.csv") for split in CASES}
    for split, table in tables.items():
        latents = rng.normal(size=(len(table), 5)).astype(np.float32)
        latents[:, 0] += 9 * probes.labels_of(table)
        latents[:, 4] = 3
        np.save(folder / f"{split}.npy", change(split, latents) if change else latents)
    return tables


def refuse_constants(name):
    raise AssertionError(f"{name} in metrics.json")


@pytest.mark.slow
def test_the_stage_writes_the_same_numbers_tables_and_figures_each_time(ready):
    tables = write_latents(ready)
    ready.make("latent all")
    folder = ready.folder / "reports/models/all/latent"
    document = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse_constants)
    metrics = document["metrics"]
    assert metrics["latent_auroc_patch"] == metrics["latent_auroc_case"] == 1 and metrics["latent_dead"] == 1
    assert all(isinstance(value, float) for value in metrics.values())
    assert {name.removeprefix("latent_") for name in metrics if name.startswith("latent_")} - {"dead"} == {
        name.removeprefix("pixel_") for name in metrics if name.startswith("pixel_")
    } - {"components_90"}
    assert document["model"] == "all" and document["weights"] == "w" and document["pixels_a_side"] == 32
    assert "1 of 5 latents are dead: constant on the training patches." in document["notes"]
    clusters = ready.read("reports/models/all/latent/clusters.csv")
    for _, rows in clusters.groupby("features"):
        assert rows["patches"].sum() == len(tables["test"]) and rows["train_patches"].sum() == len(tables["train"])
        assert (rows["tumor"] + rows["normal"] == rows["patches"]).all()
    assert len(ready.read("reports/models/all/latent/embedding.csv")) == 40
    neighbors = ready.read("reports/models/all/latent/neighbors.csv")
    assert len(neighbors) == 2 * 6 * 10
    assert not set(neighbors["case_id"]) & set(neighbors["neighbor_case_id"])
    names = {"components", "tsne", "clusters", "gallery_latents", "gallery_pixels", "neighbors"}
    assert {path.stem for path in folder.glob("*.png")} == names
    for path in folder.glob("*.png"):
        with Image.open(path) as figure:
            assert min(figure.size) > 300 and len(np.unique(np.asarray(figure))) > 20
    outputs = ready.outputs("reports/models")
    ready.make("latent all")
    assert ready.outputs("reports/models") == outputs and not ready.leftovers()


def write_outside(project, tables, keep=lambda split, rows: rows) -> None:
    """Write the latents of `all` as features of another program, of the patches that `keep` returns."""
    kept = {split: keep(split, table) for split, table in tables.items()}
    latents = [np.load(f"models/latents/all/{split}.npy")[rows.index] for split, rows in kept.items()]
    mpp = project.read("reports/patching/counts.csv").set_index("slide_id")["mpp"]
    shutil.rmtree(project.own / "features", ignore_errors=True)
    pixels = store.PatchStore(project.folder / "data/patches").pixels
    rows = pd.concat(kept.values())
    outside_files.of_patches(project.own / "features", rows, np.concatenate(latents), mpp, pixels, "clam")


@pytest.mark.slow
def test_outside_features_are_studied_beside_latents(ready):
    tables = write_latents(ready)
    write_outside(ready, tables)
    changes = {"latent__clusters": 4, "latent__perplexity": 10.0, "latent__sample": 40}
    ready.params(**changes, **dict.fromkeys(("tissue__bootstrap", "tissue__permutations"), 100))
    ready.make("latent all")
    folder = ready.folder / "reports/models/all/latent"
    without = json.loads((folder / "metrics.json").read_text())
    ready.params(
        **changes,
        **dict.fromkeys(("tissue__bootstrap", "tissue__permutations"), 100),
        baselines__features="own/features",
    )
    ready.make("inventory", "latent all")
    document = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse_constants)
    metrics = document["metrics"]
    assert document["outside"] == document["latents"]  # the same numbers
    own = {key.removeprefix("latent_"): value for key, value in metrics.items() if key.startswith("latent_")}
    outside = {key.removeprefix("outside_"): value for key, value in metrics.items() if key.startswith("outside_")}
    assert outside == {key: value for key, value in own.items() if key != "dead"} | {
        "components_90": metrics["pca_components_90"]
    }
    assert {key: document[key] for key in ("latents", "pixels")} == {
        key: without[key] for key in ("latents", "pixels")
    }
    names = {"components", "tsne", "clusters", "gallery_latents", "gallery_pixels", "gallery_outside", "neighbors"}
    assert {path.stem for path in folder.glob("*.png")} == names
    neighbors = ready.read("reports/models/all/latent/neighbors.csv")
    same = [neighbors[neighbors["features"] == kind].drop(columns="features") for kind in ("latents", "outside")]
    np.testing.assert_array_equal(same[0].to_numpy(), same[1].to_numpy())

    # only some patches have features: the other studies stay as they are
    test = tables["test"]
    write_outside(ready, tables, lambda split, rows: rows[5:] if split == "test" else rows[::2])
    ready.make("inventory", "latent all")
    document = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse_constants)
    for kind in ("latents", "pixels"):
        assert document[kind] == without[kind]
    assert document["outside"]["neighbors"]["patches"] < document["latents"]["neighbors"]["patches"]
    assert document["notes"][-1].startswith("Without outside features, and left out of their study alone: ")
    assert f"5 of {len(test):,} test patches" in document["notes"][-1]
    embedding = ready.read("reports/models/all/latent/embedding.csv")
    lacking = embedding.merge(test[:5][["shard", "position"]], on=["shard", "position"], how="left", indicator=True)
    missing = (lacking["_merge"] == "both").to_numpy()
    assert missing.any()
    for column in ("outside_cluster", "outside_tsne_x", "outside_tsne_y"):
        np.testing.assert_array_equal(embedding[column].isna(), missing)
    neighbors = ready.read("reports/models/all/latent/neighbors.csv")
    known = tables["train"][::2].set_index(["shard", "position"]).index
    shown = neighbors[neighbors["features"] == "outside"]
    assert set(zip(shown["neighbor_shard"], shown["neighbor_position"], strict=True)) <= set(known)
    assert len(shown) == len(neighbors) // 3  # queries are drawn from the patches that have features

    # no tumor patch of the test set has features
    write_outside(ready, tables, lambda split, rows: rows[rows["sample_type"] == NORMAL] if split == "test" else rows)
    ready.make("inventory", "latent all")
    document = json.loads((folder / "metrics.json").read_text())
    assert document["notes"][-1] == f"No study of outside features: no test patch of {TUMOR} has features."
    assert "outside" not in document and not (folder / "gallery_outside.png").exists()


def test_a_study_of_some_patches_is_that_of_these_patches_alone():
    features, tables = make_features(signal=2)
    rng = np.random.default_rng(5)
    matched = {split: rng.random(len(table)) < 0.7 for split, table in tables.items()}
    joined = {split: Joined(features[split][kept], kept, 0) for split, kept in matched.items()}
    points = latent_study.draw_points(tables["test"], LATENT, 1, matched["test"])
    assert matched["test"][points.queries].all() and outside.lacking(joined, tables, points) is None
    found = outside.study(joined, tables, LATENT, TISSUE, 1, points)
    kept = {split: np.flatnonzero(mask) for split, mask in matched.items()}
    alone = latent_study.study_features(
        {split: part.features for split, part in joined.items()},
        found.explained,
        {split: tables[split].iloc[rows] for split, rows in kept.items()},
        LATENT,
        TISSUE,
        1,
    )
    assert summary.as_json(found)["classification"] == summary.as_json(alone)["classification"]
    np.testing.assert_array_equal(found.clusters[kept["test"]], alone.clusters)
    assert set(found.clusters[~matched["test"]]) == {outside.NONE}
    for number, members in enumerate(alone.typical):
        np.testing.assert_array_equal(found.typical[number], kept["test"][members])
    for query, neighbors, distances in zip(found.queries, found.neighbors, found.distances, strict=True):
        away = np.linalg.norm(features["train"] - features["test"][query], axis=1)
        away[~matched["train"]] = np.inf
        np.testing.assert_allclose(away[neighbors], distances, rtol=1e-3)
        np.testing.assert_allclose(np.sort(away)[: len(neighbors)], distances, rtol=1e-3)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_outside_features_that_cannot_be_studied_have_a_reason(split):
    features, tables = make_features(signal=2)
    matched = {name: np.ones(len(table), bool) for name, table in tables.items()}
    matched[split] = (tables[split]["sample_type"] == NORMAL).to_numpy()
    joined = {name: Joined(features[name][kept], kept, 0) for name, kept in matched.items()}
    points = latent_study.draw_points(tables["test"], LATENT, 1)
    assert outside.lacking(joined, tables, points) == f"no {split} patch of {TUMOR} has features"
    whole = {name: Joined(np.zeros_like(values), np.ones(len(values), bool), 0) for name, values in features.items()}
    assert outside.lacking(whole, tables, points) == "every training patch has the same features"


def test_a_model_without_latents_or_with_only_dead_latents_has_a_reason(ready):
    folder = ready.folder / "reports/models/all/latent"
    write_latents(ready, lambda _, latents: np.zeros_like(latents))
    ready.make("latent all")
    assert "every latent is constant" in json.loads((folder / "metrics.json").read_text())["reason"]
    write_latents(ready, features=None)
    ready.make("latent all")
    assert [path.name for path in folder.iterdir()] == ["metrics.json"]
    assert json.loads((folder / "metrics.json").read_text()) == {
        "model": "all",
        "weights": "w",
        "features": None,
        "reason": "the model has no latent layer",
        "metrics": {},
    }


def test_missing_or_invalid_latents_are_refused_in_one_line(ready):
    assert ready.run("latent all").only_line.endswith("not there yet; run dvc repro evaluate@all")

    def with_nan(split, latents):
        latents[3, 2] = np.nan
        return latents

    write_latents(ready, lambda split, latents: latents[:-1] if split == "test" else latents)
    assert "rows of test.csv and latents; run dvc repro evaluate@all" in ready.run("latent all").only_line
    write_latents(ready, with_nan)
    assert "train.npy: row 3 has latents that are not finite" in ready.run("latent all").only_line
    (ready.folder / "models/latents/all/train.npy").write_bytes(b"\x93NUMPY")
    assert "train.npy: can't be read" in ready.run("latent all").only_line
    assert not (ready.folder / "reports/models/all/latent").exists()
