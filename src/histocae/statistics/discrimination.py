"""How well scores distinguish tumor from normal, and how certain that is with few cases.

A label is 1 for tumor and 0 for normal; a higher score means tumor. Patches of a slide and slides
of a case are alike, so intervals and tests are clustered by case, whatever the level of the scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from histocae.statistics import auroc_interval, permutation
from histocae.statistics.intervals import Estimate, effective_count, wilson
from histocae.statistics.levels import at_level, check_scores
from histocae.statistics.paired import difference
from histocae.statistics.permutation import CHANCE
from histocae.statistics.resampling import CaseUnits

MOST_POINTS = 500  # of a ROC curve
GRID = np.linspace(0, 1, 101)  # false positive rates of a ROC curve with a band


@dataclass(frozen=True)
class AveragePrecision(Estimate):
    """An AUPRC with its confidence interval.

    Attributes:
        value: the estimate.
        low: lower bound of the interval.
        high: upper bound of the interval.
        chance: the AUPRC of scores that carry no information: the share of tumor units.

    """

    chance: float

    def as_json(self) -> dict[str, float]:
        """Give the JSON object: value, low, high, chance."""
        return super().as_json() | {"chance": self.chance}


@dataclass(frozen=True)
class Counts:
    """The data behind a discrimination.

    Attributes:
        units: scored units of the level.
        positive: tumor units.
        negative: normal units.
        cases: cases.
        paired_cases: cases that have both tissues.
        slides: slides.

    """

    units: int
    positive: int
    negative: int
    cases: int
    paired_cases: int
    slides: int

    def as_json(self) -> dict[str, int]:
        """Give the JSON object, with the attributes as keys."""
        return {
            "units": self.units,
            "positive": self.positive,
            "negative": self.negative,
            "cases": self.cases,
            "paired_cases": self.paired_cases,
            "slides": self.slides,
        }


@dataclass(frozen=True)
class Discrimination:
    """How well scores distinguish tumor from normal at one level.

    Attributes:
        auroc: area under the ROC curve.
        auprc: area under the precision-recall curve; None where it was not computed.
        p_value: of the AUROC, two-sided, by permutation of labels.
        smallest_p: the smallest p-value that the cases allow, however well the scores separate them.
        counts: the units and cases.
        untested: the AUROC with its interval before that was made to agree with the p-value.
        draws: AUROC in each draw of cases, float64, shape (draws,).

    """

    auroc: Estimate
    auprc: AveragePrecision | None
    p_value: float
    smallest_p: float
    counts: Counts
    untested: Estimate
    draws: NDArray[np.float64] = field(repr=False, compare=False)

    @property
    def includes_chance(self) -> bool:
        """Whether the confidence interval of the AUROC includes 0.5: whether the p-value is too large for a claim."""
        return self.auroc.includes(CHANCE)

    def less(self, other: "Discrimination") -> Estimate:
        """Subtract the AUROC of another score of the same units, measured with the same seed and draws."""
        return difference(self.untested, other.untested, (self.draws, other.draws))

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: auroc, auprc (where present), p_value, smallest_p, includes_chance, counts."""
        return {
            "auroc": self.auroc.as_json(),
            **({} if self.auprc is None else {"auprc": self.auprc.as_json()}),
            "p_value": self.p_value,
            "smallest_p": self.smallest_p,
            "includes_chance": self.includes_chance,
            "counts": self.counts.as_json(),
        }


