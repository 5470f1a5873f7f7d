"""Images: MNIST from Keras, an .npz or the four original files; or the small set of digits of scikit-learn.

MNIST: LeCun, Bottou, Bengio and Haffner 1998, Proceedings of the IEEE 86:2278-2324. The small one: 1,797
digits of 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI Machine Learning Repository), for trials and tests.
"""

import gzip
import hashlib
import urllib.error
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from histocae.cohort.split import SPLITS
from histocae.errors import DataError, ParamsError
from histocae.files import read_table
from histocae.mnist import paths as mnist_paths
from histocae.patches.images import Images, InMemory

SIDES = {"mnist": 28, "digits": 8}
NAMES = ("x_train", "y_train", "x_test", "y_test")
ALL = "all"  # digits, as opposed to one
DIGITS = 10
# of the bytes of the arrays, uint8: the files around them differ
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
    """The images of one part of the split with their digits.

    Attributes:
        images: uint8, shape (n, side, side, 1), memory-mapped.
        labels: int64, shape (n,).

    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def as_images(self) -> Images:
        """The images in the form that trainings and evaluations read."""
        return InMemory(self.images)

    def only(self, digit: int) -> "LabeledImages":
        """Select the images of one digit."""
        own = self.labels == digit
        return LabeledImages(self.images[own], self.labels[own])


def read(source: str, path: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read a whole set, and check that it is what it should be.

    Args:
        source: mnist | digits.
        path: an .npz with x_train, y_train, x_test and y_test, or a folder with the four idx
            files; None for Keras' own loader, which fetches them once. Of mnist only.

    Returns:
        Training images, their digits, test images, their digits; images are uint8, n x side x side.

    Raises:
        DataError: it is not there, can't be read, or has other pixels or digits than the
            published set.

    """
    if source == "digits":
        arrays, told = _small(), "scikit-learn's digits"
    elif path is None:
        arrays, told = _from_keras(), "what Keras has in its cache"
    elif Path(path).is_dir():
        arrays, told = tuple(_idx(Path(path), name) for name in FILES), path
    else:
        arrays, told = _npz(Path(path)), path
    for name, array, expected in zip(NAMES, arrays, SHA256[source], strict=True):
        remedy = REMEDY if source == "mnist" else "install another scikit-learn"
        about = f"{told}: {name} is not that of {source}: {array.dtype} {array.shape}"
        if array.dtype.kind not in "ui":  # containers differ in the type of the labels, but they are whole numbers
            raise DataError(f"{about}, expected whole numbers; {remedy}")
        found = hashlib.sha256(array.astype(np.uint8).tobytes()).hexdigest()
        if found != expected:
            raise DataError(f"{about}, sha256 {found[:12]}..., expected {expected[:12]}...; {remedy}")
    images, digits, test, test_digits = (array.astype(np.uint8) for array in arrays)
    shape = (-1, SIDES[source], SIDES[source])
    return images.reshape(shape), digits.ravel(), test.reshape(shape), test_digits.ravel()


def divide(
    images: np.ndarray, digits: np.ndarray, train: int, validation: float
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Divide the first training images into training and validation: the last ones validate, as in Keras.

    Args:
        images: n x side x side.
        digits: of the images.
        train: how many of them are used, training and validation together.
        validation: share of these.

    Returns:
        By part: images, digits, and their positions in the set.

    Raises:
        ParamsError: there are not so many, or a part would be empty.

    """
    if train > len(images):
        raise ParamsError(f"data.train: {train} images asked for, and the set has {len(images)} to train on")
    at = int(train * (1 - validation))
    if not 0 < at < train:
        raise ParamsError(f"data.validation: {validation:g} of {train} images leaves one part without any")
    rows = {"train": np.arange(at), "validation": np.arange(at, train)}
    return {name: (images[some], digits[some], some) for name, some in rows.items()}


def check(digits: dict[str, np.ndarray]) -> None:
    """Make sure that each part has every digit, and train enough of each for a model of its own.

    Args:
        digits: of the images of each part.

    Raises:
        ParamsError: one is lacking.

    """
    for name, some in digits.items():
        least = 2 if name == "train" else 1
        lacking = np.flatnonzero(np.bincount(some, minlength=DIGITS) < least)
        if len(lacking):
            told = f"{name} has fewer than {least} images of {', '.join(map(str, lacking))}"
            raise ParamsError(f"data.train, data.validation: {told}; raise them")


def load() -> dict[str, LabeledImages]:
    """Give the parts that the stage `data` has written.

    Raises:
        DataError: it has not run yet.

    """
    from histocae.paths import SPLITS as TABLES

    parts = {}
    for name in SPLITS:
        path = mnist_paths.IMAGES / f"{name}.npy"
        table = read_table(TABLES / f"{name}.csv")
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: can't be read: {error}; run dvc repro data") from None
        if len(images) != len(table):
            raise DataError(f"{path}: has {len(images)} images, its table {len(table)}; run dvc repro data")
        parts[name] = LabeledImages(images, table["label"].to_numpy(np.int64))
    return parts


def table(labels: np.ndarray, positions: np.ndarray) -> pd.DataFrame:
    """Give the rows of a part: where in its set each image stands, and its digit."""
    return pd.DataFrame({"image": positions, "label": labels.astype(np.int64)})


def _small() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)  # 0 to 16 there
    digits = found.target.astype(np.uint8)
    return images[:DIGITS_TRAIN], digits[:DIGITS_TRAIN], images[DIGITS_TRAIN:], digits[DIGITS_TRAIN:]


def _from_keras() -> tuple[np.ndarray, ...]:
    from histocae.networks import backend

    backend.start()
    import keras

    try:
        (images, digits), (test, test_digits) = keras.datasets.mnist.load_data()
    except Exception as error:
        # Keras raises no other class where the network fails; anything but that, a file it can't write
        # and a checksum that does not hold is a bug, and keeps its traceback
        if not isinstance(error.__context__, urllib.error.URLError) and not isinstance(error, OSError | ValueError):
            raise
        raise DataError(f"MNIST could not be fetched by Keras: {error}; without network {REMEDY}") from None
    return images, digits, test, test_digits


def _npz(path: Path) -> tuple[np.ndarray, ...]:
    try:
        with np.load(path, allow_pickle=False) as held:
            return tuple(held[name] for name in NAMES)
    except FileNotFoundError:
        raise DataError(f"data.path: {path} is not there; {REMEDY}") from None
    # the last two where it is a single array and no archive of several
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
        TypeError,
    ):
        raise DataError(f"{path}: no .npz with {', '.join(NAMES)}; {REMEDY}") from None


def _idx(folder: Path, name: str) -> np.ndarray:
    """Read one file in the format of the original: big-endian, a magic number, sides, bytes."""
    path = folder / name
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"data.path: {path} is not there; {REMEDY}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read: {error}; download it again") from None
    sides = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data, ">u4", sides, 4) if len(data) >= 4 + 4 * sides else np.empty(0)
    body = data[4 + 4 * sides :]
    if not sides or len(shape) != sides or int(np.prod(shape, dtype=np.int64)) != len(body):
        raise DataError(f"{path}: no idx file of bytes, or cut short; download it again")
    return np.frombuffer(body, np.uint8).reshape(shape.astype(int))
