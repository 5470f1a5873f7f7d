"""Training steps on several devices of one machine, with TensorFlow's MirroredStrategy.

Each device has a copy of the weights and learns from its part of a batch. The loss and the gradient of the batch are
sums over all parts, in which each patch has the weight that it has in the batch. After it is summed, the gradient is
clipped (all weights together) and applied. So losses and weights equal those of one device, except for rounding.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from histocae.errors import TrainingError
from histocae.networks.losses import Loss
from histocae.training import steps

log = logging.getLogger(__name__)
Scalar = TypeVar("Scalar", bound=np.generic)
ByDevice = list[Any]  # a tensor for each device


def devices() -> list[str]:
    """List the devices that a training can share: TensorFlow's GPUs, or else its CPU; empty for another backend."""
    if keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    available = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in available]


def count(requested: int | None) -> int:
    """Check the number of devices that a training uses.

    Args:
        requested: their number; None for all of TensorFlow's, or one with another backend.

    Raises:
        TrainingError: there are fewer devices, or the backend trains on one device only.

    """
    available = devices()
    if requested is None:
        return max(1, len(available))
    if requested > 1 and not available:
        raise TrainingError(
            f"executor.devices: {requested} requested, but backend {keras.backend.backend()} trains on one device; "
            "set it to 1, or KERAS_BACKEND=tensorflow"
        )
    if requested > max(1, len(available)):
        raise TrainingError(
            f"executor.devices: {requested} requested, but TensorFlow has only {', '.join(available)}; "
            "set a smaller number, or null for all"
        )
    return requested


