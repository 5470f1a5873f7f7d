"""All models in one table, and the metrics of the comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histocae.mnist.params import Compare
from histocae.mnist.record import MnistRecord


@dataclass(frozen=True)
class OverSeeds:
    """A metric of the notebook's model with several seeds.

    Attributes:
        values: by seed, in the order of `compare.notebook`.
        mean: of the values.

    """

    values: list[float]
    mean: float


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics of the comparison: the content of reports/metrics.json.

    Errors and accuracies are of test images. `seed_` marks the notebook's model, `per_class_` the ten models of
    one digit.

    Attributes:
        seed_test_mse: mean squared error of pixels in [0, 1], first seed.
        seed_accuracy: accuracy of the notebook's regression, one digit against the rest, first seed.
        seed_over_seeds: metrics over all seeds, by name.
        test_mse: mean squared error of this project's model.
        accuracy: accuracy of a multinomial logistic regression on its latents.
        per_class_accuracy: accuracy of the ten models of one digit.
        per_class_pca_accuracy: accuracy of the principal components of each digit.
        pca_test_mse: mean squared error of the linear model of all digits.
        pca_accuracy: accuracy of a logistic regression on its latents.
        pixel_accuracy: accuracy of a logistic regression on the pixels, without a model.
        seconds: duration of the training of this project's model.
        per_class_seconds: duration of the ten trainings together.

    """

    seed_test_mse: float
    seed_accuracy: float
    seed_over_seeds: dict[str, OverSeeds]
    test_mse: float
    accuracy: float
    per_class_accuracy: float
    per_class_pca_accuracy: float
    pca_test_mse: float
    pca_accuracy: float
    pixel_accuracy: float
    seconds: float
    per_class_seconds: float


def table(records: Mapping[str, MnistRecord]) -> pd.DataFrame:
    """Tabulate the models of all digits, one row per model."""
    rows = []
    for name, record in records.items():
        training, metrics = record.training, record.metrics
        description = {
            "model": name,
            "architecture": training["model"]["architecture"],
            "filters": "-".join(map(str, record.filters)),
            "latents": training["latent_features"],
            "parameters": training["parameters"],
            "epochs": training["epochs"],
            "seconds": record.run["seconds"],
        }
        kept = (
            "train_mse",
            "validation_mse",
            "test_mse",
            "train_accuracy",
            "validation_accuracy",
            "test_accuracy",
            "test_accuracy_low",
            "test_accuracy_high",
            "one_vs_rest_accuracy",
            "dead_latents",
        )
        rows.append(description | {key: metrics[key] for key in kept})
    return pd.DataFrame(rows)


def compare(
    roles: Compare,
    records: Mapping[str, MnistRecord],
    of_one_digit: Sequence[MnistRecord],
    pixels: Mapping[str, float],
    classes: Mapping[str, float],
) -> Metrics:
    """Collect the metrics of the comparison.

    Args:
        roles: names of the notebook's models, of this project's and of the linear one.
        records: of the models of all digits, by name.
        of_one_digit: records of the models of one digit.
        pixels: metrics of the logistic regression on the pixels.
        classes: metrics of the models of one digit together.

    Returns:
        The metrics.

    """
    notebooks = [records[name].metrics for name in roles.notebook]
    own, pca = records[roles.own], records[roles.pca]
    return Metrics(
        seed_test_mse=notebooks[0]["test_mse"],
        seed_accuracy=notebooks[0]["one_vs_rest_accuracy"],
        seed_over_seeds={
            key: _over_seeds([metrics[key] for metrics in notebooks])
            for key in ("test_mse", "one_vs_rest_accuracy", "test_accuracy", "dead_latents")
        },
        test_mse=own.metrics["test_mse"],
        accuracy=own.metrics["test_accuracy"],
        per_class_accuracy=classes["test_accuracy"],
        per_class_pca_accuracy=classes["pca_test_accuracy"],
        pca_test_mse=pca.metrics["test_mse"],
        pca_accuracy=pca.metrics["test_accuracy"],
        pixel_accuracy=pixels["test_accuracy"],
        seconds=own.run["seconds"],
        per_class_seconds=sum(record.run["seconds"] for record in of_one_digit),
    )


def _over_seeds(values: list[float]) -> OverSeeds:
    return OverSeeds(values, float(np.mean(values)))
