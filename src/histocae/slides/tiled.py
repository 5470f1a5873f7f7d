"""The compressed tiles of slides that are TIFF files, each decoded once: the only module that knows their libraries.

OpenSlide paints what it decodes, which takes longer than decoding. Where a slide's pixels are known to
come out the same, its tiles are decoded here and pasted into the boxes that want them; all others are
left to OpenSlide, and so is every tile that is not beyond doubt: what a damaged tile becomes, pixels or
an error, OpenSlide decides.
"""

import logging
import os
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile

VENDORS = ("aperio", "generic-tiff")
JPEG, JPEG_2000_RGB = 7, 33005  # TIFF's numbers; 33003, in YCbCr, OpenSlide converts in its own way
COLORSPACES = {2: "RGB", 6: "YCBCR"}  # by TIFF's photometric interpretation
MOST_SIDE = 4096  # of a tile in pixels; larger ones, each decoded whole, are nothing to have in every thread
# of decoded tiles that other boxes may want; as much as OpenSlide keeps
KEPT_BYTES = 32 * 2**20
# a baseline frame of 8 bits: marker, length for three components, bits; height, width, components follow
FRAME = b"\xff\xc0\x00\x11\x08"
SCAN, RESTARTS, END = b"\xff\xda", b"\xff\xdd\x00\x04", b"\xff\xd9"  # other markers
# libjpeg leaves blocks that its data did not reach at this
UNREACHED = 128

tifffile.logger().setLevel(logging.CRITICAL)  # what is wrong with a file OpenSlide tells


@dataclass(frozen=True)
class Level:
    """The tiles of one level: pixels of the level and of a tile, and where the bytes of each tile lie."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    compression: int
    tables: bytes | None
    colorspace: str

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def frame(self) -> bytes:
        """How the header of a JPEG of this level's tiles begins."""
        return FRAME + struct.pack(">HHB", self.tile_height, self.tile_width, 3)

    def buffer(self) -> np.ndarray:
        """Make room to decode a tile in, and a row more: see `_decode_jpeg`."""
        return np.empty((self.tile_height + 1, self.tile_width, 3), np.uint8)


class Paste(NamedTuple):
    """A part of a tile and its place in a box: box[to] = tile[part]."""

    box: int
    to: tuple[slice, slice]
    part: tuple[slice, slice]


class Wanted(NamedTuple):
    """A tile, what of it goes where, and whether boxes that are asked for later want it too."""

    tile: int
    pastes: list[Paste]
    again: bool


