"""One model per digit: the prediction is the digit whose model reconstructs an image with the least error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.mnist import study
from histocae.mnist.images import DIGITS, LabeledImages
from histocae.mnist.study import Labels
from histocae.networks import linear


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """The numbers of one model per digit.

    Attributes:
        validation_accuracy: share of the validation images with the right prediction.
        test_accuracy: share of the test images with the right prediction.
        test_accuracy_low: lower bound of its 95 % confidence interval (Wilson).
        test_accuracy_high: upper bound, likewise.
        test_mse_own_digit: mean squared error of the models on test images of their own digits.
        test_mse_other_digits: the same on test images of the other digits.
        pca_components: components per digit of the linear baseline, selected on validation.
        pca_validation_accuracy: of the linear baseline.
        pca_test_accuracy: of the linear baseline.

    """

    validation_accuracy: float
    test_accuracy: float
    test_accuracy_low: float
    test_accuracy_high: float
    test_mse_own_digit: float
    test_mse_other_digits: float
    pca_components: int
    pca_validation_accuracy: float
    pca_test_accuracy: float


def predicted(errors: NDArray[np.float64]) -> NDArray[np.intp]:
    """Predict the digit of each image.

    Args:
        errors: MSE under each model, shape (images, 10).

    Returns:
        int64, one digit per image.

    """
    digits: NDArray[np.intp] = errors.argmin(axis=1)
    return digits


def by_components(parts: Mapping[str, LabeledImages], counts: Sequence[int], seed: int) -> pd.DataFrame:
    """Predict digits by the principal components of each digit, the linear baseline.

    Args:
        parts: train, validation and test.
        counts: numbers of components to try; a digit's training images may allow fewer.
        seed: of the draws.

    Returns:
        One row per number of components: components, validation_accuracy, test_accuracy.

    """
    fitted = [linear.fit(parts["train"].only(digit).as_images, max(counts), seed) for digit in range(DIGITS)]
    rows = []
    for count in sorted(counts):
        row: dict[str, float] = {"components": count}
        for name in ("validation", "test"):
            part = parts[name]
            errors = np.stack([model.leading(count).errors(part.as_images) for model in fitted], axis=1)
            row[f"{name}_accuracy"] = float((predicted(errors) == part.labels).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def mean_errors(errors: NDArray[np.float64], digits: Labels) -> NDArray[np.float64]:
    """Average the errors of each model over the images of each digit.

    Args:
        errors: MSE under each model, shape (images, 10).
        digits: of the images.

    Returns:
        float64, shape (10, 10): digits in rows, models in columns.

    """
    return np.stack([errors[digits == digit].mean(axis=0) for digit in range(DIGITS)])


def examples(digits: Labels, predictions: Labels, seed: int) -> NDArray[np.int64]:
    """Draw one image of each digit, and up to five more with a wrong prediction.

    Args:
        digits: of the images.
        predictions: for the images.
        seed: of the draw.

    Returns:
        Positions: first one of each digit from 0 to 9, then those of wrong predictions.

    """
    rng = np.random.default_rng(seed)
    one_each = [rng.choice(np.flatnonzero(digits == digit)) for digit in range(DIGITS)]
    wrong = np.setdiff1d(np.flatnonzero(digits != predictions), one_each)
    return np.array([*one_each, *rng.choice(wrong, min(5, len(wrong)), replace=False)])


def summarize(
    errors: Mapping[str, NDArray[np.float64]], digits: Mapping[str, Labels], components: pd.DataFrame
) -> ClassScores:
    """Compute the numbers to compare with other models.

    Args:
        errors: of validation and test, MSE under each model, shape (images, 10).
        digits: of these images.
        components: the table of `by_components`; the number of components is selected on validation.

    Returns:
        The numbers.

    """
    shares = {name: float((predicted(of_part) == digits[name]).mean()) for name, of_part in errors.items()}
    low, high = study.interval(shares["test"], len(digits["test"]))
    means = mean_errors(errors["test"], digits["test"])
    chosen = components.loc[components["validation_accuracy"].idxmax()]
    return ClassScores(
        validation_accuracy=shares["validation"],
        test_accuracy=shares["test"],
        test_accuracy_low=low,
        test_accuracy_high=high,
        test_mse_own_digit=float(np.diag(means).mean()),
        test_mse_other_digits=float(means[~np.eye(DIGITS, dtype=bool)].mean()),
        pca_components=int(chosen["components"]),
        pca_validation_accuracy=float(chosen["validation_accuracy"]),
        pca_test_accuracy=float(chosen["test_accuracy"]),
    )


def table(errors: NDArray[np.float64], digits: Labels) -> pd.DataFrame:
    """Tabulate each image.

    Args:
        errors: MSE under each model, shape (images, 10).
        digits: of the images.

    Returns:
        One row per image: label, predicted, and the error under each model.

    """
    rows = pd.DataFrame(errors, columns=[f"mse_{digit}" for digit in range(DIGITS)])
    rows.insert(0, "label", digits)
    rows.insert(1, "predicted", predicted(errors))
    return rows


def reports(errors: Mapping[str, NDArray[np.float64]], digits: Mapping[str, Labels]) -> pd.DataFrame:
    """Tabulate precision, recall, F1 and support per digit.

    Args:
        errors: of each part, MSE under each model, shape (images, 10).
        digits: of the images.

    Returns:
        One row per part and digit or average.

    """
    return study.reports(digits, {name: predicted(of_part) for name, of_part in errors.items()})
