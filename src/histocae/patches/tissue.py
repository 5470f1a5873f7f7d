"""The tissue mask: color against the gray of empty glass, on a small image of the slide."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

# The rule by which `tissue_mask` finds tissue, as contracts of models name it. A rule that marks other pixels gets
# another name.
RULE = "chroma-1"
# A pixel's chroma is max(R,G,B) - min(R,G,B), 0 for glass of any brightness. Otsu's
# threshold is limited to these bounds: on a slide that is all tissue it would divide
# the tissue, on one that is all glass the noise.
CHROMA_BOUNDS = (12, 30)
# Tinted glass may have as much color as pale tissue, but it is even. So a pixel of a chroma up to the upper bound is
# glass if the green (which both stains of H&E absorb) of most pixels near it differs by no more than this from the
# mean around each. Means follow the lamp's gradient, and dust, scratches and edges are near few pixels. At 8 microns
# per pixel, noise of camera and JPEG is averaged away.
EVEN, NEAR = 1, 5
# Both stains of H&E let more red through than green. Green and blue ink do not: a pixel with this
# much more green than red is ink (color does not distinguish red or violet ink from tissue).
MOST_GREEN = 12
# an image whose pixels differ by more than MOST_FLAT, but whose channels by no more than MOST_GRAY, lost its color
MOST_GRAY, MOST_FLAT = 2, 30
GRAY = "is gray: tissue is found by its color, and there is none"


def tissue_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mark the pixels that show stained tissue.

    Args:
        image: uint8, shape (height, width, 3), about 8 microns per pixel.

    Returns:
        bool, shape (height, width), True where tissue.

    References:
        Otsu 1979, IEEE Trans. Syst. Man Cybern. 9(1):62-66.

    """
    red, green = image[..., 0], np.ascontiguousarray(image[..., 1])
    # the median removes the colored fringes that JPEG leaves along dust and edges
    chroma = np.asarray(Image.fromarray(_spread(image)).filter(ImageFilter.MedianFilter(3)))
    ink = green.astype(np.int16) - red > MOST_GREEN
    glass = (chroma <= CHROMA_BOUNDS[1]) & ~_uneven(green)
    mask: NDArray[np.bool_] = (chroma > np.clip(_otsu(chroma), *CHROMA_BOUNDS)) & ~ink & ~glass
    return mask


def is_gray(image: NDArray[np.uint8]) -> bool:
    """Return whether an image shows something, but without any color; empty glass shows nothing.

    Args:
        image: uint8, shape (height, width, 3).

    """
    return bool(_spread(image).max() <= MOST_GRAY and np.ptp(image[..., 1]) > MOST_FLAT)


def _uneven(values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mark pixels around which most of NEAR x NEAR pixels differ from the mean of 3 x 3 pixels by more than EVEN."""
    image = Image.fromarray(values)
    differences = np.asarray(ImageChops.difference(image, image.filter(ImageFilter.BoxBlur(1))))
    # the mean of 0 and 255 is above 127 where the median is 255, and takes a tenth of the median's time
    marked = Image.fromarray(np.where(differences > EVEN, np.uint8(255), np.uint8(0)))
    uneven: NDArray[np.bool_] = np.asarray(marked.filter(ImageFilter.BoxBlur(NEAR // 2))) > 127
    return uneven


def _spread(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute the chroma of each pixel."""
    red, green, blue = (image[..., i] for i in range(3))
    # in pairs: the maximum over an axis of three takes numpy several times as long
    spread: NDArray[np.uint8] = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return spread


def cell_shares(mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.float64]:
    """Average a mask over a grid of cells.

    Args:
        mask: bool, shape (rows * k, columns * k) for a whole k.
        rows: of the grid.
        columns: of the grid.

    Returns:
        float64 in [0, 1], shape (rows, columns).

    """
    height, width = mask.shape
    shares: NDArray[np.float64] = mask.reshape(rows, height // rows, columns, width // columns).mean(axis=(1, 3))
    return shares


def _otsu(values: NDArray[np.uint8]) -> int:
    """Otsu's threshold of an array: the value that divides it with the largest variance between both parts."""
    counts = np.bincount(values.ravel(), minlength=256).astype(float)
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return int(np.nan_to_num(between).argmax())
