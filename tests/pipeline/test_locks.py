"""Two processes that train the same model at once: the second uses the result of the first."""

import json
import threading
import time

import pytest
from filelock import FileLock

from histocae.pipeline import locks
from support.workspace import ALL_STAGES


@pytest.fixture
def trained(project, monkeypatch):
    """A project with one trained model."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder / 'mlflow.db'}")
    project.slides(*(f"s{i}" for i in range(12)))
    project.params(models={"all": {"filters": [4]}}, patches__max_per_slide=4, training__epochs=1)
    return project.make(*ALL_STAGES, "train all")


@pytest.mark.parametrize(("ends_meanwhile", "same"), [(True, True), (False, False)])
def test_a_training_that_waited_uses_the_result_that_another_process_made_meanwhile(
    trained, ends_meanwhile, same, monkeypatch
):
    waits, messages = threading.Event(), []
    monkeypatch.setattr(locks.log, "warning", lambda message: (messages.append(message), waits.set()))
    file = trained.folder / "models/runs/all.json"
    results = []
    lock = FileLock(trained.folder / ".histocae/locks/train@all.lock")
    with lock:
        thread = threading.Thread(target=lambda: results.append(trained.run("train all")))
        thread.start()
        assert waits.wait(60)
        record = json.loads(file.read_text())
        if ends_meanwhile:
            record["end"] = int(time.time() * 1000)
            file.write_text(json.dumps(record))
    thread.join()
    (result,) = results
    assert result.code == 0, result.lines
    assert messages == ["another process is running this stage; waiting for it"]
    assert any("that result is used" in line for line in result.lines) == same
    after = json.loads(file.read_text())
    assert (after == record) == same and (after["training_id"] == record["training_id"]) == same


def test_a_training_that_did_not_wait_is_made_again(trained):
    file = trained.folder / "models/runs/all.json"
    before = json.loads(file.read_text())
    trained.make("train all")
    assert json.loads(file.read_text())["training_id"] != before["training_id"]
