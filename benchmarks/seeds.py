"""The ways of the notebooks that this project grew from, written afresh to be measured against."""

from pathlib import Path

import numpy as np
import openslide

WHITE = 220  # a pixel is white where all its channels are brighter
MOST_WHITE = 0.5  # share of white pixels from which on a patch is background


def cut_slide(path: Path, folder: Path, pixels: int = 128, level: int = 0) -> int:
    """Cut a slide: read every cell of the grid by itself, look at its pixels, and write those kept as PNG files.

    Args:
        path: of the slide.
        folder: for the patches; it has to be there.
        pixels: side of a patch.
        level: of the slide.

    Returns:
        How many patches were kept.

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
    """Share of white pixels; uint8, height x width x 3."""
    return float((patch > WHITE).all(axis=2).mean())
