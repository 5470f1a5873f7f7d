"""The list of the user's files of features: what is noticed, and which stages depend on it."""

import json
import time
from pathlib import Path

import pytest
import yaml

from histocae import params_file, paths
from histocae.pipeline import watch
from histocae.remote import dvc_locks
from histocae.training import recipe
from support import outside_files
from support.outside_files import grid

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
HEADER = b"file|bytes|sha256\n"
UNCHANGED = "nothing changed"


def write(path, value=0.0):
    corners = grid(3, 2, 64)
    outside_files.clam(path, corners + value, corners, 64)


@pytest.fixture
def listed(project, monkeypatch):
    """A project with features, whose inventory ran and was recorded."""
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0)
    project.slides("a", "b")
    write(project.own / "features" / "a.h5")
    write(project.own / "features" / "more" / "b.h5")
    (project.own / "features" / "notes.txt").write_text("another file")
    project.params(baselines__features="own/features")
    time.sleep(0.05)  # longer than the clock of a file system lags
    project.make("inventory")
    return project


def test_without_a_folder_the_list_has_no_file(project):
    project.slides("a")
    project.make("inventory")
    assert project.outputs("data")["data/features.csv"] == HEADER
    project.params(data__source="demo")
    project.make("inventory")
    assert project.outputs("data")["data/features.csv"] == HEADER


def test_files_are_listed_and_a_change_of_them_changes_no_other_list(listed):
    before = listed.outputs()
    table = listed.read("data/features.csv")
    assert list(table["file"]) == ["a.h5", "more/b.h5"]
    assert list(table["bytes"]) == [(listed.own / "features" / name).stat().st_size for name in table["file"]]
    assert UNCHANGED in listed.run("inventory").lines[-1]
    for change in ("changed", "added", "added below", "deleted"):
        time.sleep(0.05)
        if change == "deleted":
            (listed.own / "features" / "a.h5").unlink()
        else:
            name = {"changed": "a.h5", "added": "c.h5", "added below": "more/d.h5"}[change]
            write(listed.own / "features" / name, 1.0)
        assert UNCHANGED not in "".join(listed.make("inventory").run("inventory").lines[:-1])
        after = listed.outputs()
        assert {name for name in before if before[name] != after[name]} == {"data/features.csv"}, change
        before = after
    assert list(listed.read("data/features.csv")["file"]) == ["c.h5", "more/b.h5", "more/d.h5"]


def test_a_wrong_folder_is_reported_before_anything_is_written(listed):
    before = listed.outputs()
    listed.params(baselines__features="own/none")
    message = "baselines.features: own/none: no such folder; name the folder with the .h5 files, or set null"
    assert listed.run("inventory").only_line.endswith(message)
    listed.params(baselines__features="")
    assert "baselines.features: string should have at least 1 character" in listed.run("inventory").only_line
    listed.params(data__source="tiles", baselines__features="own/features")
    message = "baselines.features: are joined by position, and tiles have none on a slide; set null"
    assert message in listed.run("inventory").only_line
    assert listed.outputs() == before


def test_with_files_elsewhere_the_list_stays_as_it_is(listed, monkeypatch):
    before = listed.outputs()
    monkeypatch.setenv("HISTOCAE_FILES", "elsewhere")
    listed.params(baselines__features="own/gone")
    listed.make("inventory")
    assert listed.outputs() == before
    listed.params(data__source="demo", baselines__features="own/gone")
    listed.make("inventory")
    assert listed.outputs()["data/features.csv"] == before["data/features.csv"]
    paths.FEATURES.unlink()
    message = "HISTOCAE_FILES is elsewhere, and data/features.csv is not there; dvc pull data/features.csv"
    assert listed.run("inventory").only_line.endswith(message)
    # without features there is nothing elsewhere
    listed.params(data__source="demo", baselines__features=None)
    listed.make("inventory")
    assert listed.outputs()["data/features.csv"] == HEADER


@pytest.mark.parametrize(
    ("source", "features", "regions", "lists"),
    [
        ("demo", None, None, []),
        ("demo", "own/features", "data/regions", ["data/features.csv"]),
        ("slides", None, None, ["data/inventory.csv"]),
        ("slides", None, "own/regions", ["data/inventory.csv", "data/annotations.csv"]),
        ("slides", "own/features", None, ["data/inventory.csv", "data/features.csv"]),
    ],
)
def test_a_job_pulls_the_lists_of_files_that_it_may_lack(project, source, features, regions, lists):
    project.params(data__source=source, baselines__features=features, data__annotations=regions)
    assert dvc_locks.lists_of_files_elsewhere(project.folder) == []  # nothing was listed yet
    (project.folder / "inventory").mkdir()
    lock = {"schema": "2.0", "stages": {"inventory": {"cmd": "histocae inventory"}}}
    (project.folder / "inventory/dvc.lock").write_text(yaml.safe_dump(lock))
    assert dvc_locks.lists_of_files_elsewhere(project.folder) == lists


def test_features_rerun_the_studies_that_use_them_and_retrain_no_model(listed):
    users = {"latent", "tissue", "crossvalidate"}
    stages = {name: stage.get("do", stage) for name, stage in STAGES.items()}
    assert {name for name, stage in stages.items() if "data/features.csv" in stage["deps"]} == users
    assert {name for name, stage in stages.items() if "baselines" in stage["params"]} == users
    listed.make("metadata", "slides", "patches")
    loaded = [params_file.load(paths.PARAMS)]
    listed.params()
    loaded.append(params_file.load(paths.PARAMS))
    assert loaded[0].baselines != loaded[1].baselines
    from histocae.patches.store import PatchStore

    paths.SPLITS.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (paths.SPLITS / f"{split}.csv").write_text(split)
    store = PatchStore(paths.PATCHES)
    described = [recipe.describe(each, "all", store, paths.SPLITS, paths.TRAINED) for each in loaded]
    assert described[0] == described[1] and "baselines" not in json.dumps(described[0])
