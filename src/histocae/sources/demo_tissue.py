"""Tissue of the demo cohort as amounts of two stains: stroma, glands, nuclei, nests of tumor.

Lengths are in microns unless a name says otherwise; images are (rows, columns). All random
numbers come from the generator that a caller passes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float32]
Amounts = NDArray[np.floating[Any]]  # float32 or float64, whatever the computation before gave
Flags = NDArray[np.bool_]

TRUTH_MICRONS = 4.0  # side of a pixel of the truth mask
GROUND_MICRONS = 0.5  # grid of everything but nuclei and fibers, which are drawn at the slide's own mpp
LEVELS = 1024  # steps in which stain amounts are ranked
MOST_STAIN = 2.0  # amount at the last step


def resize(field: NDArray[Any], size: int) -> Floats:
    """Resize a field by bilinear interpolation.

    Args:
        field: of numbers, shape (rows, columns).
        size: rows and columns of the result.

    Returns:
        float32, shape (size, size).

    """
    return np.array(Image.fromarray(field.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR))


def noise(rng: np.random.Generator, size: int, step: float, scale: float) -> Floats:
    """Draw smooth noise.

    Args:
        rng: of the draw.
        size: rows and columns.
        step: microns per pixel.
        scale: microns across a typical blot.

    Returns:
        float32, shape (size, size), mean 0 and standard deviation 1.

    """
    n = max(8, int(np.ceil(2 * size * step / scale)))
    small = ndimage.gaussian_filter(rng.standard_normal((n, n), dtype=np.float32), 1.0, mode="wrap")
    field: Floats = np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))
    scaled: Floats = (field - field.mean()) / field.std()
    return scaled


def region(score: Floats, inside: Flags, share: float, pieces: int) -> Floats:
    """Choose the region with the highest scores.

    Args:
        score: float32, shape (rows, columns), a pixel for each of the truth mask.
        inside: bool, of the same shape: where the region may lie.
        share: of the pixels inside, before small pieces are dropped.
        pieces: the most connected pieces that the region has.

    Returns:
        Signed distance to the border of the region in microns, > 0 within; float32, of the same shape.

    """
    mask = inside & (score > np.quantile(score[inside], 1 - share))
    labels, count = ndimage.label(ndimage.binary_opening(mask, iterations=2))
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, count + 1))
    keep = np.argsort(-sizes, kind="stable")[:pieces] + 1
    mask = np.isin(labels, keep)
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    distance: Floats = (TRUTH_MICRONS * (depth - 0.5 * np.sign(depth))).astype(np.float32)
    return distance


def _grid(rng: np.random.Generator, side: float, pitch: float, jitter: float) -> NDArray[np.float64]:
    """Return points (n, 2), y and x, of a hexagonal lattice over the slide, each moved by up to `jitter` each way."""
    rows, columns = (np.arange(0, side + pitch, d, dtype=np.float64) for d in (pitch * 0.866, pitch))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + np.where(np.arange(len(rows)) % 2, pitch / 2, 0)[:, None] - pitch / 2
    points = np.stack([y.ravel(), x.ravel()], axis=1) + rng.uniform(-jitter, jitter, (y.size, 2))
    kept: NDArray[np.float64] = points[((points >= 0) & (points < side)).all(axis=1)]
    return kept


def _at(field: NDArray[Any], points: NDArray[np.float64], side: float) -> NDArray[Any]:
    """Return a square field's values at points (n, 2) in microns."""
    y, x = (points * (len(field) / side)).astype(int).clip(0, len(field) - 1).T
    values: NDArray[Any] = field[y, x]
    return values


