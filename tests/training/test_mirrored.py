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

import keras  # noqa: E402 (after its chatter is held back)

pytestmark = pytest.mark.slow  # a process that simulates several devices
CASES = Path(__file__).parents[1] / "support/mirrored_cases.py"
# Sums over other parts differ by a few units of float32's 24 bits: losses by 2e-7, weights by 4e-7 of their change.
# bfloat16 has 8 bits and rounds the gradient of each part: 1e-4 and 2e-3. Mistakes are far larger: parts of a batch
# with equal weights, 4 and 3 patches of 7, are off by 5e-3 and more; a mean in place of a sum is off by a half.
EXACT, COARSE = {"losses": 2e-6, "weights": 1e-5}, {"losses": 1e-3, "weights": 1e-2}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    strict = ("-W", "error", "-W", "ignore::DeprecationWarning")  # of libraries, as in pyproject.toml
    done = subprocess.run(
        [sys.executable, *strict, CASES, tmp_path_factory.mktemp("devices")],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", ["clipped", "bfloat16", "adamw", "residual", "compact", "trained"])
def test_several_devices_learn_what_one_learns(results, case):
    result = results[case]
    assert result["moved"] > 1e-3  # or there is nothing to compare
    for quantity, most in (COARSE if case == "bfloat16" else EXACT).items():
        assert result[quantity] < most, (quantity, result)


def test_a_training_on_two_devices_that_was_killed_ends_in_the_bytes_of_an_undisturbed_one(results):
    assert results["resumed"] is True


@given(patches=st.integers(1, 20), parts=st.integers(1, 6))
def test_every_patch_of_a_divided_batch_counts_once(patches, parts):
    batch = np.arange(patches * 4, dtype=np.uint8).reshape(patches, 2, 2, 1)
    divided, counts = mirrored.divided(batch, parts), mirrored.weights(patches, parts)
    assert divided.shape[:2] == counts.shape == (parts, -(-patches // parts))
    together = divided.reshape(-1, 2, 2, 1)
    np.testing.assert_array_equal(together[:patches], batch)
    np.testing.assert_array_equal(counts.ravel()[:patches], np.float32(1 / patches))
    assert not counts.ravel()[patches:].any()
    assert (together[patches:, None] == batch[None]).all(axis=(2, 3, 4)).any(axis=1).all()  # filled with its own


def test_as_many_devices_as_there_are_are_taken_and_no_more(results, monkeypatch):
    assert results["count"] == [3, 2]
    monkeypatch.setattr(mirrored, "devices", lambda: ["GPU:0", "GPU:1"])
    assert [mirrored.count(asked) for asked in (None, 1, 2)] == [2, 1, 2]
    with pytest.raises(TrainingError, match=r"executor.devices: 3 requested, but TensorFlow has only GPU:0, GPU:1"):
        mirrored.count(3)


def test_another_backend_trains_on_one(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert mirrored.count(None) == mirrored.count(1) == 1
    with pytest.raises(TrainingError, match=r"2 requested, but backend jax trains on one device; set it to 1"):
        mirrored.count(2)


def test_more_devices_than_there_are_are_refused_before_anything_is_read(project):
    project.params(executor__devices=1000)
    assert "executor.devices: 1000 requested" in project.run("train all").error
