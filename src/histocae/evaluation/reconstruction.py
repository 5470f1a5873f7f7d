"""Reconstruction errors of a CAE: MSE, PSNR and SSIM per patch, per slide and over all patches.

Pixels are in [0, 1].
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from histocae.evaluation import scales
from histocae.networks.cae import CAE
from histocae.networks.fused import fused_on_bytes
from histocae.patches.images import Images, batches
from histocae.progress import bar
from histocae.statistics.group_means import group_means
from histocae.training.steps import ahead

MEASURES = ("mse", "psnr", "ssim", "mean_color_mse")
BATCH = 64
# limits the PSNR of a perfect reconstruction to 100 dB; that of rounding to 8 bits is 59 dB
LEAST_MSE = 1e-10


def measure(cae: CAE, patches: Images, label: str | None) -> pd.DataFrame:
    """Measure the reconstruction of every patch.

    - mse: the mean squared error over pixels and channels.
    - psnr: 10 log10(1 / mse) in dB, at most 100.
    - ssim: Wang et al. 2004 (IEEE Trans. Image Process. 13(4):600-612) with an 11 x 11 Gaussian window of
      sigma 1.5, averaged over the channels; NaN where a patch is smaller than the window.
    - mean_color_mse: a baseline, the MSE of a constant patch with the patch's own mean color.

    Args:
        cae: the autoencoder.
        patches: any number.
        label: of the progress bar; None for no bar.

    Returns:
        float64 columns mse, psnr, ssim, mean_color_mse; a row per patch, in their order.

    """
    model = fused_on_bytes(cae)

    def measures(batch: tf.Tensor) -> tf.Tensor:
        return _measures(model(batch, training=False), _scaled(batch))

    return pd.DataFrame(_over(patches, label, measures), columns=list(MEASURES))


def measure_images(reconstructions: NDArray[np.floating[Any]], patches: NDArray[np.uint8]) -> pd.DataFrame:
    """Measure reconstructions from any source, as `measure` does those of a model.

    Args:
        reconstructions: floats, about in [0, 1], shape (n, height, width, channels).
        patches: uint8, of the same shape.

    Returns:
        float64 columns mse, psnr, ssim, mean_color_mse; a row per patch.

    Raises:
        ValueError: the shapes differ.

    """
    if reconstructions.shape != patches.shape:
        raise ValueError(f"reconstructions have shape {reconstructions.shape}, patches {patches.shape}")
    compiled = _compiled_comparison(patches.shape[1:])
    parts = [
        compiled(reconstructions[start : start + BATCH].astype(np.float32), patches[start : start + BATCH]).numpy()
        for start in range(0, len(patches), BATCH)
    ]
    return pd.DataFrame(np.concatenate(parts).astype(np.float64), columns=list(MEASURES))


@cache
def _compiled_comparison(shape: tuple[int, int, int]) -> Callable[[Any, Any], tf.Tensor]:
    """Compile the measures of images of one shape, once for all."""
    compiled: Callable[[Any, Any], tf.Tensor] = tf.function(
        lambda output, batch: _measures(output, _scaled(batch)),
        input_signature=[tf.TensorSpec((None, *shape), dtype) for dtype in (tf.float32, tf.uint8)],
    )
    return compiled


def measure_mse(cae: CAE, patches: Images, label: str | None) -> NDArray[np.float64]:
    """Measure only the MSE of every patch, which takes half the time of `measure`.

    Args:
        cae: the autoencoder.
        patches: any number.
        label: of the progress bar; None for no bar.

    Returns:
        float64, shape (len(patches),).

    """
    model = fused_on_bytes(cae)
    return _over(patches, label, lambda batch: _mse(model(batch, training=False), _scaled(batch)))


def measure_by_scale(cae: CAE, patches: Images, label: str | None) -> NDArray[np.float32]:
    """Describe the error of every patch at several scales; see `scales.errors`.

    Args:
        cae: the autoencoder.
        patches: any number.
        label: of the progress bar; None for no bar.

    Returns:
        float32, shape (len(patches), features).

    """
    model = fused_on_bytes(cae)
    residuals = _compiled(patches, lambda batch: _scaled(batch) - model(batch, training=False))
    starts = range(0, len(patches), BATCH)
    # statistics of a batch are computed while the model works on the next one
    ahead_of_use = ahead(residuals(batch).numpy() for batch in batches(patches, BATCH))
    return np.concatenate([scales.errors(next(ahead_of_use)) for _ in bar(starts, label, "batches")])


def _over(patches: Images, label: str | None, measure: Callable[[tf.Tensor], tf.Tensor]) -> NDArray[np.float64]:
    """Compile a measure and apply it to all patches, batch by batch."""
    compiled = _compiled(patches, measure)
    starts = range(0, len(patches), BATCH)
    ahead_of_use = ahead(batches(patches, BATCH))
    parts = [compiled(next(ahead_of_use)).numpy() for _ in bar(starts, label, "batches")]
    return np.concatenate(parts).astype(np.float64)


def _compiled(patches: Images, function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[Any], tf.Tensor]:
    """Compile a function of batches of any length."""
    compiled: Callable[[Any], tf.Tensor] = tf.function(
        function, input_signature=[tf.TensorSpec((None, *patches.shape), tf.uint8)]
    )
    return compiled


def _scaled(batch: tf.Tensor) -> tf.Tensor:
    return tf.cast(batch, tf.float32) / 255


def _mse(output: tf.Tensor, scaled: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(output - scaled), axis=(1, 2, 3))


def _measures(output: tf.Tensor, scaled: tf.Tensor) -> tf.Tensor:
    mse = _mse(output, scaled)
    psnr = -10 * tf.math.log(tf.maximum(mse, LEAST_MSE)) / np.log(10.0)
    window = 11
    ssim = (
        tf.image.ssim(scaled, output, max_val=1.0, filter_size=window)
        if scaled.shape[1] >= window
        else tf.fill(tf.shape(mse), np.nan)
    )
    mean_color = tf.reduce_mean(tf.math.reduce_variance(scaled, axis=(1, 2)), axis=1)
    return tf.stack([mse, psnr, ssim, mean_color], axis=1)


def summarize(measured: pd.DataFrame) -> dict[str, float]:
    """Average the measures over patches, and count these; a measure without values is left out."""
    means = measured[list(MEASURES)].mean().dropna()
    return {**{name: float(value) for name, value in means.items()}, "patches": len(measured)}


def per_slide(measured: pd.DataFrame) -> pd.DataFrame:
    """Average the measures over each slide's patches.

    Args:
        measured: a row per patch with slide_id, case_id, sample_type and the measures.

    Returns:
        One row per slide, with `patches`, sorted by slide_id.

    """
    groups = ["slide_id", "case_id", "sample_type"]
    table = group_means(measured, groups, MEASURES)
    table.insert(0, "patches", measured.groupby(groups).size())
    return table.reset_index()
