"""A tiny project with registered models, trained in this process, since a process per stage takes long."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from histocae.contrast.pair import Linear
from histocae.workers import processes
from support.workspace import ALL_STAGES, Workspace

LEVELS = ("patch", "slide", "case")
MODELS = {
    "all": {"filters": [4], "latent_features": 8, "epochs": 2},
    "other": {"filters": [4], "latent_features": 2},
    "linear": {"architecture": "pca", "latent_features": 16},
    "tumor": {"cohort": "tumor", "filters": [4]},
    "normal": {"cohort": "normal", "filters": [4]},
}
PARAMS = {
    "models": MODELS,
    "patches__max_per_slide": 12,
    "quality__pen": True,
    "training__epochs": 1,
    "training__picture_every": 1,
    "tissue__latents": "all",
}


class Registered(Workspace):
    """A project whose tracking server is a database in its folder."""

    @property
    def uri(self) -> str:
        """The address of the database; absolute, because MLflow caches databases by their address."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        """A client of the project's tracking server."""
        return MlflowClient(self.uri)

    @property
    def experiment(self) -> str:
        """The id of the project's experiment."""
        return self.client.get_experiment_by_name("histocae").experiment_id

    def json(self, path: str) -> dict:
        """Read a JSON file."""
        return json.loads((self.folder / path).read_text())

    def change(self, path: str, **metrics: float) -> None:
        """Change numbers under `metrics` of a JSON file."""
        content = self.json(path)
        content["metrics"] |= metrics
        (self.folder / path).write_text(json.dumps(content))

    def compare(self, threshold: float = 0.0, linear: Linear | None = None, **changes: object) -> None:
        """Write metrics of the stage tissue with invented numbers; without a linear function of the log ratio."""
        rate = {"value": 0.75, "low": 0.25, "high": 0.875}
        rates = dict.fromkeys(("accuracy", "balanced_accuracy", "sensitivity", "specificity"), rate)
        names = ("tumor", "normal")
        mse = {
            name: self.json(f"reports/models/{name}/evaluation/metrics.json")["metrics"]["test_mse"] for name in names
        }
        metrics = {
            "pair": {name: name for name in names},
            "weights": {name: self.json(f"models/trained/{name}/training.json")["weights"] for name in names},
            "settings": {"confidence": 0.95},
            "threshold": dict.fromkeys(LEVELS, threshold),
            "mse": {
                f"{data}_data": {f"{model}_model": mse[data] if data == model else 0.01 for model in names}
                for data in names
            },
            "at_threshold": dict.fromkeys(LEVELS, rates),
            "counts": {level: {"positive": 2, "negative": 1} for level in LEVELS},
            "calibration": {level: {"slope": 2.0, "intercept": -1.0} for level in LEVELS},
            "baselines": {
                "mean_intensity": {
                    "about": "mean intensity",
                    "difference_slide": {"value": 0.0, "low": -0.1, "high": 0.1},
                    **{f"auroc_{level}": rate for level in LEVELS},
                }
            },
            "score": "an invented one",
            "summary": ["The pair was invented."],
            "example": "s0",
            "one_class": {"model": None, "reason": "it was invented"},
            "sentences": ["The interval per slide includes chance."],
            **{f"{key}_{level}": rate for key in ("auroc", "auprc") for level in LEVELS},
            **{f"p_value_{level}": 0.5 for level in LEVELS},
        }
        (self.folder / "reports/tissue").mkdir(exist_ok=True)
        (self.folder / "reports/tissue/metrics.json").write_text(json.dumps(metrics | changes))
        kind, function = ("log_ratio", None) if linear is None else ("errors_by_scale", linear.as_json())
        training = self.json("reports/models/tumor/evaluation/distribution.json")
        quantiles, names = training["quantiles"], ("error_tumor", "error_normal", "error_min", "score")
        training["quantiles"] = {**dict.fromkeys(names, quantiles["error"]), "color": quantiles["color"]}
        rules = {key: training[key] for key in ("tissue_rule", "quality")}
        score = {"kind": kind, "linear": function, "training": training, **rules}
        (self.folder / "reports/tissue/score.json").write_text(json.dumps(score))


def make(folder: Path, patch: pytest.MonkeyPatch) -> Registered:
    """Train, evaluate, compare and register; the project becomes the working directory."""
    project = Registered(folder)
    enter(project, patch)
    patch.setattr(processes, "_pool", lambda workers: ThreadPoolExecutor(1))
    project.slides(*(f"s{i}" for i in range(12)))
    project.params(**PARAMS)
    project.make(*ALL_STAGES, *(f"{stage} {name}" for name in MODELS for stage in ("train", "evaluate")))
    project.compare()
    return project.make("register")


def copy(project: Registered, folder: Path, patch: pytest.MonkeyPatch) -> Registered:
    """Copy a project with its database and artifacts, so that a test can change it."""
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns(".histocae"))
    project_copy = Registered.__new__(Registered)
    project_copy.folder, project_copy.own = folder, folder / "own"
    enter(project_copy, patch)
    return project_copy


def enter(project: Registered, patch: pytest.MonkeyPatch) -> None:
    """Make a project the working directory, and its database the server."""
    patch.chdir(project.folder)
    _artifact_repos_cache.clear()  # by run: those of a copy have the same ids
    patch.setenv("MLFLOW_TRACKING_URI", project.uri)
