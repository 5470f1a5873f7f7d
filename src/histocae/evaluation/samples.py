"""A few patches above their reconstructions, as the training goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from histocae.files import replacing, replacing_folder, write_json
from histocae.networks import fused
from histocae.networks.cae import CAE
from histocae.patches.images import Images, batches
from histocae.progress import bar
from histocae.training import steps

SAMPLES = 6
BATCH = 64


def reconstruct(cae: CAE, patches: np.ndarray) -> np.ndarray:
    """Encode and decode.

    Args:
        cae: the autoencoder.
        patches: uint8, n x height x width x channels.

    Returns:
        float32 in [0, 1], of the same shape; what lies beyond is cut off, to be shown.

    """
    scaled = patches.astype(np.float32) / np.float32(255)
    return np.clip(keras.ops.convert_to_numpy(cae.model(scaled, training=False)), 0, 1)


def encode(cae: CAE, patches: Images, label: str | None, out: np.ndarray | None = None) -> np.ndarray:
    """Encode all patches.

    Args:
        cae: the autoencoder.
        patches: any number.
        label: what the progress bar says; None: no bar.
        out: where to write them; None: into a new array.

    Returns:
        float32, patches x latent features.

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
    parts: dict[str, Any],
    write: Callable[[Any, str, Path], None] | None = None,
) -> None:
    """Write the latents of all parts of the split, one array each, and of which weights they are.

    Args:
        cae: the autoencoder.
        folder: named like the model.
        weights: their fingerprint.
        parts: the pictures of each part of the split, or what `write` takes.
        write: writes the latents of a part, told with a label, into a file; None: encodes pictures here.

    """
    about = {"model": folder.name, "weights": weights, "features": cae.params["latent_features"]}
    with replacing_folder(folder) as aside:
        if about["features"] is not None:
            for part, some in parts.items():
                label, path = f"{folder.name}: latents of {part}", aside / f"{part}.npy"
                if write is None:
                    np.save(path, encode(cae, some, label))
                else:
                    write(some, label, path)
        write_json(about, aside / "latents.json")


def mosaic(originals: np.ndarray, reconstructions: np.ndarray, gap: int = 2) -> np.ndarray:
    """Lay originals in one row above their reconstructions, pixel for pixel.

    Args:
        originals: uint8, n x height x width x channels.
        reconstructions: floats in [0, 1], of the same shape.
        gap: white pixels between.

    Returns:
        uint8, height x width x channels.

    """
    rows = np.stack([originals, np.rint(reconstructions * 255).astype(np.uint8)])
    padded = np.pad(rows, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    kinds, count, height, width, channels = padded.shape
    whole = padded.transpose(0, 2, 1, 3, 4).reshape(kinds * height, count * width, channels)
    return whole[:-gap, :-gap]


def write_sample(cae: CAE, patches: Images, path: Path) -> None:
    """Write a few patches, always the same, above their reconstructions as PNG."""
    originals = patches.take(np.linspace(0, len(patches) - 1, min(SAMPLES, len(patches))).astype(int))
    with replacing(path) as handle:
        whole = mosaic(originals, reconstruct(cae, originals))
        Image.fromarray(whole if whole.shape[2] > 1 else whole[..., 0]).save(handle, "PNG")
