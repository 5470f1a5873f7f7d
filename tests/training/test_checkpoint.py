"""The name of a training that is killed: its run is found again when it resumes."""

import keras
import pytest

from histocae.training import checkpoint
from histocae.training.checkpoint import State


@pytest.fixture
def model() -> keras.Model:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(optimizer="adam")
    model.optimizer.build(model.trainable_variables)
    return model


def test_a_training_killed_in_its_first_epoch_keeps_its_name(model, tmp_path):
    folder = tmp_path / "a"
    first = checkpoint.resume(model, State("first", start=1), folder, "same")
    (folder / "aside.weights.h5").write_bytes(b"of the killed training")
    second = checkpoint.resume(model, State("second", start=2), folder, "same")
    assert first == second == State("first", start=1)
    assert [file.name for file in folder.iterdir()] == ["begun.json"]


def test_another_training_gets_a_name_of_its_own(model, tmp_path):
    checkpoint.resume(model, State("first"), tmp_path / "a", "one")
    assert checkpoint.resume(model, State("second"), tmp_path / "a", "other").training_id == "second"
    (tmp_path / "a/begun.json").write_text('{"fingerprint": "other", "training_id": 1, "start": "x"}')
    assert checkpoint.resume(model, State("third"), tmp_path / "a", "other").training_id == "third"


def test_a_checkpoint_wins_and_a_damaged_one_starts_a_new_training(model, tmp_path):
    folder = tmp_path / "a"
    state = checkpoint.resume(model, State("first"), folder, "same")
    state.rows.append({"epoch": 1, "loss": 0.5, "validation_loss": 0.5})
    state.stamps.append(5)
    state.best, state.best_epoch = 0.5, 1
    checkpoint.save(model, state, folder, "same", better=True)
    assert checkpoint.resume(model, State("second"), folder, "same") == state
    (folder / "state.json").write_text("{")
    # the first run may have epochs already; two of a kind would be mixed there
    assert checkpoint.resume(model, State("third"), folder, "same").training_id == "third"
