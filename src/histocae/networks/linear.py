"""Principal components of patches: the linear autoencoder that a convolutional one has to beat."""

import logging
import math
from dataclasses import dataclass

import numpy as np

from histocae.errors import DataError
from histocae.patches.images import Images, batches

log = logging.getLogger(__name__)
BATCH = 1024
# beyond so many samples (of a patch: 1.6 GB of pixels) batch by batch instead of at once, if they are not small
MOST_AT_ONCE = 8192
MOST_VALUES = MOST_AT_ONCE * 3 * 128**2
# of the least variance to the largest: below, single precision can't tell a direction from noise
LEAST_RATIO = 1e-5


@dataclass(frozen=True)
class Linear:
    """A mean and orthonormal components; pixels are floats in [0, 1].

    Attributes:
        mean: float32, values (height x width x channels).
        components: float32, n x values, the leading ones first.
        deviations: float32, n: standard deviation of the samples along each component.

    """

    mean: np.ndarray
    components: np.ndarray
    deviations: np.ndarray

    def leading(self, count: int) -> "Linear":
        """Keep the first components alone."""
        return Linear(self.mean, self.components[:count], self.deviations[:count])

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Project uint8 pictures, m x height x width x channels; float32, m x n."""
        return (_flat(batch) - self.mean) @ self.components.T

    def errors(self, patches: Images) -> np.ndarray:
        """Give each patch's mean squared error of reconstruction, float64."""
        parts = []
        for batch in batches(patches, BATCH):
            centered = _flat(batch) - self.mean
            # what is left over is orthogonal to what is kept, so the picture itself is not needed
            left = np.square(centered).sum(1, dtype=np.float64)
            left -= np.square(centered @ self.components.T).sum(1, dtype=np.float64)
            parts.append(np.maximum(left, 0) / centered.shape[1])
        return np.concatenate(parts)


def fit(patches: Images, components: int, seed: int) -> Linear:
    """Find the principal components of whole patches (Pearson 1901, Phil. Mag. 2:559-572).

    Up to 8,192 patches, or more of up to 8,192 values each, exactly; beyond that batch by
    batch (Ross et al. 2008, Int. J. Comput. Vis. 77:125-141; scikit-learn's IncrementalPCA).

    Args:
        patches: to fit; at least two.
        components: as many as are wanted; fewer come where the patches vary in fewer
            directions, which are at most one less than there are patches.
        seed: of the order of the batches.

    """
    values = math.prod(patches.shape)
    count = min(components, len(patches) - 1, values)
    few_values = values <= MOST_AT_ONCE and len(patches) * values <= MOST_VALUES
    if len(patches) <= MOST_AT_ONCE or few_values:
        found = principal(_flat(patches.take(np.arange(len(patches)))), count)
    else:
        found = _in_batches(patches, count, seed)
    if len(found.components) < components:
        told = "%d components asked for, and %d patches allow %d"
        log.warning(told, components, len(patches), len(found.components))
    return found


def _in_batches(patches: Images, count: int, seed: int) -> Linear:
    from sklearn.decomposition import IncrementalPCA

    found = IncrementalPCA(count)
    order = np.random.default_rng(seed).permutation(len(patches))
    # each batch must have as many patches as there are components, so they are cut evenly
    for batch in np.array_split(order, len(order) // max(count, BATCH)):
        found.partial_fit(_flat(patches.take(batch)))
    return _linear(found.mean_, found.components_, found.explained_variance_)


def fit_blocks(patches: Images, side: int, components: int, seed: int) -> Linear:
    """Find the principal components of the square blocks of patches, from a sample of at most 8,192 patches.

    Where blocks are small, each patch has many of them, and at most 131,072 are drawn (4,096
    of more than 4,096 values).

    Args:
        patches: to fit.
        side: of a block, in pixels; divides that of a patch.
        components: as many as are wanted.
        seed: of the samples.

    Returns:
        The components; where the blocks vary in fewer directions than were asked for, the
        last ones are zero, with a deviation of 0.

    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(patches))[:MOST_AT_ONCE])
    values = patches.shape[2] * side**2
    most = MOST_AT_ONCE // 2 if values > MOST_AT_ONCE // 2 else 16 * MOST_AT_ONCE
    per_patch = (patches.shape[0] // side) ** 2
    drawn = np.sort(rng.permutation(len(chosen) * per_patch)[:most])
    samples = np.empty((len(drawn), values), np.float32)
    at = first = 0  # the next sample, and the number of the batch's first block
    for batch in batches(patches, BATCH, chosen):
        blocks = _blocks(batch, side)
        mine = drawn[(drawn >= first) & (drawn < first + len(blocks))]
        samples[at : at + len(mine)] = blocks[mine - first]
        at += len(mine)
        first += len(blocks)
    found = principal(samples, components)
    lacking = components - len(found.components)
    return Linear(
        found.mean, np.pad(found.components, ((0, lacking), (0, 0))), np.pad(found.deviations, (0, lacking))
    )


def principal(samples: np.ndarray, count: int) -> Linear:
    """Find the leading principal components of the rows of a matrix, which is changed.

    By the eigenvectors of the smaller of the two products of the centered matrix with
    itself (for few samples of many values: Sirovich 1987, Quart. Appl. Math. 45:561-571).

    Args:
        samples: float32, samples x values.
        count: of components, at most `values`; fewer come where the samples vary in fewer
            directions.

    Raises:
        DataError: there are fewer than two samples, or they do not vary at all.

    """
    from scipy.linalg import eigh

    if len(samples) < 2:
        raise DataError("one training patch alone has no principal components")
    mean = samples.mean(0, dtype=np.float64).astype(np.float32)
    samples -= mean
    number, values = samples.shape
    small = samples.T @ samples if values <= number else samples @ samples.T
    kept = min(count, len(small))
    found, vectors = eigh(small, subset_by_index=[len(small) - kept, len(small) - 1])
    if found[-1] <= 0:
        raise DataError("the training patches are all the same; they have no principal components")
    real = found > LEAST_RATIO * found[-1]
    found, vectors = found[real][::-1], vectors[:, real][:, ::-1]
    components = vectors.T if values <= number else _orthonormal(vectors.T @ samples)
    return _linear(mean, components, found / (number - 1))


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    """Make nearly orthogonal rows orthonormal, in their order: a fifth of the time of a QR decomposition."""
    from scipy.linalg import cholesky, solve_triangular

    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    lower = cholesky((rows @ rows.T).astype(np.float64), lower=True)
    return solve_triangular(lower.astype(np.float32), rows, lower=True)


def _linear(mean: np.ndarray, components: np.ndarray, variances: np.ndarray) -> Linear:
    # a component's sign is arbitrary: its largest value is made positive
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)
    components = components * np.where(largest < 0, -1, 1)
    return Linear(
        mean.astype(np.float32),
        np.ascontiguousarray(components, np.float32),
        np.sqrt(variances).astype(np.float32),
    )


def _blocks(batch: np.ndarray, side: int) -> np.ndarray:
    """Cut pictures into blocks; float32, blocks x values, row by row."""
    count, pixels, _, channels = batch.shape
    grid = pixels // side
    cut = batch.reshape(count, grid, side, grid, side, channels).swapaxes(2, 3)
    return _flat(cut.reshape(-1, side, side, channels))


def _flat(batch: np.ndarray) -> np.ndarray:
    flat = batch.reshape(len(batch), -1).astype(np.float32)
    flat /= np.float32(255)  # in place: there may be a gigabyte of it
    return flat
