"""Faults drawn onto real images, and the patches that they cover."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from histocae.patches.tissue import cell_shares, tissue_mask
from histocae.slides.area_means import reduce_image
from histocae.sources import demo_faults
from histocae.sources.demo_tissue import resize

PIXELS = 128


def real_images(shared: Path) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield the real slide and crops of slides: name, image, microns per pixel (those of the crops are assumed)."""
    with openslide.OpenSlide(shared / "slides/CMU-1-Small-Region.svs") as slide:
        yield "CMU-1", np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")), 0.5
    for path in sorted((shared / "tcga_paad_crops").glob("*.png")):
        yield path.stem, np.asarray(Image.open(path).convert("RGB")), 0.25


def draw(rng: np.random.Generator, kind: str, side: int, step: float) -> demo_faults.Fault:
    """Draw a fault that covers about half of an image of `side` pixels."""
    microns = side * step
    size = round(microns)
    through = rng.uniform(0.35 * microns, 0.65 * microns, 2)
    if kind == "debris":
        fault = demo_faults.heap(rng, size, 1.0, 0.8 * microns, through)
    else:
        shape = demo_faults.stroke if kind in demo_faults.INKS or kind == "fold" else demo_faults.blot
        distance = shape(rng, size, 1.0, (0.3 if kind == "fold" else 0.6) * microns, through)
        fault = demo_faults.fill(rng, kind, distance, 1.0)
    return demo_faults.Fault(fault.kind, fault.strength, resize(fault.cover, side))


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
