"""Tumor against normal: metrics of small tables, heatmaps of slides with known truth, and the stage."""

import dataclasses
import io
import itertools
import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histocae.cohort import balance
from histocae.cohort.split import SPLITS
from histocae.contrast import baselines, comparison, heatmaps, linear_pair, outside, pair, truth, verdicts
from histocae.contrast import plots as contrast_plots
from histocae.contrast.distribution import Distribution
from histocae.errors import DataError, StoreError
from histocae.evaluation import scales
from histocae.patches import previews, quality
from histocae.patches.images import InMemory
from histocae.patches.outside import Joined
from histocae.patches.shard_file import ShardWriter
from histocae.patches.store import SHARDS, PatchStore, write_index
from histocae.patches.tissue import RULE
from histocae.slides import thumbnails
from histocae.slides.slide import Slide
from histocae.statistics.discrimination import auroc
from histocae.statistics.intervals import Estimate
from histocae.statistics.levels import LEVELS, at_level
from histocae.workers import processes
from support import make_data, outside_files
from support.cohorts import tissue_settings
from support.make_data import NORMAL, TUMOR
from support.workspace import Workspace

SETTINGS = tissue_settings()
SIDE = 8


def rows_of(*slides):
    """List the patches of slides (slide, case, sample type, number of patches); each slide is a shard."""
    return pd.DataFrame(
        [
            {
                "slide_id": slide,
                "case_id": case,
                "sample_type": sample_type,
                "shard": slide,
                "position": i,
                "file": f"{slide}.tif",
                "row": i,
                "column": 0,
                "x": 0,
                "y": 0,
                "mpp": 0.5,
                "tissue_share": 1.0,
                "patch_label": sample_type,
                "label_share": np.nan,
                "flags": np.nan,
            }
            for slide, case, sample_type, count in slides
            for i in range(count)
        ]
    )


def join_errors(rows, *errors):
    """Join the errors of both models to the rows."""
    return comparison.join(rows, *(rows[["shard", "position"]].assign(mse=np.asarray(mse, float)) for mse in errors))


def cohort(prefix, pairs, patches=3):
    """List the patches of `pairs` tumor slides and `pairs` normal slides; each slide has its own case."""
    names = [(f"{prefix}-{sample_type[0]}-{i}", sample_type) for i in range(pairs) for sample_type in (TUMOR, NORMAL)]
    return rows_of(*((f"{name}-slide", name, sample_type, patches) for name, sample_type in names))


# -- the pair's numbers


def test_errors_are_those_of_each_model_on_each_tissue():
    rows = rows_of(("a", "A", TUMOR, 2), ("b", "B", TUMOR, 1), ("c", "B", NORMAL, 2))
    errors = comparison.matrix(join_errors(rows, [0.1, 0.2, 0.6, 0.4, 0.4], [0.2, 0.1, 0.9, 0.3, 0.1]), 0.95)
    tumor, normal = errors["tumor_data"], errors["normal_data"]
    assert {name: mean.value for name, mean in tumor.means.items()} == {
        "tumor_model": pytest.approx(0.3),
        "normal_model": pytest.approx(0.4),
    }
    assert {name: mean.value for name, mean in normal.means.items()} == {
        "tumor_model": pytest.approx(0.4),
        "normal_model": pytest.approx(0.2),
    }
    assert (tumor.tumor_wins, normal.tumor_wins) == (pytest.approx(2 / 3), 0.0)
    # two cases, sums 0.3 and 0.6 of 2 and 1 patches: residuals -0.3 and 0.3, t with one degree of freedom
    half_width = 12.7062 * math.sqrt(2 * (0.3**2 + 0.3**2)) / 3
    mean = tumor.means["tumor_model"]
    assert (mean.low, mean.high) == (0.0, pytest.approx(0.3 + half_width, rel=1e-4))
    assert tumor.difference.value == pytest.approx(0.1)
    # a single case has no interval
    assert (normal.means["normal_model"].low, normal.means["normal_model"].high) == (None, None)
    assert normal.difference.as_json() == {"value": pytest.approx(-0.2), "low": None, "high": None}


def test_a_higher_score_means_tumor_and_labels_are_those_of_slides():
    table = join_errors(rows_of(("a", "A", TUMOR, 1), ("b", "B", NORMAL, 1)), [0.1, 0.3], [0.2, 0.1])
    assert list(table["label"]) == [1, 0]
    assert table["score"].to_numpy() == pytest.approx(np.log([2, 1 / 3]))


def test_errors_of_other_patches_are_refused():
    rows = rows_of(("a", "A", TUMOR, 2))
    errors, reversed_errors = (
        rows[["shard", "position"]].assign(mse=0.1),
        rows[["shard", "position"]][::-1].assign(mse=0.1),
    )
    for tumor, normal, name in (
        (errors, reversed_errors, "normal"),
        (reversed_errors, errors, "tumor"),
        (errors[:1], errors, "tumor"),
    ):
        with pytest.raises(DataError, match=f"the {name} model are of other patches"):
            comparison.join(rows, tumor, normal)


def test_scores_of_each_level_agree_with_those_of_the_statistics_package():
    rng = np.random.default_rng(0)
    rows = rows_of(("a", "A", TUMOR, 3), ("b", "A", TUMOR, 1), ("c", "A", NORMAL, 2), ("d", "B", NORMAL, 2))
    table = join_errors(rows, rng.random(8) + 0.1, rng.random(8) + 0.1)
    levels = comparison.by_level(table)
    assert {name: len(units) for name, units in levels.items()} == {"patch": 8, "slide": 4, "case": 3}
    for level, units in levels.items():
        expected = at_level(table, level)
        assert sorted(units["score"]) == pytest.approx(sorted(expected["score"]))
    assert levels["case"]["score"][0] == pytest.approx((table["score"][:3].mean() + table["score"][3]) / 2)
    assert list(levels["case"]["patches"]) == [4, 2, 2]


def test_the_threshold_is_fixed_on_validation_cases_and_measured_on_test_cases():
    validation = join_errors(cohort("v", 3), np.exp(-np.tile([0.3] * 3 + [0.1] * 3, 3)), np.ones(18))
    # test scores are shifted: each normal slide scores above the threshold
    test = join_errors(cohort("t", 3), np.exp(-np.tile([0.5] * 3 + [0.3] * 3, 3)), np.ones(18))
    decisions = comparison.decide(validation, test, 0.95)
    for level, units in (("patch", 9), ("slide", 3), ("case", 3)):
        assert decisions[level].threshold == pytest.approx(0.2)
        rates = decisions[level].at_threshold
        assert (rates.sensitivity.value, rates.specificity.value) == (1, 0)
        assert (rates.true_positive, rates.false_positive) == (units, units)
        assert decisions[level].argmin.accuracy.value == 0.5
        curve = decisions[level].calibration
        assert curve.slope > 0 and -curve.intercept / curve.slope == pytest.approx(0.2)
    # other test scores change neither threshold nor calibration
    with_other_scores = comparison.decide(validation, join_errors(cohort("t", 3), np.ones(18), np.ones(18)), 0.95)
    for level, decision in decisions.items():
        assert (with_other_scores[level].threshold, with_other_scores[level].calibration) == (
            decision.threshold,
            decision.calibration,
        )
    classified = comparison.classify(comparison.by_level(test)["slide"], decisions["slide"])
    assert set(classified["called"]) == {TUMOR} and classified["probability"].between(0.5, 1).all()


