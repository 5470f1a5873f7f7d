"""Deal cases or sites to splits or folds as a whole: every sample type in its share of cases, slides and patches.

First by numbers of cases (stratified). Then cases with the same sample types are swapped between splits, since one
case may have a hundred times the patches of another.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Split = TypeVar("Split", bound=Hashable)  # the name of a split, or the number of a fold
COUNTED = ("cases", "slides", "patches")
TOLERANCE = 0.1  # a share that differs by more from the share asked for is searched for longer, and reported
CLOSE = 0.02  # the search ends where no share differs by more; so another seed still gives another split
STARTS = 30  # of either search, at most, while a share is off by more than the tolerance ...
MOST_RESTARTED = 100  # ... and for no more units: with more of them, swaps from one start are enough
SHAKES = 3  # random exchanges before the wider search starts again
STEPS = 200  # swaps from one start, at most
CANDIDATES = 4000  # of a step, at most


@dataclass(frozen=True)
class Units:
    """What is assigned as a whole: cases, or sites.

    Attributes:
        names: sorted.
        sample_types: sorted.
        counts: int64, shape (units, sample types, 3): cases, slides and patches.

    """

    names: list[str]
    sample_types: list[str]
    counts: NDArray[np.int64]

    @property
    def cases(self) -> NDArray[np.int64]:
        """Cases, shape (units, sample types)."""
        return self.counts[:, :, 0]


def deal(units: Units, shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Assign units to splits.

    Args:
        units: at least as many of each sample type as there are splits.
        shares: asked for; they sum to 1. Where two splits are equally entitled to a case, the first of them gets it.
        seed: of the order in which equal units are assigned, and of the search.

    Returns:
        The split of each unit; every split has every sample type. For no sample type and split, the share of cases,
        slides or patches differs more from the share asked for than the largest such difference before the search.

    """
    splits = list(shares)
    by_cases = _stratified(units, shares, seed)
    start = np.array([splits.index(by_cases[name]) for name in units.names])
    search = _Search(units, np.array(list(shares.values())), np.random.default_rng([seed, 1]))
    return {name: splits[number] for name, number in zip(units.names, search.best(start), strict=True)}


def whole(cases: int, shares: Mapping[Split, float]) -> dict[Split, int]:
    """Divide cases in whole numbers (largest remainders).

    Args:
        cases: at least as many as there are splits.
        shares: of the splits; at a tie the first one gets a case.

    Returns:
        Cases per split, at least one each.

    """
    exact = {split: cases * share for split, share in shares.items()}
    number = {split: max(1, int(count)) for split, count in exact.items()}
    splits = list(shares)
    while sum(number.values()) != cases:
        step = 1 if sum(number.values()) < cases else -1
        able = [split for split in splits if step > 0 or number[split] > 1]
        number[max(able, key=lambda split: (step * (exact[split] - number[split]), -step * splits.index(split)))] += (
            step
        )
    return number


