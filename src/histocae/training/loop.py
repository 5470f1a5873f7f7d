"""The training loop of a CAE on uint8 patches.

A training is seeded, resumes after it was killed, stops early and keeps the weights of its best epoch.
Patches stay uint8 until they are on the device, where the model's first layer and the loss scale them
to [0, 1].
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from histocae.errors import TrainingError
from histocae.networks.cae import CAE
from histocae.networks.fused import fused_on_bytes
from histocae.networks.losses import Loss
from histocae.patches.images import Images
from histocae.training import checkpoint, mirrored, steps
from histocae.training.batches import Batches
from histocae.training.checkpoint import State

# a machine that only trains may have Keras and a backend alone, without pydantic
if TYPE_CHECKING:
    from histocae.params import Denoise, Fit

log = logging.getLogger(__name__)
WARMUP_STEPS = 60


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a training; `params.Training` reads most of them from params.yaml.

    Attributes:
        epochs: of the whole training.
        batch_size: in patches.
        patience: epochs without a better validation loss after which the training stops.
        optimizer: name of a Keras optimizer.
        learning_rate: at its highest.
        seed: of the order of patches, and of their random changes.
        schedule: constant | cosine.
        clip_norm: largest norm of the gradient of all weights together; longer ones are scaled down. None: no limit.
        augment: whether patches are turned and mirrored at random.
        denoise: how inputs are shifted, or None.
        picture_every: epochs between two images of reconstructions.
        tensorboard: folder for TensorBoard's logs, or None.
        precision: float32 | bfloat16; see `fused.fused_on_bytes`.
        devices: number of this machine's devices that share each batch; see `mirrored.count`.
        loss: of floats in [0, 1], per patch; None for the one that the autoencoder names.

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
    loss: Loss | None = None

    @classmethod
    def of(
        cls,
        fit: "Fit",
        seed: int,
        *,
        tensorboard: Path | None = None,
        devices: int = 1,
        loss: Loss | None = None,
    ) -> "Options":
        """Return the options that params.yaml sets for a model.

        Args:
            fit: the training settings of the model.
            seed: of the params.
            tensorboard: folder for TensorBoard's logs, or None.
            devices: number of this machine's devices that share each batch.
            loss: of patches; None for the one that the autoencoder names.

        Returns:
            The options.

        """
        return cls(
            epochs=fit.epochs,
            batch_size=fit.batch_size,
            patience=fit.patience,
            optimizer=fit.optimizer,
            learning_rate=fit.learning_rate,
            seed=seed,
            schedule=fit.schedule,
            clip_norm=fit.clip_norm,
            augment=fit.augment,
            denoise=fit.denoise,
            picture_every=fit.picture_every,
            tensorboard=tensorboard,
            precision=fit.precision,
            devices=devices,
            loss=loss,
        )

    def shows(self, epoch: int) -> bool:
        """Decide whether an image of an epoch's reconstructions is written: the first, every n-th, the last."""
        return epoch == 1 or epoch % self.picture_every == 0 or epoch == self.epochs


@dataclass(frozen=True)
class Callbacks:
    """Functions that a training calls on its way; by default nothing happens.

    Attributes:
        on_start: called with the state before the first epoch, or before the next one of a resumed training.
        on_epoch: called with the state after each epoch, before the checkpoint is written; the autoencoder has
            the weights of that epoch. The files that it writes exist once the checkpoint counts the epoch.
        on_saved: called with the state once the checkpoint is written. A training that is killed in between
            resumes without this call.
        bar: makes a progress bar from (None, label, unit, total); see `progress.bar`.

    """

    on_start: Callable[[State], None] = lambda _: None
    on_epoch: Callable[[State], None] = lambda _: None
    on_saved: Callable[[State], None] = lambda _: None
    bar: Callable[[None, str, str, int], AbstractContextManager[Any]] = lambda *_: nullcontext()


SILENT = Callbacks()


