"""Distances of latents from those of the tissue that a model was trained on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # scikit-learn takes seconds to load
    from sklearn.covariance import LedoitWolf
    from sklearn.neighbors import NearestNeighbors

NEIGHBORS = 5


@dataclass(frozen=True)
class Distances:
    """The training latents of a tissue, from which the latents of other patches have a distance.

    Attributes:
        deviations: standard deviation of each latent; 1 where it is constant.

    """

    deviations: NDArray[np.float64]
    _spread: "LedoitWolf"
    _neighbors: "NearestNeighbors"

    def mahalanobis(self, latents: NDArray[np.floating]) -> NDArray[np.float64]:
        """Measure the distance from the mean in standard deviations along each direction (Mahalanobis 1936).

        The covariance is shrunk (Ledoit and Wolf 2004, J. Multivar. Anal. 88:365-411), so that more latents than
        patches are allowed.

        Args:
            latents: shape (n, latents).

        Returns:
            float64, shape (n,).

        """
        distances: NDArray[np.float64] = np.sqrt(self._spread.mahalanobis(latents / self.deviations))
        return distances

    def nearest(self, latents: NDArray[np.floating]) -> NDArray[np.float64]:
        """Measure the mean distance from the five nearest training latents, each latent in standard deviations.

        Args:
            latents: shape (n, latents).

        Returns:
            float64, shape (n,).

        """
        distances: NDArray[np.float64] = self._neighbors.kneighbors(latents / self.deviations)[0].mean(1)
        return distances


def fit(latents: NDArray[np.floating]) -> Distances:
    """Describe the latents of a tissue.

    Args:
        latents: of training patches, shape (n, latents); n is at least two.

    Returns:
        The description. With fewer than five patches all of them are neighbors.

    """
    from sklearn.covariance import LedoitWolf
    from sklearn.neighbors import NearestNeighbors

    values = latents.astype(np.float64)
    deviations = values.std(0)
    deviations[deviations == 0] = 1
    scaled = values / deviations
    neighbors = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(scaled))).fit(scaled)
    return Distances(deviations, LedoitWolf().fit(scaled), neighbors)
