"""A training on disk, from which its MLflow run is made: models/trained/<model> and models/runs/<model>.json."""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histocae import checksums, git, paths
from histocae.cohort.balance import read_rows_for_model
from histocae.errors import HistocaeError, TrackingError
from histocae.files import SEPARATOR, fingerprint, sha256_once
from histocae.identifiers import COHORTS
from histocae.networks import saved
from histocae.networks.saved_params import read_params
from histocae.pipeline import dvc_state
from histocae.sources.tables import TEXTS
from histocae.tracking import documents
from histocae.tracking.split_tables import TableSummary, summarize

log = logging.getLogger(__name__)
TRAINING_ID = "histocae.training_id"
# `mlflow run` sets MLFLOW_RUN_ID for the command it starts. Here each training is a run of its own, with that run as
# its parent: in a tag of ours, since MLflow's own (mlflow.parentRunId) would fold the trainings away in its table
PARENT = "parent"
_LOCKS = ":(exclude,top,glob)**/dvc.lock"  # every pipeline changes them while it runs
_TISSUE_REMEDY = "run dvc repro tissue"
SPLIT_CONTEXTS = {"train": "training", "validation": "validation", "test": "testing"}


@dataclass(frozen=True)
class TrainingRecord:
    """One model's training as stored on disk.

    Attributes:
        name: of the model.
        layout: paths of the pipeline's own trainings, or of a fold of the cross-validation.

    """

    name: str
    layout: paths.Layout = paths.MAIN

    # the command that delivers its run later
    publishes = "histocae publish"
    view = "slides"  # of its experiment, a name in `views.VIEWS`
    has_contract = True  # whether its logged model states how its patches were extracted

    @property
    def command(self) -> str:
        """The command that trains this model."""
        return f"histocae train {self.name}"

    @property
    def remedy(self) -> str:
        """What to do about a damaged file of this training."""
        stage = f"train@{self.name}" if self.layout.fold is None else "crossvalidate"
        return f"run dvc repro {stage}"

    def is_of(self, description: dict[str, Any]) -> bool:
        """Check whether the training is complete and whole, and has this description (`recipe.describe`)."""
        # a training that was killed between the two has weights without a run
        if not (self.folder / saved.RECORD_FILE).exists() or not self.file.exists():
            return False
        try:
            if self.training["made_from"] != description["made_from"] or not self.run:
                return False
            saved.check(self.folder)
        except HistocaeError as error:
            log.warning("%s is trained again: %s", self.label, error)
            return False
        return True

    @property
    def label(self) -> str:
        """The name of its run."""
        return self.name if self.layout.fold is None else f"{self.name} fold {self.layout.fold}"

    @property
    def folder(self) -> Path:
        """The folder of the trained model."""
        return self.layout.trained / self.name

    @cached_property
    def training(self) -> dict[str, Any]:
        """Settings and data of the training: training.json, the same for equal input.

        Raises:
            HistocaeError: the file is missing, damaged or of another model.

        """
        file = self.folder / saved.RECORD_FILE
        if not file.exists():
            raise TrackingError(f"{file}: no such file; run dvc repro (or dvc pull) first")
        checksums.check(file, self.remedy)
        content = documents.read(file, documents.Training, self.remedy)
        if (name := content["params"]["model"]["name"]) != self.name:
            raise TrackingError(f"{file} is of the model {name}; {self.remedy}")
        return content

    @cached_property
    def filters(self) -> list[int]:
        """The number of convolutions of each layer; empty for principal components."""
        file = self.folder / saved.PARAMS_FILE
        checksums.check(file, self.remedy)
        return read_params(file, self.remedy)["filters"]

    @cached_property
    def run(self) -> dict[str, Any]:
        """When and where the model was trained: run id, times, commit.

        Raises:
            TrackingError: the file is missing or damaged, or belongs to a training with other weights.

        """
        content = documents.read(self.file, documents.TrainingRun, self.remedy)
        if content["weights"] != self.training["weights"]:
            raise TrackingError(f"{self.file} belongs to a training with other weights; run {self.command}")
        if len(content["stamps"]) != self.training["epochs"]:
            epochs = self.training["epochs"]
            raise TrackingError(f"{self.file}: stamps: {len(content['stamps'])} for {epochs} epochs; {self.remedy}")
        return content

    @property
    def file(self) -> Path:
        """The file of its run."""
        return self.layout.runs / f"{self.name}.json"

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch: epoch, loss, validation_loss.

        Raises:
            HistocaeError: the table is missing or damaged.

        """
        file = self.folder / "history.csv"
        checksums.check(file, self.remedy)
        table = documents.read_numbers(file, ("epoch", "loss", "validation_loss"), SEPARATOR, self.remedy)
        if len(table) != self.training["epochs"]:
            raise TrackingError(f"{file}: {len(table)} rows for {self.training['epochs']} epochs; {self.remedy}")
        return table

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """Results of the evaluation of these weights; None where there are none (yet)."""
        return self._results(paths.evaluation(self.name), documents.Evaluation, "evaluate")

    @property
    def latent(self) -> dict[str, Any] | None:
        """Results of the study of these weights' latents; None where there are none (yet)."""
        return self._results(paths.latent(self.name), documents.Study, "latent")

    def _results(self, folder: Path, kind: type[documents.Document], stage: str) -> dict[str, Any] | None:
        file = folder / "metrics.json"
        if not file.exists():
            return None
        content = documents.read(file, kind, f"run dvc repro {stage}@{self.name}")
        return content if content["weights"] == self.training["weights"] else None

    @property
    def is_linear(self) -> bool:
        """Whether the model is a linear map (principal components), there only for comparison."""
        return bool(self.training["model"]["architecture"] == "pca")

    @property
    def is_candidate(self) -> bool:
        """Whether the model may become a version in the registry: not a linear map, nor the model of a fold."""
        return not self.is_linear and self.layout.fold is None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the evaluation of these weights.

        Raises:
            TrackingError: there is no such evaluation.

        """
        if (evaluation := self.evaluation) is None:
            raise TrackingError(f"{self.name} is not evaluated; run dvc repro evaluate@{self.name}")
        metrics: dict[str, float] = evaluation["metrics"]
        return metrics

    @cached_property
    def tables(self) -> dict[str, TableSummary | None]:
        """The rows of each split that the model uses, in short; None where the table has changed since."""
        return {split: self._table(split) for split in SPLIT_CONTEXTS}

    def _table(self, split: str) -> TableSummary | None:
        path = self.layout.splits / f"{split}.csv"
        if not path.is_file() or sha256_once(path) != self.training["splits"][split]:
            return None
        return self.summarize(path, split)

    def summarize(self, path: Path, split: str) -> TableSummary:
        """Summarize the rows of a split that the model uses.

        Args:
            path: of the split's table.
            split: train | validation | test.

        Returns:
            The summary; cases and slides are counted.

        """
        select = self._select_all(split) or self._select_learnt(path)
        return summarize(
            path, select, text=(*TEXTS, "shard", "file", "patch_label", "flags"), counted=("case_id", "slide_id")
        )

    def _select_all(self, split: str) -> Callable[[pd.DataFrame], pd.DataFrame] | None:
        """Select all patches of the cohort; None where the model learns from a sample of them."""
        if split != "test" and self.training["cohort"] != "all":
            return None
        if self.training["cohort"] == "all":
            return lambda part: part
        labels = COHORTS[self.training["cohort"]]
        return lambda part: part[part["patch_label"].isin(labels)]

    def _select_learnt(self, path: Path) -> Callable[[pd.DataFrame], pd.DataFrame]:
        """Select the patches of the sample that the model learns from."""
        positions = read_rows_for_model(path, self.training).index.to_numpy()  # ascending

        def select(part: pd.DataFrame) -> pd.DataFrame:
            start, end = np.searchsorted(positions, (part.index[0], part.index[-1] + 1))
            return part.loc[positions[start:end]]

        return select


@dataclass(frozen=True)
class PairRecord:
    """A tumor and a normal model, and the results of their comparison.

    Attributes:
        tumor: of the tumor model.
        normal: of the normal model.
        tissue: content of reports/tissue/metrics.json.
        score: content of reports/tissue/score.json: how patches are scored.

    """

    tumor: TrainingRecord
    normal: TrainingRecord
    tissue: dict[str, Any]
    score: dict[str, Any]

    @property
    def state(self) -> str:
        """A fingerprint of the weights and results of which the registered pair is made."""
        return fingerprint([self.tumor.training["weights"], self.normal.training["weights"], self.tissue, self.score])

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers under flat names: auroc_slide, auroc_slide_low, mse_tumor_data_normal_model ..."""
        tissue = self.tissue
        numbers: dict[str, float] = {}
        for level, threshold in tissue["threshold"].items():
            for key in ("auroc", "auprc"):
                estimate = tissue[f"{key}_{level}"]
                numbers |= {f"{key}_{level}": estimate["value"]}
                numbers |= {f"{key}_{level}_{end}": estimate[end] for end in ("low", "high")}
            numbers[f"p_value_{level}"] = tissue[f"p_value_{level}"]
            numbers[f"threshold_{level}"] = threshold
            for rate in ("accuracy", "balanced_accuracy", "sensitivity", "specificity"):
                numbers[f"{rate}_{level}"] = tissue["at_threshold"][level][rate]["value"]
            for name, baseline in tissue["baselines"].items():
                numbers[f"baseline/{name}_auroc_{level}"] = baseline[f"auroc_{level}"]["value"]
            for name, score in tissue["one_class"].get("scores", {}).items():
                numbers[f"one_class/{name}_auroc_{level}"] = score[f"auroc_{level}"]["value"]
        for data, models in tissue["mse"].items():
            numbers |= {f"mse_{data}_{model}": value for model, value in models.items()}
        return numbers


