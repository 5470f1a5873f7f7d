"""Which of two autoencoders gives a patch back better, that of tumor or that of normal tissue.

NumPy alone: a copy of this file travels inside the registered pair, which runs without this
package (`tracking.served_pair`).
"""

import numpy as np
from numpy.typing import ArrayLike

# An error of 0 has no logarithm. This is 100 dB, far below what rounding to 8 bits leaves (59 dB).
LEAST_ERROR = 1e-10
MODELS = {"tumor_model": "error_tumor", "normal_model": "error_normal"}


def score(error_tumor: ArrayLike, error_normal: ArrayLike) -> np.ndarray:
    """Give log(error_normal) - log(error_tumor), natural logarithms: above 0 where the tumor model is the better.

    The ratio, and not the difference, of the errors: they differ between patches by far
    more than between the two models. Errors below 1e-10 count as 1e-10, so the score is
    finite, and 0 where both models give a patch back exactly.

    Args:
        error_tumor: mean squared errors of the tumor model, n.
        error_normal: those of the normal model, n.

    Returns:
        float64, n.

    """
    normal, tumor = (np.maximum(np.asarray(one, np.float64), LEAST_ERROR) for one in (error_normal, error_tumor))
    return np.log(normal) - np.log(tumor)
