"""A tiny network for a perceptual loss, as a user would save it."""

from pathlib import Path

import keras
import numpy as np

LAYERS = ["edges", "parts"]


def save(file: Path, seed: int = 0, side: int | None = None, channels: int = 3, dtype: str = "float32") -> Path:
    """Save a network of two convolutions with seeded weights, whose first layer maps [0, 1] to [-1, 1].

    Args:
        file: ends in .keras.
        seed: of the weights.
        side: of its square images; None for any.
        channels: of its images.
        dtype: of its images.

    Returns:
        The file.

    """
    images = keras.Input((side, side, channels), dtype=dtype, name="images")
    x = keras.layers.Rescaling(2, offset=-1, name="rescale")(images)
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="edges")(x)
    x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.BatchNormalization(name="normalize")(x)
    x = keras.layers.Dropout(0.5, name="drop")(x)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="parts")(x)
    outputs = keras.layers.GlobalAveragePooling2D(name="mean")(x), keras.layers.Conv2D(2, 9, name="large")(x)
    network = keras.Model(images, outputs, name="small")
    rng = np.random.default_rng(seed)
    # positive values everywhere but in the kernels: variances must be
    network.set_weights(
        [
            rng.normal(0, 0.3, weight.shape) if weight.ndim > 1 else rng.uniform(0.1, 0.5, weight.shape)
            for weight in network.get_weights()
        ]
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    network.save(file)
    return file
