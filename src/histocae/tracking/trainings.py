"""Train a model, write its files, and deliver its run."""

import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from histocae import checksums, paths
from histocae.errors import TrackingError
from histocae.files import replacing_folder, write_json, write_table
from histocae.networks import saved
from histocae.networks.cae import CAE
from histocae.networks.losses import Loss
from histocae.params import Fit
from histocae.patches.images import Images
from histocae.tracking import finished
from histocae.tracking.live import train_live
from histocae.tracking.record import TrainingRecord
from histocae.training import recipe
from histocae.training.loop import Options

log = logging.getLogger(__name__)


def fit_and_keep(
    cae: CAE,
    description: dict[str, Any],
    patches: dict[str, Images],
    *,
    fit: Fit,
    seed: int,
    record: TrainingRecord,
    experiment: str,
    devices: int = 1,
    loss: Loss | None = None,
) -> None:
    """Train a CAE, write its folder and its run's file, and deliver its run.

    Args:
        cae: before its first epoch; it ends with the weights of its best epoch.
        description: of the training, by `recipe.describe`.
        patches: `train` and `validation`.
        fit: how to train.
        seed: of the order of patches, and of their augmentation.
        record: of the training; files that are there are replaced.
        experiment: of MLflow.
        devices: number of devices that share each batch; see `mirrored.count`.
        loss: of patches; None for the one that the autoencoder names.

    Raises:
        TrainingError: the loss is no longer a number.

    """
    name, layout = record.name, record.layout
    tensorboard = Path("logs") / name if fit.tensorboard else None
    options = Options.of(fit, seed, tensorboard=tensorboard, devices=devices, loss=loss)
    checkpoint = layout.checkpoints / name
    state, run = train_live(
        cae,
        patches,
        options,
        checkpoint=checkpoint,
        description=description,
        experiment_name=experiment,
        name=record.label,
        command=record.command,
    )
    training = description | {
        "epochs": len(state.rows),
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "parameters": cae.model.count_params(),
        "latent_features": cae.params["latent_features"],
        "latent_size": math.prod(cae.encoder.output_shape[1:]),
        "patches": {split: len(images) for split, images in patches.items()},
    }
    with replacing_folder(layout.trained / name) as folder:
        cae.save_into(folder)
        write_table(pd.DataFrame(state.rows), folder / "history.csv")
        shutil.copytree(checkpoint / "samples", folder / "samples")
        weights = saved.weights_fingerprint(folder)
        write_json({**training, "weights": weights}, folder / recipe.FILE)
        checksums.write(folder)
    write_json({**run, "weights": weights}, layout.runs / f"{name}.json")
    record = replace(record)  # without what it has read of a former training
    _deliver(record, experiment)
    if layout == paths.MAIN:  # DVC keeps those of other layouts
        finished.keep(record)
    shutil.rmtree(checkpoint)


def _deliver(record: TrainingRecord, experiment: str) -> None:
    """Complete the run; where the server is unreachable or slow, register or publish does it later."""
    from histocae.tracking.delivery import deliver  # it needs MLflow, which the live run imports during the training

    try:
        run, _ = deliver(record, experiment, patient=False)
    except TrackingError as error:
        log.warning("%s; the training is saved under models/, and `%s` delivers it later", error, record.publishes)
        return
    if run.info.run_id != record.run["run_id"]:
        write_json({**record.run, "run_id": run.info.run_id}, record.layout.runs / f"{record.name}.json")
