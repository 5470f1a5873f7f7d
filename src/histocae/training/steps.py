"""Training steps compiled for the backend: Keras' `fit` spends more time around a step than needed.

Inputs and targets stay uint8 until they are on the device.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Protocol, TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from histocae.networks import losses
from histocae.networks.losses import Loss
from histocae.patches.images import Images

CHUNK_BYTES = 2**27  # bytes of patches that are copied to a GPU at once
MOST_STEPS = 64  # steps per call on a GPU
Item = TypeVar("Item")


class Steps(Protocol):
    """A model, its loss and its optimizer, compiled.

    Attributes:
        at_once: how many steps a call should take; all of them have the same number of patches.

    """

    at_once: int

    def learn(self, inputs: NDArray[np.uint8], targets: NDArray[np.uint8]) -> Any:
        """Take training steps.

        Args:
            inputs: uint8, shape (steps, batch size, height, width, channels).
            targets: uint8, of the same shape; may be the same array.

        Returns:
            The loss of each step, computed before it, as the backend's own type.

        """

    def load(self, patches: Images, force: bool | None) -> bool:
        """Copy all patches to the device, for `learn_loaded`.

        Args:
            patches: to learn from.
            force: True copies them, False does not; None copies them to a GPU with room for twice their size.

        Returns:
            Whether they are on the device.

        """

    def learn_loaded(self, positions: NDArray[np.integer[Any]]) -> Any:
        """Take training steps with patches that are on the device.

        Args:
            positions: integers, shape (steps, batch size): positions of the patches.

        Returns:
            The loss of each step, as `learn` does.

        """

    def evaluate(self, patches: NDArray[np.uint8]) -> Any:
        """Compute the mean loss of a batch without learning from it.

        Args:
            patches: uint8, shape (n, height, width, channels); both inputs and targets.

        Returns:
            The loss, as the backend's own type.

        """

    def settle(self) -> None:
        """Copy the weights and state of the steps into the variables of the model and of the optimizer."""


class FromHost:
    """Part of `Steps` for a backend that reads every batch from the host's memory."""

    def load(self, patches: Images, force: bool | None) -> bool:
        """Copy nothing.

        Args:
            patches: to learn from.
            force: ignored.

        Returns:
            False: no patches are on the device.

        """
        return False

    def learn_loaded(self, positions: NDArray[np.integer[Any]]) -> NoReturn:
        """Refuse: no patches are on the device.

        Args:
            positions: of the patches.

        Raises:
            NotImplementedError: always.

        """
        raise NotImplementedError("this backend keeps no patches on the device")


def bytes_loss(loss: str | Loss) -> Loss:
    """Make a loss of floats in [0, 1] accept uint8 targets; it returns the mean over patches.

    Args:
        loss: a name, see `losses.per_patch`, or a function like those that it returns.

    """
    of_patches = patch_losses(loss)
    return lambda targets, outputs: keras.ops.mean(of_patches(targets, outputs))


def patch_losses(loss: str | Loss) -> Loss:
    """Make a loss of floats in [0, 1] accept uint8 targets; it returns a loss per patch.

    Args:
        loss: a name, see `losses.per_patch`, or a function like those that it returns.

    """
    of_floats = losses.per_patch(loss) if isinstance(loss, str) else loss
    return lambda targets, outputs: of_floats(keras.ops.cast(targets, outputs.dtype) * (1 / 255), outputs)


