"""What the file of a tile says about its pixels. Pillow would reduce some of them silently."""

from pathlib import Path
from typing import BinaryIO

from histocae.slides import tiled

PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"
PNG_BITS = 24  # position of the bits a channel
SCAN = 0xDA  # marker of a JPEG's pixels
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a JPEG's size and bits


def find_problem(path: Path) -> str | None:
    """Find out whether a file has pixels that 8-bit RGB can't show, or several images.

    Args:
        path: of a PNG, JPEG or TIFF file.

    Returns:
        The problem and its remedy; None where there is none, or the header is damaged.

    Raises:
        OSError: the file can't be read.

    """
    with open(path, "rb") as file:
        start = file.read(4)
        bits = 8
        if start == PNG:
            file.seek(PNG_BITS)
            bits = int.from_bytes(file.read(1))
        elif start.startswith(JPEG):
            bits = _jpeg_bits(file)
    return tiled.too_deep(bits) or tiled.find_problem(path, one_page=True)


def _jpeg_bits(file: BinaryIO) -> int:
    """Read the bits a channel from a JPEG's frame; 0 where it has none."""
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != SCAN:
        if head[1] == 0xFF:  # a byte that fills up
            file.seek(-3, 1)
        elif head[1] in FRAMES:
            return int.from_bytes(file.read(1))
        else:
            file.seek(int.from_bytes(head[2:]) - 2, 1)
    return 0
