"""Latents rounded to 8 bits, so that their bytes can be counted. NumPy alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIGHEST = 255  # of the levels of 8 bits, from 0


@dataclass(frozen=True)
class Rounding:
    """A rounding of latents to 256 levels, evenly spaced over each latent's range on training patches.

    The range belongs to the decoder, like its weights.

    Attributes:
        low: float64, shape of a patch's latents: the smallest value of each.
        high: float64, of the same shape: the largest.

    Example:
        >>> rounding = Rounding.of(np.array([[0.0, -1.0], [51.0, -1.0]], np.float32))
        >>> rounding.levels(np.array([[20.04, 5.0], [99.0, -1.0]], np.float32)).tolist()
        [[100, 0], [255, 0]]
        >>> rounding.latents(np.array([[100, 0]], np.uint8)).tolist()
        [[20.0, -1.0]]

    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, latents: NDArray[np.floating[Any]]) -> "Rounding":
        """Make the rounding of a model.

        Args:
            latents: of training patches, floats, shape (patches, ...).

        Returns:
            The rounding.

        Raises:
            ValueError: there is no patch, or a latent is no finite number.

        """
        if not len(latents) or not np.isfinite(latents).all():
            raise ValueError("the range of latents needs at least one patch, and finite numbers")
        return cls(latents.min(axis=0).astype(np.float64), latents.max(axis=0).astype(np.float64))

    def levels(self, latents: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """Round latents to levels; a latent outside its range gets the nearest level.

        Args:
            latents: floats, shape (patches, ...).

        Returns:
            uint8, of the same shape: one byte per latent.

        """
        clipped = np.clip(latents, self.low, self.high) - self.low
        # a latent that is the same for all training patches has one level
        steps = np.divide(clipped, self._step, out=np.zeros_like(clipped), where=self._step > 0)
        levels: NDArray[np.uint8] = np.rint(steps).astype(np.uint8)
        return levels

    def latents(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the latents that levels stand for.

        Args:
            levels: uint8, shape (patches, ...).

        Returns:
            float32, of the same shape.

        """
        return (self.low + levels * self._step).astype(np.float32)

    @property
    def _step(self) -> NDArray[np.float64]:
        return (self.high - self.low) / HIGHEST