class Tiles:
    """A slide's compressed tiles, opened for reading.

    Attributes:
        levels: as OpenSlide has them, finest first; None where OpenSlide has to read.

    """

    def __init__(self, path: Path, vendor: str, sizes: Sequence[tuple[int, int]]):
        """Find the tiles of each level.

        Args:
            path: of the slide.
            vendor: as OpenSlide calls it.
            sizes: width and height of OpenSlide's levels.

        """
        self.levels: tuple[Level | None, ...] = (None,) * len(sizes)
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = Lock()
        self._file = None
        if vendor not in VENDORS or not hasattr(os, "pread"):  # which Windows lacks
            return
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
            self._length = os.fstat(self._file.fileno()).st_size
            found = _find_levels(self._file, sizes)
            self.levels = tuple(one if one and self._is_plain(one) else None for one in found)
        # tifffile asserts, divides by and looks up what a header gives: OpenSlide is to judge whatever is odd there
        except (
            tifffile.TiffFileError,
            OSError,
            struct.error,
            LookupError,
            TypeError,
            ValueError,
            ArithmeticError,
            AssertionError,
            AttributeError,
            NotImplementedError,
        ):
            return

    def close(self) -> None:
        """Close the file and let go of what was kept."""
        self._kept.clear()
        if self._file is not None:
            self._file.close()

    def _is_plain(self, level: Level) -> bool:
        """Tell by its first tile whether a level has the kind of tiles that are decoded here."""
        return _decode(level, self._raw(level, 0), level.buffer()) is not None

    def _raw(self, level: Level, tile: int) -> bytes:
        """Read a tile's bytes; none where the file ends before it does."""
        offset, size = level.offsets[tile], level.sizes[tile]
        return os.pread(self._file.fileno(), size, offset) if offset + size <= self._length else b""

    def paste(self, number: int, tiles: Sequence[Wanted], boxes: np.ndarray) -> set[int]:
        """Decode some tiles of a level and paste their parts into boxes; threads may do so at once.

        Args:
            number: of the level.
            tiles: from `plan`.
            boxes: uint8, n x height x width x 3.

        Returns:
            The boxes that lack a part, because a tile is not beyond doubt.

        """
        level, lacking = self.levels[number], set()
        buffer = level.buffer()
        for tile, pastes, again in tiles:
            pixels = self._get(number, tile)
            if pixels is None and (pixels := _decode(level, self._raw(level, tile), buffer)) is None:
                lacking.update(paste.box for paste in pastes)
                continue
            for paste in pastes:
                boxes[paste.box][paste.to] = pixels[paste.part]
            if again and pixels.base is buffer:
                self._keep(number, tile, pixels)
        return lacking

    def _get(self, number: int, tile: int) -> np.ndarray | None:
        with self._lock:
            if (number, tile) in self._kept:
                self._kept.move_to_end((number, tile))
            return self._kept.get((number, tile))

    def _keep(self, number: int, tile: int, pixels: np.ndarray) -> None:
        """Keep a tile for later boxes, and let go of the one that was not looked at for the longest time."""
        with self._lock:
            self._kept[number, tile] = pixels.copy()
            while len(self._kept) * pixels.nbytes > KEPT_BYTES:
                self._kept.popitem(last=False)


def plan(
    level: Level, x: np.ndarray, y: np.ndarray, width: int, height: int, end: tuple[float, float]
) -> list[Wanted]:
    """Find the tiles that boxes of one size touch, and what of each goes where.

    Args:
        level: of the slide.
        x: int64, left edges of the boxes in pixels of the level.
        y: int64, their upper edges.
        width: of each.
        height: of each.
        end: x and y that later boxes begin at.

    Returns:
        The tiles, row by row.

    """
    columns = _overlaps(x, width, level.tile_width, level.width)
    rows = _overlaps(y, height, level.tile_height, level.height)
    tiles: dict[int, list[Paste]] = {}
    for box, (across, down) in enumerate(zip(columns, rows, strict=True)):
        for row, to_y, part_y in down:
            for column, to_x, part_x in across:
                paste = Paste(box, (to_y, to_x), (part_y, part_x))
                tiles.setdefault(row * level.columns + column, []).append(paste)

    def again(tile: int) -> bool:
        row, column = divmod(tile, level.columns)
        right, bottom = (column + 1) * level.tile_width, (row + 1) * level.tile_height
        return end[0] < min(right, level.width) or end[1] < min(bottom, level.height)

    return [Wanted(tile, tiles[tile], again(tile)) for tile in sorted(tiles)]