def levels_as_json(levels: Mapping[str, Discrimination], with_counts: bool = True) -> dict[str, Any]:
    """Give the JSON object of discriminations at several levels, with flat keys.

    Args:
        levels: a discrimination per level.
        with_counts: whether to include the counts.

    Returns:
        auroc_<level>, auprc_<level> (where present), p_value_<level>, smallest_p_<level> and, with counts,
        counts.<level>.

    """
    flat: dict[str, Any] = {}
    for level, result in levels.items():
        flat[f"auroc_{level}"] = result.auroc.as_json()
        if result.auprc is not None:
            flat[f"auprc_{level}"] = result.auprc.as_json()
        flat[f"p_value_{level}"], flat[f"smallest_p_{level}"] = result.p_value, result.smallest_p
    if with_counts:
        flat["counts"] = {level: result.counts.as_json() for level, result in levels.items()}
    return flat


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a tumor unit scores above a normal one, ties counting half.

    Args:
        labels: 1 tumor, 0 normal; shape (n,).
        scores: finite, shape (n,).

    Returns:
        The AUROC, 0 to 1; 0.5 is chance.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    References:
        Hanley and McNeil 1982, Radiology 143:29-36.

    Example:
        >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75

    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*check_scores(labels, scores)))


def auprc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve as average precision; equal scores are one step.

    Args:
        labels: 1 tumor, 0 normal; shape (n,).
        scores: finite, shape (n,).

    Returns:
        The AUPRC, 0 to 1; chance is the share of tumor units.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*check_scores(labels, scores)))


def discriminate(
    table: pd.DataFrame,
    level: str,
    *,
    seed: int,
    bootstrap: int,
    permutations: int,
    confidence: float,
    with_auprc: bool = True,
) -> Discrimination:
    """Measure AUROC and AUPRC at a level, with intervals clustered by case and a permutation test.

    One rule decides: the interval of the AUROC includes 0.5 where the p-value of the permutation test
    is above 1 - confidence, and excludes it otherwise. Elsewhere it is that of `auroc_interval`. The two
    rarely disagree; where they do the test is right, since it holds at 0.5 with any number of cases.
    docs/statistics.md has simulations of both.

    The interval of the AUPRC has percentiles over draws of whole cases (cluster bootstrap), stratified by
    kind of case: tumor only, normal only, both. They shrink to a point at 1, so the interval is widened to
    include Wilson's, for the effective number of tumor cases.

    Args:
        table: one row per patch: case_id, slide_id, label (1 tumor, 0 normal), score.
        level: patch, slide or case; see `levels.at_level`.
        seed: of draws and permutations.
        bootstrap: number of draws of cases.
        permutations: number of permutations of labels; all are taken where there are no more.
        confidence: of the intervals, e.g. 0.95.
        with_auprc: whether to measure the AUPRC as well; its draws take most of the time.

    Returns:
        AUROC, AUPRC, p-value and counts; all numbers are finite.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    References:
        `auroc_interval.interval`, `permutation.against_chance` and `jackknife.areas` name theirs.
        Field and Welsh 2007, Journal of the Royal Statistical Society B 69:369-390 (cluster bootstrap).
        Wilson 1927, Journal of the American Statistical Association 22:209-212, used for the AUPRC
        after the binomial interval of Boyd, Eng and Page 2013, ECML PKDD, LNCS 8190:451-466.
        Kish 1965, Survey Sampling, Wiley, section 11.7 (effective number of cases).

    """
    units = at_level(table, level)
    clustered = CaseUnits.from_table(units)
    rng = np.random.default_rng(seed)
    drawn = clustered.draw(bootstrap, rng)
    labels, scores = units["label"].to_numpy(), units["score"].to_numpy()
    untested = auroc_with_interval(clustered, auroc(labels, scores), confidence)
    tested = permutation.against_chance(clustered, permutations, rng)
    average_precision = None
    if with_auprc:
        value = auprc(labels, scores)
        around = wilson(value, effective_count(clustered.sizes[:, 1]), confidence)
        bounds = _widened(clustered.auprcs(drawn), confidence, around)
        average_precision = AveragePrecision(value, *bounds, chance=float(labels.mean()))
    return Discrimination(
        auroc=agreeing(untested, tested.p_value, confidence),
        auprc=average_precision,
        p_value=tested.p_value,
        smallest_p=tested.smallest,
        counts=Counts(
            units=len(units),
            positive=int(labels.sum()),
            negative=int((1 - labels).sum()),
            cases=len(clustered.has),
            paired_cases=int(clustered.paired.sum()),
            slides=int(table["slide_id"].nunique()),
        ),
        untested=untested,
        draws=clustered.aurocs(drawn),
    )


