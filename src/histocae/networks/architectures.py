"""Encoders and decoders. Layers are named, so that equal weights make equal files."""

import math
from collections.abc import Callable

import keras
from keras import layers

from histocae.networks.blocks import COARSE, FINE, block_side

Parts = tuple[keras.Model, keras.Model]


def plain(params: dict) -> Parts:
    """Convolutions with pooling, a dense layer, and the way back, as in the notebooks this grew from.

    Raises:
        ValueError: a side that the layers do not divide.

    """
    height, width, channels = params["input_shape"]
    filters, kernel, pool = params["filters"], tuple(params["kernel"]), tuple(params["pool"])
    step = [side * params["stride"] for side in pool]
    total = [one ** len(filters) for one in step]
    if height % total[0] or width % total[1]:
        raise ValueError(
            f"{len(filters)} layers that each divide by {step[0]} x {step[1]} need sides that are "
            f"multiples of {total[0]} x {total[1]}, got {height} x {width}"
        )
    inputs = keras.Input((height, width, channels), name="patch")
    x = inputs
    for i, count in enumerate(filters):
        x = layers.Conv2D(
            count, kernel, strides=params["stride"], padding="same", activation="relu", name=f"conv_{i}"
        )(x)
        x = layers.MaxPooling2D(pool, name=f"pool_{i}")(x)
    shape = tuple(x.shape[1:])
    if params["latent_features"] is not None:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(params["latent_features"], activation="relu", name="latent")(x)
    encoder = keras.Model(inputs, x, name="encoder")

    latent = keras.Input(tuple(x.shape[1:]), name="latent")
    x = latent
    if params["latent_features"] is not None:
        x = layers.Dense(math.prod(shape), activation="relu", name="dense")(x)
        x = layers.Reshape(shape, name="reshape")(x)
    for i, count in reversed(list(enumerate(filters))):
        x = layers.Conv2D(count, kernel, padding="same", activation="relu", name=f"conv_{i}")(x)
        x = layers.UpSampling2D(tuple(step), name=f"up_{i}")(x)
    x = layers.Conv2D(channels, kernel, padding="same", activation="sigmoid", name="pixels")(x)
    return encoder, keras.Model(latent, x, name="decoder")


