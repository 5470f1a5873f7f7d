"""AUROC, AUPRC, their intervals and tests by case, thresholds and calibration."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from scipy.stats import binomtest, kstest
from sklearn import metrics

from histocae.errors import DataError
from histocae.statistics import discrimination, intervals, thresholds
from histocae.statistics.discrimination import discriminate
from histocae.statistics.levels import LEVELS, at_level
from histocae.statistics.resampling import CaseUnits

QUICK = {"seed": 1, "bootstrap": 200, "permutations": 200, "confidence": 0.95}


def draw_patches(
    rng: np.random.Generator,
    tumor: int,
    normal: int,
    paired: int = 0,
    gap: float = 1.0,
    correlation: float = 0.5,
    patches: tuple[int, int] = (1, 9),
) -> pd.DataFrame:
    """Draw scored patches of cases of each kind, two slides per tissue; `correlation` is within a case."""
    rows = []
    for case in range(tumor + normal + paired):
        labels = (1,) if case < tumor else (0,) if case < tumor + normal else (0, 1)
        case_effect = np.sqrt(correlation) * rng.normal()
        for label in labels:
            for patch in range(rng.integers(patches[0], patches[1] + 1)):
                score = gap * label + case_effect + np.sqrt(1 - correlation) * rng.normal()
                rows.append((f"c{case:02d}", f"c{case:02d}-{label}-{patch % 2}", label, score))
    return pd.DataFrame(rows, columns=["case_id", "slide_id", "label", "score"])


def auroc_by_hand(labels: np.ndarray, scores: np.ndarray) -> float:
    """Compute the AUROC from all pairs of a tumor and a normal score."""
    tumor, normal = scores[labels == 1], scores[labels == 0]
    return float(np.mean([(t > n) + 0.5 * (t == n) for t in tumor for n in normal]))


# few distinct values, hence many ties
tied_scores = stn.arrays(np.int64, st.integers(2, 40), elements=st.integers(-4, 4))


@st.composite
def labeled_scores(draw) -> tuple[np.ndarray, np.ndarray]:
    scores = draw(tied_scores).astype(float)
    labels = draw(stn.arrays(np.int8, len(scores), elements=st.integers(0, 1)))
    assume(0 < labels.sum() < len(labels))
    return labels, scores


@st.composite
def tables(draw) -> pd.DataFrame:
    labels, scores = draw(labeled_scores())
    cases = draw(stn.arrays(np.int64, len(scores), elements=st.integers(0, 5)))
    parts = draw(stn.arrays(np.int64, len(scores), elements=st.integers(0, 2)))
    slides = [f"{c}-{label}-{part}" for c, label, part in zip(cases, labels, parts, strict=True)]
    return pd.DataFrame({"case_id": cases.astype(str), "slide_id": slides, "label": labels, "score": scores})


# --- areas ---------------------------------------------------------------------------------------


@given(labeled_scores())
def test_auroc_is_the_share_of_pairs_in_order(labeled):
    labels, scores = labeled
    assert discrimination.auroc(labels, scores) == pytest.approx(auroc_by_hand(labels, scores))
    assert discrimination.auroc(1 - labels, -scores) == pytest.approx(auroc_by_hand(labels, scores))
    assert discrimination.auroc(labels.astype(bool), np.exp(scores)) == pytest.approx(auroc_by_hand(labels, scores))


@given(labeled_scores())
def test_auprc_sums_precision_over_steps_of_recall(labeled):
    labels, scores = labeled
    total = 0.0
    for score in set(scores):
        step = labels[scores == score].sum() / labels.sum()
        total += step * labels[scores >= score].mean()
    assert discrimination.auprc(labels, scores) == pytest.approx(total)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1], [0.1, 0.2], "tumor only"),
        ([0, 0], [0.1, 0.2], "normal only"),
        ([], [], "neither"),
        ([0, 1], [0.1, np.nan], "1 of 2 scores are not finite"),
        ([0, 1], [np.inf, 0], "1 of 2 scores"),
        ([0, 2], [0.1, 0.2], "labels are 1"),
        ([0, 1, np.nan], [1, 2, 3], "labels are 1"),
    ],
)
def test_invalid_scores_raise_an_error_of_one_line(labels, scores, message):
    table = pd.DataFrame({"label": labels, "score": scores}).assign(case_id="a", slide_id="a")
    calls = [
        lambda: discrimination.auroc(labels, scores),
        lambda: discrimination.auprc(labels, scores),
        lambda: thresholds.choose_threshold(labels, scores),
        lambda: thresholds.calibrate(labels, scores),
        lambda: thresholds.rates_at_threshold(labels, scores, 0.0, 0.95),
        lambda: discrimination.roc(labels, scores),
        lambda: discriminate(table, "case", **QUICK),
        lambda: discrimination.roc_band(table, "slide", 1, 100, 0.95),
    ]
    for call in calls:
        with pytest.raises(DataError, match=message):
            call()


# --- score intervals -----------------------------------------------------------------------------


@pytest.mark.parametrize("hits", [0, 1, 7, 20])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_agrees_with_scipy_and_accepts_fractional_counts(hits, confidence):
    expected = binomtest(hits, 20).proportion_ci(confidence, "wilson")
    assert intervals.wilson(hits / 20, 20, confidence) == pytest.approx((expected.low, expected.high))
    narrow, wide = intervals.wilson(hits / 20, 19.5, confidence), intervals.wilson(hits / 20, 18, confidence)
    assert wide[0] <= narrow[0] and narrow[1] <= wide[1]


def test_cases_of_unequal_size_have_a_smaller_effective_count():
    assert intervals.effective_count([7] * 9) == 9 == intervals.effective_count([7] * 9 + [0])
    assert intervals.effective_count([1, 1, 98]) == pytest.approx(10000 / 9606)


# --- levels, draws and permutations --------------------------------------------------------------


@settings(max_examples=40)
@given(tables())
def test_areas_of_each_level_are_those_of_its_mean_scores(table):
    case_means = table.groupby(["case_id", "label", "slide_id"])["score"].mean().groupby(["case_id", "label"]).mean()
    expected = {
        "patch": table[["label", "score"]],
        "case": case_means.reset_index(),
        "slide": table.groupby(["slide_id", "label"], as_index=False)["score"].mean(),
    }
    for level in LEVELS:
        labels, scores = expected[level]["label"].to_numpy(), expected[level]["score"].to_numpy()
        result = discriminate(table, level, **QUICK | {"bootstrap": 20, "permutations": 20})
        assert result.auroc.value == pytest.approx(metrics.roc_auc_score(labels, scores))
        assert result.auprc.value == pytest.approx(metrics.average_precision_score(labels, scores))
        assert result.auprc.chance == pytest.approx(labels.mean())
        types = table.groupby("case_id")["label"].nunique()
        assert result.counts.as_json() == {
            "units": len(labels),
            "positive": labels.sum(),
            "negative": len(labels) - labels.sum(),
            "cases": len(types),
            "paired_cases": (types == 2).sum(),
            "slides": table["slide_id"].nunique(),
        }
        for area in (result.auroc, result.auprc):
            assert 0 <= area.low <= area.value <= area.high <= 1
        assert result.includes_chance is bool(result.auroc.low <= 0.5 <= result.auroc.high)
        assert 0 < result.p_value <= 1
        json.dumps(result.as_json(), allow_nan=False)


@settings(max_examples=40)
@given(table=tables(), seed=st.integers(0, 2**32 - 1))
def test_areas_of_a_draw_are_those_of_the_table_with_its_cases_repeated(table, seed):
    units = CaseUnits.from_table(at_level(table, "patch"))
    draws = units.draw(5, np.random.default_rng(seed))
    names = sorted(table["case_id"].unique())
    kinds = table.groupby("case_id")["label"].agg(frozenset)[names].to_numpy()
    for repeats, area, precision in zip(draws, units.aurocs(draws), units.auprcs(draws), strict=True):
        for kind in set(kinds):  # each kind keeps its number of cases, so both classes are present
            assert repeats[kinds == kind].sum() == (kinds == kind).sum()
        repeated = pd.concat(
            [table[table["case_id"] == n] for n, k in zip(names, repeats, strict=True) for _ in range(k)]
        )
        assert area == pytest.approx(metrics.roc_auc_score(repeated["label"], repeated["score"]))
        assert precision == pytest.approx(metrics.average_precision_score(repeated["label"], repeated["score"]))


def test_paired_cases_are_compared_within_the_case():
    # scores rise from case to case, and within a case tumor scores above normal: the AUROC is near chance,
    # but swaps within cases show the difference
    rows = [(str(case), f"{case}-{label}", label, case + label / 2) for case in range(8) for label in (0, 1)]
    table = pd.DataFrame(rows, columns=["case_id", "slide_id", "label", "score"])
    as_paired = discriminate(table, "slide", **QUICK | {"permutations": 5000})
    assert as_paired.auroc.value == pytest.approx(36 / 64)
    assert as_paired.p_value == pytest.approx(2 / 2**8, abs=0.005)
    single_cases = table.assign(case_id=table["slide_id"])
    as_single = discriminate(single_cases, "slide", **QUICK | {"permutations": 5000})
    assert as_single.p_value > 0.5
    assert (as_paired.counts.paired_cases, as_single.counts.paired_cases) == (8, 0)


@settings(max_examples=30)
@given(st.floats(-1e6, 1e6, width=64), st.lists(st.integers(1, 50), min_size=4, max_size=12))
def test_equal_scores_have_an_auroc_of_chance_for_any_numbers_of_patches(score, counts):
    parts = [
        pd.DataFrame({"case_id": f"c{i // 2}", "slide_id": f"s{i}", "label": i % 2, "score": [score] * count})
        for i, count in enumerate(counts)
    ]
    table = pd.concat(parts)
    for level in LEVELS:
        result = discriminate(
            table, level, seed=1, bootstrap=100, permutations=100, confidence=0.95, with_auprc=False
        )
        assert result.auroc.value == 0.5 and result.includes_chance and "auprc" not in result.as_json()


@pytest.mark.parametrize("level", LEVELS)
def test_p_values_are_uniform_under_the_null_hypothesis(level):
    rng = np.random.default_rng(11)
    p_values = [
        discriminate(
            draw_patches(rng, 7, 5, 3, gap=0, correlation=0.6),
            level,
            seed=i,
            bootstrap=20,
            permutations=199,
            confidence=0.95,
        ).p_value
        for i in range(150)
    ]
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_copies_of_patches_do_not_narrow_the_intervals():
    rng = np.random.default_rng(2)
    table = draw_patches(rng, 6, 6, gap=1.0, correlation=0.9)
    copies = pd.concat([table.assign(score=table["score"] + 1e-6 * i) for i in range(20)])
    result, result_of_copies = (discriminate(rows, "patch", **QUICK) for rows in (table, copies))
    for key in ("auroc", "auprc"):
        assert getattr(result_of_copies, key).low == pytest.approx(getattr(result, key).low, abs=0.02)
        assert getattr(result_of_copies, key).high == pytest.approx(getattr(result, key).high, abs=0.02)
    assert result_of_copies.p_value == pytest.approx(result.p_value, abs=0.01)
    independent = discriminate(copies.assign(case_id=[str(i) for i in range(len(copies))]), "patch", **QUICK)
    assert independent.auroc.low > result_of_copies.auroc.low + 0.1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [1.0, 0.0])
def test_intervals_of_separated_classes_still_have_a_width(level, value):
    table = draw_patches(np.random.default_rng(3), 8, 5, gap=100 * (2 * value - 1))
    result = discriminate(table, level, **QUICK)
    assert result.auroc.value == value and not result.includes_chance
    assert result.p_value < 0.02
    bounds = (result.auroc.low, result.auroc.high)
    assert value in bounds and 0.1 < bounds[1] - bounds[0] < 0.5
    if level == "case" and value == 1:
        assert result.auprc.high == 1
        assert result.auprc.low == intervals.wilson(1, 8, 0.95)[0] < 0.7


@pytest.mark.parametrize("kinds", [(1, 1, 0), (1, 0, 1), (0, 0, 1), (2, 1, 0), (1, 3, 1)])
def test_a_single_case_of_a_kind_gives_a_wide_interval(kinds):
    for level in LEVELS:
        result = discriminate(draw_patches(np.random.default_rng(4), *kinds, gap=50), level, **QUICK)
        assert result.auroc.value == 1 and result.auroc.high - result.auroc.low > 0.4
        assert result.p_value > 0.1


def test_results_depend_on_the_seed_and_not_on_the_order_of_rows():
    table = draw_patches(np.random.default_rng(6), 6, 5, 3)
    for level in LEVELS:
        first = discriminate(table, level, **QUICK)
        assert discriminate(table, level, **QUICK) == first
        shuffled = discriminate(table.sample(frac=1, random_state=1), level, **QUICK)
        assert shuffled.counts == first.counts and shuffled.p_value == first.p_value
        for key in ("auroc", "auprc"):
            assert shuffled.as_json()[key] == pytest.approx(first.as_json()[key])
        band = discrimination.roc_band(table, level, 1, 100, 0.95)
        pd.testing.assert_frame_equal(discrimination.roc_band(table, level, 1, 100, 0.95), band)
        assert not discrimination.roc_band(table, level, 2, 100, 0.95).equals(band)


# --- thresholds and calibration ------------------------------------------------------------------


@given(labeled_scores())
def test_the_threshold_has_the_best_sum_of_sensitivity_and_specificity(labeled):
    labels, scores = labeled

    def youden(threshold: float) -> float:
        return (scores[labels == 1] >= threshold).mean() - (scores[labels == 0] >= threshold).mean()

    selected = thresholds.choose_threshold(labels, scores)
    assert np.isfinite(selected) and scores.min() <= selected <= scores.max()
    assert youden(selected) == pytest.approx(max(youden(score) for score in [*scores, scores.max() + 1]))
    order = np.random.default_rng(0).permutation(len(scores))
    assert thresholds.choose_threshold(labels[order], scores[order]) == selected


def test_the_threshold_lies_midway_between_scores_and_the_lowest_wins_ties():
    assert thresholds.choose_threshold([0, 0, 1, 1], [1, 2, 4, 9]) == 3
    assert thresholds.choose_threshold([0, 1, 0, 1], [1, 2, 3, 4]) == 1.5  # as good as 3.5, and lower
    assert thresholds.choose_threshold([0, 1, 1, 0, 0, 1], [1, 2, 2, 3, 3, 4]) == 1.5
    assert thresholds.choose_threshold([0, 1], [5, 5]) == 5
    assert thresholds.choose_threshold([1, 0], [1, 2]) == 1  # reversed scores: all units are called tumor
    first, second = 1.0, np.nextafter(1.0, 2)
    assert thresholds.choose_threshold([0, 1], [first, second]) == second
    assert thresholds.choose_threshold([0, 1], [-1.7e308, 1.7e308]) == 0


@given(labeled=labeled_scores(), shift=st.sampled_from([0, 1e6, -3]), scale=st.sampled_from([1, 1e-6, 1e5]))
def test_the_calibration_solves_platts_problem(labeled, shift, scale):
    labels, scores = labeled
    scores = scale * (scores + shift)
    curve = thresholds.calibrate(labels, scores)
    tumors, normals = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (tumors + 1) / (tumors + 2), 1 / (normals + 2))
    residuals = targets - curve.probability(scores)
    spread = scores.std() or 1
    assert abs(residuals.sum()) < 1e-4 and abs((residuals * (scores - scores.mean()) / spread).sum()) < 1e-4


def test_separated_classes_are_calibrated():
    curve = thresholds.calibrate([0, 0, 1, 1], [1, 2, 3, 4])
    assert 0 < curve.slope < 10 and -curve.slope * 4 < curve.intercept < -curve.slope
    probabilities = curve.probability([0, 2.5, 5])
    assert probabilities[0] < 0.2 and probabilities[1] == pytest.approx(0.5) and probabilities[2] > 0.8
    assert thresholds.calibrate([0, 1, 1], [2, 2, 2]).slope == 0
    assert thresholds.Calibration(1.0, 0.0).probability([1e300, -1e300]).tolist() == [1, 0]


@given(labeled=labeled_scores(), threshold=st.floats(-5, 5))
def test_rates_at_a_threshold_agree_with_sklearn_and_scipy(labeled, threshold):
    labels, scores = labeled
    result = thresholds.rates_at_threshold(labels, scores, threshold, 0.9)
    matrix = metrics.confusion_matrix(labels, scores >= threshold, labels=[0, 1])
    names = (("true_negative", "false_positive"), ("false_negative", "true_positive"))
    assert [[getattr(result, name) for name in row] for row in names] == matrix.tolist()
    for name, hits, total in (
        ("sensitivity", matrix[1, 1], matrix[1].sum()),
        ("specificity", matrix[0, 0], matrix[0].sum()),
        ("accuracy", matrix.trace(), matrix.sum()),
    ):
        interval = binomtest(int(hits), int(total)).proportion_ci(0.9, "wilson")
        rate = getattr(result, name)
        assert rate.value == pytest.approx(hits / total)
        assert (rate.low, rate.high) == pytest.approx((interval.low, interval.high))
    balanced = result.balanced_accuracy
    assert balanced.value == pytest.approx((result.sensitivity.value + result.specificity.value) / 2)
    assert -1e-9 <= balanced.low <= balanced.value <= balanced.high <= 1 + 1e-9
    json.dumps(result.as_json(), allow_nan=False)


def test_intervals_of_rates_are_clustered_by_case():
    labels, scores = np.repeat([0, 1] * 5, 100), np.repeat([0, 1] * 5, 100).astype(float)
    cases = np.repeat(np.arange(10), 100)
    unclustered, clustered = (
        thresholds.rates_at_threshold(labels, scores, 0.5, 0.95, groups).as_json() for groups in (None, cases)
    )
    one_per_case = thresholds.rates_at_threshold(labels[::100], scores[::100], 0.5, 0.95).as_json()
    for name in ("accuracy", "sensitivity", "specificity", "balanced_accuracy"):
        assert clustered[name] == pytest.approx(one_per_case[name])
        assert unclustered[name]["low"] > clustered[name]["low"] + 0.1
    assert clustered["true_positive"] == 500


# --- curves --------------------------------------------------------------------------------------


@given(labeled_scores())
def test_rates_of_the_curve_are_those_at_its_thresholds(labeled):
    labels, scores = labeled
    curve = discrimination.roc(labels, scores)
    assert np.isfinite(curve).all(axis=None)
    for row in curve.itertuples():
        assert row.tpr == pytest.approx((scores[labels == 1] >= row.threshold).mean())
        assert row.fpr == pytest.approx((scores[labels == 0] >= row.threshold).mean())
    assert metrics.auc(curve["fpr"], curve["tpr"]) == pytest.approx(discrimination.auroc(labels, scores))
    assert curve[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]


def test_a_long_curve_is_thinned_evenly():
    rng = np.random.default_rng(8)
    labels = rng.random(30_000) < 0.4
    scores = rng.normal(size=30_000) + labels
    curve = discrimination.roc(labels, scores)
    assert 300 < len(curve) <= 500
    assert curve.diff().loc[1:, ["fpr", "tpr"]].sum(axis=1).max() < 0.01
    assert metrics.auc(curve["fpr"], curve["tpr"]) == pytest.approx(discrimination.auroc(labels, scores), abs=1e-3)
    assert curve[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("level", LEVELS)
def test_the_band_is_that_of_a_bootstrap_of_cases(level):
    table = draw_patches(np.random.default_rng(9), 8, 7, 3)
    band = discrimination.roc_band(table, level, 1, 2000, 0.9)
    assert list(band.columns) == ["fpr", "tpr", "low", "high"] and len(band) == 101
    assert (band["low"] <= band["tpr"]).all() and (band["tpr"] <= band["high"]).all()
    assert band.iloc[-1].tolist() == [1, 1, 1, 1]
    units = at_level(table, level)
    fpr, tpr, _ = metrics.roc_curve(units["label"], units["score"])
    np.testing.assert_allclose(band["tpr"], np.interp(band["fpr"], fpr, tpr))
    curves = []
    rng = np.random.default_rng(1)
    parts = [part for _, part in units.groupby("case_id")]
    kinds = [frozenset(part["label"]) for part in parts]
    for _ in range(1000):
        resampled = []
        for kind in set(kinds):
            members = [part for part, k in zip(parts, kinds, strict=True) if k == kind]
            resampled += [members[i] for i in rng.integers(0, len(members), len(members))]
        resampled = pd.concat(resampled)
        fpr, tpr, _ = metrics.roc_curve(resampled["label"], resampled["score"], drop_intermediate=False)
        curves.append(np.interp(band["fpr"], fpr, tpr))
    low, high = np.quantile(curves, (0.05, 0.95), axis=0)
    assert np.abs(band["low"] - np.minimum(low, band["tpr"])).mean() < 0.03
    assert np.abs(band["high"] - np.maximum(high, band["tpr"])).mean() < 0.03
