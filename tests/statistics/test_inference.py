"""Intervals and tests of an AUROC, against plain computations; simulations of cohorts with a known AUROC."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from histocae.statistics import auroc_interval, jackknife, paired, permutation
from histocae.statistics.discrimination import discriminate
from histocae.statistics.intervals import Estimate
from histocae.statistics.levels import LEVELS, at_level
from histocae.statistics.resampling import CaseUnits

QUICK = {"seed": 1, "bootstrap": 200, "permutations": 2000, "confidence": 0.95, "with_auprc": False}
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def simulations(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import simulations

    yield simulations
    del sys.modules["simulations"]


def draw(seed: int, tumor: int, normal: int, both: int, gap: float = 1.0, patches: int = 4) -> pd.DataFrame:
    """Draw scored patches of cases of each kind; those of a case are alike."""
    rng = np.random.default_rng(seed)
    rows = []
    for case, labels in enumerate([(1,)] * tumor + [(0,)] * normal + [(0, 1)] * both):
        shared = rng.normal()
        for label in labels:
            count = rng.integers(1, patches + 1)
            scores = gap * label + shared + rng.normal(size=count)
            rows += [(f"c{case}", f"c{case}-{label}", label, score) for score in scores]
    return pd.DataFrame(rows, columns=["case_id", "slide_id", "label", "score"])


cohorts = st.builds(
    draw,
    seed=st.integers(0, 10**6),
    tumor=st.integers(0, 6),
    normal=st.integers(0, 6),
    both=st.integers(1, 5),
    gap=st.floats(-3, 3),
)


# --- plain computations ---------------------------------------------------------------------------


def won_pairs(table: pd.DataFrame, within: bool) -> tuple[np.ndarray, np.ndarray]:
    """List the pairs of a tumor and a normal unit, maybe within cases: their two cases, and 1 for a higher tumor."""
    (tumor, score), (normal, other) = (
        table.loc[table["label"] == label, ["case_id", "score"]].to_numpy().T for label in (1, 0)
    )
    cases = np.stack([np.repeat(tumor, len(normal)), np.tile(normal, len(tumor))])
    differences = np.subtract.outer(score.astype(float), other.astype(float)).ravel()
    keep = np.ones(len(differences), bool) if within else cases[0] != cases[1]
    return cases[:, keep], (np.sign(differences) / 2 + 0.5)[keep]


def jackknife_by_hand(table: pd.DataFrame, within: bool) -> tuple[float, float, float]:
    """Compute the AUROC, its variance and degrees of freedom by computing it anew without each case."""
    of_pairs, won = won_pairs(table, within)
    area = won.mean()
    kinds = table.groupby("case_id")["label"].agg(frozenset)
    of_tissue = [sum(label in kind for kind in kinds) for label in (0, 1)]
    alike = {frozenset({1}): of_tissue[1], frozenset({0}): of_tissue[0], frozenset({0, 1}): len(kinds)}
    total, parts = 0.0, 0.0
    for kind, number in alike.items():
        cases = [name for name, own in kinds.items() if own == kind]
        left = [won[(of_pairs != case).all(axis=0)] for case in cases]
        squares = sum((pairs.mean() - area) ** 2 for pairs in left if len(pairs))
        share = squares * (number - 1) / max(number, 1)
        total, parts = total + share, parts + share**2 / max(len(cases) - 1, 1)
    degrees = total**2 / parts if parts > 0 else len(kinds) - 1
    return area, total, max(degrees, 1.0)


def margin_by_hand(table: pd.DataFrame) -> tuple[float, float]:
    """Compute the AUROC, and how far from a true one of that value an observed one may be, at 95 %."""
    area, variance, degrees = jackknife_by_hand(table, within=False)
    if variance == 0:
        return area, 0.0
    of_pairs, won = won_pairs(table, within=False)
    pairs = pd.DataFrame({"tumor": of_pairs[0], "normal": of_pairs[1], "surplus": won - area})
    by_two = pairs.groupby(["tumor", "normal"])["surplus"].agg(["sum", "size"]).reset_index()
    for tissue in ("tumor", "normal"):
        by_two[f"mean of {tissue}"] = by_two[tissue].map(pairs.groupby(tissue)["surplus"].mean())
    beyond = by_two["sum"] - by_two["size"] * (by_two["mean of tumor"] + by_two["mean of normal"])
    cases = [frozenset(both) for both in by_two[["tumor", "normal"]].to_numpy()]
    counts = by_two["tumor"].nunique(), by_two["normal"].nunique()
    excess = (beyond.groupby(cases).sum() ** 2).sum() / len(won) ** 2
    excess *= np.prod([count / (count - 1) for count in counts])
    left = max(0.5, 1 - excess / variance)
    variance, degrees = variance * left, max(1.0, degrees * left)
    variance = 1 / (1 / variance + 1 / (area * (1 - area)))
    return area, student.ppf(0.975, degrees) * np.sqrt(variance)


def p_of_t(table: pd.DataFrame) -> float:
    """Compute the p-value of the logit of the AUROC of all pairs from Student's t."""
    area, variance, degrees = jackknife_by_hand(table, within=True)
    if abs(area - 0.5) < 1e-9:
        return 1.0
    inner = min(max(area, 0.001), 0.999)
    error = np.sqrt(max(variance, 1e-8)) / (inner * (1 - inner))
    return 2 * student.sf(abs(np.log(inner / (1 - inner))) / error, degrees)


