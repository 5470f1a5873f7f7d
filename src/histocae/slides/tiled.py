"""The compressed tiles of slides that are TIFF files, each decoded once: the only module that knows their libraries.

OpenSlide composes a region out of decoded tiles, which takes longer than decoding them. Where a slide's pixels
are known to come out the same, its tiles are decoded here and pasted into the boxes that they overlap. All other
slides are left to OpenSlide, and so is every tile that may be damaged: OpenSlide decides whether it gives pixels
or an error.
"""

import logging
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from cachetools import LRUCache
from numpy.typing import NDArray

from histocae.errors import raise_if_machine
from histocae.slides.units import LevelPixels

VENDORS = ("aperio", "generic-tiff")
JPEG, JPEG_2000_RGB = 7, 33005  # TIFF's numbers; 33003, in YCbCr, OpenSlide converts in a way of its own
COLORSPACES = {2: "RGB", 6: "YCBCR"}  # by TIFF's photometric interpretation
MOST_SIDE = 4096  # of a tile, in pixels; each thread holds a decoded tile, so larger ones are left to OpenSlide
# of decoded tiles that are kept for later boxes, in bytes; OpenSlide's cache has the same size
KEPT_BYTES = 32 * 2**20
# a baseline frame of 8 bits: marker, length for three components, bits; height, width, components follow
FRAME = b"\xff\xc0\x00\x11\x08"
SCAN, RESTARTS, END = b"\xff\xda", b"\xff\xdd\x00\x04", b"\xff\xd9"  # other markers
# the value of pixels in blocks for which libjpeg had no data
UNREACHED = 128

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# by TIFF's photometric interpretation: gray (dark or bright is 0), RGB, palette, CMYK, YCbCr
COLORS = (0, 1, 2, 3, 5, 6)
RGB = 2
OPACITY = (1, 2)  # by TIFF's ExtraSamples
COPIES = (1, 4, 5)  # by TIFF's NewSubfileType: a smaller copy, a mask, a mask of a smaller copy
SAMPLE_FORMATS = {2: "signed integers", 3: "fractions"}
# tifffile asserts on, divides by and looks up values of a header
INVALID = (
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
)

tifffile.logger().setLevel(logging.CRITICAL)  # OpenSlide reports damage to a file


def too_deep(bits: int) -> str | None:
    """Return the problem of pixels with more than 8 bits a channel, and its remedy; None for others.

    Decoders keep the upper 8 of 16 bits: the pixels are nearly black where a camera used 12.
    """
    if bits <= 8:
        return None
    return f"has {bits} bits a channel; convert it to 8 bits a channel, scaled to the range that its values use"


def find_problem(path: Path, *, one_page: bool = False) -> str | None:
    """Find out whether a TIFF's pixels are none that 8-bit RGB can show, as its header states.

    Decoders reduce such pixels silently, such as five channels to three.

    Args:
        path: of a file of any format.
        one_page: refuse further pages too, other than smaller copies and masks of the first.

    Returns:
        The problem and its remedy; None where there is none, or the file is no TIFF, or its header is damaged.

    """
    try:
        with open(path, "rb") as file:
            if file.read(4) not in TIFF_STARTS:
                return None
            file.seek(0)
            with tifffile.TiffFile(file) as tiff:
                pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
                if one_page and any(page.subfiletype not in COPIES for page in pages[1:]):
                    return f"has {len(pages)} pages, of which one would be read; save that page as a file of its own"
                return next((problem for page in pages if (problem := _page_problem(page)) is not None), None)
    except INVALID as error:
        raise_if_machine(error)
        return None


def _page_problem(page: tifffile.TiffPage) -> str | None:
    bits = page.bitspersample
    most = max(bits) if isinstance(bits, tuple) else bits
    if most > 8:
        return too_deep(most)
    if page.sampleformat in SAMPLE_FORMATS:
        return f"has {SAMPLE_FORMATS[page.sampleformat]} as pixels; convert it to 8-bit RGB"
    if page.photometric not in COLORS:
        kind = getattr(page.photometric, "name", page.photometric)
        return f"has colors of the kind {kind}; convert it to 8-bit RGB"
    colors = {0: 1, 1: 1, 3: 1, 5: 4}.get(page.photometric, 3)
    if page.samplesperpixel > colors + _states_opacity(page):
        return f"has {page.samplesperpixel} channels, of which {colors} would be read; convert it to 8-bit RGB"
    return None


def _states_opacity(page: tifffile.TiffPage) -> bool:
    """Return whether the channel after the colors is opacity; decoders leave out another one, or take it for opacity.

    Without TIFF's ExtraSamples, the fourth channel of RGB is opacity to all decoders.
    """
    extra = page.extrasamples
    return extra[0] in OPACITY if extra else page.photometric == RGB


