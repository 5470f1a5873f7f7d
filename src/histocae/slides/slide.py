"""Whole-slide images: the only module that knows the slide reader.

Three lengths never mix here: microns, level-0 pixels and pixels of a level.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import openslide
from PIL import Image

from histocae.errors import SlideError
from histocae.slides import tiled

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
# tiles that a thread takes at once: few, so that none has much left when the others are done
AT_ONCE = 8


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

    def __init__(self, path: Path, threads: int = 1):
        """Open a slide.

        Args:
            path: of the slide.
            threads: that decode; pixels do not depend on it.

        Raises:
            SlideError: it can't be opened.

        """
        self.path = path
        self._threads = threads
        self._reopening = Lock()
        self._handle = self._open()
        handle = self._handle
        self.levels = tuple(
            Level(width, height, downsample)
            for (width, height), downsample in zip(handle.level_dimensions, handle.level_downsamples, strict=True)
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
        # threads first: they read through what is closed next; looked up so that none are started for it
        if "pool" in vars(self):
            self.pool.shutdown(cancel_futures=True)
        if "_tiles" in vars(self):
            self._tiles.close()
        self._handle.close()

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """The slide's threads."""
        return ThreadPoolExecutor(self._threads, "slide")

    @cached_property
    def _tiles(self) -> tiled.Tiles:
        return tiled.Tiles(self.path, self.vendor, [(one.width, one.height) for one in self.levels])

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region, given in pixels of `level`; what the slide leaves open is white.

        Returns:
            uint8, height x width x 3.

        Raises:
            SlideError: the region can't be decoded.

        """
        return self.start(level, np.array([x]), np.array([y]), width, height).result()[0]

    def start(
        self,
        level: int,
        x: np.ndarray,
        y: np.ndarray,
        width: int,
        height: int,
        into: np.ndarray | None = None,
        end: tuple[float, float] = (math.inf, math.inf),
    ) -> "Reading":
        """Begin to read boxes of one size in the slide's threads; what the slide leaves open is white.

        Of a slide whose tiles are known how to be decoded, each that a box touches is decoded once; others
        are read by OpenSlide, box by box.

        Args:
            level: of the slide.
            x: int64, left edges in pixels of the level.
            y: int64, upper edges.
            width: of each box.
            height: of each box.
            into: uint8, n or more x height x width x 3: where to put them, instead of a new array.
            end: x and y that boxes begin at which are asked for later: tiles across are kept for them.

        """
        boxes = np.empty((len(x), height, width, 3), np.uint8) if into is None else into[: len(x)]
        corners = list(zip(x.tolist(), y.tolist(), strict=True))

        def by_openslide(which: Sequence[int]) -> None:
            for one in which:
                boxes[one] = self._read(level, *corners[one], width, height)

        size = self._tiles.levels[level]
        if size is None:
            # to each thread boxes that lie together: two at once in one tile would both decode it
            return Reading(boxes, self._share(by_openslide, range(len(x)), len(x)), by_openslide)
        outside = (x < 0) | (y < 0) | (x + width > size.width) | (y + height > size.height)
        boxes[outside] = 255
        tiles = tiled.plan(size, x, y, width, height, end)
        parts = self._share(lambda some: self._tiles.paste(level, some, boxes), tiles, AT_ONCE)
        return Reading(boxes, parts, by_openslide)

    def _share(self, function: Callable, things: Sequence, most: int) -> list[Future]:
        """Let the threads do a function on all of some things, at most so many at a time."""
        few = max(1, min(most, -(-len(things) // self._threads)))
        return [self.pool.submit(function, things[i : i + few]) for i in range(0, len(things), few)]

    def _read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region by OpenSlide; after a failure its handle stays in error, and the slide is opened anew."""
        scale = self.levels[level].downsample
        handle = self._handle
        try:
            region = handle.read_region((round(x * scale), round(y * scale)), level, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            with self._reopening:
                # other threads may still read by the former, which ends with the last of them
                if self._handle is handle:
                    self._handle = self._open()
            raise SlideError(f"can't be read at level {level}, x {x}, y {y}: {error}") from None
        if region.getchannel("A").getextrema()[0] < 255:
            region = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region)
        return np.asarray(region.convert("RGB"))

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

    def read_scaled(self, level: int, box: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
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


class Reading:
    """Boxes that are being read.

    Attributes:
        boxes: uint8, n x height x width x 3; whole when `result` has given them.

    """

    def __init__(self, boxes: np.ndarray, parts: list[Future], by_openslide: Callable[[Sequence[int]], None]):
        """Take what `Slide.start` has begun."""
        self.boxes = boxes
        self._parts = parts
        self._by_openslide = by_openslide

    def wait(self) -> None:
        """Wait until no thread reads for it any more, whether that went well or not."""
        wait(self._parts)

    def result(self) -> np.ndarray:
        """Wait for the boxes.

        Returns:
            uint8, n x height x width x 3.

        Raises:
            SlideError: one of them can't be decoded.

        """
        self.wait()
        lacking: set[int] = set()
        for part in self._parts:
            lacking |= part.result() or set()
        self._by_openslide(sorted(lacking))
        return self.boxes


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
        max(0.0, corner[0] - x),
        max(0.0, corner[1] - y),
        min(corner[0] + side - x, part.width),
        min(corner[1] + side - y, part.height),
    )
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
            f"has {mpp:g} microns per pixel, coarser than the {target:g} of patches.mpp; patches are never enlarged"
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
