"""The color of patches, and the stains of slides. `conversion.convert` converts the patches.

Color differs between scanners, laboratories and days more than between tissues, and slides of one site
share it: a model may distinguish classes by that alone. `rgb` leaves the patches as they are, `grey` removes
color, `macenko` maps every slide to the same two stains.
"""

import numpy as np
from numpy.typing import NDArray

from histocae.errors import SlideError
from histocae.patches.conversion import LIGHT

MOST_PATCHES = 64  # of a slide, spread evenly, from which its stains are estimated
MOST_PIXELS = 2**20  # of those patches, and at once where stains are normalized
LEAST_DENSITY = 0.15  # optical density that stained tissue has in every channel; torchstain's default
LEAST_TISSUE = 1000  # pixels of tissue: a stain is estimated from the hundredth of them at either end
# The angle between the two stains of real slides is 19 to 35 degrees; in the noise of gray images it is at most 4.
LEAST_ANGLE = 5.0
LEAST_STRENGTH = 0.1  # optical density of a stain where it is strongest


def per_chunk(pixels: int) -> int:
    """Compute how many patches are normalized at once, so that memory stays bounded."""
    return max(1, MOST_PIXELS // pixels**2)


def sample(count: int) -> NDArray[np.int64]:
    """Choose the patches from which a slide's stains are estimated: at most 64, spread evenly.

    Args:
        count: of the slide's patches, at least one.

    Returns:
        Their positions, int64, shape (n,), ascending.

    """
    return np.unique(np.linspace(0, count - 1, MOST_PATCHES).round().astype(np.int64))


def estimate(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate a slide's two stains, from at most 64 of its patches, spread evenly.

    Args:
        patches: all patches of the slide, uint8, shape (n, pixels, pixels, 3); only the sample is read.

    Returns:
        float64, shape (3, 3): a matrix that converts the slide's optical densities to those that its stains
        would have in the reference's colors and strengths (torchstain's: those of Macenko's code).

    Raises:
        SlideError: the patches show too little stained tissue, or one stain only.

    References:
        Macenko et al. 2009, IEEE International Symposium on Biomedical Imaging, 1107-1110.

    """
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

    pixels = patches[sample(len(patches))].reshape(-1, 3)
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
    # torchstain estimates and applies in one step; here one estimate serves all patches of a slide
    matrix: NDArray[np.float64] = reference @ np.diag(strongest / strength) @ np.linalg.pinv(own)
    return matrix
