"""Pairs of autoencoders to choose from, their trainings on folds of cases, and the scores of patches."""

import dataclasses
import hashlib
import itertools
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from histocae import params_file
from histocae.cohort import balance, split
from histocae.contrast import baselines, crossvalidation, pair
from histocae.contrast.baselines import Parts
from histocae.evaluation import scales
from histocae.files import code_fingerprint, replacing, write_yaml
from histocae.identifiers import COMPARED
from histocae.latent import distances
from histocae.latent.distances import Distances
from histocae.networks import backend
from histocae.params import Model, Params, Training
from histocae.patches.images import batches
from histocae.patches.store import PatchSelection, PatchStore
from histocae.sources.tables import read_metadata
from histocae.training import recipe

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".histocae" / "decide"
FOLDS = 5
COARSE = 3  # folds of the first deal on which all pairs are trained
PIXELS = 64
PER_PROCESS = 20  # trainings of pairs
BATCH = 64  # patches that are measured at once
LATENTS = (2, 4, 8, 16, 32, 128, 512)
FILTERS = {"plain": (8, 16, 32, 64), "residual": (32, 64), "compact": (8, 32)}
# data sets: kind of examples/own_data.py (None: the demo), and changes to params.yaml
DATA: dict[str, tuple[str | None, dict[str, Any]]] = {
    "biopsies": ("biopsies", {}),
    "gray biopsies": ("biopsies", {"color": "grey"}),
    "gray lung tiles": ("lung", {"color": "grey", "max_per_slide": 6}),
    "demo": (None, {"mpp": 1.0, "max_per_slide": 8}),
}
CODE = (*recipe.CODE, "contrast/baselines", "contrast/linear_pair", "evaluation/scales", "latent/distances")
Scores = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]  # by name: of validation and of test patches


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A pair to try.

    Attributes:
        architecture: plain | residual | compact.
        latents: number of latents; None: no dense layer.
        loss: of the training.
        notebook: whether it is trained as the notebooks did, with Adamax and without changes of the patches.

    """

    architecture: str
    latents: int | None
    loss: str = "mse"
    notebook: bool = False

    @property
    def name(self) -> str:
        """A name for tables and files."""
        if self.notebook:
            return "notebook"
        return f"{self.architecture}-{self.latents}" + (f"-{self.loss}" if self.loss != "mse" else "")

    def model(self) -> Model:
        """Return the entry of `models` that trains it, as far as both tissues share it."""
        own = (
            {"epochs": 20, "patience": 3, "optimizer": "adamax", "learning_rate": 0.002}
            if self.notebook
            else {
                "epochs": 20,
                "patience": 4,
                "optimizer": "adamw",
                "learning_rate": 0.002,
                "schedule": "cosine",
                "clip_norm": 1.0,
                "augment": True,
            }
        )
        filters = list(FILTERS[self.architecture])
        return Model(
            architecture=self.architecture, filters=filters, latent_features=self.latents, loss=self.loss, **own
        )


NOTEBOOK = Configuration("plain", None, notebook=True)
GRID = [
    NOTEBOOK,
    *(Configuration(*each) for each in itertools.product(FILTERS, LATENTS)),
]
# trained on the first data set only: SSIM takes three times as long as the squared error
LOSSES = [Configuration("residual", 8, loss) for loss in ("l1", "ssim", "mse+ssim")]


@dataclasses.dataclass(frozen=True)
class Task:
    """A fold of a deal of a data set, and the pair to train on it; without a pair, the baselines.

    Attributes:
        data: a key of DATA.
        deal: its number, from 0, which seeds the assignment of cases to folds.
        fold: its number, from 0.
        configuration: the pair; None for the baselines.

    """

    data: str
    deal: int
    fold: int
    configuration: Configuration | None

    @property
    def file(self) -> Path:
        """The file of its scores; its name has the hashes of the code and of all that the task depends on."""
        trained = None if self.configuration is None else self.configuration.model().model_dump()
        code = (Path(__file__).read_text(encoding="utf-8"), code_fingerprint(*CODE))
        text = repr((dataclasses.astuple(self), trained, _fingerprint(self.data), code))
        name = "baselines" if self.configuration is None else self.configuration.name
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return WORK / "scores" / self.data / f"{name}-{self.deal}-{self.fold}-{digest}.npz"


def prepare(data: str, source: Path) -> None:
    """Extract the patches of a data set, as the pipeline does; those that are there and right are kept."""
    kind, changes = DATA[data]
    folder = WORK / data
    folder.mkdir(parents=True, exist_ok=True)
    params = params_file.read(ROOT / "params.yaml")
    params["patches"] |= {"pixels": PIXELS, **changes}
    write_yaml(params, folder / "params.yaml")
    if kind is not None:
        own_data = ROOT / "examples" / "own_data.py"
        subprocess.run([sys.executable, own_data, kind, source.resolve()], cwd=folder, check=True)
    for stage in ("inventory", "metadata", "slides", "patches"):
        subprocess.run(["histocae", stage], cwd=folder, check=True)


@cache
def _patches(data: str) -> tuple[Params, PatchStore, pd.DataFrame]:
    folder = WORK / data
    store = PatchStore(folder / "data/patches")
    rows = split.with_metadata(store.index(), read_metadata(folder / "data/slides_metadata.csv"))
    rows = rows[rows["sample_type"].isin(COMPARED)].reset_index(drop=True)
    rows["label"] = (rows["sample_type"] == COMPARED[0]).astype(int)
    return params_file.load(folder / "params.yaml"), store, rows


@cache
def _fingerprint(data: str) -> str:
    """Hash the patches of a data set, and the params that its trainings depend on."""
    params, _, _ = _patches(data)
    used = (params.seed, params.split.together, params.training.model_dump())
    manifest = (WORK / data / "data/patches/store.json").read_bytes()
    return hashlib.sha256(manifest + repr(used).encode()).hexdigest()


@cache
def divided(data: str, deal: int) -> list[dict[str, pd.DataFrame]]:
    """Divide the cases of a data set into folds; see `crossvalidation.divide`."""
    params, _, rows = _patches(data)
    return crossvalidation.divide(rows, FOLDS, params.seed + deal, params.split.together)


def work(task: Task) -> None:
    """Train a pair on a fold and keep the scores of its validation and test patches, or those of the baselines."""
    params, store, _ = _patches(task.data)
    tables = divided(task.data, task.deal)[task.fold]
    training = tuple(
        balance.sample(tables["train"], cohort, "patches", None, params.seed) for cohort in ("tumor", "normal")
    )
    parts = Parts(baselines.sample(training, params.seed), tables["validation"], tables["test"])
    if task.configuration is None:
        found, _ = baselines.simple(store, training, parts, params.seed)
        scores = {name: (_of_validation(each, parts), each.scores) for name, each in found.items()}
    else:
        scores = _pair_scores(task.configuration, store, tables, training, parts, params)
    task.file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(task.file) as handle:
        np.savez(handle, **{name: np.concatenate(both) for name, both in scores.items()})


def _of_validation(baseline: baselines.Baseline, parts: Parts) -> NDArray[np.float64]:
    """Return the scores of validation patches; NaN where the baseline has none."""
    scores = baseline.validation_scores
    return np.full(len(parts.validation), np.nan) if scores is None else scores


@dataclasses.dataclass(frozen=True)
class Described:
    """What one model of a pair says of the patches of training, validation and test.

    Attributes:
        errors: mean squared error of each patch, of validation and of test.
        by_scale: see `reconstruction.measure_by_scale`.
        latents: of each patch.
        distances: from the latents of the model's own training patches.

    """

    errors: list[NDArray[np.float64]]
    by_scale: list[NDArray[np.float32]]
    latents: list[NDArray[np.float32]]
    distances: Distances


def _pair_scores(
    configuration: Configuration,
    store: PatchStore,
    tables: dict[str, pd.DataFrame],
    training: tuple[pd.DataFrame, pd.DataFrame],
    parts: Parts,
    params: Params,
) -> Scores:
    """Train both models and score the patches in every way."""
    tumor, normal = (
        _train_and_describe(configuration, store, own, tables["validation"], parts, params.training, params.seed)
        for own in training
    )
    variances = [_variances(store.select(rows)) for rows in parts.each[1:]]

    def scored(score: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        validation, test = (score(part) for part in (0, 1))
        return validation, test

    scores = {
        "log ratio": scored(lambda i: pair.score(tumor.errors[i], normal.errors[i])),
        "relative": scored(lambda i: (normal.errors[i] - tumor.errors[i]) / variances[i]),
        "mahalanobis": scored(lambda i: _apart(tumor, normal, i, "mahalanobis")),
        "neighbors": scored(lambda i: _apart(tumor, normal, i, "nearest")),
        "normal: error": scored(lambda i: normal.errors[i]),
        "normal: relative error": scored(lambda i: normal.errors[i] / variances[i]),
        "normal: mahalanobis": scored(lambda i: normal.distances.mahalanobis(normal.latents[i + 1])),
        "normal: neighbors": scored(lambda i: normal.distances.nearest(normal.latents[i + 1])),
    }
    latents = _joined(tumor.latents, normal.latents)
    by_scale = _joined(tumor.by_scale, normal.by_scale)
    textures = [_texture(store.select(rows)) for rows in parts.each]
    for name, features in (
        ("latents", latents),
        ("errors by scale", by_scale),
        ("errors and latents", _joined(by_scale, latents)),
        ("errors and texture", _joined(by_scale, textures)),
    ):
        found = parts.classify(name, features, params.seed)
        scores[name] = (found.validation_scores, found.scores)
    return scores


def _apart(tumor: Described, normal: Described, part: int, kind: str) -> NDArray[np.float64]:
    """Compare the distance from normal latents with that from tumor latents, each in its own model's latents."""
    far, near = (getattr(each.distances, kind)(each.latents[part + 1]) for each in (normal, tumor))
    return pair.score(near, far)


