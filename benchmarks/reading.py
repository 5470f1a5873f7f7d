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
MOST = 4096  # patches of a level that are read
ROUNDS = 5


def every_cell(slide: Slide, level: int) -> tuple[Grid, PatchPlan]:
    """Lay a grid over a level, and plan to read all of its cells, or only the uppermost."""
    size = slide.levels[level]
    rows, columns = size.height // PIXELS, size.width // PIXELS
    row, column = (one.ravel()[:MOST] for one in np.mgrid[:rows, :columns])
    grid = Grid(
        rows=rows,
        columns=columns,
        partial=0,
        level=level,
        cell=PIXELS,
        downsample=size.downsample,
        mpp=slides.MPP,
    )
    return grid, PatchPlan(row, column, np.ones(len(row)), np.zeros(len(row), bool))


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


def by_us(path: Path, level: int, threads: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read as the stage `patches` does."""
    with Slide(path, threads) as slide:
        grid, plan = every_cell(slide, level)
        slide.read(level, 0, 0, 1, 1)
        yield None
        yield from read_patches(slide, grid, plan, PIXELS)


def decode_only(path: Path, level: int, plan: PatchPlan, threads: int) -> Iterator[None]:
    """Decode the same tiles without using them: the limit."""
    with tifffile.TiffFile(path) as tiff, ThreadPoolExecutor(threads) as pool, open(path, "rb") as file:
        page = tiff.pages[level]
        side, across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
        touched = {
            (y // side, x // side)
            for row, column in zip(plan.rows.tolist(), plan.columns.tolist(), strict=True)
            for y in (row * PIXELS, (row + 1) * PIXELS - 1)
            for x in (column * PIXELS, (column + 1) * PIXELS - 1)
        }
        space = {2: "RGB", 6: "YCBCR"}[page.photometric]

        def decode(tile: int) -> None:
            data = os.pread(file.fileno(), page.databytecounts[tile], page.dataoffsets[tile])
            imagecodecs.jpeg8_decode(data, tables=page.jpegtables, colorspace=space, outcolorspace="RGB")

        yield None
        for _ in pool.map(decode, [row * across + column for row, column in sorted(touched)]):
            yield None


def seconds(way: Callable[[], Iterator]) -> float:
    """Time a way from its first item on, when its slide is open."""
    items = way()
    next(items)
    start = time.perf_counter()
    for _ in items:
        pass
    return time.perf_counter() - start


def differing(path: Path, level: int, threads: int) -> int:
    """Count the pixels in which our patches differ from OpenSlide's."""
    with Slide(path) as slide:
        _, plan = every_cell(slide, level)
    read = by_us(path, level, threads)
    theirs = by_read_region(path, level, plan)
    next(read), next(theirs)
    theirs = list(theirs)
    return sum(
        int((one != theirs[i]).any(axis=2).sum())
        for which, patches in read
        for i, one in zip(which.tolist(), patches, strict=True)
    )


def main() -> int:
    """Measure; the exit code is the number of levels whose pixels are not OpenSlide's."""
    wrong, threads = 0, cores()
    with tempfile.TemporaryDirectory() as folder:
        path = slides.generic(Path(folder) / "slide.tif", slides.laid_out(WIDTH, HEIGHT))
        for name, level in (("level0", 0), ("4x", 2)):
            with Slide(path) as slide:
                _, plan = every_cell(slide, level)
            ways = {
                "read_region": lambda level=level, plan=plan: by_read_region(path, level, plan),
                "pyvips Region.fetch": lambda level=level, plan=plan: by_vips(path, level, plan),
                "decode only": lambda level=level, plan=plan: decode_only(path, level, plan, threads),
                "ours": lambda level=level: by_us(path, level, threads),
            }
            timed = {name: lambda way=way: seconds(way) for name, way in ways.items()}
            taken = in_turn(timed, ROUNDS, len(plan.rows), "patches")
            record(
                f"reading_{name}_vs_read_region",
                taken["read_region"] / taken["ours"],
                4,
                "higher",
                f"read_region of each patch / tiles decoded in {threads} threads",
            )
            record(
                f"reading_{name}_of_decode_only",
                taken["decode only"] / taken["ours"],
                0.85,
                "higher",
                f"decoding the tiles alone / making patches of them, both in {threads} threads",
            )
            count = differing(path, level, threads)
            print(f"{name}: {count} pixels differ from OpenSlide's")
            wrong += count > 0
    return wrong


if __name__ == "__main__":
    sys.exit(main())
