"""The convolutional autoencoder (CAE): Keras 3, any backend."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import keras

from histocae.errors import HistocaeError
from histocae.files import read_yaml, replacing_folder, write_yaml
from histocae.networks.architectures import BUILDERS
from histocae.networks.blocks import FILTERS

PARAMS_FILE = "params.yaml"
ENCODER_FILE = "encoder.weights.h5"
DECODER_FILE = "decoder.weights.h5"
KEYS = (
    "architecture",
    "input_shape",
    "latent_features",
    "filters",
    "kernel",
    "stride",
    "pool",
    "optimizer",
    "lossfn",
)


class CAE:
    """A convolutional autoencoder: its whole, its encoder and its decoder.

    As `plain`, the encoder is, per entry of `filters`, a convolution (relu, same padding)
    and a max pooling, then Flatten and a Dense layer (relu) of `latent_features` units. The
    decoder mirrors it with upsampling in the place of pooling and ends in a
    convolution with sigmoid. `histocae.networks.architectures` has the others. Pixels are floats
    in [0, 1] going in; coming out they may leave that range where there is no sigmoid.

    Attributes:
        model: the autoencoder, N x input_shape -> N x input_shape, float32.
        encoder: N x input_shape -> N x latent_features; without a dense layer, the last
            feature map.
        decoder: the way back.
        params: what was asked for, by name, as plain values.

    """

    def __init__(
        self,
        input_shape: Sequence[int] | None = None,
        latent_features: int | None = None,
        filters: Sequence[int] | None = None,
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
            latent_features: units of the latent layer; None for no dense layer at all.
            filters: convolutions of each layer, outermost first; None for (8, 16, 32) of
                plain, (64, 64) of residual, (16, 64) of compact.
            kernel: side of every convolution.
            stride: of every convolution in the encoder; the decoder enlarges by it.
            pool: side of every pooling.
            optimizer: a Keras optimizer's name, with Keras' own rate (for adamax 0.001 in
                Keras 3, 0.002 in Keras 2); compile `model` anew for another.
            lossfn: a Keras loss' name.
            path: folder to save to and load from.
            load: read everything else from `path` and ignore the other parameters.
            architecture: plain | residual | compact | pca. residual and pca hold linear parts that
                `histocae.networks.linear_start` computes from patches; kernel, stride and pool are plain's.

        Raises:
            HistocaeError: nothing usable at `path`.
            ValueError: no input_shape, or a side that the layers do not divide.

        """
        self.path = Path(path) if path is not None else None
        if load:
            self.params = _read_params(self.path)
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
        self.model.compile(optimizer=self.params["optimizer"], loss=self.params["lossfn"])
        if load:
            self._load_weights()

    def _load_weights(self) -> None:
        for part, name in ((self.encoder, ENCODER_FILE), (self.decoder, DECODER_FILE)):
            try:
                with warnings.catch_warnings():
                    # Keras only warns of layers that the file does not have, and leaves them as they are
                    warnings.simplefilter("error", UserWarning)
                    part.load_weights(self.path / name)
            except (OSError, ValueError, KeyError, UserWarning) as error:
                raise HistocaeError(f"{self.path / name}: not the weights of this CAE: {error}") from None

    def save(self, path: str | Path | None = None) -> None:
        """Save params.yaml and the encoder's and decoder's weights; the folder appears whole.

        Raises:
            ValueError: no path here and none when the CAE was made.

        """
        folder = Path(path) if path is not None else self.path
        if folder is None:
            raise ValueError("save needs a path")
        with replacing_folder(folder) as aside:
            self.save_into(aside)

    def save_into(self, folder: Path) -> None:
        """Write the three files into an existing folder."""
        write_yaml(self.params, folder / PARAMS_FILE)
        self.encoder.save_weights(folder / ENCODER_FILE)
        self.decoder.save_weights(folder / DECODER_FILE)


def with_rescaling(cae: CAE) -> keras.Model:
    """Give the autoencoder as a model of uint8 patches (0 to 255) that returns floats in about [0, 1]."""
    inputs = keras.Input(tuple(cae.params["input_shape"]), dtype="uint8", name="patches")
    scaled = keras.layers.Rescaling(1 / 255, name="rescale")(inputs)
    # its parts, not cae.model: that one brings an optimizer of its own along
    return keras.Model(inputs, cae.decoder(cae.encoder(scaled)), name="cae_on_bytes")


def _pair(value: Sequence[int] | int) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    return [int(n) for n in pair]


def _read_params(path: Path | None) -> dict:
    if path is None:
        raise ValueError("CAE(load=True) needs a path")
    try:
        params = read_yaml(path / PARAMS_FILE)
    except FileNotFoundError:
        raise HistocaeError(f"{path}: no saved CAE here ({PARAMS_FILE} is missing)") from None
    missing = [key for key in KEYS if not isinstance(params, dict) or key not in params]
    if missing:
        raise HistocaeError(f"{path / PARAMS_FILE}: {', '.join(missing)} missing; is this a saved CAE?")
    if params["architecture"] not in BUILDERS:
        raise HistocaeError(f"{path / PARAMS_FILE}: architecture {params['architecture']!r} is not known here")
    return {key: params[key] for key in KEYS}
