"""The comparison of all models in numbers and sentences, for the page and for DVC."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from histocae.files import read_table, write_table

COLUMNS = [
    "model",
    "cohort",
    "filters",
    "latent_features",
    "parameters",
    "epochs",
    "train_mse",
    "validation_mse",
    "test_mse",
    "test_psnr",
    "test_ssim",
    "test_patches",
    "seconds",
    "architecture",
    "test_mean_color_mse",
]
# metrics of each model that `dvc metrics` shows; each model's reports have all
COMPARED = (
    "train_mse",
    "validation_mse",
    "test_mse",
    "test_psnr",
    "test_ssim",
    "latent_auroc_patch",
    "latent_auroc_slide",
    "latent_ari",
)
LEVELS = ("patch", "slide", "case")


class Trained(Protocol):
    """A model with the records of its training and evaluation (`tracking.record.TrainingRecord`)."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def training(self) -> dict[str, Any]:
        """Content of training.json."""

    @property
    def run(self) -> dict[str, Any]:
        """When and where it was trained."""

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of its evaluation."""

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch."""

    @property
    def filters(self) -> list[int]:
        """Number of convolutions of each layer."""


def table(records: Sequence[Trained]) -> pd.DataFrame:
    """Make the table of all models.

    Args:
        records: of the models.

    Returns:
        One row per model, with the columns `COLUMNS`.

    """
    rows = []
    for record in records:
        model, metrics = record.training["model"], record.metrics
        description = {
            "model": record.name,
            "cohort": model["cohort"],
            "architecture": model["architecture"],
            "filters": "-".join(str(count) for count in record.filters),
            "latent_features": record.training["latent_features"],
            "parameters": record.training["parameters"],
            "epochs": record.training["epochs"],
            "seconds": record.run["seconds"],
        }
        measured = {key: metrics.get(key) for key in COLUMNS if key not in description}
        rows.append({**description, **measured, "test_patches": int(metrics["test_patches"])})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"latent_features": "Int64"})


def findings(compared: pd.DataFrame) -> list[str]:
    """Compare the models of cohort all with each other and with principal components, in sentences.

    Args:
        compared: the table of all models.

    Returns:
        Sentences; none where no model is of cohort all.

    """
    rows = compared[compared["cohort"] == "all"]
    if rows.empty:
        return []
    best = rows.loc[rows["validation_mse"].idxmin()]
    sentences = [
        f"Of the models of cohort all, {best['model']} has the smallest validation error. Its test MSE is "
        f"{best['test_mse']:.5f}, {best['test_mse'] / best['test_mean_color_mse']:.2f} times the MSE of each patch's "
        "mean color alone."
    ]
    linear = rows[rows["architecture"] == "pca"]
    for _, row in rows[(rows["architecture"] != "pca") & rows["latent_features"].notna()].iterrows():
        same_size = linear[linear["latent_features"] == row["latent_features"]]
        if len(same_size):
            baseline = same_size.iloc[0]
            ratio = row["test_mse"] / baseline["test_mse"]
            verdict = "" if ratio < 1 else "; the linear map is at least as good"
            sentences.append(
                f"The test MSE of {row['model']} is {ratio:.2f} times that of {baseline['model']}, a linear map with "
                f"the same number of latents{verdict}."
            )
    return sentences


def describe(record: Trained) -> str:
    """Describe a model's training and its test error in a few sentences."""
    training, metrics = record.training, record.metrics
    configured = training["model"]["latent_features"]
    text = f"Cohort {training['cohort']}, architecture {training['model']['architecture']}"
    if training["latent_features"] != configured:
        text += f", {training['latent_features']} latents instead of {configured}, since the patches allow no more"
    if training["epochs"] > 1 or training["model"]["architecture"] != "pca":
        text += f", best epoch {training['best_epoch']} of {training['epochs']}"
    return (
        f"{text}. Trained on {training['patches']['train']:,} patches. Test MSE {metrics['test_mse']:.5f}; the mean "
        f"color of each patch alone has {metrics['test_mean_color_mse']:.5f}."
    )


def metrics(
    records: Sequence[Trained],
    latents: dict[str, dict[str, Any]],
    tissue: dict[str, Any],
    crossvalidation: dict[str, Any],
) -> dict[str, Any]:
    """Gather the metrics that `dvc metrics` shows: of each model, of the pair, and of its cross-validation.

    Args:
        records: of the models.
        latents: results of the study of latents, by model.
        tissue: content of reports/tissue/metrics.json.
        crossvalidation: content of reports/crossvalidation/metrics.json.

    Returns:
        Nested dicts, for JSON.

    """
    gathered: dict[str, Any] = {"models": {}}
    for record in records:
        measured = {**record.metrics, **latents[record.name]["metrics"]}
        gathered["models"][record.name] = {key: measured[key] for key in COMPARED if key in measured}
    if tissue["pair"] is not None:
        gathered["tissue"] = _discrimination(tissue) | {
            name: {key: estimate["value"] for key, estimate in _discrimination(baseline).items()}
            for name, baseline in tissue["baselines"].items()
        }
    if crossvalidation["folds"] is not None:
        gathered["crossvalidation"] = _discrimination(crossvalidation)
    return gathered


def _discrimination(results: dict[str, Any]) -> dict[str, Any]:
    return {f"auroc_{level}": results[f"auroc_{level}"] for level in LEVELS}


def write_plots(folder: Path, records: Sequence[Trained], compared: pd.DataFrame, roc: Path) -> None:
    """Write the tables that `dvc plots` draws: losses per model, errors of all models, ROC curves of the pair.

    Args:
        folder: an empty one.
        records: of the models.
        compared: the table of all models.
        roc: table of the ROC curves; where it is missing, none are written.

    """
    (folder / "losses").mkdir()
    for record in records:
        write_table(record.history, folder / "losses" / f"{record.name}.csv", separator=",")
    write_table(compared[["model", "test_mse"]], folder / "test_mse.csv", separator=",")
    (folder / "roc").mkdir()
    if roc.is_file():
        curves = read_table(roc, ("level",), ",", needed=("level",), numbers=("fpr", "tpr"))
        for level, rows in curves.groupby("level", sort=False):
            write_table(rows[["fpr", "tpr"]], folder / "roc" / f"{level}.csv", separator=",")
