"""What is tissue: colour against the grey of empty glass, on a small picture of the slide."""

import numpy as np
from PIL import Image, ImageFilter

# A pixel's chroma is max(R,G,B) - min(R,G,B), 0 for glass of any brightness. Otsu's
# threshold is held within these bounds: on a slide that is all tissue it would split
# the tissue, on one that is all glass the noise.
CHROMA_BOUNDS = (12, 30)
# Both stains of H&E let more red through than green. Green and blue ink do not; this much
# more green than red is ink (red or violet ink can't be told from tissue by color).
MOST_GREEN = 12


def tissue_mask(picture: np.ndarray) -> np.ndarray:
    """Mark the pixels that show stained tissue.

    Args:
        picture: uint8, height x width x 3, about 8 microns a pixel.

    Returns:
        bool, height x width.

    References:
        Otsu 1979, IEEE Trans. Syst. Man Cybern. 9(1):62-66.

    """
    red, green, blue = (picture[..., i] for i in range(3))
    # by twos: the largest of an axis as short as that takes numpy several times as long
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    # the median drops the coloured fringes that JPEG leaves along dust and edges
    chroma = np.asarray(Image.fromarray(spread).filter(ImageFilter.MedianFilter(3)))
    ink = green.astype(np.int16) - red > MOST_GREEN
    return (chroma > np.clip(_otsu(chroma), *CHROMA_BOUNDS)) & ~ink


def cell_shares(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Average a mask over a grid of cells.

    Args:
        mask: bool, (rows * k) x (columns * k) for a whole k.
        rows: of the grid.
        columns: of the grid.

    Returns:
        float64 in [0, 1], rows x columns.

    """
    height, width = mask.shape
    return mask.reshape(rows, height // rows, columns, width // columns).mean(axis=(1, 3))


def _otsu(values: np.ndarray) -> int:
    """Otsu's threshold of a uint8 array: the value that parts it with the largest variance between."""
    counts = np.bincount(values.ravel(), minlength=256).astype(float)
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return int(np.nan_to_num(between).argmax())
