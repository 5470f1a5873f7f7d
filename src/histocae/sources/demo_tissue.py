"""Tissue for the demo cohort, as amounts of two stains: stroma, glands, nuclei, nests of tumor.

Lengths are in microns unless a name says otherwise; images are (rows, columns). All that is
random comes from the generator that is handed in.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

TRUTH_MICRONS = 4.0  # one truth pixel
GROUND_MICRONS = 0.5  # grid of everything but nuclei and fibers, which are drawn at the slide's own mpp
LEVELS = 1024  # steps in which stain amounts are ranked
MOST_STAIN = 2.0  # amount at the last step


def resize(field: np.ndarray, size: int) -> np.ndarray:
    """A float32 field stretched to (size, size), bilinear."""
    return np.array(Image.fromarray(field.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR))


def noise(rng: np.random.Generator, size: int, step: float, scale: float) -> np.ndarray:
    """Smooth noise, (size, size) float32, mean 0 and deviation 1, pixels of step and blots of scale microns."""
    n = max(8, int(np.ceil(2 * size * step / scale)))
    small = ndimage.gaussian_filter(rng.standard_normal((n, n), dtype=np.float32), 1.0, mode="wrap")
    small = np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))
    return (small - small.mean()) / small.std()


def region(score: np.ndarray, inside: np.ndarray, share: float, pieces: int) -> np.ndarray:
    """Signed distance (microns, > 0 within) to the highest-scoring share of inside, in few pieces."""
    mask = inside & (score > np.quantile(score[inside], 1 - share))
    labels, count = ndimage.label(ndimage.binary_opening(mask, iterations=2))
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, count + 1))
    keep = np.argsort(-sizes, kind="stable")[:pieces] + 1
    mask = np.isin(labels, keep)
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return (TRUTH_MICRONS * (depth - 0.5 * np.sign(depth))).astype(np.float32)


def _grid(rng: np.random.Generator, side: float, pitch: float, jitter: float) -> np.ndarray:
    """Points (n, 2) as y, x of a hexagonal lattice over the slide, each moved by up to jitter each way."""
    rows, columns = (np.arange(0, side + pitch, d, dtype=np.float64) for d in (pitch * 0.866, pitch))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + np.where(np.arange(len(rows)) % 2, pitch / 2, 0)[:, None] - pitch / 2
    points = np.stack([y.ravel(), x.ravel()], axis=1) + rng.uniform(-jitter, jitter, (y.size, 2))
    return points[((points >= 0) & (points < side)).all(axis=1)]


def _at(field: np.ndarray, points: np.ndarray, side: float) -> np.ndarray:
    """A square field's values at points (n, 2) in microns."""
    y, x = (points * (len(field) / side)).astype(int).clip(0, len(field) - 1).T
    return field[y, x]


