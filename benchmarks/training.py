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
    """Count the floating-point operations of a trained patch: forward pass, and twice as many for the backward pass.

    The first layer needs no gradient of its input.
    """
    total, first = 0.0, None
    for part in (cae.encoder, cae.decoder):
        for layer in part.layers:
            weights = getattr(layer, "kernel", None)
            if weights is None:
                continue
            positions = np.prod(layer.output.shape[1:-1], dtype=float)
            forward = 2 * float(np.prod(weights.shape)) * positions
            first = forward if first is None else first
            total += 3 * forward
    return total - first


def products(cae, batch: int) -> list:
    """Make every product of a step, forward and backward, as TensorFlow functions with the shapes of the step.

    A convolution after upsampling is computed at the smaller side.
    """
    import tensorflow as tf

    functions = []
    for part in (cae.encoder, cae.decoder):
        previous = None
        for layer in part.layers:
            weights = getattr(layer, "kernel", None)
            if weights is not None:
                shape, input_shape = tuple(weights.shape), tuple(layer.input.shape[1:])
                if hasattr(previous, "size"):  # upsampling
                    input_shape = tuple(previous.input.shape[1:])
                    shape = (*shape[:3], shape[3] * previous.size[0] * previous.size[1])
                inputs = tf.random.normal((batch, *input_shape))
                functions += _conv(inputs, shape) if len(shape) == 4 else _dense(inputs, shape)
            previous = layer
    del functions[1]  # the gradient of the images is not computed
    return [tf.function(function) for function in functions]


def _conv(inputs, shape: tuple) -> list:
    """Make the products of a convolution: forward, gradient of the inputs, gradient of the kernel."""
    import tensorflow as tf

    kernel, gradient = tf.random.normal(shape), tf.random.normal((*inputs.shape[:3], shape[3]))
    options = {"strides": 1, "padding": "SAME"}
    return [
        lambda: tf.nn.conv2d(inputs, kernel, **options),
        lambda: tf.nn.conv2d_transpose(gradient, kernel, inputs.shape, **options),
        lambda: tf.raw_ops.Conv2DBackpropFilter(
            input=inputs, filter_sizes=shape, out_backprop=gradient, strides=[1] * 4, padding="SAME"
        ),
    ]


def _dense(inputs, shape: tuple) -> list:
    """Make the products of a dense layer: forward, gradient of the inputs, gradient of the kernel."""
    import tensorflow as tf

    kernel, gradient = tf.random.normal(shape), tf.random.normal((inputs.shape[0], shape[1]))
    return [
        lambda: tf.matmul(inputs, kernel),
        lambda: tf.transpose(tf.matmul(kernel, gradient, transpose_b=True)),
        lambda: tf.matmul(inputs, gradient, transpose_a=True),
    ]


