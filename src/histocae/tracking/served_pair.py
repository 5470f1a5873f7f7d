"""The registered pair as MLflow runs it: patches in, a table of scores out.

MLflow copies this file into the model ("models from code") and runs it where the model is
loaded. Beside it lie `histocae_pair.py`, a copy of histocae/pair.py, and what
`tracking.pairs` saved: it needs TensorFlow, and nothing else of this package. The model has
no input schema on purpose: MLflow would turn fractions in a JSON request into bytes
silently, and [0, 1] into black patches. It is `checked` that decides.
"""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

BATCH = 64


class Pair(mlflow.pyfunc.PythonModel):
    """Score patches by which of two autoencoders gives them back better."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        """Load both autoencoders and the threshold."""
        import tensorflow as tf
        from histocae_pair import score

        folder = Path(context.artifacts["pair"])
        self._models = tf.saved_model.load(str(folder / "errors"))
        self._score = score
        self._about = json.loads((folder / "pair.json").read_text(encoding="utf-8"))

    def predict(self, context: mlflow.pyfunc.PythonModelContext, model_input: np.ndarray) -> pd.DataFrame:
        """Score patches.

        Args:
            context: of the model.
            model_input: uint8 (or other integers from 0 to 255), N x pixels x pixels x 3.

        Returns:
            Per patch: score (above the threshold, or on it: tumor), error_tumor and
            error_normal (mean squared errors, pixels in [0, 1]), class.

        Raises:
            MlflowException: no such patches; a server answers 400.

        """
        about = self._about
        patches = checked(model_input, about["pixels"])
        parts = [self._models.errors(patches[i : i + BATCH]) for i in range(0, len(patches), BATCH)]
        tumor, normal = np.concatenate([np.empty((2, 0)), *parts], axis=1)
        score = self._score(tumor, normal)
        kinds = np.where(score >= about["threshold"], about["tumor"], about["normal"])
        return pd.DataFrame(
            {"score": score, "error_tumor": tumor, "error_normal": normal, "class": kinds.astype(object)}
        )


def checked(given: object, pixels: int) -> np.ndarray:
    """Give patches as uint8; anything else is refused in one line."""
    wanted = f"whole numbers from 0 to 255 (uint8), N x {pixels} x {pixels} x 3"
    if not isinstance(given, np.ndarray | list):
        raise _refused(f"expected one array of patches, {wanted}; got {type(given).__name__}")
    try:
        patches = np.asarray(given)
    except ValueError:
        raise _refused(f"expected patches of one shape, {wanted}; got lists of different lengths") from None
    if patches.shape[1:] != (pixels, pixels, 3):
        shape = " x ".join(str(n) for n in patches.shape) or "a single value"
        raise _refused(f"expected {wanted}; got {shape}")
    if patches.dtype.kind not in "iu":
        raise _refused(f"expected {wanted}; got {patches.dtype} (values in [0, 1]: give round(255 x value))")
    if patches.size and not (patches.min() >= 0 and patches.max() <= 255):
        raise _refused(f"expected {wanted}; got numbers from {patches.min()} to {patches.max()}")
    return patches.astype(np.uint8)


def _refused(line: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(line)


mlflow.models.set_model(Pair())
