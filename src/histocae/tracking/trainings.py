"""A training from before its first epoch to its files and its delivered run."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from histocae.errors import TrackingError
from histocae.files import fingerprint, replacing_folder, sha256, write_json, write_table
from histocae.networks.cae import CAE
from histocae.params import Fit
from histocae.patches.images import Images
from histocae.tracking.live import train_live
from histocae.tracking.record import TrainingRecord
from histocae.training import recipe
from histocae.training.loop import Options

log = logging.getLogger(__name__)


def fit_and_keep(
    cae: CAE,
    about: dict[str, Any],
    patches: dict[str, Images],
    fit: Fit,
    seed: int,
    record: TrainingRecord,
    experiment: str,
    devices: int = 1,
) -> None:
    """Train a CAE, write its folder and its run's file, and deliver its run.

    Args:
        cae: as it is before the first epoch; ends with the weights of its best epoch.
        about: what `recipe.describe` tells of the training.
        patches: `train` and `validation`.
        fit: how to train.
        seed: of the order of patches, and of their turning.
        record: of what is to be written; what is there is replaced.
        experiment: of MLflow.
        devices: that share each batch; as `mirrored.count` gives it.

    Raises:
        TrainingError: the loss is no longer a number.

    """
    name, layout = record.name, record.layout
    options = Options(
        fit.epochs,
        fit.batch_size,
        fit.patience,
        fit.optimizer,
        fit.learning_rate,
        seed,
        fit.schedule,
        fit.clip_norm,
        fit.augment,
        fit.denoise,
        fit.picture_every,
        Path("logs") / name if fit.tensorboard else None,
        fit.precision,
        devices,
    )
    checkpoint = layout.checkpoints / name
    state, run = train_live(cae, patches, options, checkpoint, about, experiment, record.label, record.command)
    told = about | {
        "epochs": len(state.rows),
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "parameters": cae.model.count_params(),
        "latent_features": cae.params["latent_features"],
        "latent_size": math.prod(cae.encoder.output_shape[1:]),
        "patches": {split: len(some) for split, some in patches.items()},
    }
    with replacing_folder(layout.trained / name) as folder:
        cae.save_into(folder)
        write_table(pd.DataFrame(state.rows), folder / "history.csv")
        shutil.copytree(checkpoint / "samples", folder / "samples")
        weights = fingerprint([sha256(file) for file in sorted(folder.glob("*.weights.h5"))])
        write_json({**told, "weights": weights}, folder / recipe.FILE)
    write_json({**run, "weights": weights}, layout.runs / f"{name}.json")
    _deliver(record, experiment)
    shutil.rmtree(checkpoint)


def _deliver(record: TrainingRecord, experiment: str) -> None:
    """Complete the run now; where the server is away that is left to register or publish."""
    from histocae.tracking.delivery import deliver  # MLflow, which the live run loads while the training goes on

    try:
        run, _ = deliver(record, experiment)
    except TrackingError as error:
        log.warning("%s; the training is safe under models/, `%s` delivers it later", error, record.publishes)
        return
    if run.info.run_id != record.run["run_id"]:
        write_json({**record.run, "run_id": run.info.run_id}, record.layout.runs / f"{record.name}.json")
