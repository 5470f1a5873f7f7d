"""Estimates with confidence intervals by formula: of a proportion, of a mean clustered by case."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    Attributes:
        value: the estimate.
        low: lower bound of the interval.
        high: upper bound of the interval.

    """

    value: float
    low: float
    high: float

    def includes(self, value: float) -> bool:
        """Whether the confidence interval includes a value."""
        return self.low <= value <= self.high

    def as_json(self) -> dict[str, float]:
        """Give the JSON object: value, low, high."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class ClusteredMean:
    """A mean over patches with a confidence interval clustered by case.

    Attributes:
        value: the mean.
        low: lower bound of the interval; None where all values are of one case.
        high: upper bound, likewise.

    """

    value: float
    low: float | None
    high: float | None

    def as_json(self) -> dict[str, float | None]:
        """Give the JSON object: value, low, high."""
        return {"value": self.value, "low": self.low, "high": self.high}


def _z(confidence: float) -> float:
    return float(ndtri(0.5 + confidence / 2))


def wilson(proportion: float, count: float, confidence: float) -> tuple[float, float]:
    """Score interval of a proportion.

    Args:
        proportion: 0 to 1.
        count: independent units, above 0; need not be a whole number.
        confidence: e.g. 0.95.

    Returns:
        The lower and the upper bound, 0 to 1.

    References:
        Wilson 1927, Journal of the American Statistical Association 22:209-212.

    Example:
        >>> low, high = wilson(0.9, 20, 0.95)
        >>> print(f"{low:.2f} to {high:.2f}")
        0.70 to 0.97

    """
    square = _z(confidence) ** 2
    center = (proportion + square / (2 * count)) / (1 + square / count)
    spread = np.sqrt(proportion * (1 - proportion) * square / count + (square / (2 * count)) ** 2)
    half = spread / (1 + square / count)
    return float(max(0.0, min(proportion, center - half))), float(min(1.0, max(proportion, center + half)))


def effective_count(sizes: ArrayLike) -> float:
    """Count the equal groups that are as informative as groups of unequal sizes.

    All units of a group are taken to be alike. The count is the number of groups where they are
    of equal size, and smaller otherwise.

    Args:
        sizes: units per group, shape (groups,); empty groups do not count.

    Returns:
        The effective number of groups, not necessarily whole.

    References:
        Kish 1965, Survey Sampling, Wiley, section 11.7.

    Example:
        >>> effective_count([5, 5, 5, 5])
        4.0
        >>> round(effective_count([17, 1, 1, 1]), 2)
        1.37

    """
    sizes = np.asarray(sizes, np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def clustered_mean(values: NDArray[np.float64], cases: ArrayLike, confidence: float) -> ClusteredMean:
    """Average over patches, with a confidence interval clustered by case.

    The ratio estimator of cluster sampling, with Student's t of one degree of freedom less than
    there are cases. With few cases, a bootstrap of the mean gives intervals that are too narrow.

    Args:
        values: one per patch, float64, shape (n,).
        cases: the case of each patch, shape (n,).
        confidence: e.g. 0.95.

    Returns:
        The mean; its bounds are None where all values are of one case.

    References:
        Cochran 1977, Sampling Techniques, 3rd edition, Wiley, chapter 6.

    """
    codes = pd.factorize(cases)[0]
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    value, number = float(values.mean()), len(counts)
    if number < 2:
        return ClusteredMean(value, None, None)
    error = np.sqrt(number / (number - 1) * np.square(sums - value * counts).sum()) / len(values)
    half = float(stdtrit(number - 1, 0.5 + confidence / 2) * error)
    return ClusteredMean(value, value - half, value + half)
