"""One model per digit: an image is of the digit whose model reconstructs it with the least error."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histocae.mnist import study
from histocae.mnist.images import DIGITS, LabeledImages
from histocae.networks import linear


def predicted(errors: np.ndarray) -> np.ndarray:
    """Give the digit of each image by the errors (MSE) of the ten models, images x 10; int64."""
    return errors.argmin(axis=1)


def by_components(parts: dict[str, LabeledImages], counts: Sequence[int], seed: int) -> pd.DataFrame:
    """Do the same with the principal components of each digit, the linear yardstick.

    Args:
        parts: train, validation and test.
        counts: numbers of components to try; a digit's training images may allow fewer.
        seed: of what is drawn.

    Returns:
        One row per number of components: components, validation_accuracy, test_accuracy.

    """
    fitted = [linear.fit(parts["train"].only(digit).pictures, max(counts), seed) for digit in range(DIGITS)]
    rows = []
    for count in sorted(counts):
        row = {"components": count}
        for name in ("validation", "test"):
            part = parts[name]
            errors = np.stack([one.leading(count).errors(part.pictures) for one in fitted], axis=1)
            row[f"{name}_accuracy"] = float((predicted(errors) == part.labels).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def mean_errors(errors: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Average the errors of each model (columns) over the images of each digit (rows); 10 x 10."""
    return np.stack([errors[digits == digit].mean(axis=0) for digit in range(DIGITS)])


def examples(digits: np.ndarray, found: np.ndarray, seed: int) -> np.ndarray:
    """Draw one image of each digit, and as many more that were taken for another digit as there are, up to 5.

    Returns:
        Positions, those of the digits 0 to 9 first.

    """
    rng = np.random.default_rng(seed)
    one_each = [rng.choice(np.flatnonzero(digits == digit)) for digit in range(DIGITS)]
    wrong = np.setdiff1d(np.flatnonzero(digits != found), one_each)
    return np.array([*one_each, *rng.choice(wrong, min(5, len(wrong)), replace=False)])


def summarize(
    errors: dict[str, np.ndarray], digits: dict[str, np.ndarray], components: pd.DataFrame
) -> dict[str, float]:
    """Give the numbers that count.

    Args:
        errors: of validation and test, images x models.
        digits: of these images.
        components: as `by_components` gives it; how many is chosen on validation.

    """
    metrics = {f"{name}_accuracy": float((predicted(one) == digits[name]).mean()) for name, one in errors.items()}
    metrics |= study.interval(metrics["test_accuracy"], len(digits["test"]))
    means = mean_errors(errors["test"], digits["test"])
    chosen = components.loc[components["validation_accuracy"].idxmax()]
    return metrics | {
        "test_mse_own_digit": float(np.diag(means).mean()),
        "test_mse_other_digits": float(means[~np.eye(DIGITS, dtype=bool)].mean()),
        "pca_components": int(chosen["components"]),
        "pca_validation_accuracy": float(chosen["validation_accuracy"]),
        "pca_test_accuracy": float(chosen["test_accuracy"]),
    }


def table(errors: np.ndarray, digits: np.ndarray) -> pd.DataFrame:
    """Give each image's digit, the one it was taken for, and its error under each model."""
    rows = pd.DataFrame(errors, columns=[f"mse_{digit}" for digit in range(DIGITS)])
    rows.insert(0, "label", digits)
    rows.insert(1, "predicted", predicted(errors))
    return rows


def reports(errors: dict[str, np.ndarray], digits: dict[str, np.ndarray]) -> pd.DataFrame:
    """Give precision, recall, F1 and support per digit for validation and test."""
    return study.reports(digits, {name: predicted(one) for name, one in errors.items()})
