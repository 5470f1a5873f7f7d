"""The patch extraction of the notebooks that this project began as, rewritten for comparison."""

from pathlib import Path

import numpy as np
import openslide

WHITE = 220  # a pixel is white where all its channels are brighter
MOST_WHITE = 0.5  # a patch with at least this share of white pixels is background


def extract_patches(path: Path, folder: Path, pixels: int = 128, level: int = 0) -> int:
    """Extract patches: read each cell of the grid alone, test its pixels, and write the kept cells as PNG files.

    Args:
        path: of the slide.
        folder: for the patches; it must exist.
        pixels: side of a patch.
        level: of the slide, which is read.

    Returns:
        The number of kept patches.

    """
    kept = 0
    with openslide.OpenSlide(path) as slide:
        (width, height), scale = slide.level_dimensions[level], round(slide.level_downsamples[level])
        for y in range(0, height - pixels + 1, pixels):
            for x in range(0, width - pixels + 1, pixels):
                patch = slide.read_region((x * scale, y * scale), level, (pixels, pixels)).convert("RGB")
                if white_share(np.asarray(patch)) < MOST_WHITE:
                    patch.save(folder / f"{path.stem}_{x}_{y}.png")
                    kept += 1
    return kept


def white_share(patch: np.ndarray) -> float:
    """Compute the share of white pixels of a patch; uint8, shape (height, width, 3)."""
    return float((patch > WHITE).all(axis=2).mean())
