"""Previews of slides for later figures, kept when patches are extracted: later the slides may be deleted.

They are files of one folder (reports/patching/thumbnails), named after the slide's shard:

- `<shard>.jpg`: thumbnail of the slide;
- `<shard>.tissue.png`: the tissue mask over the grid of the slide's patches, by which patches were chosen;
- `<shard>.truth.png`: the demo's truth mask of the slide;
- `<shard>.tiles.json`, `<shard>.tile-1.png`, ...: of pre-cut tiles, thumbnails of the first that gave patches.
"""

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from histocae.errors import StoreError, one_line, raise_if_machine
from histocae.files import read_json_or_none, replacing, write_json
from histocae.patches.shard_file import REMEDY

# the errors of Pillow on images that are damaged or cut off
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
)
MOST_TILES = 4  # thumbnails of a slide that consists of pre-cut tiles
# a shard's name ends with a fingerprint, so that nothing of it looks like these
_SUFFIXES = re.compile(r"(\.tissue|\.truth|\.tiles|\.tile-\d+)?\.[a-z]+$")


@dataclass(frozen=True)
class TilePreview:
    """A tile whose thumbnail was kept.

    Attributes:
        file: the tile as its table names it.
        width: of the tile itself, in pixels.
        height: of the tile itself, in pixels.

    """

    file: str
    width: int
    height: int


def thumbnail_file(folder: Path, shard: str) -> Path:
    """Name the thumbnail of a slide.

    Args:
        folder: of previews.
        shard: name of the slide's shard.

    Returns:
        The path of a JPEG file.

    """
    return folder / f"{shard}.jpg"


def tissue_file(folder: Path, shard: str) -> Path:
    """Name the tissue mask of a slide.

    Args:
        folder: of previews.
        shard: name of the slide's shard.

    Returns:
        The path of a PNG file.

    """
    return folder / f"{shard}.tissue.png"


def truth_file(folder: Path, shard: str) -> Path:
    """Name the truth mask of a slide; the file is there for slides of the demo cohort only.

    Args:
        folder: of previews.
        shard: name of the slide's shard.

    Returns:
        The path of a PNG file.

    """
    return folder / f"{shard}.truth.png"


def tile_file(folder: Path, shard: str, number: int) -> Path:
    """Name the thumbnail of a tile.

    Args:
        folder: of previews.
        shard: name of the shard of the tile's slide.
        number: of the tile, from 1.

    Returns:
        The path of a PNG file.

    """
    return folder / f"{shard}.tile-{number}.png"


def _tiles_file(folder: Path, shard: str) -> Path:
    return folder / f"{shard}.tiles.json"


def files(folder: Path, shard: str) -> dict[str, Path]:
    """Name all previews that a slide may have.

    Args:
        folder: of previews.
        shard: name of the slide's shard.

    Returns:
        The path of each, by what it is.

    """
    tiles = {f"tile-{number}": tile_file(folder, shard, number) for number in range(1, MOST_TILES + 1)}
    return {
        "thumbnail": thumbnail_file(folder, shard),
        "tissue": tissue_file(folder, shard),
        "truth": truth_file(folder, shard),
        "tiles": _tiles_file(folder, shard),
        **tiles,
    }


def shard_of(file: Path) -> str:
    """Name the shard that a preview belongs to."""
    return _SUFFIXES.sub("", file.name)


def write_tissue(mask: NDArray[np.bool_], folder: Path, shard: str) -> None:
    """Write the tissue mask of a slide without loss, one bit a pixel.

    Args:
        mask: bool, shape (height, width), True where tissue; it covers the grid of the slide's patches.
        folder: of previews.
        shard: name of the slide's shard.

    """
    with replacing(tissue_file(folder, shard)) as handle:
        Image.fromarray(mask).save(handle, "PNG")