@dataclass(frozen=True, kw_only=True)
class TiledLevel:
    """The tiles of one level.

    Attributes:
        width: pixels of the level.
        height: pixels of the level.
        tile_width: pixels of a tile.
        tile_height: pixels of a tile.
        offsets: of each tile's bytes in the file.
        sizes: bytes of each tile.
        compression: TIFF's number.
        tables: JPEG tables that all tiles share.
        colorspace: of the compressed pixels.

    """

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

    @cached_property
    def shared(self) -> frozenset[int]:
        """The offsets that several tiles have."""
        return frozenset(offset for offset, tiles in Counter(self.offsets).items() if tiles > 1)

    @property
    def frame(self) -> bytes:
        """How the header of a JPEG of this level's tiles begins."""
        return FRAME + struct.pack(">HHB", self.tile_height, self.tile_width, 3)

    def buffer(self) -> NDArray[np.uint8]:
        """Make room to decode a tile in.

        Returns:
            uint8, shape (height + 1, width, 3) of a tile; `_decode_jpeg` needs the row below the tile.

        """
        return np.empty((self.tile_height + 1, self.tile_width, 3), np.uint8)


class Paste(NamedTuple):
    """A part of a tile and its position in a box: box[to] = tile[part]."""

    box: int
    to: tuple[slice, slice]
    part: tuple[slice, slice]


class TileUse(NamedTuple):
    """A tile, where its parts are pasted, and whether later boxes will need it too."""

    tile: int
    pastes: list[Paste]
    again: bool


class Tiles:
    """A slide's compressed tiles, opened for reading.

    Attributes:
        levels: as OpenSlide lists them, finest first; None for levels that OpenSlide has to read.

    """

    def __init__(self, path: Path, vendor: str, sizes: Sequence[tuple[int, int]]):
        """Find the tiles of each level.

        Args:
            path: of the slide.
            vendor: as OpenSlide names it.
            sizes: width and height of OpenSlide's levels.

        """
        self.levels: tuple[TiledLevel | None, ...] = (None,) * len(sizes)
        # by level and position in the file: some writers store equal tiles, of empty glass, once
        self._kept: LRUCache[tuple[int, int, int], NDArray[np.uint8]] = LRUCache(KEPT_BYTES, lambda tile: tile.nbytes)
        self._lock = Lock()
        self._file: BinaryIO | None = None
        if vendor not in VENDORS or os.name == "nt":  # Windows has no `os.pread`
            return
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
            self._length = os.fstat(self._file.fileno()).st_size
            levels = _find_levels(self._file, sizes)
            self.levels = tuple(level if level and self._is_plain(level) else None for level in levels)
        except INVALID as error:  # OpenSlide reads files with invalid headers
            raise_if_machine(error)

    def close(self) -> None:
        """Close the file and free the tiles that were kept."""
        self._kept.clear()
        if self._file is not None:
            self._file.close()

    def _is_plain(self, level: TiledLevel) -> bool:
        """Check on its first tile whether a level has the kind of tiles that are decoded here."""
        return _decode(level, self._raw(level, 0), level.buffer()) is not None

    def _raw(self, level: TiledLevel, tile: int) -> bytes:
        """Read a tile's bytes; none where the file ends before the tile does."""
        offset, size = level.offsets[tile], level.sizes[tile]
        if self._file is None or offset + size > self._length:
            return b""
        return os.pread(self._file.fileno(), size, offset)

    def paste(self, number: int, tiles: Sequence[TileUse], boxes: NDArray[np.uint8]) -> set[int]:
        """Decode some tiles of a level and paste their parts into boxes; several threads may do so at once.

        Args:
            number: of the level; it must have tiles.
            tiles: from `plan_tiles`.
            boxes: uint8, shape (n, height, width, 3); written to.

        Returns:
            The positions of boxes that lack a part, because a tile may be damaged.

        """
        level, lacking = self.levels[number], set[int]()
        if level is None:
            return {paste.box for use in tiles for paste in use.pastes}
        buffer = level.buffer()
        for tile, pastes, again in tiles:
            key = number, level.offsets[tile], level.sizes[tile]
            pixels = self._get(key)
            if pixels is None and (pixels := _decode(level, self._raw(level, tile), buffer)) is None:
                lacking.update(paste.box for paste in pastes)
                continue
            for paste in pastes:
                boxes[paste.box][paste.to] = pixels[paste.part]
            if (again or level.offsets[tile] in level.shared) and pixels.base is buffer:
                self._keep(key, pixels)
        return lacking

    def _get(self, key: tuple[int, int, int]) -> NDArray[np.uint8] | None:
        with self._lock:
            return self._kept.get(key)

    def _keep(self, key: tuple[int, int, int], pixels: NDArray[np.uint8]) -> None:
        """Keep a tile for later boxes; the least recently used ones make room for it."""
        if pixels.nbytes <= KEPT_BYTES:
            with self._lock:
                self._kept[key] = pixels.copy()


