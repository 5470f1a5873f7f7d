"""Faults of patches, measured on their pixels: ink of pens, defocus, folds, debris and pale stain.

Classical measures, without weights, of the patches as they were scanned, before any conversion of color. Slides,
tiles and `histocae score` therefore measure alike. A measure is a number for each patch; `flag` compares it with a
threshold. Folds and pale stain need the other patches of the slide: doubled tissue of a pale slide looks like single
tissue of a dark one.

Optical densities are natural logarithms of the light of glass (`GLASS`) over the light of the pixel.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histocae.params import Quality
from histocae.patches.store import MEASURES

# The rule by which patches are measured and flagged; one that measures or flags otherwise gets another name
RULE = "quality-2"
FAULTS = ("pen", "blur", "fold", "debris", "pale")
# MEASURES has a measure for each fault, in the order of FAULTS:
# pen_share     share of the patch under ink, 0 to 1
# sharpness     detail of 1 to 2 microns against that of 2 to 4 microns, in gray levels; blurred patches have about 1
# saturation    mean optical density of the color of stained tissue; a fold has about twice that of its slide
# debris_share  share of the patch that is near-black, but not ink, 0 to 1
# stain         what a third of the patch exceeds of the optical density of color and half of that of green
# A patch is flagged beyond its threshold: above for pen, fold and debris, below for blur and pale. That of folds is a
# multiple of the median of the slide's patches. Stain counts as on a slide whose median is USUAL_STAIN, where the
# slide's is above.
THRESHOLDS = {"pen": 0.2, "blur": 3.3, "fold": 1.35, "debris": 0.12, "pale": 0.4}
GLASS = 245  # light of empty glass

# Colors are measured on means of blocks of about BLOCK microns.
BLOCK = 4.0
# Ink lies evenly over whatever is below it, so that also the brightest spots near it have its color, whereas tissue
# has bright gaps every few microns. So what is judged is the lightest value of each channel within squares of WINDOW
# microns, of LEAST_WINDOW blocks at least. Ink is the union of all such squares, at every position.
WINDOW, LEAST_WINDOW = 20.0, 3


class Ink(NamedTuple):
    """When the lightest values of a square are those of an ink.

    Weights are linear discriminants of inked and clean tissue. Limits are above what the dark, red and violet tissues
    among real slides and tiles reach.

    Attributes:
        weights: of the densities of red, green and blue.
        limit: that the weighted sum exceeds.
        red: bounds of the density of red, as a multiple of that of green.
        blue: bounds of that of blue, likewise.
        even: whether the sum counts only so far as the lightest values are as dense as the darkest. Dense tissue that
            is red is as even as ink, but none that is violet, blue or black.

    """

    weights: tuple[float, float, float]
    limit: float
    red: tuple[float, float] = (-np.inf, np.inf)
    blue: tuple[float, float] = (-np.inf, np.inf)
    even: bool = True


INKS = {
    "red": Ink((-1.00, 0.55, 0.66), 1.00, red=(-np.inf, 0.42), blue=(0.45, np.inf), even=False),
    "black": Ink((1.00, -0.68, 0.92), 0.64, red=(0.62, np.inf), blue=(0.60, np.inf)),
    "blue": Ink((1.00, -0.22, -0.28), 0.36, red=(0.70, np.inf)),
    "green": Ink((1.00, -0.89, 0.65), 0.68, even=False),
    "violet": Ink((0.61, 0.94, -1.00), 0.69, red=(0.33, 0.80), blue=(0.15, 0.50)),
    "purple": Ink((0.61, 0.94, -1.00), 0.69, red=(0.16, 0.62), blue=(-np.inf, 0.50)),
}
BLACK = 55  # debris lets less light through, both red and blue: hematoxylin lets blue through
RAGGED = 0.3  # edges of black blocks for each of them: a stroke of opaque ink has fewer, specks have more
STAINED = 0.15  # least optical density of the color of stained tissue
UPPER = 0.65  # of a patch's blocks have at most the color that `stain` is

# Detail is measured where a patch has tissue, in up to 4 x 4 squares, and the patch is as sharp as the square that
# SHARPER of them exceed: a patch that is partly out of focus is flagged, too.
DETAIL_MPP = 0.5  # microns per pixel of the finest detail that counts
SQUARES, SHARPER = 4, 0.6
EMPTY = 0.12  # a square of less green density shows nothing that could be sharp
NOTHING = 99.0  # sharpness of a patch with nothing to judge
LEAST_PATCHES = 10  # of a slide, to tell which saturation and stain it usually has
USUAL_STAIN = 0.75
AT_ONCE = 2**21  # pixels: what is computed of them stays in the processor's cache
_DENSITY = (-np.log(np.arange(256).clip(1) / GLASS)).astype(np.float32)


def measure(patches: NDArray[np.uint8], mpp: float | None) -> dict[str, NDArray[np.float32]]:
    """Measure the faults of patches.

    Args:
        patches: uint8, shape (n, pixels, pixels, 3), RGB before any conversion of color; at least 8 pixels a side.
        mpp: microns per pixel of the patches; None: unknown, taken as 0.5.

    Returns:
        For each of MEASURES float32, shape (n,), finite.

    Raises:
        ValueError: the patches have less than 8 pixels a side.

    Example:
        >>> glass = np.full((1, 64, 64, 3), 245, np.uint8)
        >>> {name: round(float(values[0]), 2) for name, values in measure(glass, 0.5).items()}
        {'pen_share': 0.0, 'sharpness': 99.0, 'saturation': 0.0, 'debris_share': 0.0, 'stain': 0.0}

    """
    pixels = patches.shape[1]
    if pixels < 8:
        raise ValueError(f"patches of {pixels} pixels a side are too small to measure; 8 are enough")
    found = np.empty((len(MEASURES), len(patches)), np.float32)
    step = max(1, AT_ONCE // pixels**2)
    for start in range(0, len(patches), step):
        part = np.s_[start : start + step]
        found[:, part] = _measure(patches[part], DETAIL_MPP if mpp is None else mpp)
    return dict(zip(MEASURES, found, strict=True))


def thresholds(settings: Quality) -> dict[str, float]:
    """Give the threshold of each fault.

    Args:
        settings: the section `quality` of params.yaml.

    Returns:
        Those of the settings, and the default ones where these have no number.

    """
    given = {fault: getattr(settings, fault) for fault in FAULTS}
    return {
        fault: THRESHOLDS[fault] if value is None or isinstance(value, bool) else float(value)
        for fault, value in given.items()
    }


def left_out(settings: Quality) -> list[str]:
    """List the faults whose patches are left out.

    Args:
        settings: the section `quality` of params.yaml.

    Returns:
        Of FAULTS, in their order.

    """
    return [fault for fault in FAULTS if getattr(settings, fault) not in (None, False)]


def flag(
    measures: Mapping[str, ArrayLike],
    thresholds: Mapping[str, float] = THRESHOLDS,
    slides: ArrayLike | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """Flag the patches whose measures are beyond the thresholds.

    Whole slides are needed: folds and pale stain are flagged by the medians of the slide's patches without ink. With
    fewer than 10 of these, no folds are flagged, and stain counts as it is.

    Args:
        measures: what `measure` returns, each of shape (n,).
        thresholds: of each of FAULTS.
        slides: the slide of each patch, of any type that sorts, shape (n,); None: all are of one slide.

    Returns:
        For each of FAULTS bool, shape (n,).

    """
    pen, sharpness, saturation, debris, stain = (np.asarray(measures[name]) for name in MEASURES)
    inked = pen > thresholds["pen"]
    codes = np.zeros(len(pen), np.int64) if slides is None else np.unique(np.asarray(slides), return_inverse=True)[1]
    usual, usual_stain = (_medians(values, codes, ~inked) for values in (saturation, stain))
    darker = np.maximum(np.nan_to_num(usual_stain, posinf=0), USUAL_STAIN) / USUAL_STAIN
    return {
        "pen": inked,
        "blur": sharpness < thresholds["blur"],
        "fold": (saturation > thresholds["fold"] * usual) & ~inked,
        "debris": debris > thresholds["debris"],
        "pale": stain < thresholds["pale"] * darker,
    }


def _medians(values: NDArray[Any], codes: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the median of each patch's group, of those that count; infinite where they are few."""
    medians = np.full(int(codes.max(initial=0)) + 1, np.inf)
    own, kept = codes[counted], values[counted]
    order = np.lexsort((kept, own))
    sizes = np.bincount(own, minlength=len(medians))
    starts = np.cumsum(sizes) - sizes
    enough = sizes >= LEAST_PATCHES
    middles = [starts[enough] + (sizes[enough] - 1) // 2, starts[enough] + sizes[enough] // 2]
    found = np.mean([kept[order[middle]] for middle in middles], axis=0)
    medians[enough] = np.maximum(found, STAINED)  # without any color, anything would be a multiple
    return medians[codes]


def _measure(patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
    """Measure a few patches; float32, shape (len(MEASURES), n)."""
    pixels = patches.shape[1]
    fine = 4 if mpp <= DETAIL_MPP / np.sqrt(2) and pixels >= 16 else 2
    block = 2 ** round(np.clip(np.log2(BLOCK / mpp), 0, int(np.log2(pixels)) - 1))
    rows = _halved(patches, fine)
    sharpness = _sharpness(rows[..., 1], fine)
    rows = _halved(rows, block // fine) if block >= fine else _halved(patches, block)
    # sums of 16 x 16 values of a byte are the largest that 16 bits hold
    planes = np.ascontiguousarray(np.moveaxis(rows, 3, 0), np.uint16 if block <= 16 else np.uint32)
    planes = _halved(planes, block, axis=3)
    blocks = ((planes + block**2 // 2) // block**2).astype(np.uint8)
    # images without any color, in which only what is near-black can be told from tissue
    gray = ((blocks[0] == blocks[1]) & (blocks[1] == blocks[2])).all(axis=(1, 2))
    inked, pen = _pen(blocks, gray, WINDOW / (block * mpp))
    debris = _debris(np.maximum(blocks[0], blocks[2]) < BLACK, inked)
    red, green, blue = _DENSITY[blocks].reshape(3, len(patches), -1)
    color = green - np.minimum(red, blue)
    stained = color > STAINED
    saturation = (color * stained).sum(axis=1) / np.maximum(stained.sum(axis=1), 1)
    nth = int(UPPER * color.shape[1])
    stain = np.partition(color + np.float32(0.5) * green, nth, axis=1)[:, nth]
    stain[gray & (stain > EMPTY / 2)] = NOTHING
    return np.stack([pen, sharpness, saturation, debris, stain])


def _halved(values: NDArray[Any], factor: int, axis: int = 1) -> NDArray[Any]:
    """Sum every `factor` values, a power of two, along an axis by adding neighbors; an incomplete sum is left out."""
    while factor > 1:
        pairs = values.shape[axis] // 2 * 2
        first, second = ((slice(None),) * axis + (slice(start, pairs, 2),) for start in (0, 1))
        wide = np.uint16 if values.dtype == np.uint8 else values.dtype
        values = np.add(values[first], values[second], dtype=wide)
        factor //= 2
    return values


def _pen(
    blocks: NDArray[np.uint8], gray: NDArray[np.bool_], across: float
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Find ink in blocks (3, n, rows, columns): those under it, bool, (n, rows, columns); and its share, (n,).

    `across` is the side of a window in blocks.
    """
    side = blocks.shape[2]
    window = min(max(round(across), LEAST_WINDOW), side)
    lightest, darkest = (_DENSITY[_within(choose, blocks, window)] for choose in (np.maximum, np.minimum))
    red, green, blue = lightest
    of_red, of_blue = (plane / np.maximum(green, np.float32(0.02)) for plane in (red, blue))
    even = lightest.sum(axis=0) / np.maximum(darkest.sum(axis=0), np.float32(0.1))
    inked, share = np.zeros(blocks.shape[1:], bool), np.zeros(blocks.shape[1], np.float32)
    possible = ~gray[:, None, None] | (green > _DENSITY[BLACK])
    for ink in INKS.values():
        # no product of matrices: its rounding depends on the number of patches
        total = sum(np.float32(weight) * plane for weight, plane in zip(ink.weights, lightest, strict=True))
        beyond = possible & ((total * even if ink.even else total) > ink.limit)
        beyond &= (of_red > ink.red[0]) & (of_red < ink.red[1]) & (of_blue > ink.blue[0]) & (of_blue < ink.blue[1])
        some, edge = beyond.any(axis=(1, 2)), window - 1  # most patches have none
        under = _within(np.logical_or, np.pad(beyond[some], ((0, 0), (edge, edge), (edge, edge))), window)
        inked[some] |= under
        # of one ink: a stroke has one color
        share[some] = np.maximum(share[some], under.mean(axis=(1, 2), dtype=np.float32))
    return inked, share


def _within(choose: np.ufunc, values: NDArray[Any], window: int) -> NDArray[Any]:
    """Reduce the squares of `window` values a side at every position of the last two axes."""
    for axis in (-2, -1):
        done = 1
        while done < window:
            step = min(done, window - done)
            first, second = (
                values.swapaxes(axis, 0)[part].swapaxes(axis, 0) for part in (slice(None, -step), slice(step, None))
            )
            values = choose(first, second)
            done += step
    return values


def _debris(black: NDArray[np.bool_], inked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute how much of each patch is black in specks, or black but not ink; masks of blocks (n, side, side)."""
    count = black.sum(axis=(1, 2))
    edges = (black[:, 1:] != black[:, :-1]).sum(axis=(1, 2)) + (black[:, :, 1:] != black[:, :, :-1]).sum(axis=(1, 2))
    specks = edges > RAGGED * count
    shares: NDArray[np.float64] = np.where(specks, count, (black & ~inked).sum(axis=(1, 2))) / black[0].size
    return shares


def _sharpness(rows: NDArray[np.uint16], fine: int) -> NDArray[np.float32]:
    """Measure sharpness in sums of `fine` rows of green light, shape (n, pixels // fine, pixels)."""
    n, cells = rows.shape[0], rows.shape[1] // 4
    squares = min(SQUARES, cells)
    cells = cells // squares
    # every second row of cells tells as much as all, in half the time
    bands = rows[:, : squares * cells * 4, : squares * cells * 4 * fine].reshape(n, squares, cells, 4, -1)[:, :, ::2]
    green = _halved(bands.reshape(n, -1, bands.shape[-1]), fine, axis=2).astype(np.float32)
    finest, means = _octave(green * np.float32(1 / fine**2), squares)
    coarse, means = _octave(means, squares)
    judged = _square_means(means, squares) < GLASS * np.exp(-EMPTY)
    ratio = np.minimum((finest + 0.5) / np.sqrt(coarse + 1), NOTHING)
    ratio = np.sort(np.where(judged, ratio, np.float32(NOTHING)), axis=1)
    place = ((1 - SHARPER) * judged.sum(axis=1)).astype(np.int64)
    chosen: NDArray[np.float32] = ratio[np.arange(n), place]
    return chosen


def _octave(values: NDArray[np.float32], squares: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the variance within 2 x 2 values, averaged over squares (n, squares**2), and the means of 2 x 2."""
    means = _halved(_halved(values, 2), 2, axis=2) * np.float32(0.25)
    within = _square_means(np.square(values), squares) - _square_means(np.square(means), squares)
    return np.maximum(within, 0), means


def _square_means(values: NDArray[np.float32], squares: int) -> NDArray[np.float32]:
    """Average values (n, rows, columns) over squares; float32, shape (n, squares**2)."""
    n, height, width = values.shape
    sums = values.reshape(n, squares, height // squares, width).sum(axis=2)
    sums = sums.reshape(n, squares, squares, width // squares).sum(axis=3)
    means: NDArray[np.float32] = sums.reshape(n, -1) * np.float32(squares**2 / (height * width))
    return means
