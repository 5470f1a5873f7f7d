"""A whole slide in a small picture, kept when its patches are cut: by then the slide may be gone."""

import numpy as np

from histocae.errors import SlideError
from histocae.slides.slide import Slide

LONGEST = 480  # longest side of a thumbnail, in pixels
BLOCK = 2048  # side of what is read at once, in pixels of the level read


def thumbnail(slide: Slide) -> np.ndarray:
    """Read a whole slide small, block by block; a block that can't be read is left white.

    Returns:
        uint8, height x width x 3.

    """
    full = slide.levels[0]
    step = max(1.0, max(full.width, full.height) / LONGEST)
    width, height = max(1, round(full.width / step)), max(1, round(full.height / step))
    level = slide.level_for(step)
    # pixels of the level that make one of the thumbnail
    across, down = slide.levels[level].width / width, slide.levels[level].height / height
    picture = np.full((height, width, 3), 255, np.uint8)
    for top in range(0, height, rows := max(1, int(BLOCK / down))):
        bottom = min(top + rows, height)
        for left in range(0, width, columns := max(1, int(BLOCK / across))):
            right = min(left + columns, width)
            box = (left * across, top * down, right * across, bottom * down)
            try:
                picture[top:bottom, left:right] = slide.read_scaled(level, box, right - left, bottom - top)
            except SlideError:
                continue  # it is told where the patches are cut
    return picture
