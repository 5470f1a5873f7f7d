"""Maps of latents to a plane, by t-SNE and UMAP."""

import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_POINTS = 8  # on a map
# 250 exaggerated and 500 plain; another 250 lower the divergence by about 0.1 %
ITERATIONS = 750


def tsne(features: NDArray[np.float32], perplexity: float, seed: int) -> tuple[NDArray[np.float32], float]:
    """Map points to a plane by t-SNE, starting from their principal components.

    Args:
        features: float32, shape (points, features), at least `LEAST_POINTS` points.
        perplexity: lowered to (points - 1) / 3 where it is higher.
        seed: of the random choices.

    Returns:
        float32, shape (points, 2); the perplexity that was used.

    References:
        van der Maaten and Hinton 2008, JMLR 9:2579-2605; start: Kobak and Berens 2019,
        Nature Communications 10:5416.

    """
    from sklearn.manifold import TSNE

    used = min(perplexity, (len(features) - 1) / 3)
    method = TSNE(2, perplexity=used, init=_start(features), max_iter=ITERATIONS, random_state=seed)
    plane: NDArray[np.float32] = method.fit_transform(_centered(features)).astype(np.float32)
    return plane, used


def _start(features: NDArray[np.float32]) -> str:
    return "pca" if features.shape[1] > 1 else "random"


def _centered(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Center features and scale them to at most 1, which changes no map.

    Features that are tiny, or far from 0 for their spread, have principal components that are NaN in
    float32. scikit-learn's t-SNE then ends the process without a message.
    """
    centered = features - features.mean(axis=0, dtype=np.float64)
    scaled: NDArray[np.float32] = (centered / np.abs(centered).max()).astype(np.float32)
    return scaled


def umap(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Map points to a plane by UMAP (McInnes, Healy and Melville 2018, arXiv:1802.03426).

    Args:
        features: float32, shape (points, features), at least `LEAST_POINTS` points.
        seed: makes the map repeatable, on one thread.

    Returns:
        float32, shape (points, 2).

    """
    method = _import_umap()(
        n_neighbors=min(15, len(features) - 1), init=_start(features), random_state=seed, n_jobs=1
    )
    plane: NDArray[np.float32] = method.fit_transform(_centered(features)).astype(np.float32)
    return plane


def _import_umap() -> Any:
    """Import the class UMAP without TensorFlow.

    The package imports TensorFlow (5 s) for its parametric UMAP, which is not used here, and has no
    switch against it.
    """
    loaded = sys.modules.get("tensorflow")
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # None makes `import tensorflow` fail
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # umap warns that TensorFlow is missing
            from umap import UMAP
    finally:
        del sys.modules["tensorflow"]
        if loaded is not None:
            sys.modules["tensorflow"] = loaded
    return UMAP