def main() -> None:
    backend.start()
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)  # deterministic operations are off: they might slow down the other ways
    from seeds_training import BATCH, RATE, ImageFiles, compile_as_notebooks_did

    from histocae import CAE
    from histocae.networks import fused
    from histocae.training import loop, steps

    def network():
        return CAE((cohort.PIXELS, cohort.PIXELS, 3), LATENT, FILTERS)

    with tempfile.TemporaryDirectory() as folder:
        patches_by_slide = [patches[:192] for patches in cohort.draw(Path(folder), 4)]
        paths = cohort.files(Path(folder) / "png", patches_by_slide)
        store = cohort.store(Path(folder) / "store", patches_by_slide)
        patches = store.select(store.index())
        iterator, notebooks_model = ImageFiles(paths, cohort.PIXELS), compile_as_notebooks_did(network().model)
        tf_data_model = compile_as_notebooks_did(network().model)
        dataset = (
            tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
            .shuffle(len(paths))
            .map(lambda path: tf.image.decode_png(tf.io.read_file(path), 3), tf.data.AUTOTUNE)
            .batch(BATCH)
            .map(lambda batch: (tf.cast(batch, tf.float32) / 255,) * 2)
            .prefetch(tf.data.AUTOTUNE)
        )

        def histocae(precision: str, batch: int):
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

        matrix = tf.random.normal((GEMM, GEMM))
        gradients = [tf.Variable(tf.random.normal(weights.shape)) for weights in network().model.trainable_variables]
        optimizer = steps.optimizer("adamax", {"learning_rate": 1e-9})
        variables = network().model.trainable_variables
        optimizer.build(variables)

        @tf.function
        def update():
            optimizer.apply([tf.convert_to_tensor(gradient) for gradient in gradients], variables)

        single_products = products(network(), BATCH)

        def products_and_optimizer() -> float:
            """Measure the seconds of each product of a step alone and of the optimizer, for all steps of an epoch."""
            seconds = 0.0
            for function in (*single_products, update):
                function()
                start = time.perf_counter()
                for _ in range(4):
                    function()
                seconds += (time.perf_counter() - start) / 4
            return seconds * len(paths) / BATCH

        epoch_flop = flops(network()) * len(paths)

        def limit() -> float:
            """Compute the seconds of an epoch's products at the speed of a large product, and of the optimizer."""
            start = time.perf_counter()
            for _ in range(4):
                product = tf.matmul(matrix, matrix)
            product.numpy()
            per_flop = (time.perf_counter() - start) / (4 * 2 * GEMM**3)
            start = time.perf_counter()
            for _ in range(4):
                update()
            return epoch_flop * per_flop + (time.perf_counter() - start) / 4 * len(paths) / BATCH

        medians = in_turn(
            {
                "the notebooks' way": lambda: notebooks_model.fit(iterator, verbose=0),
                "tf.data and fit": lambda: tf_data_model.fit(dataset, verbose=0),
                "limit: FLOP and optimizer": limit,
                "limit: products at their own shapes": products_and_optimizer,
                "histocae, batch 32": histocae("float32", BATCH),
                "histocae, batch 32, bfloat16": histocae("bfloat16", BATCH),
                "histocae, batch 128": histocae("float32", 128),
            },
            5,
            len(paths),
            "patches",
        )
    of_notebooks, of_histocae = medians["the notebooks' way"], medians["histocae, batch 32"]
    of_limit = medians["limit: FLOP and optimizer"]
    of_products = medians["limit: products at their own shapes"]

    def step_ms(seconds: float) -> float:
        return 1000 * seconds / len(paths) * BATCH

    description = f"an epoch of {len(paths)} patches, [8, 16, 32]/512, adamax, batch {BATCH}, float32"
    ratio = of_notebooks / of_histocae
    record("training_vs_seeds", ratio, 1.4, "higher", f"{description}: against the notebooks' way")
    record(
        "training_of_limit",
        of_limit / of_histocae,
        0.6,
        "higher",
        f"{description}: share of the speed at the limit, which is {flops(network()) / 1e6:.0f} MFLOP a patch at the "
        f"speed of a product of two {GEMM} x {GEMM} matrices, and the optimizer alone",
        reason=f"the limit is {step_ms(of_limit):.0f} ms a step. The products of a step at their own shapes, each "
        f"alone, and the optimizer take {step_ms(of_products):.0f} ms: dense layers at batch {BATCH} wait for their "
        "weights, and convolutions of 3 to 32 channels use less of the processor than large matrices do. A step "
        f"takes {step_ms(of_histocae):.0f} ms, which is {of_products / of_histocae:.2f} of the speed of its products",
    )
    description = description.removesuffix(", float32")
    record(
        "training_bfloat16_vs_seeds",
        of_notebooks / medians["histocae, batch 32, bfloat16"],
        2,
        "higher",
        f"{description}, training.precision bfloat16: against the notebooks' way in float32",
    )
    ratio = of_notebooks / medians["histocae, batch 128"]
    print(f"batch 128, float32: {ratio:.3g} times the speed of the notebooks' way")


if __name__ == "__main__":
    main()
