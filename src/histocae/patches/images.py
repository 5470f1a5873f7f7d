"""Images of one size, wherever they lie."""

from typing import Protocol

import numpy as np


class Images(Protocol):
    """Images of one size in a given order: what a training reads, wherever they lie.

    Attributes:
        shape: height, width and channels of one.

    """

    shape: tuple[int, int, int]

    def __len__(self) -> int:
        """How many there are."""

    def take(self, which: np.ndarray) -> np.ndarray:
        """Read those at some positions; uint8, len(which) x height x width x channels."""


class InMemory:
    """Images that are all in memory, or in one memory-mapped array."""

    def __init__(self, pictures: np.ndarray):
        """Take pictures as they are; uint8, n x height x width x channels."""
        if pictures.dtype != np.uint8 or pictures.ndim != 4:
            told = f"{pictures.dtype}, {pictures.shape}"
            raise ValueError(f"pictures are uint8, n x height x width x channels, not {told}")
        self._pictures = pictures
        self.shape: tuple[int, int, int] = pictures.shape[1:]

    def __len__(self) -> int:
        return len(self._pictures)

    def take(self, which: np.ndarray) -> np.ndarray:
        """Read those at some positions, in the order asked for; uint8."""
        return self._pictures[which]
