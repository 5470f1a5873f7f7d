"""Linear layers of an autoencoder whose weights are computed from the training patches, not learned."""

import logging

import numpy as np

from histocae.errors import TrainingError
from histocae.networks import linear
from histocae.networks.blocks import block_side
from histocae.networks.cae import CAE
from histocae.patches.images import Images

log = logging.getLogger(__name__)


def start_residual(cae: CAE, patches: Images, seed: int) -> None:
    """Set the fixed linear layers of a `residual` CAE to the principal components of blocks.

    Over the training blocks each latent then has mean 0 and variance 1. Where the blocks vary in fewer
    directions than there are latents, the last latents are 0.

    Args:
        cae: changed in place.
        patches: to train on.
        seed: of the sample of blocks.

    Raises:
        ValueError: the CAE has another architecture.

    """
    side, _, _ = cae.params["input_shape"]
    latents = cae.params["latent_features"]
    if latents is None or cae.params["architecture"] != "residual":
        raise ValueError(f"start_residual needs architecture residual, not {cae.params['architecture']}")
    block = block_side(side, latents)
    fitted = linear.fit_blocks(patches, block, latents // (side // block) ** 2, seed)
    scale = np.where(fitted.deviations > 0, fitted.deviations, 1)[:, None]
    projection = fitted.components / scale
    cae.encoder.get_layer("linear").set_weights([projection.T, -(projection @ fitted.mean)])
    cae.decoder.get_layer("linear").set_weights([fitted.components * scale, fitted.mean])


def fitted_pca(patches: Images, components: int, seed: int) -> CAE:
    """Build the CAE whose two layers hold the principal components of patches.

    Args:
        patches: to fit; at least two.
        components: their number, which becomes the CAE's `latent_features`. It is smaller where the patches
            vary in fewer directions.
        seed: of the order of the batches in which many patches are fitted.

    Returns:
        The CAE, which needs no training.

    Raises:
        TrainingError: there are fewer than two patches.

    """
    if len(patches) < 2:
        raise TrainingError("principal components need at least two patches")
    fitted = linear.fit(patches, components, seed)
    if len(fitted.components) < components:
        log.warning(
            "%d principal components requested, but %d patches allow only %d",
            components,
            len(patches),
            len(fitted.components),
        )
    cae = CAE(patches.shape, len(fitted.components), architecture="pca")
    cae.encoder.get_layer("latent").set_weights([fitted.components.T, -(fitted.components @ fitted.mean)])
    cae.decoder.get_layer("pixels").set_weights([fitted.components, fitted.mean])
    return cae
