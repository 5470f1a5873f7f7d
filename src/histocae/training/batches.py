"""Batches of uint8 images in a shuffled order."""

import math

import numpy as np

from histocae.patches.images import Images


class Batches:
    """Batches of uint8 patches in a shuffled order that depends on seed and epoch alone."""

    def __init__(
        self,
        patches: Images,
        batch_size: int,
        seed: int | None,
        epoch: int = 0,
        augment: bool = False,
        denoise: tuple[int, float, float] | None = None,
    ):
        """Prepare the batches of one epoch; `seed` None keeps the patches' order.

        With `augment` each patch comes in one of its eight turned and mirrored forms:
        slides have no upright. With `denoise` (pixels, and the shares at the epoch's start and
        end) so large a share of the inputs is shifted, by up to so many pixels each way.
        """
        self._patches, self._batch_size = patches, batch_size
        count = len(patches)
        self._order = np.arange(count) if seed is None else np.random.default_rng([seed, epoch]).permutation(count)
        self._forms = np.random.default_rng([seed, epoch, 1]).integers(8, size=count) if augment else None
        self._shifts = None
        if denoise is not None:
            pixels, *shares = denoise
            rng = np.random.default_rng([seed, epoch, 2])
            shifted = rng.random(count) < np.linspace(*shares, count)
            self._shifts = rng.integers(-pixels, pixels + 1, (count, 2)) * shifted[:, None]

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    @property
    def patches(self) -> int:
        """How many patches there are in all."""
        return len(self._order)

    @property
    def bytes_each(self) -> int:
        """Bytes of a whole batch."""
        return self._batch_size * math.prod(self._patches.shape)

    def positions(self, several: range) -> np.ndarray:
        """Give the positions of the patches of batches of one size, batches x patches."""
        which = self._order[several.start * self._batch_size : several.stop * self._batch_size]
        return which.reshape(len(several), -1)

    def chunks(self, most: int) -> list[range]:
        """Divide the batches into runs of at most so many, all of a run of one size."""
        whole = len(self._order) // self._batch_size
        runs = [range(start, min(start + most, whole)) for start in range(0, whole, most)]
        return runs + ([range(whole, whole + 1)] if whole < len(self) else [])

    def stacked(self, several: range) -> tuple[np.ndarray, np.ndarray]:
        """Give batches of one size as two arrays, batches x patches x height x width x channels."""
        if len(several) == 1:
            given, target = self[several.start]
            one = given[None]
            return one, one if target is given else target[None]
        given, target = zip(*(self[i] for i in several), strict=True)
        stacked = np.stack(target)
        return (stacked if self._shifts is None else np.stack(given)), stacked

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        which = slice(i * self._batch_size, (i + 1) * self._batch_size)
        batch = self._patches.take(self._order[which])
        if self._forms is not None:
            batch = _turned(batch, self._forms[which])
        given = batch if self._shifts is None else _shifted(batch, self._shifts[which])
        return given, batch


def _turned(batch: np.ndarray, forms: np.ndarray) -> np.ndarray:
    """Give each patch in one of its eight forms: bit 0 transposes, 1 and 2 mirror."""
    out = np.empty_like(batch)
    for form in range(8):
        some = batch[forms == form]
        some = some.swapaxes(1, 2) if form & 1 else some
        out[forms == form] = some[:, :: -1 if form & 2 else 1, :: -1 if form & 4 else 1]
    return out


def _shifted(batch: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Shift each patch by its own number of pixels (down, right); its border is repeated where it moved away."""
    most = int(np.abs(shifts).max(initial=0))
    if most == 0:
        return batch
    height, width = batch.shape[1:3]
    wide = np.pad(batch, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    out = np.empty_like(batch)
    for down, right in np.unique(shifts, axis=0):
        these = (shifts == (down, right)).all(axis=1)
        out[these] = wide[these, most - down : most - down + height, most - right : most - right + width]
    return out
