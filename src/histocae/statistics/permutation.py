"""Is the AUROC of these cases one that labels without information would give? A permutation test by case.

Under that hypothesis the labels of a paired case, one with both tissues, may be swapped, and the
labels of the other cases shuffled among them. A case moves with all its units.

The AUROC itself would make this a test of equal distributions: where a few normal cases spread farther than many
tumor cases, it rejects an AUROC of 0.5 far too often. Each AUROC is therefore studentized, divided by its own
standard error, and referred to the t distribution with its own degrees of freedom, because few cases of one tissue
make that error uncertain.
"""

import math
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit, stdtr

from histocae.statistics import jackknife
from histocae.statistics.resampling import CaseUnits

CHANCE = 0.5  # the AUROC of scores that carry no information
# of an AUROC and of its variance, as far as the test takes them apart: at an AUROC of 1 the variance is 0
LEAST_DISTANCE, LEAST_VARIANCE = 1e-3, 1e-8
ROUNDING = 1e-9  # two AUROCs, or p-values, that differ by less are equal
_CHUNK = 1_000_000  # labels of blocks at once: 8 MB for each array


@dataclass(frozen=True)
class Permutations:
    """The result of a permutation test.

    Attributes:
        p_value: two-sided.
        smallest: the smallest p-value that the cases allow, however well the scores separate them.

    """

    p_value: float
    smallest: float


def is_significant(p_value: float, confidence: float) -> bool:
    """Decide whether a p-value is small enough: at most 1 - confidence.

    Args:
        p_value: 0 to 1.
        confidence: e.g. 0.95. For 0.9, 1 - confidence comes out as 0.09999999999999998, so rounding is allowed for.

    Returns:
        Whether it is.

    """
    return p_value <= 1 - confidence + ROUNDING


def count_assignments(units: CaseUnits) -> int:
    """Count the ways to give the cases their labels: swaps of paired cases times shuffles of the others.

    Args:
        units: scored units of the cases.

    Returns:
        Their number, at least 1.

    """
    tumors, normals = _single(units)
    return int(2 ** int(units.paired.sum()) * math.comb(tumors + normals, tumors))


def against_chance(units: CaseUnits, permutations: int, rng: np.random.Generator) -> Permutations:
    """Test whether the AUROC is 0.5.

    Args:
        units: scored units of the cases.
        permutations: how many ways to give the labels are drawn; where there are no more ways than that, each is
            taken once, and the p-value is exact.
        rng: source of randomness.

    Returns:
        The p-value, and the smallest possible.

    References:
        Neubert and Brunner 2007, Computational Statistics and Data Analysis 51:5192-5204, and Pauly, Asendorf and
        Konietschke 2016, Biometrical Journal 58:1319-1337 (studentized permutation tests of the AUROC).
        Beran 1988, Journal of the American Statistical Association 83:687-697 (a p-value as the statistic).
        Phipson and Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39 (p-values of random
        permutations are not zero).

    """
    ways = count_assignments(units)
    tumors, normals = _single(units)
    # the opposite order of the tissues is as extreme; paired and unequally many single cases may not allow it
    smallest = (2 if tumors == normals or not units.paired.any() else 1) / ways
    observed = _p_values(units, _own_labels(units))[0]
    bound = observed * (1 + ROUNDING)
    if ways <= permutations:
        among = _p_values(units, _all_assignments(units))
        return Permutations(float((among <= bound).mean()), min(1.0, smallest))
    among = _p_values(units, _random_assignments(units, permutations, rng))
    p_value = (1 + int((among <= bound).sum())) / (1 + permutations)
    return Permutations(p_value, max(smallest, 1 / (1 + permutations)))


def _single(units: CaseUnits) -> tuple[int, int]:
    """Count the cases with tumor only, and those with normal tissue only."""
    single = ~units.paired
    return int((units.has[:, 1] & single).sum()), int((units.has[:, 0] & single).sum())


class _Ways(NamedTuple):
    """Ways to give the labels.

    Attributes:
        swaps: bool, shape (ways, paired cases): whether the labels of a paired case are swapped.
        shuffles: bool, shape (ways, other cases): whether the case counts as tumor.

    """

    swaps: NDArray[np.bool_]
    shuffles: NDArray[np.bool_]


def _own_labels(units: CaseUnits) -> _Ways:
    """Give the labels as they are."""
    return _Ways(np.zeros((1, int(units.paired.sum())), bool), units.has[~units.paired, 1][None])


