"""Principal components of patches: the linear autoencoder that serves as the baseline of the convolutional ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocae.errors import DataError
from histocae.patches.images import Images, batches

BATCH = 1024
# more samples than this are fitted batch by batch (of patches of 128 pixels: 1.6 GB), unless they are small
MOST_AT_ONCE = 8192
MOST_VALUES = MOST_AT_ONCE * 3 * 128**2
# ratio of a variance to the largest; below it, single precision does not distinguish a direction from noise
LEAST_RATIO = 1e-5


@dataclass(frozen=True)
class Linear:
    """A linear autoencoder: a mean and orthonormal components. Pixels are floats in [0, 1].

    Attributes:
        mean: float32, shape (values,), with values = height * width * channels.
        components: float32, shape (n, values), in descending order of variance.
        deviations: float32, shape (n,): standard deviation of the samples along each component.

    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    deviations: NDArray[np.float32]

    def leading(self, count: int) -> "Linear":
        """Return the autoencoder of the first components alone."""
        return Linear(self.mean, self.components[:count], self.deviations[:count])

    def encode(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Project images onto the components.

        Args:
            batch: uint8, shape (m, height, width, channels).

        Returns:
            float32, shape (m, n).

        """
        latents = (_flat(batch) - self.mean) @ self.components.T
        return latents.astype(np.float32, copy=False)

    def errors(self, patches: Images) -> NDArray[np.float64]:
        """Compute the mean squared error of reconstruction of each patch.

        Args:
            patches: n of them.

        Returns:
            float64, shape (n,).

        """
        return self.errors_of_leading(patches, [len(self.components)])[:, 0]

    def errors_of_leading(self, patches: Images, counts: Sequence[int]) -> NDArray[np.float64]:
        """Compute the errors of the autoencoders of the first components alone, in one pass.

        Args:
            patches: n of them.
            counts: numbers of components, each from 1 to their number here.

        Returns:
            float64, shape (n, len(counts)): mean squared errors.

        """
        parts = []
        for batch in batches(patches, BATCH):
            centered = _flat(batch) - self.mean
            # the residual is orthogonal to the reconstruction, so its square is a difference of squares
            squares = np.square(centered).sum(1, dtype=np.float64)
            explained = np.square(centered @ self.components.T).cumsum(1, dtype=np.float64)
            left = squares[:, None] - explained[:, np.asarray(counts) - 1]
            parts.append(np.maximum(left, 0) / centered.shape[1])
        return np.concatenate(parts)

    def residuals(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Subtract the reconstructions from images.

        Args:
            batch: uint8, shape (n, height, width, channels).

        Returns:
            float32, of the same shape, of pixels in [0, 1].

        """
        centered = _flat(batch) - self.mean
        centered -= (centered @ self.components.T) @ self.components
        return centered.reshape(batch.shape)


def fit(patches: Images, components: int, seed: int) -> Linear:
    """Compute the principal components of whole patches (Pearson 1901, Phil. Mag. 2:559-572).

    The fit is exact for up to 8,192 patches, and for more patches of up to 8,192 values each that fit
    into memory together. Otherwise it runs batch by batch (Ross et al. 2008, Int. J. Comput. Vis.
    77:125-141; scikit-learn's IncrementalPCA).

    Args:
        patches: to fit; at least two.
        components: their number. The result has fewer where the patches vary in fewer directions, which are
            at most one less than there are patches.
        seed: of the order of the batches.

    Returns:
        The mean and the components.

    Raises:
        DataError: there are fewer than two patches, or all of them are the same.

    """
    values = math.prod(patches.shape)
    count = min(components, len(patches) - 1, values)
    few_values = values <= MOST_AT_ONCE and len(patches) * values <= MOST_VALUES
    if len(patches) <= MOST_AT_ONCE or few_values:
        return principal(_flat(patches.take(np.arange(len(patches)))), count)
    return _in_batches(patches, count, seed)


def _in_batches(patches: Images, count: int, seed: int) -> Linear:
    from sklearn.decomposition import IncrementalPCA

    pca = IncrementalPCA(count)
    order = np.random.default_rng(seed).permutation(len(patches))
    # IncrementalPCA needs at least `count` patches in each batch, so all batches get about the same size
    for batch in np.array_split(order, len(order) // max(count, BATCH)):
        pca.partial_fit(_flat(patches.take(batch)))
    return _linear(pca.mean_, pca.components_, pca.explained_variance_)


def fit_blocks(patches: Images, side: int, components: int, seed: int) -> Linear:
    """Compute the principal components of the square blocks of at most 8,192 patches.

    At most 131,072 blocks are drawn from these patches, or 4,096 where a block has more than 4,096 values.

    Args:
        patches: to fit.
        side: of a block, in pixels; it divides the side of a patch.
        components: their number.
        seed: of the draws of patches and of blocks.

    Returns:
        The mean and the components. Where the blocks vary in fewer directions, the last components are zero
        and have a deviation of 0.

    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(patches))[:MOST_AT_ONCE])
    values = patches.shape[2] * side**2
    most = MOST_AT_ONCE // 2 if values > MOST_AT_ONCE // 2 else 16 * MOST_AT_ONCE
    per_patch = (patches.shape[0] // side) ** 2
    drawn = np.sort(rng.permutation(len(chosen) * per_patch)[:most])
    samples = np.empty((len(drawn), values), np.float32)
    filled = first = 0  # rows of `samples` so far, and the number of the batch's first block
    for batch in batches(patches, BATCH, chosen):
        blocks = _blocks(batch, side)
        in_batch = drawn[(drawn >= first) & (drawn < first + len(blocks))]
        samples[filled : filled + len(in_batch)] = blocks[in_batch - first]
        filled += len(in_batch)
        first += len(blocks)
    fitted = principal(samples, components)
    lacking = components - len(fitted.components)
    return Linear(
        fitted.mean, np.pad(fitted.components, ((0, lacking), (0, 0))), np.pad(fitted.deviations, (0, lacking))
    )


def principal(samples: NDArray[np.float32], count: int) -> Linear:
    """Compute the leading principal components of the rows of a matrix, which is centered in place.

    They come from the eigenvectors of the smaller of the two products of the centered matrix with
    itself (for few samples of many values: Sirovich 1987, Quart. Appl. Math. 45:561-571).

    Args:
        samples: float32, shape (samples, values); changed.
        count: of components, at most `values`.

    Returns:
        The mean and the components; fewer than `count` where the samples vary in fewer directions.

    Raises:
        DataError: there are fewer than two samples, or all of them are the same.

    """
    from scipy.linalg import eigh

    if len(samples) < 2:
        raise DataError("principal components need at least two training patches")
    mean = samples.mean(0, dtype=np.float64).astype(np.float32)
    samples -= mean
    number, values = samples.shape
    product = samples.T @ samples if values <= number else samples @ samples.T
    kept = min(count, len(product))
    variances, vectors = eigh(product, subset_by_index=[len(product) - kept, len(product) - 1])
    if variances[-1] <= 0:
        raise DataError("the training patches are all the same; they have no principal components")
    real = variances > LEAST_RATIO * variances[-1]
    variances, vectors = variances[real][::-1], vectors[:, real][:, ::-1]
    components = vectors.T if values <= number else _orthonormal(vectors.T @ samples)
    return _linear(mean, components, variances / (number - 1))


def _orthonormal(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make nearly orthogonal rows orthonormal, in their order; a QR decomposition takes five times as long."""
    from scipy.linalg import cholesky, solve_triangular

    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    lower = cholesky((rows @ rows.T).astype(np.float64), lower=True)
    solved: NDArray[np.float32] = solve_triangular(lower.astype(np.float32), rows, lower=True)
    return solved


def _linear(mean: NDArray[Any], components: NDArray[Any], variances: NDArray[Any]) -> Linear:
    # the sign of a component is arbitrary: the largest value is made positive
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)
    components = components * np.where(largest < 0, -1, 1)
    return Linear(
        mean.astype(np.float32),
        np.ascontiguousarray(components, np.float32),
        np.sqrt(variances).astype(np.float32),
    )


def _blocks(batch: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Divide images into blocks, row by row; float32, shape (blocks, values)."""
    count, pixels, _, channels = batch.shape
    grid = pixels // side
    blocks = batch.reshape(count, grid, side, grid, side, channels).swapaxes(2, 3)
    return _flat(blocks.reshape(-1, side, side, channels))


def _flat(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    flat = batch.reshape(len(batch), -1).astype(np.float32)
    flat /= np.float32(255)  # in place: the array may take a gigabyte
    return flat
