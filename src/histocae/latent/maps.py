"""Maps of latents: t-SNE and UMAP, for looking at."""

import sys
import warnings

import numpy as np

LEAST_POINTS = 8  # on a map
# 250 exaggerated and 500 plain; another 250 lower the divergence by about 0.1 %
ITERATIONS = 750


def tsne(features: np.ndarray, perplexity: float, seed: int) -> tuple[np.ndarray, float]:
    """Map points to a plane by t-SNE, from their principal components on.

    Args:
        features: at least `LEAST_POINTS` points x features.
        perplexity: lowered to a third of the other points where it is higher.
        seed: of what is left to chance.

    Returns:
        float32, points x 2; the perplexity that was used.

    References:
        van der Maaten and Hinton 2008, JMLR 9:2579-2605; start: Kobak and Berens 2019,
        Nature Communications 10:5416.

    """
    from sklearn.manifold import TSNE

    used = min(perplexity, (len(features) - 1) / 3)
    method = TSNE(2, perplexity=used, init=_start(features), max_iter=ITERATIONS, random_state=seed)
    return method.fit_transform(_centered(features)).astype(np.float32), used


def _start(features: np.ndarray) -> str:
    return "pca" if features.shape[1] > 1 else "random"


def _centered(features: np.ndarray) -> np.ndarray:
    """Center features and bring them to the scale of 1, which changes no map.

    Far from 0 for their spread, or tiny, float32 makes NaN of the principal components that a
    map starts from, and scikit-learn's t-SNE dies of these without a word.
    """
    centered = features - features.mean(axis=0, dtype=np.float64)
    return (centered / np.abs(centered).max()).astype(np.float32)


def umap(features: np.ndarray, seed: int) -> np.ndarray:
    """Map points to a plane by UMAP (McInnes, Healy and Melville 2018, arXiv:1802.03426).

    Args:
        features: at least `LEAST_POINTS` points x features.
        seed: makes it repeatable, on one thread.

    Returns:
        float32, points x 2.

    """
    method = _umap()(n_neighbors=min(15, len(features) - 1), init=_start(features), random_state=seed, n_jobs=1)
    return method.fit_transform(_centered(features)).astype(np.float32)


def _umap() -> type:
    """Import UMAP without TensorFlow, which it would load for a class that is not used here: 5 s."""
    hidden = sys.modules.get("tensorflow")
    sys.modules["tensorflow"] = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # that TensorFlow is not there
            from umap import UMAP
    finally:
        del sys.modules["tensorflow"]
        if hidden is not None:
            sys.modules["tensorflow"] = hidden
    return UMAP
