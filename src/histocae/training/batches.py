"""Batches of uint8 images in a shuffled order."""

import math

import numpy as np
from numpy.typing import NDArray

from histocae.patches.images import Images


class Batches:
    """Batches of uint8 patches in a shuffled order that depends only on seed and epoch."""

    def __init__(
        self,
        patches: Images,
        batch_size: int,
        seed: int | None,
        epoch: int = 0,
        *,
        augment: bool = False,
        denoise: tuple[int, float, float] | None = None,
    ):
        """Prepare the batches of one epoch.

        Args:
            patches: to read from.
            batch_size: patches per batch; the last batch may have fewer.
            seed: of the order and of all random changes; None keeps the order of the patches.
            epoch: number of the epoch; each epoch has its own order.
            augment: whether each patch is turned and mirrored into one of its eight forms at random: slides
                have no upright.
            denoise: (pixels, first share, last share), or None. Some of the inputs are shifted by at most `pixels`
                in each direction. Their share changes linearly over the epoch. Targets are not shifted.

        Raises:
            ValueError: random changes without a seed.

        """
        self._patches, self._batch_size = patches, batch_size
        count = len(patches)
        self._order: NDArray[np.int64] = np.arange(count)
        self._forms: NDArray[np.int64] | None = None
        self._shifts: NDArray[np.int64] | None = None
        if seed is None:
            if augment or denoise is not None:
                raise ValueError("augment and denoise need a seed")
            return
        self._order = np.random.default_rng([seed, epoch]).permutation(count)
        if augment:
            self._forms = np.random.default_rng([seed, epoch, 1]).integers(8, size=count)
        if denoise is not None:
            pixels, first, last = denoise
            rng = np.random.default_rng([seed, epoch, 2])
            shifted = rng.random(count) < np.linspace(first, last, count)
            self._shifts = rng.integers(-pixels, pixels + 1, (count, 2)) * shifted[:, None]

    def __len__(self) -> int:
        """Count the batches."""
        return math.ceil(len(self._order) / self._batch_size)

    @property
    def patches(self) -> int:
        """Number of patches in all batches."""
        return len(self._order)

    @property
    def bytes_each(self) -> int:
        """Bytes of a whole batch."""
        return self._batch_size * math.prod(self._patches.shape)

    def positions(self, run: range) -> NDArray[np.int64]:
        """Return the positions of the patches of several batches.

        Args:
            run: numbers of batches of one size; see `chunks`.

        Returns:
            int64, shape (batches, batch size).

        """
        which = self._order[run.start * self._batch_size : run.stop * self._batch_size]
        return which.reshape(len(run), -1)

    def chunks(self, most: int) -> list[range]:
        """Divide the batches into runs of at most `most` batches; all batches of a run have the same size."""
        whole = len(self._order) // self._batch_size
        runs = [range(start, min(start + most, whole)) for start in range(0, whole, most)]
        return runs + ([range(whole, whole + 1)] if whole < len(self) else [])

    def stacked(self, run: range) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read several batches as two arrays.

        Args:
            run: numbers of batches of one size; see `chunks`.

        Returns:
            Inputs and targets: uint8, shape (batches, batch size, height, width, channels). They are the same
            array where no input is shifted.

        """
        if len(run) == 1:
            batch, target = self[run.start]
            inputs = batch[None]
            return inputs, inputs if target is batch else target[None]
        batches, targets = zip(*(self[i] for i in run), strict=True)
        stacked = np.stack(targets)
        return (stacked if self._shifts is None else np.stack(batches)), stacked

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read inputs and targets of a batch; the same array where no input is shifted."""
        which = slice(i * self._batch_size, (i + 1) * self._batch_size)
        batch = self._patches.take(self._order[which])
        if self._forms is not None:
            batch = _turned(batch, self._forms[which])
        inputs = batch if self._shifts is None else _shifted(batch, self._shifts[which])
        return inputs, batch


def _turned(batch: NDArray[np.uint8], forms: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Turn and mirror each patch into one of its eight forms: bit 0 transposes, bits 1 and 2 mirror."""
    out = np.empty_like(batch)
    for form in range(8):
        selected = batch[forms == form]
        selected = selected.swapaxes(1, 2) if form & 1 else selected
        out[forms == form] = selected[:, :: -1 if form & 2 else 1, :: -1 if form & 4 else 1]
    return out


def _shifted(batch: NDArray[np.uint8], shifts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Shift each patch by its own number of pixels (down, right); the border fills the free pixels."""
    most = int(np.abs(shifts).max(initial=0))
    if most == 0:
        return batch
    height, width = batch.shape[1:3]
    wide = np.pad(batch, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    out = np.empty_like(batch)
    for down, right in np.unique(shifts, axis=0):
        alike = (shifts == (down, right)).all(axis=1)
        out[alike] = wide[alike, most - down : most - down + height, most - right : most - right + width]
    return out
