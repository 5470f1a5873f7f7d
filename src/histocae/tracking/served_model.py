"""The registered pair as MLflow runs it: patches in, a table of scores out.

MLflow copies this file into the model ("models from code") and runs it where the model is loaded. Beside it lie
`histocae_pair.py` and `histocae_scales.py`, copies of histocae/contrast/pair.py and histocae/evaluation/scales.py,
and the files that `tracking.pairs` saved. It needs TensorFlow, and nothing else of this package.

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


class Pair(PythonModel):
    """Score patches by the errors with which two autoencoders reconstruct them."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load both autoencoders and the threshold.

        Raises:
            MlflowException: a file is missing, or is not the one that was registered.

        """
        import tensorflow as tf

        # copies that lie beside this file
        from histocae_pair import Linear, score  # type: ignore[import-not-found]
        from histocae_scales import errors  # type: ignore[import-not-found]

        folder = Path(context.artifacts["pair"])
        check(folder)
        self._models = tf.saved_model.load(str(folder / "differences"))
        self._settings = settings = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
        self._log_ratio, self._by_scale = score, errors
        self._linear = None if settings["linear"] is None else Linear.from_json(settings["linear"])

    def predict(  # type: ignore[override]  # MLflow also takes a method without params
        self, context: PythonModelContext, model_input: np.ndarray
    ) -> pd.DataFrame:
        """Score patches.

        Args:
            context: of the model.
            model_input: uint8 (or other integers from 0 to 255), shape (n, pixels, pixels, 3).

        Returns:
            A row per patch: score (at or above the threshold: tumor), error_tumor and error_normal (mean squared
            errors, pixels in [0, 1]), and class.

        Raises:
            MlflowException: the input is something else; a server answers 400.

        """
        settings = self._settings
        patches = checked(model_input, settings["pixels"])
        parts = [self._score(patches[i : i + BATCH]) for i in range(0, len(patches), BATCH)]
        score, tumor, normal = np.concatenate([np.empty((3, 0)), *parts], axis=1)
        classes = np.where(score >= settings["threshold"], settings["tumor"], settings["normal"])
        return pd.DataFrame(
            {"score": score, "error_tumor": tumor, "error_normal": normal, "class": classes.astype(object)}
        )

    def _score(self, patches: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return score, error of the tumor model and error of the normal model of a batch, shape (3, n)."""
        *residuals, tumor, normal = (each.numpy() for each in self._models.differences(patches))
        if self._linear is None:
            scores = self._log_ratio(tumor, normal)
        else:
            scores = self._linear.score(np.hstack([self._by_scale(each) for each in residuals]))
        return np.stack([scores, tumor, normal])


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
    """Compare the files of a folder with their hashes in its SHA256SUMS, where it has one.

    Args:
        folder: that `tracking.pairs` saved; pairs of earlier versions have no hashes.

    Raises:
        MlflowException: a file is missing, or is not the one that was saved.

    """
    sums = folder / "SHA256SUMS"
    if not sums.exists():
        return
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except (OSError, ValueError) as error:
            raise MlflowException(f"{folder / name}: can't be read: {error}; register the pair again") from None
        if found != digest:
            raise MlflowException(f"{folder / name}: changed since the pair was registered; register it again")


def _refused(line: str) -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(line)
    return error


mlflow.models.set_model(Pair())