# -- the baselines


def write_patches(folder, rows, tumor, normal, seed):
    """Write the patches of rows to a store: one RGB color per tissue, with a little noise."""
    rng = np.random.default_rng(seed)
    for shard, shard_rows in rows.groupby("shard", sort=False):
        color = tumor if shard_rows["sample_type"].iloc[0] == TUMOR else normal
        noise = rng.integers(-3, 4, (len(shard_rows), SIDE, SIDE, 3))
        with ShardWriter(folder / SHARDS / f"{shard}.npy", SIDE) as writer:
            writer.append((np.array(color) + noise).astype(np.uint8))


@pytest.fixture
def make_baselines(tmp_path):
    """Return a function that makes the baselines of cohorts with set colors and errors per split."""

    def make(train, validation, test, encoded=None, pairs=4):
        rows = {split: cohort(split, pairs) for split in ("train", "validation", "test")}
        for split, (tumor, normal) in (("train", train), ("validation", validation), ("test", test)):
            write_patches(tmp_path, rows[split], tumor, normal, len(split))
        write_index(tmp_path, pd.concat(rows.values()), SIDE, 0.5)
        # the tumor model has larger errors on tumor in validation, and smaller errors on tumor in test
        label = np.repeat(np.tile([1, 0], pairs), 3)
        noise = np.random.default_rng(1).random(len(label)) / 100
        tables = {
            split: join_errors(rows[split], 0.1 + sign * 0.02 * label + noise / 100, 0.1 + noise / 100)
            for split, sign in (("validation", 1), ("test", -1))
        }
        training = tuple(
            rows["train"][rows["train"]["sample_type"] == sample_type] for sample_type in (TUMOR, NORMAL)
        )
        store = PatchStore(tmp_path)
        methods, left_out = baselines.make(
            store,
            training,
            tables["validation"],
            tables["test"],
            # the errors of models that reconstruct mid-gray
            errors_by_scale=lambda rows: scales.errors(store.select(rows).take(np.arange(len(rows))) / 255 - 0.5),
            encoded=encoded,
            seed=1,
        )
        assert not left_out or set(left_out) == {"pca_pair", "pca_errors_by_scale"} - set(methods)
        return methods, tables["test"]

    return make


def test_directions_are_not_fixed_on_test_cases(make_baselines):
    bright, dark = (200, 200, 200), (90, 90, 90)
    methods, test = make_baselines((dark, bright), (dark, bright), (bright, dark))
    measured = comparison.study(test, test, methods, {}, SETTINGS, 1).baselines
    # test data are reversed, so each baseline must rank all test cases wrongly
    assert methods["mean_intensity"].direction == -1 and methods["mean_intensity"].fixed_on == "training"
    assert methods["error_tumor_model"].direction == 1 and methods["error_tumor_model"].fixed_on == "validation"
    for name in ("mean_intensity", "error_tumor_model", "color_histogram", "pca_pair"):
        assert [measured[name].levels[level].auroc.value for level in LEVELS] == [0, 0, 0], name


def test_each_baseline_distinguishes_the_tissues_by_its_own_feature(make_baselines):
    red, blue = (200, 100, 100), (100, 100, 200)  # with the same mean
    label = np.repeat(np.tile([1, 0], 4), 3)[:, None]
    features = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32) + 4 * label
    encoded = dict.fromkeys(("train", "validation", "test"), features.astype(np.float32))
    methods, test = make_baselines((red, blue), (red, blue), (red, blue), encoded)
    measured = comparison.study(test, test, methods, {}, SETTINGS, 1).baselines
    assert set(methods) == {
        "error_tumor_model",
        "error_normal_model",
        "mean_intensity",
        "color_histogram",
        "texture",
        "texture_color",
        "pca_pair",
        "pca_errors_by_scale",
        "errors_by_scale",
        "latents",
    }
    for name in ("color_histogram", "texture_color", "pca_pair", "errors_by_scale", "latents"):
        assert measured[name].levels["slide"].auroc.value == 1, name
        assert 0.5 < measured[name].levels["slide"].auroc.low < 1
    assert 0.1 < measured["mean_intensity"].levels["patch"].auroc.value < 0.9  # red and blue are equally bright
    assert json.dumps({name: baseline.as_json() for name, baseline in measured.items()}, allow_nan=False)


def test_the_linear_pair_has_the_components_that_validation_cases_prefer(make_baselines):
    colors = ((200, 100, 100), (100, 100, 200))
    methods, _ = make_baselines(colors, colors, colors)
    # the colors differ so much that the mean of each tissue is enough; of equal numbers the smallest is taken
    assert methods["pca_pair"].details == {"components": 1}
    assert methods["pca_pair"].description == "pair of linear models (PCA, 1 component)"


def test_the_number_of_components_is_chosen_on_validation_patches():
    rng = np.random.default_rng(3)
    # both tissues vary along the same eight directions, and each along four of its own, less strongly
    shared, tumor_own, normal_own = (rng.normal(size=(count, 8 * 8 * 3)) for count in (8, 4, 4))

    def draw(own, count):
        values = 128 + 25 * (rng.normal(size=(count, 8)) @ shared + 0.4 * rng.normal(size=(count, 4)) @ own) / 3
        return values.clip(0, 255).astype(np.uint8).reshape(count, 8, 8, 3)

    fitted = linear_pair.fit(InMemory(draw(tumor_own, 60)), InMemory(draw(normal_own, 60)), 0)
    assert 30 < fitted.components < 60
    validation = InMemory(np.concatenate([draw(tumor_own, 40), draw(normal_own, 40)]))
    labels = np.repeat([1, 0], 40)
    chosen = linear_pair.choose(fitted, validation, labels)
    areas = {
        count: auroc(labels, fitted.leading(count).scores(validation))
        for count in linear_pair.counts_up_to(fitted.components)
    }
    assert chosen.components == min(count for count in areas if areas[count] == max(areas.values()))
    assert areas[chosen.components] > areas[1]


