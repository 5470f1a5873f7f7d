"""Reducing images by area: every output pixel is the mean of exactly the area that it covers, rounded once.

The weights of rows and of columns are sparse matrices, since a patch may begin and end between two pixels. Libraries
that reduce by area take whole pixels as corners, or weigh whole pixels by their centers (Pillow's BOX). No product
here is one of BLAS: each output pixel is a sum in one order, whatever the machine, the threads and the other pixels.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

SLIVER = 1e-6  # of a pixel: an edge this close to a pixel's border is there
STRIP = 256  # rows that are summed together: more would leave the processor's cache
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of an image, fractions allowed


class _Weights(NamedTuple):
    """How rows are summed.

    Attributes:
        lengths: of the span of rows that each sum covers, in rows.
        strips: sums (a slice), the rows that they need (a slice), and the length of each overlap, a sparse matrix.

    """

    lengths: NDArray[np.float32]
    strips: list[tuple[slice, slice, sparse.csr_array]]


def reduce_image(image: NDArray[np.uint8], width: int, height: int, box: Box | None = None) -> NDArray[np.uint8]:
    """Reduce an image, or a box of it, to the means of areas, each rounded to the nearest whole number.

    Halves go to the even neighbor. At a step of two pixels a quarter of all means are halves: rounded upward, they
    would make such patches brighter than patches that are not reduced.

    Args:
        image: uint8, shape (height, width, channels).
        width: of the result, in pixels.
        height: of the result, in pixels.
        box: the part that is reduced; None: all of the image. What lies outside of the image does not count.

    Returns:
        uint8, shape (height, width, channels).

    Example:
        >>> row = np.array([[[10], [20], [60], [80]]], np.uint8)
        >>> reduce_image(row, 2, 1)[0, :, 0].tolist()
        [15, 70]
        >>> reduce_image(row, 2, 1, (0, 0, 3, 1))[0, :, 0].tolist()  # (10 + 20 / 2) / 1.5 and (20 / 2 + 60) / 1.5
        [13, 47]

    """
    means = _turned_means(image, width, height, box)
    return _upright(np.rint(means, out=means).astype(np.uint8), width)


def area_means(image: NDArray[np.uint8], width: int, height: int, box: Box | None = None) -> NDArray[np.float32]:
    """Compute the means of areas as `reduce_image` does, without rounding them.

    Args:
        image: uint8, shape (height, width, channels).
        width: of the result, in pixels.
        height: of the result, in pixels.
        box: the part that is reduced; None: all of the image.

    Returns:
        float32, shape (height, width, channels).

    """
    return _upright(_turned_means(image, width, height, box), width)


def _turned_means(image: NDArray[np.uint8], width: int, height: int, box: Box | None) -> NDArray[np.float32]:
    """Compute means of areas, shape (width * channels, height)."""
    rows, columns, channels = image.shape
    left, top, right, bottom = (0, 0, columns, rows) if box is None else box
    down, downward = _sum(image.reshape(rows, -1), _weights(top, bottom, height, rows))
    # columns become rows, so that both sums are over rows; in two dimensions, which numpy turns much faster
    across, sideward = _sum(np.ascontiguousarray(down.T), _weights(left, right, width, columns, channels))
    # sums of whole pixels are exact, and so is the rounding of their means, since they are divided once
    across /= sideward[:, None] * downward
    return across


def _upright(turned: NDArray[Any], width: int) -> NDArray[Any]:
    """Turn shape (width * channels, height) to (height, width, channels)."""
    return np.ascontiguousarray(turned.T).reshape(turned.shape[1], width, -1)


def _sum(values: NDArray[Any], weights: _Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sum rows by weights; return the sums, and the length that each of them covers."""
    sums = np.empty((len(weights.lengths), values.shape[1]), np.float32)
    for into, needed, overlaps in weights.strips:
        sums[into] = overlaps @ values[needed].astype(np.float32, copy=False)
    return sums, weights.lengths


@lru_cache(512)  # the cells of a block share their rows and columns
def _weights(start: float, end: float, count: int, length: int, channels: int = 1) -> _Weights:
    """Compute which part of each of `length` rows lies in each of `count` equal spans from `start` to `end`.

    With several channels, each row is as many rows, one for each channel.
    """
    edges = np.clip(np.linspace(start, end, count + 1), 0, length)
    whole = np.rint(edges)
    edges = np.where(np.abs(edges - whole) < SLIVER, whole, edges)
    first, last = np.floor(edges[:-1]), np.ceil(edges[1:])
    strips, begin = [], 0
    while begin < count:
        stop = max(begin + 1, int(np.searchsorted(last, first[begin] + STRIP, "right")))
        top, matrix = int(first[begin]) * channels, _overlaps(edges[begin : stop + 1], channels)
        strips.append((slice(begin * channels, stop * channels), slice(top, top + matrix.shape[1]), matrix))
        begin = stop
    return _Weights(np.diff(edges).astype(np.float32).repeat(channels), strips)


def _overlaps(edges: NDArray[np.float64], channels: int) -> sparse.csr_array:
    """Compute the length of each row in each span between two edges; the first row is that of the first edge."""
    first, last = np.floor(edges[:-1]).astype(np.int32), np.ceil(edges[1:]).astype(np.int32)
    counts = (last - first).repeat(channels)  # of the rows of each sum
    starts = np.append(0, counts.cumsum())
    one = np.arange(len(counts)).repeat(counts)  # the sum of each overlap
    span = one // channels
    row = np.arange(len(one)) - starts[one] + first[span]
    lengths = np.minimum(row + 1, edges[span + 1]) - np.maximum(row, edges[span])
    at = (row - first[0]) * channels + one % channels
    shape = len(counts), int(last[-1] - first[0]) * channels
    return sparse.csr_array((lengths.astype(np.float32), at, starts), shape=shape)
