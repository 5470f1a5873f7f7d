"""Make the slides of the benchmarks: drawn tissue, repeated and mirrored, in several formats."""

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pyvips
import tifffile
from PIL import Image

from histocae.sources import demo

MPP = 0.5
LEVEL_4X = 4
TILE = 240  # side of the tiles of an Aperio scanner
JPEG, JPEG_2000_YCBCR, JPEG_2000_RGB = 7, 33003, 33005  # compressions by TIFF's numbers
REAL = "CMU-1-Small-Region.svs"


@cache
def draw_tissue() -> np.ndarray:
    """Draw tissue at 0.5 microns per pixel; uint8, shape (2048, 2048, 3)."""
    spec = demo.DemoSpec(1, 6, 1024.0)
    table = demo.cohort(spec)
    slide_id = table["slide_id"][table["mpp"] == MPP].iloc[0]
    with tempfile.TemporaryDirectory() as folder:
        path = demo.write_slide(spec, slide_id, Path(folder))
        with openslide.OpenSlide(path) as slide:
            return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def repeat_tissue(width: int, height: int) -> np.ndarray:
    """Repeat the drawn tissue, every second copy mirrored; uint8, shape (height, width, 3)."""
    tile = draw_tissue()
    row = np.concatenate([tile, tile[:, ::-1]], axis=1)
    block = np.concatenate([row, row[::-1]])
    times = (-(-height // block.shape[0]), -(-width // block.shape[1]), 1)
    return np.ascontiguousarray(np.tile(block, times)[:height, :width])


def generic(path: Path, pixels: np.ndarray) -> Path:
    """Write a pyramidal generic TIFF: JPEG, tiles of 256 pixels, each level half the size of the level before."""
    image = pyvips.Image.new_from_array(pixels).copy(xres=1000 / MPP, yres=1000 / MPP)
    image.tiffsave(
        str(path), compression="jpeg", Q=90, tile=True, tile_width=256, tile_height=256, pyramid=True, resunit="cm"
    )
    return path


def aperio(path: Path, pixels: np.ndarray, compression: int) -> Path:
    """Write an Aperio slide with a level 0 and one four times coarser, tiles of 240 pixels.

    Args:
        path: of the slide.
        pixels: uint8, shape (height, width, 3).
        compression: JPEG, JPEG_2000_YCBCR or JPEG_2000_RGB.

    """
    levels = [pixels, np.asarray(Image.fromarray(pixels).reduce(LEVEL_4X))]
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            description = f"Aperio Image Library v11.0\n{level.shape[1]}x{level.shape[0]} |AppMag = 20|MPP = {MPP}"
            options = {"compression": "jpeg", "compressionargs": {"level": 90}, "subsampling": (2, 1)}
            if compression != JPEG:
                options = {"compression": compression, "shape": level.shape, "dtype": np.uint8}
                level = _encoded(level, compression)
            tiff.write(
                level,
                tile=(TILE, TILE),
                photometric="rgb",
                description=description,
                metadata=None,
                subfiletype=int(number > 0),
                **options,
            )
    return path


def _encoded(pixels: np.ndarray, compression: int) -> Iterator[bytes]:
    """Yield the tiles of an image as JPEG 2000, row by row."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, -height % TILE), (0, -width % TILE), (0, 0)), mode="edge")
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            tile = np.ascontiguousarray(padded[y : y + TILE, x : x + TILE])
            if compression == JPEG_2000_YCBCR:
                tile = np.asarray(Image.fromarray(tile).convert("YCbCr"))
            yield imagecodecs.jpeg2k_encode(tile, level=40, codecformat="j2k", mct=compression == JPEG_2000_RGB)


def real() -> Path | None:
    """Locate a real slide, in $HISTOCAE_DATA or beside the checkout; None where it is in neither."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "slides"
    for folder in (os.environ.get("HISTOCAE_DATA"), shared):
        if folder and (path := Path(folder) / REAL).is_file():
            return path
    print(f"left out: {REAL} is not in $HISTOCAE_DATA, nor in {shared.name}/ beside the checkout")
    return None
