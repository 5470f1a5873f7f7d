"""Trainings on 1, 2 and 3 devices, printed as JSON. TensorFlow needs virtual devices before it starts."""

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
# without graph optimization this takes half the time; the comparison is of arithmetic
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

backend.start()
gc.freeze()  # as the backend does where TensorFlow was not there before

from histocae.networks import fused  # noqa: E402
from histocae.params import Denoise  # noqa: E402
from histocae.patches.images import InMemory  # noqa: E402
from histocae.training import loop, mirrored  # noqa: E402

PLAIN, RESIDUAL, COMPACT = (
    {"filters": [3], "pool": 4},
    {"architecture": "residual", "latent_features": 8, "filters": [2, 2]},
    {"architecture": "compact", "latent_features": 8, "filters": [2, 3]},
)
SGD = {"optimizer": "sgd", "learning_rate": 1.0}
# steps of sgd depend on the size of the gradient, those of the others hardly; clipping, on that of the whole gradient
CASES = {
    "clipped": (PLAIN | {"lossfn": "mae", "latent_features": 5}, SGD | {"clip_norm": 0.001}, 3),
    "bfloat16": (PLAIN, SGD | {"precision": "bfloat16"}, 2),
    "adamw": (PLAIN | {"lossfn": "binary_crossentropy"}, {"optimizer": "adamw"}, 2),
    "residual": (RESIDUAL, SGD, 2),
    "compact": (COMPACT, SGD, 2),
}
BATCHES = (7, 2, 1)  # no multiple of the devices, then fewer than three, then fewer than two


def images(count: int, seed: int) -> np.ndarray:
    """Draw images of different brightness, so that the weight of each image in a mean is visible; uint8."""
    rng = np.random.default_rng(seed)
    bright = rng.integers(0, 200, (count, 1, 1, 3)) + rng.integers(0, 56, (count, 16, 16, 3))
    return bright.astype(np.uint8)


def options(devices: int, **changes: object) -> loop.Options:
    given = {"epochs": 2, "batch_size": 7, "patience": 2, "learning_rate": 0.01, "seed": 1} | changes
    return loop.Options(**given, devices=devices)


def started(network: dict) -> CAE:
    backend.repeatable(1)
    return CAE((16, 16, 3), **network)


def flat(cae: CAE) -> np.ndarray:
    return np.concatenate([weights.ravel() for weights in cae.model.get_weights()])


def stepped(network: dict, changes: dict, devices: int) -> tuple[list[float], np.ndarray]:
    """Take a step per batch; return the losses before each, those of other batches, and the change of weights."""
    cae = started(network)
    before, made = flat(cae), options(devices, **changes)
    model = fused.fused_on_bytes(cae, made.precision)
    optimizer = loop._optimizer(made, 10)
    optimizer.build(model.trainable_variables)
    engine = loop._engine(cae, model, optimizer, made)
    learned = [float(engine.learn(*[images(count, count)[None]] * 2)[0]) for count in BATCHES]
    looks = BATCHES if cae.params["architecture"] == "plain" else ()  # another look of these takes its time
    judged = [float(engine.judge(images(count, 10 + count))) for count in looks]
    engine.settle()
    return learned + judged, flat(cae) - before


def compared(network: dict, changes: dict, devices: int) -> dict[str, float]:
    """Compare several devices with one: relative differences of the losses and of the changes of weights."""
    tf.config.run_functions_eagerly("architecture" in network)  # in less time than it takes to compile these
    losses, moved = stepped(network, changes, 1)
    tf.config.run_functions_eagerly(False)
    others, also = stepped(network, changes, devices)
    return {
        "losses": float(np.abs(np.array(others) / np.array(losses) - 1).max()),
        "weights": float(np.linalg.norm(also - moved) / np.linalg.norm(moved)),
        "moved": float(np.linalg.norm(moved)),
    }


class KilledError(Exception):
    """A training was killed."""


def whole(devices: int, checkpoint: Path, killed: bool = False) -> tuple[CAE, State]:
    """Train for two epochs with all options that change batches; if killed, resume after the first epoch."""
    made = options(devices, optimizer="adamax", schedule="cosine", augment=True, denoise=Denoise(shift=1, until=1.0))
    train, held_out = InMemory(images(16, 1)), InMemory(images(8, 2))  # a last batch of two, and of one

    def kill(state: State) -> None:
        if killed:
            raise KilledError

    def fit(**calls: object) -> State:
        return loop.train(
            cae,
            train,
            held_out,
            made,
            state=State("t"),
            folder=checkpoint,
            fingerprint="same",
            callbacks=loop.Callbacks(**calls),
        )

    cae = started(PLAIN)
    if killed:
        try:
            fit(on_saved=kill)
        except KilledError:
            cae = CAE((16, 16, 3), **PLAIN)  # of other weights, which the checkpoint replaces
    return cae, fit()


def main(folder: Path) -> None:
    results: dict[str, object] = {name: compared(*case) for name, case in CASES.items()}
    (on_one, first), (on_two, second) = (whole(devices, folder / str(devices)) for devices in (1, 2))
    resumed, again = whole(2, folder / "killed", killed=True)
    rows = [[(row["loss"], row["validation_loss"]) for row in state.rows] for state in (first, second)]
    results["trained"] = {
        "losses": float(np.abs(np.array(rows[1]) / np.array(rows[0]) - 1).max()),
        "weights": float(np.linalg.norm(flat(on_two) - flat(on_one)) / np.linalg.norm(flat(on_one))),
        "moved": float(len(rows[0])),
    }
    results["resumed"] = again.rows == second.rows and flat(resumed).tobytes() == flat(on_two).tobytes()
    results["count"] = [mirrored.count(None), mirrored.count(2)]
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
