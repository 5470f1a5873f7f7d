"""The convolutional autoencoder (CAE): Keras 3, any backend."""

from collections.abc import Sequence
from pathlib import Path

import keras

from histocae import checksums
from histocae.files import replacing_folder, write_yaml
from histocae.networks import losses, saved, weights
from histocae.networks.architectures import BUILDERS
from histocae.networks.blocks import FILTERS, NetworkParams


class CAE:
    """A convolutional autoencoder: the whole model, its encoder and its decoder.

    The encoder of `plain` has a convolution (relu, same padding) and a max pooling for each
    entry of `filters`, then Flatten and a Dense layer (relu) of `latent_features` units. Its
    decoder mirrors that, with upsampling in place of pooling, and ends in a convolution with
    sigmoid. `histocae.networks.architectures` describes the other architectures. Inputs are
    floats in [0, 1]; outputs may leave that range where the architecture has no sigmoid.

    Attributes:
        model: the autoencoder; float32, shape (n, height, width, channels) to the same shape.
        encoder: float32, shape (n, height, width, channels) to (n, latent_features); without
            latent_features to the last feature map.
        decoder: from the encoder's output back to float32, shape (n, height, width, channels).
        params: all arguments by name, as plain values.
        path: the folder to save to, or None.

    Examples:
        >>> import numpy as np
        >>> from histocae import CAE
        >>> cae = CAE((16, 16, 3), latent_features=4, filters=[2, 3])
        >>> patches = np.random.default_rng(0).random((5, 16, 16, 3), np.float32)
        >>> latents = cae.encoder.predict(patches, verbose=0)
        >>> latents.shape
        (5, 4)
        >>> cae.decoder.predict(latents, verbose=0).shape
        (5, 16, 16, 3)

        `model` is compiled, so Keras' own `fit` trains it:

        >>> history = cae.model.fit(patches, patches, epochs=2, verbose=0)
        >>> len(history.history["loss"])
        2

    """

    def __init__(
        self,
        input_shape: Sequence[int] | None = None,
        latent_features: int | None = None,
        filters: Sequence[int] | None = None,
        *,
        kernel: Sequence[int] | int = (3, 3),
        stride: int = 1,
        pool: Sequence[int] | int = (2, 2),
        optimizer: str = "adamax",
        lossfn: str = "mse",
        path: str | Path | None = None,
        load: bool = False,
        architecture: str = "plain",
    ):
        """Build a CAE, or load one.

        Args:
            input_shape: height, width, channels.
            latent_features: units of the latent layer; None for no dense layer.
            filters: convolutions of each layer, outermost first; None for (8, 16, 32) of
                plain, (64, 64) of residual, (16, 64) of compact.
            kernel: side of every convolution, in pixels.
            stride: of every convolution in the encoder; the decoder enlarges by it.
            pool: side of every pooling, in pixels.
            optimizer: name of a Keras optimizer, with Keras' default learning rate (for adamax
                0.001 in Keras 3, 0.002 in Keras 2). To change it, compile `model` again.
            lossfn: mse | l1 | ssim | mse+ssim, or another name of a Keras loss; see `histocae.networks.losses`.
                Or perceptual: `model` is then compiled with mse, since a CAE does not contain the
                network that this loss needs (`histocae.networks.perceptual`).
            path: folder to save to and load from.
            load: read all other arguments from `path` and ignore those of this call.
            architecture: plain | residual | compact | pca. residual and pca have linear layers
                whose weights `histocae.networks.linear_start` computes from patches. Only plain
                uses kernel, stride and pool.

        Raises:
            HistocaeError: there is no CAE at `path`; or a file of it is damaged, of another CAE or training, or holds
                numbers that are not finite. The line names the file and the remedy.
            ValueError: input_shape is missing, architecture is unknown, or the layers do not divide
                the height or the width.

        Examples:
            >>> CAE((16, 16, 3), 8, architecture="compact").params["filters"]
            [16, 64]

            Without `latent_features` the latents are the last feature map:

            >>> CAE((16, 16, 3), filters=[2, 3]).encoder.output_shape
            (None, 4, 4, 3)

        """
        self.path = Path(path) if path is not None else None
        self.params: NetworkParams
        if load:
            if self.path is None:
                raise ValueError("CAE(load=True) needs a path")
            self.params = saved.read(self.path)
        else:
            if input_shape is None:
                raise ValueError("CAE needs input_shape (height, width, channels), or load=True and a path")
            if architecture not in BUILDERS:
                raise ValueError(f"architecture is one of {', '.join(BUILDERS)}, not {architecture!r}")
            if filters is None:
                filters = FILTERS[architecture]
            self.params = {
                "architecture": architecture,
                "input_shape": [int(n) for n in input_shape],
                "latent_features": None if latent_features is None else int(latent_features),
                "filters": [int(n) for n in filters],
                "kernel": _pair(kernel),
                "stride": int(stride),
                "pool": _pair(pool),
                "optimizer": optimizer,
                "lossfn": lossfn,
            }
        self.encoder, self.decoder = BUILDERS[self.params["architecture"]](self.params)
        inputs = keras.Input(tuple(self.params["input_shape"]), name="patch")
        self.model = keras.Model(inputs, self.decoder(self.encoder(inputs)), name="cae")
        compiled = "mse" if self.params["lossfn"] == "perceptual" else self.params["lossfn"]
        try:
            self.model.compile(optimizer=self.params["optimizer"], loss=losses.per_patch(compiled))
        except ValueError as error:
            if load and self.path is not None:
                raise saved.unbuilt(self.path, error) from None
            raise
        if load and self.path is not None:
            saved.load_weights(self.encoder, self.path / saved.ENCODER_FILE)
            saved.load_weights(self.decoder, self.path / saved.DECODER_FILE)

    def save(self, path: str | Path | None = None) -> None:
        """Save params.yaml, the weights of encoder and decoder, and the hashes of these files.

        Loading compares the files with the hashes. An interrupted call leaves no partial folder.

        Args:
            path: the folder; None for the `path` that the CAE was made with.

        Raises:
            ValueError: there is no path, neither here nor from the CAE's construction.

        Examples:
            >>> import tempfile
            >>> cae = CAE((16, 16, 3), latent_features=4, filters=[2, 3])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     cae.save(f"{folder}/model")
            ...     loaded = CAE(path=f"{folder}/model", load=True)
            >>> loaded.params == cae.params
            True

        """
        folder = Path(path) if path is not None else self.path
        if folder is None:
            raise ValueError("save needs a path")
        with replacing_folder(folder) as aside:
            self.save_into(aside)
            checksums.write(aside)

    def save_into(self, folder: Path) -> None:
        """Write params.yaml and the weights into an existing folder, without their hashes."""
        write_yaml(dict(self.params), folder / saved.PARAMS_FILE)
        weights.save(self.encoder, folder / saved.ENCODER_FILE)
        weights.save(self.decoder, folder / saved.DECODER_FILE)


def with_rescaling(cae: CAE) -> keras.Model:
    """Put a layer in front of an autoencoder that rescales uint8 patches (0 to 255) to [0, 1].

    The other layers are the autoencoder's own; see `fused.fused_on_bytes` for the faster model.
    """
    inputs = keras.Input(tuple(cae.params["input_shape"]), dtype="uint8", name="patches")
    scaled = keras.layers.Rescaling(1 / 255, name="rescale")(inputs)
    # built from encoder and decoder: cae.model would bring its own optimizer
    return keras.Model(inputs, cae.decoder(cae.encoder(scaled)), name="cae_on_bytes")


def _pair(value: Sequence[int] | int) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    return [int(n) for n in pair]
