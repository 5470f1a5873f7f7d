"""Labeled images: MNIST from Keras, from an .npz or from the four original files; or scikit-learn's small set.

MNIST: LeCun, Bottou, Bengio and Haffner 1998, Proceedings of the IEEE 86:2278-2324. The small set, `digits`, has
1,797 images of 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI Machine Learning Repository). It serves trials and tests.
"""

import gzip
import hashlib
import urllib.error
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae import paths
from histocae.cohort.split import SPLITS
from histocae.errors import DataError, ParamsError, raise_if_machine
from histocae.files import ARRAY_FAULTS, read_table
from histocae.mnist import paths as mnist_paths
from histocae.patches.images import Images, InMemory

SIDES = {"mnist": 28, "digits": 8}
NAMES = ("x_train", "y_train", "x_test", "y_test")
ALL = "all"  # for a model of all digits, in the place of its one digit
DIGITS = 10
# of the arrays' bytes as uint8, not of the files: these differ between the forms in which MNIST is published
SHA256 = {
    "mnist": (
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
    "digits": (
        "1a5fd3b5c524e826767083c882fe4f8c91850d3568a78caadaa66eb3fe78f5b6",
        "00d355536cfe54c3c5aaa1bbc756008bcc5ba7030407f225954ebda1d1ca46c9",
        "a422c8110b35908d8bc868469498d8bc67c5d5f4357631b3ded0ee283ca6a1e9",
        "7a7a9acee298b8862700d7c2a0341a0ee3744e1369c9107a26149f5d0e61b304",
    ),
}
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
DIGITS_TRAIN = 1_437  # four fifths of the small set
REMEDY = "set data.path to mnist.npz, or to a folder with the four idx files (.gz)"


@dataclass(frozen=True)
class LabeledImages:
    """The images of one part of the split, and their digits as labels.

    Attributes:
        images: uint8, shape (n, side, side, 1), memory-mapped.
        labels: int64, shape (n,).

    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @property
    def as_images(self) -> Images:
        """The images without labels, as trainings and evaluations read them."""
        return InMemory(self.images)

    def only(self, digit: int) -> "LabeledImages":
        """Select the images of one digit."""
        own = self.labels == digit
        return LabeledImages(self.images[own], self.labels[own])


def read(
    source: str, path: str | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Read all images with their digits, and check that they are the published ones.

    Args:
        source: mnist | digits.
        path: an .npz with x_train, y_train, x_test and y_test, or a folder with the four idx
            files. None for Keras' own loader, which downloads MNIST once. For mnist only.

    Returns:
        Training images, their digits, test images, their digits. Images are uint8, shape (n, side, side);
        digits are uint8, shape (n,).

    Raises:
        DataError: the files are missing, can't be read, or differ from the published set.

    """
    arrays: tuple[NDArray[Any], ...]
    if source == "digits":
        arrays, origin = _small(), "scikit-learn's digits"
    elif path is None:
        arrays, origin = _from_keras(), "the cache of Keras"
    elif Path(path).is_dir():
        arrays, origin = tuple(_idx(Path(path), name) for name in FILES), path
    else:
        arrays, origin = _npz(Path(path)), path
    for name, array, expected in zip(NAMES, arrays, SHA256[source], strict=True):
        remedy = REMEDY if source == "mnist" else "install another scikit-learn"
        message = f"{origin}: {name} is not that of {source}: {array.dtype} {array.shape}"
        if array.dtype.kind not in "ui":  # the integer type of the labels differs between files
            raise DataError(f"{message}, expected whole numbers; {remedy}")
        actual = hashlib.sha256(array.astype(np.uint8).tobytes()).hexdigest()
        if actual != expected:
            raise DataError(f"{message}, sha256 {actual[:12]}..., expected {expected[:12]}...; {remedy}")
    images, digits, test, test_digits = (array.astype(np.uint8) for array in arrays)
    shape = (-1, SIDES[source], SIDES[source])
    return images.reshape(shape), digits.ravel(), test.reshape(shape), test_digits.ravel()


def divide(
    images: NDArray[np.uint8], digits: NDArray[np.uint8], train: int, validation: float
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]]:
    """Divide the first images into training and validation. The last of them validate, as in Keras.

    Args:
        images: uint8, shape (n, side, side).
        digits: of the images, shape (n,).
        train: number of images to use, for training and validation together.
        validation: share of the used images that validate, between 0 and 1.

    Returns:
        For train and validation: their images, digits, and positions in `images`.

    Raises:
        ParamsError: `images` are fewer than `train`, or a part would be empty.

    """
    if train > len(images):
        raise ParamsError(f"data.train: {train} images, but the set has only {len(images)} training images; lower it")
    end = int(train * (1 - validation))
    if not 0 < end < train:
        raise ParamsError(f"data.validation: {validation:g} of {train} images leaves a part empty; change it")
    positions = {"train": np.arange(end), "validation": np.arange(end, train)}
    return {part: (images[rows], digits[rows], rows) for part, rows in positions.items()}