def plan_tiles(
    level: TiledLevel,
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    width: int,
    height: int,
    end: tuple[LevelPixels, LevelPixels],
) -> list[TileUse]:
    """Find the tiles that boxes of one size overlap, and where the parts of each are pasted.

    Args:
        level: of the slide.
        x: int64, shape (n,), left edges of the boxes in pixels of the level.
        y: int64, shape (n,), their upper edges.
        width: of each box, in pixels of the level.
        height: of each box, in pixels of the level.
        end: x and y at which later boxes begin.

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

    return [TileUse(tile, tiles[tile], again(tile)) for tile in sorted(tiles)]


def _overlaps(starts: NDArray[np.int64], length: int, tile: int, end: int) -> list[list[tuple[int, slice, slice]]]:
    """Along one axis, list the tiles that each span overlaps: number, position in the span, position in the tile."""
    by_start: dict[int, list[tuple[int, slice, slice]]] = {}
    for start in set(starts.tolist()):  # boxes of a grid share them
        first, last = max(start, 0), min(start + length, end)
        touched = []
        for number in range(first // tile, -(-last // tile) if last > first else 0):
            low, high = max(first, number * tile), min(last, (number + 1) * tile)
            touched.append(
                (number, slice(low - start, high - start), slice(low - number * tile, high - number * tile))
            )
        by_start[start] = touched
    return [by_start[start] for start in starts.tolist()]


def _decode(level: TiledLevel, raw: bytes, buffer: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Decode a tile.

    Args:
        level: that has the tile.
        raw: its bytes.
        buffer: of the level.

    Returns:
        uint8, shape (height, width, 3), a view of the buffer; None where OpenSlide has to decide.

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


def _decode_jpeg(level: TiledLevel, raw: bytes, buffer: NDArray[np.uint8]) -> bool:
    """Decode a JPEG into all but the last row of a buffer, and report whether it was whole.

    Where a tile's data end too early, libjpeg only warns. OpenSlide takes the warning for an error, but
    imagecodecs does not pass it on. So the header is changed: it states one row more than the tile has. In a
    sound tile, the few bits that fill up the last byte begin a block below it. In one that ended early, that block
    is never reached. This check fails where the data have restart markers.
    """
    start = raw.find(level.frame)
    # searched for from the end: from the start it takes a twelfth of the time of decoding
    if start < 0 or raw.rfind(END) < start or raw.find(RESTARTS, 0, raw.find(SCAN, start)) >= 0:
        return False
    at = start + len(FRAME)
    taller = raw[:at] + (level.tile_height + 1).to_bytes(2, "big") + raw[at + 2 :]
    # the first component's sampling: how many rows of pixels share one of chroma
    if raw[start + len(level.frame) + 1] & 15 == 1:
        _jpeg8(level, taller, "RGB", buffer)
        below = buffer[-1]
    else:
        # chroma is smoothed with the row below, which has to be the tile's own
        _jpeg8(level, raw, "RGB", buffer[:-1])
        below = _jpeg8(level, taller, "GRAYSCALE", None)[-1]
    return bool((below[:8] != UNREACHED).any())


def _jpeg8(level: TiledLevel, raw: bytes, color: str, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    decoded: NDArray[np.uint8] = imagecodecs.jpeg8_decode(
        raw, tables=level.tables, colorspace=level.colorspace, outcolorspace=color, out=out
    )
    return decoded


def _find_levels(file: BinaryIO, sizes: Sequence[tuple[int, int]]) -> list[TiledLevel | None]:
    """Find the one tiled image of each size."""
    pages: dict[tuple[int, int], list[tifffile.TiffPage]] = {}
    with tifffile.TiffFile(file) as tiff:
        for page in tiff.pages:
            if isinstance(page, tifffile.TiffPage) and page.is_tiled:
                pages.setdefault((page.imagewidth, page.imagelength), []).append(page)
        by_size = [pages.get(size, []) for size in sizes]
        # OpenSlide computes the tiles that an Aperio slide lacks from other levels
        if any(0 in page.databytecounts or 0 in page.dataoffsets for level in by_size for page in level):
            return [None] * len(sizes)
        return [_level(level[0]) if len(level) == 1 else None for level in by_size]


def _level(page: tifffile.TiffPage) -> TiledLevel | None:
    kind = (page.bitspersample, page.samplesperpixel, page.planarconfig, page.tiledepth)
    if kind != (8, 3, 1, 1) or page.compression not in (JPEG, JPEG_2000_RGB) or page.photometric not in COLORSPACES:
        return None
    if RESTARTS in (page.jpegtables or b"") or page.imagedepth != 1:
        return None
    if page.tilelength % 16:
        return None  # not allowed by TIFF, and a tile's data would extend below it: see `_decode_jpeg`
    if not (0 < page.tilewidth <= MOST_SIDE and 0 < page.tilelength <= MOST_SIDE):
        return None
    level = TiledLevel(
        width=page.imagewidth,
        height=page.imagelength,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        offsets=tuple(page.dataoffsets),
        sizes=tuple(page.databytecounts),
        compression=int(page.compression),
        tables=page.jpegtables,
        colorspace=COLORSPACES[page.photometric],
    )
    tiles = level.columns * -(-level.height // level.tile_height)
    return level if len(level.offsets) == len(level.sizes) == tiles else None