def divided(batch: NDArray[Scalar], parts: int) -> NDArray[Scalar]:
    """Divide a batch into parts of equal length; its first patches fill up the last part.

    Args:
        batch: shape (n, ...).
        parts: their number.

    Returns:
        Shape (parts, length, ...).

    """
    length = -(-len(batch) // parts)
    # with equal lengths above 0, no device compiles for its own shape or for an empty part
    whole = batch if len(batch) == parts * length else np.resize(batch, (parts * length, *batch.shape[1:]))
    return whole.reshape(parts, length, *batch.shape[1:])


def weights(patches: int, parts: int) -> NDArray[np.float32]:
    """Compute the weight of each patch of a divided batch in the mean over the batch.

    Args:
        patches: of the batch.
        parts: of `divided`.

    Returns:
        float32, shape (parts, length); 0 for patches that fill up the last part.

    """
    length = -(-patches // parts)
    counts = np.arange(parts * length) < patches
    return (counts / patches).astype(np.float32).reshape(parts, length)


class Mirrored(steps.FromHost):
    """`steps.Steps` on several devices; `settle` copies their weights and state to the model and the optimizer."""

    at_once = 1

    def __init__(
        self,
        build: Callable[[], keras.Model],
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: str | Loss,
        requested: int,
    ):
        """Copy a model and its optimizer to several devices.

        Args:
            build: builds a model like `model`, with any weights.
            model: of uint8 patches.
            optimizer: built for the model's trainable variables.
            loss: a name, see `losses.per_patch`, or a function like those that it returns.
            requested: number of devices.

        Raises:
            TrainingError: there are fewer devices, or the backend trains on one device only.

        """
        self._devices = devices()[: count(requested)]
        import tensorflow as tf

        # not NCCL: over NVLink switches its sums may differ from call to call
        strategy = tf.distribute.MirroredStrategy(self._devices, tf.distribute.ReductionToOneDevice())
        with strategy.scope():
            twin = build()
            twin_optimizer = type(optimizer).from_config(optimizer.get_config())
            twin_optimizer.build(twin.trainable_variables)
        variables, copies = [*model.weights, *optimizer.variables], [*twin.weights, *twin_optimizer.variables]
        self._pairs = list(zip(variables, copies, strict=True))
        for variable, copy in self._pairs:
            copy.assign(variable.value)
        self._learn, self._evaluate = _compiled(strategy, twin, twin_optimizer, steps.patch_losses(loss))
        log.info("each batch is shared by %s", ", ".join(self._devices))

    def learn(self, inputs: NDArray[np.uint8], targets: NDArray[np.uint8]) -> list[Any]:
        """Take training steps.

        Args:
            inputs: uint8, shape (steps, batch size, height, width, channels).
            targets: uint8, of the same shape; may be the same array.

        Returns:
            The loss of each step, computed before it.

        """
        if targets is inputs:
            return [self._learn(*self._placed(batch, batch)) for batch in inputs]
        return [self._learn(*self._placed(*both)) for both in zip(inputs, targets, strict=True)]

    def evaluate(self, patches: NDArray[np.uint8]) -> Any:
        """Compute the mean loss of a batch without learning from it.

        Args:
            patches: uint8, shape (n, height, width, channels); both inputs and targets.

        Returns:
            The loss.

        """
        inputs, _, counts = self._placed(patches, patches)
        return self._evaluate(inputs, counts)

    def _placed(self, inputs: NDArray[np.uint8], targets: NDArray[np.uint8]) -> tuple[ByDevice, ByDevice, ByDevice]:
        """Copy each part of a batch, and the weights of its patches, to its device."""
        placed = self._put(divided(inputs, len(self._devices)))
        placed_targets = placed if targets is inputs else self._put(divided(targets, len(self._devices)))
        return placed, placed_targets, self._put(weights(len(inputs), len(self._devices)))

    def _put(self, parts: NDArray[Any]) -> ByDevice:
        import tensorflow as tf

        placed = []
        for device, part in zip(self._devices, parts, strict=True):
            with tf.device(device):
                placed.append(tf.constant(part))
        return placed

    def settle(self) -> None:
        """Copy weights and optimizer state from the first device to the model and the optimizer."""
        for variable, copy in self._pairs:
            variable.assign(copy.value)


def _compiled(
    strategy: Any, twin: keras.Model, optimizer: keras.optimizers.Optimizer, losses: Loss
) -> tuple[Callable[[ByDevice, ByDevice, ByDevice], Any], Callable[[ByDevice, ByDevice], Any]]:
    """Compile a training step and a measurement of the loss; both take a part of the batch for each device."""
    import tensorflow as tf

    learning, (first, *_) = twin.trainable_variables, strategy.extended.worker_devices
    values = [variable.value for variable in learning]
    patches = [tf.TensorSpec((None, *twin.input_shape[1:]), tf.uint8)] * strategy.num_replicas_in_sync
    counts = [tf.TensorSpec((None,), tf.float32)] * strategy.num_replicas_in_sync

    def on_each(work: Callable[..., Any], *lists: ByDevice) -> Any:
        part = strategy.experimental_distribute_values_from_function(
            lambda device: tuple(tensors[device.replica_id_in_sync_group] for tensors in lists)
        )
        return strategy.run(work, part)

    def total(parts: Any) -> Any:
        return strategy.extended.reduce_to(tf.distribute.ReduceOp.SUM, parts, first)

    def error(inputs: Any, targets: Any, counts: Any, training: bool) -> Any:
        return tf.reduce_sum(losses(targets, twin(inputs, training=training)) * counts)

    def slope(inputs: Any, targets: Any, counts: Any) -> tuple[Any, Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = error(inputs, targets, counts, training=True)
        return loss, tape.gradient(loss, values)

    @tf.function(autograph=False, input_signature=[patches, patches, counts])  # type: ignore[untyped-decorator]  # no types
    def learn(inputs: Any, targets: Any, counts: Any) -> Any:
        loss, gradients = on_each(slope, inputs, targets, counts)
        # applied outside of `on_each`: inside it, Keras would clip the gradients before their sum
        optimizer.apply([total(gradient) for gradient in gradients], learning)
        return total(loss)

    @tf.function(autograph=False, input_signature=[patches, counts])  # type: ignore[untyped-decorator]  # no types
    def evaluate(inputs: Any, counts: Any) -> Any:
        return total(on_each(lambda part, count: error(part, part, count, training=False), inputs, counts))

    return learn, evaluate
