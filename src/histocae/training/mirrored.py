"""Steps of a training on several devices of one machine, by TensorFlow's MirroredStrategy.

Each device has the weights and learns from its part of a batch. What is optimised is what one device optimises:
a batch's loss and gradient are sums over its patches, each of which counts as it does in the whole; the gradient is
clipped and applied when it is whole. So losses and weights are those of one device but for rounding.
"""

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from histocae.errors import TrainingError
from histocae.patches.images import Images
from histocae.training import steps

log = logging.getLogger(__name__)


def devices() -> list[str]:
    """Name the devices that a training may use: TensorFlow's graphics cards, or its CPU; none of another backend."""
    if keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [one.name for one in found]


def count(asked: int | None) -> int:
    """Tell how many devices a training takes.

    Args:
        asked: how many it should take; None: all that are there (with another backend than TensorFlow: one).

    Raises:
        TrainingError: there are not as many, or the backend trains on one alone.

    """
    there = devices()
    if asked is None:
        return max(1, len(there))
    if asked > 1 and not there:
        told = f"executor.devices: {asked} asked for, and backend {keras.backend.backend()} trains on one"
        raise TrainingError(f"{told}; set it to 1, or KERAS_BACKEND=tensorflow")
    if asked > max(1, len(there)):
        told = f"executor.devices: {asked} asked for, and TensorFlow finds {', '.join(there)} alone"
        raise TrainingError(f"{told}; ask for fewer, or for all with null")
    return asked


def divided(batch: np.ndarray, parts: int) -> np.ndarray:
    """Divide a batch into parts of one length, filled up with what it begins with: parts x length x ..."""
    length = -(-len(batch) // parts)
    # equal lengths, none of them 0: no device compiles for a shape of its own or for nothing
    whole = batch if len(batch) == parts * length else np.resize(batch, (parts * length, *batch.shape[1:]))
    return whole.reshape(parts, length, *batch.shape[1:])


def weights(patches: int, parts: int) -> np.ndarray:
    """Tell what each patch of a divided batch counts in its mean, 0 where it fills up: float32, parts x length."""
    length = -(-patches // parts)
    counts = np.arange(parts * length) < patches
    return (counts / patches).astype(np.float32).reshape(parts, length)


class Mirrored:
    """`steps.Steps` on several devices; `settle` brings what they learnt into the model and the optimizer."""

    at_once = 1

    def __init__(
        self,
        build: Callable[[], keras.Model],
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: str,
        asked: int,
    ):
        """Copy a model and its optimizer to the first so many devices.

        Args:
            build: makes the like of `model`, whatever its weights.
            model: of uint8 patches.
            optimizer: built for the model's trainable variables.
            loss: a Keras loss' name.
            asked: how many devices.

        Raises:
            TrainingError: there are not as many, or the backend trains on one alone.

        """
        self._devices = devices()[: count(asked)]
        import tensorflow as tf

        # no NCCL: with NVLink's switches its sums may come out otherwise at every call
        strategy = tf.distribute.MirroredStrategy(self._devices, tf.distribute.ReductionToOneDevice())
        with strategy.scope():
            twin = build()
            own = type(optimizer).from_config(optimizer.get_config())
            own.build(twin.trainable_variables)
        here, there = [*model.weights, *optimizer.variables], [*twin.weights, *own.variables]
        self._pairs = list(zip(here, there, strict=True))
        for one, copies in self._pairs:
            copies.assign(one.value)
        self._learn, self._judge = _compiled(strategy, twin, own, steps.patch_losses(loss))
        log.info("each batch is shared by %s", ", ".join(self._devices))

    def load(self, patches: Images, wanted: bool | None) -> bool:
        return False

    def learn(self, given: np.ndarray, target: np.ndarray) -> list:
        if target is given:
            return [self._learn(*self._placed(one, one)) for one in given]
        return [self._learn(*self._placed(*both)) for both in zip(given, target, strict=True)]

    def judge(self, patches: np.ndarray) -> Any:
        given, _, counts = self._placed(patches, patches)
        return self._judge(given, counts)

    def _placed(self, given: np.ndarray, target: np.ndarray) -> tuple[list, list, list]:
        """Bring each part of a batch to its device."""
        there = self._put(divided(given, len(self._devices)))
        wanted = there if target is given else self._put(divided(target, len(self._devices)))
        return there, wanted, self._put(weights(len(given), len(self._devices)))

    def _put(self, parts: np.ndarray) -> list:
        import tensorflow as tf

        placed = []
        for device, part in zip(self._devices, parts, strict=True):
            with tf.device(device):
                placed.append(tf.constant(part))
        return placed

    def settle(self) -> None:
        for one, copies in self._pairs:
            one.assign(copies.value)


def _compiled(strategy: Any, twin: keras.Model, optimizer: keras.optimizers.Optimizer, losses: Callable) -> tuple:
    """Compile a step, and a look at a batch, both of lists with a part of the batch for each device."""
    import tensorflow as tf

    learning, (first, *_) = twin.trainable_variables, strategy.extended.worker_devices
    values = [variable.value for variable in learning]
    patches = [tf.TensorSpec((None, *twin.input_shape[1:]), tf.uint8)] * strategy.num_replicas_in_sync
    counts = [tf.TensorSpec((None,), tf.float32)] * strategy.num_replicas_in_sync

    def on_each(work, *lists):
        own = strategy.experimental_distribute_values_from_function(
            lambda device: tuple(one[device.replica_id_in_sync_group] for one in lists)
        )
        return strategy.run(work, own)

    def total(parts):
        return strategy.extended.reduce_to(tf.distribute.ReduceOp.SUM, parts, first)

    def error(given, target, counts, training):
        return tf.reduce_sum(losses(target, twin(given, training=training)) * counts)

    def slope(given, target, counts):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            found = error(given, target, counts, training=True)
        return found, tape.gradient(found, values)

    @tf.function(autograph=False, input_signature=[patches, patches, counts])
    def learn(given, target, counts):
        found, gradients = on_each(slope, given, target, counts)
        # outside of the devices' own work, where Keras would clip before it adds up
        optimizer.apply([total(one) for one in gradients], learning)
        return total(found)

    @tf.function(autograph=False, input_signature=[patches, counts])
    def judge(given, counts):
        return total(on_each(lambda own, count: error(own, own, count, training=False), given, counts))

    return learn, judge
