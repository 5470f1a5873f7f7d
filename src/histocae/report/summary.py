"""The comparison of all models in figures and sentences, for the page and for DVC."""

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
# of each model, for DVC; all there is stands in the reports of each
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
    """A model with all that training and evaluation recorded of it (`tracking.record.TrainingRecord`)."""

    name: str
    training: dict[str, Any]
    run: dict[str, Any]
    metrics: dict[str, float]
    history: pd.DataFrame
    filters: list[int]


def table(records: Sequence[Trained]) -> pd.DataFrame:
    """Give one row per model, with the columns of `COLUMNS`."""
    rows = []
    for record in records:
        model, metrics = record.training["model"], record.metrics
        about = {
            "model": record.name,
            "cohort": model["cohort"],
            "architecture": model["architecture"],
            "filters": "-".join(str(one) for one in record.filters),
            "latent_features": record.training["latent_features"],
            "parameters": record.training["parameters"],
            "epochs": record.training["epochs"],
            "seconds": record.run["seconds"],
        }
        measured = {key: metrics.get(key) for key in COLUMNS if key not in about}
        rows.append({**about, **measured, "test_patches": int(metrics["test_patches"])})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"latent_features": "Int64"})


def findings(compared: pd.DataFrame) -> list[str]:
    """Say which model of cohort all reconstructs best, and how the trained ones stand to the linear ones."""
    rows = compared[compared["cohort"] == "all"]
    if rows.empty:
        return []
    best = rows.loc[rows["validation_mse"].idxmin()]
    sentences = [
        f"Of the models of cohort all, {best['model']} has the least validation error; its test MSE is "
        f"{best['test_mse']:.5f}, {best['test_mse'] / best['test_mean_color_mse']:.2f} times that of giving back "
        "nothing but the mean color of each patch."
    ]
    linear = rows[rows["architecture"] == "pca"]
    for _, row in rows[(rows["architecture"] != "pca") & rows["latent_features"].notna()].iterrows():
        as_large = linear[linear["latent_features"] == row["latent_features"]]
        if len(as_large):
            other = as_large.iloc[0]
            ratio = row["test_mse"] / other["test_mse"]
            verdict = "" if ratio < 1 else "; a linear map of the same size is no worse"
            sentences.append(
                f"{row['model']} has {ratio:.2f} times the test MSE of {other['model']}, principal components "
                f"of as many latents{verdict}."
            )
    return sentences


def describe(record: Trained) -> str:
    """Say in short how a model was made and what it reaches."""
    training, metrics = record.training, record.metrics
    asked = training["model"]["latent_features"]
    text = f"Cohort {training['cohort']}, architecture {training['model']['architecture']}"
    if training["latent_features"] != asked:
        text += f", {training['latent_features']} latents instead of {asked}, since the patches allow no more"
    if training["epochs"] > 1 or training["model"]["architecture"] != "pca":
        text += f", best epoch {training['best_epoch']} of {training['epochs']}"
    return (
        f"{text}. Learnt from {training['patches']['train']:,} patches. Test MSE {metrics['test_mse']:.5f}; giving "
        f"back only the mean color of each patch would have {metrics['test_mean_color_mse']:.5f}."
    )


def metrics(records: Sequence[Trained], latents: dict[str, dict], tissue: dict, crossvalidation: dict) -> dict:
    """Gather what `dvc metrics` shows: per model, of the pair, and of its cross-validation."""
    gathered: dict[str, Any] = {"models": {}}
    for record in records:
        found = {**record.metrics, **latents[record.name]["metrics"]}
        gathered["models"][record.name] = {key: found[key] for key in COMPARED if key in found}
    if tissue["pair"] is not None:
        gathered["tissue"] = _discrimination(tissue) | {
            name: {key: one["value"] for key, one in _discrimination(baseline).items()}
            for name, baseline in tissue["baselines"].items()
        }
    if crossvalidation["folds"] is not None:
        gathered["crossvalidation"] = _discrimination(crossvalidation)
    return gathered


def _discrimination(found: dict) -> dict:
    return {f"auroc_{level}": found[f"auroc_{level}"] for level in LEVELS}


def write_plots(folder: Path, records: Sequence[Trained], compared: pd.DataFrame, roc: Path) -> None:
    """Write what `dvc plots` draws: losses per model, errors of all models, ROC curves of the pair."""
    (folder / "losses").mkdir()
    for record in records:
        write_table(record.history, folder / "losses" / f"{record.name}.csv", separator=",")
    write_table(compared[["model", "test_mse"]], folder / "test_mse.csv", separator=",")
    (folder / "roc").mkdir()
    if roc.is_file():
        curves = read_table(roc, ("level",), separator=",")
        for level, rows in curves.groupby("level", sort=False):
            write_table(rows[["fpr", "tpr"]], folder / "roc" / f"{level}.csv", separator=",")
