"""Training a CAE on uint8 patches: seeded, resumable, stopped early with the best weights kept.

Patches stay uint8 until they are on the device; the model's first layer and the loss
scale them to [0, 1].
"""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from histocae.errors import TrainingError
from histocae.files import write_json
from histocae.networks.cae import CAE
from histocae.networks.fused import on_bytes
from histocae.patches.store import Pictures
from histocae.training import mirrored, steps

# A machine that is lent for trainings alone may have keras and a backend, and no more
if TYPE_CHECKING:
    from histocae.params import Denoise

log = logging.getLogger(__name__)
WARMUP_STEPS = 60


@dataclass(frozen=True)
class Options:
    """How to train; `params.Training` says what each means.

    Attributes:
        tensorboard: folder for TensorBoard's logs, or None.
        precision: float32 | bfloat16; see `fused.on_bytes`.
        devices: of this machine that share each batch; see `mirrored.count`.

    """

    epochs: int
    batch_size: int
    patience: int
    optimizer: str
    learning_rate: float
    seed: int
    schedule: str = "constant"
    clip_norm: float | None = None
    augment: bool = False
    denoise: "Denoise | None" = None
    picture_every: int = 1
    tensorboard: Path | None = None
    precision: str = "float32"
    devices: int = 1

    def shows(self, epoch: int) -> bool:
        """Tell whether an epoch's reconstructions are pictured: the first, every n-th, the last."""
        return epoch == 1 or epoch % self.picture_every == 0 or epoch == self.epochs


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


class Batches:
    """Batches of uint8 patches in a shuffled order that depends on seed and epoch alone."""

    def __init__(
        self,
        patches: Pictures,
        batch_size: int,
        seed: int | None,
        epoch: int = 0,
        augment: bool = False,
        denoise: tuple[int, float, float] | None = None,
    ):
        """Prepare the batches of one epoch; `seed` None keeps the patches' order.

        With `augment` each patch comes in one of its eight turned and mirrored forms:
        slides have no upright. With `denoise` (pixels, and the shares at the epoch's start and
        end) so large a share of the inputs is shifted, by up to so many pixels each way.
        """
        self._patches, self._batch_size = patches, batch_size
        count = len(patches)
        self._order = np.arange(count) if seed is None else np.random.default_rng([seed, epoch]).permutation(count)
        self._forms = np.random.default_rng([seed, epoch, 1]).integers(8, size=count) if augment else None
        self._shifts = None
        if denoise is not None:
            pixels, *shares = denoise
            rng = np.random.default_rng([seed, epoch, 2])
            shifted = rng.random(count) < np.linspace(*shares, count)
            self._shifts = rng.integers(-pixels, pixels + 1, (count, 2)) * shifted[:, None]

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    @property
    def patches(self) -> int:
        """How many patches there are in all."""
        return len(self._order)

    @property
    def bytes_each(self) -> int:
        """Bytes of a whole batch."""
        return self._batch_size * math.prod(self._patches.shape)

    def positions(self, several: range) -> np.ndarray:
        """Give the positions of the patches of batches of one size, batches x patches."""
        which = self._order[several.start * self._batch_size : several.stop * self._batch_size]
        return which.reshape(len(several), -1)

    def chunks(self, most: int) -> list[range]:
        """Divide the batches into runs of at most so many, all of a run of one size."""
        whole = len(self._order) // self._batch_size
        runs = [range(start, min(start + most, whole)) for start in range(0, whole, most)]
        return runs + ([range(whole, whole + 1)] if whole < len(self) else [])

    def stacked(self, several: range) -> tuple[np.ndarray, np.ndarray]:
        """Give batches of one size as two arrays, batches x patches x height x width x channels."""
        if len(several) == 1:
            given, target = self[several.start]
            one = given[None]
            return one, one if target is given else target[None]
        given, target = zip(*(self[i] for i in several), strict=True)
        stacked = np.stack(target)
        return (stacked if self._shifts is None else np.stack(given)), stacked

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        which = slice(i * self._batch_size, (i + 1) * self._batch_size)
        batch = self._patches.take(self._order[which])
        if self._forms is not None:
            batch = _turned(batch, self._forms[which])
        given = batch if self._shifts is None else _shifted(batch, self._shifts[which])
        return given, batch