class Compiled:
    """An autoencoder with its optimizer and its steps. Several trainings can use it, one after the other.

    Compiling takes seconds, which is longer than many a training on a small cohort.
    """

    def __init__(self, cae: CAE, options: Options, patches: int):
        """Build the model and the optimizer; the steps are compiled when they are first used.

        Args:
            cae: trained in place by each training.
            options: of each training.
            patches: number of training patches, on which the learning rate schedule depends.

        """
        self.cae = cae
        self.model = fused_on_bytes(cae, options.precision)
        self.optimizer = _optimizer(options, math.ceil(patches / options.batch_size))
        self.model.compile(optimizer=self.optimizer)  # Keras saves the optimizer's state with the weights
        self.optimizer.build(self.model.trainable_variables)
        self._options = options
        self._first = [keras.ops.convert_to_numpy(variable) for variable in self.optimizer.variables]

    @cached_property
    def engine(self) -> steps.Steps:
        """The steps."""
        return _engine(self.cae, self.model, self.optimizer, self._options)

    def restart(self, weights: list[NDArray[np.float32]]) -> None:
        """Set the weights that the next training starts with, and the optimizer to its own start."""
        self.cae.model.set_weights(weights)
        for variable, value in zip(self.optimizer.variables, self._first, strict=True):
            variable.assign(value)


def _ignore(_: int) -> None:
    pass


def train(
    cae: CAE,
    patches: Images,
    validation: Images,
    options: Options,
    *,
    state: State,
    folder: Path | None,
    fingerprint: str,
    callbacks: Callbacks = SILENT,
    compiled: Compiled | None = None,
) -> State:
    """Train a CAE until all epochs are done or the validation loss stops improving.

    Args:
        cae: trained in place; ends with the weights of its best epoch.
        patches: to learn from.
        validation: patches whose loss decides when to stop and which weights are best.
        options: of the training.
        state: a new state; the checkpoint's state replaces it where `folder` has one of the same fingerprint.
        folder: of the checkpoint from which a killed training resumes; written after each epoch. None for a short
            training without one.
        fingerprint: of all that the training depends on.
        callbacks: called on the way.
        compiled: of `cae`, of the same options and of as many patches; None to compile it for this training.

    Returns:
        The state at the training's end.

    Raises:
        TrainingError: a loss is not finite; the message names epoch and step. Or the checkpoint is damaged while
            the training runs.

    """
    compiled = Compiled(cae, options, len(patches)) if compiled is None else compiled
    model = compiled.model
    if folder is not None:
        state = checkpoint.resume(model, state, folder, fingerprint)
    best = [] if folder is not None else model.get_weights()
    engine = compiled.engine
    callbacks.on_start(state)
    board = _Board(options.tensorboard / state.training_id) if options.tensorboard else None
    held_out = Batches(validation, options.batch_size, None)
    learns = bool(model.trainable_variables)
    loaded = learns and not options.augment and options.denoise is None and engine.load(patches, None)
    epochs = options.epochs if learns else 1  # weights that are not trained are measured once
    while len(state.rows) < epochs and len(state.rows) - state.best_epoch < options.patience:
        epoch = len(state.rows) + 1
        start = time.perf_counter()
        batches = Batches(
            patches,
            options.batch_size,
            options.seed,
            epoch,
            augment=options.augment and learns,
            denoise=_denoising(options, epoch) if learns else None,
        )
        with callbacks.bar(None, f"epoch {epoch}", "batches", len(batches)) as progress:
            advance = _ignore if progress is None else progress.update
            loss = learn(engine, batches, epoch, loaded, advance) if learns else _evaluate(engine, batches)
        engine.settle()
        row = {"epoch": epoch, "loss": loss, "validation_loss": _evaluate(engine, held_out)}
        if not math.isfinite(row["validation_loss"]):
            raise TrainingError(f"validation loss is {row['validation_loss']} after epoch {epoch}{_REMEDY}")
        state.rows.append(row)
        state.stamps.append(int(time.time() * 1000))
        state.seconds += time.perf_counter() - start
        better = row["validation_loss"] < state.best
        if better:
            state.best, state.best_epoch = row["validation_loss"], epoch
        callbacks.on_epoch(state)
        if folder is not None:
            checkpoint.save(model, state, folder, fingerprint, better)
        elif better:
            best = model.get_weights()
        log.info(
            "epoch %d/%d: loss %.5f, validation loss %.5f, %.1f s",
            epoch,
            epochs,
            row["loss"],
            row["validation_loss"],
            time.perf_counter() - start,
        )
        callbacks.on_saved(state)
        if board is not None:
            board.write(row)
    if folder is not None:
        checkpoint.load_best(model, state, folder)
    else:
        model.set_weights(best)
    return state


