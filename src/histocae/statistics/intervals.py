"""Intervals by formula: of an AUROC, of a share, and for how many independent units they are."""

import numpy as np
from scipy.special import ndtri


def _z(confidence: float) -> float:
    return float(ndtri(0.5 + confidence / 2))


def newcombe(auc: float, positives: float, negatives: float, confidence: float) -> tuple[float, float]:
    """Score-type interval of an AUROC, of sensible width at 0 and 1 as well.

    The values t with (auc - t)^2 <= z^2 V(t), where V is the variance of Hanley and McNeil
    (1982, Radiology 143:29-36) with both group sizes in its covariances set to their mean.

    Args:
        auc: the AUROC, 0 to 1.
        positives: independent tumors, at least 1; need not be a whole number.
        negatives: independent normals, likewise.
        confidence: e.g. 0.95.

    References:
        Newcombe 2006, Statistics in Medicine 25:559-573, method 5.

    """
    from scipy.optimize import brentq

    z, others = _z(confidence), (positives + negatives) / 2 - 1

    def beyond(t: float) -> float:
        variance = t * (1 - t) * (1 + others * ((1 - t) / (2 - t) + t / (1 + t))) / (positives * negatives)
        return (auc - t) ** 2 - z**2 * variance

    # just off the estimate, where `beyond` is negative even at 0 and 1
    below, above = min(auc, 1 - 1e-12), max(auc, 1e-12)
    low = 0.0 if auc <= 1e-12 else brentq(beyond, 0, below)
    high = 1.0 if auc >= 1 - 1e-12 else brentq(beyond, above, 1)
    return float(low), float(high)


def wilson(share: float, count: float, confidence: float) -> tuple[float, float]:
    """Score interval of a share; `count` need not be a whole number.

    References:
        Wilson 1927, Journal of the American Statistical Association 22:209-212.

    """
    square = _z(confidence) ** 2
    center = (share + square / (2 * count)) / (1 + square / count)
    half = np.sqrt(share * (1 - share) * square / count + (square / (2 * count)) ** 2) / (1 + square / count)
    return float(max(0.0, min(share, center - half))), float(min(1.0, max(share, center + half)))


def effective(sizes: np.ndarray) -> float:
    """Give the number of equal groups that tell as much as groups of these sizes, all alike inside.

    It is the number of groups where they are equal, and at most that.

    Args:
        sizes: units per group; empty groups do not count.

    References:
        Kish 1965, Survey Sampling, Wiley, section 11.7.

    """
    sizes = np.asarray(sizes, np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())
