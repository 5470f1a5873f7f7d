"""The study of latents: probes, clusters, maps, and the stage that writes the results."""

import importlib.util
import json
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
from histocae.latent import maps, probes, summary
from histocae.latent import study as latent_study
from histocae.latent.clusters import cluster, cluster_gini, impurity, share_together
from histocae.patches import store
from histocae.statistics import classifier, discrimination
from histocae.statistics.levels import LEVELS
from support.make_data import NORMAL, TUMOR

LATENT = params.Latent(sample=50, clusters=4, perplexity=10.0, umap=False)
TISSUE = params.Tissue(tumor="t", normal="n", latents=None, bootstrap=100, permutations=200, confidence=0.95)
CASES = {"train": 12, "validation": 6, "test": 6}
PER_CASE = 12


def made(signal: float, count: int = 6, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, pd.DataFrame]]:
    """Give noise, in whose first feature tumor lies `signal` higher, and tables of slides with percentages."""
    rng = np.random.default_rng(seed)
    features, tables = {}, {}
    for split, cases in CASES.items():
        number = np.arange(cases).repeat(PER_CASE)
        tumor = number % 2 == 0
        features[split] = rng.normal(size=(len(number), count)).astype(np.float32)
        features[split][:, 0] += signal * tumor
        table = pd.DataFrame(
            {
                "case_id": [f"{split}-{one}" for one in number],
                "slide_id": [f"{split}-{one}-s" for one in number],
                "sample_type": np.where(tumor, TUMOR, NORMAL),
                "shard": [f"{split}-{one}" for one in number],
                "position": np.tile(np.arange(PER_CASE), cases),
            }
        )
        for column in probes.PERCENTS:
            table[column] = np.nan
        tables[split] = table
    return features, tables


def studied(features, tables, latent=LATENT):
    return latent_study.study_features(
        features, probes.explained_variance(features["train"]), tables, latent, TISSUE, 1
    )


# -- the class


def test_a_logistic_regression_finds_a_class_that_is_there_and_none_that_is_not():
    there, none = (probes.classify(*made(signal), TISSUE, 1) for signal in (8.0, 0.0))
    for level in LEVELS:
        assert there.levels[level].auroc.value == 1 and not there.levels[level].includes_chance
        assert none.levels[level].includes_chance
    assert 0.3 < none.levels["patch"].auroc.value < 0.7
    assert there.levels["patch"].counts.units == 72 and there.levels["slide"].counts.units == 6


def test_the_penalty_is_the_best_on_validation_and_units_do_not_matter():
    features, tables = made(0.7, count=60)
    y = {split: probes.labels_of(table) for split, table in tables.items()}

    def area(scale, **strengths) -> float:
        x = {split: one * scale for split, one in features.items()}
        fitted = classifier.fit_classifier(
            x["train"], y["train"], x["validation"], y["validation"], seed=1, **strengths
        )
        return discrimination.auroc(y["validation"], fitted.decision_function(x["validation"]))

    chosen = area(1)
    assert area(np.geomspace(1e-3, 1e3, 60).astype(np.float32)) == pytest.approx(chosen, abs=1e-6)
    every = [area(1, strengths=(strength,)) for strength in classifier.STRENGTHS]
    assert chosen == max(every) > min(every)


def test_the_rarer_class_weighs_as_much():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 12 == 0
    x = rng.normal(size=(600, 1)) + y[:, None]
    scores = classifier.fit_classifier(x, y, x, y, seed=1).decision_function(x)
    assert 0.5 < (scores > 0)[y].mean() < 0.9 and 0.5 < (scores < 0)[~y].mean() < 0.9


def test_patches_of_one_class_are_no_class_to_tell():
    features, tables = made(1.0)
    y = {split: probes.labels_of(table) for split, table in tables.items()}
    for split in ("train", "validation"):
        some = {**y, split: np.ones_like(y[split])}
        with pytest.raises(DataError, match="needs both"):
            classifier.fit_classifier(
                features["train"], some["train"], features["validation"], some["validation"], seed=1
            )
    tables = {split: table.assign(sample_type=TUMOR) for split, table in tables.items()}
    found = studied(features, tables)
    assert "needs both" in found.classification.reason
    scores = found.cluster_scores
    assert scores.ari is None and scores.pairs_together.other_tissue is None
    notes = summary.notes(found, found, LATENT, TISSUE)
    assert any(note.startswith("No logistic regression") for note in notes)
    assert summary.as_json(found)["classification"] == {"reason": found.classification.reason}
    numbers = summary.metrics(found, found)
    assert set(numbers) == {"latent_dead", "pca_components_90", "pixel_components_90"}


