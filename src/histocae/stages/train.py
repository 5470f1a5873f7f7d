"""Stage train: one model, one MLflow run."""

import logging
import shutil
from pathlib import Path

import pandas as pd

from histocae import backend, paths, recipe
from histocae.cohorts import read_split, select
from histocae.errors import TrackingError
from histocae.files import fingerprint, replacing_folder, sha256, write_json, write_table
from histocae.params import Params
from histocae.store import PatchStore

log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Train a model, record it under models/, and deliver its run."""
    own = params.model(name).training(params.training)
    store = PatchStore(paths.PATCHES)
    patches = {}
    for split in ("train", "validation"):
        rows = select(read_split(paths.SPLITS / f"{split}.csv"), params.model(name).cohort)
        patches[split] = store.select(rows)
        log.info("%s: %d patches of %d slides", split, len(rows), rows["slide_id"].nunique())
    backend.start()
    backend.repeatable(params.seed)
    from histocae.tracking.live import train_live
    from histocae.training import Options

    cae, record = recipe.build(params, name, store, paths.SPLITS, paths.TRAINED)
    options = Options(
        own.epochs, own.batch_size, own.patience, own.optimizer, own.learning_rate, params.seed,
        own.picture_every, Path("logs") / name if own.tensorboard else None,
    )  # fmt: skip
    checkpoint = paths.CHECKPOINTS / name
    state, about = train_live(cae, patches, options, checkpoint, record, params.tracking.experiment, name)
    record |= {
        "epochs": len(state.rows),
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "parameters": cae.model.count_params(),
    }
    with replacing_folder(paths.TRAINED / name) as folder:
        cae.save_into(folder)
        write_table(pd.DataFrame(state.rows), folder / "history.csv")
        shutil.copytree(checkpoint / "samples", folder / "samples")
        weights = fingerprint([sha256(file) for file in sorted(folder.glob("*.weights.h5"))])
        write_json({**record, "weights": weights}, folder / recipe.FILE)
    write_json({**about, "weights": weights}, paths.RUNS / f"{name}.json")
    _deliver(params, name)
    shutil.rmtree(checkpoint)


def _deliver(params: Params, name: str) -> None:
    """Complete the run now; where the server is away that is left to register or publish."""
    from histocae.tracking.delivery import deliver
    from histocae.tracking.record import Record

    record = Record(name)
    try:
        run, _ = deliver(record, params.tracking.experiment)
    except TrackingError as error:
        log.warning("%s; the training is safe under models/, `histocae publish` delivers it later", error)
        return
    if run.info.run_id != record.run["run_id"]:
        write_json({**record.run, "run_id": run.info.run_id}, paths.RUNS / f"{name}.json")
