"""Statistics of images at several scales: of patches, as their texture, and of errors of reconstruction.

NumPy and the standard library alone: a copy of this file travels inside registered models. An image is halved again
and again, each pixel the mean of four, so that a statistic at scale 8 sees structures of about 8 pixels.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

SCALES = 5  # pixels of scale: 1, 2, 4, 8, 16
MOST_THREADS = 8
PER_THREAD = 16  # patches at once
LEAST_SIDE = 4  # smaller images have too few pixels for quantiles
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# added before the logarithm; rounding to 8 bits has a standard deviation of 0.001
LEAST_AMPLITUDE = 1e-4
LEAST_POWER = LEAST_AMPLITUDE**2


def texture(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe the texture of patches in gray, without color.

    Args:
        patches: uint8, shape (n, height, width, channels).

    Returns:
        float32, shape (n, features): for each scale the logarithms of quantiles of the gradient's length and of the
        standard deviation.

    """
    gray = _gray(patches.astype(np.float32))[..., None] / np.float32(255)
    return _joined(
        part
        for image in _halved(gray)
        for part in (_gradients(image[..., 0]), _amplitude(image[..., 0].std((1, 2))[:, None]))
    )


def errors(residuals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Describe the differences between patches and their reconstructions.

    Args:
        residuals: floats, shape (n, height, width, channels), of pixels in [0, 1].

    Returns:
        float32, shape (n, features): for each scale the logarithms of the mean square of each channel, and of
        quantiles of the absolute difference and of the gradient's length, both in gray.

    """
    # NumPy works outside of Python's lock, so threads share the patches
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        starts = range(0, len(residuals), PER_THREAD)
        return np.concatenate(list(pool.map(lambda start: _errors(residuals[start : start + PER_THREAD]), starts)))


def mean_squares(features: NDArray[np.float32], channels: int = 3) -> NDArray[np.float64]:
    """Compute the mean squared errors that `errors` describes, from its features of the first scale.

    Args:
        features: the result of `errors`, float32, shape (n, features).
        channels: of the images.

    Returns:
        float64, shape (n,), equal to the mean squares except for rounding (about 1e-6 of the value).

    """
    powers = np.exp(features[:, :channels].astype(np.float64)) - LEAST_POWER
    means: NDArray[np.float64] = np.maximum(powers.mean(1), 0)
    return means


def _errors(residuals: NDArray[np.float32]) -> NDArray[np.float32]:
    parts = []
    for image in _halved(residuals):
        gray = _gray(image)
        parts += [np.log(_power(image) + LEAST_POWER), _quantiles(np.abs(gray)), _gradients(gray)]
    return _joined(iter(parts))


def _halved(images: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the images at each scale; a last odd row or column is left out when they are halved."""
    for _ in range(SCALES):
        if min(images.shape[1:3]) < LEAST_SIDE:
            return
        yield images
        height, width = (side // 2 * 2 for side in images.shape[1:3])
        rows = images[:, 0:height:2] + images[:, 1:height:2]
        images = ((rows[:, :, 0:width:2] + rows[:, :, 1:width:2]) / 4).astype(np.float32, copy=False)


# The next two add whole planes: a mean over an axis as short as that of the channels takes many times as long.
def _gray(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the channels."""
    total = images[..., 0]
    for channel in range(1, images.shape[3]):
        total = total + images[..., channel]
    gray: NDArray[np.float32] = total / np.float32(images.shape[3])
    return gray


def _power(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the mean square of each channel, shape (n, channels)."""
    count, height, width, channels = images.shape
    columns = np.square(images).reshape(count, height, width * channels).sum(1)
    power: NDArray[np.float32] = columns.reshape(count, width, channels).sum(1) / np.float32(height * width)
    return power


def _gradients(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    down = gray[:, 2:, 1:-1] - gray[:, :-2, 1:-1]  # central differences; np.gradient takes four times as long
    right = gray[:, 1:-1, 2:] - gray[:, 1:-1, :-2]
    return _quantiles(np.sqrt(down * down + right * right) / np.float32(2))


def _quantiles(amplitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = np.sort(amplitudes.reshape(len(amplitudes), -1), axis=1)  # 40 times as fast as np.quantile
    places = (flat.shape[1] - 1) * np.array(QUANTILES)
    below = places.astype(int)
    lower, upper = flat[:, below], flat[:, np.minimum(below + 1, flat.shape[1] - 1)]
    return _amplitude(lower + (upper - lower) * (places - below))


def _amplitude(values: NDArray[np.floating]) -> NDArray[np.float32]:
    logarithms: NDArray[np.float32] = np.log(values + LEAST_AMPLITUDE).astype(np.float32)
    return logarithms


def _joined(parts: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(parts), axis=1).astype(np.float32)