def read_pair(delivered: Collection[str]) -> PairRecord | None:
    """Read the pair of models that the tissue stage compared.

    Args:
        delivered: names of the models whose runs are on the server.

    Returns:
        The pair; None, with the reason logged, where there is no pair to deliver.

    Raises:
        HistocaeError: the stage compared models that have been trained again since, or a file is damaged.

    """
    file = paths.TISSUE / "metrics.json"
    if not file.exists():
        log.info("%s: not there; no pair to deliver", file)
        return None
    tissue = documents.read(file, documents.AnyComparison, _TISSUE_REMEDY)
    if tissue["pair"] is None:
        documents.check(file, tissue, documents.NoComparison, _TISSUE_REMEDY)
        log.info("no pair to deliver: %s", tissue["reason"])
        return None
    documents.check(file, tissue, documents.Comparison, _TISSUE_REMEDY)
    if missing := set(tissue["pair"].values()) - set(delivered):
        log.info("no pair to deliver: its model %s is not delivered", " and ".join(sorted(missing)))
        return None
    score = documents.read(paths.TISSUE / "score.json", documents.Score, _TISSUE_REMEDY)
    tumor, normal = (TrainingRecord(tissue["pair"][name]) for name in ("tumor", "normal"))
    pair = PairRecord(tumor, normal, tissue, score)
    if pair.tumor.is_linear:
        log.info("the pair is linear, there only for comparison; it is not registered")
        return None
    for name, record in (("tumor", pair.tumor), ("normal", pair.normal)):
        if tissue["weights"][name] != record.training["weights"]:
            raise TrackingError(f"{file} is of another {record.name}; run dvc repro tissue")
    return pair


