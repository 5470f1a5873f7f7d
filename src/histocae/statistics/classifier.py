"""A logistic regression whose penalty is chosen on validation cases."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocae.errors import DataError
from histocae.statistics import discrimination

if TYPE_CHECKING:  # scikit-learn takes seconds to load
    from sklearn.pipeline import Pipeline

# inverse strengths of the penalty of a logistic regression on standardized features
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def fit_classifier(
    train_x: NDArray[Any],
    train_y: NDArray[Any],
    valid_x: NDArray[Any],
    valid_y: NDArray[Any],
    *,
    seed: int,
    quality: Callable[[NDArray[Any], NDArray[Any]], float] = discrimination.auroc,
    strengths: Sequence[float] = STRENGTHS,
) -> "Pipeline":
    """Fit a logistic regression on standardized features, with classes weighted equally.

    With more than two classes it is multinomial. It is fitted on the training patches. The strength
    of the L2 penalty is the one with the best quality on validation patches; of equally good
    strengths the strongest penalty is taken.

    Args:
        train_x: features of training patches, float, shape (n, features).
        train_y: their classes, int, shape (n,): from 0 on; of two, 1 is tumor and 0 normal.
        valid_x: features of validation patches, float, shape (m, features).
        valid_y: their classes, int, shape (m,).
        seed: of the solver.
        quality: function of the classes and the output of `decision_function`; higher is better.
        strengths: inverse strengths of the penalty to choose from, rising.

    Returns:
        A fitted pipeline. Its `decision_function(features)` of two classes is higher for tumor.

    Raises:
        DataError: the training patches are of one class; with the default quality also the validation patches.
        ValueError: a feature is not finite.

    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_y)) < 2:
        raise DataError("all training patches are of one class, and a classifier needs both: add cases of the other")
    # in float32 the solver cannot detect convergence
    scaler = StandardScaler().fit(train_x.astype(np.float64))
    train_scaled, valid_scaled = (scaler.transform(features.astype(np.float64)) for features in (train_x, valid_x))
    best, highest = None, -1.0
    for strength in strengths:
        candidate = LogisticRegression(C=strength, class_weight="balanced", max_iter=10_000, random_state=seed)
        reached = quality(valid_y, candidate.fit(train_scaled, train_y).decision_function(valid_scaled))
        if reached > highest:
            best, highest = candidate, reached
    return Pipeline([("scale", scaler), ("classify", best)])
