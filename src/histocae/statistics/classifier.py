"""A logistic regression whose penalty is chosen on validation cases."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from histocae.errors import DataError
from histocae.statistics import discrimination

if TYPE_CHECKING:  # scikit-learn takes seconds to load
    from sklearn.pipeline import Pipeline

# inverse strengths of the penalty of a logistic regression on standardized features
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def fit_classifier(
    train_x: np.ndarray,
    train_y: np.ndarray,
    valid_x: np.ndarray,
    valid_y: np.ndarray,
    seed: int,
    quality: Callable[[np.ndarray, np.ndarray], float] = discrimination.auroc,
    strengths: Sequence[float] = STRENGTHS,
) -> "Pipeline":
    """Fit a logistic regression on standardized features; all classes weigh the same.

    Of more than two classes it is multinomial. Fitted on train; of the strengths of the L2
    penalty the one of the best quality on validation is taken, of equally good ones the strongest.

    Args:
        train_x: training patches x features.
        train_y: the class of each, from 0 on: 1 tumor, 0 normal.
        valid_x: validation patches x features.
        valid_y: the class of each.
        seed: of the solver.
        quality: of (classes, what `decision_function` gives), higher is better.
        strengths: inverse strengths of the penalty to choose from, rising.

    Returns:
        A fitted pipeline; its `decision_function(features)` of two classes is higher for tumor.

    Raises:
        DataError: train or validation has one class only, or a feature is not finite.

    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_y)) < 2:
        raise DataError("classes can't be told apart by training patches of one class: this needs both")
    # float32 is too coarse for the solver to tell that it has arrived
    scaler = StandardScaler().fit(train_x.astype(np.float64))
    standard, held = scaler.transform(train_x.astype(np.float64)), scaler.transform(valid_x.astype(np.float64))
    best, highest = None, -1.0
    for strength in strengths:
        fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=10_000, random_state=seed)
        reached = quality(valid_y, fitted.fit(standard, train_y).decision_function(held))
        if reached > highest:
            best, highest = fitted, reached
    return Pipeline([("scale", scaler), ("classify", best)])