def _denoising(options: Options, epoch: int) -> tuple[int, float, float] | None:
    """Compute the argument of `Batches`: the share of shifted inputs falls linearly from 1 to 0."""
    if options.denoise is None:
        return None
    first, last = (max(0.0, 1 - done / (options.epochs * options.denoise.until)) for done in (epoch - 1, epoch))
    return options.denoise.shift, first, last


def _optimizer(options: Options, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Make the optimizer with its learning rate schedule."""
    rate: float | keras.optimizers.schedules.LearningRateSchedule = options.learning_rate
    if options.schedule == "cosine":
        # down to 0 along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)
        total = options.epochs * steps_per_epoch
        warmup = min(WARMUP_STEPS, total // 10)
        rising = {"warmup_target": rate, "warmup_steps": warmup} if warmup else {}
        rate = keras.optimizers.schedules.CosineDecay(0.0 if warmup else rate, total - warmup, **rising)
    # not `clipnorm`: it would clip the gradient of each weight tensor alone, and so change the direction of the step
    config = {"learning_rate": rate, "global_clipnorm": options.clip_norm}
    return steps.optimizer(options.optimizer, config)


def _engine(cae: CAE, model: keras.Model, optimizer: keras.optimizers.Optimizer, options: Options) -> steps.Steps:
    """Compile the steps of a model for one device or for several."""
    loss = cae.params["lossfn"] if options.loss is None else options.loss
    if options.devices == 1:
        return steps.make(model, optimizer, loss)

    def build() -> keras.Model:
        return fused_on_bytes(CAE(**cae.params), options.precision)

    return mirrored.Mirrored(build, model, optimizer, loss, options.devices)


_REMEDY = "; try a lower learning_rate"


def learn(engine: steps.Steps, batches: Batches, epoch: int, loaded: bool, advance: Callable[[int], object]) -> float:
    """Take all steps of an epoch.

    Args:
        engine: the compiled steps.
        batches: of the epoch.
        epoch: its number, for the error message.
        loaded: whether the patches are on the device; see `Steps.load`.
        advance: called with the number of steps that were taken.

    Returns:
        The mean loss of all patches, each computed before the step that learns from its batch.

    Raises:
        TrainingError: a loss is not finite; the message names epoch and step.

    """
    total = 0.0
    for run, losses in _steps(engine, batches, loaded):
        if not np.isfinite(losses).all():
            first = int(np.argmin(np.isfinite(losses)))
            raise TrainingError(f"loss is {losses[first]} in epoch {epoch}, step {run[first] + 1}{_REMEDY}")
        total += losses.sum() * batches.positions(run).shape[1]
        advance(len(run))
    return float(total / batches.patches)


def _steps(engine: steps.Steps, batches: Batches, loaded: bool) -> Iterator[tuple[range, NDArray[np.float64]]]:
    """Take all steps, run by run, and yield their losses.

    The losses of a run are read after the next run has started, so that the device does not wait for the host.
    """
    runs = batches.chunks(steps.in_a_call(engine, batches.bytes_each))
    started: tuple[range, Any] | None = None
    for run, losses in zip(runs, _started(engine, batches, loaded, runs), strict=True):
        if started is not None:
            yield started[0], np.asarray(started[1], np.float64)
        started = run, losses
    if started is not None:
        yield started[0], np.asarray(started[1], np.float64)


def _started(engine: steps.Steps, batches: Batches, loaded: bool, runs: list[range]) -> Iterator[Any]:
    """Start the runs in order, and yield their losses, which the device may still be computing."""
    if loaded:
        yield from (engine.learn_loaded(positions) for positions in steps.ahead(map(batches.positions, runs)))
    else:
        yield from (engine.learn(*both) for both in steps.ahead(map(batches.stacked, runs)))


def _evaluate(engine: steps.Steps, batches: Batches) -> float:
    """Compute the mean loss over the patches of all batches."""
    inputs = (batch for batch, _ in steps.ahead(batches[i] for i in range(len(batches))))
    losses = [(engine.evaluate(batch), len(batch)) for batch in inputs]
    # read after all batches have started, so that the device does not wait for the host between them
    return sum(float(loss) * count for loss, count in losses) / batches.patches


class _Board:
    """Curves for TensorBoard, one folder per training; a resumed training adds to its own."""

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
