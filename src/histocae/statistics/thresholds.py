"""From scores to classes: a threshold, a calibrated probability, and the rates that a threshold gives."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from histocae.statistics.intervals import Estimate, effective_count, wilson
from histocae.statistics.levels import check_scores


@dataclass(frozen=True)
class Calibration:
    """The logistic curve P(tumor) = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: float
    intercept: float

    def probability(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Give P(tumor) of scores.

        Args:
            scores: shape (n,).

        Returns:
            float64 in [0, 1], shape (n,).

        """
        chances: NDArray[np.float64] = expit(self.slope * np.asarray(scores, np.float64) + self.intercept)
        return chances

    def as_json(self) -> dict[str, float]:
        """Give the JSON object: slope, intercept."""
        return {"slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often a threshold is right, and the counts of units behind these rates.

    Attributes:
        accuracy: share of all units that are classified correctly.
        sensitivity: share of the tumor units that are called tumor.
        specificity: share of the normal units that are called normal.
        balanced_accuracy: mean of sensitivity and specificity.
        true_positive: tumor units called tumor.
        false_negative: tumor units called normal.
        true_negative: normal units called normal.
        false_positive: normal units called tumor.

    """

    accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    balanced_accuracy: Estimate
    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int

    def as_json(self) -> dict[str, dict[str, float] | int]:
        """Give the JSON object, with the attributes as keys."""
        return {
            "accuracy": self.accuracy.as_json(),
            "sensitivity": self.sensitivity.as_json(),
            "specificity": self.specificity.as_json(),
            "balanced_accuracy": self.balanced_accuracy.as_json(),
            "true_positive": self.true_positive,
            "false_negative": self.false_negative,
            "true_negative": self.true_negative,
            "false_positive": self.false_positive,
        }


def choose_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Choose the score from which on a unit is called tumor: the largest sensitivity + specificity.

    The threshold lies midway between two neighboring scores. Where the scores do not distinguish
    the classes, or rank them the wrong way, it is the lowest score: all units are called tumor.
    Among equally good thresholds the one with the closest sensitivity and specificity is taken,
    and among those the lowest.

    Args:
        labels: 1 tumor, 0 normal; shape (n,).
        scores: finite, shape (n,).

    Returns:
        The threshold; a unit is called tumor where its score is at least that.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    References:
        Youden 1950, Cancer 3:32-35.

    Example:
        >>> choose_threshold([0, 0, 1, 1], [1.0, 2.0, 4.0, 9.0])
        3.0

    """
    labels, scores = check_scores(labels, scores)
    values, positions = np.unique(scores, return_inverse=True)
    tumors = np.bincount(positions, labels, len(values))
    normals = np.bincount(positions, 1 - labels, len(values))
    # whole numbers until the end: equally good ones must come out equal
    missed = np.r_[0, np.cumsum(tumors)[:-1]]
    spared = np.r_[0, np.cumsum(normals)[:-1]]
    hit = (tumors.sum() - missed) * normals.sum()
    right = spared * tumors.sum()
    best = np.lexsort((values, np.abs(hit - right), -(hit + right)))[0]
    if best == 0:
        return float(values[0])
    between = values[best - 1] / 2 + values[best] / 2
    # no float lies between two neighboring floats
    return float(between if between > values[best - 1] else values[best])


def calibrate(labels: ArrayLike, scores: ArrayLike) -> Calibration:
    """Fit the probability of tumor to scores by logistic regression (Platt scaling).

    The targets are Platt's: (n1 + 1) / (n1 + 2) for tumor and 1 / (n0 + 2) for normal, instead of
    1 and 0. They keep the slope finite where the scores separate the classes. With classes of
    unequal size, the intercept holds for the share of tumor among these units.

    Args:
        labels: 1 tumor, 0 normal; shape (n,).
        scores: finite, shape (n,).

    Returns:
        The calibration; its slope is 0 where all scores are equal.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    References:
        Platt 1999, Probabilistic outputs for support vector machines, in: Advances in Large
        Margin Classifiers, MIT Press, 61-74.

    """
    from sklearn.linear_model import LogisticRegression

    labels, scores = check_scores(labels, scores)
    tumors, normals = int(labels.sum()), int((1 - labels).sum())
    targets = np.where(labels == 1, (tumors + 1) / (tumors + 2), 1 / (normals + 2))
    mean, spread = scores.mean(), scores.std()
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return Calibration(0.0, float(logit(targets.mean())))
    scaled = ((scores - mean) / spread)[:, None]
    # scikit-learn takes no soft targets: each unit enters once per class, weighted by its target
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(
        np.r_[scaled, scaled], np.repeat((1, 0), len(scores)), sample_weight=np.r_[targets, 1 - targets]
    )
    slope = float(fitted.coef_[0, 0]) / spread
    return Calibration(float(slope), float(fitted.intercept_[0] - slope * mean))


def rates_at_threshold(
    labels: ArrayLike, scores: ArrayLike, threshold: float, confidence: float, cases: ArrayLike | None = None
) -> Rates:
    """Measure accuracy, sensitivity and specificity where `scores >= threshold` is called tumor.

    Intervals are Wilson's; that of the balanced accuracy combines those of sensitivity and
    specificity by the method of variance estimates recovery (MOVER). Wilson's interval counts
    independent units. Patches of a slide and slides of a case are not independent, so give `cases`
    wherever a case may have several units. The interval is then that of the effective number of
    cases, as if all units of a case erred together; it is wide rather than narrow.

    Args:
        labels: 1 tumor, 0 normal; shape (n,).
        scores: finite, shape (n,).
        threshold: fitted on other cases.
        confidence: of the intervals, e.g. 0.95.
        cases: the case of each unit, shape (n,); None: every unit is a case of its own.

    Returns:
        The rates with their intervals, and the counts of units.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    References:
        Wilson 1927, Journal of the American Statistical Association 22:209-212.
        Zou and Donner 2008, Statistics in Medicine 27:1693-1702 (MOVER).
        Kish 1965, Survey Sampling, Wiley, section 11.7 (effective number of cases).

    """
    labels, scores = check_scores(labels, scores)
    called = scores >= threshold
    cases = np.arange(len(labels)) if cases is None else np.asarray(cases)
    tumor = labels == 1

    def rate(chosen: NDArray[np.bool_]) -> Estimate:
        share = float((called == tumor)[chosen].mean())
        return Estimate(share, *wilson(share, effective_count(pd.Series(cases[chosen]).value_counts()), confidence))

    sensitivity, specificity = rate(tumor), rate(~tumor)
    balanced = (sensitivity.value + specificity.value) / 2
    below = np.hypot(sensitivity.value - sensitivity.low, specificity.value - specificity.low)
    above = np.hypot(sensitivity.high - sensitivity.value, specificity.high - specificity.value)
    return Rates(
        accuracy=rate(np.ones(len(labels), bool)),
        sensitivity=sensitivity,
        specificity=specificity,
        balanced_accuracy=Estimate(balanced, balanced - float(below) / 2, balanced + float(above) / 2),
        true_positive=int((called & tumor).sum()),
        false_negative=int((~called & tumor).sum()),
        true_negative=int((~called & ~tumor).sum()),
        false_positive=int((called & ~tumor).sum()),
    )
