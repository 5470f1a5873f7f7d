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
# a level this close to the target counts as the target; the last bit is for values that
# were written down as 0.45 or 0.55 and came back as floats
TOLERANCE = 0.10 + 1e-6


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

    def microns(self, own: float | None, default: float | None) -> tuple[float, str]:
        """Decide how many microns a level-0 pixel has; a number no scanner can have made counts as missing.

        Args:
            own: what the slide's table says; it wins over what the slide says.
            default: for slides that do not say.

        Returns:
            Microns per pixel, and who said so: table, slide or data.mpp.

        Raises:
            SlideError: nobody says.

        """
        for mpp, origin in ((own, "table"), (self.mpp, "slide"), (default, "data.mpp")):
            if (usable := in_range(mpp)) is not None:
                return usable, origin
        raise SlideError(
            "states no usable microns per pixel or objective power; "
            "give it in the table's column mpp, or set data.mpp"
        )

    def read_around(self, level: int, box: tuple[float, float, float, float]) -> tuple[np.ndarray, int, int]:
        """Read the whole pixels that a box (left, top, right, bottom in pixels of `level`) touches.

        Returns:
            uint8, height x width x 3, and x and y of its corner.

        Raises:
            SlideError: the region can't be decoded.

        """
        size = self.levels[level]
        x, y = math.floor(box[0]), math.floor(box[1])
        # a hair over the border is rounding, not another pixel
        width = min(math.ceil(box[2]), max(size.width, x + 1)) - x
        height = min(math.ceil(box[3]), max(size.height, y + 1)) - y
        return self.read(level, x, y, width, height), x, y

    def read_scaled(
        self, level: int, box: tuple[float, float, float, float], width: int, height: int
    ) -> np.ndarray:
        """Read a box as `read_around` does, resized to `width` x `height` by the mean of pixels.

        Returns:
            uint8, height x width x 3.

        Raises:
            SlideError: the region can't be decoded.

        """
        pixels, x, y = self.read_around(level, box)
        inner = (box[0] - x, box[1] - y, min(box[2] - x, pixels.shape[1]), min(box[3] - y, pixels.shape[0]))
        picture = Image.fromarray(pixels)
        return np.asarray(picture.resize((width, height), Image.Resampling.BOX, box=inner))

    def level_for(self, downsample: float) -> int:
        """Find the coarsest level that is at least as fine as `downsample`; 0 if none is."""
        fine = [i for i, one in enumerate(self.levels) if one.downsample <= downsample]
        return max(fine, key=lambda i: self.levels[i].downsample, default=0)


def reduce_box(picture: np.ndarray, corner: tuple[float, float], side: float, pixels: int) -> np.ndarray:
    """Cut a square out of a picture and reduce it: every output pixel is the mean of those it covers.

    Nothing outside of the square has a part in it.

    Args:
        picture: uint8, height x width x 3.
        corner: x and y of the square in pixels of the picture, fractions allowed.
        side: of the square in pixels of the picture.
        pixels: wanted side.

    Returns:
        uint8, pixels x pixels x 3.

    """
    x, y = (max(0, math.floor(one + 1e-6)) for one in corner)
    x_end, y_end = (math.ceil(one + side - 1e-6) for one in corner)
    part = Image.fromarray(picture[y:y_end, x:x_end])
    inner = (
        max(0.0, corner[0] - x), max(0.0, corner[1] - y),
        min(corner[0] + side - x, part.width), min(corner[1] + side - y, part.height),
    )  # fmt: skip
    return np.asarray(part.resize((pixels, pixels), Image.Resampling.BOX, box=inner))


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
