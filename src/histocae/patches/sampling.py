"""Seeded samples of limited size."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw(count: int, most: int | None, seed: int | Sequence[int]) -> NDArray[np.int64]:
    """Draw at most `most` of `count` positions.

    Args:
        count: of positions.
        most: to draw; None: all.
        seed: of the draw.

    Returns:
        int64, shape (n,), ascending, without repeats.

    Example:
        >>> draw(4, 10, seed=1).tolist()
        [0, 1, 2, 3]
        >>> len(draw(100, 10, seed=1))
        10

    """
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