# -- percentages


def with_percentages(features, tables, column, value) -> None:
    """Give each slide `value(mean features, sample type)`."""
    for split, table in tables.items():
        means = pd.DataFrame(features[split]).groupby(table["slide_id"].to_numpy()).mean()
        kinds = table.groupby("slide_id")["sample_type"].first()
        table[column] = table["slide_id"].map({one: value(means.loc[one], kinds[one]) for one in means.index})


def test_percentages_that_the_latents_hold_are_found_and_others_are_not():
    features, tables = made(0.0, count=3)
    with_percentages(features, tables, "percent_tumor_nuclei", lambda mean, _: 50 + 30 * mean[0] - 20 * mean[2])
    rng = np.random.default_rng(5)
    with_percentages(features, tables, "percent_tumor_cells", lambda *_: rng.uniform(0, 100))
    found = probes.regress(features, tables)
    held = found["percent_tumor_nuclei"]
    assert held.r2 > 0.95 and held.spearman > 0.9 and held.mae < 0.2 * held.mae_mean
    assert held.slides == CASES
    assert found["percent_tumor_cells"].r2 < 0.3
    assert found["percent_normal_cells"].reason == "0 train slides have a percent_normal_cells, and this needs 8"


def test_what_the_tissue_alone_tells_of_a_percentage_stands_beside():
    features, tables = made(0.0)
    with_percentages(features, tables, "percent_tumor_nuclei", lambda _, kind: 80.0 if kind == TUMOR else 0.0)
    found = probes.regress(features, tables)["percent_tumor_nuclei"]
    assert (found.mae_mean, found.mae_tissue_mean, found.r2_tissue_mean) == (40, 0, 1)
    with_percentages(features, tables, "percent_tumor_nuclei", lambda *_: 7.0)
    assert "have the same" in probes.regress(features, tables)["percent_tumor_nuclei"].reason


@pytest.mark.parametrize(("split", "keep"), [("train", 7), ("validation", 2), ("test", 3)])
def test_too_few_slides_with_a_percentage_give_a_reason(split, keep):
    features, tables = made(1.0)
    with_percentages(features, tables, "percent_tumor_nuclei", lambda mean, _: mean[1])
    kept = tables[split]["slide_id"].unique()[:keep]
    tables[split].loc[~tables[split]["slide_id"].isin(kept), "percent_tumor_nuclei"] = np.nan
    assert probes.regress(features, tables)["percent_tumor_nuclei"].reason.startswith(f"{keep} {split} slides")


# -- directions


def test_explained_variance_is_that_of_the_features_as_they_are():
    grid = np.array([(2, 1), (2, -1), (-2, 1), (-2, -1)], np.float32) + 1000
    np.testing.assert_allclose(probes.explained_variance(grid), [0.8, 0.2])


def test_dead_latents_are_counted_and_change_nothing():
    features, tables = made(2.0)
    more = {split: np.insert(one, [0, 3], 0.25, axis=1) for split, one in features.items()}
    found, with_dead = studied(features, tables), studied(more, tables)
    assert (found.dead, with_dead.dead) == (0, 2)
    np.testing.assert_array_equal(found.clusters, with_dead.clusters)
    ours, others = (one.classification.levels["patch"].auroc.value for one in (found, with_dead))
    assert ours == pytest.approx(others, abs=1e-6)
    assert found.components.for_90_percent == with_dead.components.for_90_percent == 6
    assert "2 of 8 latents are dead" in " ".join(summary.notes(with_dead, found, LATENT, TISSUE))


# -- clusters