def _glands(rng: np.random.Generator, side: float) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Return distances (< 0 within) to glands and to their lumina on a grid of 1 micron, and ring nuclei (n, 2)."""
    size = int(np.ceil(side))
    gland, lumen = np.full((2, size, size), 99, np.float32)
    nuclei = []
    for y, x in _grid(rng, side, 63, 7):
        radius, wall = rng.uniform(21, 31), rng.uniform(11, 13)
        waves = rng.uniform(0.02, [0.16, 0.08])
        phases = rng.uniform(0, 2 * np.pi, 2)

        top, left = max(0, int(y) - 40), max(0, int(x) - 40)
        window = np.s_[top : int(y) + 41, left : int(x) + 41]
        dy, dx = (a.astype(np.float32) - b for a, b in zip(np.ogrid[window], (y, x), strict=True))
        dy, dx = dy[: size - top], dx[:, : size - left]
        depth = np.hypot(dy, dx) - _edge(np.arctan2(dy, dx), radius, waves, phases)
        gland[window] = np.minimum(gland[window], depth)
        lumen[window] = np.minimum(lumen[window], depth + wall)
        count = int(2 * np.pi * (radius - 5) / 6.6)
        angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.12, 0.12, count)) / count + phases[0]
        reach = _edge(angles, radius, waves, phases) - 4.8 + rng.normal(0, 0.5, count)
        nuclei.append(np.stack([y + reach * np.sin(angles), x + reach * np.cos(angles)], axis=1))
    points = np.concatenate(nuclei)
    points = points[((points > 0) & (points < side)).all(axis=1)]
    return gland, lumen, points[_at(gland, points, side) > -8]  # none inside a gland that overlaps


def _edge(
    angle: NDArray[Any], radius: float, waves: NDArray[np.float64], phases: NDArray[np.float64]
) -> NDArray[Any]:
    """Return the distance from a gland's center to its wavy edge in the direction of each angle."""
    edge: NDArray[Any] = radius * (
        1 + waves[0] * np.cos(2 * angle + phases[0]) + waves[1] * np.cos(3 * angle + phases[1])
    )
    return edge


def _stamps(rng: np.random.Generator, mpp: float, kind: str) -> Floats:
    """Draw nuclei to paste, (n, 2, s, s) float32: how much of each pixel is nucleus (0 to 1), and its hematoxylin."""
    # microns across, longest to shortest axis, irregularity, share with nucleoli, chromatin contrast
    across, ratio, rough, nucleoli, contrast = {
        "gland": ((5.7, 6.7), (1.0, 1.2), 0.02, 0.0, 0.14),
        "stroma": ((4.4, 5.6), (2.0, 3.6), 0.05, 0.0, 0.12),
        "tumor": ((9.0, 13.5), (1.05, 1.9), 0.06, 0.45, 0.17),
    }[kind]
    n, half = 48, int(np.ceil((8 if kind == "gland" else 11) / mpp))
    y, x = (np.mgrid[-half : half + 1, -half : half + 1] * mpp).astype(np.float32)
    turn, phase = rng.uniform(0, 2 * np.pi, (n, 1, 1)), rng.uniform(0, 2 * np.pi, (3, n, 1, 1))
    stretch = np.sqrt(rng.uniform(*ratio, (n, 1, 1)))
    u = (x * np.cos(turn) + y * np.sin(turn)) / stretch
    v = (y * np.cos(turn) - x * np.sin(turn)) * stretch
    radius = rng.uniform(*across, (n, 1, 1)) / 2
    angle = np.arctan2(v, u)
    waves = sum(rng.normal(0, rough, (n, 1, 1)) * np.cos(k * angle + phase[k - 2]) for k in (2, 3, 4))
    inside = radius * (1 + waves) - np.hypot(u, v)  # microns to the rim
    cover = np.clip(0.5 + inside / 0.6, 0, 1)
    clots = ndimage.gaussian_filter(rng.standard_normal(cover.shape, dtype=np.float32), (0, 0.45 / mpp, 0.45 / mpp))
    clots /= clots.std()
    amount = rng.normal(0.95, 0.08 if kind != "tumor" else 0.11, (n, 1, 1)).clip(0.6, 1.3)
    amount = amount * (0.9 + contrast * clots + 0.22 * np.exp(-(((inside - 0.5) / 0.6) ** 2)))
    offset = rng.uniform(-0.35, 0.35, (2, n, 1, 1)) * radius
    spot = np.exp(-((((u - offset[0]) ** 2 + (v - offset[1]) ** 2) / 1.1**2) ** 2))
    amount = amount + 0.7 * spot * (rng.random((n, 1, 1)) < nucleoli)
    stamps: Floats = np.stack([cover, amount.clip(0.25, 1.9)], axis=1).astype(np.float32)
    return stamps