def auroc_with_interval(units: CaseUnits, area: float, confidence: float) -> Estimate:
    """Add the interval of `auroc_interval` to an AUROC.

    Args:
        units: scored units of the cases.
        area: their AUROC.
        confidence: e.g. 0.95.

    Returns:
        The AUROC; its interval includes it.

    """
    low, high = auroc_interval.interval(units, confidence)
    # `area` has the pairs within a case too, the interval only those between cases
    return Estimate(area, min(low, area), max(high, area))


def agreeing(area: Estimate, p_value: float, confidence: float) -> Estimate:
    """Make the interval of an AUROC agree with the test: it includes 0.5 where the test does not reject that.

    Args:
        area: the AUROC with its interval.
        p_value: of the test.
        confidence: of the interval, e.g. 0.95.

    Returns:
        The AUROC with a bound moved to 0.5, or just beyond, where the two disagreed.

    """
    if not permutation.is_significant(p_value, confidence):
        return Estimate(area.value, min(area.low, CHANCE), max(area.high, CHANCE))
    if area.value > CHANCE:
        return Estimate(area.value, max(area.low, float(np.nextafter(CHANCE, 1))), area.high)
    return Estimate(area.value, area.low, min(area.high, float(np.nextafter(CHANCE, 0))))


def _widened(
    replicates: NDArray[np.float64], confidence: float, score_interval: tuple[float, float]
) -> tuple[float, float]:
    """Percentiles of the replicates, widened to include the score interval."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, (tail, 1 - tail))
    return float(min(low, score_interval[0])), float(max(high, score_interval[1]))


def roc(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """Compute the corners of the ROC curve; of more than 500, some that are evenly spaced along it, with both ends.

    Args:
        labels: 1 tumor, 0 normal; shape (n,).
        scores: finite, shape (n,).

    Returns:
        fpr, tpr, threshold: rising rates of the units that score at the threshold or above. The first
        threshold lies just above the highest score.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    """
    from sklearn.metrics import roc_curve

    labels, scores = check_scores(labels, scores)
    fpr, tpr, thresholds = roc_curve(labels, scores)
    thresholds[0] = np.nextafter(scores.max(), np.inf)
    if len(fpr) > MOST_POINTS:
        keep = np.searchsorted(fpr + tpr, np.linspace(0, 2, MOST_POINTS))
        keep = np.unique(keep.clip(max=len(fpr) - 1))
        fpr, tpr, thresholds = fpr[keep], tpr[keep], thresholds[keep]
    return pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": thresholds})


def roc_band(table: pd.DataFrame, level: str, seed: int, bootstrap: int, confidence: float) -> pd.DataFrame:
    """Compute the ROC curve with a pointwise band, by drawing whole cases.

    The band shows how the curve moves with the cases drawn. Where the scores separate the classes it
    shrinks to the curve, so quote the interval of the AUROC instead.

    Args:
        table: one row per patch: case_id, slide_id, label (1 tumor, 0 normal), score.
        level: patch, slide or case; see `levels.at_level`.
        seed: of the draws.
        bootstrap: number of draws of cases.
        confidence: of the band, e.g. 0.95.

    Returns:
        fpr (0, 0.01, ..., 1), tpr, low, high.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    """
    clustered = CaseUnits.from_table(at_level(table, level))
    observed = np.ones((1, len(clustered.has)), np.int64)
    drawn = np.concatenate([observed, clustered.draw(bootstrap, np.random.default_rng(seed))])
    curves = [
        np.interp(GRID, np.r_[0, normal] / normal[-1], np.r_[0, tumor] / tumor[-1])
        for tumors, normals in clustered.cumulative_counts(drawn)
        for tumor, normal in zip(tumors, normals, strict=True)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(curves[1:], (tail, 1 - tail), axis=0)
    low, high = np.minimum(low, curves[0]), np.maximum(high, curves[0])
    return pd.DataFrame({"fpr": GRID, "tpr": curves[0], "low": low, "high": high})