def test_gini_and_entropy_by_hand():
    gini, entropy = impurity(np.array([[5, 5], [10, 0], [1, 3], [0, 0]]))
    np.testing.assert_allclose(gini, [0.5, 0, 0.375, np.nan])
    np.testing.assert_allclose(entropy, [1, 0, 0.25 * 2 + 0.75 * np.log2(4 / 3), np.nan])
    assert cluster_gini([0, 0, 1, 1, 1, 1], ["a", "b", "c", "c", "c", "d"]) == {0: 0.5, 1: 0.375}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=25))
def test_pairs_in_one_cluster_are_counted_as_by_hand(rows):
    numbers, cases, labels = np.array(rows).T
    hits: dict[str, list[bool]] = {"same_case": [], "other_case": [], "other_tissue": []}
    for i in range(len(rows)):
        for j in range(i):
            case = "same_case" if cases[i] == cases[j] else "other_case"
            hits[case if labels[i] == labels[j] else "other_tissue"].append(numbers[i] == numbers[j])
    expected = {name: float(np.mean(one)) if one else None for name, one in hits.items()}
    assert asdict(share_together(numbers, cases, labels)) == pytest.approx(expected)


def test_clusters_are_those_of_the_latents_numbered_from_tumor_on():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 90)
    points = (rng.normal(size=(90, 5)) + 30 * np.eye(5)[true]).astype(np.float32)
    labels = np.array([0, 1, 1])[true] * (np.arange(90) % 9 != 0)  # 2 and 1 nearly all tumor, 0 normal
    found, far = cluster(points[:60], labels[:60], points[60:], 3, 7)
    everything = np.concatenate([found, far.argmin(axis=1)])
    assert adjusted_rand_score(true, everything) == 1
    shares = [labels[:60][found == one].mean() for one in range(3)]
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0
    again, _ = cluster(points[:60], labels[:60], points[60:], 3, 7)
    np.testing.assert_array_equal(found, again)
    few = points[[0, 1, 0, 1, 0]]
    assert cluster(few, labels[:5], few, 4, 7)[1].shape == (5, 2)


def test_clusters_and_neighbors_do_not_depend_on_the_map():
    features, tables = made(3.0)
    one = studied(features, tables)
    other = studied(features, tables, LATENT.model_copy(update={"perplexity": 3.0}))
    assert not np.array_equal(one.maps["tsne"], other.maps["tsne"])
    np.testing.assert_array_equal(one.clusters, other.clusters)
    np.testing.assert_array_equal(one.neighbors, other.neighbors)
    assert sorted(np.concatenate(one.typical)) == list(range(72))


def test_clusters_that_are_cases_are_said_to_be():
    features, tables = made(0.0)
    rng = np.random.default_rng(3)
    look = rng.normal(0, 20, (3, 6))  # of three scanners, say, that cases of both tissues come from
    for split, table in tables.items():
        features[split] += look[table["case_id"].str.split("-").str[1].astype(int) % 3].astype(np.float32)
    found = studied(features, tables)
    together = found.cluster_scores.pairs_together
    assert together.same_case > 0.6 > 0.4 > together.other_case
    notes = " ".join(summary.notes(found, found, LATENT, TISSUE))
    assert "Clusters of the latents follow cases more than tissues" in notes
    of_tissue = studied(*made(30.0))
    assert "follow cases" not in " ".join(summary.notes(of_tissue, of_tissue, LATENT, TISSUE))


# -- neighbors and maps


