"""Losses of reconstruction."""

import numpy as np
import pytest
from scipy.signal import convolve2d

from histocae import CAE, params
from histocae.evaluation import reconstruction
from histocae.networks import backend, losses
from histocae.patches.images import InMemory
from histocae.training import loop
from histocae.training.checkpoint import State


def similarity(first, second):
    """Compute the SSIM of two images as Wang et al. define it: the mean over all windows and channels."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for one, other in zip(np.moveaxis(first, 2, 0), np.moveaxis(second, 2, 0), strict=True):
        mean, other_mean, square, other_square, product = (
            convolve2d(image, window, "valid") for image in (one, other, one**2, other**2, one * other)
        )
        covariance = product - mean * other_mean
        variances = square - mean**2 + other_square - other_mean**2
        values.append(
            ((2 * mean * other_mean + 0.01**2) * (2 * covariance + 0.03**2))
            / ((mean**2 + other_mean**2 + 0.01**2) * (variances + 0.03**2))
        )
    return np.mean(values)


@pytest.mark.parametrize("name", ["l1", "mse", "ssim", "mse+ssim"])
def test_losses_are_as_defined_for_each_patch(name):
    rng = np.random.default_rng(4)
    targets = rng.random((3, 17, 14, 3)).astype(np.float32)
    outputs = (targets + rng.normal(0, [[[[0.01]]], [[[0.1]]], [[[0.5]]]], targets.shape)).astype(np.float32)
    difference = outputs - targets
    dissimilar = np.array([1 - similarity(*both) for both in zip(targets, outputs, strict=True)])
    expected = {
        "l1": np.abs(difference).mean((1, 2, 3)),
        "mse": np.square(difference).mean((1, 2, 3)),
        "ssim": dissimilar,
        "mse+ssim": np.square(difference).mean((1, 2, 3)) + losses.SSIM_WEIGHT * dissimilar,
    }[name]
    np.testing.assert_allclose(losses.per_patch(name)(targets, outputs), expected, rtol=1e-3, atol=1e-5)


def test_a_model_trained_for_ssim_has_a_higher_ssim():
    rng = np.random.default_rng(0)
    # strong slow waves and faint fast ones: a squared error is all about the slow ones
    phase = rng.uniform(0, 6.3, (96, 2, 1, 1))
    down, right = np.mgrid[0:32, 0:32]
    waves = 90 * np.sin(down / 9 + phase[:, 0]) + 12 * np.sin(right * 1.2 + phase[:, 1])
    patches = np.repeat((128 + waves).clip(0, 255).astype(np.uint8)[..., None], 3, axis=3)
    found = {}
    for loss in ("mse", "ssim"):
        backend.repeatable(1)  # else the first weights depend on the tests before
        cae = CAE((32, 32, 3), 4, architecture="compact", lossfn=loss)
        options = loop.Options(epochs=12, batch_size=16, patience=12, optimizer="adamw", learning_rate=0.003, seed=1)
        state = loop.train(
            cae, InMemory(patches), InMemory(patches), options, state=State(""), folder=None, fingerprint=""
        )
        assert state.best_epoch > 1
        found[loss] = reconstruction.measure(cae, InMemory(patches), None)["ssim"].mean()
    assert found["ssim"] > found["mse"] + 0.1


def test_params_know_the_window_of_ssim():
    assert params.SSIM_SIDE == losses.SSIM_SIDE


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="nonsense"):
        CAE((16, 16, 3), 4, [4], lossfn="nonsense")
