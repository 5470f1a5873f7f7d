"""Stage train: one model, one MLflow run."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocae import paths
from histocae.cohort.balance import read_rows_for_model
from histocae.networks import backend
from histocae.params import Params
from histocae.patches.images import Images
from histocae.patches.store import PatchStore
from histocae.training import recipe

if TYPE_CHECKING:  # keras takes seconds to load
    from histocae.networks.cae import CAE

log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Train a model on the pipeline's split.

    Args:
        params: of the pipeline.
        name: of the model.

    """
    backend.start()
    train(params, name, paths.MAIN)


def is_done(params: Params, name: str, since: float | None) -> bool:
    """Check whether this training is done already; see `finished.is_done`.

    Args:
        params: of the pipeline.
        name: of the model.
        since: when this process began to wait for another one, in seconds since 1970; None where there was none.

    Returns:
        Whether the outputs are those of this training.

    """
    from histocae.tracking import finished
    from histocae.tracking.record import TrainingRecord

    def describe() -> dict[str, Any]:
        return recipe.describe(params, name, PatchStore(paths.PATCHES), paths.SPLITS, paths.TRAINED)

    return finished.is_done(TrainingRecord(name), describe, since)


def train(params: Params, name: str, layout: paths.Layout, description: dict[str, Any] | None = None) -> "CAE":
    """Train a model on a split, write its record and deliver its run; the backend is started.

    Args:
        params: of the pipeline.
        name: of the model.
        layout: where the tables of the split lie and the outputs go.
        description: what `recipe.describe` returns for this training; None where it is not known yet.

    Returns:
        The trained autoencoder.

    """
    from histocae.training.mirrored import count

    fit, devices = params.model(name).training(params.training), count(params.executor.devices)
    store = PatchStore(paths.PATCHES)
    if description is None:
        description = recipe.describe(params, name, store, layout.splits, layout.trained)
    # before the patches are read, so that a refusal does not wait for them
    loss = recipe.load_loss(params, name, store.pixels)
    patches = read(store, layout.splits, description)
    backend.repeatable(params.seed)
    from histocae.tracking.record import TrainingRecord
    from histocae.tracking.trainings import fit_and_keep

    cae = recipe.build(params, name, patches["train"], layout.trained)
    record = TrainingRecord(name, layout)
    fit_and_keep(
        cae,
        description,
        patches,
        fit=fit,
        seed=params.seed,
        record=record,
        experiment=params.tracking.experiment,
        devices=devices,
        loss=loss,
    )
    return cae


def read(store: PatchStore, splits: Path, description: dict[str, Any]) -> dict[str, Images]:
    """Select the patches that a model learns from.

    Args:
        store: all patches.
        splits: folder of the tables of the split.
        description: of the training; see `recipe.describe`.

    Returns:
        The patches of `train` and of `validation`.

    """
    patches: dict[str, Images] = {}
    for split in ("train", "validation"):
        selected = store.select(read_rows_for_model(splits / f"{split}.csv", description))
        log.info("%s: %d patches of %d slides", split, len(selected), selected.shards)
        patches[split] = selected
    return patches
