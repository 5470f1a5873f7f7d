"""Which of two autoencoders reconstructs a patch better, the one trained on tumor or the one on normal tissue.

NumPy alone: a copy of this file travels inside the registered pair, which runs without this
package (`tracking.served_pair`).
"""

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
