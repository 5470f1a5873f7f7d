"""Draws of whole cases, with the AUROCs and AUPRCs that they give.

Patches of a slide and slides of a case are alike. Draws therefore take whole cases, whatever the level of the scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_CHUNK = 200_000  # weights at once where each draw weighs each unit: this number fits a processor's cache


@dataclass(frozen=True)
class CaseUnits:
    """Scored units sorted from the highest score to the lowest, and the cases that they belong to.

    A block is the units of one case with one label. A paired case, one that has both tissues, has
    two blocks, each other case one.

    Attributes:
        scores: float64, shape (units,).
        labels: int8, shape (units,): 1 tumor, 0 normal.
        cases: int64, shape (units,): the number of each unit's case, from 0.
        has: bool, shape (cases, 2): whether a case has normal units (column 0) and tumor units (1).

    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int8]
    cases: NDArray[np.int64]
    has: NDArray[np.bool_]

    @classmethod
    def from_table(cls, units: pd.DataFrame) -> "CaseUnits":
        """Sort the rows of a table of units: case_id, label, score; see `levels.at_level`."""
        order = np.argsort(-units["score"].to_numpy(), kind="stable")
        codes, names = pd.factorize(units["case_id"], sort=True)
        labels = units["label"].to_numpy()
        has = np.zeros((len(names), 2), bool)
        has[codes, labels] = True
        return cls(units["score"].to_numpy()[order], labels[order], codes[order], has)

    @property
    def paired(self) -> NDArray[np.bool_]:
        """Whether each case has both tissues; bool, shape (cases,)."""
        both: NDArray[np.bool_] = np.asarray(self.has.all(axis=1))
        return both

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """Units per case and label; float64, shape (cases, 2)."""
        return np.bincount(2 * self.cases + self.labels, minlength=2 * len(self.has)).reshape(-1, 2).astype(float)

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """Numbers of the blocks that exist, 2 * case + label; int64, shape (blocks,)."""
        return np.flatnonzero(self.has.ravel())

    @cached_property
    def wins(self) -> NDArray[np.float64]:
        """How often a unit of one block scores above a unit of another; ties count half.

        Returns:
            float64, shape (blocks, blocks), in the order of `blocks`. Sums of these are AUROCs.

        """
        total = len(self.blocks)
        position = np.full(2 * len(self.has), -1)
        position[self.blocks] = np.arange(total)
        wins = np.zeros((total, total))
        upward, blocks = self.scores[::-1], position[2 * self.cases + self.labels][::-1]
        for block in range(total):
            beaten = upward[blocks == block]
            below = np.searchsorted(beaten, upward, "left") + np.searchsorted(beaten, upward, "right")
            wins[:, block] = np.bincount(blocks, below / 2, minlength=total)
        return wins

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw whole cases with replacement, separately for tumor only, normal only and paired cases.

        Each kind keeps its number of cases, so that every draw has both classes.

        Args:
            count: number of draws.
            rng: source of randomness.

        Returns:
            int64, shape (count, cases): how often each case was drawn.

        """
        drawn = np.zeros((count, len(self.has)), np.int64)
        kinds = self.has @ (1, 2)
        for kind in (1, 2, 3):
            members = np.flatnonzero(kinds == kind)
            if len(members):
                drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), count)
        return drawn

    def aurocs(self, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        """AUROC of each draw of cases.

        Args:
            drawn: int64, shape (draws, cases); see `draw`.

        Returns:
            float64, shape (draws,).

        """
        cases, labels = np.divmod(self.blocks, 2)
        tumors, normals = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        tumor_weights, normal_weights = drawn[:, cases[tumors]], drawn[:, cases[normals]]
        won = ((tumor_weights @ self.wins[np.ix_(tumors, normals)]) * normal_weights).sum(axis=1)
        areas: NDArray[np.float64] = won / ((drawn @ self.sizes[:, 0]) * (drawn @ self.sizes[:, 1]))
        return areas

    def cumulative_counts(
        self, drawn: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Count the tumor and normal units at or above each distinct score, in each draw of cases.

        Args:
            drawn: int64, shape (draws, cases); see `draw`.

        Yields:
            Counts of tumor units and of normal units, float64, shape (draws, distinct scores) each,
            for a chunk of draws at a time.

        """
        ends = np.flatnonzero(np.r_[np.diff(self.scores) != 0, True])
        step = max(1, _CHUNK // len(self.scores))
        for start in range(0, len(drawn), step):
            weights = drawn[start : start + step][:, self.cases].astype(np.float64)
            tumors = np.cumsum(weights * self.labels, axis=1)[:, ends]
            yield tumors, np.cumsum(weights, axis=1)[:, ends] - tumors

    def auprcs(self, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        """Average precision of each draw of cases.

        Args:
            drawn: int64, shape (draws, cases); see `draw`.

        Returns:
            float64, shape (draws,).

        """
        areas = []
        for tumors, normals in self.cumulative_counts(drawn):
            # where no unit is drawn yet there is no precision, and no step either
            precision = tumors / np.maximum(tumors + normals, 1)
            steps = np.diff(tumors, axis=1, prepend=0)
            areas.append((steps * precision).sum(axis=1) / tumors[:, -1])
        return np.concatenate(areas)
