"""The registered models as MLflow runs them: patches in; reconstructions out, or from a pair a table of scores.

MLflow copies this file into the model ("models from code") and runs it where the model is loaded. Beside it lie
`histocae_pair.py`, `histocae_scales.py` and `histocae_conversion.py`, copies of the package's contrast/pair.py,
evaluation/scales.py and patches/conversion.py, and the files that `tracking.python_models` saved. It needs
TensorFlow, and nothing else of this package.

The model has no input schema on purpose. With one, MLflow would turn fractions in a JSON request into bytes without
a word, so that values in [0, 1] would become black patches. `checked` decides instead.
"""

import hashlib
import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

BATCH = 64
REMEDY = "download the model again; if that does not help, register it again"
MOST_STAIN = 1e6  # far above any matrix of stains; larger numbers have no finite products


class Served(PythonModel):
    """Reconstruct patches, or score them by the errors with which two autoencoders reconstruct them."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the autoencoders and the contract.

        Raises:
            MlflowException: a file is missing, or is not the one that was registered.

        """
        import tensorflow as tf

        # copies that lie beside this file
        from histocae_conversion import convert  # type: ignore[import-not-found]
        from histocae_pair import Linear, score  # type: ignore[import-not-found]
        from histocae_scales import errors  # type: ignore[import-not-found]

        folder = Path(context.artifacts["histocae"])
        check(folder)
        self._networks = tf.saved_model.load(str(folder / "networks"))
        self._contract = contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
        self._convert, self._log_ratio, self._by_scale = convert, score, errors
        linear = contract["score"] and contract["score"]["linear"]
        self._linear = Linear.from_json(linear) if linear else None

    def predict(  # type: ignore[override]  # MLflow also takes a method without params
        self, context: PythonModelContext, model_input: np.ndarray
    ) -> NDArray[np.float32] | pd.DataFrame:
        """Reconstruct or score patches.

        Args:
            context: of the model.
            model_input: uint8 (or other integers from 0 to 255), shape (n, pixels, pixels, 3), RGB as scanned; with
                color macenko a dict of these `patches` and the `stains` of their slide, floats, shape (3, 3).

        Returns:
            Of one model the reconstructions, about in [0, 1], float32, shape (n, pixels, pixels, 3). Of a pair a row
            per patch: score (at or above the threshold: tumor), error_tumor and error_normal (mean squared errors,
            pixels in [0, 1]), and class.

        Raises:
            MlflowException: the input is something else; a server answers 400.

        """
        settings = self._contract["patches"]
        data, stains = separated(model_input, settings["color"])
        patches = checked(data, settings["pixels"])
        work = self._score if self._contract["kind"] == "pair" else self._reconstruct
        parts = [
            work(self._convert(patches[i : i + BATCH], settings["color"], stains))
            for i in range(0, len(patches), BATCH)
        ]
        if self._contract["kind"] == "single":
            return np.concatenate([np.empty((0, *patches.shape[1:]), np.float32), *parts])
        return self._table(np.concatenate([np.empty((3, 0)), *parts], axis=1))

    def _reconstruct(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        residual, _ = self._networks.differences(patches)
        reconstructions: NDArray[np.float32] = patches.astype(np.float32) / np.float32(255) - residual.numpy()
        return reconstructions

    def _score(self, patches: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return score, error of the tumor model and error of the normal model of a batch, shape (3, n)."""
        *residuals, tumor, normal = (each.numpy() for each in self._networks.differences(patches))
        if self._linear is None:
            scores = self._log_ratio(tumor, normal)
        else:
            scores = self._linear.score(np.hstack([self._by_scale(each) for each in residuals]))
        return np.stack([scores, tumor, normal])

    def _table(self, scored: NDArray[np.float64]) -> pd.DataFrame:
        score, tumor, normal = scored
        threshold = self._contract["levels"]["patch"]["threshold"]
        classes = np.where(score >= threshold, *self._contract["classes"])
        return pd.DataFrame(
            {"score": score, "error_tumor": tumor, "error_normal": normal, "class": classes.astype(object)}
        )


def separated(data: object, color: str) -> tuple[object, NDArray[np.float64] | None]:
    """Separate the stains of a slide from its patches.

    Args:
        data: patches, or a dict of `patches` and `stains`.
        color: of the model's patches.

    Returns:
        The patches, unchecked, and the stains, float64, shape (3, 3); None where the color needs none.

    Raises:
        MlflowException: the stains are missing, malformed, or of no use to this model; the message is one line.

    """
    has_stains = isinstance(data, dict) and "stains" in data
    if color != "macenko":
        if has_stains:
            raise _refused(f"stains are of no use to this model, whose patches are {color}; give the patches alone")
        return data, None
    if not (isinstance(data, dict) and data.keys() == {"patches", "stains"}):
        raise _refused(
            "the stains of this model's patches are normalized, and stains belong to a whole slide: give "
            '{"patches": ..., "stains": the 3 x 3 matrix from histocae.patches.color.estimate}'
        )
    try:
        stains = np.asarray(data["stains"])
    except ValueError:
        stains = np.empty(0)
    if stains.dtype.kind in "iu":
        stains = stains.astype(np.float64)  # the smallest integer has no absolute value among the integers
    if stains.shape != (3, 3) or stains.dtype.kind != "f" or not (np.abs(stains) <= MOST_STAIN).all():
        raise _refused("expected stains to be 3 x 3 finite numbers, the matrix from histocae.patches.color.estimate")
    return data["patches"], stains.astype(np.float64)


def checked(data: object, pixels: int) -> NDArray[np.uint8]:
    """Check that data are patches.

    Args:
        data: an array, or nested lists.
        pixels: of a side of a patch.

    Returns:
        uint8, shape (n, pixels, pixels, 3).

    Raises:
        MlflowException: the data are something else; the message is one line.

    """
    expected = f"whole numbers from 0 to 255 (uint8), N x {pixels} x {pixels} x 3"
    if not isinstance(data, np.ndarray | list):
        raise _refused(f"expected one array of patches, {expected}; got {type(data).__name__}")
    try:
        patches = np.asarray(data)
    except ValueError:
        raise _refused(f"expected patches of one shape, {expected}; got lists of different lengths") from None
    if patches.shape[1:] != (pixels, pixels, 3):
        shape = " x ".join(str(n) for n in patches.shape) or "a single value"
        raise _refused(f"expected {expected}; got {shape}")
    if patches.dtype.kind not in "iu":
        raise _refused(f"expected {expected}; got {patches.dtype} (values in [0, 1]: give round(255 x value))")
    if patches.size and not (patches.min() >= 0 and patches.max() <= 255):
        raise _refused(f"expected {expected}; got numbers from {patches.min()} to {patches.max()}")
    return patches.astype(np.uint8)


def check(folder: Path) -> None:
    """Compare the files of a folder with their hashes in its SHA256SUMS.

    Args:
        folder: that `tracking.python_models` saved.

    Raises:
        MlflowException: a file is missing, or is not the one that was saved.

    """
    sums = folder / "SHA256SUMS"
    for line in _read(sums).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if hashlib.sha256(_read(folder / name)).hexdigest() != digest:
            raise MlflowException(f"{folder / name}: changed since the model was registered; {REMEDY}")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise MlflowException(f"{file}: can't be read: {error}; {REMEDY}") from None


def _refused(line: str) -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(line)
    return error


mlflow.models.set_model(Served())
