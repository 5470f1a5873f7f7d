"""What a training leaves for its MLflow run: models/trained/<model> and models/runs/<model>.json."""

import json
import logging
import math
import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from histocae import paths
from histocae.cohort.balance import learnt_from, read_split
from histocae.errors import TrackingError
from histocae.files import fingerprint, read_table, sha256
from histocae.identifiers import COHORTS

log = logging.getLogger(__name__)
TRAINING_ID = "histocae.training_id"
# `mlflow run` hands its own run to the commands it starts; each training is a run of its
# own here, and remembers that one as its parent
PARENT = "parent"  # not mlflow.parentRunId, under which MLflow would fold the runs away
PARENT_RUN = os.environ.pop("MLFLOW_RUN_ID", None)
_LOCKS = ":(exclude,top,glob)**/dvc.lock"  # they change while a pipeline runs; that is its job
SPLIT_CONTEXTS = {"train": "training", "validation": "validation", "test": "testing"}


@dataclass(frozen=True)
class TrainingRecord:
    """One model's training as it lies on disk.

    Attributes:
        name: of the model.
        place: the pipeline's own trainings, or those of a fold of the cross-validation.

    """

    name: str
    place: paths.Place = paths.MAIN

    # what delivers its run later
    publishes = "histocae publish"
    view = "slides"  # of its experiment, a name in `views.VIEWS`

    @property
    def command(self) -> str:
        """The command that trains this model."""
        return f"histocae train {self.name}"

    def is_of(self, about: dict[str, Any]) -> bool:
        """Tell whether it is there, whole, and of what `recipe.describe` tells of a training."""
        try:
            # a training that was killed between the two has weights without a run
            return self.training["made_from"] == about["made_from"] and bool(self.run)
        except TrackingError:
            return False

    @property
    def label(self) -> str:
        """The name of its run."""
        return self.name if self.place.fold is None else f"{self.name} fold {self.place.fold}"

    @property
    def folder(self) -> Path:
        """The trained model."""
        return self.place.trained / self.name

    @cached_property
    def training(self) -> dict[str, Any]:
        """What was trained on what: training.json, the same for equal input."""
        return _read(self.folder / "training.json")

    @cached_property
    def filters(self) -> list[int]:
        """Convolutions of each layer; empty for principal components."""
        return yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))["filters"]

    @cached_property
    def run(self) -> dict[str, Any]:
        """When and where it was trained: run id, times, commit.

        Raises:
            TrackingError: there is none, or it is of another training than the weights.

        """
        file = self.place.runs / f"{self.name}.json"
        found = _read(file)
        if found["weights"] != self.training["weights"]:
            told = f"{file} is of another training than the weights"
            raise TrackingError(f"{told}; run {self.command}")
        return found

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch."""
        return read_table(self.folder / "history.csv")

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What the evaluation of these weights wrote; None where there is none (yet)."""
        return self._report(paths.evaluation(self.name))

    @property
    def latent(self) -> dict[str, Any] | None:
        """What the study of these weights' latents wrote; None where there is none (yet)."""
        return self._report(paths.latent(self.name))

    def _report(self, folder: Path) -> dict[str, Any] | None:
        try:
            found = _read(folder / "metrics.json")
        except TrackingError:
            return None
        return found if found["weights"] == self.training["weights"] else None

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear map to compare with, and nothing to hand on."""
        return self.training["model"]["architecture"] == "pca"

    @property
    def is_candidate(self) -> bool:
        """Whether it may become a version in the registry: no yardstick, no fold's model."""
        return not self.is_linear and self.place.fold is None

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
        """Give the rows of a split that the model sees; None where the tables are others by now."""
        path = self.place.splits / f"{split}.csv"
        if not path.is_file() or sha256(path) != self.training["splits"][split]:
            return None
        table = read_split(path)
        if split == "test":
            return table[table["sample_type"].isin(COHORTS[self.training["cohort"]])]
        return learnt_from(table, self.training)


