"""Statistics of the training patches of a model: quantiles of its errors, and the spread of their colors."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histocae.contrast.json_parts import Number, Part
from histocae.params import Count, Share

CHANNELS = 3
Color = Annotated[list[Number], Field(min_length=CHANNELS, max_length=CHANNELS)]
Matrix = Annotated[list[Color], Field(min_length=CHANNELS, max_length=CHANNELS)]


class ColorSpread(Part):
    """The mean color (red, green, blue, 0 to 255) of training patches, and the inverse of its covariance."""

    mean: Color
    inverse: Matrix


class Distribution(Part):
    """Statistics of the training patches of a model, or of a pair.

    Attributes:
        patches: number of training patches that were measured.
        levels: of the quantiles, ascending from 0 to 1.
        quantiles: of the errors, of the score of a pair, and of `color`, the result of `color_distances`.
        color: of at most 10,000 of the patches.

    """

    patches: Count
    levels: Annotated[list[Share], Field(min_length=2)]
    quantiles: dict[str, list[Number]]
    color: ColorSpread

    def conflicts(self) -> list[str]:
        """List what does not fit together; each text begins with the key."""
        found = []
        if not _ascends(self.levels):
            found.append("levels: are not in ascending order")
        elif (self.levels[0], self.levels[-1]) != (0, 1):
            found.append(f"levels: run from {self.levels[0]:g} to {self.levels[-1]:g}, not from 0 to 1")
        for name, values in self.quantiles.items():
            if len(values) != len(self.levels):
                found.append(f"quantiles.{name}: {len(values)} numbers for {len(self.levels)} levels")
            elif not _ascends(values):
                found.append(f"quantiles.{name}: are not in ascending order")
        return found

    def color_distances(self, patches: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Measure how far the mean colors of patches are from those of the training patches.

        Args:
            patches: uint8, shape (n, pixels, pixels, 3), as the model gets them: gray or stain-normalized where
                its patches were.

        Returns:
            Mahalanobis distances, float64, shape (n,).

        """
        return distances(mean_colors(patches), np.array(self.color.mean), np.array(self.color.inverse))

    def quantile(self, name: str, level: float) -> float:
        """Look up a quantile of the training patches; between two levels it is interpolated.

        Args:
            name: of a measure, a key of `quantiles`.
            level: from 0 to 1.

        Returns:
            The value below which that share of the training patches lies.

        Raises:
            KeyError: there is no such measure.

        """
        return float(np.interp(level, self.levels, self.quantiles[name]))


def mean_colors(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute the mean color of patches.

    Args:
        patches: uint8, shape (n, height, width, channels).

    Returns:
        From 0 to 255, float64, shape (n, channels).

    """
    count, height, width, channels = patches.shape
    # columns first: a sum over long rows is 16 times as fast as one over three channels
    columns = patches.reshape(count, height, -1).sum(1, dtype=np.uint32).reshape(count, width, channels)
    means: NDArray[np.float64] = columns.sum(1) / (height * width)
    return means


def distances(
    colors: NDArray[np.float64], mean: NDArray[np.float64], inverse: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute Mahalanobis distances.

    Args:
        colors: shape (n, channels).
        mean: from which they are measured, shape (channels,).
        inverse: of the covariance, shape (channels, channels).

    Returns:
        float64, shape (n,).

    """
    deviations = colors - mean
    squared: NDArray[np.float64] = np.einsum("ni,ij,nj->n", deviations, inverse, deviations)
    return np.sqrt(np.maximum(squared, 0))  # rounding may leave less than 0


def _ascends(values: Sequence[float]) -> bool:
    return all(first <= second for first, second in pairwise(values))
