"""The architectures other than plain: their initial weights, their training, and the patches they learn from."""

import copy
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from histocae import CAE, files, params, params_file
from histocae.cohort import balance as cohorts
from histocae.errors import DataError, HistocaeError, TrainingError
from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL
from histocae.networks import backend, linear
from histocae.networks.blocks import block_side
from histocae.params import Network
from histocae.patches.images import InMemory
from histocae.patches.store import PatchStore
from histocae.planning import networks
from histocae.training.batches import Batches
from histocae.training.checkpoint import State
from support.workspace import ALL_STAGES, ROOT, Workspace

backend.start()

from histocae.evaluation import reconstruction  # noqa: E402
from histocae.networks import linear_start  # noqa: E402
from histocae.training import loop  # noqa: E402 (after the backend suppresses its log messages)


def textures(count, side=32, seed=0):
    """Draw grainy patches of random colors; all are darker at the bottom."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 25, (count, side // 8, side // 8, 3)).repeat(8, 1).repeat(8, 2)
    ramp = np.linspace(40, -40, side)[:, None, None]
    image = np.array([170, 120, 150]) + coarse + ramp + rng.normal(0, 12, (count, side, side, 3))
    return image.clip(0, 255).astype(np.uint8)


def discs(count, seed, side=32):
    """Draw one disc per patch; its position is not linear in the pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    center, radius = rng.uniform(4, side - 4, (2, count, 1, 1)), rng.uniform(3, 7, (count, 1, 1))
    inside = (y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2
    return np.where(inside[..., None], [90, 40, 120], [235, 200, 225]).astype(np.uint8)


def scaled(images):
    return images.astype(np.float32) / np.float32(255)


def split_into_blocks(images, side):
    """Divide images into blocks, row by row."""
    starts = range(0, images.shape[1], side)
    return np.array(
        [image[y : y + side, x : x + side].ravel() / 255.0 for image in images for y in starts for x in starts]
    )


def join_blocks(blocks, images, side):
    """Undo `split_into_blocks`."""
    joined_images, remaining = np.empty(images.shape), iter(blocks)
    for image in joined_images:
        for y in range(0, images.shape[1], side):
            for x in range(0, images.shape[1], side):
                image[y : y + side, x : x + side] = next(remaining).reshape(side, side, 3)
    return joined_images


def initialized(patches, latents, filters=(16, 16)):
    """Make a residual CAE with the weights that it has before training."""
    backend.repeatable(1)
    shape = patches.shape
    cae = CAE(shape, latents, filters, architecture="residual", optimizer="adamw")
    linear_start.start_residual(cae, patches, 1)
    return cae


def make_options(epochs, batch_size, optimizer, rate, **changes):
    """Make options of a training whose patience never ends it early."""
    return loop.Options(
        epochs=epochs,
        batch_size=batch_size,
        patience=epochs,
        optimizer=optimizer,
        learning_rate=rate,
        seed=1,
        **changes,
    )


ALL_OPTIONS = {"schedule": "cosine", "clip_norm": 1.0, "augment": True}


def fit(cae, patches, validation, options, checkpoint, **callbacks):
    """Train a CAE in place, and return the training's state."""
    return loop.train(
        cae,
        InMemory(patches),
        InMemory(validation),
        options,
        state=State(checkpoint.name),
        folder=checkpoint,
        fingerprint="same",
        callbacks=loop.Callbacks(**callbacks),
    )


def apply(model, images):
    """Apply a model to uint8 patches; for a few patches this is faster than `predict`."""
    return np.asarray(model(scaled(images), training=False))


def mse(cae, images):
    return np.square(apply(cae.model, images) - scaled(images)).mean()


def save(cae, folder):
    cae.save(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# -- residual, before its training --


@given(side=st.integers(1, 24).map(lambda n: 16 * n), latents=st.integers(1, 5000))
@settings(max_examples=300)
def test_blocks_share_latents_evenly_and_are_the_smallest_with_eight_latents(side, latents):
    def latents_per_block(block):
        return latents / (side / block) ** 2

    block = block_side(side, latents)
    assert (
        side % block == 0
        and latents_per_block(block) * (side // block) ** 2 == latents
        and latents_per_block(block) % 1 == 0
    )
    smaller = [16 * 2**n for n in range(5) if 16 * 2**n < block]
    assert not [
        block
        for block in smaller
        if side % block == 0 and latents_per_block(block) % 1 == 0 and latents_per_block(block) >= 8
    ]
    if block != side:
        assert latents_per_block(block) >= 8 and block in (16, 32, 64, 128, 256)


@pytest.mark.parametrize(
    ("side", "latents", "block"),
    [(32, 32, 16), (64, 128, 16), (64, 64, 32), (64, 30, 64), (32, 7, 32), (48, 72, 16), (48, 10, 48), (16, 5, 16)],
)
def test_residual_starts_as_the_principal_components_of_blocks(side, latents, block):
    assert block_side(side, latents) == block
    train, held_out = textures(40, side), textures(12, side, seed=1)
    cae = initialized(InMemory(train), latents)
    assert cae.encoder.output_shape == (None, latents)
    assert cae.decoder.output_shape == (None, side, side, 3)
    blocks, latents_per_block = split_into_blocks(train, block), latents // (side // block) ** 2
    mean = blocks.mean(0)
    components = np.linalg.svd(blocks - mean, full_matrices=False)[2][:latents_per_block]
    for images in (train, held_out):
        expected = join_blocks(
            mean + (split_into_blocks(images, block) - mean) @ components.T @ components, images, block
        )
        np.testing.assert_allclose(apply(cae.model, images), expected, atol=1e-4)
    # whitened: each component over all blocks of the patches it was computed from
    latents_of_blocks = apply(cae.encoder, train).reshape(-1, latents_per_block)
    np.testing.assert_allclose(latents_of_blocks.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(latents_of_blocks.std(0, ddof=1), 1, rtol=1e-3)


def test_latents_beyond_the_components_of_few_patches_start_at_zero():
    train, held_out = textures(6), textures(6, seed=1)
    cae = initialized(InMemory(train), 18)  # blocks are whole patches, and six of them span five directions
    assert block_side(32, 18) == 32
    assert mse(cae, train) < 1e-8
    latents = apply(cae.encoder, held_out)
    assert np.abs(latents).max() < 100 and not latents[:, 5:].any()


def test_a_sample_of_blocks_is_seeded_and_close_to_the_fit_of_all_blocks(monkeypatch):
    blocks = np.rint(split_into_blocks(textures(20, seed=1), 16).reshape(-1, 16, 16, 3) * 255).astype(np.uint8)
    patches, held_out = InMemory(textures(60)), InMemory(blocks)
    exact = linear.fit_blocks(patches, 16, 8, 1)
    monkeypatch.setattr(linear, "MOST_AT_ONCE", 80)
    monkeypatch.setattr(linear, "BATCH", 7)
    sample, repeated, other_seed = (linear.fit_blocks(patches, 16, 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(sample.components, repeated.components)
    assert not np.array_equal(sample.components, other_seed.components)
    assert exact.errors(held_out).mean() <= sample.errors(held_out).mean() < 1.1 * exact.errors(held_out).mean()


@pytest.mark.parametrize("architecture", ["residual", "pca"])
def test_residual_and_pca_are_saved_and_loaded_without_a_changed_byte(tmp_path, architecture):
    patches = InMemory(textures(20))
    caes = [
        initialized(patches, 32) if architecture == "residual" else linear_start.fitted_pca(patches, 8, 1)
        for _ in range(2)
    ]
    contents = save(caes[0], tmp_path / "a")
    assert save(caes[1], tmp_path / "b") == contents
    loaded = CAE(path=tmp_path / "a", load=True)
    assert loaded.params == caes[0].params and loaded.params["architecture"] == architecture
    for part in ("encoder", "model"):
        expected, reconstructed = (
            apply(getattr(model, part), patches.take(np.arange(20))) for model in (caes[0], loaded)
        )
        np.testing.assert_array_equal(reconstructed, expected)
    assert save(loaded, tmp_path / "c") == contents
    params_path = tmp_path / "a/params.yaml"
    (tmp_path / "a/SHA256SUMS").unlink()  # as versions saved that wrote no hashes
    params_path.write_text(params_path.read_text().replace(architecture, "unheard-of"))
    with pytest.raises(HistocaeError, match="unheard-of"):
        CAE(path=tmp_path / "a", load=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (40, 40, 3), "latent_features": 8, "architecture": "residual"}, "multiple of 16"),
        ({"input_shape": (32, 48, 3), "latent_features": 8, "architecture": "residual"}, "square"),
        ({"input_shape": (32, 32, 3), "architecture": "residual"}, "latent_features"),
        (
            {"input_shape": (32, 32, 3), "latent_features": 8, "filters": [8] * 3, "architecture": "residual"},
            "two filters",
        ),
        ({"input_shape": (32, 32, 3), "architecture": "pca"}, "latent_features"),
    ],
)
def test_invalid_options_raise_a_value_error(options, message):
    with pytest.raises(ValueError, match=message):
        CAE(**options)


# -- principal components --


@given(
    rows=st.integers(2, 30),
    values=st.integers(1, 30),
    rank=st.integers(1, 30),
    requested=st.integers(1, 30),
    offset=st.floats(-1, 1),
    seed=st.integers(0, 99),
)
def test_components_equal_those_of_a_singular_value_decomposition(rows, values, rank, requested, offset, seed):
    rng = np.random.default_rng(seed)
    rank, requested = min(rank, values), min(requested, values)
    samples = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, values)) + offset
    fitted = linear.principal(samples.astype(np.float32), requested)
    centered = samples - samples.mean(0)
    singular = np.linalg.svd(centered, compute_uv=False)
    # the number of directions that vary; rounding decides whether those that hardly vary are kept
    least = int(np.count_nonzero(singular[:requested] > 0.01 * singular[0]))
    most = int(np.count_nonzero(singular[:requested] > 1e-4 * singular[0]))
    kept = len(fitted.components)
    assert least <= kept <= max(most, 1)
    np.testing.assert_allclose(fitted.components @ fitted.components.T, np.eye(kept), atol=2e-3)
    np.testing.assert_allclose(fitted.deviations, singular[:kept] / math.sqrt(rows - 1), rtol=0.1)
    np.testing.assert_allclose(fitted.mean, samples.mean(0), atol=1e-5)
    residuals = centered - centered @ fitted.components.T @ fitted.components
    smallest = np.square(singular[kept:]).sum()
    assert np.square(residuals).sum() <= smallest + 1e-3 * np.square(centered).sum()
    largest = fitted.components[np.arange(kept), np.abs(fitted.components).argmax(1)]
    assert (largest > 0).all()


@pytest.mark.parametrize("count", [70, 12])  # many more patches than components, and few more
def test_errors_of_pca_equal_those_of_scikit_learn(count):
    from sklearn.decomposition import PCA

    train, held_out = textures(count), textures(30, seed=1)
    cae = linear_start.fitted_pca(InMemory(train), 10, 1)
    reference = PCA(10, svd_solver="full").fit(train.reshape(count, -1) / 255)
    flat = held_out.reshape(30, -1) / 255
    expected = np.square(reference.inverse_transform(reference.transform(flat)) - flat).mean(1)
    np.testing.assert_allclose(reconstruction.measure_mse(cae, InMemory(held_out), "test"), expected, rtol=1e-3)
    fitted = linear.fit(InMemory(train), 10, 1)
    np.testing.assert_allclose(fitted.errors(InMemory(held_out)), expected, rtol=1e-3)
    np.testing.assert_allclose(np.square(fitted.residuals(held_out)).mean((1, 2, 3)), expected, rtol=1e-3)
    several = fitted.errors_of_leading(InMemory(held_out), [1, 3])
    for column, count in enumerate((1, 3)):
        np.testing.assert_allclose(several[:, column], fitted.leading(count).errors(InMemory(held_out)), rtol=1e-5)
    np.testing.assert_allclose(np.abs(fitted.encode(held_out)), np.abs(reference.transform(flat)), atol=2e-3)
    np.testing.assert_allclose(fitted.deviations, np.sqrt(reference.explained_variance_), rtol=1e-3)
    kernel = cae.encoder.get_layer("latent").get_weights()[0]
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(10), atol=1e-4)


