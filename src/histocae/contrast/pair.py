"""Scores of patches from the errors of two autoencoders, one trained on tumor and one on normal tissue.

NumPy alone: a copy of this file travels inside registered models, which run without this
package (`tracking.served_model`).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# An error of 0 has no logarithm. This is 100 dB, far below the error of rounding to 8 bits (59 dB).
LEAST_ERROR = 1e-10
# per model of the pair, the column that holds its errors
MODELS = {"tumor_model": "error_tumor", "normal_model": "error_normal"}


def score(error_tumor: ArrayLike, error_normal: ArrayLike) -> NDArray[np.float64]:
    """Score patches by log(error_normal) - log(error_tumor): above 0 where the tumor model is the better.

    The score is a ratio of errors, not a difference, because errors vary far more between
    patches than between the two models. Errors below 1e-10 count as 1e-10. The score is
    therefore finite, and 0 where both models reconstruct a patch exactly.

    Args:
        error_tumor: mean squared errors of the tumor model, shape (n,).
        error_normal: mean squared errors of the normal model, shape (n,).

    Returns:
        Natural logarithms, float64, shape (n,).

    Example:
        >>> score([0.01, 0.02], [0.02, 0.01]).round(2)
        array([ 0.69, -0.69])

    """
    normal, tumor = (np.maximum(np.asarray(error, np.float64), LEAST_ERROR) for error in (error_normal, error_tumor))
    difference: NDArray[np.float64] = np.log(normal) - np.log(tumor)
    return difference


@dataclass(frozen=True)
class Linear:
    """A linear function of standardized features, as a logistic regression fits it: log odds of tumor.

    Attributes:
        means: of each feature, shape (features,).
        deviations: standard deviation of each feature, of the same shape.
        weights: of each feature in standard deviations, of the same shape.
        intercept: the score where all features have their means.

    """

    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    weights: NDArray[np.float64]
    intercept: float

    def score(self, features: ArrayLike) -> NDArray[np.float64]:
        """Score patches.

        Args:
            features: floats, shape (n, features).

        Returns:
            float64, shape (n,).

        Example:
            >>> Linear(np.array([1.0]), np.array([2.0]), np.array([3.0]), 0.5).score([[1.0], [3.0]])
            array([0.5, 3.5])

        """
        standardized = (np.asarray(features, np.float64) - self.means) / self.deviations
        scores: NDArray[np.float64] = standardized @ self.weights + self.intercept
        return scores

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object, lists of numbers by name."""
        return {name: np.asarray(value).tolist() for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Linear":
        """Make it from what `as_json` gave."""
        means, deviations, weights = (np.array(values[name]) for name in ("means", "deviations", "weights"))
        return cls(means, deviations, weights, float(values["intercept"]))
