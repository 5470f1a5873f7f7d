"""A perceptual loss: images are compared by their pixels and by the features of a network that the user supplies.

The distance of features is that of Zhang et al. 2018, CVPR, arXiv:1801.03924 (LPIPS), without learned weights of
channels. Nothing is downloaded, and loading the file runs no code from it.
"""

import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from histocae.errors import TrainingError, one_line, raise_if_machine, shortened
from histocae.networks import losses
from histocae.networks.losses import Loss

CONTENT = {"config.json", "metadata.json", "model.weights.h5"}  # of a .keras file
MOST_NAMED = 12  # layers that an error names
# of zipfile, h5py and Keras about files that are damaged, hold something else, or need code that is not here
_FAULTS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    EOFError,
    RuntimeError,
    UserWarning,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_LEAST = 1e-8  # added to squared lengths: features that are all 0 have no direction


def load(file: Path, layers: Sequence[str], weight: float, *, shape: tuple[int, int, int], key: str) -> Loss:
    """Load the network of a perceptual loss; it is never trained.

    Args:
        file: of a Keras model (.keras) that takes images of floats in [0, 1]. Where the network was trained on
            another range, the model begins with layers that convert to it.
        layers: names of its layers whose outputs are compared, each of shape (n, height, width, channels).
        weight: of the distance of features, beside the squared error of pixels.
        shape: height, width and channels of the images.
        key: of the params, for error lines.

    Returns:
        A function of targets and outputs, floats in [0, 1], shape (n, height, width, channels), to a loss per image,
        shape (n,): mean squared error + weight x the mean over the layers of `distance`.

    Raises:
        TrainingError: the file is damaged or no Keras model, the model does not take such images, or it has no such
            layer with features. The line names key and file.

    """
    network = _read(file, f"{key}.network: {file}")
    _check_input(network, shape, f"{key}.network: {file}")
    features = _features(network, layers, shape, f"{key}.layers: {file}")
    squared = losses.per_patch("mse")

    def loss(targets: Any, outputs: Any) -> Any:
        first, second = features(targets, training=False), features(outputs, training=False)
        distances = [distance(first[name], second[name]) for name in layers]
        return squared(targets, outputs) + weight * (sum(distances) / len(distances))

    return loss


def distance(first: Any, second: Any) -> Any:
    """Compute how far the features of two images are apart, whatever their lengths.

    Args:
        first: features, shape (n, height, width, channels).
        second: features of the same shape.

    Returns:
        Shape (n,): the squared distance of the two vectors of channels at a position, each of unit length, averaged
        over the positions. 0 to 4, and to 2 where features are not negative.

    Example:
        >>> import numpy as np
        >>> red, green = np.zeros((2, 1, 4, 4, 3), np.float32)
        >>> red[..., 0], green[..., 1] = 5, 1
        >>> [float(distance(red, other)[0].numpy().round(4)) for other in (red, green)]
        [0.0, 2.0]

    """
    return keras.ops.mean(keras.ops.sum(keras.ops.square(_unit(first) - _unit(second)), axis=-1), axis=(1, 2))


def _unit(features: Any) -> Any:
    features = keras.ops.cast(features, "float32")
    return features * keras.ops.rsqrt(keras.ops.sum(keras.ops.square(features), axis=-1, keepdims=True) + _LEAST)


def _read(file: Path, label: str) -> keras.Model:
    """Read a Keras model whose file is whole."""
    remedy = "save the network again with model.save('NAME.keras'), and copy the whole file"
    if not zipfile.is_zipfile(file):
        raise TrainingError(f"{label}: no Keras model file (.keras); {remedy}")
    try:
        with zipfile.ZipFile(file) as archive:
            missing = CONTENT - set(archive.namelist())
            # Keras would not notice other weights
            damaged = archive.testzip()
        if missing or damaged:
            fault = f"{damaged} in it is damaged" if damaged else f"no {' and no '.join(sorted(missing))} in it"
            raise TrainingError(f"{label}: no whole Keras model: {fault}; {remedy}")
        with warnings.catch_warnings():
            # about layers that the file lacks; only Keras', since another thread may be importing MLflow
            warnings.filterwarnings("error", category=UserWarning, module="keras")
            network = keras.saving.load_model(file, compile=False, safe_mode=True)
    except _FAULTS as error:
        raise_if_machine(error)
        raise TrainingError(
            f"{label}: can't be loaded: {_text(error)}; it must be a whole file, of a model of Keras' own layers "
            "without Lambda"
        ) from None
    network.trainable = False
    for variable in network.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            raise TrainingError(f"{label}: {variable.path} has numbers that are not finite; {remedy}")
    return network


def _check_input(network: keras.Model, shape: tuple[int, int, int], label: str) -> None:
    """Check that a network takes images of a shape, as floats."""
    inputs = getattr(network, "inputs", None)
    if not inputs or len(inputs) > 1 or len(inputs[0].shape) != len(shape) + 1:
        raise TrainingError(f"{label}: not a network of one image each; build it from one keras.Input({shape})")
    expected = inputs[0].shape[1:]
    if any(side not in (None, own) for side, own in zip(expected, shape, strict=True)):
        wanted, given = (" x ".join("any" if n is None else str(n) for n in sides) for sides in (expected, shape))
        raise TrainingError(
            f"{label}: takes images of {wanted}, but patches are {given}; build it from keras.Input({shape}), and "
            "save it again"
        )
    if not keras.backend.is_float_dtype(inputs[0].dtype):
        raise TrainingError(f"{label}: takes {inputs[0].dtype}; build it for floats in [0, 1], and save it again")


def _features(network: keras.Model, layers: Sequence[str], shape: tuple[int, int, int], label: str) -> keras.Model:
    """Cut a network so that it returns the outputs of some layers by name, and computes no others."""
    known = [layer.name for layer in network.layers]
    for name in layers:
        if name not in known:
            raise TrainingError(f"{label} has no layer {name!r}; it has {shortened(known, MOST_NAMED)}")
    try:
        # by name: of a list of one, Keras would return the output alone
        features = keras.Model(network.inputs[0], {name: network.get_layer(name).output for name in layers})
        features.trainable = False
        found = features(keras.Input(shape))
    except (ValueError, TypeError, AttributeError) as error:  # images too small for it; a layer that is used twice
        raise TrainingError(
            f"{label}: patches of {shape[0]} pixels don't pass {', '.join(layers)}: {_text(error)}; name earlier "
            "layers"
        ) from None
    for name in layers:
        sides = getattr(found[name], "shape", ())
        if len(sides) != len(shape) + 1 or 0 in sides:
            raise TrainingError(
                f"{label}: {name} has no features of shape (height, width, channels) for patches of {shape[0]} "
                "pixels; name another layer, such as a convolution"
            )
    return features


def _text(error: Exception) -> str:
    """Return the first sentence of Keras' text about an error, without its escapes for terminals."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    paragraphs = [each for each in text.split("\n\n") if not each.startswith("Exception encountered")]
    return one_line(re.split(r"(?<=\.)\s", paragraphs[0] if paragraphs else text)[0].rstrip("."))
