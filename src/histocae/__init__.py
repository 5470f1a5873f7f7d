"""Experiment-tracked convolutional autoencoders on histology slides."""

__version__ = "0.1.0"
__all__ = ["CAE", "__version__"]


def __getattr__(name: str):
    # `from histocae import CAE` works without making every command pay for keras
    if name == "CAE":
        from histocae.networks.cae import CAE

        return CAE
    raise AttributeError(f"module 'histocae' has no attribute {name!r}")
