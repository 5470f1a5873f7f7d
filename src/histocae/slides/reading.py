"""Boxes of a slide that are being read, and how a box becomes a patch."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histocae.slides.units import LevelPixels


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


def reduce_box(
    image: NDArray[np.uint8], corner: tuple[LevelPixels, LevelPixels], side: LevelPixels, pixels: int
) -> NDArray[np.uint8]:
    """Crop a square from an image and reduce it: every output pixel is the mean of the pixels that it covers.

    Pixels outside of the square do not contribute.

    Args:
        image: uint8, shape (height, width, 3).
        corner: x and y of the square in pixels of the image, fractions allowed.
        side: of the square in pixels of the image.
        pixels: side of the result.

    Returns:
        uint8, shape (pixels, pixels, 3).

    """
    x, y = (max(0, math.floor(position + 1e-6)) for position in corner)
    x_end, y_end = (math.ceil(position + side - 1e-6) for position in corner)
    part = Image.fromarray(image[y:y_end, x:x_end])
    inner = (
        max(0.0, corner[0] - x),
        max(0.0, corner[1] - y),
        min(corner[0] + side - x, part.width),
        min(corner[1] + side - y, part.height),
    )
    return np.asarray(part.resize((pixels, pixels), Image.Resampling.BOX, box=inner))
