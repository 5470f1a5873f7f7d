"""All models in one table, and the figures that count in one dict."""

import numpy as np
import pandas as pd

from histocae.mnist.params import Compare
from histocae.mnist.record import MnistRecord


def table(records: dict[str, MnistRecord]) -> pd.DataFrame:
    """Give one row per model of all digits."""
    rows = []
    for name, record in records.items():
        training, metrics = record.training, record.metrics
        about = {
            "model": name,
            "architecture": training["model"]["architecture"],
            "filters": "-".join(str(one) for one in record.filters),
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
        rows.append(about | {key: metrics[key] for key in kept})
    return pd.DataFrame(rows)


def metrics(
    named: Compare, records: dict[str, MnistRecord], tens: list[MnistRecord], pixels: dict, ten: dict
) -> dict:
    """Give the figures that count.

    Args:
        named: which models stand for what; `seed_` is the first of `notebook`.
        records: of the models of all digits, by name.
        tens: of the models of one digit.
        pixels: metrics of the baseline without a model.
        ten: metrics of the models of one digit together.

    """
    notebooks = [records[name].metrics for name in named.notebook]
    own = records[named.own]
    return {
        "seed_test_mse": notebooks[0]["test_mse"],
        "seed_accuracy": notebooks[0]["one_vs_rest_accuracy"],
        "seed_over_seeds": {
            key: {
                "values": [one[key] for one in notebooks],
                "mean": float(np.mean([one[key] for one in notebooks])),
            }
            for key in ("test_mse", "one_vs_rest_accuracy", "test_accuracy", "dead_latents")
        },
        "test_mse": own.metrics["test_mse"],
        "accuracy": own.metrics["test_accuracy"],
        "per_class_accuracy": ten["test_accuracy"],
        "per_class_pca_accuracy": ten["pca_test_accuracy"],
        "pca_test_mse": records[named.pca].metrics["test_mse"],
        "pca_accuracy": records[named.pca].metrics["test_accuracy"],
        "pixel_accuracy": pixels["test_accuracy"],
        "seconds": own.run["seconds"],
        "per_class_seconds": sum(one.run["seconds"] for one in tens),
    }
