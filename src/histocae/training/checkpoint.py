"""The checkpoint from which a killed training resumes.

Its state lists the hashes of its other files, and has a hash of itself. A damaged checkpoint is moved aside, and the
training starts anew. One that can't be read now, such as on a network drive that fails, stays: the training stops.
"""

import json
import logging
import math
import os
import shutil
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from histocae.errors import TrainingError, one_line, raise_if_machine
from histocae.files import fingerprint as hash_of
from histocae.files import read_json_or_none, sha256_once, write_json
from histocae.networks import weights

_STATE = "state.json"
_BEGUN = "begun.json"  # the name of the training, before its first epoch is complete
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

    @property
    def last_file(self) -> str:
        """Name of the file with the weights of the last epoch and the optimizer's state."""
        return f"last-{len(self.rows)}.weights.h5"

    @property
    def best_file(self) -> str:
        """Name of the file with those of the best epoch."""
        return f"best-{self.best_epoch}.weights.h5"


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
    last, best = folder / state.last_file, folder / state.best_file
    aside = folder / "aside.weights.h5"
    weights.save(model, aside)
    with open(aside, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(aside, last)
    if better:
        shutil.copyfile(last, best)
    files = [last, best, *sorted(folder.glob("samples/*"))]
    hashes = {file.relative_to(folder).as_posix(): sha256_once(file) for file in files}
    content = {"fingerprint": fingerprint, "files": hashes, "state": asdict(state)}
    write_json({**content, "sha256": hash_of(content)}, folder / _STATE)
    for old in folder.glob("*.weights.h5"):
        if old not in (last, best):
            old.unlink()


def restore(model: keras.Model, folder: Path, fingerprint: str) -> State | None:
    """Load the checkpoint of the same training; delete that of any other, and move one aside that is damaged.

    Args:
        model: compiled with the optimizer; gets weights and the optimizer's state.
        folder: of the checkpoint.
        fingerprint: of all that the training depends on.

    Returns:
        The state of the training, or None where there is no usable checkpoint; the model is unchanged then.

    Raises:
        OSError: the checkpoint can't be read now; it stays as it is.

    """
    try:
        state = _restored(model, folder, fingerprint)
    except TrainingError as error:
        damaged = folder.with_name(f".{folder.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        os.replace(folder, damaged)
        log.warning("%s; the training starts from the first epoch, and %s may be deleted", error, damaged)
        return None
    if state is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        log.info("resuming after epoch %d, from %s", len(state.rows), folder)
    return state


def _restored(model: keras.Model, folder: Path, fingerprint: str) -> State | None:
    """Load the checkpoint of the same training; None where there is none, or one of another training."""
    content = _read(folder)
    if content is None or content["fingerprint"] != fingerprint:
        return None
    _check(folder, content["files"])
    state = State(**content["state"])
    _load(model, folder / state.last_file)
    return state


def resume(model: keras.Model, fresh: State, folder: Path, fingerprint: str) -> State:
    """Return the state with which a training goes on: of its checkpoint, else a new one.

    A training that was killed in its first epoch keeps its name. Else its run would be left behind as RUNNING.

    Args:
        model: compiled with the optimizer; gets weights and the optimizer's state of the checkpoint.
        fresh: state of a new training.
        folder: of the checkpoint.
        fingerprint: of all that the training depends on.

    Returns:
        The state.

    """
    begun = None if (folder / _STATE).exists() else read_json_or_none(folder / _BEGUN)
    state = restore(model, folder, fingerprint)
    if state is not None:
        return state
    if isinstance(begun, dict) and begun.get("fingerprint") == fingerprint:
        name, start = begun.get("training_id"), begun.get("start")
        if isinstance(name, str) and isinstance(start, int):
            fresh = replace(fresh, training_id=name, start=start)
    begun = {"fingerprint": fingerprint, "training_id": fresh.training_id, "start": fresh.start}
    write_json(begun, folder / _BEGUN)
    return fresh


def load_best(model: keras.Model, state: State, folder: Path) -> None:
    """Load the weights of the best epoch of a training that ends.

    Args:
        model: gets the weights.
        state: of the training.
        folder: of its checkpoint.

    Raises:
        TrainingError: the checkpoint is damaged.
        OSError: it can't be read now.

    """
    content = _read(folder)
    if content is None:
        raise TrainingError(f"{folder / _STATE}: deleted during the training; run this again")
    _check(folder, content["files"])
    _load(model, folder / state.best_file)


def _read(folder: Path) -> dict[str, Any] | None:
    """Read the state's file, if it is what was saved; None where there is none."""
    file = folder / _STATE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        whole = content.pop("sha256") == hash_of(content)
    except FileNotFoundError:
        return None
    except (IsADirectoryError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise TrainingError(f"{file}: checkpoint not usable: {one_line(error)}") from None
    if not whole:
        raise TrainingError(f"{file}: checkpoint not usable: changed since it was saved")
    return dict(content)


def _check(folder: Path, hashes: dict[str, str]) -> None:
    """Check that the files of a checkpoint are those that were saved."""
    for name, expected in hashes.items():
        try:
            found = sha256_once(folder / name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TrainingError(f"{folder / name}: checkpoint not usable: {error.strerror}") from None
        if found != expected:
            raise TrainingError(f"{folder / name}: checkpoint not usable: changed since it was saved")


def _load(model: keras.Model, file: Path) -> None:
    """Load weights and the optimizer's state; where that fails, the model stays as it was."""
    variables = [*model.variables, *model.optimizer.variables]
    before = [variable.numpy() for variable in variables]
    try:
        with warnings.catch_warnings():
            # about layers that the file lacks; only Keras', since another thread may be importing MLflow
            warnings.filterwarnings("error", category=UserWarning, module="keras")
            model.load_weights(file)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise_if_machine(error)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        raise TrainingError(f"{file}: checkpoint not usable: {one_line(error)}") from None