def test_neighbors_are_the_nearest_and_agree_by_chance_only_where_there_is_nothing():
    features, tables = made(0.0)
    train, test = features["train"], features["test"]
    found, distances = probes.nearest(train, test, 10)
    by_hand = np.linalg.norm(test[:, None].astype(float) - train[None], axis=2)
    np.testing.assert_array_equal(found, by_hand.argsort(axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(distances, np.sort(by_hand, axis=1)[:, :10], atol=1e-4)
    y = {split: probes.labels_of(table) for split, table in tables.items()}
    agreement = probes.neighbor_agreement(found, y["train"], y["test"])
    assert agreement.chance == 0.5 and abs(agreement.share - 0.5) < 0.1
    everywhere = probes.neighbor_agreement(found, np.ones(144, int), np.ones(72, int))
    assert everywhere == probes.NeighborAgreement(count=10, patches=72, share=1, chance=1)
    apart = made(30.0)[0]
    found, _ = probes.nearest(apart["train"], apart["test"], 10)
    assert probes.neighbor_agreement(found, y["train"], y["test"]).share == 1


def test_patches_whose_neighbors_are_shown_are_of_both_tissues_and_several_cases():
    found = studied(*made(1.0))
    shown = made(1.0)[1]["test"].iloc[found.queries]
    assert len(shown) == shown["case_id"].nunique() == 6 and shown["sample_type"].value_counts().to_list() == [3, 3]


def test_a_tsne_is_the_same_each_time_and_fits_its_perplexity_to_the_points():
    points = made(3.0)[0]["test"]
    plane, perplexity = maps.tsne(points, 10.0, 1)
    assert perplexity == 10 and plane.dtype == np.float32
    assert plane.tobytes() == maps.tsne(points, 10.0, 1)[0].tobytes()
    assert maps.tsne(points[:13], 40.0, 1)[1] == 4
    line, _ = maps.tsne(points[:, :1], 5.0, 1)
    assert line.shape == (72, 2) and np.isfinite(line).all()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_a_umap_is_the_same_each_time():
    points = made(3.0)[0]["test"]
    plane = maps.umap(points, 1)
    assert plane.shape == (72, 2) and plane.tobytes() == maps.umap(points, 1).tobytes()
    assert np.isfinite(maps.umap(points[: maps.LEAST_POINTS], 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dead", "level", "spread", "seed"), [(15, 5.0, 1e-3, 16), (15, 5.0, 3e-4, 3), (1, 0.0, 1e-25, 1)]
)
def test_points_that_hardly_differ_have_a_map_all_the_same(dead, level, spread, seed):
    rng = np.random.default_rng(seed)
    live = level + (level or 1) * spread * rng.normal(size=(200, 1))
    points = np.c_[live, np.zeros((200, dead))].astype(np.float32)
    assert np.isfinite(maps.tsne(points, 10.0, 1)[0]).all()


@pytest.mark.slow
def test_a_umap_takes_one_feature_and_points_far_from_zero():
    rng = np.random.default_rng(16)
    points = np.c_[5 + 5e-3 * rng.normal(size=(60, 1)), np.zeros((60, 15))].astype(np.float32)
    assert np.isfinite(maps.umap(points, 1)).all()
    assert np.isfinite(maps.umap(points[:, :1], 1)).all()


def test_what_rounding_alone_makes_differ_is_constant():
    features = np.full((70, 3), 0.7, np.float32)
    features[-1] = np.nextafter(features[-1], np.float32(1))
    features[0, 1] += 1e-3
    assert probes.constant(features).tolist() == [True, False, True]
    assert probes.constant(np.zeros((4, 1), np.float32)).all()


def test_few_points_have_no_map():
    features, tables = made(1.0)
    found = studied(features, tables, LATENT.model_copy(update={"sample": 5}))
    assert found.maps == {} and "too few" in found.map_settings.reason
    assert summary.notes(found, found, LATENT, TISSUE)[-1] == "No map: 5 test patches are too few for a map."
    features["test"][:] = 0
    assert "same features" in studied(features, tables).map_settings.reason


# -- pixels


@pytest.fixture
def patches(tmp_path):
    """A store of 40 patches of 64 pixels: shades of gray, every second one under a fine checkerboard."""
    fine = np.indices((64, 64)).sum(axis=0)[..., None] % 2 * 20 - 10
    shades = np.linspace(40, 200, 20).astype(int)
    pictures = np.stack([np.full((64, 64, 3), shade) + fine * with_ for shade in shades for with_ in (0, 1)])
    with store.ShardWriter(tmp_path / "shards/a.npy", 64) as writer:
        writer.append(pictures.astype(np.uint8))
    rows = pd.DataFrame({"slide_id": "a", "shard": "a", "position": range(40)}).reindex(columns=store.INDEX_COLUMNS)
    store.write_index(tmp_path, rows, 64, 0.5)
    return store.PatchStore(tmp_path).select(rows)


def test_pixels_are_reduced_patches_on_their_leading_components(patches):
    baseline = probes.pixel_features({"train": patches, "test": patches}, 5, 1)
    features, shares = baseline.features, baseline.explained
    assert baseline.side == 32 and features["test"].shape == (40, 5) and features["train"].dtype == np.float32
    assert shares[0] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(features["train"].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features["test"][::2, 0], features["test"][1::2, 0], atol=1e-4)
    spread = np.diff(features["test"][::2, 0])  # shades of gray lie on a line
    assert (spread > 0).all() or (spread < 0).all()
    assert probes.pixel_features({"train": patches}, 500, 1).features["train"].shape == (40, 39)


# -- the stage


@pytest.fixture
def ready(project):
    """A project with patches, a split and hand-made latents of a model `all`, whose first tells the class."""
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


def write_latents(project, change=None, **about) -> dict[str, pd.DataFrame]:
    folder = project.folder / "models/latents/all"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latents.json").write_text(json.dumps({"model": "all", "weights": "w", "features": 5} | about))
    rng = np.random.default_rng(0)
    tables = {split: read_split(project.folder / f"data/splits/{split}.csv") for split in CASES}
    for split, table in tables.items():
        one = rng.normal(size=(len(table), 5)).astype(np.float32)
        one[:, 0] += 9 * probes.labels_of(table)
        one[:, 4] = 3
        np.save(folder / f"{split}.npy", change(split, one) if change else one)
    return tables


def refuse_constants(name):
    raise AssertionError(f"{name} in metrics.json")


@pytest.mark.slow
def test_the_stage_writes_numbers_tables_and_pictures_the_same_each_time(ready):
    tables = write_latents(ready)
    ready.make("latent all")
    folder = ready.folder / "reports/models/all/latent"
    found = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse_constants)
    numbers = found["metrics"]
    assert numbers["latent_auroc_patch"] == numbers["latent_auroc_case"] == 1 and numbers["latent_dead"] == 1
    assert all(isinstance(one, float) for one in numbers.values())
    assert {one.removeprefix("latent_") for one in numbers if one.startswith("latent_")} - {"dead"} == {
        one.removeprefix("pixel_") for one in numbers if one.startswith("pixel_")
    } - {"components_90"}
    assert found["model"] == "all" and found["weights"] == "w" and found["pixels_a_side"] == 32
    assert "1 of 5 latents are dead: constant on the training patches." in found["notes"]
    clusters = ready.read("reports/models/all/latent/clusters.csv")
    for _, rows in clusters.groupby("features"):
        assert rows["patches"].sum() == len(tables["test"]) and rows["train_patches"].sum() == len(tables["train"])
        assert (rows["tumor"] + rows["normal"] == rows["patches"]).all()
    assert len(ready.read("reports/models/all/latent/embedding.csv")) == 40
    neighbors = ready.read("reports/models/all/latent/neighbours.csv")
    assert len(neighbors) == 2 * 6 * 10
    assert not set(neighbors["case_id"]) & set(neighbors["neighbor_case_id"])
    names = {"components", "tsne", "clusters", "gallery_latents", "gallery_pixels", "neighbours"}
    assert {path.stem for path in folder.glob("*.png")} == names
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 300 and len(np.unique(np.asarray(picture))) > 20
    before = ready.outputs("reports/models")
    ready.make("latent all")
    assert ready.outputs("reports/models") == before and not ready.leftovers()


def test_a_model_without_latents_or_with_dead_ones_only_says_so(ready):
    folder = ready.folder / "reports/models/all/latent"
    write_latents(ready, lambda _, one: np.zeros_like(one))
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


def test_latents_that_do_not_fit_are_refused_in_one_line(ready):
    assert ready.run("latent all").only_line.endswith("not there yet; run dvc repro evaluate@all")

    def spoiled(split, one):
        one[3, 2] = np.nan
        return one

    write_latents(ready, lambda split, one: one[:-1] if split == "test" else one)
    assert "rows of test.csv and latents; run dvc repro evaluate@all" in ready.run("latent all").only_line
    write_latents(ready, spoiled)
    assert "train.npy: row 3 has latents that are not finite" in ready.run("latent all").only_line
    (ready.folder / "models/latents/all/train.npy").write_bytes(b"\x93NUMPY")
    assert "train.npy: can't be read" in ready.run("latent all").only_line
    assert not (ready.folder / "reports/models/all/latent").exists()
