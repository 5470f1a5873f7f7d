"""The checkpoint from which a killed training resumes."""

import logging
import math
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras

from histocae.files import read_json_or_none, write_json

log = logging.getLogger(__name__)


@dataclass
class State:
    """Progress of a training; with the weights beside it, all that the training needs to resume.

    Attributes:
        training_id: name of this training, which stays the same when it resumes.
        start: when the training first began, in milliseconds since 1970.
        rows: for each epoch: epoch (from 1), loss, validation_loss (means over patches).
        stamps: when each epoch ended, in milliseconds since 1970.
        best: the least validation loss.
        best_epoch: its epoch.
        seconds: training time, over all resumptions.

    """

    training_id: str
    start: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = 0
    seconds: float = 0.0


def save(model: keras.Model, state: State, folder: Path, fingerprint: str, better: bool) -> None:
    """Write the weights and the optimizer's state of an epoch, then the state that names their file.

    Args:
        model: compiled with the optimizer.
        state: of the training.
        folder: of the checkpoint.
        fingerprint: of all that the training depends on.
        better: whether this epoch is the best one so far.

    """
    folder.mkdir(parents=True, exist_ok=True)
    epoch = len(state.rows)
    aside = folder / "aside.weights.h5"
    model.save_weights(aside)
    with open(aside, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(aside, folder / f"last-{epoch}.weights.h5")
    if better:
        shutil.copyfile(folder / f"last-{epoch}.weights.h5", folder / f"best-{epoch}.weights.h5")
    write_json({"fingerprint": fingerprint, **asdict(state)}, folder / "state.json")
    needed = {f"last-{epoch}.weights.h5", f"best-{state.best_epoch}.weights.h5"}
    for old in folder.glob("*.weights.h5"):
        if old.name not in needed:
            old.unlink()


def restore(model: keras.Model, folder: Path, fingerprint: str) -> State | None:
    """Load the checkpoint of the same training, and delete that of any other.

    Args:
        model: compiled with the optimizer; gets weights and the optimizer's state.
        folder: of the checkpoint.
        fingerprint: of all that the training depends on.

    Returns:
        The state of the training, or None where there is no usable checkpoint.

    """
    saved = read_json_or_none(folder / "state.json") or {}
    if saved.pop("fingerprint", None) != fingerprint:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    state = State(**saved)
    try:
        model.load_weights(folder / f"last-{len(state.rows)}.weights.h5")
    except (OSError, ValueError) as error:
        log.warning("%s: checkpoint not usable (%s); the training starts from the first epoch", folder, error)
        shutil.rmtree(folder)
        return None
    log.info("resuming after epoch %d, from %s", len(state.rows), folder)
    return state
