"""Reading all patches of a level, at level 0 and four times coarser."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pyvips
import slides
import tifffile
from harness import in_turn, record
from patching import cores

from histocae.patches.grid import Grid, PatchPlan, read_patches
from histocae.slides.slide import Slide

PIXELS = 128
WIDTH, HEIGHT = 12288, 8192  # of the slide
MAX_PATCHES = 4096  # of a level, which are read
ROUNDS = 5


def every_cell(slide: Slide, level: int) -> tuple[Grid, PatchPlan]:
    """Lay a grid over a level, and plan to read its cells: the first MAX_PATCHES, row by row."""
    size = slide.levels[level]
    rows, columns = size.height // PIXELS, size.width // PIXELS
    row, column = (axis.ravel()[:MAX_PATCHES] for axis in np.mgrid[:rows, :columns])
    grid = Grid(
        rows=rows,
        columns=columns,
        partial=0,
        level=level,
        cell=PIXELS,
        downsample=size.downsample,
        mpp=slides.MPP,
    )
    return grid, PatchPlan(row, column, np.ones(len(row)), np.zeros(len(row), bool), np.ones((0, 0), bool))


def by_read_region(path: Path, level: int, plan: PatchPlan) -> Iterator[np.ndarray]:
    """Read patch by patch; the slide is opened again, because OpenSlide caches 32 MB of decoded tiles."""
    with openslide.OpenSlide(path) as slide:
        scale = round(slide.level_downsamples[level])
        yield None
        for row, column in zip(plan.rows.tolist(), plan.columns.tolist(), strict=True):
            corner = (column * PIXELS * scale, row * PIXELS * scale)
            yield np.asarray(slide.read_region(corner, level, (PIXELS, PIXELS)).convert("RGB"))


def by_vips(path: Path, level: int, plan: PatchPlan) -> Iterator[np.ndarray]:
    """Read patch by patch from the tile cache of libvips."""
    region = pyvips.Region.new(pyvips.Image.tiffload(str(path), page=level))
    yield None
    for row, column in zip(plan.rows.tolist(), plan.columns.tolist(), strict=True):
        fetched = region.fetch(column * PIXELS, row * PIXELS, PIXELS, PIXELS)
        yield np.frombuffer(fetched, np.uint8).reshape(PIXELS, PIXELS, 3)


def by_histocae(path: Path, level: int, threads: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read as the stage `patches` does."""
    with Slide(path, threads) as slide:
        grid, plan = every_cell(slide, level)
        slide.read(level, 0, 0, 1, 1)
        yield None
        yield from read_patches(slide, grid, plan, PIXELS)


def decode_only(path: Path, level: int, plan: PatchPlan, threads: int) -> Iterator[None]:
    """Decode the tiles of the patches without using their pixels: the limit."""
    with tifffile.TiffFile(path) as tiff, ThreadPoolExecutor(threads) as pool, open(path, "rb") as file:
        page = tiff.pages[level]
        side, tiles_per_row = page.tilewidth, -(-page.imagewidth // page.tilewidth)
        tiles = {
            (y // side, x // side)
            for row, column in zip(plan.rows.tolist(), plan.columns.tolist(), strict=True)
            for y in (row * PIXELS, (row + 1) * PIXELS - 1)
            for x in (column * PIXELS, (column + 1) * PIXELS - 1)
        }
        colorspace = {2: "RGB", 6: "YCBCR"}[page.photometric]

        def decode(tile: int) -> None:
            data = os.pread(file.fileno(), page.databytecounts[tile], page.dataoffsets[tile])
            imagecodecs.jpeg8_decode(data, tables=page.jpegtables, colorspace=colorspace, outcolorspace="RGB")

        yield None
        for _ in pool.map(decode, [row * tiles_per_row + column for row, column in sorted(tiles)]):
            yield None


def seconds(way: Callable[[], Iterator]) -> float:
    """Time a way from its first item on; it yields that item once its slide is open."""
    items = way()
    next(items)
    start = time.perf_counter()
    for _ in items:
        pass
    return time.perf_counter() - start


def count_differing(path: Path, level: int, threads: int) -> int:
    """Count the pixels in which the patches of histocae differ from those of OpenSlide."""
    with Slide(path) as slide:
        _, plan = every_cell(slide, level)
    batches = by_histocae(path, level, threads)
    references = by_read_region(path, level, plan)
    next(batches), next(references)
    references = list(references)
    return sum(
        int((patch != references[i]).any(axis=2).sum())
        for positions, patches in batches
        for i, patch in zip(positions.tolist(), patches, strict=True)
    )


def main() -> int:
    """Measure; the exit code is the number of levels with pixels that differ from OpenSlide's."""
    wrong_levels, threads = 0, cores()
    with tempfile.TemporaryDirectory() as folder:
        path = slides.generic(Path(folder) / "slide.tif", slides.repeat_tissue(WIDTH, HEIGHT))
        for name, level in (("level0", 0), ("4x", 2)):
            with Slide(path) as slide:
                _, plan = every_cell(slide, level)
            ways = {
                "read_region": lambda level=level, plan=plan: by_read_region(path, level, plan),
                "pyvips Region.fetch": lambda level=level, plan=plan: by_vips(path, level, plan),
                "decode only": lambda level=level, plan=plan: decode_only(path, level, plan, threads),
                "histocae": lambda level=level: by_histocae(path, level, threads),
            }
            timed_ways = {name: lambda way=way: seconds(way) for name, way in ways.items()}
            medians = in_turn(timed_ways, ROUNDS, len(plan.rows), "patches")
            record(
                f"reading_{name}_vs_read_region",
                medians["read_region"] / medians["histocae"],
                4,
                "higher",
                f"read_region of each patch / tiles decoded in {threads} threads",
            )
            record(
                f"reading_{name}_of_decode_only",
                medians["decode only"] / medians["histocae"],
                0.85,
                "higher",
                f"decoding the tiles alone / extracting patches from them, both in {threads} threads",
            )
            count = count_differing(path, level, threads)
            print(f"{name}: {count} pixels differ from OpenSlide's")
            wrong_levels += count > 0
    return wrong_levels


if __name__ == "__main__":
    sys.exit(main())