def check(digits: Mapping[str, NDArray[np.integer[Any]]]) -> None:
    """Check that each part has images of every digit, and train enough of them for one model per digit.

    Args:
        digits: of the images, by part.

    Raises:
        ParamsError: a part has too few images of a digit.

    """
    for part, labels in digits.items():
        least = 2 if part == "train" else 1
        lacking = np.flatnonzero(np.bincount(labels, minlength=DIGITS) < least)
        if len(lacking):
            problem = f"{part} has fewer than {least} images of {', '.join(map(str, lacking))}"
            raise ParamsError(f"data.train, data.validation: {problem}; raise them")


def load() -> dict[str, LabeledImages]:
    """Load the parts that the stage `data` has written.

    Raises:
        DataError: a file is missing or can't be read, or images and labels differ in number.

    """
    parts = {}
    for name in SPLITS:
        path = mnist_paths.IMAGES / f"{name}.npy"
        table = read_table(paths.SPLITS / f"{name}.csv", numbers=("image", "label"))
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except ARRAY_FAULTS as error:
            raise_if_machine(error)
            raise DataError(f"{path}: can't be read: {error}; run dvc repro data") from None
        if len(images) != len(table):
            raise DataError(f"{path}: has {len(images)} images, but {len(table)} labels; run dvc repro data")
        parts[name] = LabeledImages(images, table["label"].to_numpy(np.int64))
    return parts


def table(labels: NDArray[np.integer[Any]], positions: NDArray[np.int64]) -> pd.DataFrame:
    """Tabulate the position and the digit of each image of a part.

    Args:
        labels: digits of the images, shape (n,).
        positions: of the images in the published set, shape (n,).

    Returns:
        The columns image (the position) and label (the digit).

    """
    return pd.DataFrame({"image": positions, "label": labels.astype(np.int64)})


def _small() -> tuple[NDArray[np.uint8], ...]:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.rint(loaded.images * (255 / 16)).astype(np.uint8)  # scikit-learn's pixels are 0 to 16
    digits = loaded.target.astype(np.uint8)
    return images[:DIGITS_TRAIN], digits[:DIGITS_TRAIN], images[DIGITS_TRAIN:], digits[DIGITS_TRAIN:]


def _from_keras() -> tuple[NDArray[Any], ...]:
    from histocae.networks import backend

    backend.start()
    import keras

    try:
        (images, digits), (test, test_digits) = keras.datasets.mnist.load_data()
    except Exception as error:
        # Keras raises a bare Exception where the network fails. A file that can't be written is an OSError,
        # a wrong checksum a ValueError. Everything else is a bug and keeps its traceback.
        if not isinstance(error.__context__, urllib.error.URLError) and not isinstance(error, OSError | ValueError):
            raise
        raise_if_machine(error)
        raise DataError(f"Keras could not download MNIST: {error}; without network {REMEDY}") from None
    return images, digits, test, test_digits


def _npz(path: Path) -> tuple[NDArray[Any], ...]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in NAMES)
    except FileNotFoundError:
        raise DataError(f"data.path: {path} does not exist; {REMEDY}") from None
    # AttributeError: the file is a single array (.npy), not an archive of arrays
    except (*ARRAY_FAULTS, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise_if_machine(error)
        raise DataError(f"{path}: not an .npz with {', '.join(NAMES)}; {REMEDY}") from None


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read a file in MNIST's original format, idx: a magic number, big-endian sides, bytes."""
    path = folder / name
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"data.path: {path} does not exist; {REMEDY}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise_if_machine(error)
        raise DataError(f"{path}: can't be read: {error}; download it again") from None
    sides = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data, ">u4", sides, 4) if len(data) >= 4 + 4 * sides else np.empty(0)
    body = data[4 + 4 * sides :]
    if not sides or len(shape) != sides or int(np.prod(shape, dtype=np.int64)) != len(body):
        raise DataError(f"{path}: not an idx file of bytes, or incomplete; download it again")
    return np.frombuffer(body, np.uint8).reshape(shape.astype(int))
