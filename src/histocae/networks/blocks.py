"""Sides and widths that architectures go by: what can be known of a model without Keras, which takes long to load."""

# `residual`: its convolutions see a patch at an eighth and a sixteenth of its side
FINE, COARSE = 8, 16
LEAST_PER_BLOCK = 8
# of a model whose entry names none
FILTERS = {"plain": (8, 16, 32), "residual": (64, 64), "compact": (16, 64), "pca": ()}


def block_side(side: int, latent_features: int) -> int:
    """Side of the square blocks of a patch that `residual` gives equal shares of its latents.

    The smallest of 16, 32, 64, ... that leaves a whole number of at least 8 latents to
    each block (more per block means wider blocks, and what lies further apart is told
    in common), else the whole patch.
    """
    block = COARSE
    while block < side:
        blocks = (side // block) ** 2
        if side % block == 0 and latent_features % blocks == 0 and latent_features >= LEAST_PER_BLOCK * blocks:
            return block
        block *= 2
    return side
