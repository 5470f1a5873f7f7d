"""Training [8, 16, 32]/512 on a GPU that holds the patches as bytes; needs keras, a backend, numpy and pandas.

    KERAS_BACKEND=jax PYTHONPATH=src python benchmarks/train_gpu.py [--small] [--results FILE]

histocae is compared with the notebooks' way on the same GPU (Keras' `fit` at batch 32 on float32 from the host). It
is also compared with two measured limits of the GPU: the speed of multiplying large matrices and of copying memory,
applied to the operations of the model's layers and to the least memory traffic that they need.
"""

import argparse
import math
import tempfile
from pathlib import Path

import harness
import keras
import numpy as np
import pandas as pd

from histocae.networks import fused
from histocae.networks.cae import CAE
from histocae.patches.shard_file import ShardWriter
from histocae.patches.store import PatchStore, write_index
from histocae.training import loop, steps
from histocae.training.batches import Batches

RATE = 0.002


def textures(count: int, pixels: int, seed: int) -> np.ndarray:
    """Draw smooth colored noise; uint8, shape (count, pixels, pixels, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(170, 40, (count, pixels // 8, pixels // 8, 3)).astype(np.float32)
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)
    fine += rng.standard_normal((count, pixels, pixels, 1), dtype=np.float32) * 8
    return fine.clip(0, 255).astype(np.uint8)


def write_store(folder: Path, patches: np.ndarray) -> PatchStore:
    """Write patches of one slide into a store, as the pipeline does."""
    with ShardWriter(folder / "shards" / "slide.npy", patches.shape[1]) as shard:
        shard.append(patches)
    texts = {"slide_id": "slide", "case_id": "case", "sample_type": "Primary Tumor", "shard": "slide", "file": ""}
    numbers = {"row": 0, "column": 0, "x": 0, "y": 0, "mpp": 0.5, "tissue_share": 1.0}
    index = pd.DataFrame({**texts, "position": np.arange(len(patches)), **numbers})
    write_index(folder, index, patches.shape[1], 0.5)
    return PatchStore(folder)


def work(cae: CAE, batch: int, width: int) -> tuple[float, float]:
    """Count the least operations and bytes of a trained patch.

    Args:
        cae: the autoencoder.
        batch: patches per step, over which the work of the optimizer is divided.
        width: bytes of a value between layers: 4, or 2 in bfloat16.

    Returns:
        FLOP and bytes. FLOP: convolutions and products, once forward and twice backward; the first layer
        without the gradient of its input. Bytes: the output of each layer, written and read forward and
        backward; and weight, gradient and two moments that adamax reads, and writes except for the gradient.

    """
    flop, moved, first = 0.0, 0.0, None
    for part in (cae.encoder, cae.decoder):
        for layer in part.layers:
            kernel = getattr(layer, "kernel", None)
            if kernel is None:
                continue
            shape = layer.output.shape[1:]
            forward = 2.0 * math.prod(kernel.shape) * math.prod(shape[:-1])
            first = forward if first is None else first
            flop += 3 * forward
            moved += 4 * width * math.prod(shape)
    return flop - first, moved + 7 * 4 * cae.model.count_params() / batch


def device_limits(side: int, cells: int) -> tuple[dict[str, float], float]:
    """Measure the FLOP/s of a large product in float32 and bfloat16, and the bytes/s that a copy reads and writes."""
    flop_per_second = {}
    for name in ("float32", "bfloat16"):
        matrix = keras.ops.ones((side, side), name)
        multiply = compiled(keras.ops.matmul)
        label = f"product in {name}"
        seconds = harness.in_turn({label: lambda m=multiply, x=matrix: wait(m(x, x))}, 5)[label]
        flop_per_second[name] = 2.0 * side**3 / seconds
    values = keras.ops.ones((cells,), "float32")
    copy = compiled(lambda x: x + 1)
    seconds = harness.in_turn({"a pass over memory": lambda: wait(copy(values))}, 5)["a pass over memory"]
    return flop_per_second, 8.0 * cells / seconds


def compiled(function):
    """Compile a function where the backend can."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return function


def wait(result) -> None:
    """Wait for a result that a device may still be computing."""
    np.asarray(keras.ops.convert_to_numpy(keras.ops.ravel(result)[:1]))


