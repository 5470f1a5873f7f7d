"""Pre-cut tiles as patches: each tile reduced to one patch, or divided into patches on a grid."""

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from histocae.errors import SlideError, raise_if_machine
from histocae.patches.grid import MASK_PIXELS
from histocae.patches.stored import find_problem
from histocae.patches.tissue import GRAY, cell_shares, is_gray, tissue_mask
from histocae.slides.area_means import reduce_image
from histocae.slides.slide import TOLERANCE

# the errors of Pillow on files that are no images, too short or damaged
_BROKEN = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
FORMATS = ("PNG", "JPEG", "TIFF")


class UnusableTileError(SlideError):
    """A tile can be read, but not used; the other tiles of its slide are kept whatever `on_read_error` says."""


@dataclass
class TilePatches:
    """The patches of one tile.

    Attributes:
        rows: int64, shape (n,), cells of the tile; 0 for a tile reduced to one patch.
        columns: int64, shape (n,); likewise.
        shares: float64, shape (n,), tissue share of each.
        patches: uint8, shape (n, pixels, pixels, 3).
        counts: cells of the tile by reason: kept, background, border.

    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shares: NDArray[np.float64]
    patches: NDArray[np.uint8]
    counts: dict[str, int]


def read_tile(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB, turned as its orientation says; transparent areas become white.

    Color profiles are ignored, as they are for slides.

    Raises:
        UnusableTileError: the file has pixels that 8-bit RGB can't show, or several images.
        SlideError: it can't be decoded.

    """
    try:
        with warnings.catch_warnings():
            # oddities of a file do no harm; an image that is too large to be a tile does
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if (problem := find_problem(path)) is not None:
                raise UnusableTileError(f"{path.name}: {problem}")
            with Image.open(path, formats=FORMATS) as image:
                if image.format == "PNG" and getattr(image, "is_animated", False):
                    raise UnusableTileError(f"{path.name}: is animated; save one image of it as a file of its own")
                image.load()
                return _as_rgb(ImageOps.exif_transpose(image))
    except _BROKEN as error:
        raise_if_machine(error)
        raise SlideError(f"{path.name}: can't be read as an image ({', '.join(FORMATS)}): {error}") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "La":  # gray that was multiplied by its opacity; Pillow converts it to no other mode
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def is_image(path: Path) -> bool:
    """Return whether a file begins as an image does that `read_tile` takes; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS):
                return True
    except _BROKEN as error:
        raise_if_machine(error)
        return False


def reduce_tile(tile: Image.Image, name: str, pixels: int) -> TilePatches:
    """Reduce a tile to one patch; of an oblong tile, its central square.

    Args:
        tile: 8-bit RGB.
        name: of the file, for messages.
        pixels: side of a patch.

    Returns:
        The one patch.

    Raises:
        UnusableTileError: the tile is more than 10 % smaller than a patch.

    """
    side = min(tile.size)
    if side * (1 + TOLERANCE) < pixels:
        raise UnusableTileError(_too_small(tile, name))
    left, top = (tile.width - side) / 2, (tile.height - side) / 2
    patch = np.asarray(tile)
    if tile.size != (pixels, pixels):
        patch = reduce_image(patch, pixels, pixels, (left, top, left + side, top + side))
    share = tissue_mask(_overview(patch, 1, 1)).mean()
    zero = np.zeros(1, np.int64)
    return TilePatches(zero, zero, np.array([share]), patch[None], {"kept": 1})


def divide_tile(tile: Image.Image, name: str, pixels: int, tissue_share: float) -> TilePatches:
    """Divide a tile into whole patches at its own resolution, and keep those with enough tissue.

    Args:
        tile: 8-bit RGB.
        name: of the file, for messages.
        pixels: side of a patch.
        tissue_share: least share of a patch's area that is tissue.

    Returns:
        The patches that are kept, row by row.

    Raises:
        UnusableTileError: the tile is smaller than one patch, or gray.

    """
    rows, columns = tile.height // pixels, tile.width // pixels
    if rows == 0 or columns == 0:
        raise UnusableTileError(_too_small(tile, name))
    whole = np.asarray(tile)[: rows * pixels, : columns * pixels]
    overview = _overview(whole, rows, columns)
    shares = cell_shares(tissue_mask(overview), rows, columns)
    kept_rows, kept_columns = np.nonzero(shares >= tissue_share)
    if not len(kept_rows) and is_gray(overview):
        raise UnusableTileError(f"{name}: {GRAY}; use tiles in color, or set patches.tissue_share to 0")
    cells = whole.reshape(rows, pixels, columns, pixels, 3).swapaxes(1, 2)
    partial = -(-tile.height // pixels) * -(-tile.width // pixels) - rows * columns
    counts = {"kept": len(kept_rows), "background": rows * columns - len(kept_rows), "border": partial}
    kept = kept_rows, kept_columns
    return TilePatches(kept_rows, kept_columns, shares[kept], cells[kept], counts)


def _too_small(tile: Image.Image, name: str) -> str:
    return (
        f"{name}: is {tile.width} x {tile.height} pixels, smaller than a patch; "
        f"set patches.pixels to {min(tile.size)} or less"
    )


def _overview(image: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    return reduce_image(image, columns * MASK_PIXELS, rows * MASK_PIXELS)
