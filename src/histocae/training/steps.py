"""Steps of a training, compiled for the backend at hand: Keras' `fit` spends more around a step than it need.

Patches and targets are uint8 until they are on the device.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import keras
import numpy as np

from histocae.patches.images import Images

CHUNK_BYTES = 2**27  # of patches that go to a graphics card at once
MOST_STEPS = 64  # that one call takes there


class Steps(Protocol):
    """A model, its loss and its optimizer, ready to go.

    Attributes:
        at_once: steps that one call had best take; each has as many patches as the others.

    """

    at_once: int

    def learn(self, given: np.ndarray, target: np.ndarray) -> Any:
        """Take steps.

        Args:
            given: uint8, steps x batch x height x width x channels.
            target: likewise; may be the same array.

        Returns:
            The loss of each step before it, in the backend's own type.

        """

    def load(self, patches: Images, wanted: bool | None) -> bool:
        """Keep all patches on the device, for `learn_loaded`.

        Args:
            patches: to learn from.
            wanted: None: on a graphics card that has twice the room.

        Returns:
            Whether they are there.

        """

    def learn_loaded(self, which: np.ndarray) -> Any:
        """Take steps with patches that were loaded, given by their positions, steps x batch."""

    def judge(self, patches: np.ndarray) -> Any:
        """Give the mean loss of a batch of uint8 patches and change nothing."""

    def settle(self) -> None:
        """Bring what was learnt into the model's and the optimizer's variables."""


def bytes_loss(name: str) -> Callable:
    """Make a Keras loss of floats in [0, 1] one whose target is bytes: its mean over patches.

    Args:
        name: of a loss that is a mean over pixels and channels.

    """
    losses = patch_losses(name)
    return lambda target, output: keras.ops.mean(losses(target, output))


def patch_losses(name: str) -> Callable:
    """Make a Keras loss of floats in [0, 1] one whose target is bytes: of each patch.

    Args:
        name: of a loss that is a mean over pixels and channels.

    """
    loss = keras.losses.get(name)

    def scaled(target, output):
        # one row a patch, so that the mean over all is taken in one go
        rows = (-1, int(np.prod(output.shape[1:])))
        output = keras.ops.reshape(output, rows)
        target = keras.ops.reshape(keras.ops.cast(target, output.dtype) * (1 / 255), rows)
        return loss(target, output)

    return scaled


def compiled(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Compile a model of uint8 pictures; Keras' `predict` spends half of its time around it."""
    shape = (None, *model.input_shape[1:])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def call(given):
            return model(given, training=False)

        at_once = tf.function(call, input_signature=[tf.TensorSpec(shape, tf.uint8)])
        return lambda given: at_once(given).numpy()
    return model.predict_on_batch


def optimizer(name: str, config: dict[str, Any]) -> keras.optimizers.Optimizer:
    """Make a Keras optimizer; adamax on TensorFlow in TensorFlow's own kernel, a third of the work.

    Args:
        name: of a Keras optimizer.
        config: what its `from_config` takes.

    """
    kind = type(keras.optimizers.get(name))
    if kind is keras.optimizers.Adamax and keras.backend.backend() == "tensorflow":
        kind = _adamax()
    return kind.from_config(config)


def _adamax() -> type:
    import tensorflow as tf

    class Adamax(keras.optimizers.Adamax):
        """The same rule (Kingma and Ba 2015, arXiv:1412.6980, section 7.1) and state; one pass over the weights."""

        def update_step(self, gradient, variable, learning_rate):
            at = self._get_variable_index(variable)
            dtype = variable.dtype
            step = tf.cast(self.iterations.value + 1, dtype)
            tf.raw_ops.ResourceApplyAdaMax(
                var=variable.handle,
                m=self._m[at].value.handle,
                v=self._u[at].value.handle,
                beta1_power=tf.pow(tf.cast(self.beta_1, dtype), step),
                lr=tf.cast(learning_rate, dtype),
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=tf.cast(gradient, dtype),
            )

    return Adamax