class Floats(keras.utils.PyDataset):
    """The notebooks' batches: float32 images from the host, as inputs and as targets."""

    def __init__(self, patches, batch: int):
        super().__init__()
        self._batches = Batches(patches, batch, 0, 1)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, i: int):
        inputs = self._batches[i][0].astype(np.float32) * np.float32(1 / 255)
        return inputs, inputs


def make_ways(patches, pixels: int, batches: list[int], at_once: int):
    """Make the functions to time, each a pass over all patches that returns its mean loss."""

    def network():
        keras.utils.set_random_seed(1)
        return CAE((pixels, pixels, 3), 512, [8, 16, 32])

    notebooks_model = network().model
    notebooks_model.compile(optimizer=keras.optimizers.Adamax(RATE), loss="mse")
    floats = Floats(patches, 32)
    ways = {"the notebooks' way": lambda: notebooks_model.fit(floats, verbose=0).history["loss"][0]}
    for precision in fused.PRECISIONS:
        for batch in batches:
            model = fused.fused_on_bytes(network(), precision)
            optimizer = steps.optimizer("adamax", {"learning_rate": RATE})
            optimizer.build(model.trainable_variables)
            engine = steps.make(model, optimizer, "mse")
            engine.at_once = at_once
            loaded = engine.load(patches, True)

            def epoch(engine=engine, batch=batch, loaded=loaded) -> float:
                return loop.learn(engine, Batches(patches, batch, 0, 1), 1, loaded, lambda _: None)

            ways[f"histocae, {precision}, batch {batch}"] = epoch
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few small patches, to test that the script runs")
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    arguments = parser.parse_args()
    harness.RESULTS = arguments.results
    count, pixels, batches, rounds = (64, 16, [32], 1) if arguments.small else (49_152, 128, [32, 512, 2048], 3)
    side, cells = (256, 2**16) if arguments.small else (8192, 2**28)
    device = keras.distribution.list_devices()[0]
    print(f"{keras.backend.backend()} on {device}")
    flop_per_second, bandwidth = device_limits(side, cells)
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder), textures(count, pixels, 0))
        patches = store.select(store.index())
        ways = make_ways(patches, pixels, batches, 2 if arguments.small else steps.MOST_STEPS)
        losses: dict[str, list[float]] = {name: [] for name in ways}
        medians = harness.in_turn(
            {name: lambda name=name, way=way: losses[name].append(float(way())) for name, way in ways.items()},
            rounds,
            count,
            "patches",
        )
    cae = CAE((pixels, pixels, 3), 512, [8, 16, 32])
    rates = {name: count / seconds for name, seconds in medians.items()}
    for precision, width in (("float32", 4), ("bfloat16", 2)):
        for batch in batches:
            flop, moved = work(cae, batch, width)
            limits = {"FLOP": flop_per_second[precision] / flop, "memory": bandwidth / moved}
            name = f"histocae, {precision}, batch {batch}"
            shares = [f"{rates[name] / limit:.2f} of the {key} limit {limit:,.0f}" for key, limit in limits.items()]
            print(f"{name}: {rates[name]:,.0f} patches/s, {', '.join(shares)}")
    first_losses = {name: values[0] for name, values in losses.items()}
    by_float32 = first_losses["histocae, bfloat16, batch 32"] / first_losses["histocae, float32, batch 32"]
    by_fit = first_losses["histocae, float32, batch 32"] / first_losses["the notebooks' way"]
    print(
        f"loss parity of the first epoch at batch 32: bfloat16 / float32 {by_float32:.4f}, float32 / fit {by_fit:.4f}"
    )
    description = f"trained patches on {keras.backend.backend()}, {device}, [8, 16, 32]/512, bytes on the device"
    best = max(rates[f"histocae, {precision}, batch {batch}"] for precision in fused.PRECISIONS for batch in batches)
    at_32 = max(rates[f"histocae, {precision}, batch 32"] for precision in fused.PRECISIONS)
    reason = "measured on another device than the card of the goal" if arguments.small else None
    compared = f"{description}, the best batch size"
    harness.record("gpu_training", best, 100_000, "higher", compared, "patches/s", reason)
    compared = f"{description}, batch 32"
    harness.record("gpu_training_batch_32", at_32, 20_000, "higher", compared, "patches/s", reason)
    harness.record(
        "gpu_training_vs_seeds",
        best / rates["the notebooks' way"],
        2,
        "higher",
        f"{description}, against Keras' fit at batch 32 on float32 from the host",
        reason=reason,
    )


if __name__ == "__main__":
    main()
