"""The confidence interval of an AUROC of few cases: which true AUROCs would make these data likely?

For each possible AUROC the tumor scores are shifted until the data have it, and the variance is
estimated there. The variance at the observed AUROC alone is too small where it matters: near 1 few
cases show any, at 1 none does.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from histocae.statistics import jackknife
from histocae.statistics.resampling import CaseUnits

Floats = NDArray[np.float64]
PRECISION = 1e-3  # of a bound
# of the search for a bound, which may end in a jump: there, units of both tissues change places
MOST_STEPS = 20
FAR = 1.618  # times the range of scores: a shift that the search starts from; a simple fraction could make scores tie
MOST_CASES = 50  # with more of them `jackknife.interactions` are a few hundredths of the variance, and take long


class Reached(NamedTuple):
    """The AUROC at a shift of the tumor scores.

    Attributes:
        value: AUROC over pairs of units of different cases.
        margin: how far from a true AUROC of this value an observed one may be: the standard error of AUROCs there
            times the quantile of Student's t.

    """

    value: float
    margin: float

    def excess(self, observed: float) -> float:
        """By how much an observed AUROC is farther away than the margin; at most 0: it is a likely result."""
        return abs(self.value - observed) - self.margin


class _Ranks(NamedTuple):
    """Ranks of scores among others.

    Attributes:
        below: how many of the others are below each score.
        not_above: how many are below, or equal.

    """

    below: NDArray[np.intp]
    not_above: NDArray[np.intp]

    @property
    def middle(self) -> Floats:
        """How many are below each score; equal ones count half."""
        middle: Floats = (self.below + self.not_above) / 2
        return middle


@dataclass(frozen=True)
class _Tissues:
    """The scores of both tissues, and the quantile's probability.

    Attributes:
        tumor: float64, shape (tumor units,), rising.
        normal: float64, shape (normal units,), rising.
        tumor_cases: int64, shape (tumor units,): the number of each unit's case, from 0.
        normal_cases: int64, shape (normal units,).
        sizes: float64, shape (cases, 2): normal and tumor units of each case.
        quantile: of Student's t, e.g. 0.975.

    """

    tumor: Floats
    normal: Floats
    tumor_cases: NDArray[np.int64]
    normal_cases: NDArray[np.int64]
    sizes: Floats
    quantile: float

    @cached_property
    def normal_by_case(self) -> NDArray[np.int64]:
        """Positions of the normal units, each after those of the cases before; rising, shape (normal units,)."""
        return np.sort(self.normal_cases * (len(self.normal) + 1) + np.arange(len(self.normal)))

    @cached_property
    def in_paired(self) -> NDArray[np.intp]:
        """Positions of the tumor units whose case has normal units too."""
        return np.flatnonzero(self.sizes[self.tumor_cases, 0] > 0)

    def within(self, ranks: _Ranks) -> Floats:
        """Count, for each case, its pairs in which the tumor unit scores higher; float64, shape (cases,)."""
        cases = self.tumor_cases[self.in_paired]
        if not len(cases):
            return np.zeros(len(self.sizes))
        before = np.cumsum(self.sizes[:, 0]) - self.sizes[:, 0]
        # positions among all normal units, not sums of scores, keep the cases apart: they are exact
        below, not_above = (
            np.searchsorted(self.normal_by_case, cases * (len(self.normal) + 1) + positions[self.in_paired])
            for positions in ranks
        )
        above = (below + not_above) / 2 - before[cases]
        return np.bincount(cases, above, len(self.sizes)).astype(np.float64, copy=False)

    @cached_property
    def pairs(self) -> Floats:
        """Pairs of units of different cases, for each case those that it is part of, and all."""
        normals, tumors = self.sizes.T
        own = tumors * (normals.sum() - normals) + normals * (tumors.sum() - tumors)
        pairs: Floats = np.r_[own, tumors.sum() * normals.sum() - (tumors * normals).sum()]
        return pairs

    def at(self, shift: float) -> Reached:
        """Compute the AUROC, and how certain it is, once a number is added to all tumor scores."""
        tumor, cases = self.tumor + shift, len(self.sizes)
        of_tumor, of_normal = _rank(self.normal, tumor), _rank(tumor, self.normal)
        within = self.within(of_tumor)
        by_tumor = np.bincount(self.tumor_cases, of_tumor.middle, cases) - within
        above = len(tumor) - of_normal.middle
        by_normal = np.bincount(self.normal_cases, above, cases) - within
        won = np.r_[by_tumor + by_normal, by_tumor.sum()]
        area = jackknife.areas(won, self.pairs, self.sizes[:, 1], self.sizes[:, 0])
        return Reached(float(area.value), self.margin(area, of_tumor))

    def margin(self, area: jackknife.Areas, of_tumor: _Ranks) -> float:
        """Compute how far from a true AUROC of this value an observed one may be."""
        value, variance, degrees = float(area.value), float(area.variance), float(area.degrees)
        if variance == 0:
            return 0.0
        if len(self.sizes) <= MOST_CASES:
            # interactions are at most half of the variance; the less they leave, the less certain is what they leave
            share = max(0.5, 1 - jackknife.interactions(self.won_by_cases(of_tumor), self.pairs_by_cases) / variance)
            variance, degrees = variance * share, max(1.0, degrees * share)
        # The scores were shifted to have exactly this AUROC, and those drawn where it is the true one have it only on
        # average. For a proportion p this turns p (1 - p) / (n - 1) into p (1 - p) / n, as in Wilson's interval.
        variance /= 1 + variance / (value * (1 - value))
        return float(np.sqrt(variance) * stdtrit(degrees, self.quantile))

    def won_by_cases(self, of_tumor: _Ranks) -> Floats:
        """Count the pairs of each two cases in which the tumor unit scores higher; shape (cases, cases)."""
        order, starts, present = self.tumor_by_case
        below, not_above = (self.normals_before[positions[order]] for positions in of_tumor)
        won = np.zeros((len(self.sizes), len(self.sizes)))
        won[present] = np.add.reduceat((below + not_above) / 2, starts, axis=0)
        np.fill_diagonal(won, 0.0)
        return won

    @cached_property
    def pairs_by_cases(self) -> Floats:
        """Count the pairs of each two cases: tumor units of a row's, normal units of a column's."""
        pairs = np.outer(self.sizes[:, 1], self.sizes[:, 0])
        np.fill_diagonal(pairs, 0.0)
        return pairs

    @cached_property
    def tumor_by_case(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
        """Sort tumor units by case: their order, where each case begins, and the cases."""
        order = np.argsort(self.tumor_cases, kind="stable")
        present, starts = np.unique(self.tumor_cases[order], return_index=True)
        return order, starts, present

    @cached_property
    def normals_before(self) -> Floats:
        """Count the normal units of each case below a rank; float64, shape (normal units + 1, cases)."""
        before = np.zeros((len(self.normal) + 1, len(self.sizes)))
        before[np.arange(1, len(before)), self.normal_cases] = 1
        return np.cumsum(before, axis=0, out=before)


def interval(units: CaseUnits, confidence: float) -> tuple[float, float]:
    """Compute the confidence interval of an AUROC, clustered by case.

    The interval has the AUROCs that a test would not reject, each tested with the variance that the
    data have there. It is that of a tumor unit against a normal unit of another case.

    Args:
        units: scored units of the cases.
        confidence: e.g. 0.95.

    Returns:
        The lower and the upper bound, to 0.001; 0 and 1 where a tissue has one case only, or there are two cases
        only, which says nothing about other cases.

    References:
        Wilson 1927, Journal of the American Statistical Association 22:209-212, is the same idea for a proportion.
        `jackknife.areas` gives the sources of the variance.

    """
    if len(units.has) < 3 or units.has.sum(axis=0).min() < 2:  # without one of two cases no pair is left
        return 0.0, 1.0
    order = np.argsort(units.scores, kind="stable")
    scores, labels, cases = _centered(units.scores[order]), units.labels[order], units.cases[order]
    tumor = labels == 1
    tissues = _Tissues(scores[tumor], scores[~tumor], cases[tumor], cases[~tumor], units.sizes, 0.5 + confidence / 2)
    observed = tissues.at(0.0)
    reach = FAR * max(float(scores[-1] - scores[0]), np.spacing(np.abs(scores).max()))
    low, high = (_bound(tissues, observed, far) for far in (-reach, reach))
    return min(low, observed.value), max(high, observed.value)


def _bound(tissues: _Tissues, observed: Reached, far: float) -> float:
    """Find the AUROC farthest from the observed one, in the direction of a shift, that is not rejected."""
    near, inner, outer = 0.0, observed, tissues.at(far)
    if outer.excess(observed.value) <= 0:
        return outer.value
    for _ in range(MOST_STEPS):
        if abs(inner.value - outer.value) <= PRECISION:
            break
        middle = (near + far) / 2
        reached = tissues.at(middle)
        if reached.excess(observed.value) <= 0:
            near, inner = middle, reached
        else:
            far, outer = middle, reached
    if inner.margin == outer.margin == 0:  # all scores of a tissue are equal: the data do not limit the AUROC here
        return outer.value
    # in a jump of the AUROC the excess is taken to be linear
    share = inner.excess(observed.value) / (inner.excess(observed.value) - outer.excess(observed.value))
    return inner.value + share * (outer.value - inner.value)


def _centered(rising: Floats) -> Floats:
    """Subtract the median where that is exact: scores far from 0 leave too few digits for small shifts."""
    median = rising[len(rising) // 2]
    centered: Floats = rising - median
    return centered if np.array_equal(centered + median, rising) else rising


def _rank(rising: Floats, scores: Floats) -> _Ranks:
    """Rank scores among rising ones."""
    return _Ranks(np.searchsorted(rising, scores, "left"), np.searchsorted(rising, scores, "right"))
