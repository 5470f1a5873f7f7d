"""Training on several devices equals training on one, except for rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocae.errors import TrainingError
from histocae.networks import backend
from histocae.training import mirrored

backend.start()

import keras  # noqa: E402 (after the backend suppresses its log messages)

pytestmark = pytest.mark.slow  # a process that simulates several devices
CASES = Path(__file__).parents[1] / "support/mirrored_cases.py"
# Devices sum over different parts of a batch. In float32 this changes losses by 2e-7 and weights by 4e-7 of their
# change. bfloat16 rounds the gradient of each part to 8 bits: 1e-4 and 2e-3. Errors in the code are far larger.
# Equal weights of parts with 4 and 3 patches change results by at least 5e-3. A mean in place of a sum changes
# them by a half.
EXACT, COARSE = {"losses": 2e-6, "weights": 1e-5}, {"losses": 1e-3, "weights": 1e-2}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    warning_options = ("-W", "error", "-W", "ignore::DeprecationWarning")  # as in pyproject.toml
    done = subprocess.run(
        [sys.executable, *warning_options, CASES, tmp_path_factory.mktemp("devices")],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", ["clipped", "bfloat16", "adamw", "residual", "compact", "perceptual", "trained"])
def test_training_on_several_devices_equals_training_on_one(results, case):
    result = results[case]
    assert result["moved"] > 1e-3  # otherwise there is nothing to compare
    for quantity, tolerance in (COARSE if case == "bfloat16" else EXACT).items():
        assert result[quantity] < tolerance, (quantity, result)


def test_the_mean_gradient_of_the_devices_is_clipped_over_all_weights_together(results):
    assert results["clipped step"] == pytest.approx(0.001, rel=1e-3)


def test_a_resumed_training_on_two_devices_equals_an_uninterrupted_one_to_the_byte(results):
    assert results["resumed"] is True


@given(patches=st.integers(1, 20), parts=st.integers(1, 6))
def test_every_patch_of_a_divided_batch_counts_once(patches, parts):
    batch = np.arange(patches * 4, dtype=np.uint8).reshape(patches, 2, 2, 1)
    divided, counts = mirrored.divided(batch, parts), mirrored.weights(patches, parts)
    assert divided.shape[:2] == counts.shape == (parts, -(-patches // parts))
    flattened = divided.reshape(-1, 2, 2, 1)
    np.testing.assert_array_equal(flattened[:patches], batch)
    np.testing.assert_array_equal(counts.ravel()[:patches], np.float32(1 / patches))
    assert not counts.ravel()[patches:].any()
    assert (flattened[patches:, None] == batch[None]).all(axis=(2, 3, 4)).any(axis=1).all()  # padding repeats patches


def test_a_training_uses_at_most_the_devices_that_are_available(results, monkeypatch):
    assert results["count"] == [3, 2]
    monkeypatch.setattr(mirrored, "devices", lambda: ["GPU:0", "GPU:1"])
    assert [mirrored.count(requested) for requested in (None, 1, 2)] == [2, 1, 2]
    with pytest.raises(TrainingError, match=r"executor.devices: 3 requested, but TensorFlow has only GPU:0, GPU:1"):
        mirrored.count(3)


def test_another_backend_trains_on_one_device(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert mirrored.count(None) == mirrored.count(1) == 1
    with pytest.raises(TrainingError, match=r"2 requested, but backend jax trains on one device; set it to 1"):
        mirrored.count(2)


def test_too_many_devices_are_refused_before_any_input_is_read(project):
    project.params(executor__devices=1000)
    assert "executor.devices: 1000 requested" in project.run("train all").error
