"""A small image of a whole slide, kept when its patches are extracted: later the slide may be deleted."""

import numpy as np
from numpy.typing import NDArray

from histocae.errors import SlideError
from histocae.slides.budget import OverBudgetError
from histocae.slides.slide import Box, Slide
from histocae.slides.units import LevelPixels

LONGEST = 480  # longest side of a thumbnail, in pixels
BLOCK = 2048  # side of a block that is read at once, in pixels of the level that is read


def thumbnail(slide: Slide) -> NDArray[np.uint8]:
    """Read a whole slide at a small size, block by block; a block that can't be read is left white.

    Returns:
        uint8, shape (height, width, 3), RGB.

    Raises:
        OverBudgetError: the slide's time is over.

    """
    full = slide.levels[0]
    step = max(1.0, max(full.width, full.height) / LONGEST)
    width, height = max(1, round(full.width / step)), max(1, round(full.height / step))
    level = slide.level_for(step)
    # pixels of the level per pixel of the thumbnail
    across, down = slide.levels[level].width / width, slide.levels[level].height / height
    image = np.full((height, width, 3), 255, np.uint8)
    for top in range(0, height, rows := max(1, int(BLOCK / down))):
        bottom = min(top + rows, height)
        for left in range(0, width, columns := max(1, int(BLOCK / across))):
            right = min(left + columns, width)
            box = _box(left * across, top * down, right * across, bottom * down)
            try:
                image[top:bottom, left:right], _ = slide.read_scaled(level, box, right - left, bottom - top)
            except OverBudgetError:
                raise
            except SlideError:
                continue  # reported where the patches are extracted
    return image


def _box(left: float, top: float, right: float, bottom: float) -> Box:
    return LevelPixels(left), LevelPixels(top), LevelPixels(right), LevelPixels(bottom)
