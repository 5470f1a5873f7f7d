"""Patches without their color or with their stains normalized: what color alone tells.

Scanners, laboratories and days differ in color more than tissues do, and slides of one site
share it; a model may tell classes by that. `rgb` leaves the patches as they are, `grey` takes
color away, `macenko` gives every slide the same two stains.
"""

import numpy as np
from PIL import Image

from histocae.errors import SlideError

MOST_PATCHES = 64  # of a slide, spread evenly, that its stains are estimated from
MOST_PIXELS = 2**20  # of those, and at once where stains are normalized
LIGHT = 240  # intensity of empty glass; with the next, torchstain's defaults
LEAST_DENSITY = 0.15  # optical density that stained tissue has in every channel
LEAST_TISSUE = 1000  # pixels of it: the stains are the hundredths at the two ends
# The two stains of real slides stand 19 to 35 degrees apart, grey pictures' noise at most 4.
LEAST_ANGLE = 5.0
LEAST_STRENGTH = 0.1  # optical density of a stain where it is strongest


def apply(patches: np.ndarray, color: str, stains: np.ndarray | None = None) -> np.ndarray:
    """Give patches the color of `patches.color`.

    Args:
        patches: uint8, n x pixels x pixels x 3.
        color: rgb: as they are; grey: luma (ITU-R BT.601, as Pillow's L) in all channels;
            macenko: stains normalized.
        stains: of the patches' slide, from `estimate`; for macenko.

    Returns:
        uint8, n x pixels x pixels x 3.

    """
    if color == "grey":
        n, height, width, _ = patches.shape
        luma = np.asarray(Image.fromarray(patches.reshape(n * height, width, 3)).convert("L"))
        return np.repeat(luma.reshape(n, height, width, 1), 3, axis=3)
    if color == "macenko":
        # one more than the intensity, as torchstain has it: black is not infinitely dense
        density = -np.log(np.arange(1, 257, dtype=np.float32) / LIGHT)[patches.reshape(-1, 3)]
        light = LIGHT * np.exp(-(density @ stains.T.astype(np.float32)))
        return np.rint(light).clip(0, 255).astype(np.uint8).reshape(patches.shape)
    return patches


def per_chunk(pixels: int) -> int:
    """Patches to normalize at once, for bounded memory."""
    return max(1, MOST_PIXELS // pixels**2)


def estimate(patches: np.ndarray) -> np.ndarray:
    """Estimate a slide's two stains, from at most 64 of its patches, spread evenly.

    Args:
        patches: all of the slide's, uint8, n x pixels x pixels x 3; only the sample is read.

    Returns:
        float64, 3 x 3: turns the slide's optical densities into those that its stains would
        have in the reference's colors and strengths (torchstain's: those of Macenko's code).

    Raises:
        SlideError: they show too little stained tissue, or one stain only.

    References:
        Macenko et al. 2009, IEEE International Symposium on Biomedical Imaging, 1107-1110.

    """
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

    which = np.unique(np.linspace(0, len(patches) - 1, MOST_PATCHES).round().astype(int))
    pixels = patches[which].reshape(-1, 3)
    pixels = pixels[:: -(-len(pixels) // MOST_PIXELS)]
    dense = int((pixels < LIGHT * np.exp(-LEAST_DENSITY) - 1).all(axis=1).sum())
    remedy = "patches.color rgb or grey keeps this slide"
    if dense < LEAST_TISSUE:
        raise SlideError(
            f"stains can't be estimated: {dense} of {len(pixels)} pixels show stained tissue, and it takes "
            f"{LEAST_TISSUE}; {remedy}"
        )
    normalizer = NumpyMacenkoNormalizer()
    reference, strongest = normalizer.HERef, normalizer.maxCRef
    normalizer.fit(pixels, Io=LIGHT, beta=LEAST_DENSITY)
    own, strength = normalizer.HERef, normalizer.maxCRef
    angle = np.degrees(np.arccos(min(1.0, float(own[:, 0] @ own[:, 1]))))
    if angle < LEAST_ANGLE or strength.min() < LEAST_STRENGTH:
        raise SlideError(
            f"stains can't be estimated: its pixels show one stain only ({angle:.1f} degrees between two, "
            f"strengths {strength[0]:.2f} and {strength[1]:.2f}); {remedy}"
        )
    # torchstain estimates and applies in one go; here one estimate serves all patches of a slide
    return reference @ np.diag(strongest / strength) @ np.linalg.pinv(own)