def _all_assignments(units: CaseUnits) -> _Ways:
    """List every way to give the labels."""
    paired, (tumors, normals) = int(units.paired.sum()), _single(units)
    swaps = np.array(list(product((False, True), repeat=paired)), bool).reshape(2**paired, paired)
    chosen = list(combinations(range(tumors + normals), tumors))
    shuffles = np.zeros((len(chosen), tumors + normals), bool)
    np.put_along_axis(shuffles, np.array(chosen, np.int64).reshape(len(chosen), tumors), True, axis=1)
    return _Ways(np.repeat(swaps, len(shuffles), axis=0), np.tile(shuffles, (len(swaps), 1)))


def _random_assignments(units: CaseUnits, count: int, rng: np.random.Generator) -> _Ways:
    """Draw ways to give the labels."""
    swaps = rng.random((count, int(units.paired.sum()))) < 0.5
    return _Ways(swaps, rng.permuted(np.tile(units.has[~units.paired, 1], (count, 1)), axis=1))


def _blocks(units: CaseUnits, swaps: NDArray[np.bool_], shuffles: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give the labels of blocks; float64, shape (ways, blocks), 1 where a block counts as tumor."""
    tumor = np.zeros((len(swaps), len(units.has), 2))
    paired, single = np.flatnonzero(units.paired), np.flatnonzero(~units.paired)
    tumor[:, paired, 0], tumor[:, paired, 1] = swaps, ~swaps
    # a single case has one block, under its own label; the shuffle decides whether it counts as tumor
    tumor[:, single, units.has[single, 1].astype(int)] = shuffles
    return tumor.reshape(len(swaps), -1)[:, units.blocks]


def _p_values(units: CaseUnits, ways: _Ways) -> NDArray[np.float64]:
    """Compute the p-value of the t distribution for each way to give the labels; float64, shape (ways,).

    The AUROC is compared on the scale of its logit, where its distribution is less skewed.
    """
    p_values = np.empty(len(ways.swaps))
    step = max(1, _CHUNK // len(units.blocks))
    for start in range(0, len(p_values), step):
        part = slice(start, start + step)
        area = _areas(units, _blocks(units, ways.swaps[part], ways.shuffles[part]))
        value = area.value.clip(LEAST_DISTANCE, 1 - LEAST_DISTANCE)
        error = np.sqrt(np.maximum(area.variance, LEAST_VARIANCE)) / (value * (1 - value))
        distance = np.where(np.abs(area.value - CHANCE) < ROUNDING, 0.0, np.abs(logit(value)))
        p_values[part] = 2 * stdtr(area.degrees, -distance / error)
    return p_values


def _areas(units: CaseUnits, tumor: NDArray[np.float64]) -> jackknife.Areas:
    """Compute the AUROC of each way to give the labels, over all pairs of units."""
    normal, sizes = 1 - tumor, units.sizes.ravel()[units.blocks]
    cases = units.blocks // 2
    starts = np.flatnonzero(np.diff(cases, prepend=-1))

    def of_cases(of_blocks: NDArray[np.float64]) -> NDArray[np.float64]:
        summed: NDArray[np.float64] = np.add.reduceat(of_blocks, starts, axis=1)
        return summed

    tumors, normals = of_cases(tumor * sizes), of_cases(normal * sizes)
    all_tumors, all_normals = tumors.sum(axis=1, keepdims=True), normals.sum(axis=1, keepdims=True)
    above_normal = normal @ units.wins.T
    by_tumor = above_normal * tumor
    # each pair is won once: what a block loses to tumor blocks follows from what it wins against normal ones
    by_normal = (all_tumors * sizes - units.wins.sum(axis=1) + above_normal) * normal
    # the pairs within a case are part of what both its blocks win, and are taken away once
    within = np.zeros(len(cases))
    first = np.flatnonzero(cases[1:] == cases[:-1])
    within[first], within[first + 1] = units.wins[first, first + 1], units.wins[first + 1, first]
    by_case = of_cases(by_tumor + by_normal - within * tumor)
    won = np.concatenate([by_case, by_tumor.sum(axis=1, keepdims=True)], axis=1)
    pairs = np.concatenate(
        [tumors * all_normals + normals * all_tumors - tumors * normals, all_tumors * all_normals], axis=1
    )
    return jackknife.areas(won, pairs, tumors, normals)
