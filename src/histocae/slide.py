"""Whole-slide images: the only module that knows the slide reader.

Three lengths never mix here: microns, level-0 pixels and pixels of a level.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from histocae.errors import SlideError

# Scanners go from 0.1 (100x oil) to 10 microns per pixel (1x). Outside of it stands a
# print resolution: 72 dots per inch read as microns per pixel is 352.8.
MPP_RANGE = (0.05, 10.0)
# microns per pixel of an objective of power 1, the convention behind "40x is 0.25"
MICRONS_TIMES_POWER = 10.0
# scanners' pixels are square; a header that says otherwise by more than this is wrong
ANISOTROPY = 1.1
TOLERANCE = 0.10  # a level this close to the target counts as the target


@dataclass(frozen=True)
class Level:
    """One picture of the pyramid: its pixels, and how many level-0 pixels one of them spans."""

    width: int
    height: int
    downsample: float


class Slide:
    """A slide opened for reading; use it in a `with` block.

    Attributes:
        levels: finest first.
        mpp: microns per level-0 pixel as the file states it, or from its objective
            power; None where it states neither, or a value out of `MPP_RANGE`.
        objective_power: as stated, or None.
        vendor: the format's name.

    """

    def __init__(self, path: Path):
        """Open a slide.

        Raises:
            SlideError: it can't be opened.

        """
        self.path = path
        self._handle = self._open()
        handle = self._handle
        self.levels = tuple(
            Level(width, height, downsample)
            for (width, height), downsample in zip(
                handle.level_dimensions, handle.level_downsamples, strict=True
            )
        )
        properties = handle.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.objective_power = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
        self.mpp = _stated_mpp(properties, self.objective_power)

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self.path)
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(f"can't be opened as a slide: {error}") from None

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region, given in pixels of `level`; what the slide leaves open is white.

        After a failure the slide is opened anew, since OpenSlide's handle stays in error.

        Returns:
            uint8, height x width x 3.

        Raises:
            SlideError: the region can't be decoded.

        """
        scale = self.levels[level].downsample
        corner = (round(x * scale), round(y * scale))
        try:
            region = self._handle.read_region(corner, level, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            self._handle.close()
            self._handle = self._open()
            raise SlideError(f"can't be read at level {level}, x {x}, y {y}: {error}") from None
        if region.getextrema()[3][0] < 255:
            region = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region)
        return np.asarray(region)[..., :3]

    def read_scaled(
        self, level: int, box: tuple[float, float, float, float], width: int, height: int
    ) -> np.ndarray:
        """Read a box (left, top, right, bottom in pixels of `level`, fractions allowed), resized.

        Nothing is resampled where the box is whole and already of the wanted size.
        Otherwise every output pixel is a weighted mean of the pixels it covers (Hamming).

        Returns:
            uint8, height x width x 3.

        Raises:
            SlideError: the region can't be decoded.

        """
        left, top, right, bottom = box
        size = self.levels[level]
        x, y = math.floor(left), math.floor(top)
        x_end = min(math.ceil(right), max(size.width, x + 1))
        y_end = min(math.ceil(bottom), max(size.height, y + 1))
        pixels = self.read(level, x, y, x_end - x, y_end - y)
        if pixels.shape[:2] == (height, width) and (left, top) == (x, y):
            return pixels
        inner = (left - x, top - y, min(right, x_end) - x, min(bottom, y_end) - y)
        picture = Image.fromarray(pixels)
        return np.asarray(picture.resize((width, height), Image.Resampling.HAMMING, box=inner))

    def level_for(self, downsample: float) -> int:
        """Find the coarsest level that is at least as fine as `downsample`; 0 if none is."""
        fine = [i for i, one in enumerate(self.levels) if one.downsample <= downsample]
        return max(fine, key=lambda i: self.levels[i].downsample, default=0)


def in_range(mpp: float | None) -> float | None:
    """Give a number of microns per pixel that a scanner can have made, else None."""
    if mpp is None or not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        return None
    return float(mpp)


def choose_level(levels: tuple[Level, ...], mpp: float, target: float) -> tuple[int, float]:
    """Choose the level that patches of `target` microns per pixel are read from.

    A level within 10 % of the target is read as it is. Otherwise the coarsest one that
    is finer than the target is reduced; a slide coarser than that is never enlarged.

    Args:
        levels: finest first, with their true downsamples.
        mpp: microns per level-0 pixel.
        target: microns per patch pixel.

    Returns:
        The level, and how many of its pixels make one patch pixel (1.0: read as it is).

    Raises:
        SlideError: even the finest level is too coarse.

    """
    steps = [target / (mpp * level.downsample) for level in levels]
    near = [i for i, level in enumerate(levels) if abs(mpp * level.downsample / target - 1) <= TOLERANCE]
    if near:
        return min(near, key=lambda i: abs(steps[i] - 1)), 1.0
    finer = [i for i, step in enumerate(steps) if step > 1]
    if not finer:
        raise SlideError(
            f"has {mpp:g} microns per pixel, coarser than the {target:g} of patches.mpp; "
            "patches are never enlarged"
        )
    level = min(finer, key=lambda i: steps[i])
    return level, steps[level]


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _stated_mpp(properties: openslide._PropertyMap, power: float | None) -> float | None:
    x = in_range(_number(properties.get(openslide.PROPERTY_NAME_MPP_X)))
    y = in_range(_number(properties.get(openslide.PROPERTY_NAME_MPP_Y)))
    if x and y and max(x, y) / min(x, y) <= ANISOTROPY:
        return (x + y) / 2
    return in_range(MICRONS_TIMES_POWER / power) if power else None
