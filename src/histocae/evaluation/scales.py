"""Statistics of images at several scales: of patches, as their texture, and of errors of reconstruction.

NumPy and the standard library alone: a copy of this file travels inside registered models. An image is halved again
and again, each pixel the mean of four, so that a statistic at scale 8 sees structures of about 8 pixels.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    gray = _gray(_planes(patches)) / np.float32(255)
    return _joined(
        part for image in _halved(gray[:, None]) for part in (_gradients(image[:, 0]), _amplitude(image.std((2, 3))))
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
    for image in _halved(_planes(residuals)):
        gray = _gray(image)
        parts += [np.log(_power(image) + LEAST_POWER), _quantiles(np.abs(gray)), _gradients(gray)]
    return _joined(iter(parts))


def _planes(images: NDArray[Any]) -> NDArray[np.float32]:
    """Put each channel into a plane of its own, shape (n, channels, height, width).

    NumPy is slow along an axis as short as that of the channels; all that follows takes a third less time.
    """
    count, height, width, channels = images.shape
    planes = np.empty((count, channels, height, width), np.float32)
    for channel in range(channels):
        planes[:, channel] = images[..., channel]
    return planes


def _halved(planes: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the images at each scale; a last odd row or column is left out when they are halved."""
    for _ in range(SCALES):
        height, width = planes.shape[2:]
        if min(height, width) < LEAST_SIDE:
            return
        yield planes
        rows = planes[:, :, 0 : height // 2 * 2 : 2] + planes[:, :, 1::2]
        planes = rows[..., 0 : width // 2 * 2 : 2] + rows[..., 1::2]
        planes *= np.float32(0.25)


def _gray(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the channels, shape (n, height, width)."""
    gray = planes[:, 0].copy()
    for channel in range(1, planes.shape[1]):
        gray += planes[:, channel]
    gray /= np.float32(planes.shape[1])
    return gray


def _power(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the mean square of each channel, shape (n, channels)."""
    power: NDArray[np.float32] = np.square(planes).mean((2, 3))
    return power


def _gradients(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    down = gray[:, 2:, 1:-1] - gray[:, :-2, 1:-1]  # central differences; np.gradient takes four times as long
    right = gray[:, 1:-1, 2:] - gray[:, 1:-1, :-2]
    np.square(down, out=down)
    np.square(right, out=right)
    down += right
    return _quantiles(down, _halved_root)


def _halved_root(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sqrt(squares).astype(np.float32, copy=False) / np.float32(2)


def _quantiles(
    values: NDArray[np.float32], ascending: Callable[[NDArray[np.float32]], NDArray[np.float32]] = np.asarray
) -> NDArray[np.float32]:
    """Compute quantiles of what an ascending function makes of the values; it gets only those that are needed.

    The values are sorted in place.
    """
    flat = values.reshape(len(values), -1)
    flat.sort(axis=1)  # 40 times as fast as np.quantile
    places = (flat.shape[1] - 1) * np.array(QUANTILES)
    below = places.astype(int)
    lower, upper = ascending(flat[:, below]), ascending(flat[:, np.minimum(below + 1, flat.shape[1] - 1)])
    return _amplitude(lower + (upper - lower) * (places - below))


def _amplitude(values: NDArray[np.floating]) -> NDArray[np.float32]:
    logarithms: NDArray[np.float32] = np.log(values + LEAST_AMPLITUDE).astype(np.float32)
    return logarithms


def _joined(parts: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(parts), axis=1).astype(np.float32)
