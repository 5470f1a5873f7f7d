"""Comparisons within pairs: of a case's tumor with its own normal tissue, and of two scores of the same cases."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.statistics.intervals import Estimate, wilson
from histocae.statistics.levels import at_level


@dataclass(frozen=True)
class PairedCases:
    """How often the tumor of a case scores above the normal tissue of the same case.

    Attributes:
        cases: that have both tissues.
        above: those whose tumor scores above their normal tissue.
        equal: those whose tissues score the same.
        share: `above` of all, equal ones counting half, with its interval.
        p_value: of the sign test, two-sided; equal ones do not count.
        smallest_p: the smallest p-value that so many cases allow.

    """

    cases: int
    above: int
    equal: int
    share: Estimate
    p_value: float
    smallest_p: float

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object, with the attributes as keys."""
        return {
            "cases": self.cases,
            "above": self.above,
            "equal": self.equal,
            "share": self.share.as_json(),
            "p_value": self.p_value,
            "smallest_p": self.smallest_p,
        }


def within_cases(table: pd.DataFrame, confidence: float) -> PairedCases | None:
    """Compare the mean score of each case's tumor slides with that of its normal slides.

    Args:
        table: one row per patch: case_id, slide_id, label (1 tumor, 0 normal), score.
        confidence: of the interval of the share, e.g. 0.95.

    Returns:
        The comparison; None where no case has both tissues.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    References:
        Dixon and Mood 1946, Journal of the American Statistical Association 41:557-566 (sign test).
        Wilson 1927, Journal of the American Statistical Association 22:209-212 (interval of the share).

    """
    from scipy.stats import binomtest

    scores = at_level(table, "case").pivot(index="case_id", columns="label", values="score").dropna()
    if scores.empty:
        return None
    differences = (scores[1] - scores[0]).to_numpy()
    cases, above, equal = len(differences), int((differences > 0).sum()), int((differences == 0).sum())
    share = (above + equal / 2) / cases
    return PairedCases(
        cases=cases,
        above=above,
        equal=equal,
        share=Estimate(share, *wilson(share, cases, confidence)),
        p_value=float(binomtest(above, cases - equal).pvalue) if equal < cases else 1.0,
        smallest_p=min(1.0, 2.0 ** (1 - cases)),
    )


def difference(first: Estimate, second: Estimate, draws: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Estimate:
    """Subtract one AUROC from another of the same cases.

    The interval combines those of the two AUROCs by the method of variance estimates recovery (MOVER), with the
    correlation that they have over the same draws of cases.

    Args:
        first: an AUROC with its interval.
        second: the AUROC of another score.
        draws: both AUROCs in each draw of cases, float64, shape (draws,) each.

    Returns:
        The first less the second.

    References:
        Zou 2007, Psychological Methods 12:399-413 (MOVER for correlated estimates).

    """
    spreads = [values.std() for values in draws]
    # where a score separates the tissues in every draw, nothing is known of a correlation
    correlation = float(np.corrcoef(*draws)[0, 1]) if min(spreads) > 0 else 0.0
    value = first.value - second.value

    def reach(one: float, other: float) -> float:
        return float(np.sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other)))

    low = value - reach(first.value - first.low, second.high - second.value)
    high = value + reach(first.high - first.value, second.value - second.low)
    return Estimate(value, max(-1.0, low), min(1.0, high))
