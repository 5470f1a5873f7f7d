"""Units of length on a slide, as types: mypy refuses one where another is expected.

Arithmetic on them gives plain floats; name the unit of a result where it is handed on.
"""

from typing import NewType

MicronsPerPixel = NewType("MicronsPerPixel", float)
Level0Pixels = NewType("Level0Pixels", float)  # the finest level's; a length or a position, fractions allowed
LevelPixels = NewType("LevelPixels", float)  # of the level that is read; fractions allowed


def to_level0(length: LevelPixels, downsample: float) -> Level0Pixels:
    """Convert a length from pixels of a level to those of the finest level.

    Args:
        length: in pixels of the level.
        downsample: level-0 pixels per pixel of the level.

    Returns:
        The length in level-0 pixels.

    """
    return Level0Pixels(length * downsample)