@dataclass(frozen=True)
class PairRecord:
    """A tumor and a normal model, and what comparing them gave (reports/tissue/metrics.json)."""

    tumor: TrainingRecord
    normal: TrainingRecord
    tissue: dict[str, Any]

    @property
    def state(self) -> str:
        """A fingerprint of all that the registered pair is made of."""
        return fingerprint([self.tumor.training["weights"], self.normal.training["weights"], self.tissue])

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers under flat names: auroc_slide, auroc_slide_low, mse_tumor_data_normal_model ..."""
        tissue, numbers = self.tissue, {}
        for level, threshold in tissue["threshold"].items():
            for key in ("auroc", "auprc"):
                of = tissue[f"{key}_{level}"]
                numbers |= {f"{key}_{level}": of["value"]}
                numbers |= {f"{key}_{level}_{end}": of[end] for end in ("low", "high")}
            numbers[f"p_value_{level}"] = tissue[f"p_value_{level}"]
            numbers[f"threshold_{level}"] = threshold
            for rate in ("accuracy", "balanced_accuracy", "sensitivity", "specificity"):
                numbers[f"{rate}_{level}"] = tissue["at_threshold"][level][rate]["value"]
            for name, one in tissue["baselines"].items():
                numbers[f"baseline/{name}_auroc_{level}"] = one[f"auroc_{level}"]["value"]
        for data, models in tissue["mse"].items():
            numbers |= {f"mse_{data}_{model}": value for model, value in models.items()}
        return numbers


def read_pair(delivered: Collection[str]) -> PairRecord | None:
    """Read the pair that the tissue stage compared; None, with a word why, where there is none to deliver.

    Args:
        delivered: models whose runs are there.

    Raises:
        TrackingError: it compared other models than those that are evaluated now.

    """
    try:
        tissue = _read(paths.TISSUE / "metrics.json")
    except TrackingError:
        log.info("%s: not there; no pair to deliver", paths.TISSUE / "metrics.json")
        return None
    if tissue["pair"] is None:
        log.info("no pair to deliver: %s", tissue["reason"])
        return None
    if missing := set(tissue["pair"].values()) - set(delivered):
        log.info("the pair's %s is not among the models delivered; no pair to deliver", " and ".join(sorted(missing)))
        return None
    pair = PairRecord(TrainingRecord(tissue["pair"]["tumor"]), TrainingRecord(tissue["pair"]["normal"]), tissue)
    if pair.tumor.is_linear:
        log.info("the pair is linear, a yardstick; it is not registered")
        return None
    for name, record in (("tumor", pair.tumor), ("normal", pair.normal)):
        compared = tissue["mse"][f"{name}_data"][f"{name}_model"]
        if not math.isclose(compared, record.metrics["test_mse"], rel_tol=1e-6):
            raise TrackingError(f"{paths.TISSUE / 'metrics.json'} is of another {record.name}; run dvc repro tissue")
    return pair


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrackingError(f"{path}: no such file; run dvc repro (or dvc pull) first") from None


def provenance() -> dict[str, str]:
    """Tell the commit, the DVC stage and experiment and the data's md5 as run tags."""
    tags = {PARENT: PARENT_RUN} if PARENT_RUN else {}
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "-uno", "--", ":/", _LOCKS))).lower()
        branch = _git("rev-parse", "--abbrev-ref", "HEAD")
        if branch and branch != "HEAD":
            tags["mlflow.source.git.branch"] = branch
    told = (("dvc.stage", "DVC_STAGE"), ("dvc.experiment", "DVC_EXP_NAME"), ("sweep", "HISTOCAE_SWEEP"))
    for tag, variable in told:
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
        # hundreds of lines: the parser in C takes a tenth of the time, where PyYAML has it
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        locked = yaml.load(Path("dvc.lock").read_text(encoding="utf-8"), loader) or {}  # noqa: S506 (a SafeLoader)
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
