"""Fused layers and compiled steps compute the same results as Keras from the same weights."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocae import CAE
from histocae.networks import backend
from histocae.training.checkpoint import State

backend.start()

import keras  # noqa: E402 (after the backend suppresses its log messages)

from histocae.networks import fused, perceptual  # noqa: E402
from histocae.networks.cae import with_rescaling  # noqa: E402
from histocae.patches.images import InMemory  # noqa: E402
from histocae.training import loop, steps  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def random_weights(cae: CAE, seed: int = 0) -> CAE:
    rng = np.random.default_rng(seed)
    cae.model.set_weights([rng.normal(0, 0.2, weights.shape) for weights in cae.model.get_weights()])
    return cae


@settings(max_examples=8, deadline=None)
@given(
    kernel=st.integers(1, 5),
    pool=st.integers(2, 3),
    stride=st.integers(1, 2),
    layers=st.integers(1, 2),
    latent=st.sampled_from([None, 5]),
    channels=st.sampled_from([1, 3]),
    data=st.data(),
)
def test_fused_layers_compute_the_same_results_as_plain_layers(kernel, pool, stride, layers, latent, channels, data):
    step = (pool * stride) ** layers
    sides = [step * data.draw(st.integers(1, max(1, 24 // step))) for _ in range(2)]
    cae = random_weights(CAE((*sides, channels), latent, [3, 4][:layers], kernel=kernel, stride=stride, pool=pool))
    patches = images(3, *sides, channels)
    expected = with_rescaling(cae).predict_on_batch(patches)
    np.testing.assert_allclose(fused.fused_on_bytes(cae).predict_on_batch(patches), expected, atol=1e-5)
    latents = cae.encoder.predict_on_batch(patches / np.float32(255))
    encoder = steps.compiled(fused.encoder_on_bytes(cae))
    np.testing.assert_allclose(encoder(patches), latents, atol=1e-5 * np.abs(latents).max())


def test_a_fused_model_shares_the_weights_of_its_cae():
    cae = CAE((16, 16, 3), 4, [3, 4])
    before = cae.model.get_weights()
    fused_model = fused.fused_on_bytes(cae)
    assert len(fused_model.trainable_variables) == len(cae.model.trainable_variables)
    fused_model.set_weights([weights + 1 for weights in fused_model.get_weights()])
    for weights, former in zip(cae.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, former + 1)


def test_bfloat16_is_close_to_float32_and_its_weights_and_pixels_are_float32():
    cae = random_weights(CAE((16, 16, 3), 8, [4, 8]))
    patches = images(4, 16, 16, 3)
    exact, coarse = (fused.fused_on_bytes(cae, precision).predict_on_batch(patches) for precision in fused.PRECISIONS)
    assert coarse.dtype == np.float32 and 0 < np.abs(coarse - exact).max() < 0.05
    assert {variable.dtype for variable in fused.fused_on_bytes(cae, "bfloat16").trainable_variables} == {"float32"}
    with pytest.raises(ValueError, match="bfloat16 needs architecture plain, not compact"):
        fused.fused_on_bytes(CAE((16, 16, 3), 8, architecture="compact"), "bfloat16")
    with pytest.raises(ValueError, match="float32, bfloat16"):
        fused.fused_on_bytes(cae, "float16")


def perceptual_loss(file: Path) -> Callable:
    """Save a network and load it as a loss; the small network of tests/support is not there in `make test-jax`."""
    pixels = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="edges")(pixels)
    x = keras.layers.Conv2D(4, 3, strides=2, name="parts")(keras.layers.BatchNormalization()(x))
    keras.Model(pixels, x).save(file)
    return perceptual.load(file, ["edges", "parts"], 0.5, shape=(16, 16, 3), key="perceptual")


@pytest.mark.parametrize("loss", ["mse", "l1", "binary_crossentropy", "perceptual"])
def test_compiled_steps_learn_the_same_weights_as_keras(loss, tmp_path):
    backend.repeatable(1)
    of_patches = perceptual_loss(tmp_path / "network.keras") if loss == "perceptual" else loss
    cae, keras_cae = (random_weights(CAE((16, 16, 3), 6, [3, 4], lossfn=loss)) for _ in range(2))
    patches = images(32, 16, 16, 3).reshape(4, 8, 16, 16, 3)
    fused_model = fused.fused_on_bytes(cae)
    # features are scaled to unit length, so this loss amplifies rounding, and each step what the last one left
    rate = 0.003 if loss == "perceptual" else 0.01
    optimizer = steps.optimizer("adamax", {"learning_rate": rate})
    optimizer.build(fused_model.trainable_variables)
    engine = steps.make(fused_model, optimizer, of_patches)
    keras_cae.model.compile(keras.optimizers.Adamax(rate), {"l1": "mae"}.get(loss, of_patches))
    scaled = patches / np.float32(255)
    flattened = scaled.reshape(-1, *scaled.shape[2:])
    history = keras_cae.model.fit(flattened, flattened, batch_size=8, shuffle=False, verbose=0).history
    losses = np.asarray(engine.learn(patches, patches), float)
    assert losses.mean() == pytest.approx(history["loss"][0], rel=1e-4)
    engine.settle()
    for weights, expected in zip(cae.model.get_weights(), keras_cae.model.get_weights(), strict=True):
        np.testing.assert_allclose(weights, expected, atol=1e-4)
    expected_loss = keras_cae.model.evaluate(scaled[0], scaled[0], verbose=0)
    assert float(engine.evaluate(patches[0])) == pytest.approx(expected_loss, rel=1e-4)


def test_an_epoch_covers_every_patch_and_its_loss_is_their_mean(tmp_path):
    backend.repeatable(1)
    cae = random_weights(CAE((16, 16, 3), 6, [3, 4]))
    patches = images(21, 16, 16, 3)
    expected = np.square(with_rescaling(cae).predict_on_batch(patches) - patches / 255).mean()
    # at a negligible learning rate, all steps have the losses of the initial weights
    options = loop.Options(epochs=1, batch_size=8, patience=1, optimizer="sgd", learning_rate=1e-12, seed=1)
    advanced = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n):
            advanced.append(n)

    state = loop.train(
        cae,
        InMemory(patches),
        InMemory(patches),
        options,
        state=State("t"),
        folder=tmp_path / "t",
        fingerprint="f",
        callbacks=loop.Callbacks(bar=lambda *_: Bar()),
    )
    assert state.rows[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert state.rows[0]["validation_loss"] == pytest.approx(expected, rel=1e-5)
    assert sum(advanced) == 3


@pytest.mark.parametrize("optimizer", ["adamw", "adamax"])
def test_a_compiled_autoencoder_trains_again_as_if_it_were_new(optimizer):
    patches = InMemory(images(21, 16, 16, 3))
    options = loop.Options(
        epochs=3, batch_size=8, patience=3, optimizer=optimizer, learning_rate=0.01, seed=1, schedule="cosine"
    )

    def train(cae: CAE, compiled: loop.Compiled | None) -> tuple[list[dict[str, float]], list[np.ndarray]]:
        state = loop.train(
            cae, patches, patches, options, state=State(""), folder=None, fingerprint="", compiled=compiled
        )
        return state.rows, cae.model.get_weights()

    backend.repeatable(1)
    first, second = (CAE((16, 16, 3), 6, [3, 4]) for _ in range(2))
    weights = second.model.get_weights()
    compiled = loop.Compiled(first, options, len(patches))
    rows, trained = train(first, compiled)
    compiled.restart(weights)
    rows_again, trained_again = train(first, compiled)
    expected_rows, expected = train(second, None)
    assert rows_again == expected_rows != rows
    for weight, same in zip(trained_again, expected, strict=True):
        np.testing.assert_array_equal(weight, same)
    assert not np.array_equal(trained[0], trained_again[0])


@pytest.mark.parametrize(
    ("network", "precision"),
    [({"filters": [3, 4]}, "float32"), ({"filters": [3, 4]}, "bfloat16"), ({"architecture": "compact"}, "float32")],
)
def test_the_gradient_of_all_weights_together_is_clipped(tmp_path, network, precision):
    patches = images(8, 16, 16, 3)

    def one_step(clip_norm: float | None) -> np.ndarray:
        """Learn from one batch with SGD, whose change of the weights is the gradient times the learning rate."""
        backend.repeatable(1)
        cae = CAE((16, 16, 3), 6, **network)
        before = np.concatenate([weights.ravel() for weights in cae.model.get_weights()])
        options = loop.Options(
            epochs=1,
            batch_size=8,
            patience=1,
            optimizer="sgd",
            learning_rate=0.125,
            seed=1,
            clip_norm=clip_norm,
            precision=precision,
        )
        held, folder = InMemory(patches), tmp_path / str(clip_norm)
        loop.train(cae, held, held, options, state=State("t"), folder=folder, fingerprint="f")
        return (np.concatenate([weights.ravel() for weights in cae.model.get_weights()]) - before) / 0.125

    gradient = one_step(None)
    norm = np.linalg.norm(gradient)
    for limit, expected in ((norm / 4, norm / 4), (4 * norm, norm)):
        clipped = one_step(float(limit))
        assert np.linalg.norm(clipped) == pytest.approx(expected, rel=1e-3)
        # scaled down: clipping each weight's gradient alone would change the direction
        assert clipped @ gradient / np.linalg.norm(clipped) / norm == pytest.approx(1, abs=1e-4)


def test_items_computed_ahead_and_their_errors_arrive_in_order():
    assert list(steps.ahead(range(5))) == list(range(5))

    def broken():
        yield 1
        raise OSError("gone")

    items = steps.ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


@pytest.mark.slow
def test_the_benchmark_for_graphics_cards_runs_with_keras_and_a_backend_alone(tmp_path):
    """A small run on the CPU, where no other library that histocae needs can be imported."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    libraries = ["mlflow", "dvc", "pydantic", "yaml", "sklearn", "tqdm", "psutil", "PIL", "matplotlib"]
    if keras.backend.backend() != "tensorflow":
        libraries.append("tensorflow")
    for name in libraries:
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not available')\n")
    result = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/train_gpu.py", "--small", "--results", result],
        env={**os.environ, "PYTHONPATH": f"{blocked}{os.pathsep}{ROOT / 'src'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loss parity" in done.stdout and result.is_file()
