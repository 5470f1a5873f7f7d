"""Checkpoints: the name of a killed training, and checkpoints that are damaged or can't be read now."""

import errno
import os
from pathlib import Path

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


@pytest.fixture
def saved(model: keras.Model, tmp_path: Path) -> Path:
    """The checkpoint of a training after its first epoch."""
    folder = tmp_path / "a"
    state = checkpoint.resume(model, State("first"), folder, "same")
    state.rows.append({"epoch": 1, "loss": 0.5, "validation_loss": 0.5})
    state.stamps.append(5)
    state.best, state.best_epoch = 0.5, 1
    checkpoint.save(model, state, folder, "same", better=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


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


def test_a_checkpoint_wins_and_a_damaged_one_starts_a_new_training(model, saved):
    assert checkpoint.resume(model, State("second"), saved, "same").training_id == "first"
    (saved / "state.json").write_text("{")
    # the first run may have epochs already; two of a kind would be mixed there
    assert checkpoint.resume(model, State("third"), saved, "same").training_id == "third"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("name", ["state.json", "last-1.weights.h5"])
def test_a_checkpoint_that_cannot_be_read_now_stays(model, saved, monkeypatch, number, name):
    before, read_text, hash_of = contents(saved), Path.read_text, checkpoint.sha256_once

    def refuse(path: Path) -> None:
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_text", lambda path, **how: refuse(path) or read_text(path, **how))
    monkeypatch.setattr(checkpoint, "sha256_once", lambda path: refuse(path) or hash_of(path))
    with pytest.raises(OSError, match=f"{os.strerror(number)}.*{name}"):
        checkpoint.resume(model, State("second"), saved, "same")
    assert contents(saved.parent) == {f"a/{file}": content for file, content in before.items()}
    monkeypatch.undo()
    assert checkpoint.resume(model, State("second"), saved, "same").training_id == "first"


@pytest.mark.parametrize("damaged", ["state.json", "last-1.weights.h5"])
def test_a_damaged_checkpoint_is_kept_aside(model, saved, caplog, damaged):
    (saved / damaged).write_bytes(b"damaged")
    before = contents(saved)
    for _ in range(2):  # the last damaged one replaces the former
        assert checkpoint.restore(model, saved, "same") is None
        assert not saved.exists() and contents(saved.parent / ".a.damaged") == before
        assert f"{saved / damaged}: checkpoint not usable: " in caplog.text
        assert f"{saved.parent / '.a.damaged'} may be deleted" in caplog.text
        (saved.parent / ".a.damaged").rename(saved)
        (saved.parent / ".a.damaged").mkdir()