def _turned(batch: np.ndarray, forms: np.ndarray) -> np.ndarray:
    """Give each patch in one of its eight forms: bit 0 transposes, 1 and 2 mirror."""
    out = np.empty_like(batch)
    for form in range(8):
        some = batch[forms == form]
        some = some.swapaxes(1, 2) if form & 1 else some
        out[forms == form] = some[:, :: -1 if form & 2 else 1, :: -1 if form & 4 else 1]
    return out


def _shifted(batch: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Shift each patch by its own number of pixels (down, right); its border is repeated where it moved away."""
    most = int(np.abs(shifts).max(initial=0))
    if most == 0:
        return batch
    height, width = batch.shape[1:3]
    wide = np.pad(batch, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    out = np.empty_like(batch)
    for down, right in np.unique(shifts, axis=0):
        these = (shifts == (down, right)).all(axis=1)
        out[these] = wide[these, most - down : most - down + height, most - right : most - right + width]
    return out


def train(
    cae: CAE,
    patches: Pictures,
    validation: Pictures,
    options: Options,
    state: State,
    checkpoint: Path,
    fingerprint: str,
    on_start: Callable[[State], None] = lambda _: None,
    on_epoch: Callable[[State], None] = lambda _: None,
    on_saved: Callable[[State], None] = lambda _: None,
    bar: Callable[[None, str, str, int], AbstractContextManager] = lambda *_: nullcontext(),
) -> State:
    """Train until the epochs are over or validation stopped improving; keep the best weights.

    Args:
        cae: trained in place; ends with the weights of its best epoch.
        patches: to learn from.
        validation: whose loss decides when to stop and which weights are best.
        options: how.
        state: a fresh state; replaced by the one of `checkpoint` where that has the same
            fingerprint.
        checkpoint: folder of what a killed training goes on from, written after each epoch.
        fingerprint: of all that the training depends on.
        on_start: called with the state before the first (or next) epoch.
        on_epoch: called after each epoch, with the autoencoder at that epoch's weights. What
            it writes is there once the checkpoint says that the epoch is done.
        on_saved: called after that; a training killed in between goes on without this call.
        bar: makes a progress bar from (None, label, unit, total); see `progress.bar`.

    Raises:
        TrainingError: the loss is no longer a number.

    """
    model = on_bytes(cae, options.precision)
    optimizer = _optimizer(options, math.ceil(len(patches) / options.batch_size))
    model.compile(optimizer=optimizer)  # so that the optimizer's state is saved with the weights
    optimizer.build(model.trainable_variables)
    state = _restore(model, checkpoint, fingerprint) or state
    engine = _engine(cae, model, optimizer, options)
    on_start(state)
    board = _Board(options.tensorboard / state.training_id) if options.tensorboard else None
    held_out = Batches(validation, options.batch_size, None)
    learns = bool(model.trainable_variables)
    loaded = learns and not options.augment and options.denoise is None and engine.load(patches, None)
    epochs = options.epochs if learns else 1  # what was computed is measured once
    while len(state.rows) < epochs and len(state.rows) - state.best_epoch < options.patience:
        epoch = len(state.rows) + 1
        start = time.perf_counter()
        batches = Batches(
            patches,
            options.batch_size,
            options.seed,
            epoch,
            options.augment and learns,
            _denoising(options, epoch) if learns else None,
        )
        with bar(None, f"epoch {epoch}", "batches", len(batches)) as progress:
            advance = getattr(progress, "update", lambda _: None)
            loss = learn(engine, batches, epoch, loaded, advance) if learns else _judge(engine, batches)
        engine.settle()
        row = {"epoch": epoch, "loss": loss, "validation_loss": _judge(engine, held_out)}
        if not math.isfinite(row["validation_loss"]):
            raise TrainingError(f"validation loss is {row['validation_loss']} after epoch {epoch}{_REMEDY}")
        state.rows.append(row)
        state.stamps.append(int(time.time() * 1000))
        state.seconds += time.perf_counter() - start
        better = row["validation_loss"] < state.best
        if better:
            state.best, state.best_epoch = row["validation_loss"], epoch
        on_epoch(state)
        _save(model, state, checkpoint, fingerprint, better)
        log.info(
            "epoch %d/%d: loss %.5f, validation loss %.5f, %.1f s",
            epoch,
            epochs,
            row["loss"],
            row["validation_loss"],
            time.perf_counter() - start,
        )
        on_saved(state)
        if board is not None:
            board.write(row)
    model.load_weights(checkpoint / f"best-{state.best_epoch}.weights.h5")
    return state


def _denoising(options: Options, epoch: int) -> tuple[int, float, float] | None:
    """Give what `Batches` takes: the share of shifted inputs falls evenly from all to none."""
    if options.denoise is None:
        return None
    shares = [max(0.0, 1 - at / (options.epochs * options.denoise.until)) for at in (epoch - 1, epoch)]
    return options.denoise.shift, *shares


def _optimizer(options: Options, each_epoch: int) -> keras.optimizers.Optimizer:
    """Make the optimizer, with so many steps each epoch."""
    rate: float | keras.optimizers.schedules.LearningRateSchedule = options.learning_rate
    if options.schedule == "cosine":
        # down to 0 along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)
        total = options.epochs * each_epoch
        warmup = min(WARMUP_STEPS, total // 10)
        rising = {"warmup_target": rate, "warmup_steps": warmup} if warmup else {}
        rate = keras.optimizers.schedules.CosineDecay(0.0 if warmup else rate, total - warmup, **rising)
    config = {"learning_rate": rate, "clipnorm": options.clip_norm}
    return steps.optimizer(options.optimizer, config)


def _engine(cae: CAE, model: keras.Model, optimizer: keras.optimizers.Optimizer, options: Options) -> steps.Steps:
    """Compile the steps of a model on as many devices as the options tell."""
    if options.devices == 1:
        return steps.make(model, optimizer, cae.params["lossfn"])

    def build() -> keras.Model:
        return on_bytes(CAE(**cae.params), options.precision)

    return mirrored.Mirrored(build, model, optimizer, cae.params["lossfn"], options.devices)


_REMEDY = "; a lower learning_rate is the first thing to try"


def learn(engine: steps.Steps, batches: Batches, epoch: int, loaded: bool, advance: Callable[[int], object]) -> float:
    """Take all steps of an epoch; the mean loss of its patches, each before the step that it had a part in."""
    total = 0.0
    for run, losses in _steps(engine, batches, loaded):
        if not np.isfinite(losses).all():
            at = int(np.argmin(np.isfinite(losses)))
            raise TrainingError(f"loss is {losses[at]} in epoch {epoch}, step {run[at] + 1}{_REMEDY}")
        total += losses.sum() * batches.positions(run).shape[1]
        advance(len(run))
    return float(total / batches.patches)


def _steps(engine: steps.Steps, batches: Batches, loaded: bool) -> Iterator[tuple[range, np.ndarray]]:
    """Take all steps; yield their losses one run late, so that a device need not wait for them to be looked at."""
    runs = batches.chunks(steps.in_a_call(engine, batches.bytes_each))
    before: tuple[range, Any] | None = None
    coming = steps.ahead(map(batches.positions if loaded else batches.stacked, runs))
    for run, given in zip(runs, coming, strict=True):
        found = engine.learn_loaded(given) if loaded else engine.learn(*given)
        if before is not None:
            yield before[0], np.asarray(before[1], np.float64)
        before = run, found
    if before is not None:
        yield before[0], np.asarray(before[1], np.float64)


def _judge(engine: steps.Steps, batches: Batches) -> float:
    """Give the mean loss over the patches of all batches."""
    found = [(engine.judge(given), len(given)) for given, _ in steps.ahead(batches[i] for i in range(len(batches)))]
    # looked at when all are under way: a device does not wait for the host between them
    return sum(float(loss) * count for loss, count in found) / batches.patches


class _Board:
    """Curves for TensorBoard, one folder a training; a resumed one goes on in its own."""

    def __init__(self, folder: Path):
        import tensorflow

        self._summary = tensorflow.summary
        self._writers = {
            name: tensorflow.summary.create_file_writer(str(folder / part))
            for name, part in (("loss", "train"), ("validation_loss", "validation"))
        }

    def write(self, row: dict[str, float]) -> None:
        for name, writer in self._writers.items():
            with writer.as_default():
                self._summary.scalar("loss", row[name], step=int(row["epoch"]))
            writer.flush()


def _save(model: keras.Model, state: State, folder: Path, fingerprint: str, better: bool) -> None:
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


def _restore(model: keras.Model, folder: Path, fingerprint: str) -> State | None:
    """Take up a checkpoint of the same training; drop any other."""
    try:
        saved = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        saved = {}
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
