"""The size of a model of params.yaml: operations and weights of its layers."""

from histocae.networks import sizes
from histocae.networks.blocks import FILTERS
from histocae.networks.sizes import Size
from histocae.params import Network

CHANNELS = 3


def size(model: Network, pixels: int) -> Size:
    """Count the layers of a model.

    Args:
        model: its architecture, checked by `params.shape_problems`.
        pixels: side of its square RGB patches.

    Returns:
        Operations and weights.

    """
    return sizes.size(
        {
            "architecture": model.architecture,
            "input_shape": [pixels, pixels, CHANNELS],
            "latent_features": model.latent_features,
            "filters": list(model.filters if model.filters is not None else FILTERS[model.architecture]),
            "kernel": [model.kernel, model.kernel],
            "stride": model.stride,
            "pool": [model.pool, model.pool],
            "optimizer": "",
            "lossfn": model.loss,
        }
    )
