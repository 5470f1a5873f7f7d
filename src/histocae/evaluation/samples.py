"""Latents of patches, and images of a few patches above their reconstructions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histocae import checksums
from histocae.files import replacing, replacing_folder, write_json
from histocae.latent import stored
from histocae.networks import fused
from histocae.networks.cae import CAE
from histocae.patches.images import Images, batches
from histocae.progress import bar
from histocae.training import steps

SAMPLES = 6
BATCH = 64


def reconstruct(cae: CAE, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reconstruct patches for display.

    Args:
        cae: the autoencoder.
        patches: uint8, shape (n, height, width, channels).

    Returns:
        float32, of the same shape, clipped to [0, 1].

    """
    scaled = patches.astype(np.float32) / np.float32(255)
    output: NDArray[np.float32] = keras.ops.convert_to_numpy(cae.model(scaled, training=False))
    return np.clip(output, 0, 1)


def encode(
    cae: CAE, patches: Images, label: str | None, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Encode all patches.

    Args:
        cae: the autoencoder.
        patches: any number.
        label: of the progress bar; None for no bar.
        out: float32, shape (patches, latent features): array to write into; None for a new one.

    Returns:
        float32, shape (patches, latent features); `out` where it is given.

    """
    if out is None:
        out = np.empty((len(patches), *cae.encoder.output_shape[1:]), np.float32)
    encoder = steps.compiled(fused.encoder_on_bytes(cae))
    starts = range(0, len(patches), BATCH)
    ahead_of_use = steps.ahead(batches(patches, BATCH))
    for start in bar(starts, label, "batches"):
        batch = next(ahead_of_use)
        out[start : start + len(batch)] = encoder(batch)
    return out


def write_latents(
    cae: CAE,
    folder: Path,
    weights: str,
    splits: dict[str, Any],
    write: Callable[[Any, str, Path], None] | None = None,
) -> None:
    """Write the latents of the patches, one array per part of the split, the fingerprint of the weights, and hashes.

    A model without a latent layer gets no arrays.

    Args:
        cae: the autoencoder.
        folder: to write; it is named like the model.
        weights: fingerprint of the weights.
        splits: for each part of the split its images, or the first argument of `write`.
        write: a function of an element of `splits`, a label and a file that writes latents; None to encode
            images in this process.

    """
    description = {"model": folder.name, "weights": weights, "features": cae.params["latent_features"]}
    with replacing_folder(folder) as aside:
        if description["features"] is not None:
            for split, patches in splits.items():
                label, path = f"{folder.name}: latents of {split}", aside / f"{split}.npy"
                if write is None:
                    np.save(path, encode(cae, patches, label))
                else:
                    write(patches, label, path)
        write_json(description, aside / stored.FILE)
        checksums.write(aside)


def mosaic(
    originals: NDArray[np.uint8], reconstructions: NDArray[np.floating[Any]], gap: int = 2
) -> NDArray[np.uint8]:
    """Join images into one: originals in a row above their reconstructions.

    Args:
        originals: uint8, shape (n, height, width, channels).
        reconstructions: floats in [0, 1], of the same shape.
        gap: number of white pixels between two images.

    Returns:
        uint8, shape (height, width, channels).

    """
    rows = np.stack([originals, np.rint(reconstructions * 255).astype(np.uint8)])
    padded = np.pad(rows, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    lines, count, height, width, channels = padded.shape
    joined = padded.transpose(0, 2, 1, 3, 4).reshape(lines * height, count * width, channels)
    return joined[:-gap, :-gap]


def write_sample(cae: CAE, patches: Images, path: Path) -> None:
    """Write a few patches above their reconstructions as a PNG file.

    Args:
        cae: the autoencoder.
        patches: of which the same few are shown at each call.
        path: of the file.

    """
    originals = patches.take(np.linspace(0, len(patches) - 1, min(SAMPLES, len(patches))).astype(int))
    with replacing(path) as handle:
        image = mosaic(originals, reconstruct(cae, originals))
        Image.fromarray(image if image.shape[2] > 1 else image[..., 0]).save(handle, "PNG")
