"""Stage train: one model, one MLflow run."""

import logging
from typing import TYPE_CHECKING

from histocae import paths
from histocae.cohort.balance import read_learnt
from histocae.networks import backend
from histocae.params import Params
from histocae.patches.store import Patches, PatchStore
from histocae.training import recipe

if TYPE_CHECKING:  # keras takes seconds to load
    from histocae.networks.cae import CAE

log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Train a model on the pipeline's split."""
    backend.start()
    train(params, name, paths.MAIN)


def train(params: Params, name: str, place: paths.Place) -> "CAE":
    """Train a model on a split, record it there, and deliver its run; the backend is started."""
    from histocae.training.mirrored import count

    own, devices = params.model(name).training(params.training), count(params.executor.devices)
    store = PatchStore(paths.PATCHES)
    patches = read(params, name, store, place)
    backend.repeatable(params.seed)
    from histocae.tracking.record import TrainingRecord
    from histocae.tracking.trainings import fit_and_keep

    cae, about = recipe.build(params, name, store, patches["train"], place.splits, place.trained)
    record = TrainingRecord(name, place)
    fit_and_keep(cae, about, patches, own, params.seed, record, params.tracking.experiment, devices)
    return cae


def read(params: Params, name: str, store: PatchStore, place: paths.Place) -> dict[str, Patches]:
    """Give the patches that a model learns from, of training and of validation."""
    about = recipe.describe(params, name, store, place.splits)
    patches = {}
    for split in ("train", "validation"):
        rows = read_learnt(place.splits / f"{split}.csv", about)
        patches[split] = store.select(rows)
        log.info("%s: %d patches of %d slides", split, len(rows), patches[split].shards)
    return patches