def read_tissue(folder: Path, shard: str) -> NDArray[np.bool_] | None:
    """Read the tissue mask of a slide.

    Args:
        folder: of previews.
        shard: name of the slide's shard.

    Returns:
        bool, shape (height, width), True where tissue, from the slide's top left corner; a patch's side is
        `grid.MASK_PIXELS` pixels long. None where there is no mask, as for pre-cut tiles.

    Raises:
        StoreError: the mask is damaged.

    """
    path = tissue_file(folder, shard)
    try:
        # not by Image.open, which refuses images as large as the masks of large grids
        with _reading(path), PngImageFile(path) as image:
            return np.asarray(image.convert("1"))
    except FileNotFoundError:
        return None


def write_truth(source: Path, folder: Path, shard: str) -> None:
    """Copy a truth mask, byte for byte.

    Args:
        source: the mask, a PNG file.
        folder: of previews.
        shard: name of the slide's shard.

    """
    with replacing(truth_file(folder, shard)) as handle:
        handle.write(source.read_bytes())


def read_truth(folder: Path, shard: str) -> NDArray[np.bool_] | None:
    """Read the truth mask of a slide.

    Args:
        folder: of previews.
        shard: name of the slide's shard.

    Returns:
        bool, shape (height, width), True where a pixel is tumor; the mask covers the whole slide. None where no
        truth is known.

    Raises:
        StoreError: the mask is damaged.

    """
    try:
        return read_image(truth_file(folder, shard), "L") > 127
    except FileNotFoundError:
        return None


def read_image(path: Path, mode: str = "RGB") -> NDArray[np.uint8]:
    """Read a preview.

    Args:
        path: of the image.
        mode: RGB, or L for gray.

    Returns:
        uint8, shape (height, width, 3), or (height, width) for gray.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: it is damaged.

    """
    with _reading(path), Image.open(path) as image:
        return np.asarray(image.convert(mode))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise a StoreError where Pillow can't read an image; a missing file stays a FileNotFoundError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities of a file do no harm
            yield
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise_if_machine(error)
        raise StoreError(f"{path}: can't be read as an image: {one_line(error)}; {REMEDY}") from None


def write_tile(folder: Path, shard: str, number: int, thumbnail: Image.Image) -> None:
    """Write the thumbnail of a tile without loss.

    Args:
        folder: of previews.
        shard: name of the shard of the tile's slide.
        number: of the tile, from 1.
        thumbnail: the tile, small.

    """
    with replacing(tile_file(folder, shard, number)) as handle:
        thumbnail.save(handle, "PNG", compress_level=1)


def write_tiles(folder: Path, shard: str, tiles: list[TilePreview]) -> None:
    """List the tiles whose thumbnails were written: the last step, by which they count as complete.

    Args:
        folder: of previews.
        shard: name of the shard of the tiles' slide.
        tiles: in the order of their numbers.

    """
    write_json([asdict(tile) for tile in tiles], _tiles_file(folder, shard))


def read_tiles(folder: Path, shard: str) -> list[TilePreview] | None:
    """List the tiles whose thumbnails were kept.

    Args:
        folder: of previews.
        shard: name of the shard of the tiles' slide.

    Returns:
        At most `MOST_TILES`, in the order of the shard; None where the list or a thumbnail is missing.

    Raises:
        StoreError: the list is damaged.

    """
    path = _tiles_file(folder, shard)
    if not path.is_file():
        return None
    rows = read_json_or_none(path)
    try:
        tiles = [TilePreview(str(row["file"]), _side(row["width"]), _side(row["height"])) for row in rows]
    except (TypeError, KeyError, ValueError):
        raise StoreError(f"{path}: is damaged; {REMEDY}") from None
    there = all(tile_file(folder, shard, number).is_file() for number in range(1, len(tiles) + 1))
    return tiles if there else None


def _side(value: object) -> int:
    if not isinstance(value, int) or not 0 < value < 2**31:
        raise ValueError("no number of pixels")
    return value


def remove_tiles(folder: Path, shard: str) -> None:
    """Delete the thumbnails of tiles and their list, where there are any.

    Args:
        folder: of previews.
        shard: name of the shard of the tiles' slide.

    """
    _tiles_file(folder, shard).unlink(missing_ok=True)
    for number in range(1, MOST_TILES + 1):
        tile_file(folder, shard, number).unlink(missing_ok=True)
