"""Training [8, 16, 32]/512 with adamax: the notebooks' way, tf.data and fit, the machine's limit, and histocae."""

import tempfile
import time
from pathlib import Path

import cohort
import numpy as np
from harness import in_turn, record

from histocae.networks import backend
from histocae.training.batches import Batches

FILTERS, LATENT = [8, 16, 32], 512
GEMM = 2048  # side of the matrices whose product measures the FLOP/s


def flops(cae) -> float:
    """Count the floating-point operations of a trained patch: the forward pass, and twice that for the backward pass.

    The first layer needs no gradient of its input.
    """
    total, first = 0.0, None
    for part in (cae.encoder, cae.decoder):
        for layer in part.layers:
            weights = getattr(layer, "kernel", None)
            if weights is None:
                continue
            places = np.prod(layer.output.shape[1:-1], dtype=float)
            own = 2 * float(np.prod(weights.shape)) * places
            first = own if first is None else first
            total += 3 * own
    return total - first


def products(cae, batch: int) -> list:
    """Make every product of a step, forward and backward, as TensorFlow functions with the shapes of the step.

    A convolution after upsampling is computed at the smaller side.
    """
    import tensorflow as tf

    made = []
    for part in (cae.encoder, cae.decoder):
        before = None
        for layer in part.layers:
            weights = getattr(layer, "kernel", None)
            if weights is not None:
                shape, side = tuple(weights.shape), tuple(layer.input.shape[1:])
                if hasattr(before, "size"):  # upsampling
                    side = tuple(before.input.shape[1:])
                    shape = (*shape[:3], shape[3] * before.size[0] * before.size[1])
                given = tf.random.normal((batch, *side))
                made += _conv(given, shape) if len(shape) == 4 else _dense(given, shape)
            before = layer
    del made[1]  # the gradient of the images is not computed
    return [tf.function(one) for one in made]


def _conv(given, shape: tuple) -> list:
    import tensorflow as tf

    kernel, back = tf.random.normal(shape), tf.random.normal((*given.shape[:3], shape[3]))
    how = {"strides": 1, "padding": "SAME"}
    return [
        lambda: tf.nn.conv2d(given, kernel, **how),
        lambda: tf.nn.conv2d_transpose(back, kernel, given.shape, **how),
        lambda: tf.raw_ops.Conv2DBackpropFilter(
            input=given, filter_sizes=shape, out_backprop=back, strides=[1] * 4, padding="SAME"
        ),
    ]


def _dense(given, shape: tuple) -> list:
    import tensorflow as tf

    kernel, back = tf.random.normal(shape), tf.random.normal((given.shape[0], shape[1]))
    return [
        lambda: tf.matmul(given, kernel),
        lambda: tf.transpose(tf.matmul(kernel, back, transpose_b=True)),
        lambda: tf.matmul(given, back, transpose_a=True),
    ]


