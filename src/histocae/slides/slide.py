"""Whole-slide images: the only module that knows the slide reader.

Three units of length never mix here: microns, level-0 pixels and pixels of a level; see `units`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from histocae.errors import SlideError, check_opens
from histocae.scanners import MPP_RANGE
from histocae.slides import tiled
from histocae.slides.area_means import area_means, reduce_image
from histocae.slides.budget import TILE_BYTES, Budget
from histocae.slides.parts import backslashes
from histocae.slides.reading import Reading
from histocae.slides.units import LevelPixels, MicronsPerPixel

# microns per pixel of an objective of power 1, the convention behind "40x is 0.25"
MICRONS_TIMES_POWER = 10.0
# scanners' pixels are square; a header that differs from that by more than this is wrong
ANISOTROPY = 1.1
# a level this close to the target counts as the target; the last bit is for values that
# were written down as 0.45 or 0.55 and came back as floats
TOLERANCE = 0.10 + 1e-6
# tiles that a thread takes at once: few, so that no thread has many left when the others are done
AT_ONCE = 8

Box = tuple[LevelPixels, LevelPixels, LevelPixels, LevelPixels]  # left, top, right, bottom
Work = TypeVar("Work")
NO_END = (LevelPixels(math.inf), LevelPixels(math.inf))


@dataclass(frozen=True)
class Level:
    """One image of the pyramid.

    Attributes:
        width: in pixels of this level.
        height: in pixels of this level.
        downsample: level-0 pixels per pixel of this level.

    """

    width: int
    height: int
    downsample: float


class Slide:
    """A slide opened for reading; use it in a `with` block.

    Attributes:
        levels: finest first.
        mpp: microns per level-0 pixel as the file states it, or derived from its objective
            power; None where it states neither, or a value out of `MPP_RANGE`.
        objective_power: as stated, or None.
        vendor: the format's name.

    """

    def __init__(self, path: Path, threads: int = 1, budget: Budget | None = None):
        """Open a slide.

        Args:
            path: of the slide.
            threads: that decode; pixels do not depend on their number.
            budget: what reading may take; None: anything.

        Raises:
            SlideError: it can't be opened, or its pixels are not what OpenSlide would make of them.
            OverBudgetError: its tiles are too large.

        """
        self.path = path
        self._budget = budget
        self._threads = threads
        self._reopening = Lock()
        self._handle = self._open()
        handle = self._handle
        self.levels = tuple(
            Level(width, height, downsample)
            for (width, height), downsample in zip(handle.level_dimensions, handle.level_downsamples, strict=True)
        )
        properties = handle.properties
        try:
            self._check()
        except SlideError:
            handle.close()
            raise
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.objective_power = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
        self.mpp = _stated_mpp(properties, self.objective_power)

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self.path)
        except (openslide.OpenSlideError, OSError) as error:
            check_opens(self.path, error)
            raise SlideError(f"can't be opened as a slide: {backslashes(self.path) or error}") from None

    def _check(self) -> None:
        """Refuse pixels that OpenSlide would change silently, and tiles that are too large."""
        if (problem := tiled.find_problem(self.path)) is not None:
            raise SlideError(problem)
        if self._budget is None:
            return
        for number in range(len(self.levels)):
            sides = [
                self._handle.properties.get(f"openslide.level[{number}].tile-{side}") for side in ("width", "height")
            ]
            width, height = (_number(side) or 0 for side in sides)
            self._budget.check_memory(
                width * height * TILE_BYTES, f"a tile of {width:.0f} x {height:.0f} pixels at level {number}"
            )

    def check_time(self) -> None:
        """Refuse to go on once the slide's time is over.

        Raises:
            OverBudgetError: it is over.

        """
        if self._budget is not None:
            self._budget.check_time()

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        # the threads end first, since they read through the rest; `vars` creates neither just to close it
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
        return tiled.Tiles(self.path, self.vendor, [(level.width, level.height) for level in self.levels])

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region; areas that the slide does not cover are white.

        Args:
            level: of the slide.
            x: left edge in pixels of the level.
            y: upper edge in pixels of the level.
            width: in pixels of the level.
            height: in pixels of the level.

        Returns:
            uint8, shape (height, width, 3), RGB.

        Raises:
            SlideError: the region can't be decoded.

        """
        box: NDArray[np.uint8] = self.start(level, np.array([x]), np.array([y]), width, height).result()[0]
        return box

    def start(
        self,
        level: int,
        x: NDArray[np.int64],
        y: NDArray[np.int64],
        width: int,
        height: int,
        *,
        into: NDArray[np.uint8] | None = None,
        opacity: NDArray[np.uint8] | None = None,
        end: tuple[LevelPixels, LevelPixels] = NO_END,
    ) -> "Reading":
        """Begin to read boxes of one size in the slide's threads; areas that the slide does not cover are white.

        Where `tiled` can decode the slide's tiles, each tile that a box overlaps is decoded once. Other slides are
        read by OpenSlide, box by box.

        Args:
            level: of the slide.
            x: int64, shape (n,), left edges in pixels of the level.
            y: int64, shape (n,), upper edges.
            width: of each box, in pixels of the level.
            height: of each box, in pixels of the level.
            into: uint8, shape (n or more, height, width, 3): where to put the boxes, instead of a new array.
            opacity: uint8, shape (n, height, width), filled with 255: where to put 0 for pixels that the file lacks.
            end: x and y at which boxes begin that are read later: tiles that reach beyond are kept for them.

        Returns:
            The boxes, being read.

        Raises:
            OverBudgetError: the slide's time is over.

        """
        self.check_time()
        boxes = np.empty((len(x), height, width, 3), np.uint8) if into is None else into[: len(x)]
        corners = list(zip(x.tolist(), y.tolist(), strict=True))

        def by_openslide(numbers: Sequence[int]) -> None:
            for number in numbers:
                self.check_time()
                region = self._read(level, *corners[number], width, height)
                if opacity is not None:
                    opacity[number] = np.asarray(region.getchannel("A"))
                boxes[number] = _on_white(region)

        size = self._tiles.levels[level]
        if size is None:
            # neighboring boxes go to the same thread: two threads in one tile would both decode it
            return Reading(boxes, self._share(by_openslide, range(len(x)), len(x)), by_openslide)
        outside = (x < 0) | (y < 0) | (x + width > size.width) | (y + height > size.height)
        boxes[outside] = 255
        tiles = tiled.plan_tiles(size, x, y, width, height, end)
        parts = self._share(lambda some: self._tiles.paste(level, some, boxes), tiles, AT_ONCE)
        return Reading(boxes, parts, by_openslide)

    def _share(
        self, function: Callable[[Sequence[Work]], set[int] | None], work: Sequence[Work], most: int
    ) -> list[Future[set[int] | None]]:
        """Let the threads apply a function to all of the work, at most `most` items at a time."""
        each = max(1, min(most, -(-len(work) // self._threads)))
        return [self.pool.submit(function, work[i : i + each]) for i in range(0, len(work), each)]

    def _read(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """Read a region, RGBA, by OpenSlide; after a failure its handle stays in error, and is opened again."""
        scale = self.levels[level].downsample
        handle = self._handle
        try:
            return handle.read_region((round(x * scale), round(y * scale)), level, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            check_opens(self.path, error)
            with self._reopening:
                # other threads may still read by the former handle; it is closed when the last of them is done
                if self._handle is handle:
                    self._handle = self._open()
            raise SlideError(f"can't be read at level {level}, x {x}, y {y}: {error}") from None

    def microns(self, own: MicronsPerPixel | None, default: MicronsPerPixel | None) -> tuple[MicronsPerPixel, str]:
        """Decide how many microns a level-0 pixel has; a number that no scanner produces counts as missing.

        Args:
            own: from the slide's table; it wins over the slide's own.
            default: for slides that state nothing.

        Returns:
            Microns per level-0 pixel, and where the number comes from: table, slide or data.mpp.

        Raises:
            SlideError: there is no usable number.

        """
        for mpp, origin in ((own, "table"), (self.mpp, "slide"), (default, "data.mpp")):
            if (usable := in_range(mpp)) is not None:
                return usable, origin
        raise SlideError(
            "states no usable microns per pixel or objective power; "
            "give it in the table's column mpp, or set data.mpp"
        )

    def read_scaled(
        self, level: int, box: Box, width: int, height: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Read the whole pixels that a box overlaps, and reduce the box to the means of areas.

        Args:
            level: of the slide.
            box: left, top, right and bottom in pixels of the level; fractions allowed.
            width: of the result, in pixels.
            height: of the result, in pixels.

        Returns:
            The image, uint8, shape (height, width, 3), RGB, and its opacity, float32, shape (height, width), 0 where
            the file has no pixels; None: the file has all pixels.

        Raises:
            SlideError: the region can't be decoded.

        """
        size = self.levels[level]
        x, y = math.floor(box[0]), math.floor(box[1])
        # a hair over the border is rounding, not another pixel
        across = min(math.ceil(box[2]), max(size.width, x + 1)) - x
        down = min(math.ceil(box[3]), max(size.height, y + 1)) - y
        inner = (box[0] - x, box[1] - y, min(box[2] - x, across), min(box[3] - y, down))
        opacity = np.full((1, down, across), 255, np.uint8)
        pixels = self.start(level, np.array([x]), np.array([y]), across, down, opacity=opacity).result()
        image = reduce_image(pixels[0], width, height, inner)
        if opacity.min() == 255:
            return image, None
        return image, area_means(opacity[0, ..., None], width, height, inner)[..., 0]

    def level_for(self, downsample: float) -> int:
        """Find the coarsest level that is at least as fine as `downsample`; 0 if no level is."""
        fine = [i for i, level in enumerate(self.levels) if level.downsample <= downsample]
        return max(fine, key=lambda i: self.levels[i].downsample, default=0)


def format_of(path: Path) -> str | None:
    """Return the name of a slide's format; None where no slide reader knows the file.

    A file whose format is known may still fail to open.
    """
    try:
        vendor: str | None = openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, OSError) as error:
        check_opens(path, error)
        return None
    return vendor


def _on_white(region: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a region, RGB; areas that the slide does not cover are white."""
    least, most = region.getchannel("A").getextrema()
    if most == 0:  # far faster than composing
        return np.full((region.height, region.width, 3), 255, np.uint8)
    if least < 255:  # type: ignore[operator]  # Pillow's type covers images of several channels too
        region = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region)
    return np.asarray(region.convert("RGB"))


def in_range(mpp: float | None) -> MicronsPerPixel | None:
    """Return a number of microns per pixel that a scanner may produce; None for any other."""
    if mpp is None or not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        return None
    return MicronsPerPixel(float(mpp))


def choose_level(levels: tuple[Level, ...], mpp: MicronsPerPixel, target: MicronsPerPixel) -> tuple[int, float]:
    """Choose the level that patches of `target` microns per pixel are read from.

    A level within 10 % of the target is read as it is. Otherwise the coarsest level that
    is finer than the target is reduced; a slide coarser than that is never enlarged.

    Args:
        levels: finest first, with their true downsamples.
        mpp: microns per level-0 pixel.
        target: microns per patch pixel.

    Returns:
        The level, and how many of its pixels make one patch pixel (1.0: read as it is).

    Raises:
        SlideError: even the finest level is too coarse.

    Example:
        >>> levels = Level(8000, 6000, 1.0), Level(2000, 1500, 4.0)
        >>> choose_level(levels, MicronsPerPixel(0.25), MicronsPerPixel(1.0))
        (1, 1.0)
        >>> choose_level(levels, MicronsPerPixel(0.25), MicronsPerPixel(0.5))
        (0, 2.0)

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


def _stated_mpp(properties: Mapping[str, str], power: float | None) -> MicronsPerPixel | None:
    x = in_range(_number(properties.get(openslide.PROPERTY_NAME_MPP_X)))
    y = in_range(_number(properties.get(openslide.PROPERTY_NAME_MPP_Y)))
    if x and y and max(x, y) / min(x, y) <= ANISOTROPY:
        return MicronsPerPixel((x + y) / 2)
    return in_range(MICRONS_TIMES_POWER / power) if power else None