def compiled(model: keras.Model) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Compile a model of uint8 images: Keras' `predict` spends half of its time around the model.

    Args:
        model: of uint8 images.

    Returns:
        A function from uint8, shape (n, height, width, channels), to float32, shape (n, ...).

    """
    shape = (None, *model.input_shape[1:])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def call(batch: Any) -> Any:
            return model(batch, training=False)

        function = tf.function(call, input_signature=[tf.TensorSpec(shape, tf.uint8)])
        return lambda batch: function(batch).numpy()
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = model.predict_on_batch
    return predict


def optimizer(name: str, config: dict[str, Any]) -> keras.optimizers.Optimizer:
    """Build a Keras optimizer; on TensorFlow adamax uses TensorFlow's own kernel, with a third of the work.

    Args:
        name: of a Keras optimizer.
        config: the arguments of its `from_config`.

    Returns:
        The optimizer, not built yet.

    """
    kind = type(keras.optimizers.get(name))
    if kind is keras.optimizers.Adamax and keras.backend.backend() == "tensorflow":
        kind = _adamax()
    return kind.from_config(config)


def _adamax() -> type:
    import tensorflow as tf

    class Adamax(keras.optimizers.Adamax):  # type: ignore[misc]  # Keras has no types
        """Keras' Adamax in one pass over the weights (Kingma and Ba 2015, arXiv:1412.6980, section 7.1).

        Rule and state are Keras' own. Keras has no public name for the state of a weight: `variables` is one
        list, and only `_get_variable_index` knows a weight's copies on several devices.
        """

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            dtype = variable.dtype
            step = tf.cast(self.iterations.value + 1, dtype)
            tf.raw_ops.ResourceApplyAdaMax(
                var=variable.handle,
                m=self._m[index].value.handle,
                v=self._u[index].value.handle,
                beta1_power=tf.pow(tf.cast(self.beta_1, dtype), step),
                lr=tf.cast(learning_rate, dtype),
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=tf.cast(gradient, dtype),
            )

    return Adamax


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Compute each item in a thread while the item before it is in use, so that reading and computing overlap."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        source = iter(items)
        end = object()
        coming = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item  # type: ignore[misc]  # mypy does not know that only `end` is no item


def in_a_call(steps: Steps, batch_bytes: int) -> int:
    """Choose how many steps one call takes.

    Args:
        steps: of the training.
        batch_bytes: size of a batch.

    Returns:
        At least 1, and `steps.at_once` at most.

    """
    return max(1, min(steps.at_once, CHUNK_BYTES // batch_bytes))


def make(model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: str | Loss) -> Steps:
    """Compile the steps of a model on uint8 patches (see `fused.fused_on_bytes`).

    Args:
        model: of uint8 patches.
        optimizer: built for the model's trainable variables.
        loss: a name, see `losses.per_patch`, or a function like those that it returns.

    Returns:
        The steps for the backend in use.

    """
    kinds: dict[str, type[_TensorFlow | _Jax]] = {"tensorflow": _TensorFlow, "jax": _Jax}
    return kinds.get(keras.backend.backend(), _Keras)(model, optimizer, bytes_loss(loss))


class _TensorFlow(FromHost):
    """One step per call: on a CPU a step takes far longer than a call."""

    at_once = 1

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Loss):
        import tensorflow as tf

        learning = model.trainable_variables
        values = [variable.value for variable in learning]
        patches = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)

        @tf.function(input_signature=[patches, patches])  # type: ignore[untyped-decorator]  # no types
        def learn(inputs: Any, targets: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                error = loss(targets, model(inputs, training=True))
            optimizer.apply(tape.gradient(error, values), learning)
            return error

        @tf.function(input_signature=[patches])  # type: ignore[untyped-decorator]  # no types
        def evaluate(inputs: Any) -> Any:
            return loss(inputs, model(inputs, training=False))

        self._learn, self._evaluate = learn, evaluate

    def learn(self, inputs: NDArray[np.uint8], targets: NDArray[np.uint8]) -> list[Any]:
        return [self._learn(*batch) for batch in zip(inputs, targets, strict=True)]

    def evaluate(self, patches: NDArray[np.uint8]) -> Any:
        return self._evaluate(patches)

    def settle(self) -> None:
        """Do nothing: the steps change the variables themselves."""


class _Jax:
    """Many steps per call: on a GPU a step takes less time than a call."""

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Loss):
        import jax

        self._variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        self._state: tuple[list[Any], ...] | None = None
        self._patches: Any = None
        # on a CPU a step takes far longer than a call
        self.at_once = 1 if jax.local_devices()[0].platform == "cpu" else MOST_STEPS

        def error(learning: Any, fixed: Any, inputs: Any, targets: Any, training: bool = True) -> Any:
            outputs, _ = model.stateless_call(learning, fixed, inputs, training=training)
            return loss(targets, outputs)

        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            learning, fixed, memory = state
            value, gradients = jax.value_and_grad(error)(learning, fixed, *batch)
            learning, memory = optimizer.stateless_apply(memory, gradients, learning)
            return (learning, fixed, memory), value

        def several(step: Callable[[Any, Any], tuple[Any, Any]], state: Any, batches: Any) -> tuple[Any, Any]:
            if len(jax.tree.leaves(batches)[0]) > 1:
                scanned: tuple[Any, Any] = jax.lax.scan(step, state, batches)
                return scanned
            # without a loop: on a CPU, XLA runs convolutions inside a loop on one core
            state, value = step(state, jax.tree.map(lambda leaf: leaf[0], batches))
            return state, value[None]

        def picked(state: Any, positions: Any, patches: Any) -> tuple[Any, Any]:
            return several(lambda now, which: step(now, (patches[which],) * 2), state, positions)

        self._learn = jax.jit(functools.partial(several, step), donate_argnums=0)
        self._learn_picked = jax.jit(picked, donate_argnums=0)
        self._evaluate = jax.jit(lambda state, batch: error(state[0], state[1], batch, batch, training=False))

    def _now(self) -> tuple[list[Any], ...]:
        if self._state is None:
            self._state = tuple([variable.value for variable in variables] for variables in self._variables)
        return self._state

    def learn(self, inputs: NDArray[np.uint8], targets: NDArray[np.uint8]) -> Any:
        batches = (inputs, inputs) if targets is inputs else (inputs, targets)
        self._state, losses = self._learn(self._now(), batches)
        return losses

    def load(self, patches: Images, force: bool | None) -> bool:
        import jax

        if force is None:
            memory = jax.local_devices()[0].memory_stats() or {}  # empty on a CPU
            free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
            force = 2 * len(patches) * math.prod(patches.shape) <= free
        if not force:
            return False
        # copied part by part into an array on the device: neither host nor device holds the patches twice
        put = jax.jit(
            lambda array, part, start: jax.lax.dynamic_update_slice(array, part, (start, 0, 0, 0)), donate_argnums=0
        )
        self._patches = jax.numpy.zeros((len(patches), *patches.shape), "uint8")
        each = max(1, CHUNK_BYTES // math.prod(patches.shape))
        for start in range(0, len(patches), each):
            part = patches.take(np.arange(start, min(start + each, len(patches))))
            self._patches = put(self._patches, part, start)
        return True

    def learn_loaded(self, positions: NDArray[np.integer[Any]]) -> Any:
        self._state, losses = self._learn_picked(self._now(), positions.astype(np.int32), self._patches)
        return losses

    def evaluate(self, patches: NDArray[np.uint8]) -> Any:
        return self._evaluate(self._now(), patches)

    def settle(self) -> None:
        for variables, values in zip(self._variables, self._now(), strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self._state = None


class _Keras(FromHost):
    """Keras' own step, for any other backend."""

    at_once = 1

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Loss):
        model.compile(optimizer=optimizer, loss=loss)
        self._model = model

    def learn(self, inputs: NDArray[np.uint8], targets: NDArray[np.uint8]) -> list[Any]:
        return [self._model.train_on_batch(*batch) for batch in zip(inputs, targets, strict=True)]

    def evaluate(self, patches: NDArray[np.uint8]) -> Any:
        return self._model.test_on_batch(patches, patches)

    def settle(self) -> None:
        """Do nothing: the steps change the variables themselves."""
