"""What a training leaves for its MLflow run: models/trained/<model> and models/runs/<model>.json."""

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from histocae import paths
from histocae.cohorts import read_split
from histocae.errors import TrackingError
from histocae.files import read_table, sha256
from histocae.identifiers import COHORTS

TRAINING_ID = "histocae.training_id"
# `mlflow run` hands its own run to the commands it starts; each training is a run of its
# own here, and remembers that one as its parent
PARENT_RUN = os.environ.pop("MLFLOW_RUN_ID", None)
SPLIT_CONTEXTS = {"train": "training", "validation": "validation", "test": "testing"}


@dataclass(frozen=True)
class Record:
    """One model's training as it lies on disk."""

    name: str

    @property
    def folder(self) -> Path:
        """The trained model."""
        return paths.TRAINED / self.name

    @cached_property
    def training(self) -> dict[str, Any]:
        """What was trained on what: training.json, the same for equal input."""
        return _read(self.folder / "training.json")

    @cached_property
    def run(self) -> dict[str, Any]:
        """When and where it was trained: run id, times, commit.

        Raises:
            TrackingError: there is none, or it is of another training than the weights.

        """
        found = _read(paths.RUNS / f"{self.name}.json")
        if found["weights"] != self.training["weights"]:
            told = f"{paths.RUNS / self.name}.json is of another training than the weights"
            raise TrackingError(f"{told}; run histocae train {self.name}")
        return found

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch."""
        return read_table(self.folder / "history.csv")

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What the evaluation of these weights wrote; None where there is none (yet)."""
        try:
            found = _read(paths.evaluation(self.name) / "metrics.json")
        except TrackingError:
            return None
        return found if found["weights"] == self.training["weights"] else None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the evaluation of these weights.

        Raises:
            TrackingError: there is no such evaluation.

        """
        if self.evaluation is None:
            raise TrackingError(f"{self.name} is not evaluated; run dvc repro evaluate@{self.name}")
        return self.evaluation["metrics"]

    def patches(self, split: str) -> pd.DataFrame | None:
        """Give the rows of a split that the model's cohort has; None where the tables are others by now."""
        path = paths.SPLITS / f"{split}.csv"
        if not path.is_file() or sha256(path) != self.training["splits"][split]:
            return None
        table = read_split(path)
        return table[table["sample_type"].isin(COHORTS[self.training["cohort"]])]


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrackingError(f"{path}: no such file; run dvc repro (or dvc pull) first") from None


def provenance() -> dict[str, str]:
    """Tell the commit, the DVC stage and experiment and the data's md5 as run tags."""
    tags = {"mlflow.parentRunId": PARENT_RUN} if PARENT_RUN else {}
    commit = _git("rev-parse", "HEAD")
    if commit:
        # dvc.lock changes while the pipeline runs; that is its job
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "-uno", "--", ".", ":!dvc.lock"))).lower()
        branch = _git("rev-parse", "--abbrev-ref", "HEAD")
        if branch and branch != "HEAD":
            tags["mlflow.source.git.branch"] = branch
    for tag, variable in (("dvc.stage", "DVC_STAGE"), ("dvc.experiment", "DVC_EXP_NAME")):
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    return tags | _locked_md5()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _locked_md5() -> dict[str, str]:
    try:
        locked = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    tags = {}
    for stage, path in (("patches", paths.PATCHES), ("split", paths.SPLITS)):
        for out in locked.get("stages", {}).get(stage, {}).get("outs", []):
            if out["path"] == path.as_posix():
                tags[f"dvc.{stage}.md5"] = out["md5"]
    return tags


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts into dotted keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
