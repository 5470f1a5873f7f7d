"""Statistics of patches and of errors at several scales."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocae.evaluation import scales

PER_SCALE = {"texture": len(scales.QUANTILES) + 1, "errors": 3 + 2 * len(scales.QUANTILES)}


def halved(image):
    """Halve an image pixel by pixel."""
    height, width = (side // 2 for side in image.shape[:2])
    return np.array(
        [
            [image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((0, 1)) for column in range(width)]
            for row in range(height)
        ]
    )


def gradient_lengths(gray):
    """List the length of the gradient at each pixel that has four neighbors."""
    return [
        np.hypot(gray[row + 1, column] - gray[row - 1, column], gray[row, column + 1] - gray[row, column - 1]) / 2
        for row in range(1, gray.shape[0] - 1)
        for column in range(1, gray.shape[1] - 1)
    ]


def logarithms(values):
    return np.log(np.quantile(np.ravel(values), scales.QUANTILES) + scales.LEAST_AMPLITUDE)


@given(st.integers(0, 2**32 - 1), st.integers(4, 19), st.integers(4, 19))
def test_statistics_are_those_of_each_pixel_at_each_scale(seed, height, width):
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    residuals = rng.normal(size=patches.shape).astype(np.float32)
    expected = {"texture": [], "errors": []}
    for patch, residual in zip(patches / 255, residuals, strict=True):
        texture, errors = [], []
        gray = patch.mean(2)
        while min(gray.shape) >= 4 and len(texture) < scales.SCALES:
            texture.append([*logarithms(gradient_lengths(gray)), np.log(gray.std() + scales.LEAST_AMPLITUDE)])
            error = residual.mean(2)
            squares = np.log(np.square(residual).mean((0, 1)) + scales.LEAST_POWER)
            errors.append([*squares, *logarithms(abs(error)), *logarithms(gradient_lengths(error))])
            gray, residual = halved(gray), halved(residual)
        expected["texture"].append(np.concatenate(texture))
        expected["errors"].append(np.concatenate(errors))
    np.testing.assert_allclose(scales.texture(patches), expected["texture"], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(scales.errors(residuals), expected["errors"], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(("side", "count"), [(4, 1), (7, 1), (8, 2), (64, 5), (128, 5)])
def test_small_images_have_fewer_scales(side, count):
    patches = np.zeros((3, side, side, 3), np.uint8)
    assert scales.texture(patches).shape == (3, count * PER_SCALE["texture"])
    described = scales.errors(patches.astype(np.float32))
    assert described.shape == (3, count * PER_SCALE["errors"]) and np.isfinite(described).all()


def test_a_structure_appears_at_its_own_scale():
    # stripes of eight pixels, and the same stripes of one pixel: halving removes the fine ones at once
    coarse, fine = (np.tile(np.repeat([0, 200], width), 64 // (2 * width)) for width in (8, 1))
    patches = np.stack([np.tile(row[None, :, None], (64, 1, 3)) for row in (coarse, fine)]).astype(np.uint8)
    spread = scales.texture(patches)[:, PER_SCALE["texture"] - 1 :: PER_SCALE["texture"]]
    assert spread[0, 0] == pytest.approx(spread[1, 0]) and spread[0, 1] > np.log(0.3)
    assert (spread[1, 1:] < np.log(2 * scales.LEAST_AMPLITUDE)).all()
