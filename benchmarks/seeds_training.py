"""The input and training of the notebooks, rewritten for comparison.

Files are read one by one into float32, as `ImageDataGenerator(rescale=1/255).flow_from_dataframe(class_mode=
"input")` did, and `fit` takes them at batch 32 with adamax. Keras 3 has no `workers` for it.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from PIL import Image

BATCH = 32
RATE = 0.002  # default of adamax in Keras 2


class PictureFiles(keras.utils.PyDataset):
    """Batches of (images, the same images), float32 in [0, 1], in another order each epoch."""

    def __init__(self, files: Sequence[Path], pixels: int, batch: int = BATCH, seed: int = 0):
        """Start with the order of the files; each has shape (pixels, pixels, 3)."""
        super().__init__()
        self._files, self._shape, self._batch = list(files), (pixels, pixels, 3), batch
        self._rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Shuffle."""
        self._order = self._rng.permutation(len(self._files))

    def __len__(self) -> int:
        return -(-len(self._files) // self._batch)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        which = self._order[i * self._batch : (i + 1) * self._batch]
        given = np.zeros((len(which), *self._shape), np.float32)
        for place, one in enumerate(which):
            with Image.open(self._files[one]) as picture:
                if picture.mode != "RGB":
                    picture = picture.convert("RGB")
                if picture.size != self._shape[:2]:
                    picture = picture.resize(self._shape[:2], Image.Resampling.NEAREST)
                pixels = np.asarray(picture, np.float32)
            given[place] = pixels * np.float32(1 / 255)
        return given, given.copy()


def compile_as_they_did(model: keras.Model) -> keras.Model:
    """Compile for `fit` with adamax and the mean squared error."""
    model.compile(optimizer=keras.optimizers.Adamax(RATE), loss="mse")
    return model
