"""The plain autoencoder computed in fewer and wider passes, from the same weights.

What a user saves and loads stays made of Keras' own layers. For training, measuring and encoding
the same weights are applied another way, equal but for rounding:

- a convolution after nearest-neighbor upsampling is one at the smaller side that gives all pixels of
  an enlarged one as channels (the sub-pixel convolution of Shi et al. 2016, CVPR, arXiv:1609.05158, with
  kernels summed from the given one), so that no enlarged picture is ever read;
- pooling comes before relu, which then has a quarter of the work; both are monotone, so they commute;
- on TensorFlow a dense layer's gradient is multiplied in the order that does not turn its weights.
"""

import keras
import numpy as np
from keras import layers, ops

from histocae.networks.cae import CAE, with_rescaling

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def fused_on_bytes(cae: CAE, precision: str = "float32") -> keras.Model:
    """Give an autoencoder as a model of uint8 patches (0 to 255) that returns floats in [0, 1].

    It shares the weights of `cae`.

    Args:
        cae: the autoencoder.
        precision: of what lies between the weights, which stay float32, and the pixels, which
            are float32: float32 | bfloat16, the latter of plain alone.

    Raises:
        ValueError: another precision, or bfloat16 of another architecture.

    """
    inputs, scaled = _scaled(cae, precision)
    if cae.params["architecture"] != "plain":
        return with_rescaling(cae)
    latents = _encoded(cae, scaled, PRECISIONS[precision])
    return keras.Model(inputs, _decoded(cae, latents, PRECISIONS[precision]), name="cae_on_bytes")


def encoder_on_bytes(cae: CAE) -> keras.Model:
    """Give the encoder as a model of uint8 patches, float32; it shares the weights of `cae`."""
    inputs, scaled = _scaled(cae, "float32")
    encoded = _encoded(cae, scaled, "float32") if cae.params["architecture"] == "plain" else cae.encoder(scaled)
    return keras.Model(inputs, encoded, name="encoder_on_bytes")


def _scaled(cae: CAE, precision: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision != "float32" and cae.params["architecture"] != "plain":
        raise ValueError(f"precision {precision} is of architecture plain alone")
    inputs = keras.Input(tuple(cae.params["input_shape"]), dtype="uint8", name="patches")
    # in float32, and rounded after that: 1/255 in bfloat16 would be 1/254
    return inputs, layers.Rescaling(1 / 255, dtype="float32", name="rescale")(inputs)


def _encoded(cae: CAE, x: keras.KerasTensor, dtype: str) -> keras.KerasTensor:
    own = {layer.name: layer for layer in cae.encoder.layers}
    for i in range(len(cae.params["filters"])):
        x = _Pooled(own[f"conv_{i}"], own[f"pool_{i}"], dtype=dtype, name=f"encoder_{i}")(x)
    if "latent" in own:
        x = layers.Flatten(name="flatten")(x)
        x = _Dense(own["latent"], dtype=dtype, name="latent")(x)
    return x


def _decoded(cae: CAE, x: keras.KerasTensor, dtype: str) -> keras.KerasTensor:
    own = {layer.name: layer for layer in cae.decoder.layers}
    if "dense" in own:
        x = _Dense(own["dense"], dtype=dtype, name="dense")(x)
        x = layers.Reshape(own["reshape"].target_shape, name="reshape")(x)
    scale = (1, 1)
    for i in reversed(range(len(cae.params["filters"]))):
        x = _Enlarged(own[f"conv_{i}"], scale, dtype=dtype, name=f"decoder_{i}")(x)
        scale = own[f"up_{i}"].size
    return _Enlarged(own["pixels"], scale, dtype=dtype, name="pixels")(x)


class _Pooled(layers.Layer):
    """A convolution and a max pooling, both of which are given, and the relu between them after them."""

    def __init__(self, conv: layers.Conv2D, pool: layers.MaxPooling2D, **about: str):
        super().__init__(**about)
        self.conv, self._pool = conv, pool.pool_size

    def call(self, x):
        x = ops.conv(x, self.conv.kernel, self.conv.strides, "same") + self.conv.bias
        return ops.relu(ops.max_pool(x, self._pool, self._pool, "valid"))


class _Enlarged(layers.Layer):
    """Nearest-neighbor upsampling and a convolution of stride 1, which is given, in one.

    Of an enlarged pixel only its place within its original matters: for each such place, the
    taps of the kernel that fall on one original are summed.
    """

    def __init__(self, conv: layers.Conv2D, scale: tuple[int, int], **about: str):
        super().__init__(**about)
        self.conv, self._scale = conv, scale
        self._taps = [_taps(side, by) for side, by in zip(conv.kernel_size, scale, strict=True)]

    def call(self, x):
        (down, right), (height, width) = self._scale, x.shape[1:3]
        kernel, bias = self.conv.kernel, self.conv.bias
        if (down, right) != (1, 1):
            rows, columns = (ops.cast(taps, kernel.dtype) for taps in self._taps)
            # place, low-resolution tap, tap: the sum over taps gives each place's small kernel
            kernel = ops.einsum("aix,bjy,xyco->ijcabo", rows, columns, kernel)
            kernel = ops.reshape(kernel, (*kernel.shape[:3], -1))
            bias = ops.tile(bias, down * right)
        x = ops.conv(x, kernel, padding="same") + bias
        if self.conv.activation is keras.activations.sigmoid:
            x = ops.sigmoid(ops.cast(x, "float32"))
        else:
            x = self.conv.activation(x)
        if (down, right) == (1, 1):
            return x
        x = ops.reshape(x, (-1, width, down, right * self.conv.filters))
        x = ops.transpose(x, (0, 2, 1, 3))
        return ops.reshape(x, (-1, height * down, width * right, self.conv.filters))


def _taps(side: int, scale: int) -> np.ndarray:
    """Tell which original a kernel's taps fall on, for each place in an enlarged pixel.

    Returns:
        float32, scale x originals (an odd number, the pixel's own in the middle) x side; 0 or 1.

    """
    # where 'same' begins: the odd pixel of an even kernel lies at the end
    falls = (np.arange(scale)[:, None] + np.arange(side)[None] - (side - 1) // 2) // scale
    reach = np.abs(falls).max()
    return (falls[:, None] == np.arange(-reach, reach + 1)[None, :, None]).astype(np.float32)


class _Dense(layers.Layer):
    """A dense layer with relu, which is given."""

    def __init__(self, dense: layers.Dense, **about: str):
        super().__init__(**about)
        self.dense = dense

    def call(self, x):
        multiplied = _matmul(x, ops.convert_to_tensor(self.dense.kernel))
        return ops.relu(multiplied + self.dense.bias)


def _matmul(x, weights):
    if keras.backend.backend() != "tensorflow":
        return ops.matmul(x, weights)
    import tensorflow as tf

    @tf.custom_gradient
    def multiply(x, weights):
        def gradient(upstream):
            # W gT, turned back, in the place of g WT: on CPUs turning the weights takes twice as long as the product
            back = tf.transpose(tf.matmul(weights, upstream, transpose_b=True))
            return back, tf.matmul(x, upstream, transpose_a=True)

        return tf.matmul(x, weights), gradient

    return multiply(x, weights)
