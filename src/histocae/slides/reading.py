"""Boxes of a slide that are being read."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

import numpy as np
from numpy.typing import NDArray


class Reading:
    """Boxes that are being read.

    Attributes:
        boxes: uint8, shape (n, height, width, 3); complete once `result` has returned.

    """

    def __init__(
        self,
        boxes: NDArray[np.uint8],
        parts: list[Future[set[int] | None]],
        by_openslide: Callable[[Sequence[int]], None],
    ):
        """Take over what `Slide.start` has begun.

        Args:
            boxes: uint8, shape (n, height, width, 3).
            parts: the work of the threads; each returns the positions of boxes that it could not complete.
            by_openslide: reads the boxes at some positions by OpenSlide.

        """
        self.boxes = boxes
        self._parts = parts
        self._by_openslide = by_openslide

    def wait(self) -> None:
        """Wait until no thread reads for it any more, whether that succeeded or not."""
        wait(self._parts)

    def result(self) -> NDArray[np.uint8]:
        """Wait for the boxes.

        Returns:
            uint8, shape (n, height, width, 3).

        Raises:
            SlideError: a box can't be decoded.

        """
        self.wait()
        lacking: set[int] = set()
        for part in self._parts:
            lacking |= part.result() or set()
        self._by_openslide(sorted(lacking))
        return self.boxes
