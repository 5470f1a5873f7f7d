"""The last finished training of each model, kept beside the outputs until DVC has recorded it.

DVC deletes the outputs of a stage before it runs the stage, and records them in dvc.lock afterwards. Where it is
killed in between, the next `dvc repro` deletes a finished training. Without a second copy it would train again, and
MLflow would get a second run of the same training.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from histocae import paths
from histocae.asides import recover
from histocae.errors import TrackingError
from histocae.files import replacing, replacing_folder
from histocae.pipeline import dvc_state
from histocae.tracking.record import TrainingRecord


def keep(record: TrainingRecord) -> None:
    """Keep the files of a finished training; as hard links they take no space.

    Args:
        record: of the training.

    Raises:
        TrackingError: another process deletes the files.

    """
    try:
        _copy(record, _kept(record))
    except (FileNotFoundError, shutil.Error):  # the dvc that started this stage was killed, and another one began
        if record.folder.exists() and record.file.exists():
            raise
        raise TrackingError(
            f"{record.folder} was deleted while its training ended; the next {record.command} completes it"
        ) from None


def is_done(record: TrainingRecord, describe: Callable[[], dict[str, Any]], since: float | None) -> bool:
    """Check whether a training is done: by a process that was waited for, or before DVC was killed.

    Args:
        record: of the training. What DVC has deleted of it is restored.
        describe: returns the description of the training, as `recipe.describe` does.
        since: when the wait began, in seconds since 1970; None where no other process was training the model.

    Returns:
        Whether the outputs are there and are those of this training.

    """
    if since is not None and record.is_of(describe()):
        done = bool(record.run["end"] >= int(1000 * since))
    else:
        done = _is_restored(record, describe)
    if done:  # a process that was killed after its last step left it
        shutil.rmtree(record.layout.checkpoints / record.name, ignore_errors=True)
    return done


def _is_restored(record: TrainingRecord, describe: Callable[[], dict[str, Any]]) -> bool:
    """Restore the kept training if DVC has deleted its outputs before it recorded them."""
    kept = _kept(record)
    recover(kept.folder)
    # by hand, a command always trains; and so does `dvc repro --force`, since the kept training is recorded
    if "DVC_STAGE" not in os.environ or not kept.file.exists() or _is_recorded(record):
        return False
    if is_same := kept.is_of(describe()):
        _copy(kept, record)
    return is_same


def _kept(record: TrainingRecord) -> TrainingRecord:
    folder = paths.SCRATCH / "finished"
    return type(record)(record.name, record.layout._replace(trained=folder / "trained", runs=folder / "runs"))


def _is_recorded(record: TrainingRecord) -> bool:
    """Check whether dvc.lock has the kept training as the output of its stage."""
    md5 = hashlib.md5(_kept(record).file.read_bytes(), usedforsecurity=False).hexdigest()
    return dvc_state.recorded_md5(f"train@{record.name}").get(record.file) == md5


def _copy(source: TrainingRecord, target: TrainingRecord) -> None:
    """Copy the folder, then the file of the run: a training is complete with both."""
    with replacing_folder(target.folder) as folder:
        shutil.copytree(source.folder, folder, copy_function=_link, dirs_exist_ok=True)
    with replacing(target.file, "wb") as handle:
        handle.write(source.file.read_bytes())


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copy2(source, Path(target))
