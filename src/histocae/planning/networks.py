"""Operations and weights of an architecture, counted layer by layer without Keras, which takes seconds to load."""

import math
from dataclasses import dataclass, field

from histocae.networks.blocks import COARSE, FILTERS, FINE, block_side
from histocae.params import Network

CHANNELS = 3


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


def size(model: Network, pixels: int) -> Size:
    """Count the layers of a model.

    Args:
        model: its architecture, checked by `params.shape_problems`.
        pixels: side of its square RGB patches.

    Returns:
        Operations and weights.

    """
    filters = model.filters if model.filters is not None else FILTERS[model.architecture]
    return {"plain": _plain, "residual": _residual, "compact": _compact, "pca": _pca}[model.architecture](
        model, list(filters), pixels
    )


def _plain(model: Network, filters: list[int], pixels: int) -> Size:
    size, side, before, area = Size(), pixels, CHANNELS, model.kernel**2
    for count in filters:
        size.encoder.layer((side // model.stride) ** 2, area * before, count)
        side, before = side // (model.stride * model.pool), count
    flat = side**2 * before
    size.latents = model.latent_features or flat
    if model.latent_features is not None:
        size.encoder.layer(1, flat, size.latents)
        size.decoder.layer(1, size.latents, flat)
    for count in reversed(filters):
        size.decoder.layer(side**2, area * before, count)
        side, before = side * model.stride * model.pool, count
    size.decoder.layer(side**2, area * before, CHANNELS)
    return size


def _skip(part: LayerSums, positions: int, filters: int) -> None:
    for _ in range(2):
        part.layer(positions, 9 * filters, filters)


def _corrected_linear(part: LayerSums, positions: int, inputs: int, out: int) -> None:
    part.layer(positions, inputs, out, trained=False)
    part.layer(positions, inputs, out, bias=False)


def _latents(model: Network) -> int:
    if model.latent_features is None:
        raise ValueError(f"{model.architecture} has latent_features")
    return model.latent_features


def _residual(model: Network, filters: list[int], pixels: int) -> Size:
    fine, coarse = filters
    latents = _latents(model)
    block = block_side(pixels, latents)
    blocks = (pixels // block) ** 2
    each, wide = latents // blocks, (block // COARSE) ** 2
    at_fine, at_coarse = (pixels // FINE) ** 2, (pixels // COARSE) ** 2
    size = Size(latents=latents)
    part = size.encoder
    part.layer(at_fine, CHANNELS * FINE**2, fine)
    _skip(part, at_fine, fine)
    part.layer(at_coarse, fine * (COARSE // FINE) ** 2, coarse)
    _skip(part, at_coarse, coarse)
    part.layer(blocks, coarse * wide, each)
    _corrected_linear(part, blocks, CHANNELS * block**2, each)
    part = size.decoder
    part.layer(blocks, each, coarse * wide)
    _skip(part, at_coarse, coarse)
    part.layer(at_coarse, coarse, fine * (COARSE // FINE) ** 2)
    _skip(part, at_fine, fine)
    part.layer(at_fine, fine, CHANNELS * FINE**2)
    _corrected_linear(part, blocks, each, CHANNELS * block**2)
    return size


def _compact(model: Network, filters: list[int], pixels: int) -> Size:
    fine, coarse = filters
    half, quarter = (pixels // 2) ** 2, (pixels // 4) ** 2
    size = Size(latents=_latents(model))
    part = size.encoder
    part.layer(half, 9 * 4 * CHANNELS, fine)
    part.layer(quarter, 4 * fine, coarse)
    _skip(part, quarter, coarse)
    part.layer(1, quarter * coarse, size.latents)
    part = size.decoder
    part.layer(1, size.latents, quarter * coarse)
    part.layer(quarter, 9 * coarse, coarse)
    part.layer(quarter, coarse, 4 * fine)
    part.layer(half, 9 * fine, fine)
    part.layer(half, fine, 4 * CHANNELS)
    return size


def _pca(model: Network, filters: list[int], pixels: int) -> Size:
    size, values = Size(latents=_latents(model)), math.prod((pixels, pixels, CHANNELS))
    size.encoder.layer(1, values, size.latents, trained=False)
    size.decoder.layer(1, size.latents, values, trained=False)
    return size
