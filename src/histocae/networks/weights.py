"""Files of weights."""

import math
from pathlib import Path

import keras

from histocae.files import reserve

_HEADER = 16_384  # of a file; more than HDF5 needs
_EACH = 4_096  # of an array in it
_BYTES = 4  # of a number: float32; the few int64 are within _EACH


def save(model: keras.Model, path: Path) -> None:
    """Write the weights of a model and, where it is compiled, the state of its optimizer.

    Args:
        model: any.
        path: of the file, *.weights.h5.

    Raises:
        OSError: the disk is full, or takes no file of this size. HDF5 itself would crash.

    """
    optimizer = getattr(model, "optimizer", None)  # of a model that was never compiled: not even None
    arrays = [*model.variables, *(optimizer.variables if optimizer is not None else ())]
    sizes = (math.prod(array.shape) * _BYTES for array in arrays)
    # only tests that there is space now: HDF5 empties the file before it writes
    reserve(path, _HEADER + sum(_EACH + size for size in sizes))
    model.save_weights(path)