def test_a_linear_pair_that_cannot_be_computed_is_left_out(tmp_path, make_baselines, monkeypatch):
    monkeypatch.setattr("histocae.networks.linear.fit", lambda *_: (_ for _ in ()).throw(DataError("all the same")))
    colors = ((200, 100, 100), (100, 100, 200))
    methods, test = make_baselines(colors, colors, colors)
    simple = {"error_tumor_model", "error_normal_model", "mean_intensity", "color_histogram"}
    assert set(methods) == simple | {"texture", "texture_color", "errors_by_scale"}
    metrics = comparison.study(test, test, methods, {"pca_pair": "all the same"}, SETTINGS, 1)
    assert "Left out, pca_pair: all the same." in verdicts.sentences(metrics, 0.95)


def test_equal_errors_count_as_half_a_win_for_each_model():
    table = join_errors(rows_of(("a", "A", TUMOR, 2), ("b", "B", NORMAL, 3)), [0.1] * 5, [0.1, 0.2, 0.1, 0.1, 0.05])
    errors = comparison.matrix(table, 0.95)
    assert errors["tumor_data"].tumor_wins == 0.75
    assert errors["normal_data"].tumor_wins == pytest.approx(1 / 3)


@pytest.mark.parametrize("shares", [[0.4, 0.0, 0.0, 0.3], [1.0, 0.5, 0.9, 0.5]])
def test_without_both_kinds_of_patches_no_auroc_against_the_truth_is_reported(shares):
    test = join_errors(rows_of(("a", "A", TUMOR, 2), ("b", "B", NORMAL, 2)), [0.1, 0.2, 0.3, 0.4], [0.2] * 4)
    truth_metrics = comparison.against_truth(test, np.array(shares), {}, SETTINGS, 1)
    assert truth_metrics.as_json() == {"patches": 4, "tumor_patches": 4 * (shares[0] == 1)}
    metrics = dataclasses.replace(pair_metrics([3, 1, 2, 4, 3.5, 1.5, 2.5, 0.5]), truth=truth_metrics)
    sentences = verdicts.sentences(metrics, 0.999)
    assert any("no AUROC can be computed against this truth" in line for line in sentences)
    assert any("a 99.9% confidence interval" in line for line in sentences)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_color_features_are_histograms_of_rgb_and_hsv_and_the_mean(seed, count):
    patches = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), np.uint8)
    means, histograms, textures = baselines._features(InMemory(patches))
    expected = []
    for patch in patches:
        hsv = np.asarray(Image.fromarray(patch).convert("HSV"))
        channels = [*np.moveaxis(patch, 2, 0), *np.moveaxis(hsv, 2, 0)]
        expected.append(np.concatenate([np.histogram(c, np.arange(0, 257, 16))[0] for c in channels]) / 36)
    assert histograms == pytest.approx(np.array(expected), abs=1e-7)
    assert means == pytest.approx(patches.mean(axis=(1, 2, 3)))
    np.testing.assert_array_equal(textures, scales.texture(patches))


# -- sentences


EXACT = SETTINGS.model_copy(update={"permutations": 2000})  # more than there are ways to swap 8 cases


def pair_metrics(scores):
    """Measure cases of one tumor and one normal slide, from the scores of tumor slides, then normal slides."""
    cases = len(scores) // 2
    rows = rows_of(*((f"{kind[0]}{i}", f"case-{i}", kind, 2) for kind in (TUMOR, NORMAL) for i in range(cases)))
    table = join_errors(rows, np.exp(-np.repeat(scores, 2)), np.ones(4 * cases))
    pca = baselines.Baseline("pair of linear models", table["score"].to_numpy(), 1, "definition", {"components": 5})
    dull = baselines.Baseline("nothing", np.tile([0.0, 0.0, 1.0, 1.0], cases), 1, "training")
    left_out = {"latents": "all has no latent layer"}
    return comparison.study(table, table, {"pca_pair": pca, "nothing": dull}, left_out, EXACT, 1)


def test_sentences_state_where_an_interval_includes_chance():
    metrics = pair_metrics([3, 1, 2, 4, 3.5, 1.5, 2.5, 0.5])
    sentences = verdicts.sentences(metrics, 0.95)
    assert metrics.levels["slide"].auroc.low < 0.5 < metrics.levels["slide"].auroc.high
    for level in LEVELS:
        (sentence,) = [line for line in sentences if line.startswith(f"Per {level} the AUROC is")]
        assert "these data do not show that the score distinguishes tumor from normal" in sentence
        assert f"{metrics.levels[level].auroc.value:.2f}" in sentence
    assert any("Labels are per slide, not per patch" in line for line in sentences)
    assert any(line == "Left out, latents: all has no latent layer." for line in sentences)
    assert any("not shown to differ" in line and "linear models" in line for line in sentences)


def test_sentences_name_the_smallest_p_that_the_cases_allow():
    # 2 of the 16 swaps are as extreme as scores that separate the tissues
    sentences = verdicts.sentences(pair_metrics([4, 5, 6, 7, 0, 1, 2, 3]), 0.95)
    (sentence,) = [line for line in sentences if line.startswith("Per slide the AUROC is")]
    assert "AUROC is 1.00" in sentence and "p = 0.12: these data do not show" in sentence
    (possible,) = [line for line in sentences if line.startswith("With 4 test cases the smallest possible p is 0.12")]
    assert "no score could be significant here" in possible and "crossvalidation.folds" in possible
    (paired,) = [line for line in sentences if line.startswith("In 4 of 4 cases with both tissues")]
    assert "1.00 (0.51 to 1.00)" in paired and "p = 0.12; the smallest possible is 0.12" in paired


def test_sentences_say_above_and_below_where_the_test_allows_it():
    rising = np.arange(16.0)
    above, below = (verdicts.sentences(pair_metrics(scores), 0.95) for scores in (rising[::-1], rising))
    for lines, words in (
        (above, "above chance (0.5)."),
        (below, "below chance (0.5): here the score points the wrong"),
    ):
        (sentence,) = [line for line in lines if line.startswith("Per slide the AUROC is")]
        assert "p = 0.0078" in sentence and words in sentence
        (possible,) = [line for line in lines if line.startswith("With 8 test cases")]
        assert possible == "With 8 test cases the smallest possible p is 0.0078."


