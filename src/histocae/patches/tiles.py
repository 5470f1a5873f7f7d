"""Pre-cut pictures as patches: reduced whole, or cut on the grid of patches."""

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from histocae.errors import SlideError
from histocae.patches.grid import MASK_PIXELS
from histocae.patches.tissue import cell_shares, tissue_mask
from histocae.slides.slide import TOLERANCE

# what Pillow raises on files that are no pictures, cut short or broken inside
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
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass
class TilePatches:
    """The patches of one tile.

    Attributes:
        rows, columns: int64, cells of the tile; 0, 0 for a tile reduced whole.
        shares: float64, tissue share of each.
        patches: uint8, n x pixels x pixels x 3.
        counts: cells of the tile by reason: kept, background, border.

    """

    rows: np.ndarray
    columns: np.ndarray
    shares: np.ndarray
    patches: np.ndarray
    counts: dict[str, int]


def read_tile(path: Path) -> Image.Image:
    """Read a picture as 8-bit RGB; transparency shows white.

    Raises:
        SlideError: it can't be decoded, or has more than 8 bits a channel.

    """
    try:
        with warnings.catch_warnings():
            # what is odd about a file but does no harm; a picture too large to be a tile does
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                if picture.mode in _DEEP:
                    raise SlideError(f"{path.name}: has more than 8 bits a channel; convert it to 8-bit RGB")
                picture.load()
                return _as_rgb(picture)
    except _BROKEN as error:
        raise SlideError(f"{path.name}: can't be read as a picture: {error}") from None


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def reduce_tile(picture: Image.Image, name: str, pixels: int) -> TilePatches:
    """Reduce a whole tile to one patch; of an oblong one, its central square.

    Raises:
        SlideError: the tile is more than 10 % smaller than a patch.

    """
    side = min(picture.size)
    if side * (1 + TOLERANCE) < pixels:
        raise SlideError(
            f"{name}: is {picture.width} x {picture.height} pixels, smaller than a patch; "
            f"set patches.pixels to {side} or less"
        )
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    if picture.size != (pixels, pixels):
        picture = picture.resize((pixels, pixels), Image.Resampling.BOX, box=box)
    share = tissue_mask(_overview(picture, 1, 1, pixels)).mean()
    zero = np.zeros(1, np.int64)
    return TilePatches(zero, zero, np.array([share]), np.asarray(picture)[None], {"kept": 1})


def cut_tile(picture: Image.Image, name: str, pixels: int, tissue_share: float) -> TilePatches:
    """Cut a tile into whole patches at its own resolution and keep those with enough tissue.

    Raises:
        SlideError: the tile is smaller than one patch.

    """
    rows, columns = picture.height // pixels, picture.width // pixels
    if rows == 0 or columns == 0:
        raise SlideError(
            f"{name}: is {picture.width} x {picture.height} pixels, smaller than a patch; "
            f"set patches.pixels to {min(picture.size)} or less"
        )
    shares = cell_shares(tissue_mask(_overview(picture, rows, columns, pixels)), rows, columns)
    at_rows, at_columns = np.nonzero(shares >= tissue_share)
    whole = np.asarray(picture)[: rows * pixels, : columns * pixels]
    cells = whole.reshape(rows, pixels, columns, pixels, 3).swapaxes(1, 2)
    partial = -(-picture.height // pixels) * -(-picture.width // pixels) - rows * columns
    counts = {"kept": len(at_rows), "background": rows * columns - len(at_rows), "border": partial}
    return TilePatches(at_rows, at_columns, shares[at_rows, at_columns], cells[at_rows, at_columns], counts)


def _overview(picture: Image.Image, rows: int, columns: int, pixels: int) -> np.ndarray:
    small = picture.resize(
        (columns * MASK_PIXELS, rows * MASK_PIXELS),
        Image.Resampling.BOX,
        box=(0, 0, columns * pixels, rows * pixels),
    )
    return np.asarray(small)
