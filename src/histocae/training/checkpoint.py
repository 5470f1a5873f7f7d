"""What a killed training resumes from."""

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
    """What a training has done so far; with the weights beside it, all it needs to go on.

    Attributes:
        training_id: a name for this training that survives its resumption.
        start: when it first began, milliseconds since 1970.
        rows: per epoch: epoch (from 1), loss, validation_loss (means over patches).
        stamps: when each epoch ended, milliseconds since 1970.
        best, best_epoch: the least validation loss and its epoch.
        seconds: spent in training, over all resumptions.

    """

    training_id: str
    start: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = 0
    seconds: float = 0.0


def save(model: keras.Model, state: State, folder: Path, fingerprint: str, better: bool) -> None:
    """Write weights with the optimizer's state under the epoch's name, then the state that names them."""
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
    """Take up a checkpoint of the same training; drop any other."""
    saved = read_json_or_none(folder / "state.json") or {}
    if saved.pop("fingerprint", None) != fingerprint:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    state = State(**saved)
    try:
        model.load_weights(folder / f"last-{len(state.rows)}.weights.h5")
    except (OSError, ValueError) as error:
        log.warning("%s: not usable (%s); training starts over", folder, error)
        shutil.rmtree(folder)
        return None
    log.info("going on after epoch %d, from %s", len(state.rows), folder)
    return state