def ahead(things: Iterable) -> Iterator:
    """Make each thing while the one before it is in use; in a thread, so that reading and computing overlap."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        making = iter(things)
        nothing = object()
        coming = pool.submit(next, making, nothing)
        while (thing := coming.result()) is not nothing:
            coming = pool.submit(next, making, nothing)
            yield thing


def in_a_call(steps: Steps, batch_bytes: int) -> int:
    """Give how many steps one call had best take, with batches of so many bytes."""
    return max(1, min(steps.at_once, CHUNK_BYTES // batch_bytes))


def make(model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: str) -> Steps:
    """Compile the steps of a model on uint8 patches (see `fused.fused_on_bytes`).

    Args:
        model: of uint8 patches.
        optimizer: built for the model's trainable variables.
        loss: a Keras loss' name.

    """
    kind = {"tensorflow": _TensorFlow, "jax": _Jax}.get(keras.backend.backend(), _Keras)
    return kind(model, optimizer, bytes_loss(loss))


class _TensorFlow:
    """One step a call: on a CPU a step takes far longer than its call."""

    at_once = 1

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Callable):
        import tensorflow as tf

        learning = model.trainable_variables
        values = [variable.value for variable in learning]
        patches = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)

        @tf.function(input_signature=[patches, patches])
        def learn(given, target):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                error = loss(target, model(given, training=True))
            optimizer.apply(tape.gradient(error, values), learning)
            return error

        @tf.function(input_signature=[patches])
        def judge(given):
            return loss(given, model(given, training=False))

        self._learn, self.judge = learn, judge

    def load(self, patches: Images, wanted: bool | None) -> bool:
        return False

    def learn(self, given: np.ndarray, target: np.ndarray) -> list:
        return [self._learn(*both) for both in zip(given, target, strict=True)]

    def settle(self) -> None:
        """Nothing is left to be brought: the variables themselves were changed."""


class _Jax:
    """Many steps a call: on a graphics card a step takes less than its call."""

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Callable):
        import jax

        self._variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        self._state = self._patches = None
        # on a CPU a step takes far longer than its call
        self.at_once = 1 if jax.local_devices()[0].platform == "cpu" else MOST_STEPS

        def error(learning, fixed, given, target, training=True):
            output, _ = model.stateless_call(learning, fixed, given, training=training)
            return loss(target, output)

        def step(state, both):
            learning, fixed, memory = state
            found, gradients = jax.value_and_grad(error)(learning, fixed, *both)
            learning, memory = optimizer.stateless_apply(memory, gradients, learning)
            return (learning, fixed, memory), found

        def several(step, state, given):
            if len(jax.tree.leaves(given)[0]) > 1:
                return jax.lax.scan(step, state, given)
            # without a loop: XLA runs convolutions in a CPU's loops on one core
            state, found = step(state, jax.tree.map(lambda one: one[0], given))
            return state, found[None]

        def picked(state, which, patches):
            return several(lambda now, some: step(now, (patches[some],) * 2), state, which)

        self._learn = jax.jit(functools.partial(several, step), donate_argnums=0)
        self._learn_picked = jax.jit(picked, donate_argnums=0)
        self._judge = jax.jit(lambda state, given: error(state[0], state[1], given, given, training=False))

    def _now(self):
        if self._state is None:
            self._state = tuple([variable.value for variable in some] for some in self._variables)
        return self._state

    def learn(self, given: np.ndarray, target: np.ndarray) -> Any:
        both = (given, given) if target is given else (given, target)
        self._state, found = self._learn(self._now(), both)
        return found

    def load(self, patches: Images, wanted: bool | None) -> bool:
        import jax

        if wanted is None:
            memory = jax.local_devices()[0].memory_stats() or {}  # nothing on a CPU
            free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
            wanted = 2 * len(patches) * math.prod(patches.shape) <= free
        if not wanted:
            return False
        # part by part into its place: neither the host nor the device holds it twice
        put = jax.jit(
            lambda all_, some, at: jax.lax.dynamic_update_slice(all_, some, (at, 0, 0, 0)), donate_argnums=0
        )
        self._patches = jax.numpy.zeros((len(patches), *patches.shape), "uint8")
        each = max(1, CHUNK_BYTES // math.prod(patches.shape))
        for start in range(0, len(patches), each):
            some = patches.take(np.arange(start, min(start + each, len(patches))))
            self._patches = put(self._patches, some, start)
        return True

    def learn_loaded(self, which: np.ndarray) -> Any:
        self._state, found = self._learn_picked(self._now(), which.astype(np.int32), self._patches)
        return found

    def judge(self, patches: np.ndarray) -> Any:
        return self._judge(self._now(), patches)

    def settle(self) -> None:
        for variables, values in zip(self._variables, self._now(), strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self._state = None


class _Keras:
    """Any other backend, by Keras' own step."""

    at_once = 1

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Callable):
        model.compile(optimizer=optimizer, loss=loss)
        self._model = model

    def load(self, patches: Images, wanted: bool | None) -> bool:
        return False

    def learn(self, given: np.ndarray, target: np.ndarray) -> list:
        return [self._model.train_on_batch(*both) for both in zip(given, target, strict=True)]

    def judge(self, patches: np.ndarray) -> float:
        return self._model.test_on_batch(patches, patches)

    def settle(self) -> None:
        """Nothing is left to be brought."""
