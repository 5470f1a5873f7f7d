"""Operations and weights of an architecture, counted layer by layer without Keras, which takes seconds to load."""

import math
from dataclasses import dataclass, field

from histocae.networks.blocks import COARSE, FINE, NetworkParams, block_side, check, latent_count


@dataclass
class LayerSums:
    """Sums over the layers of an encoder or decoder.

    Attributes:
        multiplied: multiplications and additions per patch, forward.
        values: outputs of all layers per patch.
        weights: all weights, with biases.
        trained: weights that a training changes.

    """

    multiplied: int = 0
    values: int = 0
    weights: int = 0
    trained: int = 0

    def layer(self, positions: int, inputs: int, out: int, *, trained: bool = True, bias: bool = True) -> None:
        """Count a layer that computes `out` values from `inputs` values at each position, with the same weights.

        Args:
            positions: number of positions.
            inputs: values per position.
            out: values per position.
            trained: False for fixed weights.
            bias: False for a layer without.

        """
        own = inputs * out + out * bias
        self.multiplied += positions * inputs * out
        self.values += positions * out
        self.weights += own
        self.trained += own * trained


@dataclass
class Size:
    """Operations and weights of an autoencoder.

    Attributes:
        encoder: sums over its layers.
        decoder: sums over its layers.
        latents: numbers that a patch is encoded into.

    """

    encoder: LayerSums = field(default_factory=LayerSums)
    decoder: LayerSums = field(default_factory=LayerSums)
    latents: int = 0

    @property
    def weights(self) -> int:
        """All weights, with biases."""
        return self.encoder.weights + self.decoder.weights

    @property
    def trained(self) -> int:
        """Weights that a training changes."""
        return self.encoder.trained + self.decoder.trained

    @property
    def multiplied(self) -> int:
        """Multiplications and additions per patch, through encoder and decoder."""
        return self.encoder.multiplied + self.decoder.multiplied

    @property
    def values(self) -> int:
        """Outputs of all layers per patch."""
        return self.encoder.values + self.decoder.values


def size(params: NetworkParams) -> Size:
    """Count the layers of a model.

    Args:
        params: of the CAE.

    Returns:
        Operations and weights.

    Raises:
        ValueError: the architecture does not allow these params; see `blocks.check`.

    """
    check(params)
    return {"plain": _plain, "residual": _residual, "compact": _compact, "pca": _pca}[params["architecture"]](params)


def _plain(params: NetworkParams) -> Size:
    size, (height, width, channels) = Size(), params["input_shape"]
    filters, stride, pool = params["filters"], params["stride"], params["pool"]
    before, area = channels, math.prod(params["kernel"])
    for count in filters:
        size.encoder.layer((height // stride) * (width // stride), area * before, count)
        height, width, before = height // (stride * pool[0]), width // (stride * pool[1]), count
    flat = height * width * before
    size.latents = params["latent_features"] or flat
    if params["latent_features"] is not None:
        size.encoder.layer(1, flat, size.latents)
        size.decoder.layer(1, size.latents, flat)
    for count in reversed(filters):
        size.decoder.layer(height * width, area * before, count)
        height, width, before = height * stride * pool[0], width * stride * pool[1], count
    size.decoder.layer(height * width, area * before, channels)
    return size


def _skip(part: LayerSums, positions: int, filters: int) -> None:
    for _ in range(2):
        part.layer(positions, 9 * filters, filters)


def _corrected_linear(part: LayerSums, positions: int, inputs: int, out: int) -> None:
    part.layer(positions, inputs, out, trained=False)
    part.layer(positions, inputs, out, bias=False)


def _residual(params: NetworkParams) -> Size:
    (pixels, _, channels), (fine, coarse) = params["input_shape"], params["filters"]
    latents = latent_count(params)
    block = block_side(pixels, latents)
    blocks = (pixels // block) ** 2
    each, wide = latents // blocks, (block // COARSE) ** 2
    at_fine, at_coarse = (pixels // FINE) ** 2, (pixels // COARSE) ** 2
    size = Size(latents=latents)
    part = size.encoder
    part.layer(at_fine, channels * FINE**2, fine)
    _skip(part, at_fine, fine)
    part.layer(at_coarse, fine * (COARSE // FINE) ** 2, coarse)
    _skip(part, at_coarse, coarse)
    part.layer(blocks, coarse * wide, each)
    _corrected_linear(part, blocks, channels * block**2, each)
    part = size.decoder
    part.layer(blocks, each, coarse * wide)
    _skip(part, at_coarse, coarse)
    part.layer(at_coarse, coarse, fine * (COARSE // FINE) ** 2)
    _skip(part, at_fine, fine)
    part.layer(at_fine, fine, channels * FINE**2)
    _corrected_linear(part, blocks, each, channels * block**2)
    return size


def _compact(params: NetworkParams) -> Size:
    (pixels, _, channels), (fine, coarse) = params["input_shape"], params["filters"]
    half, quarter = (pixels // 2) ** 2, (pixels // 4) ** 2
    size = Size(latents=latent_count(params))
    part = size.encoder
    part.layer(half, 9 * 4 * channels, fine)
    part.layer(quarter, 4 * fine, coarse)
    _skip(part, quarter, coarse)
    part.layer(1, quarter * coarse, size.latents)
    part = size.decoder
    part.layer(1, size.latents, quarter * coarse)
    part.layer(quarter, 9 * coarse, coarse)
    part.layer(quarter, coarse, 4 * fine)
    part.layer(half, 9 * fine, fine)
    part.layer(half, fine, 4 * channels)
    return size


def _pca(params: NetworkParams) -> Size:
    size, values = Size(latents=latent_count(params)), math.prod(params["input_shape"])
    size.encoder.layer(1, values, size.latents, trained=False)
    size.decoder.layer(1, size.latents, values, trained=False)
    return size
