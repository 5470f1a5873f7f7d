"""Autoencoders as MLflow models that run without this package: one alone, or the pair of tumor and normal."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from histocae import checksums
from histocae.contrast import pair
from histocae.contrast.contract import CONTRACT, NETWORKS, PAIR, Contract
from histocae.evaluation import scales
from histocae.files import fingerprint, sha256, write_json
from histocae.networks import backend
from histocae.patches import conversion
from histocae.tracking.record import TrainingRecord

SERVED = Path(__file__).with_name("served_model.py")
FOLDER = "histocae"  # artifacts/histocae of every model
PACKAGES = ("mlflow", "tensorflow", "numpy", "pandas")
COLUMNS = {"score": "double", "error_tumor": "double", "error_normal": "double", "class": "string"}
# beside the served model, under these names
COPIES = {"histocae_pair.py": pair, "histocae_scales.py": scales, "histocae_conversion.py": conversion}


class Flavor:
    """The flavor mlflow.pyfunc, logged without a check of the input example.

    The check loads the model and serves it, which takes longer than to log it. `Model.log` has a switch for it
    (validate_serving_input), which `mlflow.pyfunc.save_model` does not take. That models can be served is tested in
    the tests.
    """

    name = "mlflow.pyfunc"

    @staticmethod
    def save_model(validate_serving_input: bool, **arguments: Any) -> None:
        """Save a model."""
        mlflow.pyfunc.save_model(**arguments)


def state(contract: Contract) -> str:
    """Return a fingerprint of what a model is made of: its contract, which has those of the weights, and its code."""
    return fingerprint([contract.state, {name: sha256(file) for name, file in _code().items()}])


def _code() -> dict[str, Path]:
    """Return the files with the code of every model, by the names that they have there."""
    return {SERVED.name: SERVED, **{name: Path(str(module.__file__)) for name, module in COPIES.items()}}


@contextmanager
def saved_for_log(contract: Contract, records: Sequence[TrainingRecord]) -> Iterator[dict[str, Any]]:
    """Save a model in a temporary folder.

    Args:
        contract: of the model.
        records: of its trainings, tumor first.

    Yields:
        Arguments for `Model.log` with `Flavor`; the files in them are deleted afterwards.

    Raises:
        HistocaeError: a model's files are damaged, or not those of its training.

    """
    backend.start()
    from histocae.networks.cae import CAE
    from histocae.networks.exported import export

    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        folder = here / FOLDER
        export([CAE(path=record.folder, load=True) for record in records], folder / NETWORKS)
        write_json(contract.as_json(), folder / CONTRACT)
        checksums.write(folder)
        for name, module in COPIES.items():
            shutil.copyfile(str(module.__file__), here / name)
        yield {
            "python_model": str(SERVED),
            "artifacts": {FOLDER: str(folder)},
            "code_paths": [str(here / name) for name in COPIES],
            "signature": ModelSignature(outputs=_outputs(contract)),
            "input_example": _example(contract),
            "validate_serving_input": False,
            "flavor_name": Flavor.name,
            "metadata": {"histocae": _summary(contract)},
            "pip_requirements": [f"{name}=={version(name)}" for name in PACKAGES],
        }


def _outputs(contract: Contract) -> Schema:
    if contract.kind == PAIR:
        return Schema([ColSpec(kind, name) for name, kind in COLUMNS.items()])
    pixels = contract.patches.pixels
    return Schema([TensorSpec(np.dtype(np.float32), (-1, pixels, pixels, 3))])


def _example(contract: Contract) -> Any:
    patches = np.zeros((1, contract.patches.pixels, contract.patches.pixels, 3), np.uint8)
    if contract.patches.color != "macenko":
        return patches
    return {"patches": patches, "stains": np.eye(3)}


def _summary(contract: Contract) -> dict[str, Any]:
    """Give the part of the contract that fits into the description of an MLflow model."""
    content = contract.as_json()
    return {key: content[key] for key in ("version", "kind", "models", "source", "patches")}