def residual(params: dict) -> Parts:
    """A linear autoencoder of blocks, which convolutions correct.

    Latents start as the leading principal components of square blocks, scaled to unit
    variance (`linear_start` puts them in, and they stay); a trainable linear layer and
    convolutions with skip connections (He et al. 2016, CVPR, arXiv:1512.03385; GELU,
    Hendrycks and Gimpel 2016, arXiv:1606.08415), all of which give zero at first, are
    added to the latents and again to the pixels. So it begins where a linear map ends.
    Latents and pixels are not bounded: no relu, no sigmoid.

    Raises:
        ValueError: a patch whose side is no multiple of 16, or that is not square; no
            latent_features, or not two filters.

    """
    height, width, channels = params["input_shape"]
    if height != width or height % COARSE:
        raise ValueError(f"residual needs square patches of a side that is a multiple of {COARSE}")
    count = params["latent_features"]
    if count is None or len(params["filters"]) != 2:
        raise ValueError("residual needs latent_features and two filters")
    block = block_side(height, count)
    grid, each = height // block, count // (height // block) ** 2
    fine, coarse = params["filters"]
    inputs = keras.Input((height, width, channels), name="patch")
    x = layers.Rescaling(2.0, -1.0, name="center")(inputs)
    x = layers.Dense(fine, name="fine_in")(_cut(x, FINE, "fine"))
    x = _skip(x, fine, "fine")
    x = layers.Dense(coarse, name="coarse_in")(_cut(x, COARSE // FINE, "coarse"))
    x = _skip(x, coarse, "coarse")
    x = layers.Dense(each, kernel_initializer="zeros", name="latent_in")(_cut(x, block // COARSE, "latent"))
    x = layers.Add(name="latents")([_corrected_linear(_cut(inputs, block, "patch"), each), x])
    encoder = keras.Model(inputs, layers.Flatten(name="latent")(x), name="encoder")

    latent = keras.Input((count,), name="latent")
    blocks = layers.Reshape((grid, grid, each), name="blocks")(latent)
    x = _join(layers.Dense(coarse * (block // COARSE) ** 2, name="coarse_in")(blocks), block // COARSE, "coarse")
    x = _skip(x, coarse, "coarse")
    x = _join(layers.Dense(fine * (COARSE // FINE) ** 2, name="fine_in")(x), COARSE // FINE, "fine")
    x = _skip(x, fine, "fine")
    x = _join(layers.Dense(channels * FINE**2, kernel_initializer="zeros", name="pixels_in")(x), FINE, "correction")
    linear = _join(_corrected_linear(blocks, channels * block**2), block, "linear")
    return encoder, keras.Model(latent, layers.Add(name="pixels")([linear, x]), name="decoder")


def _corrected_linear(blocks, units: int):
    fixed = layers.Dense(units, name="linear", trainable=False)(blocks)
    correction = layers.Dense(units, kernel_initializer="zeros", use_bias=False, name="correction")(blocks)
    # a tenth: full-size steps of the optimizer would throw the linear optimum away at once
    return layers.Add(name="corrected")([fixed, layers.Rescaling(0.1, name="tenth")(correction)])


# A dense layer over blocks that were cut out is the convolution whose kernel is as wide as its
# stride, and on CPUs Keras takes half the time for it.
def _cut(x, side: int, name: str):
    """Lay the pixels of each block of side x side behind one another, as channels."""
    if side == 1:
        return x
    grid, channels = x.shape[1] // side, x.shape[3]
    x = layers.Reshape((grid, side, grid, side * channels), name=f"{name}_rows")(x)
    x = layers.Permute((1, 3, 2, 4), name=f"{name}_blocks")(x)
    return layers.Reshape((grid, grid, side**2 * channels), name=f"{name}_cut")(x)


def _join(x, side: int, name: str):
    """Undo `_cut`."""
    if side == 1:
        return x
    grid, values = x.shape[1], x.shape[3] // side
    x = layers.Reshape((grid, grid, side, values), name=f"{name}_blocks")(x)
    x = layers.Permute((1, 3, 2, 4), name=f"{name}_rows")(x)
    return layers.Reshape((grid * side, grid * side, values // side), name=f"{name}_joined")(x)


def _convolved(x, filters: int, name: str):
    return layers.Conv2D(filters, 3, padding="same", activation="silu", name=name)(x)


def _skip(x, filters: int, name: str):
    y = layers.Conv2D(filters, 3, padding="same", activation="gelu", name=f"{name}_a")(x)
    y = layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros", name=f"{name}_b")(y)
    return layers.Add(name=name)([x, y])


def compact(params: dict) -> Parts:
    """Convolutions on quarters of a small picture, and latents that are linear in the last of them.

    In place of pooling, 2 x 2 neighbors are laid behind one another (space to depth), so nothing
    is thrown away before the latents, and most work is done at a quarter of the side. Latents and
    pixels are not bounded: a latent can't die as behind relu, a pixel is not held back by a sigmoid.
    Activations: SiLU (Elfwing, Uchibe and Doya 2018, Neural Networks 107:3-11).

    Raises:
        ValueError: a side that is no multiple of 4; no latent_features, or not two filters.

    """
    height, width, channels = params["input_shape"]
    if height != width or height % 4:
        raise ValueError("compact needs square pictures of a side that is a multiple of 4")
    count = params["latent_features"]
    if count is None or len(params["filters"]) != 2:
        raise ValueError("compact needs latent_features and two filters")
    fine, coarse = params["filters"]
    quarter = height // 4
    inputs = keras.Input((height, width, channels), name="patch")
    x = _convolved(_cut(inputs, 2, "half"), fine, "fine")
    x = layers.Dense(coarse, activation="silu", name="coarse_in")(_cut(x, 2, "quarter"))
    x = _convolved(_convolved(x, coarse, "coarse_a"), coarse, "coarse_b")
    x = layers.Dense(count, name="latent")(layers.Flatten(name="flatten")(x))
    encoder = keras.Model(inputs, x, name="encoder")

    latent = keras.Input((count,), name="latent")
    x = layers.Dense(quarter**2 * coarse, activation="silu", name="coarse_in")(latent)
    x = _convolved(layers.Reshape((quarter, quarter, coarse), name="reshape")(x), coarse, "coarse")
    x = layers.Dense(4 * fine, activation="silu", name="fine_in")(x)
    x = _convolved(_join(x, 2, "half"), fine, "fine")
    x = _join(layers.Dense(4 * channels, name="pixels_in")(x), 2, "pixels")
    return encoder, keras.Model(latent, x, name="decoder")


def pca(params: dict) -> Parts:
    """The principal components of whole patches as an encoder and a decoder; nothing to train.

    Raises:
        ValueError: no latent_features.

    """
    shape, count = tuple(params["input_shape"]), params["latent_features"]
    if count is None:
        raise ValueError("pca needs latent_features")
    inputs = keras.Input(shape, name="patch")
    x = layers.Flatten(name="flatten")(inputs)
    x = layers.Dense(count, name="latent", trainable=False)(x)
    latent = keras.Input((count,), name="latent")
    y = layers.Dense(math.prod(shape), name="pixels", trainable=False)(latent)
    y = layers.Reshape(shape, name="reshape")(y)
    return keras.Model(inputs, x, name="encoder"), keras.Model(latent, y, name="decoder")


BUILDERS: dict[str, Callable[[dict], Parts]] = {
    "plain": plain,
    "residual": residual,
    "compact": compact,
    "pca": pca,
}