def test_the_pair_is_compared_with_baselines_by_differences_with_intervals():
    metrics = pair_metrics(np.arange(16.0)[::-1])
    table = comparison.auroc_table(metrics).set_index(["method", "level"])
    for level in LEVELS:
        same, dull = (metrics.baselines[name].differences[level] for name in ("pca_pair", "nothing"))
        assert same.value == 0 and same.includes(0)
        assert dull.value == 0.5 and dull.low > 0
        row = table.loc[("nothing", level)]
        assert (row["difference"], row["difference_low"]) == (dull.value, dull.low)
    assert table.loc["pair"][["difference", "difference_low", "difference_high"]].isna().all(axis=None)
    sentences = verdicts.sentences(metrics, 0.95)
    assert any(
        line.startswith("Per slide, the AUROC of the pair is higher") and "nothing (+0.50)" in line
        for line in sentences
    )
    lower = Estimate(-0.2, -0.3, -0.1)
    assert verdicts.against_baselines({"a simple way": lower}) == [
        "Per slide, the AUROC of the pair is lower than that of: a simple way (-0.20)."
    ]
    (both,) = verdicts.against_baselines({"one": lower, "another": lower})
    assert both.endswith("lower than that of: one (-0.20); another (-0.20).")


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_figure_of_baselines_has_room_for_long_names(count):
    settings = EXACT.model_copy(update={"bootstrap": 100, "permutations": 100})
    rows = rows_of(*((f"{kind[0]}{i}", f"case-{i}", kind, 2) for kind in (TUMOR, NORMAL) for i in range(2)))
    table = join_errors(rows, np.linspace(0.2, 1, 8), np.ones(8))
    name = "features + logistic regression (mean and spread of each of 3 channels)"
    made = {str(i): baselines.Baseline(f"{i} {name}", table["score"].to_numpy(), 1, "training") for i in range(count)}
    figure = contrast_plots.plot_baselines(
        comparison.auroc_table(comparison.study(table, table, made, {}, settings, 1)), 0.95
    )
    assert len(figure.axes) == (6 if count else 3)
    figure.draw_without_rendering()
    texts = [text for axis in figure.axes for text in [axis.xaxis.label, *axis.get_yticklabels()] if text.get_text()]
    boxes = [text.get_window_extent() for text in texts if text.get_visible()]
    boxes = [box for box in boxes if box.width]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert min(axis.get_window_extent().width for axis in figure.axes) > 0.15 * figure.bbox.width


def test_sentences_state_where_one_model_wins_on_both_tissues():
    sentences = verdicts.sentences(pair_metrics([4, 5, 6, 7, 0.5, 1, 2, 3]), 0.95)
    assert any(
        "on 100% of tumor patches and 100% of normal patches" in line and "call most patches tumor" in line
        for line in sentences
    )


# -- heatmaps


MICRONS = 160.0


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A small demo cohort with its patches of 16 microns."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(processes, "_pool", lambda workers: ThreadPoolExecutor(1))
        workspace = Workspace(tmp_path_factory.mktemp("extracted"))
        monkeypatch.chdir(workspace.folder)
        workspace.params(**PARAMS)
        return workspace.make().folder


@pytest.fixture
def extracted(project, template):
    shutil.copytree(template, project.folder, dirs_exist_ok=True)
    return project


MODELS = {
    "all": {"cohort": "all", "filters": [4], "latent_features": 6},
    "tumor": {"cohort": "tumor", "filters": [2, 4]},
    "normal": {"cohort": "normal", "filters": [2, 4]},
}


PARAMS = {
    "data__source": "demo",
    "data__demo": {"cases": 6, "side_microns": MICRONS, "faults": False},
    "patches__tissue_share": 0.3,
    "models": MODELS,
    "split__validation": 0.25,
    "split__test": 0.25,
    "tissue__bootstrap": 200,
    "tissue__permutations": 200,
}