def main() -> None:
    backend.start()
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)  # without deterministic operations, which might slow the other ways down
    from seeds_training import BATCH, RATE, PictureFiles, compile_as_they_did

    from histocae import CAE
    from histocae.networks import fused
    from histocae.training import loop, steps

    def network():
        return CAE((cohort.PIXELS, cohort.PIXELS, 3), LATENT, FILTERS)

    with tempfile.TemporaryDirectory() as folder:
        cut = [one[:192] for one in cohort.draw(Path(folder), 4)]
        paths = cohort.files(Path(folder) / "png", cut)
        store = cohort.store(Path(folder) / "store", cut)
        patches = store.select(store.index())
        iterator, theirs = PictureFiles(paths, cohort.PIXELS), compile_as_they_did(network().model)
        picked = compile_as_they_did(network().model)
        decoded = (
            tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
            .shuffle(len(paths))
            .map(lambda path: tf.image.decode_png(tf.io.read_file(path), 3), tf.data.AUTOTUNE)
            .batch(BATCH)
            .map(lambda batch: (tf.cast(batch, tf.float32) / 255,) * 2)
            .prefetch(tf.data.AUTOTUNE)
        )

        def ours(precision: str, batch: int):
            cae = network()
            model = fused.fused_on_bytes(cae, precision)
            optimizer = steps.optimizer("adamax", {"learning_rate": RATE})
            optimizer.build(model.trainable_variables)
            engine, epochs = steps.make(model, optimizer, "mse"), [0]

            def epoch() -> None:
                epochs[0] += 1
                batches = Batches(patches, batch, 0, epochs[0])
                loop.learn(engine, batches, epochs[0], False, lambda _: None)

            return epoch

        gemm = tf.random.normal((GEMM, GEMM))
        weights = [tf.Variable(tf.random.normal(one.shape)) for one in network().model.trainable_variables]
        optimizer = steps.optimizer("adamax", {"learning_rate": 1e-9})
        variables = network().model.trainable_variables
        optimizer.build(variables)

        @tf.function
        def update():
            optimizer.apply([tf.convert_to_tensor(one) for one in weights], variables)

        alone = products(network(), BATCH)

        def parts() -> float:
            """Measure the seconds of each single product of a step and of the optimizer, for all steps."""
            seconds = 0.0
            for function in (*alone, update):
                function()
                start = time.perf_counter()
                for _ in range(4):
                    function()
                seconds += (time.perf_counter() - start) / 4
            return seconds * len(paths) / BATCH

        needed = flops(network()) * len(paths)

        def limit() -> float:
            """Compute the seconds of the matrix products at the speed of large ones, and of the optimizer."""
            start = time.perf_counter()
            for _ in range(4):
                product = tf.matmul(gemm, gemm)
            product.numpy()
            per_flop = (time.perf_counter() - start) / (4 * 2 * GEMM**3)
            start = time.perf_counter()
            for _ in range(4):
                update()
            return needed * per_flop + (time.perf_counter() - start) / 4 * len(paths) / BATCH

        took = in_turn(
            {
                "the notebooks' way": lambda: theirs.fit(iterator, verbose=0),
                "tf.data and fit": lambda: picked.fit(decoded, verbose=0),
                "limit: FLOP and optimizer": limit,
                "limit: products at their own shapes": parts,
                "histocae, batch 32": ours("float32", BATCH),
                "histocae, batch 32, bfloat16": ours("bfloat16", BATCH),
                "histocae, batch 128": ours("float32", 128),
            },
            5,
            len(paths),
            "patches",
        )
    seeds, own, bound = took["the notebooks' way"], took["histocae, batch 32"], took["limit: FLOP and optimizer"]
    alone_at = took["limit: products at their own shapes"]

    def step(seconds: float) -> float:
        return 1000 * seconds / len(paths) * BATCH

    about = f"an epoch of {len(paths)} patches, [8, 16, 32]/512, adamax, batch {BATCH}, float32"
    record("training_vs_seeds", seeds / own, 1.4, "higher", f"{about}: against the notebooks' way")
    record(
        "training_of_limit",
        bound / own,
        0.6,
        "higher",
        f"{about}: share of the limit of {flops(network()) / 1e6:.0f} MFLOP a patch at the speed of a product of two "
        f"{GEMM} x {GEMM} matrices, and of the optimizer alone",
        reason=f"the products of a step at their own shapes, each alone, and the optimizer take {step(alone_at):.0f} "
        f"ms where the limit says {step(bound):.0f}: dense layers at batch {BATCH} wait for their weights, and "
        f"convolutions of 3 to 32 channels fill less of the processor than large matrices do. A step takes "
        f"{step(own):.0f} ms, which is {alone_at / own:.2f} of the speed of its products",
    )
    record(
        "training_bfloat16_vs_seeds",
        seeds / took["histocae, batch 32, bfloat16"],
        2,
        "higher",
        f"{about.removesuffix(', float32')}, training.precision bfloat16: against the notebooks' way in float32",
    )
    print(f"batch 128, float32: {seeds / took['histocae, batch 128']:.3g} times the notebooks' way")


if __name__ == "__main__":
    main()