def provenance() -> dict[str, str]:
    """Describe the origin of a training as tags: commit, parent run, DVC stage and experiment, md5 of the data."""
    tags = {}
    if parent := os.environ.get("MLFLOW_RUN_ID"):
        tags[PARENT] = parent
    if commit := _git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "-uno", "--", ":/", _LOCKS))).lower()
        branch = _git("rev-parse", "--abbrev-ref", "HEAD")
        if branch and branch != "HEAD":
            tags["mlflow.source.git.branch"] = branch
    variables = (("dvc.stage", "DVC_STAGE"), ("dvc.experiment", "DVC_EXP_NAME"), ("sweep", "HISTOCAE_SWEEP"))
    for tag, variable in variables:
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    return tags | _locked_md5()


def _git(*arguments: str) -> str | None:
    """Run git; None where it is not installed or this is not a repository, which is no reason not to train."""
    try:
        return git.run(*arguments)
    except git.GitError:
        return None


def _locked_md5() -> dict[str, str]:
    stages = (("patches", paths.PATCHES), ("split", paths.SPLITS))
    found = {f"dvc.{stage}.md5": dvc_state.recorded_md5(stage).get(path) for stage, path in stages}
    return {tag: md5 for tag, md5 in found.items() if md5 is not None}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts into dotted keys.

    Args:
        values: nested dicts.
        prefix: of every key.

    Returns:
        A dict without dicts in it.

    """
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[f"{prefix}{key}"] = value
    return pairs