def _overlaps(starts: np.ndarray, length: int, tile: int, end: int) -> list[list[tuple[int, slice, slice]]]:
    """Along one axis, the tiles that each span touches: number, place in the span, place in the tile."""
    found = {}
    for start in set(starts.tolist()):  # boxes of a grid share them
        first, last = max(start, 0), min(start + length, end)
        touched = []
        for number in range(first // tile, -(-last // tile) if last > first else 0):
            low, high = max(first, number * tile), min(last, (number + 1) * tile)
            touched.append(
                (number, slice(low - start, high - start), slice(low - number * tile, high - number * tile))
            )
        found[start] = touched
    return [found[start] for start in starts.tolist()]


def _decode(level: Level, raw: bytes, buffer: np.ndarray) -> np.ndarray | None:
    """Decode a tile.

    Args:
        level: that has the tile.
        raw: its bytes.
        buffer: of the level.

    Returns:
        Its pixels, a view of the buffer; None where OpenSlide has to decide.

    """
    pixels = buffer[:-1]
    try:
        if level.compression == JPEG:
            sound = _decode_jpeg(level, raw, buffer)
        else:
            sound = imagecodecs.jpeg2k_decode(raw, out=pixels) is pixels
    except (imagecodecs.Jpeg8Error, imagecodecs.Jpeg2kError, ValueError):
        return None
    return pixels if sound else None


def _decode_jpeg(level: Level, raw: bytes, buffer: np.ndarray) -> bool:
    """Decode a JPEG into all but the last row of a buffer, and tell whether it was whole.

    libjpeg goes on with a warning where a tile's data end too early; to OpenSlide that is an error, but
    imagecodecs does not pass it on. So libjpeg is told that the tile is one row higher than it is: in a
    sound tile the first block below it is made of the few bits that fill up the last byte, in one that ended
    early it was never reached. Where there are markers to start again at, it does not tell.
    """
    start = raw.find(level.frame)
    # the end is looked for from the end: from the start it takes a twelfth of decoding
    if start < 0 or raw.rfind(END) < start or raw.find(RESTARTS, 0, raw.find(SCAN, start)) >= 0:
        return False
    at = start + len(FRAME)
    taller = raw[:at] + (level.tile_height + 1).to_bytes(2, "big") + raw[at + 2 :]
    how = {"tables": level.tables, "colorspace": level.colorspace}
    # the first component's sampling: how many rows of pixels share one of chroma
    if raw[start + len(level.frame) + 1] & 15 == 1:
        imagecodecs.jpeg8_decode(taller, outcolorspace="RGB", out=buffer, **how)
        below = buffer[-1]
    else:
        # chroma is smoothed with the row below, which has to be the tile's own
        imagecodecs.jpeg8_decode(raw, outcolorspace="RGB", out=buffer[:-1], **how)
        below = imagecodecs.jpeg8_decode(taller, outcolorspace="GRAYSCALE", **how)[-1]
    return bool((below[:8] != UNREACHED).any())


def _find_levels(file: object, sizes: Sequence[tuple[int, int]]) -> list[Level | None]:
    """Find the one tiled picture of each size."""
    pages: dict[tuple[int, int], list[tifffile.TiffPage]] = {}
    with tifffile.TiffFile(file) as tiff:
        for page in tiff.pages:
            if page.is_tiled:
                pages.setdefault((page.imagewidth, page.imagelength), []).append(page)
        found = [pages.get(size, []) for size in sizes]
        # OpenSlide makes what an Aperio slide lacks from other levels
        if any(0 in page.databytecounts or 0 in page.dataoffsets for one in found for page in one):
            return [None] * len(sizes)
        return [_level(one[0]) if len(one) == 1 else None for one in found]


def _level(page: tifffile.TiffPage) -> Level | None:
    kind = (page.bitspersample, page.samplesperpixel, page.planarconfig, page.tiledepth)
    if kind != (8, 3, 1, 1) or page.compression not in (JPEG, JPEG_2000_RGB) or page.photometric not in COLORSPACES:
        return None
    if RESTARTS in (page.jpegtables or b"") or page.imagedepth != 1:
        return None
    if page.tilelength % 16:
        return None  # which TIFF does not allow, and a tile's data would go on below it: see `_decode_jpeg`
    if not (0 < page.tilewidth <= MOST_SIDE and 0 < page.tilelength <= MOST_SIDE):
        return None
    level = Level(
        page.imagewidth,
        page.imagelength,
        page.tilewidth,
        page.tilelength,
        tuple(page.dataoffsets),
        tuple(page.databytecounts),
        int(page.compression),
        page.jpegtables,
        COLORSPACES[page.photometric],
    )
    tiles = level.columns * -(-level.height // level.tile_height)
    return level if len(level.offsets) == len(level.sizes) == tiles else None
