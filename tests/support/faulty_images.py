"""Faults drawn onto real images, and the patches that they cover."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from histocae.patches.grid import make_grid, plan_patches, read_overview, read_patches
from histocae.patches.tissue import cell_shares, tissue_mask
from histocae.slides.area_means import reduce_image
from histocae.slides.slide import Slide
from histocae.sources import demo_faults
from histocae.sources.demo_tissue import resize

PIXELS, MPP = 128, 0.5  # of patches: side, and microns per pixel
REAL_SLIDE = "slides/CMU-1-Small-Region.svs"
# The inks as image editors have them, laid over a slide so that half of it shows through
EDITED = {
    "red": (200, 30, 50),
    "black": (25, 25, 30),
    "blue": (30, 60, 170),
    "green": (20, 120, 70),
    "violet": (100, 40, 150),
}


def real_slide(shared: Path) -> np.ndarray:
    """Read the real slide, at 0.5 microns per pixel."""
    with openslide.OpenSlide(shared / REAL_SLIDE) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def real_crops(shared: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield crops of real slides: name and image, as of 0.25 microns per pixel (their resolution is not recorded)."""
    for path in sorted((shared / "tcga_paad_crops").glob("*.png")):
        yield path.stem, np.asarray(Image.open(path).convert("RGB"))


def real_images(shared: Path) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield the real slide and crops of slides: name, image, microns per pixel."""
    yield "CMU-1", real_slide(shared), 0.5
    for name, image in real_crops(shared):
        yield name, image, 0.25


def patches_of(path: Path, mpp: float) -> tuple[tuple[int, int], tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Extract the patches of a slide of `mpp` as the stage does: grid's shape, cells (rows, columns) and pixels."""
    with Slide(path) as slide:
        grid = make_grid(slide, mpp, PIXELS, MPP)
        plan = plan_patches(grid, read_overview(slide, grid), 0.5, None, [1])
        read = [(i, p.copy()) for i, p in read_patches(slide, grid, plan, PIXELS)]
    order = np.concatenate([positions for positions, _ in read] or [np.zeros(0, np.int64)])
    pixels = np.concatenate([p for _, p in read] or [np.zeros((0, PIXELS, PIXELS, 3), np.uint8)])
    return (grid.rows, grid.columns), (plan.rows[order], plan.columns[order]), pixels


def draw(
    rng: np.random.Generator, kind: str, shape: tuple[int, ...], step: float, opaque: bool = False, width: float = 0.6
) -> demo_faults.Fault:
    """Draw a fault onto an image of this shape.

    Args:
        rng: of the draw.
        kind: of `demo_faults.KINDS`, without glass.
        shape: of the image: rows, columns.
        step: microns per pixel.
        opaque: ink that lets almost no light through.
        width: of the fault, as a share of the image's longer side; folds have half of it.

    """
    side = max(shape[:2])
    microns = side * step
    size = round(microns)
    through = rng.uniform(0.35 * microns, 0.65 * microns, 2)
    if kind == "debris":
        fault = demo_faults.heap(rng, size, 1.0, (width + 0.2) * microns, through)
    else:
        draw_shape = demo_faults.stroke if kind in demo_faults.INKS or kind == "fold" else demo_faults.blot
        distance = draw_shape(rng, size, 1.0, (width / 2 if kind == "fold" else width) * microns, through)
        fault = demo_faults.fill(rng, kind, distance, 1.0, opaque)
    return replace(fault, cover=resize(fault.cover, side)[: shape[0], : shape[1]])


def apply(image: np.ndarray, fault: demo_faults.Fault, step: float) -> np.ndarray:
    """Apply a fault to a real image: its stain is what it absorbs of the light of its brightest pixels."""
    factor, out = demo_faults.stain_factor([fault]), np.empty_like(image)
    for channel in range(3):
        light = np.float32(np.percentile(image[..., channel], 99.5))
        values = image[..., channel].astype(np.float32)
        if factor is not None:
            values = light * np.exp(factor * np.log(np.maximum(values, 1) / light))
        if (through := demo_faults.transmitted([fault], channel)) is not None:
            values = values * through
        out[..., channel] = demo_faults.defocused([fault], values, step).clip(0, 255)
    return out


def lay(image: np.ndarray, cover: np.ndarray, color, opacity: float) -> np.ndarray:
    """Lay a color over an image as image editors do; `color` is one or has the shape of the image."""
    share = (opacity * cover.clip(0, 1))[..., None]
    return ((1 - share) * image + share * np.asarray(color, np.float32)).clip(0, 255).astype(np.uint8)


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image after it was written as JPEG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def shares(image: np.ndarray) -> np.ndarray:
    """Compute the tissue share of each whole cell, float64, shape (rows, columns)."""
    rows, columns = image.shape[0] // PIXELS, image.shape[1] // PIXELS
    whole = np.ascontiguousarray(image[: rows * PIXELS, : columns * PIXELS])
    return cell_shares(tissue_mask(reduce_image(whole, columns * 8, rows * 8)), rows, columns)


def cells(image: np.ndarray) -> np.ndarray:
    """Divide an image into whole cells, shape (rows, columns, PIXELS, PIXELS, ...)."""
    rows, columns = image.shape[0] // PIXELS, image.shape[1] // PIXELS
    whole = image[: rows * PIXELS, : columns * PIXELS]
    return whole.reshape(rows, PIXELS, columns, PIXELS, *image.shape[2:]).swapaxes(1, 2)
