"""Stage train: one model, one MLflow run."""

import logging
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from histocae import backend, paths, recipe
from histocae.cohorts import learnt_from, read_split
from histocae.errors import TrackingError
from histocae.files import fingerprint, replacing_folder, sha256, write_json, write_table
from histocae.params import Params
from histocae.store import PatchStore

if TYPE_CHECKING:  # keras takes seconds to load
    from histocae.model import CAE

log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Train a model on the pipeline's split."""
    backend.start()
    train(params, name, paths.MAIN)


def train(params: Params, name: str, place: paths.Place) -> "CAE":
    """Train a model on a split, record it there, and deliver its run; the backend is started."""
    own = params.model(name).training(params.training)
    store = PatchStore(paths.PATCHES)
    about = recipe.describe(params, name, store, place.splits)
    patches = {}
    for split in ("train", "validation"):
        rows = learnt_from(read_split(place.splits / f"{split}.csv"), about)
        patches[split] = store.select(rows)
        log.info("%s: %d patches of %d slides", split, len(rows), rows["slide_id"].nunique())
    backend.repeatable(params.seed)
    from histocae.tracking.live import train_live
    from histocae.training import Options

    cae, record = recipe.build(params, name, store, patches["train"], place.splits, place.trained)
    options = Options(
        own.epochs, own.batch_size, own.patience, own.optimizer, own.learning_rate, params.seed,
        own.schedule, own.clip_norm, own.augment, own.picture_every, Path("logs") / name if own.tensorboard else None,
    )  # fmt: skip
    checkpoint = place.checkpoints / name
    label = name if place.fold is None else f"{name} fold {place.fold}"
    state, about = train_live(cae, patches, options, checkpoint, record, params.tracking.experiment, label)
    record |= {
        "epochs": len(state.rows),
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "parameters": cae.model.count_params(),
        "latent_features": cae.params["latent_features"],
        "latent_size": math.prod(cae.encoder.output_shape[1:]),
        "patches": {split: len(some) for split, some in patches.items()},
    }
    with replacing_folder(place.trained / name) as folder:
        cae.save_into(folder)
        write_table(pd.DataFrame(state.rows), folder / "history.csv")
        shutil.copytree(checkpoint / "samples", folder / "samples")
        weights = fingerprint([sha256(file) for file in sorted(folder.glob("*.weights.h5"))])
        write_json({**record, "weights": weights}, folder / recipe.FILE)
    write_json({**about, "weights": weights}, place.runs / f"{name}.json")
    _deliver(params, name, place)
    shutil.rmtree(checkpoint)
    return cae


def _deliver(params: Params, name: str, place: paths.Place) -> None:
    """Complete the run now; where the server is away that is left to register or publish."""
    from histocae.tracking.delivery import deliver
    from histocae.tracking.record import Record

    record = Record(name, place)
    try:
        run, _ = deliver(record, params.tracking.experiment)
    except TrackingError as error:
        log.warning("%s; the training is safe under models/, `histocae publish` delivers it later", error)
        return
    if run.info.run_id != record.run["run_id"]:
        write_json({**record.run, "run_id": run.info.run_id}, place.runs / f"{name}.json")
