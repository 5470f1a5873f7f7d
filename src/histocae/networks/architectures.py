"""Builders of encoders and decoders, one per architecture.

Every layer has a fixed name, so that equal weights are saved as equal bytes.
"""

import math
from collections.abc import Callable

import keras
from keras import layers

from histocae.networks.blocks import COARSE, FINE, NetworkParams, block_side, check, latent_count

EncoderDecoder = tuple[keras.Model, keras.Model]


def plain(params: NetworkParams) -> EncoderDecoder:
    """Build convolutions with pooling and a dense layer, and their mirror image as the decoder.

    This is the architecture of the notebooks that the project began as.

    Args:
        params: of the CAE.

    Returns:
        The encoder and the decoder.

    Raises:
        ValueError: the layers do not divide the height or the width.

    """
    check(params)
    height, width, channels = params["input_shape"]
    filters, kernel, pool = params["filters"], tuple(params["kernel"]), tuple(params["pool"])
    step = [side * params["stride"] for side in pool]
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


def residual(params: NetworkParams) -> EncoderDecoder:
    """Build a linear autoencoder of square blocks with convolutions that correct it.

    The fixed linear part computes the leading principal components of blocks, scaled to unit
    variance; `linear_start` sets its weights. A trainable linear layer and convolutions with skip
    connections add a correction to the latents, and another one to the pixels. All corrections are
    zero before training, so training begins at the best linear autoencoder of blocks. Latents and
    pixels are not bounded: there is no relu and no sigmoid at the end.

    Skip connections: He et al. 2016, CVPR, arXiv:1512.03385. GELU: Hendrycks and Gimpel 2016,
    arXiv:1606.08415.

    Args:
        params: of the CAE.

    Returns:
        The encoder and the decoder.

    Raises:
        ValueError: patches are not square or their side is no multiple of 16; latent_features is
            missing; or there are not two filters.

    """
    check(params)
    height, width, channels = params["input_shape"]
    count = latent_count(params)
    block = block_side(height, count)
    grid = height // block
    per_block = count // grid**2
    fine, coarse = params["filters"]
    inputs = keras.Input((height, width, channels), name="patch")
    x = layers.Rescaling(2.0, -1.0, name="center")(inputs)
    x = layers.Dense(fine, name="fine_in")(_to_channels(x, FINE, "fine"))
    x = _skip(x, fine, "fine")
    x = layers.Dense(coarse, name="coarse_in")(_to_channels(x, COARSE // FINE, "coarse"))
    x = _skip(x, coarse, "coarse")
    x = layers.Dense(per_block, kernel_initializer="zeros", name="latent_in")(
        _to_channels(x, block // COARSE, "latent")
    )
    x = layers.Add(name="latents")([_corrected_linear(_to_channels(inputs, block, "patch"), per_block), x])
    encoder = keras.Model(inputs, layers.Flatten(name="latent")(x), name="encoder")

    latent = keras.Input((count,), name="latent")
    blocks = layers.Reshape((grid, grid, per_block), name="blocks")(latent)
    x = _to_blocks(layers.Dense(coarse * (block // COARSE) ** 2, name="coarse_in")(blocks), block // COARSE, "coarse")
    x = _skip(x, coarse, "coarse")
    x = _to_blocks(layers.Dense(fine * (COARSE // FINE) ** 2, name="fine_in")(x), COARSE // FINE, "fine")
    x = _skip(x, fine, "fine")
    x = _to_blocks(
        layers.Dense(channels * FINE**2, kernel_initializer="zeros", name="pixels_in")(x), FINE, "correction"
    )
    linear = _to_blocks(_corrected_linear(blocks, channels * block**2), block, "linear")
    return encoder, keras.Model(latent, layers.Add(name="pixels")([linear, x]), name="decoder")


def _corrected_linear(blocks: keras.KerasTensor, units: int) -> keras.KerasTensor:
    fixed = layers.Dense(units, name="linear", trainable=False)(blocks)
    correction = layers.Dense(units, kernel_initializer="zeros", use_bias=False, name="correction")(blocks)
    # scaled by a tenth: full steps of the optimizer would leave the linear optimum at once
    return layers.Add(name="corrected")([fixed, layers.Rescaling(0.1, name="tenth")(correction)])


# A dense layer over blocks equals a convolution whose kernel is as wide as its stride, and takes Keras half
# the time on CPUs.
def _to_channels(x: keras.KerasTensor, side: int, name: str) -> keras.KerasTensor:
    """Make the pixels of each block of side x side the channels of one pixel (space to depth)."""
    if side == 1:
        return x
    grid, channels = x.shape[1] // side, x.shape[3]
    x = layers.Reshape((grid, side, grid, side * channels), name=f"{name}_rows")(x)
    x = layers.Permute((1, 3, 2, 4), name=f"{name}_blocks")(x)
    return layers.Reshape((grid, grid, side**2 * channels), name=f"{name}_cut")(x)


def _to_blocks(x: keras.KerasTensor, side: int, name: str) -> keras.KerasTensor:
    """Undo `_to_channels`."""
    if side == 1:
        return x
    grid, values = x.shape[1], x.shape[3] // side
    x = layers.Reshape((grid, grid, side, values), name=f"{name}_blocks")(x)
    x = layers.Permute((1, 3, 2, 4), name=f"{name}_rows")(x)
    return layers.Reshape((grid * side, grid * side, values // side), name=f"{name}_joined")(x)


def _convolved(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    return layers.Conv2D(filters, 3, padding="same", activation="silu", name=name)(x)


def _skip(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    y = layers.Conv2D(filters, 3, padding="same", activation="gelu", name=f"{name}_a")(x)
    y = layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros", name=f"{name}_b")(y)
    return layers.Add(name=name)([x, y])


def compact(params: NetworkParams) -> EncoderDecoder:
    """Build convolutions at a half and a quarter of the side, for small images, with linear latents.

    In place of pooling, 2 x 2 neighbors become channels (space to depth), so no value is dropped
    before the latents, and most of the work is done at a quarter of the side. Latents and pixels
    are not bounded: no relu can set a latent to zero for good, and no sigmoid limits a pixel.

    SiLU: Elfwing, Uchibe and Doya 2018, Neural Networks 107:3-11.

    Args:
        params: of the CAE.

    Returns:
        The encoder and the decoder.

    Raises:
        ValueError: images are not square or their side is no multiple of 4; latent_features is
            missing; or there are not two filters.

    """
    check(params)
    height, width, channels = params["input_shape"]
    count = latent_count(params)
    fine, coarse = params["filters"]
    quarter = height // 4
    inputs = keras.Input((height, width, channels), name="patch")
    x = _convolved(_to_channels(inputs, 2, "half"), fine, "fine")
    x = layers.Dense(coarse, activation="silu", name="coarse_in")(_to_channels(x, 2, "quarter"))
    x = _convolved(_convolved(x, coarse, "coarse_a"), coarse, "coarse_b")
    x = layers.Dense(count, name="latent")(layers.Flatten(name="flatten")(x))
    encoder = keras.Model(inputs, x, name="encoder")

    latent = keras.Input((count,), name="latent")
    x = layers.Dense(quarter**2 * coarse, activation="silu", name="coarse_in")(latent)
    x = _convolved(layers.Reshape((quarter, quarter, coarse), name="reshape")(x), coarse, "coarse")
    x = layers.Dense(4 * fine, activation="silu", name="fine_in")(x)
    x = _convolved(_to_blocks(x, 2, "half"), fine, "fine")
    x = _to_blocks(layers.Dense(4 * channels, name="pixels_in")(x), 2, "pixels")
    return encoder, keras.Model(latent, x, name="decoder")


def pca(params: NetworkParams) -> EncoderDecoder:
    """Build the two linear layers that hold the principal components of whole patches.

    `linear_start.fitted_pca` computes their weights; there is nothing to train.

    Args:
        params: of the CAE.

    Returns:
        The encoder and the decoder.

    Raises:
        ValueError: latent_features is missing.

    """
    check(params)
    shape, count = tuple(params["input_shape"]), latent_count(params)
    inputs = keras.Input(shape, name="patch")
    x = layers.Flatten(name="flatten")(inputs)
    x = layers.Dense(count, name="latent", trainable=False)(x)
    latent = keras.Input((count,), name="latent")
    y = layers.Dense(math.prod(shape), name="pixels", trainable=False)(latent)
    y = layers.Reshape(shape, name="reshape")(y)
    return keras.Model(inputs, x, name="encoder"), keras.Model(latent, y, name="decoder")


BUILDERS: dict[str, Callable[[NetworkParams], EncoderDecoder]] = {
    "plain": plain,
    "residual": residual,
    "compact": compact,
    "pca": pca,
}
