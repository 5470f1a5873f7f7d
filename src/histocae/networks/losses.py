"""Losses of reconstruction by name: Keras' own, and those that compare images.

SSIM: Wang et al. 2004, IEEE Trans. Image Process. 13(4):600-612, in Keras' implementation.
"""

import math
from collections.abc import Callable
from typing import Any

import keras

Loss = Callable[[Any, Any], Any]  # of targets and outputs, both tensors of the backend
# dissimilar H&E patches have 1 - SSIM near 0.5 and a mean squared error near 0.02: both terms then count
SSIM_WEIGHT = 0.05
SSIM_SIDE = 11  # of its Gaussian window, in pixels


def per_patch(name: str) -> Loss:
    """Return a loss of patches.

    Args:
        name: l1 (mean absolute error) | ssim (1 - SSIM) | mse+ssim (mean squared error + 0.05 (1 - SSIM)), or the
            name of a Keras loss that is a mean over the last axis.

    Returns:
        A function of targets and outputs, floats in [0, 1], shape (n, height, width, channels), to a loss per
        patch, shape (n,).

    Raises:
        ValueError: there is no such loss.

    Example:
        >>> import numpy as np
        >>> patches = np.random.default_rng(0).random((2, 16, 16, 3))
        >>> per_patch("l1")(patches, patches + 0.1).numpy().round(3)
        array([0.1, 0.1])

    """
    if name == "ssim":
        return _dissimilarity
    if name == "mse+ssim":
        squared = per_patch("mse")
        return lambda targets, outputs: squared(targets, outputs) + SSIM_WEIGHT * _dissimilarity(targets, outputs)
    loss = keras.losses.get("mae" if name == "l1" else name)

    def mean(targets: Any, outputs: Any) -> Any:
        # one row per patch, so that a single operation computes the mean over a patch
        rows = (-1, math.prod(outputs.shape[1:]))
        return loss(keras.ops.reshape(targets, rows), keras.ops.reshape(outputs, rows))

    return mean


def _dissimilarity(targets: Any, outputs: Any) -> Any:
    return 1 - keras.ops.image.ssim(targets, outputs, max_val=1.0, filter_size=SSIM_SIDE)