def _joined(*features: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    return [np.hstack(each) for each in zip(*features, strict=True)]


def _texture(patches: PatchSelection) -> NDArray[np.float32]:
    return scales.texture(patches.take(np.arange(len(patches))))


def _variances(patches: PatchSelection) -> NDArray[np.float64]:
    images = patches.take(np.arange(len(patches))) / np.float32(255)
    return images.var((1, 2), dtype=np.float64).mean(1) + pair.LEAST_ERROR


class _Reusable:
    """An autoencoder that is compiled once, for all trainings of a pair that take as many steps.

    Tracing the functions of a model takes longer than its training on these few patches.
    """

    def __init__(self, cae: Any, options: Any, patches: int):
        from histocae.networks import fused
        from histocae.training import loop, steps

        self.options = options
        self.training = loop.Compiled(cae, options, patches)
        self._reconstruct = steps.compiled(fused.fused_on_bytes(cae))
        self._encode = steps.compiled(fused.encoder_on_bytes(cae))

    def train(self, start: Any, patches: PatchSelection, validation: PatchSelection) -> None:
        """Train from the weights of an autoencoder."""
        from histocae.training import loop
        from histocae.training.checkpoint import State

        self.training.restart(start.model.get_weights())
        loop.train(
            self.training.cae,
            patches,
            validation,
            self.options,
            state=State(""),
            folder=None,
            fingerprint="",
            compiled=self.training,
        )

    def describe(
        self, patches: PatchSelection
    ) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
        """Compute the mean squared errors, the errors by scale and the latents of patches."""
        errors, by_scale, latents = [], [], []
        for batch in batches(patches, BATCH):
            residuals = batch / np.float32(255) - self._reconstruct(batch)
            errors.append(np.square(residuals).mean((1, 2, 3), dtype=np.float64))
            by_scale.append(scales.errors(residuals))
            latents.append(self._encode(batch).reshape(len(batch), -1))
        return np.concatenate(errors), np.concatenate(by_scale), np.concatenate(latents)


_reusable: dict[tuple[Configuration, int], _Reusable] = {}  # the last one


def _train_and_describe(
    configuration: Configuration,
    store: PatchStore,
    own: pd.DataFrame,
    validation: pd.DataFrame,
    parts: Parts,
    training: Training,
    seed: int,
) -> Described:
    """Train one model of a pair on its tissue, early stopping on its tissue's validation patches, and use it."""
    backend.repeatable(seed)
    import keras

    from histocae.training import loop

    model = configuration.model()
    fit = model.training(training)
    key = (configuration, -(-len(own) // fit.batch_size))
    if key not in _reusable:
        _reusable.clear()
        keras.backend.clear_session()
    start = recipe.start(model, fit, store.select(own), seed)
    if key not in _reusable:
        _reusable[key] = _Reusable(start, loop.Options.of(fit, seed), len(own))
    held_out = validation[validation["sample_type"] == own["sample_type"].iloc[0]]
    _reusable[key].train(start, store.select(own), store.select(held_out))
    images = store.select(pd.concat(parts.each))
    ends = np.cumsum([len(rows) for rows in parts.each])[:-1]
    errors, by_scale, latents = _reusable[key].describe(images)
    of_tissue = (parts.train["sample_type"] == own["sample_type"].iloc[0]).to_numpy()
    return Described(
        np.split(errors, ends)[1:],
        np.split(by_scale, ends),
        np.split(latents, ends),
        distances.fit(latents[: len(of_tissue)][of_tissue]),
    )


def scores_of(task: Task) -> Scores:
    """Read the scores that a task has kept."""
    count = len(divided(task.data, task.deal)[task.fold]["validation"])
    with np.load(task.file) as kept:
        return {name: (kept[name][:count], kept[name][count:]) for name in kept.files}


def tasks(data: list[str], deals: int, folds: int, configurations: list[Configuration]) -> Iterator[Task]:
    """List the first folds of the first deals of data sets, with each pair and with the baselines."""
    pairs = (None, *configurations)
    for each, configuration, deal, fold in itertools.product(data, pairs, range(deals), range(folds)):
        yield Task(each, deal, fold, configuration)


def run(planned: list[Task], label: str) -> None:
    """Work on the tasks whose scores are not kept yet, a process for each core."""
    left = [task for task in planned if not task.file.is_file()]
    processes = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    # a new process for every few pairs, since TensorFlow does not give back all memory of a training
    with (
        context.Pool(processes, _start, maxtasksperchild=PER_PROCESS) as pool,
        tqdm(total=len(left), desc=label, unit="pairs") as bar,
    ):
        for _ in pool.imap_unordered(work, left):
            bar.update()


def _start() -> None:
    """Give TensorFlow one thread: two processes with a thread each train faster than one with two."""
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    backend.start()
