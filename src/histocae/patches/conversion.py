"""Patches without their color, or with their stains normalized.

NumPy alone: a copy of this file travels inside registered models.
"""

import numpy as np
from numpy.typing import NDArray

LIGHT = 240  # intensity of empty glass; torchstain's default
LUMA = (19595, 38470, 7471)  # Pillow's weights of red, green and blue (ITU-R BT.601), in 1/65536
HALF = np.uint32(2**15)


def convert(patches: NDArray[np.uint8], color: str, stains: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
    """Convert patches to the color of `patches.color`.

    Args:
        patches: uint8, shape (n, pixels, pixels, 3), RGB as scanned. Gray patches stay as they are.
        color: rgb: as they are; grey: luma (as Pillow's L) in all channels; macenko: stains normalized.
        stains: of the patches' slide, float64, shape (3, 3); for macenko.

    Returns:
        uint8, shape (n, pixels, pixels, 3).

    Raises:
        ValueError: stains are to be normalized and are missing.

    """
    if color == "grey":
        luma = np.full(patches.shape[:3], HALF, np.uint32)
        for channel, weight in enumerate(LUMA):
            luma += patches[..., channel] * np.uint32(weight)
        luma >>= 16
        gray = np.empty_like(patches)
        gray[...] = luma[..., None]
        return gray
    if color == "macenko":
        if stains is None:
            raise ValueError("to normalize stains, pass those of the slide")
        # one more than the intensity, as in torchstain: black is not infinitely dense
        density = -np.log(np.arange(1, 257, dtype=np.float32) / LIGHT)[patches.reshape(-1, 3)]
        with np.errstate(over="ignore"):  # stains of another slide may make a pixel infinitely bright
            light = LIGHT * np.exp(-(density @ stains.T.astype(np.float32)))
        normalized: NDArray[np.uint8] = np.rint(light).clip(0, 255).astype(np.uint8).reshape(patches.shape)
        return normalized
    return patches
