"""The pair of a tumor and a normal model as one MLflow model."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from histocae import checksums
from histocae.contrast import pair as scoring
from histocae.evaluation import scales
from histocae.files import write_json
from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL
from histocae.networks import backend
from histocae.tracking.record import PairRecord

if TYPE_CHECKING:  # Keras is imported once the backend has been started
    from histocae.networks.cae import CAE

SERVED = Path(__file__).with_name("served_pair.py")
PACKAGES = ("mlflow", "tensorflow", "numpy", "pandas")
COLUMNS = {"score": "double", "error_tumor": "double", "error_normal": "double", "class": "string"}


@contextmanager
def as_python_model(pair: PairRecord) -> Iterator[dict[str, Any]]:
    """Save the pair in a temporary folder.

    Args:
        pair: both models and the results of their comparison.

    Yields:
        Arguments for `Model.log` with `mlflow.pyfunc`; the files in them are deleted afterwards.

    Raises:
        HistocaeError: a model's files are damaged, or not those of its training.

    """
    backend.start()
    from histocae.networks.cae import CAE

    caes = [CAE(path=record.folder, load=True) for record in (pair.tumor, pair.normal)]
    shape = tuple(caes[0].params["input_shape"])
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        _save_differences(caes, shape, here / "pair" / "differences")
        description = {
            "pixels": shape[0],
            "threshold": pair.tissue["threshold"]["patch"],
            "tumor": PRIMARY_TUMOR,
            "normal": SOLID_TISSUE_NORMAL,
            "score": pair.score["kind"],
            "linear": pair.score["linear"],
        }
        write_json(description, here / "pair" / "pair.json")
        checksums.write(here / "pair")
        copies = {"histocae_pair.py": scoring, "histocae_scales.py": scales}
        for name, module in copies.items():
            shutil.copyfile(str(module.__file__), here / name)
        yield {
            "python_model": str(SERVED),
            "artifacts": {"pair": str(here / "pair")},
            "code_paths": [str(here / name) for name in copies],
            "signature": ModelSignature(outputs=Schema([ColSpec(kind, name) for name, kind in COLUMNS.items()])),
            "input_example": np.zeros((1, *shape), np.uint8),
            "pip_requirements": [f"{name}=={version(name)}" for name in PACKAGES],
        }


def _save_differences(caes: "list[CAE]", shape: tuple[int, ...], folder: Path) -> None:
    """Save a function of uint8 patches: their differences from both reconstructions, and the MSE of each.

    It is saved in TensorFlow's own format, which loads without Keras and without this package.
    """
    import keras
    import tensorflow as tf

    def differences(patches: tf.Tensor) -> list[tf.Tensor]:
        scaled = tf.cast(patches, tf.float32) / 255
        residuals = [scaled - cae.model(scaled, training=False) for cae in caes]
        return [*residuals, *(tf.reduce_mean(tf.square(each), axis=(1, 2, 3)) for each in residuals)]

    archive = keras.export.ExportArchive()
    for cae in caes:
        archive.track(cae.model)
    archive.add_endpoint("differences", differences, [tf.TensorSpec((None, *shape), tf.uint8, name="patches")])
    archive.write_out(str(folder), verbose=False)
