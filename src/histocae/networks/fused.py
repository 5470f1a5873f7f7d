"""A faster way to compute the plain autoencoder, with the same weights.

The autoencoder that a user saves and loads consists of Keras' own layers. For training, measuring and
encoding, this module applies the weights of those layers in another way. Results are equal except for
rounding:

- A convolution after nearest-neighbor upsampling is computed at the smaller side. Its channels are the
  pixels that one pixel is enlarged to, so no enlarged image is read. Its kernels are sums of the given
  kernel. (Sub-pixel convolution: Shi et al. 2016, CVPR, arXiv:1609.05158.)
- Pooling comes before relu, which then has a quarter of the work. Both are monotone, so they commute.
- On TensorFlow the gradient of a dense layer is multiplied in an order that does not transpose the weights.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from histocae.networks.cae import CAE, with_rescaling

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def fused_on_bytes(cae: CAE, precision: str = "float32") -> keras.Model:
    """Build the model of an autoencoder that takes uint8 patches and shares its weights.

    Args:
        cae: the autoencoder.
        precision: of the computation, float32 | bfloat16; bfloat16 needs architecture plain. The weights
            and the output stay float32.

    Returns:
        A model from uint8 (0 to 255) to float32, both of shape (n, height, width, channels). Its output is in
        [0, 1] for plain, and about that for the other architectures.

    Raises:
        ValueError: the precision is unknown, or bfloat16 of an architecture other than plain.

    """
    inputs, scaled = _scaled(cae, precision)
    if cae.params["architecture"] != "plain":
        return with_rescaling(cae)
    latents = _encoded(cae, scaled, PRECISIONS[precision])
    return keras.Model(inputs, _decoded(cae, latents, PRECISIONS[precision]), name="cae_on_bytes")


def encoder_on_bytes(cae: CAE) -> keras.Model:
    """Build the model of an encoder that takes uint8 patches, computes in float32 and shares the weights of `cae`."""
    inputs, scaled = _scaled(cae, "float32")
    encoded = _encoded(cae, scaled, "float32") if cae.params["architecture"] == "plain" else cae.encoder(scaled)
    return keras.Model(inputs, encoded, name="encoder_on_bytes")


def _scaled(cae: CAE, precision: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision != "float32" and cae.params["architecture"] != "plain":
        raise ValueError(f"precision {precision} needs architecture plain, not {cae.params['architecture']}")
    inputs = keras.Input(tuple(cae.params["input_shape"]), dtype="uint8", name="patches")
    # scaled in float32 and rounded afterwards: 1/255 in bfloat16 would be 1/254
    return inputs, layers.Rescaling(1 / 255, dtype="float32", name="rescale")(inputs)


def _encoded(cae: CAE, x: keras.KerasTensor, dtype: str) -> keras.KerasTensor:
    source = {layer.name: layer for layer in cae.encoder.layers}
    for i in range(len(cae.params["filters"])):
        x = _PooledConvolution(source[f"conv_{i}"], source[f"pool_{i}"], dtype=dtype, name=f"encoder_{i}")(x)
    if "latent" in source:
        x = layers.Flatten(name="flatten")(x)
        x = _Dense(source["latent"], dtype=dtype, name="latent")(x)
    return x


def _decoded(cae: CAE, x: keras.KerasTensor, dtype: str) -> keras.KerasTensor:
    source = {layer.name: layer for layer in cae.decoder.layers}
    if "dense" in source:
        x = _Dense(source["dense"], dtype=dtype, name="dense")(x)
        x = layers.Reshape(source["reshape"].target_shape, name="reshape")(x)
    scale = (1, 1)
    for i in reversed(range(len(cae.params["filters"]))):
        x = _EnlargedConvolution(source[f"conv_{i}"], scale, dtype=dtype, name=f"decoder_{i}")(x)
        scale = source[f"up_{i}"].size
    return _EnlargedConvolution(source["pixels"], scale, dtype=dtype, name="pixels")(x)


class _PooledConvolution(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """The convolution, max pooling and relu of two given layers, in this order."""

    def __init__(self, conv: layers.Conv2D, pool: layers.MaxPooling2D, **options: str):
        super().__init__(**options)
        self.conv, self._pool = conv, pool.pool_size

    def call(self, x: Any) -> Any:
        x = ops.conv(x, self.conv.kernel, self.conv.strides, "same") + self.conv.bias
        return ops.relu(ops.max_pool(x, self._pool, self._pool, "valid"))


class _EnlargedConvolution(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Nearest-neighbor upsampling followed by a given convolution of stride 1, in one step.

    Upsampling makes copies of each pixel. For each position within the copies, the taps of the kernel that
    fall on copies of the same pixel are summed. This gives one small kernel per position.
    """

    def __init__(self, conv: layers.Conv2D, scale: tuple[int, int], **options: str):
        super().__init__(**options)
        self.conv, self._scale = conv, scale
        self._taps = [_taps(side, factor) for side, factor in zip(conv.kernel_size, scale, strict=True)]

    def call(self, x: Any) -> Any:
        (down, right), (height, width) = self._scale, x.shape[1:3]
        kernel, bias = self.conv.kernel, self.conv.bias
        if (down, right) != (1, 1):
            rows, columns = (ops.cast(taps, kernel.dtype) for taps in self._taps)
            # axes of rows and columns: position within the copies, tap of the small kernel, tap of the given kernel
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


def _taps(side: int, scale: int) -> NDArray[np.float32]:
    """Compute which pixel each tap of a kernel falls on, for each position within the copies of a pixel.

    Args:
        side: of the kernel.
        scale: of the upsampling.

    Returns:
        float32, shape (scale, pixels, side): 1 where the tap falls on that pixel, else 0. The number of pixels is
        odd; the middle one is the pixel that the copies belong to.

    """
    # as padding 'same' does: the extra pixel of an even kernel lies at the end
    offsets = (np.arange(scale)[:, None] + np.arange(side)[None] - (side - 1) // 2) // scale
    reach = np.abs(offsets).max()
    hits = offsets[:, None] == np.arange(-reach, reach + 1)[None, :, None]
    taps: NDArray[np.float32] = hits.astype(np.float32)
    return taps


class _Dense(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A given dense layer with relu."""

    def __init__(self, dense: layers.Dense, **options: str):
        super().__init__(**options)
        self.dense = dense

    def call(self, x: Any) -> Any:
        multiplied = _matmul(x, ops.convert_to_tensor(self.dense.kernel))
        return ops.relu(multiplied + self.dense.bias)


def _matmul(x: Any, weights: Any) -> Any:
    if keras.backend.backend() != "tensorflow":
        return ops.matmul(x, weights)
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def multiply(x: Any, weights: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            # transpose(W gT) in place of g WT: on CPUs transposing the weights takes twice as long as the product
            back = tf.transpose(tf.matmul(weights, upstream, transpose_b=True))
            return back, tf.matmul(x, upstream, transpose_a=True)

        return tf.matmul(x, weights), gradient

    return multiply(x, weights)
