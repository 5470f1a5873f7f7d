"""Stage train: one model, one MLflow run."""

import json
import logging
import shutil
import time
import uuid
from pathlib import Path

import pandas as pd

from histocae import backend, paths
from histocae.cohorts import read_split, select
from histocae.errors import TrackingError, TrainingError
from histocae.files import (
    code_fingerprint,
    fingerprint,
    replacing,
    replacing_folder,
    sha256,
    write_json,
    write_table,
)  # fmt: skip
from histocae.params import Params
from histocae.split import SPLITS
from histocae.store import SHARDS, Patches, PatchStore

CODE = ("backend", "model", "store", "training")
SAMPLES = 6
log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Train a model, record it under models/, and deliver its run."""
    model = params.model(name)
    store = PatchStore(paths.PATCHES)
    patches = {}
    for split in ("train", "validation"):
        rows = select(read_split(paths.SPLITS / f"{split}.csv"), model.cohort)
        patches[split] = store.select(rows)
        log.info("%s: %d patches of %d slides", split, len(rows), rows["slide_id"].nunique())
    record = _describe(params, name, store)
    backend.start()
    backend.repeatable(params.seed)
    from histocae.training import State

    cae = _build(params, name, store.pixels, record)
    state = State(training_id=str(uuid.uuid4()))
    start = int(time.time() * 1000)
    state = _fit(params, name, cae, patches, record, state, start)
    record |= {
        "epochs": len(state.rows),
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "parameters": cae.model.count_params(),
    }
    _write(name, cae, state, record)
    _deliver(params, name)
    shutil.rmtree(paths.CHECKPOINTS / name)


def _describe(params: Params, name: str, store: PatchStore) -> dict:
    """Tell all that the training depends on; the same input gives the same bytes."""
    model = params.model(name)
    about = params.model_dump(exclude={"models", "executor", "tracking"})
    about["training"] = model.training(params.training).model_dump()
    about["model"] = model.model_dump(exclude=set(about["training"])) | {"name": name}
    shards = sorted((store.folder / SHARDS).glob("*.json"))
    record = {
        "cohort": model.cohort,
        "model": model.model_dump(),
        "params": about,
        "splits": {split: sha256(paths.SPLITS / f"{split}.csv") for split in SPLITS},
    }
    record["made_from"] = fingerprint(
        [
            record["model"], about["training"], params.seed, record["splits"],
            [[path.name, sha256(path)] for path in shards], code_fingerprint(*CODE),
        ]
    )  # fmt: skip
    return record


def _build(params: Params, name: str, pixels: int, record: dict):
    """Build the autoencoder, from scratch or with another model's weights."""
    from histocae.model import CAE

    model = params.model(name)
    cae = CAE(
        (pixels, pixels, 3), model.latent_features, model.filters, model.kernel, model.stride, model.pool,
        optimizer=model.training(params.training).optimizer, lossfn=model.loss,
    )  # fmt: skip
    if model.init_from is not None:
        origin = paths.TRAINED / model.init_from
        told = f"models.{name}.init_from: {model.init_from}"
        try:
            trained = json.loads((origin / "training.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TrainingError(f"{told} is not trained; run dvc repro train@{model.init_from} first") from None
        if trained["made_from"] != _describe(params, model.init_from, PatchStore(paths.PATCHES))["made_from"]:
            raise TrainingError(
                f"{told} was trained with other params or data; run dvc repro train@{model.init_from} first"
            )
        other = CAE(path=origin, load=True)
        same = ("filters", "latent_features", "kernel")
        differing = [key for key in same if other.params[key] != cae.params[key]]
        if differing:
            raise TrainingError(f"{told} has other {' and '.join(differing)}; its weights do not fit")
        cae.model.set_weights(other.model.get_weights())
        record["made_from"] = fingerprint([record["made_from"], trained["weights"]])
    return cae


def _fit(params: Params, name: str, cae, patches: dict[str, Patches], record: dict, state, start: int):
    """Train with a live run beside it; only the weights of the best epoch remain."""
    from histocae.tracking import record as records
    from histocae.tracking.live import LiveRun
    from histocae.training import Options, train

    own = params.model(name).training(params.training)
    options = Options(
        own.epochs, own.batch_size, own.patience, own.optimizer, own.learning_rate, params.seed
    )
    checkpoint = paths.CHECKPOINTS / name
    live: list[LiveRun] = []

    def on_start(state) -> None:
        tags = {**records.provenance(), "model": name, "cohort": record["cohort"]}
        live.append(LiveRun(params.tracking.experiment, name, state.training_id, start, tags))
        live[0].params(records.flat(record["params"]))

    def on_epoch(state) -> None:
        row, stamp = state.rows[-1], state.stamps[-1]
        live[0].epoch(row, stamp)
        step = len(state.rows)
        if step == 1 or step % own.picture_every == 0 or step == own.epochs:
            path = checkpoint / "samples" / f"epoch_{step:03d}.png"
            _picture(cae, patches["validation"], path)
            live[0].picture(path, "reconstruction", step, stamp)

    callbacks = []
    if own.tensorboard:
        from keras.callbacks import TensorBoard

        callbacks.append(TensorBoard(Path("logs") / name))
    try:
        state = train(
            cae, patches["train"], patches["validation"], options, state, checkpoint,
            record["made_from"], on_start, on_epoch, callbacks,
        )  # fmt: skip
    except BaseException as error:
        if live:
            live[0].stop("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    live[0].stop(None)
    about = {
        "training_id": state.training_id, "run_id": live[0].run_id, "start": start,
        "end": int(time.time() * 1000), "seconds": round(state.seconds, 3), "stamps": state.stamps,
        "tags": records.provenance(),
    }  # fmt: skip
    write_json(about, paths.RUNS / f"{name}.json")
    return state


def _picture(cae, patches: Patches, path: Path) -> None:
    """Write a few validation patches above their reconstructions."""
    import numpy as np
    from PIL import Image

    from histocae.samples import mosaic, reconstruct

    originals = patches.take(np.linspace(0, len(patches) - 1, min(SAMPLES, len(patches))).astype(int))
    with replacing(path) as handle:
        Image.fromarray(mosaic(originals, reconstruct(cae, originals))).save(handle, "PNG")


def _write(name: str, cae, state, record: dict) -> None:
    with replacing_folder(paths.TRAINED / name) as folder:
        cae.save_into(folder)
        write_table(pd.DataFrame(state.rows), folder / "history.csv")
        shutil.copytree(paths.CHECKPOINTS / name / "samples", folder / "samples")
        weights = [sha256(file) for file in sorted(folder.glob("*.weights.h5"))]
        write_json({**record, "weights": fingerprint(weights)}, folder / "training.json")


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