def relabeled(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Give the labels in every way: swapped in paired cases, shuffled among the others."""
    kinds = table.groupby("case_id")["label"].agg(frozenset)
    both, single = kinds.index[kinds.map(len) == 2], kinds.index[kinds.map(len) == 1]
    tumors = sum(1 in kinds[name] for name in single)
    ways = []
    for swapped in itertools.product((False, True), repeat=len(both)):
        for chosen in itertools.combinations(single, tumors):
            label = {name: int(name in chosen) for name in single}
            swap = table["case_id"].isin(both[list(swapped)])
            labels = table["case_id"].map(label).fillna(table["label"].where(~swap, 1 - table["label"]))
            ways.append(table.assign(label=labels.astype(int)))
    return ways


@pytest.mark.parametrize("kinds", [(4, 3, 0, 1.5), (0, 0, 5, 1.0), (3, 2, 2, 0.7), (5, 2, 0, -2.0), (2, 2, 2, 50.0)])
@pytest.mark.parametrize("level", ["patch", "case"])
def test_the_p_value_is_the_share_of_all_ways_to_label_that_are_as_extreme(kinds, level):
    table = draw(5, *kinds)
    units = at_level(table, level)
    observed = p_of_t(units)
    expected = np.mean([p_of_t(way) <= observed * (1 + 1e-9) for way in relabeled(units)])
    result = discriminate(table, level, **QUICK)
    assert result.p_value == pytest.approx(expected)
    drawn = discriminate(table, level, **QUICK | {"permutations": 5}).p_value
    assert drawn in [pytest.approx(count / 6) for count in range(1, 7)]


@pytest.mark.parametrize(
    ("kinds", "smallest"),
    [
        ((3, 1, 0), 2 / 4),
        ((2, 2, 0), 2 / 6),
        ((0, 0, 4), 2 / 16),
        ((1, 1, 2), 2 / 8),
        ((3, 1, 2), 1 / 16),
        ((1, 1, 0), 1),
    ],
)
def test_the_smallest_p_is_that_of_scores_that_separate_the_tissues(kinds, smallest):
    separated = discriminate(draw(1, *kinds, gap=1000.0), "slide", **QUICK | {"permutations": 10_000})
    assert separated.p_value == pytest.approx(smallest) == separated.smallest_p
    few = discriminate(draw(1, 8, 8, 0, gap=1000.0), "slide", **QUICK)
    assert few.p_value == few.smallest_p == 1 / 2001  # of 2,000 random ways
    assert discriminate(draw(1, 8, 8, 0, gap=0.0), "slide", **QUICK).p_value > 0.05


@settings(max_examples=15, deadline=None)
@given(cohorts)
def test_a_bound_is_where_the_shifted_scores_are_as_far_away_as_t_allows(table):
    units = at_level(table, "patch")
    if units.groupby("label")["case_id"].nunique().min() < 2:
        assert auroc_interval.interval(CaseUnits.from_table(units), 0.95) == (0, 1)
        return
    low, high = auroc_interval.interval(CaseUnits.from_table(units), 0.95)
    observed, _, _ = jackknife_by_hand(units, within=False)
    assert 0 <= low <= observed <= high <= 1
    tissues = (units.loc[units["label"] == label, "score"].to_numpy() for label in (0, 1))
    differences = np.unique(np.subtract.outer(*tissues))
    shifts = np.r_[differences[0] - 1, (differences[1:] + differences[:-1]) / 2, differences[-1] + 1]
    likely = []
    for shift in shifts[:: max(1, len(shifts) // 40)]:
        shifted = units.assign(score=units["score"] + shift * units["label"])
        area, margin = margin_by_hand(shifted)
        if abs(area - observed) <= margin:
            likely.append(area)
    step = 1 / len(won_pairs(units, within=False)[1])
    inside = [area for area in likely if low - step - 0.002 <= area <= high + step + 0.002]
    assert len(inside) >= 0.9 * len(likely)  # the likely AUROCs may have gaps; the interval ends at one of them


@settings(max_examples=15, deadline=None)
@given(table=cohorts, confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_and_tests_agree_and_do_not_depend_on_which_tissue_comes_first(table, confidence):
    mirrored = table.assign(label=1 - table["label"], score=-table["score"])
    for level in LEVELS:
        result, other = (
            discriminate(each, level, **QUICK | {"confidence": confidence}) for each in (table, mirrored)
        )
        area = result.auroc
        assert result.includes_chance is bool(result.p_value > 1 - confidence + 1e-9)
        assert 0 <= area.low <= area.value <= area.high <= 1
        assert area.value == pytest.approx(roc_auc_score(*at_level(table, level)[["label", "score"]].to_numpy().T))
        assert (other.auroc.low, other.auroc.high) == pytest.approx((area.low, area.high), abs=2e-3)
        assert other.smallest_p == result.smallest_p
        wider = discriminate(table, level, **QUICK | {"confidence": 0.999}).untested
        assert wider.low <= result.untested.low + 2e-3 and result.untested.high <= wider.high + 2e-3


def test_a_p_value_of_one_less_the_confidence_is_significant():
    result = discriminate(draw(1, 3, 3, 0, gap=1000.0), "slide", **QUICK | {"confidence": 0.9})
    assert result.p_value == pytest.approx(0.1) and 1 - 0.9 < 0.1  # 2 of 20 ways; 0.09999999999999998
    assert not result.includes_chance


@pytest.mark.parametrize("kinds", [(3, 3, 6), (0, 0, 4), (5, 4, 0)])
@pytest.mark.parametrize("distinct", [3.0, 1000.0])
def test_intervals_do_not_depend_on_the_scale_of_scores_nor_on_the_order_of_rows(kinds, distinct):
    table = draw(3, *kinds)
    table["score"] = np.round(table["score"] * distinct / 6)  # what is done below is then exact
    expected = auroc_interval.interval(CaseUnits.from_table(table), 0.95)
    for scale, offset in ((2.0**-40, 0), (2.0**-1000, 0), (2.0**1000, 0), (2.0**-32, 2.0**20), (1, -(2.0**50))):
        moved = table.assign(score=table["score"] * scale + offset)
        assert (moved["score"].rank() == table["score"].rank()).all()
        found = auroc_interval.interval(CaseUnits.from_table(moved), 0.95)
        assert found == pytest.approx(expected, abs=1e-3)
    shuffled = table.sample(frac=1, random_state=2)
    assert auroc_interval.interval(CaseUnits.from_table(shuffled), 0.95) == pytest.approx(expected)


def test_a_score_far_from_all_others_does_not_blur_these():
    table = draw(5, 4, 4, 6, gap=0.5)
    table["score"] = np.round(table["score"] * 1000)
    highest = table["score"] == table["score"].max()
    near, far = (
        auroc_interval.interval(CaseUnits.from_table(table.assign(score=table["score"].where(~highest, value))), 0.95)
        for value in (6000.0, 1e16)
    )
    assert far == pytest.approx(near, abs=0.05)


@pytest.mark.parametrize("kinds", [(4, 4, 0), (0, 0, 5), (3, 3, 2), (1, 1, 3)])
@pytest.mark.parametrize("value", [0.0, 7.0, -1e-300, 1e300])
def test_equal_scores_say_nothing(kinds, value):
    table = draw(1, *kinds).assign(score=value)
    for confidence in (0.5, 0.95, 0.999):
        result = discriminate(table, "patch", **QUICK | {"confidence": confidence})
        assert (result.auroc.low, result.auroc.value, result.auroc.high, result.p_value) == (0, 0.5, 1, 1)


def test_two_cases_say_nothing_about_others():
    for kinds in ((0, 0, 2), (1, 1, 0), (1, 0, 1)):
        area = discriminate(draw(2, *kinds, gap=3.0), "patch", **QUICK).auroc
        assert (area.low, area.high) == (0, 1)


def test_few_permutations_at_once_are_all_permutations(monkeypatch):
    tables = [draw(2, 5, 3, 3), draw(2, 0, 0, 9), draw(4, 12, 9, 0)]
    whole = [discriminate(table, "patch", **QUICK).p_value for table in tables]
    monkeypatch.setattr(permutation, "_CHUNK", 7)
    assert whole == [discriminate(table, "patch", **QUICK).p_value for table in tables]


@pytest.mark.parametrize("kinds", [(5, 4, 0), (0, 0, 5), (3, 2, 3), (8, 2, 1)])
@pytest.mark.parametrize("within", [True, False])
def test_variances_are_those_of_computing_the_auroc_without_each_case(kinds, within):
    table = draw(6, *kinds)
    of_pairs, won = won_pairs(table, within)
    kinds_of = table.groupby("case_id")["label"]
    parts = [(of_pairs == case).any(axis=0) for case in kinds_of.groups] + [np.ones(len(won), bool)]
    sums, counts = (np.array([values[part].sum() for part in parts]) for values in (won, np.ones(len(won))))
    tumors, totals = kinds_of.sum().to_numpy(float), kinds_of.size().to_numpy(float)
    area = jackknife.areas(sums, counts, tumors, totals - tumors)
    expected = jackknife_by_hand(table, within)
    assert (area.value, area.variance, area.degrees) == pytest.approx(expected)


@pytest.mark.parametrize("kinds", [(5, 4, 0), (0, 0, 5), (3, 2, 3)])
def test_at_a_bound_the_observed_auroc_is_as_far_away_as_students_t_allows(kinds):
    table = draw(8, *kinds, gap=0.5, patches=25)
    observed, _, _ = jackknife_by_hand(table, within=False)
    tissues = (table.loc[table["label"] == label, "score"].to_numpy() for label in (0, 1))
    shifts = np.unique(np.subtract.outer(*tissues))
    shifts = (shifts[1:] + shifts[:-1]) / 2
    for bound in auroc_interval.interval(CaseUnits.from_table(table), 0.95):
        first, last = 0, len(shifts) - 1
        while last - first > 1:  # the AUROC rises with the shift
            middle = (first + last) // 2
            moved = table.assign(score=table["score"] + shifts[middle] * table["label"])
            area, margin = margin_by_hand(moved)
            first, last = (middle, last) if area < bound else (first, middle)
        assert area == pytest.approx(bound, abs=0.003)
        assert abs(bound - observed) == pytest.approx(margin, rel=0.02)


def test_without_interactions_the_variance_is_right_on_average():
    tumor, normal, drawn = (0.0, 2.0, 5.0), (1.0, 2.0), (3, 2)
    values, estimates = [], []
    samples = itertools.product(itertools.product(tumor, repeat=drawn[0]), itertools.product(normal, repeat=drawn[1]))
    for tumors, normals in samples:  # all equally likely
        won = np.zeros((5, 5))
        won[:3, 3:] = np.sign(np.subtract.outer(tumors, normals)) / 2 + 0.5
        pairs = np.zeros((5, 5))
        pairs[:3, 3:] = 1
        sums = (np.r_[each.sum(axis=0) + each.sum(axis=1), each.sum()] for each in (won, pairs))
        area = jackknife.areas(*sums, np.r_[np.ones(3), np.zeros(2)], np.r_[np.zeros(3), np.ones(2)])
        values.append(float(area.value))
        estimates.append(float(area.variance) - jackknife.interactions(won, pairs))
    assert np.mean(estimates) == pytest.approx(np.var(values))


def test_scores_above_equal_ones_are_a_proportion_with_the_interval_of_wilson():
    tumors, above, normals = 20, 14, 6
    scores = np.r_[np.arange(above - tumors, above) + 0.5, np.zeros(normals)]  # normal cases do not vary
    labels = np.repeat((1, 0), (tumors, normals))
    table = pd.DataFrame({"case_id": np.arange(tumors + normals), "label": labels, "score": scores})
    as_normal = 1 - 2 * norm.sf(student.ppf(0.975, tumors - 1))  # Wilson's has a quantile of the normal distribution
    expected = binomtest(above, tumors).proportion_ci(as_normal, "wilson")
    found = auroc_interval.interval(CaseUnits.from_table(table), 0.95)
    assert found == pytest.approx((expected.low, expected.high), abs=0.004)  # linear between multiples of 1 / 20


def test_pairing_makes_an_interval_narrower_and_a_test_more_powerful():
    rng = np.random.default_rng(4)
    shared, noise = rng.normal(size=12), 0.3 * rng.normal(size=(12, 2))
    rows = [
        (f"c{case}", f"c{case}-{label}", label, shared[case] + noise[case, label] + 0.6 * label)
        for case in range(12)
        for label in (0, 1)
    ]
    table = pd.DataFrame(rows, columns=["case_id", "slide_id", "label", "score"])
    together = discriminate(table, "slide", **QUICK)
    apart = discriminate(table.assign(case_id=table["slide_id"]), "slide", **QUICK)
    assert together.auroc.value == apart.auroc.value
    assert together.auroc.high - together.auroc.low < 0.75 * (apart.auroc.high - apart.auroc.low)
    assert together.p_value < 0.02 < 0.05 < apart.p_value


# --- pairs ----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(cohorts)
def test_paired_cases_are_compared_by_a_sign_test(table):
    units = at_level(table, "case").pivot(index="case_id", columns="label", values="score").dropna()
    result = paired.within_cases(table, 0.95)
    assert result.cases == len(units) and result.above == (units[1] > units[0]).sum() and result.equal == 0
    expected = binomtest(result.above, result.cases)
    bounds = expected.proportion_ci(0.95, "wilson")
    assert (result.share.low, result.share.high) == pytest.approx((bounds.low, bounds.high))
    assert result.p_value == pytest.approx(expected.pvalue) and result.p_value >= result.smallest_p - 1e-12
    json.dumps(result.as_json(), allow_nan=False)


def test_equal_tissues_count_half_in_the_share_and_not_in_the_sign_test():
    rows = [(f"c{i}", f"c{i}-{label}", label, float(label and i > 1)) for i in range(6) for label in (0, 1)]
    table = pd.DataFrame(rows, columns=["case_id", "slide_id", "label", "score"])
    result = paired.within_cases(table, 0.95)
    assert (result.above, result.equal, result.share.value) == (4, 2, 5 / 6)
    assert result.p_value == binomtest(4, 4).pvalue
    assert paired.within_cases(table.assign(score=0.0), 0.95).p_value == 1
    assert paired.within_cases(table.assign(case_id=table["slide_id"]), 0.95) is None


def test_a_difference_is_surer_than_its_parts_where_both_scores_err_on_the_same_cases():
    table = draw(3, 10, 10, 0, gap=1.2)
    rng = np.random.default_rng(0)
    alike = table.assign(score=table["score"] + 0.1 * rng.normal(size=len(table)))
    unlike = table.assign(score=rng.normal(size=len(table)))
    first, second, third = (discriminate(each, "patch", **QUICK) for each in (table, alike, unlike))
    same = first.less(first)
    assert same.value == 0 and same.includes(0)
    close, far = first.less(second), first.less(third)
    assert close.value == pytest.approx(first.auroc.value - second.auroc.value)
    assert close.high - close.low < 0.7 * (far.high - far.low) and far.low > 0
    back = second.less(first)
    assert (back.low, back.high) == pytest.approx((-close.high, -close.low))


def test_scores_that_both_separate_the_tissues_may_still_differ():
    constant = np.ones(50)
    result = paired.difference(Estimate(1.0, 0.8, 1.0), Estimate(1.0, 0.7, 1.0), (constant, constant))
    assert (result.value, result.low, result.high) == (0, pytest.approx(-0.2), pytest.approx(0.3))


# --- simulations ----------------------------------------------------------------------------------


def plausible(share: float, least: float, most: float, draws: int) -> bool:
    """Whether a share of so many draws may come from a true share between two bounds, at 99.9 %."""
    hits = round(share * draws)
    return bool(binom.sf(hits - 1, draws, min(most, 1)) > 0.001 and binom.cdf(hits, draws, max(least, 0)) > 0.001)


@pytest.mark.parametrize("cohort", ["8 tumor + 8 normal", "8 paired", "24 tumor + 4 normal"])
def test_intervals_cover_the_true_auroc_and_the_test_keeps_its_level(simulations, cohort):
    for auroc, level in ((0.5, "case"), (0.9, "patch")):
        result = simulations.simulate(simulations.Cell(cohort, 0.7, 3.0, auroc, level), 120)
        assert plausible(result["coverage"], 0.92, 0.98, 120), result
        if result["type1"] is not None:
            assert plausible(result["type1"], 0.03, 0.07, 120), result


def test_the_scores_of_a_cell_have_its_auroc(simulations):
    for cell in simulations.cells()[::7]:
        units = pd.concat(cell.units(np.random.default_rng(seed)).assign(draw=seed) for seed in range(150))
        tumor, normal = (units.loc[units["label"] == label, "score"].to_numpy() for label in (1, 0))
        area = roc_auc_score(np.r_[np.ones(len(tumor)), np.zeros(len(normal))], np.r_[tumor, normal])
        assert area == pytest.approx(cell.auroc, abs=0.06), cell


def test_the_document_has_the_tables_of_the_simulations(simulations):
    text = simulations.DOCUMENT.read_text(encoding="utf-8")
    for name, table in simulations.tables():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in text


@pytest.mark.long
def test_every_cell_comes_out_as_documented(simulations):
    documented = json.loads(simulations.CELLS.read_text(encoding="utf-8"))
    assert len(documented) == len(simulations.cells())
    for cell, expected in zip(simulations.cells(), documented, strict=True):
        result = simulations.simulate(cell, 150)
        for key in ("coverage", "type1", "power"):
            if expected[key] is not None:
                assert plausible(result[key], expected[key] - 0.03, expected[key] + 0.03, 150), (cell, key, result)
