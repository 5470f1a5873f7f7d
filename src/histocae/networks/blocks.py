"""Sides and widths of architectures, in a module that loads without Keras: Keras takes seconds to load."""

# the convolutions of `residual` work at an eighth and a sixteenth of a patch's side
FINE, COARSE = 8, 16
LEAST_PER_BLOCK = 8
# filters of a model whose entry in params.yaml names none
FILTERS: dict[str, tuple[int, ...]] = {"plain": (8, 16, 32), "residual": (64, 64), "compact": (16, 64), "pca": ()}


def block_side(side: int, latent_features: int) -> int:
    """Choose the square blocks of a patch among which `residual` divides its latents evenly.

    The result is the smallest of 16, 32, 64, ... with a whole number of at least 8 latents per block,
    or else the whole patch. More latents per block mean larger blocks, whose latents describe distant
    pixels together.

    Args:
        side: of the square patch, in pixels.
        latent_features: of the whole patch.

    Returns:
        The side of a block, in pixels.

    """
    block = COARSE
    while block < side:
        blocks = (side // block) ** 2
        if side % block == 0 and latent_features % blocks == 0 and latent_features >= LEAST_PER_BLOCK * blocks:
            return block
        block *= 2
    return side
