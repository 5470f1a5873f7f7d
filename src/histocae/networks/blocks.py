"""Params of architectures and what they allow, in a module that loads without Keras: Keras takes seconds to load."""

from typing import TypedDict

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


class NetworkParams(TypedDict):
    """The arguments of a CAE as plain values; see `CAE.__init__`."""

    architecture: str
    input_shape: list[int]
    latent_features: int | None
    filters: list[int]
    kernel: list[int]
    stride: int
    pool: list[int]
    optimizer: str
    lossfn: str


def check(params: NetworkParams) -> None:
    """Check that an architecture allows its params.

    Args:
        params: of the CAE.

    Raises:
        ValueError: the layers do not divide the height or the width; or latent_features or filters are missing.

    """
    name, (height, width, _) = params["architecture"], params["input_shape"]
    if name == "plain":
        count, step = len(params["filters"]), [side * params["stride"] for side in params["pool"]]
        total = [side**count for side in step]
        if height % total[0] or width % total[1]:
            raise ValueError(
                f"{count} layers that each divide the sides by {step[0]} x {step[1]} need a height and a width "
                f"that are multiples of {total[0]} x {total[1]}, got {height} x {width}"
            )
        return
    latent_count(params)
    if name == "pca":
        return
    multiple = COARSE if name == "residual" else 4
    if height != width or height % multiple:
        raise ValueError(f"{name} needs square patches of a side that is a multiple of {multiple}")
    if len(params["filters"]) != 2:
        raise ValueError(f"{name} needs two filters")


def latent_count(params: NetworkParams) -> int:
    """Return the latents of a patch, where the architecture always has a latent layer.

    Raises:
        ValueError: latent_features is missing.

    """
    if params["latent_features"] is None:
        raise ValueError(f"{params['architecture']} needs latent_features")
    return params["latent_features"]
