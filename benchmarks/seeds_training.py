"""The input and training of the notebooks, rewritten for comparison.

Files are read one by one into float32, as `ImageDataGenerator(rescale=1/255).flow_from_dataframe(class_mode=
"input")` did, and `fit` trains on them at batch 32 with adamax. In Keras 3 `fit` has no `workers`.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from PIL import Image

BATCH = 32
RATE = 0.002  # default of adamax in Keras 2


class ImageFiles(keras.utils.PyDataset):
    """Batches of (images, the same images), float32 in [0, 1], in a new order each epoch."""

    def __init__(self, files: Sequence[Path], pixels: int, batch: int = BATCH, seed: int = 0):
        """Draw the order of the first epoch; images have shape (pixels, pixels, 3)."""
        super().__init__()
        self._files, self._shape, self._batch = list(files), (pixels, pixels, 3), batch
        self._rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        self._order = self._rng.permutation(len(self._files))

    def __len__(self) -> int:
        return -(-len(self._files) // self._batch)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = self._order[i * self._batch : (i + 1) * self._batch]
        inputs = np.zeros((len(numbers), *self._shape), np.float32)
        for position, number in enumerate(numbers):
            with Image.open(self._files[number]) as image:
                if image.mode != "RGB":
                    image = image.convert("RGB")
                if image.size != self._shape[:2]:
                    image = image.resize(self._shape[:2], Image.Resampling.NEAREST)
                pixels = np.asarray(image, np.float32)
            inputs[position] = pixels * np.float32(1 / 255)
        return inputs, inputs.copy()


def compile_as_notebooks_did(model: keras.Model) -> keras.Model:
    """Compile a model for `fit` with adamax and the mean squared error."""
    model.compile(optimizer=keras.optimizers.Adamax(RATE), loss="mse")
    return model
