"""Work and weights of an architecture, counted layer by layer without Keras, which takes seconds to load."""

import math
from dataclasses import dataclass, field

from histocae.networks.blocks import COARSE, FILTERS, FINE, block_side
from histocae.params import Network

CHANNELS = 3


@dataclass
class Part:
    """Sums over the layers of an encoder or decoder.

    Attributes:
        multiplied: multiplications and additions of a patch, forward.
        values: numbers that its layers give, of a patch.
        weights: all of them, biases too.
        trained: those that a training changes.

    """

    multiplied: int = 0
    values: int = 0
    weights: int = 0
    trained: int = 0

    def layer(self, places: int, given: int, out: int, *, trained: bool = True, bias: bool = True) -> None:
        """Count a layer that makes `out` values of `given` ones at so many places, by the same weights."""
        own = given * out + out * bias
        self.multiplied += places * given * out
        self.values += places * out
        self.weights += own
        self.trained += own * trained


@dataclass
class Size:
    """Of an autoencoder.

    Attributes:
        encoder, decoder: its parts.
        latents: numbers that a patch is encoded into.

    """

    encoder: Part = field(default_factory=Part)
    decoder: Part = field(default_factory=Part)
    latents: int = 0

    @property
    def weights(self) -> int:
        """All weights."""
        return self.encoder.weights + self.decoder.weights

    @property
    def trained(self) -> int:
        """Weights that a training changes."""
        return self.encoder.trained + self.decoder.trained

    @property
    def multiplied(self) -> int:
        """Multiplications and additions of a patch there and back."""
        return self.encoder.multiplied + self.decoder.multiplied

    @property
    def values(self) -> int:
        """Numbers that all layers give of a patch."""
        return self.encoder.values + self.decoder.values


def size(model: Network, pixels: int) -> Size:
    """Count the layers of a model for square RGB patches of a side in pixels; its params are at no odds."""
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


def _skip(part: Part, places: int, filters: int) -> None:
    for _ in range(2):
        part.layer(places, 9 * filters, filters)


def _corrected_linear(part: Part, places: int, given: int, out: int) -> None:
    part.layer(places, given, out, trained=False)
    part.layer(places, given, out, bias=False)


def _residual(model: Network, filters: list[int], pixels: int) -> Size:
    fine, coarse = filters
    block = block_side(pixels, model.latent_features)
    blocks = (pixels // block) ** 2
    each, wide = model.latent_features // blocks, (block // COARSE) ** 2
    fine_places, coarse_places = (pixels // FINE) ** 2, (pixels // COARSE) ** 2
    size = Size(latents=model.latent_features)
    part = size.encoder
    part.layer(fine_places, CHANNELS * FINE**2, fine)
    _skip(part, fine_places, fine)
    part.layer(coarse_places, fine * (COARSE // FINE) ** 2, coarse)
    _skip(part, coarse_places, coarse)
    part.layer(blocks, coarse * wide, each)
    _corrected_linear(part, blocks, CHANNELS * block**2, each)
    part = size.decoder
    part.layer(blocks, each, coarse * wide)
    _skip(part, coarse_places, coarse)
    part.layer(coarse_places, coarse, fine * (COARSE // FINE) ** 2)
    _skip(part, fine_places, fine)
    part.layer(fine_places, fine, CHANNELS * FINE**2)
    _corrected_linear(part, blocks, each, CHANNELS * block**2)
    return size


def _compact(model: Network, filters: list[int], pixels: int) -> Size:
    fine, coarse = filters
    half, quarter = (pixels // 2) ** 2, (pixels // 4) ** 2
    size = Size(latents=model.latent_features)
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
    size, values = Size(latents=model.latent_features), math.prod((pixels, pixels, CHANNELS))
    size.encoder.layer(1, values, size.latents, trained=False)
    size.decoder.layer(1, size.latents, values, trained=False)
    return size