def _glands(rng: np.random.Generator, side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances (microns, < 0 within) to glands and to their lumina on a 1 micron grid; ring nuclei (n, 2)."""
    size = int(np.ceil(side))
    gland, lumen = np.full((2, size, size), 99, np.float32)
    nuclei = []
    for y, x in _grid(rng, side, 63, 7):
        radius, wall = rng.uniform(21, 31), rng.uniform(11, 13)
        waves = rng.uniform(0.02, [0.16, 0.08])
        phases = rng.uniform(0, 2 * np.pi, 2)

        def edge(angle, radius=radius, waves=waves, phases=phases):
            return radius * (1 + waves[0] * np.cos(2 * angle + phases[0]) + waves[1] * np.cos(3 * angle + phases[1]))

        top, left = max(0, int(y) - 40), max(0, int(x) - 40)
        window = np.s_[top : int(y) + 41, left : int(x) + 41]
        dy, dx = (a.astype(np.float32) - b for a, b in zip(np.ogrid[window], (y, x), strict=True))
        dy, dx = dy[: size - top], dx[:, : size - left]
        depth = np.hypot(dy, dx) - edge(np.arctan2(dy, dx))
        gland[window] = np.minimum(gland[window], depth)
        lumen[window] = np.minimum(lumen[window], depth + wall)
        count = int(2 * np.pi * (radius - 5) / 6.6)
        angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.12, 0.12, count)) / count + phases[0]
        reach = edge(angles) - 4.8 + rng.normal(0, 0.5, count)
        nuclei.append(np.stack([y + reach * np.sin(angles), x + reach * np.cos(angles)], axis=1))
    points = np.concatenate(nuclei)
    points = points[((points > 0) & (points < side)).all(axis=1)]
    return gland, lumen, points[_at(gland, points, side) > -8]  # none inside a gland that overlaps


def _stamps(rng: np.random.Generator, mpp: float, kind: str) -> np.ndarray:
    """Nuclei to paste, (n, 2, s, s) float32: how much each pixel is nucleus (0..1), and its hematoxylin."""
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
    return np.stack([cover, amount.clip(0.25, 1.9)], axis=1).astype(np.float32)


def _paste(rng: np.random.Generator, stains: np.ndarray, stamps: np.ndarray, points: np.ndarray, mpp: float) -> None:
    """Put a stamp at each point (microns) into stains (2, size, size), hematoxylin and eosin, in place."""
    half, size = stamps.shape[-1] // 2, stains.shape[-1]
    picks = rng.integers(len(stamps), size=len(points))
    for (y, x), pick in zip((points / mpp).astype(int), picks, strict=True):
        top, left = max(0, y - half), max(0, x - half)
        below, right = min(size, y + half + 1), min(size, x + half + 1)
        cover, amount = stamps[pick][:, top - y + half : below - y + half, left - x + half : right - x + half]
        h, e = stains[:, top:below, left:right]  # views: the nucleus lies over what was there
        h += cover * (amount - h)
        e += cover * (0.24 - e)


def _fibers(rng: np.random.Generator, side: float, mpp: float) -> np.ndarray:
    """Wavy strands, (size, size) float32, mean about 0 and deviation about 1."""
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
    return strands.ravel()[rows * tile + columns]


def draw(
    rng: np.random.Generator, side: float, mpp: float, tissue: np.ndarray, tumor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One piece of tissue, given signed distances (microns, > 0 within) to tissue and to tumor, any grid.

    Returns hematoxylin and eosin amounts, (2, size, size) float32, and where each pixel lies,
    (size, size) uint8: 0 glass, 1 normal tissue, 2 tumor.
    """
    size, ground = round(side / mpp), round(side / GROUND_MICRONS)

    def blots(scale):
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
    stains += _fibers(rng, side, mpp) * resize(body * (1 - epithelium), size) * np.float32([[[0.02]], [[0.12]]])
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


def _steps(h: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Amounts in whole steps: hematoxylin, and eosin with coarse hematoxylin as its row, in one number."""
    h, e = ((stain * np.float32(LEVELS / MOST_STAIN)).clip(0, LEVELS - 1).astype(np.int32) for stain in (h, e))
    return h, (h >> 4) * LEVELS + e


def _ranks(steps: np.ndarray, rows: int) -> np.ndarray:
    """Middle rank (0..1) of each of LEVELS steps in each row, (rows, LEVELS); a row without pixels is 0."""
    counts = np.bincount(steps, minlength=rows * LEVELS).reshape(rows, LEVELS).astype(np.float64)
    counts = ndimage.gaussian_filter1d(counts, 1.5, axis=0)  # no seam where one row gives way to the next
    return (np.cumsum(counts, axis=1) - counts / 2) / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def match(stains: np.ndarray, part: np.ndarray, model: np.ndarray) -> None:
    """Give the pixels in part (bool) the model's joint distribution of both stains, rank by rank, in place.

    First hematoxylin, then eosin among pixels of about the same hematoxylin.
    """
    amounts, goals = [stain[part] for stain in stains], _steps(*model.reshape(2, -1))
    for which, rows in ((0, 1), (1, LEVELS >> 4)):
        steps = _steps(*amounts)[which]
        table = np.stack(
            [
                np.interp(own, goal, np.arange(LEVELS)) if own[-1] and goal[-1] else np.arange(LEVELS)
                for own, goal in zip(_ranks(steps, rows), _ranks(goals[which], rows), strict=True)
            ]
        )
        amounts[which] = ((table.astype(np.float32) + 0.5) * (MOST_STAIN / LEVELS)).ravel()[steps]
        stains[which][part] = amounts[which]
