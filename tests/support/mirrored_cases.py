"""Compare trainings on 1, 2 and 3 devices; print the differences as JSON.

A script, because virtual devices must be configured before TensorFlow starts.
"""

import gc
import json
import os
import sys
from pathlib import Path

import numpy as np

from histocae import CAE
from histocae.networks import backend
from histocae.training.checkpoint import State

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
with backend.uncollected():
    import tensorflow as tf

DEVICES = 3
tf.config.set_visible_devices([], "GPU")
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES)
# this halves the time, and does not change the arithmetic that is compared
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

backend.start()
gc.freeze()  # as the backend does where it is the first to import Keras

import small_network  # noqa: E402 (beside this script)

from histocae.networks import fused, perceptual  # noqa: E402
from histocae.params import Denoise  # noqa: E402
from histocae.patches.images import InMemory  # noqa: E402
from histocae.training import loop, mirrored  # noqa: E402

PLAIN, RESIDUAL, COMPACT = (
    {"filters": [3], "pool": 4},
    {"architecture": "residual", "latent_features": 8, "filters": [2, 2]},
    {"architecture": "compact", "latent_features": 8, "filters": [2, 3]},
)
SGD = {"optimizer": "sgd", "learning_rate": 1.0}
# SGD's steps depend on the gradient's size; those of other optimizers hardly do. Clipping depends on the norm of the
# whole gradient.
CASES = {
    "clipped": (PLAIN | {"lossfn": "l1", "latent_features": 5}, SGD | {"clip_norm": 0.001}, 3),
    "bfloat16": (PLAIN, SGD | {"precision": "bfloat16"}, 2),
    "adamw": (PLAIN | {"lossfn": "binary_crossentropy"}, {"optimizer": "adamw"}, 2),
    "residual": (RESIDUAL, SGD, 2),
    "compact": (COMPACT, SGD, 2),
}
BATCHES = (7, 2, 1)  # not a multiple of the devices; fewer than three; fewer than two


def draw_images(count: int, seed: int) -> np.ndarray:
    """Draw images of different brightness, so that the weight of each image in a mean shows; uint8."""
    rng = np.random.default_rng(seed)
    bright = rng.integers(0, 200, (count, 1, 1, 3)) + rng.integers(0, 56, (count, 16, 16, 3))
    return bright.astype(np.uint8)


def training_options(devices: int, **changes: object) -> loop.Options:
    settings = {"epochs": 2, "batch_size": 7, "patience": 2, "learning_rate": 0.01, "seed": 1} | changes
    return loop.Options(**settings, devices=devices)


def new_cae(network: dict) -> CAE:
    backend.repeatable(1)
    return CAE((16, 16, 3), **network)


def flat_weights(cae: CAE) -> np.ndarray:
    return np.concatenate([weights.ravel() for weights in cae.model.get_weights()])


def take_steps(
    network: dict, changes: dict, devices: int, counts: tuple[int, ...] = BATCHES
) -> tuple[list[float], np.ndarray]:
    """Take a step per batch; return the losses of these and of other batches, and the change of the weights."""
    cae = new_cae(network)
    before, options = flat_weights(cae), training_options(devices, **changes)
    model = fused.fused_on_bytes(cae, options.precision)
    optimizer = loop._optimizer(options, 10)
    optimizer.build(model.trainable_variables)
    engine = loop._engine(cae, model, optimizer, options)
    losses = [float(engine.learn(*[draw_images(count, count)[None]] * 2)[0]) for count in counts]
    # validation of the other architectures takes long
    validation_batches = counts if cae.params["architecture"] == "plain" else ()
    validation_losses = [float(engine.evaluate(draw_images(count, 10 + count))) for count in validation_batches]
    engine.settle()
    return losses + validation_losses, flat_weights(cae) - before


def compare(network: dict, changes: dict, devices: int) -> dict[str, float]:
    """Compare several devices with a single one: relative differences of losses and of changes of the weights."""
    tf.config.run_functions_eagerly("architecture" in network)  # takes less time than to compile these networks
    losses, change = take_steps(network, changes, 1)
    tf.config.run_functions_eagerly(False)
    other_losses, other_change = take_steps(network, changes, devices)
    return {
        "losses": float(np.abs(np.array(other_losses) / np.array(losses) - 1).max()),
        "weights": float(np.linalg.norm(other_change - change) / np.linalg.norm(change)),
        "moved": float(np.linalg.norm(change)),
    }


class KilledError(Exception):
    """A training was killed."""


def train_fully(devices: int, checkpoint: Path, killed: bool = False) -> tuple[CAE, State]:
    """Train for two epochs with all options that change batches; if killed, resume after the first epoch."""
    options = training_options(
        devices, optimizer="adamax", schedule="cosine", augment=True, denoise=Denoise(shift=1, until=1.0)
    )
    # the last batch has two images in training, and one in validation
    train, held_out = InMemory(draw_images(16, 1)), InMemory(draw_images(8, 2))

    def kill(state: State) -> None:
        if killed:
            raise KilledError

    def fit(**calls: object) -> State:
        return loop.train(
            cae,
            train,
            held_out,
            options,
            state=State("t"),
            folder=checkpoint,
            fingerprint="same",
            callbacks=loop.Callbacks(**calls),
        )

    cae = new_cae(PLAIN)
    if killed:
        try:
            fit(on_saved=kill)
        except KilledError:
            cae = CAE((16, 16, 3), **PLAIN)  # has other weights, which the checkpoint replaces
    return cae, fit()


def main(folder: Path) -> None:
    results: dict[str, object] = {name: compare(*case) for name, case in CASES.items()}
    network = small_network.save(folder / "small.keras")
    loss = perceptual.load(network, small_network.LAYERS, 1.0, shape=(16, 16, 3), key="perceptual")
    results["perceptual"] = compare(PLAIN | {"lossfn": "perceptual"}, SGD | {"loss": loss}, 2)
    single, single_state = train_fully(1, folder / "1")
    double, double_state = train_fully(2, folder / "2")
    resumed, resumed_state = train_fully(2, folder / "killed", killed=True)
    rows = [[(row["loss"], row["validation_loss"]) for row in state.rows] for state in (single_state, double_state)]
    results["trained"] = {
        "losses": float(np.abs(np.array(rows[1]) / np.array(rows[0]) - 1).max()),
        "weights": float(
            np.linalg.norm(flat_weights(double) - flat_weights(single)) / np.linalg.norm(flat_weights(single))
        ),
        "moved": float(len(rows[0])),
    }
    results["resumed"] = (
        resumed_state.rows == double_state.rows and flat_weights(resumed).tobytes() == flat_weights(double).tobytes()
    )
    # one step at a learning rate of 1: as long as the limit, over the weights of all devices' gradients together
    results["clipped step"] = float(np.linalg.norm(take_steps(*CASES["clipped"][:2], 2, BATCHES[:1])[1]))
    results["count"] = [mirrored.count(None), mirrored.count(2)]
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