def _paste(
    rng: np.random.Generator, stains: Amounts, stamps: Floats, points: NDArray[np.float64], mpp: float
) -> None:
    """Put a random stamp at each point (microns) into stains (2, size, size), hematoxylin and eosin, in place."""
    half, size = stamps.shape[-1] // 2, stains.shape[-1]
    picks = rng.integers(len(stamps), size=len(points))
    for (y, x), pick in zip((points / mpp).astype(int), picks, strict=True):
        top, left = max(0, y - half), max(0, x - half)
        below, right = min(size, y + half + 1), min(size, x + half + 1)
        cover, amount = stamps[pick][:, top - y + half : below - y + half, left - x + half : right - x + half]
        h, e = stains[:, top:below, left:right]  # views: the nucleus covers the tissue below
        h += cover * (amount - h)
        e += cover * (0.24 - e)


def _fibers(rng: np.random.Generator, side: float, mpp: float) -> Floats:
    """Draw wavy strands, (size, size) float32, mean about 0 and standard deviation about 1."""
    size, tile = round(side / mpp), round(256 / mpp)
    # One wrapped tile of straight strands, looked up along bent lines: cheap, and as fine as mpp allows
    strands = sum(
        w
        * ndimage.gaussian_filter(
            rng.standard_normal((tile, tile), dtype=np.float32), (s / mpp, 14 * s / mpp), mode="wrap"
        )
        * (s / mpp)
        for s, w in ((0.3, 0.5), (0.8, 1.0), (2.0, 0.8))
    )
    strands /= strands.std()
    coarse = max(16, size // 8)
    y, x = np.mgrid[0:coarse, 0:coarse].astype(np.float32) * (size / coarse)
    turn, step = rng.uniform(0, np.pi), side / coarse
    bend = [noise(rng, coarse, step, scale) * far / mpp for scale, far in ((160, 40), (160, 40), (40, 6), (40, 6))]
    u = x * np.cos(turn) + y * np.sin(turn) + bend[0] + bend[2]
    v = y * np.cos(turn) - x * np.sin(turn) + bend[1] + bend[3]
    rows, columns = (resize(c, size).astype(np.int32) % tile for c in (v, u))
    field: Floats = strands.ravel()[rows * tile + columns]
    return field


def draw(
    rng: np.random.Generator, side: float, mpp: float, tissue: Floats, tumor: Floats
) -> tuple[Amounts, NDArray[np.uint8]]:
    """Draw a square piece of tissue.

    Args:
        rng: of all that is random.
        side: of the piece in microns.
        mpp: microns per pixel.
        tissue: signed distance to the border of the tissue in microns, > 0 within; float32, a square grid.
        tumor: likewise to the border of the tumor.

    Returns:
        Amounts of hematoxylin and eosin, float, shape (2, size, size); and the kind of each pixel, uint8, shape
        (size, size): 0 glass, 1 normal tissue, 2 tumor.

    """
    size, ground = round(side / mpp), round(side / GROUND_MICRONS)

    def blots(scale: float) -> Floats:
        return noise(rng, ground, GROUND_MICRONS, scale)

    gland, lumen, ring = _glands(rng, side)
    grain, coarse = blots(1.6), blots(6)
    within = resize(tissue, ground) + 0.8 * grain + 1.2 * coarse
    invaded = resize(tumor, ground) + 2 * coarse > 0
    band = 0.22 - abs(blots(70))  # thin strands of stroma between nests of tumor
    gap = blots(2.8) + 0.3 * blots(10) + 0.1 * grain - 0.60
    epithelium = np.where(invaded, 0.5 - band / 0.06, 0.5 - (resize(gland, ground) + 0.5 * grain)).clip(0, 1)
    hollow = 0.5 - (resize(lumen, ground) + 0.8 * grain + 0.8 * coarse)
    hollow = np.where(invaded, gap / 0.25 * epithelium, hollow).clip(0, 1)
    body = np.clip(0.5 + within, 0, 1) * (1 - 0.93 * hollow)
    # Cytoplasm and stroma differ in texture more than in stain
    mottle = 0.7 * grain + 0.7 * blots(4)
    base = np.stack(
        [
            body * (0.15 + 0.04 * coarse + epithelium * (0.03 + 0.03 * mottle)),
            body * (0.50 + epithelium * 0.11 * mottle),
        ]
    )
    stains = np.stack([resize(b, size) for b in base])
    stains += (
        _fibers(rng, side, mpp) * resize(body * (1 - epithelium), size) * np.array([[[0.02]], [[0.12]]], np.float32)
    )
    loose = _grid(rng, side, 12, 5.5)
    wanted = np.where(_at(invaded, loose, side), _at(band, loose, side) > 0.08, _at(gland, loose, side) > 2.5)
    wild = _grid(rng, side, 12.5, 6)
    clump = np.clip(0.56 + 0.25 * _at(blots(25), wild, side), 0.1, 0.97)
    clump = clump * (_at(gap, wild, side) < -0.15) * (_at(band, wild, side) < 0) * _at(invaded, wild, side)
    for kind, points in (
        ("stroma", loose[wanted]),
        ("gland", ring[~_at(invaded, ring, side)]),
        ("tumor", wild[rng.random(len(wild)) < clump]),
    ):
        points = points[_at(within, points, side) > 3]
        _paste(rng, stains, _stamps(rng, mpp, kind), points, mpp)
    for stain in stains:
        ndimage.gaussian_filter(stain, 0.22 / mpp, output=stain, truncate=3)
    return stains, resize((within > 0) * (1 + invaded.astype(np.float32)), size).round().astype(np.uint8)


def _steps(hematoxylin: Amounts, eosin: Amounts) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return amounts in whole steps: hematoxylin; and coarse hematoxylin (the row) with eosin, in one number."""
    h, e = (
        (stain * np.float32(LEVELS / MOST_STAIN)).clip(0, LEVELS - 1).astype(np.int32)
        for stain in (hematoxylin, eosin)
    )
    return h, (h >> 4) * LEVELS + e


def _ranks(steps: NDArray[np.int32], rows: int) -> NDArray[np.float64]:
    """Return the middle rank (0 to 1) of each of LEVELS steps in each row, (rows, LEVELS); 0 in an empty row."""
    counts = np.bincount(steps, minlength=rows * LEVELS).reshape(rows, LEVELS).astype(np.float64)
    counts = ndimage.gaussian_filter1d(counts, 1.5, axis=0)  # no seam between neighboring rows
    ranks: NDArray[np.float64] = (np.cumsum(counts, axis=1) - counts / 2) / np.maximum(
        counts.sum(axis=1, keepdims=True), 1
    )
    return ranks


def match(stains: Amounts, part: Flags, model: Amounts) -> None:
    """Map some pixels, rank by rank and in place, onto a model's joint distribution of both stains.

    First hematoxylin is matched, then eosin among pixels of about the same hematoxylin.

    Args:
        stains: hematoxylin and eosin, float, shape (2, size, size).
        part: bool, shape (size, size): the pixels to map.
        model: hematoxylin and eosin of other tissue, float, shape (2, n, n).

    """
    amounts, goals = [amount[part] for amount in stains], _steps(*model.reshape(2, -1))
    for stain, rows in ((0, 1), (1, LEVELS >> 4)):
        steps = _steps(*amounts)[stain]
        table = np.stack(
            [
                np.interp(own, goal, np.arange(LEVELS)) if own[-1] and goal[-1] else np.arange(LEVELS)
                for own, goal in zip(_ranks(steps, rows), _ranks(goals[stain], rows), strict=True)
            ]
        )
        amounts[stain] = ((table.astype(np.float32) + 0.5) * (MOST_STAIN / LEVELS)).ravel()[steps]
        stains[stain][part] = amounts[stain]
