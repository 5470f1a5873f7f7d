"""Images of one size, whether they are in memory or in files."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Images(Protocol):
    """Images of one size in a given order, wherever they are stored, as a training reads them.

    Attributes:
        shape: height, width and channels of an image.

    """

    shape: tuple[int, int, int]

    def __len__(self) -> int:
        """Count the images."""

    def take(self, which: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Read the images at some positions.

        Args:
            which: integers, shape (n,): positions, in any order.

        Returns:
            uint8, shape (n, height, width, channels), in the order of `which`.

        """


class InMemory:
    """Images that are all in memory, or in one memory-mapped array."""

    def __init__(self, images: NDArray[np.uint8]):
        """Wrap an array.

        Args:
            images: uint8, shape (n, height, width, channels).

        Raises:
            ValueError: the array has another type or number of dimensions.

        """
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"images are uint8, shape (n, height, width, channels), not {images.dtype}, {images.shape}"
            )
        self._images = images
        self.shape: tuple[int, int, int] = images.shape[1:]

    def __len__(self) -> int:
        return len(self._images)

    def take(self, which: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Read the images at some positions.

        Args:
            which: integers, shape (n,): positions, in any order.

        Returns:
            uint8, shape (n, height, width, channels), in the order of `which`.

        """
        taken: NDArray[np.uint8] = self._images[which]
        return taken


def batches(images: Images, size: int, which: NDArray[np.integer[Any]] | None = None) -> Iterator[NDArray[np.uint8]]:
    """Read images batch by batch.

    Args:
        images: any number.
        size: of a batch; the last one may be smaller.
        which: integers, shape (n,): positions to read, in this order; None: all, in order.

    Yields:
        uint8, shape (n, height, width, channels), with n at most `size`.

    Example:
        >>> images = InMemory(np.zeros((5, 8, 8, 3), np.uint8))
        >>> [len(batch) for batch in batches(images, 2)]
        [2, 2, 1]

    """
    count = len(images) if which is None else len(which)
    for start in range(0, count, size):
        end = min(start + size, count)
        # the positions of a whole cohort would take eight bytes a patch
        yield images.take(np.arange(start, end) if which is None else which[start:end])