@pytest.mark.slow
def test_heatmaps_agree_with_the_truth_at_each_patch(extracted):
    slides = extracted.read("reports/patching/counts.csv").set_index("slide_id")
    index, mpps = extracted.index, set()
    folder = extracted.folder / "reports/patching/thumbnails"
    all_shares = truth.tumor_shares(folder, index, slides.reset_index(), 32)
    for slide_id, rows in index[index["sample_type"] == TUMOR].groupby("slide_id"):
        slide = slides.loc[slide_id]
        mpps.add(slide["mpp"])
        view = heatmaps.slide_view(folder, rows, np.zeros(len(rows)), 32, slide)
        side = truth.patch_side(rows, 32, slide["mpp"])
        grid, extent = heatmaps.score_grid(rows, all_shares[rows.index], side)
        # the truth in level-0 pixels, and each patch at its position in the index
        scale = round(4 / slide["mpp"])
        tumor = view.truth.repeat(scale, axis=0).repeat(scale, axis=1)
        assert tumor.shape == (slide["height"], slide["width"])
        side = (extent[1] - extent[0]) / grid.shape[1]
        assert side == 16 / slide["mpp"] == (extent[2] - extent[3]) / grid.shape[0]
        shown = np.zeros(grid.shape, bool)
        for row in rows.itertuples():
            area = tumor[row.y : row.y + round(side), row.x : row.x + round(side)]
            position = int(row.y // side), int(row.x // side)
            assert grid[position] == pytest.approx(area.mean()), (slide_id, position)
            shown[position] = True
        assert (np.isnan(grid) == ~shown).all()
        assert 0 < np.nanmean(grid) < 1
        # the thumbnail under the scores: the mean color of each cell is that of the patch
        left, right, bottom, top = view.image_extent
        assert (left, top, right, bottom) == (0, 0, slide["width"], slide["height"])
        patches = PatchStore(extracted.folder / "data/patches").select(rows).take(np.arange(len(rows)))
        cell = view.image.shape[0] / (slide["height"] / side)
        for row, patch in zip(rows.itertuples(), patches, strict=True):
            y, x = (np.arange(round(i * cell), round((i + 1) * cell)) for i in (row.row, row.column))
            assert view.image[np.ix_(y, x)].mean() == pytest.approx(patch.mean(), abs=12)
    assert mpps == {0.25, 0.5}


def test_a_wide_slide_read_in_blocks_has_the_same_thumbnail(tmp_path, monkeypatch):
    y, x = np.mgrid[:300, :1000]
    image = np.stack([x // 5, y // 2, (x + y) // 8], axis=2).astype(np.uint8)
    path = make_data.write_slide(tmp_path / "wide.tif", image, 0.5, pyramid=True, lossless=True)
    with Slide(path) as slide:
        assert len(slide.levels) > 1
        whole = thumbnails.thumbnail(slide)
        assert whole.shape == (144, 480, 3)
        monkeypatch.setattr(thumbnails, "BLOCK", 70)
        blocks = thumbnails.thumbnail(slide)
    y, x = (np.mgrid[:144, :480] + 0.5) * 1000 / 480
    for thumbnail in (whole, blocks):  # each color encodes its position
        assert np.abs(thumbnail - np.stack([x / 5, y / 2, (x + y) / 8], axis=2)).max() < 1.6


def test_unreadable_cells_of_a_thumbnail_stay_white(tmp_path):
    path = make_data.write_slide(tmp_path / "bad.tif", make_data.tissue(3, 256, 256), 0.5)
    make_data.damage_tiles(path, [0])
    with Slide(path) as slide:
        assert (thumbnails.thumbnail(slide) == 255).all()


def test_heatmaps_of_tiles_are_shown_one_below_the_other(project):
    tiles = [make_data.tissue(i, 64, 96) for i in range(6)]
    tiles.insert(0, np.full((64, 96, 3), make_data.GLASS, np.uint8))  # has no patch
    large = make_data.tissue(9, 640, 960)
    names = ("glass", "0", "1", "large", "3", "4", "5")
    for name, tile in zip(names, [*tiles[:3], large, *tiles[4:]], strict=True):
        make_data.write_tile(project.own / f"{name}.png", tile)
    row = {"slide_id": "s", "case_id": "A", "sample_type": TUMOR}
    project.table([row | {"path": f"{name}.png"} for name in names])
    project.params(data__source="tiles", patches__tiles="cut", patches__tissue_share=0.3)
    rows = project.make("inventory", "metadata", "slides", "patches").index
    assert "glass.png" not in set(rows["file"])
    folder = project.folder / "reports/patching/thumbnails"
    scores = np.arange(float(len(rows)))
    views = heatmaps.tile_views(folder, rows, scores, 32)
    assert len(views) == previews.MOST_TILES
    # pixels are those of the tile, or of its thumbnail where the tile is large
    assert (views[1].image == tiles[2]).all()
    thumbnail = Image.fromarray(large)
    thumbnail.thumbnail((480, 480))
    assert (views[2].image == np.asarray(thumbnail)).all()
    assert views[2].image_extent == (0, 960, 640, 0)
    assert (views[1].scores == [[6, 7, 8], [9, 10, 11]]).all()
    assert views[1].scores_extent == views[1].image_extent == (0, 96, 64, 0)
    figure = contrast_plots.plot_heatmap(views, contrast_plots.score_scale(scores, 10), "tiles")
    assert len(figure.axes) == 2 * previews.MOST_TILES + 1  # and the color bar


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["truth.png", "tissue.png", "jpg"])
def test_a_shard_with_a_missing_preview_is_written_again(extracted, suffix):
    outputs = extracted.outputs("reports/patching", "data/patches")
    (missing,) = list((extracted.folder / "reports/patching/thumbnails").glob(f"*.{suffix}"))[:1]
    if suffix == "truth.png":
        slide_id = previews.shard_of(missing).rpartition(".")[0]
        (source,) = (extracted.folder / "data/slides").glob(f"{slide_id}.*.truth.png")
        assert missing.read_bytes() == source.read_bytes()
    missing.unlink()
    (missing.parent / "former.0123abcd.tiles.json").write_text("[]")
    extracted.make("patches")
    assert extracted.outputs("reports/patching", "data/patches") == outputs


@pytest.mark.parametrize("damage", [b"", b"no image", b"\x89PNG\r\n\x1a\n", "half"])
def test_a_damaged_thumbnail_or_truth_is_reported_with_its_remedy(tmp_path, damage):
    rows = pd.DataFrame({"shard": "s", "slide_id": "s", "row": [0], "column": [0], "mpp": 0.5})
    slide = pd.Series({"width": 64, "height": 64, "mpp": 0.5})
    buffer, thumbnail, mask = io.BytesIO(), previews.thumbnail_file(tmp_path, "s"), tmp_path / "mask.png"
    Image.fromarray(make_data.tissue(1, 64, 64)).save(buffer, "JPEG")
    thumbnail.write_bytes(buffer.getvalue())
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(mask, "PNG")
    previews.write_truth(mask, tmp_path, "s")
    view = heatmaps.slide_view(tmp_path, rows, np.zeros(1), 32, slide)
    assert view.image.shape == (64, 64, 3) and view.truth.all()
    for path in (previews.truth_file(tmp_path, "s"), thumbnail):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if damage == "half" else damage)
        problem = f"^{re.escape(str(path))}: can't be read as an image: .*; run dvc repro patches$"
        with pytest.raises(StoreError, match=problem):
            heatmaps.slide_view(tmp_path, rows, np.zeros(1), 32, slide)
        if path != thumbnail:
            with pytest.raises(StoreError, match=problem):
                truth.tumor_shares(tmp_path, rows, slide.to_frame().T.assign(slide_id="s"), 32)
            path.write_bytes(data)


@pytest.mark.parametrize(
    "text",
    ["", "{", "3", "null", '[{"file": "a.png"}]', "[1]", '[{"file": "a.png", "width": "x", "height": 2}]'],
)
def test_a_damaged_list_of_tiles_is_reported_with_its_remedy(project, text):
    make_data.write_tile(project.own / "a.png", make_data.tissue(1, 64, 96))
    project.table([{"slide_id": "s", "case_id": "A", "sample_type": TUMOR, "path": "a.png"}])
    project.params(data__source="tiles", patches__tiles="cut", patches__tissue_share=0.3)
    rows = project.make("inventory", "metadata", "slides", "patches").index
    (path,) = (project.folder / "reports/patching/thumbnails").glob("*.tiles.json")
    path.write_text(text)
    with pytest.raises(StoreError, match=r"\.tiles\.json: is damaged; run dvc repro patches$"):
        heatmaps.tile_views(path.parent, rows, np.zeros(len(rows)), 32)


def test_tiles_without_their_thumbnails_are_extracted_again(project):
    make_data.write_tile(project.own / "a.png", make_data.tissue(1, 64, 96))
    project.table([{"slide_id": "s", "case_id": "A", "sample_type": TUMOR, "path": "a.png"}])
    project.params(data__source="tiles", patches__tiles="cut", patches__tissue_share=0.3)
    before = project.make("inventory", "metadata", "slides", "patches").outputs("reports/patching", "data/patches")
    thumbnail_paths = [name for name in before if "thumbnails" in name]
    assert [name.split(".", 2)[2] for name in thumbnail_paths] == ["tile-1.png", "tiles.json"]
    for name in thumbnail_paths:
        (project.folder / name).unlink()
        assert project.make("patches").outputs("reports/patching", "data/patches") == before
    project.params(data__source="tiles", patches__tiles="cut", patches__tissue_share=0.31)
    after = project.make("patches").outputs("reports/patching/thumbnails")
    assert len(after) == 2 and not set(after) & set(before)  # the thumbnails of the former shard are deleted


@pytest.mark.slow
def test_a_demo_slide_without_its_truth_is_set_aside(extracted):
    (truth_file,) = list((extracted.folder / "data/slides").glob("*.truth.png"))[:1]
    (preview,) = (extracted.folder / "reports/patching/thumbnails").glob(
        f"{truth_file.name.split('.')[0]}.*.truth.png"
    )
    truth_file.unlink()
    preview.unlink()
    extracted.make("patches")
    set_aside = extracted.read("reports/set_aside.csv")
    assert "its truth mask" in set_aside["reason"].iloc[0] and "delete the slide" in set_aside["reason"].iloc[0]


def test_the_color_scale_is_symmetric_about_the_threshold():
    scale = contrast_plots.score_scale(np.array([0.0, 1, 5]), 2.0)
    assert scale(2.0) == 0.5
    assert (scale.vmax - 2) == pytest.approx(2 - scale.vmin)
    assert contrast_plots.score_scale(np.zeros(3), 0.0)(0.0) == 0.5  # equal scores


# -- the stage


@pytest.fixture(scope="module")
def evaluation(template):
    """Add three untrained models and the outputs of their evaluation to the template."""
    from histocae import CAE
    from histocae.cohort.balance import read_split
    from histocae.networks import backend

    backend.start()
    store = PatchStore(template / "data/patches")
    for number, (name, model) in enumerate(MODELS.items()):
        backend.repeatable(number)
        folder, reports = template / "models/trained" / name, template / "reports/models" / name / "evaluation"
        cae = CAE((32, 32, 3), model.get("latent_features"), model["filters"])
        cae.save(folder)
        description = make_data.training_record(
            folder,
            name,
            cohort=model["cohort"],
            latent_features=model.get("latent_features"),
            latent_size=math.prod(cae.encoder.output_shape[1:]),
        )
        reports.mkdir(parents=True)
        evaluated = {"weights": description["weights"], "metrics": make_data.METRICS}
        (reports / "metrics.json").write_text(json.dumps(evaluated))
        encoded = template / "models/latents" / name
        encoded.mkdir(parents=True)
        encoding = {"model": name, "weights": description["weights"], "features": description["latent_features"]}
        (encoded / "latents.json").write_text(json.dumps(encoding))
        for split, file in (("train", None), ("validation", "per_patch_validation"), ("test", "per_patch")):
            rows = read_split(template / f"data/splits/{split}.csv")
            pixels = store.select(rows).take(np.arange(len(rows))).astype(np.float32) / 255
            if encoding["features"]:
                np.save(encoded / f"{split}.npy", np.asarray(cae.encoder(pixels)))
            if file:
                mse = ((np.asarray(cae.model(pixels)) - pixels) ** 2).mean(axis=(1, 2, 3))
                patch_rows = rows[["slide_id", "case_id", "sample_type", "shard", "position"]]
                patch_rows.assign(mse=mse.astype(float)).to_csv(reports / f"{file}.csv", index=False)


@pytest.fixture
def evaluated(evaluation, extracted):
    return extracted


def metrics_of(project):
    def refuse_constant(name):
        raise AssertionError(f"{name} in metrics.json")

    return json.loads((project.folder / "reports/tissue/metrics.json").read_text(), parse_constant=refuse_constant)


def check_annotations(project, scores):
    """Compare the GeoJSON of each test slide with its patches, its tissue mask and the scores in scores.csv."""
    index = project.index.merge(scores, on=["shard", "position"], suffixes=("", "_scored"))
    slides = project.read("reports/patching/counts.csv").set_index("slide_id")
    files = sorted((project.folder / "reports/tissue/geojson").iterdir())
    assert [file.name for file in files] == [f"{shard}.geojson" for shard in sorted(set(scores["shard"]))]
    called = {}
    for file in files:
        rows = index[index["shard"] == file.stem].set_index(["x", "y"])
        side = 16 / slides.loc[rows["slide_id"].iloc[0], "mpp"]  # a patch is 16 microns wide
        tissue, *patches = json.loads(file.read_text())["features"]
        mask = previews.read_tissue(project.folder / "reports/patching/thumbnails", file.stem)
        area = shapely.from_geojson(json.dumps(tissue["geometry"])).area
        assert area == pytest.approx(mask.sum() * (side / 8) ** 2, rel=0.1)
        assert len(patches) == len(rows)
        for patch in patches:
            left, top, right, bottom = shapely.from_geojson(json.dumps(patch["geometry"])).bounds
            row, properties = rows.loc[(left, top)], patch["properties"]
            assert right - left == bottom - top == side
            names = ["score", "probability", "error_tumor", "error_normal", "tissue_share"]
            measured = properties["measurements"]
            assert list(measured) == names and list(measured.values()) == pytest.approx(list(row[names]), rel=1e-3)
            called.setdefault(properties["classification"]["name"], []).append(row["score"])
    assert set(called) <= {"Tumor", "Normal"}
    threshold = metrics_of(project)["threshold"]["patch"]
    assert min(called.get("Tumor", [np.inf])) >= threshold > max(called.get("Normal", [-np.inf]))


@pytest.mark.slow
def test_the_stage_writes_numbers_tables_and_figures(evaluated, monkeypatch):
    from histocae import CAE

    plotted = []
    plot_pairs = contrast_plots.plot_pairs
    monkeypatch.setattr(
        contrast_plots, "plot_pairs", lambda *arguments: (plotted.append(arguments), plot_pairs(*arguments))[1]
    )
    assert not (result := evaluated.run("tissue")).code, result.lines
    assert any("Labels are per slide" in line for line in result.lines)
    metrics, folder = metrics_of(evaluated), evaluated.folder / "reports/tissue"
    assert metrics["pair"] == {"tumor": "tumor", "normal": "normal"}
    assert metrics["left_out"] == {"baseline_pair": "models has no notebook-tumor and no notebook-normal"}
    errors = {name: evaluated.read(f"reports/models/{name}/evaluation/per_patch.csv") for name in ("tumor", "normal")}
    for data, sample_type in (("tumor_data", TUMOR), ("normal_data", NORMAL)):
        for name, table in errors.items():
            mean = table.loc[table["sample_type"] == sample_type, "mse"].mean()
            assert metrics["mse"][data][f"{name}_model"] == pytest.approx(mean)
    scores = pd.read_csv(folder / "scores.csv")
    assert scores["log_ratio"].to_numpy() == pytest.approx(np.log(errors["normal"]["mse"] / errors["tumor"]["mse"]))
    assert len(scores) == metrics["counts"]["patch"]["units"] == metrics["truth"]["patches"]
    slides = pd.read_csv(folder / "slides.csv")
    assert slides["score"].to_numpy() == pytest.approx(scores.groupby("slide_id")["score"].mean().to_numpy())
    for level in LEVELS:
        area = metrics[f"auroc_{level}"]
        assert 0 <= area["low"] <= area["value"] <= area["high"] <= 1
        for baseline in metrics["baselines"].values():
            assert set(baseline[f"auroc_{level}"]) == {"value", "low", "high"} and abs(baseline["direction"]) == 1
    assert set(metrics["baselines"]) == {
        "error_tumor_model",
        "error_normal_model",
        "mean_intensity",
        "color_histogram",
        "texture",
        "texture_color",
        "pca_pair",
        "pca_errors_by_scale",
        "log_ratio",
        "latents",
    }
    assert 0 < metrics["truth"]["tumor_patches"] < metrics["truth"]["patches"]
    assert {"auroc_patch_pair", "auroc_patch_latents"} <= set(metrics["truth"])
    assert set(pd.read_csv(folder / "roc.csv").columns) == {"level", "fpr", "tpr", "low", "high"}
    assert {path.stem for path in (folder / "heatmaps").iterdir()} == set(scores["shard"])
    check_annotations(evaluated, scores)
    assert {path.name for path in folder.glob("*.png")} == {
        "baselines.png",
        "errors.png",
        "matrix.png",
        "pairs_normal.png",
        "pairs_tumor.png",
        "roc.png",
    }
    # each row of reconstructions is from the model that it names
    for (originals, rows, title), sample_type in zip(plotted, (TUMOR, NORMAL), strict=True):
        assert sample_type in title and len(originals) == 6
        for name in ("tumor", "normal"):
            images, measured = rows[f"{name} model"]
            cae = CAE(path=evaluated.folder / "models/trained" / name, load=True)
            pixels = originals.astype(np.float32) / 255
            assert images == pytest.approx(np.asarray(cae.model(pixels)), abs=1e-5)
            assert measured == pytest.approx(((images - pixels) ** 2).mean(axis=(1, 2, 3)), rel=1e-3)
    # score.json computes the scores from both models' reconstructions
    test = balance.read_split(evaluated.folder / "data/splits/test.csv")
    pixels = PatchStore(evaluated.folder / "data/patches").select(test).take(np.arange(len(test))) / np.float32(255)
    features = [
        scales.errors(
            pixels - np.asarray(CAE(path=evaluated.folder / "models/trained" / name, load=True).model(pixels))
        )
        for name in ("tumor", "normal")
    ]
    score = json.loads((folder / "score.json").read_text())
    assert score["kind"] == "errors_by_scale"
    expected = pair.Linear.from_json(score["linear"]).score(np.hstack(features))
    np.testing.assert_allclose(scores["score"], expected, rtol=1e-2, atol=1e-2)
    assert len(metrics["summary"]) == 3 and metrics["example"] in set(scores["shard"])
    alone = metrics["one_class"]
    assert alone["model"] == "normal" and set(alone["scores"]) == {"error", "relative_error"}
    assert alone["left_out"] == dict.fromkeys(("mahalanobis", "neighbors"), "normal has no latent layer")
    of_normal = pd.read_csv(folder / "one_class.csv")
    np.testing.assert_allclose(of_normal["error"], scores["error_normal"], rtol=1e-6)
    variances = pixels.var((1, 2)).mean(1)
    np.testing.assert_allclose(of_normal["relative_error"], scores["error_normal"] / variances, rtol=1e-4)
    labels = scores["sample_type"] == TUMOR
    assert alone["scores"]["error"]["auroc_patch"]["value"] == pytest.approx(auroc(labels, of_normal["error"]))
    outputs = evaluated.outputs("reports/tissue")
    assert not evaluated.run("tissue").code
    assert evaluated.outputs("reports/tissue") == outputs
    assert not evaluated.leftovers()


@pytest.mark.slow
def test_a_missing_tissue_mask_is_reported_with_its_remedy(evaluated):
    shard = evaluated.read("data/splits/test.csv")["shard"].iloc[0]
    previews.tissue_file(evaluated.folder / "reports/patching/thumbnails", shard).unlink()
    assert f"{shard}.tissue.png: not there; run dvc repro patches" in evaluated.run("tissue").error
    assert not (evaluated.folder / "reports/tissue").exists() and not evaluated.leftovers()


@pytest.mark.slow
def test_the_log_ratio_can_be_the_score_and_another_pair_a_baseline(evaluated):
    another = {"tumor": "tumor", "normal": "normal"}
    evaluated.params(**PARAMS, tissue__score="log_ratio", tissue__baseline_pair=another)
    assert not (result := evaluated.run("tissue")).code, result.lines
    metrics, folder = metrics_of(evaluated), evaluated.folder / "reports/tissue"
    scores = pd.read_csv(folder / "scores.csv")
    np.testing.assert_array_equal(scores["score"], scores["log_ratio"])
    score = json.loads((folder / "score.json").read_text())
    training = Distribution.from_json(score.pop("training"), "score.json", "")
    of_quality = {"rule": quality.RULE, "thresholds": quality.THRESHOLDS, "left_out": []}
    assert score == {"kind": "log_ratio", "linear": None, "tissue_rule": RULE, "quality": of_quality}
    least, tumor = (training.quantile(name, 0.5) for name in ("error_min", "error_tumor"))
    assert 0 < least <= tumor and training.quantile("score", 0) < training.quantile("score", 1)
    assert metrics["left_out"] == {} and "errors_by_scale" in metrics["baselines"]
    # a pair beside itself has the same AUROC
    other = metrics["baselines"]["baseline_pair"]
    assert other["auroc_slide"]["value"] == metrics["auroc_slide"]["value"]
    assert other["difference_slide"]["value"] == 0 and other["about"] == "log ratio of the errors of tumor and normal"


def write_outside(project, layout):
    """Write the latents of `all` as another program would write its own features."""
    tables = {split: balance.read_split(project.folder / f"data/splits/{split}.csv") for split in SPLITS}
    latents = [np.load(project.folder / f"models/latents/all/{split}.npy") for split in SPLITS]
    mpp = project.read("reports/patching/counts.csv").set_index("slide_id")["mpp"]
    folder = project.own / "features"
    outside_files.of_patches(folder, pd.concat(tables.values()), np.concatenate(latents), mpp, 32, layout)
    return folder, tables


@pytest.mark.slow
def test_outside_features_are_a_baseline_on_the_patches_that_have_them(evaluated):
    folder, tables = write_outside(evaluated, "trident")
    evaluated.params(**PARAMS, baselines__features="own/features")
    evaluated.make("inventory", "tissue")
    metrics = metrics_of(evaluated)
    outside, latents = (metrics["baselines"][name] for name in ("outside", "latents"))
    assert outside["about"] == "outside features + logistic regression" and outside["fixed_on"] == "training"
    assert outside["features"] == 6 and outside["test_patches_without"] == outside["test_slides_without"] == 0
    for level in LEVELS:  # the same features give the same scores
        for key in (f"auroc_{level}", f"difference_{level}"):
            assert outside[key] == pytest.approx(latents[key], abs=1e-9)
    assert not any("Without outside features" in sentence for sentence in metrics["sentences"])
    listed = evaluated.read("data/features.csv")
    assert list(listed["file"]) == sorted(path.name for path in folder.iterdir())

    # without the file of a tumor slide, and without some patches of a normal slide
    test = tables["test"]
    gone, less = (test.loc[test["sample_type"] == kind, "slide_id"].iloc[0] for kind in (TUMOR, NORMAL))
    (folder / f"{gone}.h5").unlink()
    rows = test[test["slide_id"] == less]
    mpp = evaluated.read("reports/patching/counts.csv").set_index("slide_id")["mpp"]
    outside_files.of_patches(folder, rows[3:], np.load("models/latents/all/test.npy")[rows.index[3:]], mpp, 32)
    assert (test.loc[test["slide_id"] != gone, "sample_type"] == TUMOR).any()
    evaluated.make("inventory", "tissue")
    assert set(listed["file"]) - set(evaluated.read("data/features.csv")["file"]) == {f"{gone}.h5"}
    before, metrics = metrics, metrics_of(evaluated)
    outside, without = metrics["baselines"]["outside"], int((test["slide_id"] == gone).sum()) + 3
    assert outside["test_patches_without"] == without and outside["test_slides_without"] == 1
    lacking = f"{without:,} of {len(test):,} test patches"
    assert outside["about"] == f"outside features + logistic regression ({lacking} lack them)"
    assert (
        f"Without outside features: {lacking}; 1 slide of the test set has no file. That baseline leaves them out, "
        "and the pair is compared with it on the other test patches." in metrics["sentences"]
    )
    # nothing else changes, and the pair is compared on the same patches
    changed = {"sentences": None, "summary": None, "truth": None}
    same = [each | changed | {"baselines": each["baselines"] | {"outside": None}} for each in (before, metrics)]
    assert same[0] == same[1]
    scores = evaluated.read("reports/tissue/scores.csv")
    matched = ((scores["slide_id"] != gone) & ~scores.index.isin(rows.index[:3])).to_numpy()
    assert matched.sum() == len(test) - without
    labels = (scores["sample_type"] == TUMOR).astype(int)
    of_pair = auroc(labels[matched], scores["score"][matched])
    assert outside["difference_patch"]["value"] == pytest.approx(of_pair - outside["auroc_patch"]["value"])
    truth = metrics["truth"]
    assert "auroc_patch_outside" not in truth  # which is of all test patches
    table = evaluated.read("reports/tissue/baselines.csv").set_index(["method", "level"])
    assert table.loc[("outside", "slide"), "value"] == outside["auroc_slide"]["value"]

    # a damaged file ends the stage before it writes anything
    outputs = evaluated.outputs("reports/tissue")
    (folder / f"{less}.h5").write_bytes(b"no HDF5")
    assert f"own/features/{less}.h5: can't be read as HDF5" in evaluated.make("inventory").run("tissue").error
    assert evaluated.outputs("reports/tissue") == outputs and not evaluated.leftovers()


def outside_parts(parts, columns=3, without=()):
    """Make the files of features as `Folder.join` gives them; patches of some slides have none."""

    class Folder:
        def join(self, rows):
            matched = ~rows["slide_id"].isin(without).to_numpy()
            features = rows["label"].to_numpy()[matched, None] + np.arange(columns) / 10
            return Joined(features.astype(np.float32), matched, rows.loc[~matched, "slide_id"].nunique())

    return outside.compare(Folder(), parts, 1)


def test_outside_features_of_one_tissue_are_left_out_with_the_reason():
    rows = {name: cohort(name, 2) for name in ("train", "validation", "test")}
    joined = [join_errors(each, np.full(len(each), 0.1), np.full(len(each), 0.2)) for each in rows.values()]
    parts = baselines.Parts(*joined)
    of_tumor = [name for name in rows["test"]["slide_id"] if "-P-" in name]
    assert outside_parts(parts, without=of_tumor) == ({}, {"outside": "no test patch of tumor tissue has features"})
    everything = [name for table in rows.values() for name in table["slide_id"]]
    reason = "no training patch has features in the folder that baselines.features names"
    assert outside_parts(parts, without=everything) == ({}, {"outside": reason})
    assert outside.compare(None, parts, 1) == ({}, {})
    # one case of each tissue is enough, and the sentences name what is compared
    found, left_out = outside_parts(parts, without=[of_tumor[0], "test-S-0-slide"])
    assert not left_out and np.isnan(found["outside"].scores).sum() == 6
    metrics = comparison.study(parts.validation, parts.test, found, {}, SETTINGS, 1)
    assert metrics.baselines["outside"].levels["slide"].counts.units == 2
    assert metrics.baselines["outside"].levels["patch"].auroc.value == 1
    summary, sentences = (" ".join(write(metrics, 0.95)) for write in (verdicts.summary, verdicts.sentences))
    assert "Of 1 other ways" in summary and "6 of 12 test patches; 2 slides of the test set have no file" in sentences


@pytest.mark.slow
def test_the_stage_refuses_evaluations_of_other_weights_or_patches(evaluated):
    reports = evaluated.folder / "reports/models/tumor/evaluation"
    latents = evaluated.folder / "models/latents/all/latents.json"
    latents.write_text(json.dumps(json.loads(latents.read_text()) | {"weights": "others"}))
    assert "run dvc repro evaluate@all" in evaluated.run("tissue").error
    latents.unlink()
    assert "run dvc repro evaluate@all" in evaluated.run("tissue").error
    table = pd.read_csv(reports / "per_patch_validation.csv")
    table[::-1].to_csv(reports / "per_patch_validation.csv", index=False)
    assert "errors of the tumor model are of other patches" in evaluated.run("tissue").error
    (reports / "metrics.json").write_text(json.dumps({"weights": "others", "metrics": make_data.METRICS}))
    assert "run dvc repro evaluate@tumor" in evaluated.run("tissue").error
    assert not (evaluated.folder / "reports/tissue").exists() and not evaluated.leftovers()


def test_without_a_pair_only_the_reason_is_written(project, monkeypatch):
    project.params(models={"all": MODELS["all"]})
    result = project.run("tissue")
    assert not result.code and any("models has no tumor and no normal" in line for line in result.lines)
    assert [path.name for path in (project.folder / "reports/tissue").iterdir()] == ["metrics.json"]
    assert metrics_of(project) == {
        "pair": None,
        "reason": "models has no tumor and no normal, which tissue names as the pair",
        "one_class": {"model": None, "reason": "models has no normal of cohort normal"},
    }


@pytest.mark.slow
def test_a_normal_model_is_studied_alone_where_there_is_no_tumor_model(evaluated):
    evaluated.params(**PARAMS | {"models": {"normal": MODELS["normal"]}}, tissue__latents=None)
    assert not (result := evaluated.run("tissue")).code, result.lines
    metrics = metrics_of(evaluated)
    assert metrics["pair"] is None and "models has no tumor" in metrics["reason"]
    assert set(metrics["one_class"]["scores"]) == {"error", "relative_error"}
    assert any("AUROC per slide of normal alone" in line for line in result.lines)
