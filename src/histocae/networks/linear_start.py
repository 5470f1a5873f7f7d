"""Linear parts of an autoencoder, computed from the training patches instead of learnt."""

import numpy as np

from histocae.errors import TrainingError
from histocae.networks import linear
from histocae.networks.blocks import block_side
from histocae.networks.cae import CAE
from histocae.patches.images import Images


def start_residual(cae: CAE, patches: Images, seed: int) -> None:
    """Put the principal components of blocks into the fixed linear layers of a `residual` CAE.

    Over the training blocks each latent then has mean 0 and variance 1; where they vary in fewer
    directions than there are latents, the last ones start as 0.
    """
    side, _, _ = cae.params["input_shape"]
    block = block_side(side, cae.params["latent_features"])
    found = linear.fit_blocks(patches, block, cae.params["latent_features"] // (side // block) ** 2, seed)
    scale = np.where(found.deviations > 0, found.deviations, 1)[:, None]
    into = found.components / scale
    cae.encoder.get_layer("linear").set_weights([into.T, -(into @ found.mean)])
    cae.decoder.get_layer("linear").set_weights([found.components * scale, found.mean])


def fitted_pca(patches: Images, components: int, seed: int) -> CAE:
    """Make the CAE that is the principal components of patches.

    Its `latent_features` are fewer than asked for where the patches allow no more.

    Raises:
        TrainingError: fewer than two patches.

    """
    if len(patches) < 2:
        raise TrainingError("principal components need at least two patches")
    found = linear.fit(patches, components, seed)
    cae = CAE(patches.shape, len(found.components), architecture="pca")
    cae.encoder.get_layer("latent").set_weights([found.components.T, -(found.components @ found.mean)])
    cae.decoder.get_layer("pixels").set_weights([found.components, found.mean])
    return cae
