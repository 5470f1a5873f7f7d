"""Experiment-tracked convolutional autoencoders on histology slides."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["CAE", "__version__", "score"]


def __getattr__(name: str) -> Any:
    # loaded when used first: commands without a model do not wait for Keras
    if name == "CAE":
        from histocae.networks.cae import CAE

        return CAE
    if name == "score":
        from histocae.scoring.api import score

        return score
    raise AttributeError(f"module 'histocae' has no attribute {name!r}")