def test_pca_of_few_patches_has_fewer_components_and_logs_their_number(caplog):
    train = textures(9)
    cae = linear_start.fitted_pca(InMemory(train), 64, 1)
    assert cae.params["latent_features"] == 8 and cae.encoder.output_shape == (None, 8)
    assert "64 principal components requested, but 9 patches allow only 8" in caplog.text
    assert mse(cae, train) < 1e-8
    with pytest.raises(TrainingError, match="two patches"):
        linear_start.fitted_pca(InMemory(train[:1]), 4, 1)
    with pytest.raises(DataError, match="all the same"):
        linear_start.fitted_pca(InMemory(train[[0, 0, 0]]), 4, 1)


def test_few_patches_of_many_values_are_fitted_at_once(monkeypatch):
    train = InMemory(textures(30))
    exact = linear.fit(train, 6, 1)
    monkeypatch.setattr(linear, "MOST_VALUES", 1000)
    np.testing.assert_array_equal(linear.fit(train, 6, 1).components, exact.components)


def test_many_patches_of_few_values_are_fitted_at_once(monkeypatch):
    train = InMemory(np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1), dtype=np.uint8))
    exact = linear.fit(train, 6, 1)
    monkeypatch.setattr(linear, "MOST_AT_ONCE", 100)
    np.testing.assert_array_equal(linear.fit(train, 6, 1).components, exact.components)


