"""A tiny project with registered models, made in this process: a process per stage takes long."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

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


class Registered(Workspace):
    """The project, and its tracking server: a database in its folder."""

    @property
    def uri(self) -> str:
        """The address of the database; absolute, because MLflow caches databases by their address."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        """A client of its server."""
        return MlflowClient(self.uri)

    @property
    def experiment(self) -> str:
        """The id of its experiment."""
        return self.client.get_experiment_by_name("histocae").experiment_id

    def json(self, path: str) -> dict:
        """Read a JSON file."""
        return json.loads((self.folder / path).read_text())

    def change(self, path: str, **metrics: float) -> None:
        """Change numbers under `metrics` of a JSON file."""
        content = self.json(path)
        content["metrics"] |= metrics
        (self.folder / path).write_text(json.dumps(content))

    def compare(self, threshold: float = 0.0, **changes: object) -> None:
        """Write the metrics of the tissue stage with made-up numbers."""
        rate = {"value": 0.75, "low": 0.25, "high": 0.875}
        rates = dict.fromkeys(("accuracy", "balanced_accuracy", "sensitivity", "specificity"), rate)
        names = ("tumor", "normal")
        own = {
            name: self.json(f"reports/models/{name}/evaluation/metrics.json")["metrics"]["test_mse"] for name in names
        }
        metrics = {
            "pair": {name: name for name in names},
            "settings": {"confidence": 0.95},
            "threshold": dict.fromkeys(LEVELS, threshold),
            "mse": {
                f"{data}_data": {f"{model}_model": own[data] if data == model else 0.01 for model in names}
                for data in names
            },
            "at_threshold": dict.fromkeys(LEVELS, rates),
            "counts": {level: {"positive": 2, "negative": 1} for level in LEVELS},
            "baselines": {"mean_intensity": {f"auroc_{level}": rate for level in LEVELS}},
            "sentences": ["The interval per slide includes chance."],
            **{f"{key}_{level}": rate for key in ("auroc", "auprc") for level in LEVELS},
            **{f"p_value_{level}": 0.5 for level in LEVELS},
        }
        (self.folder / "reports/tissue").mkdir(exist_ok=True)
        (self.folder / "reports/tissue/metrics.json").write_text(json.dumps(metrics | changes))


def make(folder: Path, patch: pytest.MonkeyPatch) -> Registered:
    """Train, evaluate, compare and register; the project becomes the working directory."""
    made = Registered(folder)
    enter(made, patch)
    patch.setattr(processes, "_pool", lambda workers: ThreadPoolExecutor(1))
    made.slides(*(f"s{i}" for i in range(12)))
    made.params(
        models=MODELS, patches__max_per_slide=12, training__epochs=1, training__picture_every=1, tissue__latents="all"
    )
    made.make(*ALL_STAGES, *(f"{stage} {name}" for name in MODELS for stage in ("train", "evaluate")))
    made.compare()
    return made.make("register")


def copy(made: Registered, folder: Path, patch: pytest.MonkeyPatch) -> Registered:
    """Copy a project to change it; delivered artifacts are not copied."""
    shutil.copytree(made.folder, folder, ignore=shutil.ignore_patterns("mlruns", ".histocae"))
    copied = Registered.__new__(Registered)
    copied.folder, copied.own = folder, folder / "own"
    enter(copied, patch)
    return copied


def enter(project: Registered, patch: pytest.MonkeyPatch) -> None:
    """Make a project the working directory, and its database the server."""
    patch.chdir(project.folder)
    patch.setenv("MLFLOW_TRACKING_URI", project.uri)