def _stratified(units: Units, shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Assign units to splits by iterative stratification, in numbers of cases.

    Sechidis, Tsoumakas and Vlahavas 2011, ECML PKDD, LNCS 6913:145-158, over the sample types
    that a unit has, so that a case with tumor and normal slides counts for both. The rarest
    type is assigned first, each unit to the split that lacks the largest share of its target.
    An empty split lacks the most: so every split gets each type, if there are enough units of it.
    """
    names = units.sample_types
    cases_of = [
        (unit, {name: int(count) for name, count in zip(names, row, strict=True) if count})
        for unit, row in zip(units.names, units.cases, strict=True)
    ]
    left = dict(cases_of[i] for i in np.random.default_rng(seed).permutation(len(cases_of)))
    targets = {name: whole(int(total), shares) for name, total in zip(names, units.cases.sum(axis=0), strict=True)}
    lacking = {name: dict(target) for name, target in targets.items()}
    assigned: dict[str, Split] = {}

    def shares_lacking(split: Split, types: Iterable[str]) -> list[float]:
        # in proportion: by number alone, training would take all the first cases
        return [lacking[name][split] / targets[name][split] for name in types]

    while left:
        counts = {name: sum(name in cases for cases in left.values()) for name in names}
        rarest = min((name for name in names if counts[name]), key=lambda name: (counts[name], name))
        # units of several types first, and then large ones: they are the hardest to assign
        for unit in sorted((u for u in left if rarest in left[u]), key=lambda u: (-len(left[u]), -left[u][rarest])):
            cases = left.pop(unit)
            types = [rarest, *sorted(set(cases) - {rarest})]
            split = max(shares, key=partial(shares_lacking, types=types))
            assigned[unit] = split
            for name in types:
                lacking[name][split] -= cases[name]
    return assigned


class _Search:
    """A seeded local search for the assignment whose largest deviation from the shares asked for is least.

    Assignments are compared by their largest deviation, then by the next largest, and so on. So one case too large
    for any split does not keep the others from being balanced.
    """

    def __init__(self, units: Units, shares: NDArray[np.float64], rng: np.random.Generator):
        has = units.cases > 0
        # a last row of zeros: what moves in exchange for nothing
        self._has = np.vstack([has, np.zeros((1, has.shape[1]), bool)]).astype(np.int64)
        parts = (units.counts / units.counts.sum(axis=0)).reshape(len(has), -1)
        self._parts = np.vstack([parts, np.zeros((1, parts.shape[1]))])
        self._kinds = np.unique(has, axis=0, return_inverse=True)[1].reshape(-1)
        self._shares, self._rng = shares, rng

    def best(self, start: NDArray[np.int64]) -> NDArray[np.int64]:
        """Search from a start; while a share is off by more than the tolerance, from other starts, and wider."""
        found = self._descend(start, self._kinds)
        if len(start) > MOST_RESTARTED:
            return found
        for _ in range(1, STARTS):
            if self._off(found).max() <= TOLERANCE:
                return found
            found = min(found, self._descend(self._shuffled(start), self._kinds), key=self._rank)
        for number in range(STARTS):
            if self._off(found).max() <= TOLERANCE:
                break
            # other numbers of cases than those asked for, as far as that lessens the largest deviation
            found = min(found, self._descend(self._shaken(found) if number else found, None), key=self._rank)
        return found

    def _off(self, assigned: NDArray[np.int64]) -> NDArray[np.float64]:
        """Deviation of each split and share, shape (splits, shares)."""
        return _distance(self._totals(assigned) - self._shares[:, None])

    def _totals(self, assigned: NDArray[np.int64]) -> NDArray[np.float64]:
        totals = np.zeros((len(self._shares), self._parts.shape[1]))
        np.add.at(totals, assigned, self._parts[:-1])
        return totals

    def _rank(self, assigned: NDArray[np.int64]) -> list[float]:
        return list(_ranked(self._off(assigned)[None])[0])

    def _shuffled(self, start: NDArray[np.int64]) -> NDArray[np.int64]:
        """Exchange the splits of units of the same kind at random."""
        shuffled = start.copy()
        for kind in range(self._kinds.max() + 1):
            members = np.flatnonzero(self._kinds == kind)
            shuffled[members] = self._rng.permutation(start[members])
        return shuffled

    def _shaken(self, assigned: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take a few exchanges at random."""
        shaken = assigned.copy()
        for _ in range(SHAKES):
            one, other, to = self._exchanges(shaken)
            if len(one):
                pick = self._rng.integers(len(one))
                self._exchange(shaken, int(one[pick]), int(other[pick]), int(to[pick]))
        return shaken

    def _exchange(self, assigned: NDArray[np.int64], one: int, other: int, to: int) -> None:
        """Move a unit to a split in exchange for another unit, or for nothing; in place."""
        if other < len(assigned):
            assigned[other] = assigned[one]
        assigned[one] = to

    def _descend(self, start: NDArray[np.int64], kinds: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Take the best of the possible exchanges, until none helps.

        Args:
            start: number of the split of each unit.
            kinds: of the units; only units of the same kind are swapped. None: any two units are, and a unit may also
                move alone, as long as every split keeps every sample type.

        """
        assigned = start.copy()
        for _ in range(STEPS):
            beyond = self._totals(assigned) - self._shares[:, None]
            now = _distance(beyond)
            # whole cases rarely give the exact shares; patches and slides need not be nearer to them than cases are
            if now.max() <= min(max(now[:, :: len(COUNTED)].max(), CLOSE), TOLERANCE):
                break
            one, other, to = self._swaps(assigned, kinds) if kinds is not None else self._exchanges(assigned)
            if not len(one):
                break
            change, each = self._parts[one] - self._parts[other], np.arange(len(one))
            after = np.repeat(now[None], len(one), axis=0)
            after[each, assigned[one]] = np.abs(beyond[assigned[one]] - change)
            after[each, to] = np.abs(beyond[to] + change)
            ranks = _ranked(after)
            best = _least(ranks)
            if ranks[best].tolist() >= _ranked(now[None])[0].tolist():
                break
            self._exchange(assigned, int(one[best]), int(other[best]), int(to[best]))
        return assigned

    def _swaps(self, assigned: NDArray[np.int64], kinds: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """List pairs of units of the same kind in two splits, and the split that the first of them gets."""
        order = np.argsort(kinds, kind="stable")
        sizes = np.bincount(kinds)
        if (sizes * (sizes - 1) // 2).sum() <= CANDIDATES:
            one, other = np.triu_indices(len(kinds), 1)
            same = kinds[one] == kinds[other]
            one, other = one[same], other[same]
        else:
            first = np.cumsum(sizes) - sizes
            one = self._rng.integers(0, len(kinds), CANDIDATES)
            other = order[first[kinds[one]] + self._rng.integers(0, sizes[kinds[one]])]
        apart = assigned[one] != assigned[other]
        return one[apart], other[apart], assigned[other[apart]]

    def _exchanges(self, assigned: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """List swaps of any two units and moves of one, after which every split still has every sample type."""
        nothing, splits = len(assigned), len(self._shares)
        one, other, to = self._swaps(assigned, np.zeros(nothing, np.int64))
        movable = np.arange(nothing) if nothing * splits <= CANDIDATES else self._rng.integers(0, nothing, CANDIDATES)
        moved, target = np.repeat(movable, splits), np.tile(np.arange(splits), len(movable))
        moved, target = moved[assigned[moved] != target], target[assigned[moved] != target]
        one, other = np.concatenate([one, moved]), np.concatenate([other, np.full(len(moved), nothing)])
        to = np.concatenate([to, target])
        units = np.zeros((splits, self._has.shape[1]), np.int64)
        np.add.at(units, assigned, self._has[:-1])
        change = self._has[one] - self._has[other]
        kept = ((units[assigned[one]] - change > 0) & (units[to] + change > 0)).all(axis=1)
        return one[kept], other[kept], to[kept]


def _distance(beyond: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round away what floating point adds to a deviation: ten points are ten points, in whatever order summed."""
    return np.abs(beyond).round(12)


def _ranked(off: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sort the deviations of each assignment, shape (n, splits, shares): largest first, rounded to be comparable."""
    return np.round(-np.sort(-off.reshape(len(off), -1), axis=1), 12)


def _least(ranks: NDArray[np.float64]) -> int:
    """Find the first of the rows that are least, compared from left to right."""
    rows = np.arange(len(ranks))
    for column in ranks.T:
        rows = rows[column[rows] == column[rows].min()]
        if len(rows) == 1:
            break
    return int(rows[0])
