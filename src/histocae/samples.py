"""A few patches above their reconstructions, as the training goes on."""

import keras
import numpy as np

from histocae.model import CAE


def reconstruct(cae: CAE, patches: np.ndarray) -> np.ndarray:
    """Encode and decode.

    Args:
        cae: the autoencoder.
        patches: uint8, n x side x side x 3.

    Returns:
        float32 in [0, 1], of the same shape.

    """
    scaled = patches.astype(np.float32) / np.float32(255)
    return keras.ops.convert_to_numpy(cae.model(scaled, training=False))


def mosaic(originals: np.ndarray, reconstructions: np.ndarray, gap: int = 2) -> np.ndarray:
    """Lay originals in one row above their reconstructions, pixel for pixel.

    Args:
        originals: uint8, n x side x side x 3.
        reconstructions: floats in [0, 1], of the same shape.
        gap: white pixels between.

    Returns:
        uint8, height x width x 3.

    """
    rows = np.stack([originals, np.rint(reconstructions * 255).astype(np.uint8)])
    padded = np.pad(rows, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    kinds, count, height, width, channels = padded.shape
    whole = padded.transpose(0, 2, 1, 3, 4).reshape(kinds * height, count * width, channels)
    return whole[:-gap, :-gap]