def test_pca_batch_by_batch_is_seeded_and_close_to_the_exact_fit(monkeypatch):
    train, held_out = InMemory(textures(120)), InMemory(textures(30, seed=1))
    exact = linear.fit(train, 6, 1)
    monkeypatch.setattr(linear, "MOST_AT_ONCE", 100)
    monkeypatch.setattr(linear, "BATCH", 25)
    batchwise, repeated, other_seed = (linear.fit(train, 6, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(batchwise.components, repeated.components)
    assert not np.array_equal(batchwise.components, other_seed.components)
    np.testing.assert_allclose(batchwise.components @ batchwise.components.T, np.eye(6), atol=1e-4)
    np.testing.assert_allclose(batchwise.mean, exact.mean, atol=1e-5)
    assert exact.errors(train).mean() < batchwise.errors(train).mean() < 1.05 * exact.errors(train).mean()
    assert batchwise.errors(held_out).mean() == pytest.approx(exact.errors(held_out).mean(), rel=0.05)


# -- training --


def test_residual_learns_more_than_a_linear_map_can(tmp_path):
    train, held_out = discs(640, 0), discs(64, 1)
    cae = initialized(InMemory(train), 16, (32, 32))
    start = mse(cae, held_out)
    assert mse(linear_start.fitted_pca(InMemory(train), 16, 1), held_out) == pytest.approx(start, rel=1e-3)
    options = make_options(5, 16, "adamw", 0.004, **ALL_OPTIONS)
    fit(cae, train, discs(64, 2), options, tmp_path / "t")
    assert mse(cae, held_out) < 0.93 * start


@pytest.fixture
def optimizers(monkeypatch):
    """The optimizers of the trainings so far."""
    models, build = [], loop.fused_on_bytes
    monkeypatch.setattr(loop, "fused_on_bytes", lambda *arguments: models.append(build(*arguments)) or models[-1])
    return lambda: [model.optimizer for model in models]


@pytest.mark.parametrize(("epochs", "steps"), [(10, 8), (1, 3)])
def test_the_learning_rate_warms_up_and_ends_at_zero(tmp_path, optimizers, epochs, steps):
    rates = []

    def record(_):
        rates.append(float(optimizers()[0].learning_rate))

    options = make_options(epochs, 4, "adam", 0.01, schedule="cosine", clip_norm=0.5)
    patches = textures(4 * steps - 1, 16)
    fit(CAE((16, 16, 3), 4, [2]), patches, patches, options, tmp_path / "t", on_start=record, on_epoch=record)
    assert optimizers()[0].global_clipnorm == 0.5 and optimizers()[0].clipnorm is None
    assert len(rates) == epochs + 1 and rates[-1] == pytest.approx(0, abs=1e-9)
    warmup_steps = epochs * steps // 10
    if not warmup_steps:
        assert rates[0] == pytest.approx(0.01)
        return
    np.testing.assert_allclose(
        rates[: warmup_steps // steps + 1], 0.01 * np.arange(0, warmup_steps + 1, steps) / warmup_steps, rtol=1e-4
    )
    falling = np.arange(0, epochs * steps - warmup_steps + 1, steps) / (epochs * steps - warmup_steps)
    np.testing.assert_allclose(rates[warmup_steps // steps :], 0.005 * (1 + np.cos(np.pi * falling)), atol=1e-7)


def test_a_constant_learning_rate_without_clipping_is_the_default(tmp_path, optimizers):
    patches = textures(4, 16)
    fit(CAE((16, 16, 3), 4, [2]), patches, patches, make_options(2, 4, "sgd", 0.01), tmp_path / "t")
    (optimizer,) = optimizers()
    assert float(optimizer.learning_rate) == pytest.approx(0.01) and optimizer.global_clipnorm is None


class KilledError(Exception):
    """A training was killed."""


def test_a_resumed_training_equals_an_uninterrupted_one_to_the_byte(tmp_path):
    patches, validation = textures(12, 16), textures(4, 16, seed=1)
    options = make_options(3, 4, "adamw", 0.002, **ALL_OPTIONS)

    def kill(state):
        if len(state.rows) == 2:
            raise KilledError

    uninterrupted, killed, resumed = (initialized(InMemory(patches), 5) for _ in range(3))
    state = fit(uninterrupted, patches, validation, options, tmp_path / "uninterrupted")
    with pytest.raises(KilledError):
        fit(killed, patches, validation, options, tmp_path / "killed", on_epoch=kill)
    starts = []
    resumed_state = fit(
        resumed,
        patches,
        validation,
        options,
        tmp_path / "killed",
        on_start=lambda state: starts.append(len(state.rows)),
    )
    assert starts == [1] and resumed_state.rows == state.rows and len(resumed_state.rows) == 3
    assert save(resumed, tmp_path / "a") == save(uninterrupted, tmp_path / "b")


def test_the_share_of_shifted_inputs_falls_and_targets_are_not_shifted():
    images = textures(64, 16)
    batches = Batches(InMemory(images), 16, 3, 1, denoise=(2, 1.0, 0.0))
    order = np.random.default_rng([3, 1]).permutation(64)
    shifted_shares = []
    for i in range(len(batches)):
        inputs, targets = batches[i]
        np.testing.assert_array_equal(targets, images[order[16 * i : 16 * i + 16]])
        shifted_shares.append((inputs != targets).any(axis=(1, 2, 3)).mean())
        for shifted, padded in zip(
            inputs, np.pad(targets, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge"), strict=True
        ):
            offsets = [
                (y, x) for y in range(5) for x in range(5) if (padded[y : y + 16, x : x + 16] == shifted).all()
            ]
            assert offsets
    assert shifted_shares[0] > 0.7 and shifted_shares[-1] < 0.3
    repeated = Batches(InMemory(images), 16, 3, 1, denoise=(2, 1.0, 0.0))
    np.testing.assert_array_equal(repeated[2][0], batches[2][0])
    for inputs, targets in (Batches(InMemory(images), 64, 3, 1, denoise=(2, 0.0, 0.0))[0],):
        np.testing.assert_array_equal(inputs, targets)


def test_denoising_falls_over_the_epochs_and_ends_where_params_say(tmp_path, monkeypatch):
    shares = []
    make_batches = Batches

    def record(*arguments, **options):
        if options:
            shares.append(options["denoise"])
        return make_batches(*arguments, **options)

    monkeypatch.setattr(loop, "Batches", record)
    options = make_options(4, 4, "sgd", 0.01, denoise=params.Denoise(shift=1, until=0.5))
    patches = textures(8, 16)
    fit(CAE((16, 16, 3), 4, [2]), patches, patches, options, tmp_path / "t")
    assert shares == [(1, 1.0, 0.5), (1, 0.5, 0.0), (1, 0.0, 0.0), (1, 0.0, 0.0)]


def test_compact_learns_has_unbounded_latents_and_accepts_gray_patches(tmp_path):
    train, held_out = discs(640, 0), discs(64, 1)
    backend.repeatable(1)
    cae = CAE((32, 32, 3), 16, architecture="compact", optimizer="adamw")
    assert cae.params["filters"] == [16, 64] and cae.encoder.output_shape == (None, 16)
    first = mse(cae, held_out)
    options = make_options(4, 16, "adamw", 0.002, schedule="cosine", clip_norm=1.0)
    fit(cae, train, discs(64, 2), options, tmp_path / "t")
    assert mse(cae, held_out) < 0.3 * first
    assert (apply(cae.encoder, held_out) < 0).any()
    gray = CAE((8, 8, 1), 3, [4, 8], architecture="compact")
    assert gray.model.output_shape == (None, 8, 8, 1)
    for shape, latents, filters in (((30, 30, 3), 4, None), ((32, 32, 3), None, None), ((32, 32, 3), 4, [8])):
        with pytest.raises(ValueError, match="compact needs"):
            CAE(shape, latents, filters, architecture="compact")


def test_augmentation_turns_and_mirrors_patches_and_changes_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)

    def epoch(number, augment, seed=1):
        batches = Batches(InMemory(images), 16, seed, number, augment=augment)
        pairs = [batches[i] for i in range(len(batches))]
        assert all(x.dtype == np.uint8 and np.array_equal(x, y) for x, y in pairs)
        return np.concatenate([x for x, _ in pairs])

    def forms(number, seed=1):
        """Identify the form, 0 to 7, of each patch; the order is the same as without augmentation."""
        numbers = []
        for before, after in zip(epoch(number, False, seed), epoch(number, True, seed), strict=True):
            possible = [np.rot90(patch, k) for patch in (before, before[:, ::-1]) for k in range(4)]
            (form_number,) = [i for i, form in enumerate(possible) if np.array_equal(form, after)]
            numbers.append(form_number)
        return numbers

    plain, turned = epoch(1, False), epoch(1, True)
    assert sorted(map(bytes, plain)) == sorted(map(bytes, images)) and plain.tobytes() != images.tobytes()
    assert set(forms(1)) == set(range(8))
    assert forms(1) != forms(2) and forms(1) != forms(1, seed=2)
    np.testing.assert_array_equal(epoch(1, True), turned)
    unshuffled = Batches(InMemory(images), 16, None)
    np.testing.assert_array_equal(np.concatenate([unshuffled[i][0] for i in range(4)]), images)


def test_a_training_measures_pca_once_and_leaves_it_unchanged(tmp_path):
    patches, validation = textures(23), textures(9, seed=1)
    cae = linear_start.fitted_pca(InMemory(patches), 5, 1)
    before = save(cae, tmp_path / "before")
    options = make_options(7, 4, "adamw", 0.002, **ALL_OPTIONS)
    state = fit(cae, patches, validation, options, tmp_path / "t")
    assert save(cae, tmp_path / "after") == before
    assert [row["epoch"] for row in state.rows] == [1] and state.best_epoch == 1
    # the last batch counts by its number of patches, and no patch was turned
    assert state.rows[0]["loss"] == pytest.approx(mse(cae, patches), rel=1e-5)
    assert state.rows[0]["validation_loss"] == state.best == pytest.approx(mse(cae, validation), rel=1e-5)
    assert fit(cae, patches, validation, options, tmp_path / "t") == state  # resumed: the training is complete


# -- patches that the models of a pair learn from --

TISSUES = {"tumor": PRIMARY_TUMOR, "normal": SOLID_TISSUE_NORMAL}
one_patch = st.tuples(
    st.integers(0, 6), st.sampled_from(list(TISSUES.values())), st.sampled_from([math.nan, 0.0, 40.0, 80.0])
)


def make_table(rows):
    table = pd.DataFrame(rows, columns=["case_id", "patch_label", "percent_tumor_nuclei"])
    return table.assign(case_id="case-" + table["case_id"].astype(str), position=np.arange(len(table)))


tables = (
    st.lists(one_patch, min_size=2, max_size=60)
    .map(make_table)
    .filter(lambda table: table["patch_label"].nunique() == 2)
)


@given(
    table=tables,
    balance=st.sampled_from(["patches", "cases", "none"]),
    least=st.sampled_from([None, 40.0]),
    seed=st.integers(0, 9),
)
def test_both_tissues_have_equally_many_patches_spread_evenly_over_cases(table, balance, least, seed):
    eligible = table["percent_tumor_nuclei"].fillna(-1) >= (least or -1)
    pools = {
        "tumor": table[(table["patch_label"] == PRIMARY_TUMOR) & eligible],
        "normal": table[table["patch_label"] == SOLID_TISSUE_NORMAL],
    }
    assert cohorts.sample(table, "all", balance, least, seed).equals(table)
    if pools["tumor"].empty:
        if balance == "none":  # then samples of normal tissue do not depend on the tumor patches
            assert cohorts.sample(table, "normal", balance, least, seed).equals(pools["normal"])
        for cohort in ("tumor",) if balance == "none" else TISSUES:
            with pytest.raises(DataError, match=r"min_percent_tumor_nuclei: no tumor slide of this part"):
                cohorts.sample(table, cohort, balance, least, seed)
        return
    samples = {cohort: cohorts.sample(table, cohort, balance, least, seed) for cohort in TISSUES}
    for cohort, rows in samples.items():
        # rows of this tissue, once each, in order
        assert rows.equals(pools[cohort][pools[cohort].index.isin(rows.index)])
        assert rows.equals(cohorts.sample(table, cohort, balance, least, seed))
    counts = {cohort: rows["case_id"].value_counts() for cohort, rows in samples.items()}
    if balance == "none":
        assert all(samples[cohort].equals(pools[cohort]) for cohort in TISSUES)
    elif balance == "patches":
        assert len(samples["tumor"]) == len(samples["normal"]) == min(map(len, pools.values()))
    else:
        assert len(samples["tumor"]) == len(samples["normal"])
        cases = min(pool["case_id"].nunique() for pool in pools.values())
        for cohort, count in counts.items():
            assert len(count) == cases
            available = pools[cohort]["case_id"].value_counts()
            fewer = count[count < count.max() - 1]
            assert (fewer == available[fewer.index]).all()  # only a case with too few patches has fewer in the sample


def test_samples_of_cases_have_as_many_patches_as_the_drawn_cases_allow():
    rows = [(case, PRIMARY_TUMOR, 80.0) for case in range(5) for _ in range(10)]
    rows += [(case, SOLID_TISSUE_NORMAL, math.nan) for case in (5, 6) for _ in range(3 if case == 5 else 30)]
    table = make_table(rows)
    samples = {cohort: cohorts.sample(table, cohort, "cases", None, 1)["case_id"] for cohort in TISSUES}
    assert samples["tumor"].value_counts().tolist() == [10, 10]
    assert samples["normal"].value_counts().to_dict() == {"case-6": 17, "case-5": 3}
    draws = {tuple(cohorts.sample(table, "tumor", "cases", None, seed)["case_id"].unique()) for seed in range(20)}
    assert len(draws) > 3


def test_a_pair_needs_both_tissues():
    table = make_table([(0, PRIMARY_TUMOR, 80.0), (1, PRIMARY_TUMOR, 80.0)])
    assert len(cohorts.sample(table, "all", "patches", 90.0, 1)) == 2
    for cohort in TISSUES:
        for balance in ("patches", "cases"):
            with pytest.raises(DataError, match=f"no patches of {SOLID_TISSUE_NORMAL}"):
                cohorts.sample(table, cohort, balance, None, 1)
    # without balance the other tissue has no part in it
    assert len(cohorts.sample(table, "tumor", "none", None, 1)) == 2
    with pytest.raises(DataError, match=f"no patches of {SOLID_TISSUE_NORMAL}"):
        cohorts.sample(table, "normal", "none", None, 1)


# -- params --

COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
PAIR = {
    "all": {"filters": [8], "latent_features": 4},
    "tumor": {"cohort": "tumor", "filters": [8]},
    "normal": {"cohort": "normal", "filters": [8]},
}


PERCEPTUAL = {
    "filters": [8],
    "loss": "perceptual",
    "perceptual": {"network": "vgg.keras", "layers": ["a", "b"], "weight": 0.1},
}


def perceptual(**changed):
    return PERCEPTUAL | {"perceptual": PERCEPTUAL["perceptual"] | changed}


def load_params(tmp_path, models, **changed):
    values = copy.deepcopy(COMMITTED) | {"models": models}
    for name, value in changed.items():
        section, key = name.split("__")
        values[section][key] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return params_file.load(file)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tumor": {"cohort": "all", "filters": [8]}}, "models.tumor.cohort: tissue.tumor names this model"),
        ({"normal": {"cohort": "tumor", "filters": [8]}}, "models.normal.cohort: tissue.normal names this model"),
        (
            {"tumor": {"cohort": "tumor", "architecture": "residual", "latent_features": 8}},
            "tumor and normal, the pair of tissue, differ in architecture",
        ),
        ({"tumor": {"cohort": "tumor", "filters": [8], "loss": "l1", "kernel": 5}}, "differ in kernel and loss"),
        ({"x": {"architecture": "pca", "latent_features": 8, "filters": [8]}}, "models.x.filters: pca has none"),
        ({"x": {"architecture": "pca"}}, "models.x.latent_features: missing; pca needs them"),
        ({"x": {"architecture": "pca", "latent_features": 8, "loss": "l1"}}, "models.x.loss: pca is"),
        ({"x": {"filters": [8], "loss": "mae"}}, "models.x.loss: expected one of 'mse', 'l1', 'ssim', 'mse+ssim'"),
        (
            {"patches__pixels": 8, "x": {"filters": [8], "loss": "ssim"}},
            "ssim needs a side of 11 pixels",
        ),
        ({"x": PERCEPTUAL | {"perceptual": None}}, "models.x.perceptual: missing; loss perceptual needs {network: "),
        (
            {"x": PERCEPTUAL | {"loss": "mse"}},
            "models.x.perceptual: only loss perceptual uses it, not mse; remove it",
        ),
        (
            {"x": {**PERCEPTUAL, "filters": None, "architecture": "pca", "latent_features": 8}},
            "models.x.loss: pca is a least-squares fit; its loss is mse",
        ),
        (
            {"x": {**PERCEPTUAL, "filters": None, "architecture": "pca", "latent_features": 8, "loss": "mse"}},
            "models.x.perceptual: only loss perceptual uses it, not mse",
        ),
        ({"x": perceptual(network="vgg.h5")}, "models.x.perceptual.network: expected a file of Keras, NAME.keras ("),
        ({"x": perceptual(layers=[])}, "models.x.perceptual.layers: "),
        ({"x": perceptual(layers=["a", "b", "a"])}, "models.x.perceptual.layers: a more than once"),
        ({"x": perceptual(weight=0.0)}, "models.x.perceptual.weight: "),
        ({"x": perceptual(weights=1.0)}, "models.x.perceptual.weights: unknown key; did you mean weight?"),
        (
            {"tumor": PERCEPTUAL | {"cohort": "tumor"}, "normal": perceptual(weight=0.2) | {"cohort": "normal"}},
            "tumor and normal, the pair of tissue, differ in perceptual; ",
        ),
        ({"x": {"architecture": "pca", "latent_features": 8, "pool": 3}}, "models.x.pool: only plain has this key"),
        ({"x": {"architecture": "pca", "latent_features": 49153}}, "models.x.latent_features: more than the 49152"),
        ({"x": {"architecture": "residual"}}, "models.x.latent_features: missing; residual needs them"),
        (
            {"x": {"architecture": "residual", "latent_features": 8, "filters": [8] * 3}},
            "models.x.filters: residual has two",
        ),
        (
            {
                "x": {"architecture": "pca", "latent_features": 8},
                "y": {"architecture": "pca", "latent_features": 8, "init_from": "x"},
            },
            "models.y.init_from: pca is computed from the patches",
        ),
        (
            {"x": {"architecture": "residual", "latent_features": 4, "init_from": "all"}},
            "models.x.init_from: all differs in architecture",
        ),
        ({"x": {}}, "models.x.filters: missing; plain needs them"),
        ({"x": {"architecture": "dense"}}, "models.x.architecture: expected one of 'plain', 'residual', "),
        ({"x": {"architecture": "compact"}}, "models.x.latent_features: missing; compact needs them"),
        ({"x": {"architecture": "compact", "latent_features": 8, "filters": [8]}}, "x.filters: compact has two"),
        ({"x": {"architecture": "compact", "latent_features": 8, "loss": "binary_crossentropy"}}, "x.loss: compact"),
        ({"patches__pixels": 34, "x": {"architecture": "compact", "latent_features": 8}}, "multiple of 4, not 34"),
        ({"training__denoise": {"shift": 1, "til": 0.5}}, "training.denoise.til: unknown key; did you mean until"),
        ({"training__denoise": {"shift": 0, "until": 0.5}}, "training.denoise.shift: "),
        ({"patches__pixels": 40, "x": {"architecture": "residual", "latent_features": 8}}, "multiple of 16, not 40"),
        ({"tissue__latents": "nobody"}, "tissue.latents: models has no entry 'nobody'"),
        ({"crossvalidation__folds": 5, "tumor": None, "normal": None}, "crossvalidation.folds: needs the pair"),
        (
            {"tissue__confidence": 0.999, "tissue__permutations": 998},
            "tissue.permutations: at a confidence of 0.999 set at least 999",
        ),
        ({"training__schedule": "linear"}, "training.schedule: expected one of 'constant' or 'cosine'"),
        ({"training__clip_norm": 0.0}, "training.clip_norm: "),
        ({"training__balance": "slides"}, "training.balance: expected one of"),
        ({"training__min_percent_tumor_nuclei": 101.0}, "training.min_percent_tumor_nuclei: "),
    ],
)
def test_invalid_params_of_an_architecture_or_the_pair_are_reported_in_one_line(tmp_path, changed, message):
    models = PAIR | {name: entry for name, entry in changed.items() if "__" not in name}
    models = {name: entry for name, entry in models.items() if entry is not None}
    with pytest.raises(params.ParamsError) as error:
        load_params(tmp_path, models, **{name: entry for name, entry in changed.items() if "__" in name})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_section_tissue_names_the_models_of_the_pair(tmp_path):
    assert load_params(tmp_path, PAIR).pair == ("tumor", "normal")
    assert load_params(tmp_path, {"all": PAIR["all"]}).pair is None
    second_pair = {name: PAIR["all"] | {"cohort": cohort} for name, cohort in (("t", "tumor"), ("n", "normal"))}
    assert load_params(tmp_path, PAIR | second_pair, tissue__tumor="t", tissue__normal="n").pair == ("t", "n")


# -- the stages --

MODELS = {
    "residual": {
        "architecture": "residual",
        "latent_features": 32,
        "optimizer": "adamw",
        "schedule": "cosine",
        "clip_norm": 1.0,
        "augment": True,
    },
    "pca": {"cohort": "tumor", "architecture": "pca", "latent_features": 500},
    "map": {"filters": [4], "latent_features": None},
}
SPLITS = ("train", "validation", "test")


def test_a_training_hashes_each_table_of_the_split_once(project: Workspace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    project.slides(*"abcdefgh")
    small_params = {"training__epochs": 1, "patches__max_per_slide": 20}
    network = {"filters": [4], "latent_features": None}
    project.params(models={"first": network, "second": {**network, "init_from": "first"}}, **small_params)
    project.make(*ALL_STAGES, "train first")
    files._sha256_of_state.cache_clear()
    hashed_paths, file_digest = [], hashlib.file_digest

    def counting(handle, algorithm):
        hashed_paths.append(Path(handle.name))
        return file_digest(handle, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    project.make("train second")
    tables = [path.name for path in hashed_paths if path.parent.name == "splits"]
    assert sorted(tables) == sorted(f"{split}.csv" for split in SPLITS)


def test_stages_train_and_evaluate_every_architecture(project: Workspace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # unreachable: other tests are of tracking
    project.slides(*"abcdefgh")
    small = {"training__epochs": 2, "training__batch_size": 48, "patches__max_per_slide": 40}
    project.params(models=MODELS, **small)
    project.make(*ALL_STAGES, *(f"{stage} {model}" for model in MODELS for stage in ("train", "evaluate")))
    tables = {split: cohorts.read_split(project.folder / f"data/splits/{split}.csv") for split in SPLITS}
    store = PatchStore(project.folder / "data/patches")
    pixels = {split: store.select(table).take(np.arange(len(table))) for split, table in tables.items()}
    learned = len(cohorts.sample(tables["train"], "tumor", "patches", None, COMMITTED["seed"]))
    features = {"residual": 32, "pca": learned - 1, "map": None}
    for name in MODELS:
        cae = CAE(path=project.folder / "models/trained" / name, load=True)
        record = json.loads((project.folder / "models/trained" / name / "training.json").read_text())
        assert record["latent_features"] == features[name]
        assert record["latent_size"] == (features[name] or 16 * 16 * 4)
        assert record["parameters"] == cae.model.count_params()
        history = project.folder / "models/trained" / name / "history.csv"
        assert len(pd.read_csv(history, sep="|")) == record["epochs"] == (1 if name == "pca" else 2)

        folder = project.folder / "reports/models" / name / "evaluation"
        test, validation = (pd.read_csv(folder / f"per_patch{suffix}.csv") for suffix in ("", "_validation"))
        columns = ["slide_id", "case_id", "sample_type", "shard", "position"]
        assert list(test.columns) == [*columns, "mse", "psnr", "ssim", "mean_color_mse"]
        assert list(validation.columns) == [*columns, "mse"]
        for table, split in ((test, "test"), (validation, "validation")):
            # all sample types, whatever the model's cohort, in the order of the split
            pd.testing.assert_frame_equal(table[columns], tables[split][columns], check_dtype=False)
            assert np.isfinite(table.select_dtypes("number")).all(axis=None)
            expected = np.square(apply(cae.model, pixels[split]) - scaled(pixels[split])).mean(axis=(1, 2, 3))
            np.testing.assert_allclose(table["mse"], expected, rtol=1e-4)

        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        assert metrics["validation_mse"] == pytest.approx(record["validation_loss"], rel=1e-3)
        train_rows = cohorts.rows_for_model(tables["train"], record)
        assert len(train_rows) == record["patches"]["train"] == (learned if name == "pca" else len(tables["train"]))
        assert metrics["train_mse"] == pytest.approx(
            mse(cae, store.select(train_rows).take(np.arange(len(train_rows)))), rel=1e-4
        )
        tested = test[test["sample_type"] == PRIMARY_TUMOR] if name == "pca" else test
        assert metrics["test_mse"] == pytest.approx(tested["mse"].mean())
        assert metrics["all_test_mse"] == pytest.approx(test["mse"].mean())

        latents = project.folder / "models/latents" / name
        description = json.loads((latents / "latents.json").read_text())
        assert description == {"model": name, "weights": record["weights"], "features": features[name]}
        assert {file.name for file in latents.iterdir()} == {
            "SHA256SUMS",
            "latents.json",
            *(f"{split}.npy" for split in SPLITS if features[name]),
        }
        for split in SPLITS if features[name] else ():
            values = np.load(latents / f"{split}.npy")
            assert values.dtype == np.float32 and values.shape == (len(tables[split]), features[name])
            np.testing.assert_allclose(values, apply(cae.encoder, pixels[split]), rtol=1e-4, atol=1e-4)
    before = project.outputs("models", "reports")
    project.params(models=MODELS, **small, training__min_percent_tumor_nuclei=50.0)
    assert "min_percent_tumor_nuclei: no tumor slide of this part" in project.run("train pca").error
    assert project.outputs("models", "reports") == before


@pytest.mark.parametrize(
    "network",
    [
        {"filters": [8, 16, 32], "latent_features": 512},
        {"filters": [8, 16, 32, 64]},
        {"filters": [8, 16], "latent_features": 20, "stride": 2, "kernel": 5},
        {"architecture": "residual", "filters": [32, 64], "latent_features": 512},
        {"architecture": "residual", "latent_features": 24},
        {"architecture": "compact", "latent_features": 20},
        {"architecture": "pca", "latent_features": 16},
    ],
)
def test_a_plan_counts_the_same_work_and_weights_as_keras(network):
    entry = Network(**network)
    counted = networks.size(entry, 64)
    cae = CAE(
        (64, 64, 3),
        entry.latent_features,
        entry.filters,
        kernel=entry.kernel,
        stride=entry.stride,
        pool=entry.pool,
        architecture=entry.architecture,
    )
    kernel_layers = [
        layer for part in (cae.encoder, cae.decoder) for layer in part.layers if hasattr(layer, "kernel")
    ]
    multiplied = sum(
        np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:-1], dtype=int) for layer in kernel_layers
    )
    values = sum(np.prod(layer.output.shape[1:]) for layer in kernel_layers)
    assert (counted.multiplied, counted.values) == (multiplied, values)
    assert counted.weights == cae.model.count_params() and counted.encoder.weights == cae.encoder.count_params()
    assert counted.trained == sum(np.prod(variable.shape) for variable in cae.model.trainable_weights)
    assert counted.latents == np.prod(cae.encoder.output_shape[1:])
