"""The linear counterpart of a pair: principal components of tumor patches, and of normal patches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histocae.contrast import pair
from histocae.errors import DataError
from histocae.evaluation import scales
from histocae.networks import linear
from histocae.networks.linear import Linear
from histocae.patches.images import Images, batches
from histocae.statistics import discrimination

MOST_COMPONENTS = 512
BATCH = 256  # patches in memory at once


@dataclass(frozen=True)
class LinearPair:
    """Principal components of either tissue, equally many.

    Attributes:
        tumor: computed from tumor patches.
        normal: computed from normal patches.

    """

    tumor: Linear
    normal: Linear

    @property
    def components(self) -> int:
        """Number of components of each model."""
        return len(self.tumor.components)

    def leading(self, count: int) -> "LinearPair":
        """Return the pair of the first components alone."""
        return LinearPair(self.tumor.leading(count), self.normal.leading(count))

    def scores(self, patches: Images) -> NDArray[np.float64]:
        """Score patches by the errors of both models; see `pair.score`.

        Args:
            patches: n of them.

        Returns:
            float64, shape (n,).

        """
        return pair.score(self.tumor.errors(patches), self.normal.errors(patches))

    def errors_by_scale(self, patches: Images) -> NDArray[np.float32]:
        """Describe the errors of both models; see `scales.errors`.

        Args:
            patches: n of them.

        Returns:
            float32, shape (n, features).

        """
        both = (self.tumor, self.normal)
        parts = [
            np.hstack([scales.errors(each.residuals(batch)) for each in both]) for batch in batches(patches, BATCH)
        ]
        return np.concatenate(parts)


def fit(tumor: Images, normal: Images, seed: int) -> LinearPair:
    """Compute as many components as the smaller number of patches allows, at most 512.

    Args:
        tumor: training patches.
        normal: training patches.
        seed: of `linear.fit`.

    Returns:
        The pair.

    Raises:
        DataError: a tissue has fewer than two patches, or all its patches are the same.

    """
    wanted = min(MOST_COMPONENTS, len(tumor) - 1, len(normal) - 1)
    if wanted < 1:
        raise DataError("a tissue has one training patch, and principal components need two")
    both = LinearPair(linear.fit(tumor, wanted, seed), linear.fit(normal, wanted, seed))
    return both.leading(min(len(both.tumor.components), len(both.normal.components)))


def choose(fitted: LinearPair, validation: Images, labels: NDArray[np.integer]) -> LinearPair:
    """Choose the number of components with the highest AUROC per patch on validation patches; of equals the smallest.

    Args:
        fitted: the result of `fit`. The choice is among 1, 2, 4 and so on, and all of its components.
        validation: patches of both tissues.
        labels: integers, shape (n,): 1 for tumor, 0 for normal.

    Returns:
        The pair with that number of components.

    """
    counts = counts_up_to(fitted.components)
    errors = (model.errors_of_leading(validation, counts) for model in (fitted.tumor, fitted.normal))
    areas = [discrimination.auroc(labels, score) for score in pair.score(*errors).T]
    return fitted.leading(counts[int(np.argmax(areas))])


def counts_up_to(most: int) -> list[int]:
    """List the numbers of components to choose from.

    Args:
        most: the largest number.

    Returns:
        The powers of two below it, and itself.

    Example:
        >>> counts_up_to(11)
        [1, 2, 4, 8, 11]

    """
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
