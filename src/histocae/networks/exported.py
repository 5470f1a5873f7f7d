"""Autoencoders in TensorFlow's own format, which loads without Keras and without this package."""

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from histocae.networks.cae import CAE
from histocae.networks.fused import encoder_on_bytes, fused_on_bytes

DIFFERENCES, LATENTS = "differences", "latents"


def export(caes: Sequence[CAE], folder: Path) -> None:
    """Save functions of patches (uint8, shape (n, height, width, channels)) as a SavedModel.

    - differences: for each autoencoder the patches, scaled to [0, 1], less their reconstructions, float32, of the
      same shape; then the mean squared error of each, float32, shape (n,).
    - latents: float32, shape (n, features), for each autoencoder that has a latent layer. Where none has one, there
      is no such function.

    Args:
        caes: autoencoders for patches of one size.
        folder: to write to.

    """
    models = [fused_on_bytes(cae) for cae in caes]
    encoders = [encoder_on_bytes(cae) for cae in caes if cae.params["latent_features"] is not None]
    takes = [tf.TensorSpec((None, *caes[0].params["input_shape"]), tf.uint8, name="patches")]

    def differences(patches: tf.Tensor) -> list[tf.Tensor]:
        scaled = tf.cast(patches, tf.float32) / 255
        residuals = [scaled - model(patches, training=False) for model in models]
        return [*residuals, *(tf.reduce_mean(tf.square(each), axis=(1, 2, 3)) for each in residuals)]

    def latents(patches: tf.Tensor) -> list[tf.Tensor]:
        return [encoder(patches, training=False) for encoder in encoders]

    archive = keras.export.ExportArchive()
    for model in (*models, *encoders):
        archive.track(model)
    archive.add_endpoint(DIFFERENCES, differences, takes)
    if encoders:
        archive.add_endpoint(LATENTS, latents, takes)
    archive.write_out(str(folder), verbose=False)
