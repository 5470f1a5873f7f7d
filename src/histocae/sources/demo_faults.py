"""Faults of slides: ink of pens, defocus, folds, debris and pale stain, drawn onto the demo's slides.

Each fault is a field of cover, 0 to 1, and acts where it does on real slides: folds and pale stain on the amounts of
stain, ink and debris on the light, defocus on the image. The functions take any image, so that the measures of
`patches.quality` can be held against faults on real tissue.

Lengths are in microns unless a name says otherwise; images are (rows, columns). All random numbers come from the
generator that a caller passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histocae.sources.demo_tissue import TRUTH_MICRONS, Flags, Floats, noise, resize

FAULTS = ("pen", "blur", "fold", "debris", "pale")
# Natural optical density of each ink in R, G, B, where the pen leaves as much of it as it usually does
INKS = {
    "red": (0.12, 1.50, 1.15),
    "black": (1.90, 1.90, 1.80),
    "blue": (1.70, 0.90, 0.25),
    "green": (1.60, 0.55, 1.00),
    "violet": (0.90, 1.60, 0.40),
}
# What a slide of the demo can have: the names of inks, the other faults, and no tissue at all
KINDS = (*INKS, "blur", "fold", "debris", "pale", "glass")
WIDTHS = {"pen": (50.0, 200.0), "blur": (120.0, 240.0), "fold": (50.0, 110.0), "pale": (120.0, 240.0)}
DEFOCUS = (2.0, 6.0)  # standard deviation of the Gaussian
DOUBLED = (1.85, 2.15)  # stain of folded tissue as multiple of its own
FADED = (0.10, 0.25)
FIBERS = 3  # of a heap of debris
ONE_OF = 4  # slides has faults
GLASS_OF = 10  # slides that have faults shows no tissue


@dataclass(frozen=True)
class Fault:
    """One fault of a slide.

    Attributes:
        kind: of KINDS, without glass.
        strength: what the kind has: optical densities of the ink (R, G, B), microns of defocus, or the multiple of
            the stain; of debris its light, 0 to 1.
        cover: float32, shape (rows, columns), 0 to 1: how far each pixel is under it.

    """

    kind: str
    strength: tuple[float, ...]
    cover: Floats

    @property
    def fault(self) -> str:
        """Of FAULTS: pen for each ink."""
        return "pen" if self.kind in INKS else self.kind


def deal(count: int, rng: np.random.Generator) -> dict[int, tuple[str, ...]]:
    """Deal the kinds of faults among slides, by turns: one slide of four has some, and every kind occurs.

    Args:
        count: of slides.
        rng: of the draw.

    Returns:
        Kinds by the position of the slide; slides that are not in it are clean. A slide of glass has no other fault.

    """
    order = rng.permutation(count)
    faulty = max(2, count // ONE_OF)
    glass = max(1, faulty // GLASS_OF)
    dealt: dict[int, tuple[str, ...]] = {int(i): ("glass",) for i in order[:glass]}
    others, slides = KINDS[:-1], order[glass:faulty]
    for turn in range(max(len(others), len(slides))):
        slide = int(slides[turn % len(slides)])
        dealt[slide] = (*dealt.get(slide, ()), others[turn % len(others)])
    return dealt


def stroke(rng: np.random.Generator, size: int, step: float, width: float, through: Sequence[float]) -> Floats:
    """Draw a band of even width along a bent line.

    Args:
        rng: of the draw.
        size: rows and columns.
        step: microns per pixel.
        width: microns across the band.
        through: the point (y, x) in microns that the line passes.

    Returns:
        Signed distance to the border of the band in microns, > 0 within; float32, shape (size, size).

    """
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) * np.float32(step)
    turn, bend = rng.uniform(0, np.pi), rng.uniform(-1, 1) / 1500
    along = (y - through[0]) * np.sin(turn) + (x - through[1]) * np.cos(turn)
    across = (y - through[0]) * np.cos(turn) - (x - through[1]) * np.sin(turn) + bend * along**2
    waves = 0.03 * width * np.sin(along / rng.uniform(40, 90) + rng.uniform(0, 2 * np.pi))
    distance: Floats = (width / 2 - abs(across + waves)).astype(np.float32)
    return distance


def blot(rng: np.random.Generator, size: int, step: float, width: float, through: Sequence[float]) -> Floats:
    """Draw a roundish region with a wavy border.

    Args:
        rng: of the draw.
        size: rows and columns.
        step: microns per pixel.
        width: microns across the region.
        through: its middle (y, x) in microns.

    Returns:
        Signed distance to the border in microns, > 0 within; float32, shape (size, size).

    """
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) * np.float32(step)
    wavy = 0.08 * width * noise(rng, size, step, max(width / 2, 8 * step))
    distance: Floats = (width / 2 - np.hypot(y - through[0], x - through[1]) + wavy).astype(np.float32)
    return distance


def fill(rng: np.random.Generator, kind: str, distance: Floats, step: float, opaque: bool = False) -> Fault:
    """Fill a region with a fault of one strength: ink, defocus, a fold or pale stain.

    Ink has one hue and about even density, denser along its border, as ink dries. Folds have sharp borders, defocus
    and pale stain smooth ones.

    Args:
        rng: of hue and strength.
        kind: of KINDS, without debris and glass.
        distance: to the border of the region in microns, > 0 within; float32, shape (size, size).
        step: microns per pixel.
        opaque: ink that lets almost no light through.

    Returns:
        The fault.

    """
    if kind in INKS:
        density = np.array(INKS[kind]) * rng.uniform(0.88, 1.12, 3) * (2.2 if opaque else rng.uniform(0.6, 1.3))
        uneven = 1 + 0.08 * noise(rng, len(distance), step, 80.0) + 0.25 * np.exp(-((distance / 6) ** 2))
        cover = np.clip(0.5 + distance / 4, 0, 1) * uneven.clip(0.6)
        return Fault(kind, tuple(density.tolist()), cover.astype(np.float32))
    edge, bounds = {"blur": (16.0, DEFOCUS), "fold": (1.0, DOUBLED), "pale": (20.0, FADED)}[kind]
    return Fault(kind, (rng.uniform(*bounds),), np.clip(0.5 + distance / edge, 0, 1).astype(np.float32))


def heap(rng: np.random.Generator, size: int, step: float, width: float, through: Sequence[float]) -> Fault:
    """Draw a heap of dirt: near-black irregular specks and a few fibers.

    Args:
        rng: of the draw.
        size: rows and columns.
        step: microns per pixel.
        width: microns across the heap.
        through: its middle (y, x) in microns.

    Returns:
        The debris.

    """
    border = blot(rng, size, step, width, through)
    clots = noise(rng, size, step, 14.0) + 0.5 * noise(rng, size, step, 5.0)
    cover = np.clip(0.5 + 3 * (clots - 0.05), 0, 1) * np.clip(0.5 + border / 10, 0, 1)
    for _ in range(FIBERS):
        at = [p + rng.uniform(-width / 3, width / 3) for p in through]
        fiber = stroke(rng, size, step, rng.uniform(4, 9), at)
        cover = np.maximum(cover, np.clip(0.5 + fiber / 1.5, 0, 1) * np.clip(0.5 + (border + 30) / 10, 0, 1))
    return Fault("debris", (rng.uniform(0.04, 0.14),), cover.astype(np.float32))


def draw(rng: np.random.Generator, kind: str, size: int, step: float, tissue: Floats) -> Fault:
    """Draw a fault of a demo slide somewhere within its tissue.

    Args:
        rng: of the draw.
        kind: of KINDS, without glass.
        size: rows and columns of the result.
        step: microns per pixel.
        tissue: signed distance to the border of the tissue, > 0 within; float32, a square grid.

    Returns:
        The fault.

    """
    side = size * step
    rows, columns = np.nonzero(tissue >= np.quantile(tissue, 0.8))
    pick = rng.integers(len(rows))
    through = [(float(p[pick]) + 0.5) * side / len(tissue) for p in (rows, columns)]
    low, high = WIDTHS["pen" if kind in INKS else "blur" if kind == "debris" else kind]
    # a slide of the demo is small: every fault leaves a part of it clean
    width = rng.uniform(low, high) * min(1.0, side / 384)
    if kind == "debris":
        return heap(rng, size, step, width, through)
    shape = stroke if kind in INKS or kind == "fold" else blot
    distance = shape(rng, size, step, width, through)
    return fill(rng, kind, distance, step, opaque=kind == "black" and rng.random() < 0.5)


def stain_factor(faults: Sequence[Fault]) -> Floats | None:
    """Multiply what folds and pale regions do to the amounts of stain.

    Args:
        faults: of the slide.

    Returns:
        float32, shape (rows, columns), or None where no fault is of the stain.

    """
    factor: Floats | None = None
    for fault in faults:
        if fault.kind in ("fold", "pale"):
            own = 1 + (np.float32(fault.strength[0]) - 1) * fault.cover
            factor = own if factor is None else factor * own
    return factor


def transmitted(faults: Sequence[Fault], channel: int) -> Floats | None:
    """Multiply the light that ink and debris let through.

    Args:
        faults: of the slide.
        channel: 0, 1 or 2: red, green or blue.

    Returns:
        float32, shape (rows, columns), 0 to 1, or None where no fault is of the light.

    """
    light: Floats | None = None
    for fault in faults:
        if fault.kind in INKS:
            own = np.exp(-np.float32(fault.strength[channel]) * fault.cover)
        elif fault.kind == "debris":
            own = 1 + (np.float32(fault.strength[0]) - 1) * fault.cover
        else:
            continue
        light = own if light is None else light * own
    return light


def defocused(faults: Sequence[Fault], image: Floats, step: float) -> Floats:
    """Put parts of an image out of focus.

    Args:
        faults: of the slide.
        image: float32, shape (rows, columns): one channel.
        step: microns per pixel.

    Returns:
        float32, shape (rows, columns): `image` itself where no fault is a defocus.

    """
    for fault in faults:
        if fault.kind == "blur":
            blurred = ndimage.gaussian_filter(image, fault.strength[0] / step, truncate=3)
            image = image + fault.cover * (blurred - image)
    return image


def masks(faults: Sequence[Fault], side: float) -> dict[str, Flags]:
    """Mark where the faults lie on the grid of the truth mask.

    Args:
        faults: of a slide of `side` microns.
        side: of the slide.

    Returns:
        For each of FAULTS bool, shape (rows, columns): True where at least half of 4 x 4 microns is under it.

    """
    size = round(side / TRUTH_MICRONS)
    found: dict[str, NDArray[np.bool_]] = {name: np.zeros((size, size), bool) for name in FAULTS}
    for fault in faults:
        found[fault.fault] |= resize(fault.cover, size) > 0.5
    return found
