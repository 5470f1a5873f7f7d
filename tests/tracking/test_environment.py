"""Which database a command uses: that of the project, also in the copies in which DVC runs experiments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from histocae.tracking import environment
from histocae.tracking.environment import address, project_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project's folder, versioned by DVC."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "MLproject").touch()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def enter(place: Path, monkeypatch) -> None:
    place.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(place)


@pytest.mark.parametrize("copy", [".dvc/tmp/exps/tmp1", ".dvc/tmp/exps/standalone/tmp1"])
@pytest.mark.parametrize("depth", [".", "examples/mnist"])
def test_an_experiment_in_a_copy_uses_the_database_of_the_project(folder, copy, depth, monkeypatch):
    (folder / copy / ".dvc").mkdir(parents=True)
    (folder / copy / "MLproject").touch()
    enter(folder / copy / depth, monkeypatch)
    assert project_folder() == folder
    assert address() == f"sqlite:///{folder}/mlflow.db"
    for uri, expected in (
        ("sqlite:///runs.db", f"sqlite:///{folder / depth}/runs.db"),
        ("sqlite:////data/runs.db", "sqlite:////data/runs.db"),
        ("http://host:5000", "http://host:5000"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert address() == expected


def test_a_project_in_a_subfolder_of_a_repository_is_found_from_its_copy(folder, monkeypatch):
    project = folder / "sub"
    copy = project / ".dvc/tmp/exps/standalone/tmp1/sub"  # DVC copies the whole repository
    (copy / ".dvc").mkdir(parents=True)
    enter(copy, monkeypatch)
    assert project_folder() == folder and address() == f"sqlite:///{folder}/mlflow.db"
    (project / "MLproject").touch()
    assert project_folder() == project


def test_outside_of_copies_the_database_is_beside_mlproject(folder, monkeypatch, tmp_path):
    enter(folder, monkeypatch)
    assert address() == environment.DEFAULT_URI and project_folder() == folder
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    assert address() == "sqlite:///runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    enter(folder / "examples/mnist", monkeypatch)
    assert address() == f"sqlite:///{folder}/mlflow.db"
    enter(tmp_path / "elsewhere", monkeypatch)
    assert address() == environment.DEFAULT_URI


STAGE = """
stages:
  log:
    cmd: python log.py
    params: [seed]
    outs: [out.txt]
"""
LOG = """
import yaml
from histocae.tracking import server
api = server.client()
seed = yaml.safe_load(open("params.yaml"))["seed"]
run = api.create_run(server.experiment(api, "histocae"), run_name=f"seed {seed}")
api.log_text(run.info.run_id, "text", "note.txt")
open("out.txt", "w").write("out")
"""


@pytest.mark.slow
def test_dvc_exp_run_in_a_temporary_copy_logs_to_the_database_of_the_project(folder, monkeypatch):
    (folder / ".dvc").rmdir()
    monkeypatch.chdir(folder)
    files = {"dvc.yaml": STAGE, "log.py": LOG, "params.yaml": "seed: 1\n", ".gitignore": "mlflow.db*\nmlruns\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": "tests", f"GIT_{role}_EMAIL": "tests@example.invalid"}
    for command in (
        "git init -q",
        "dvc init -q",
        "git add -A",
        "git commit -qm start",
        "dvc exp run --temp -S seed=2",
    ):
        done = subprocess.run(command.split(), env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert not list((folder / ".dvc/tmp/exps").rglob("mlflow.db"))
    api = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = api.get_experiment_by_name("histocae")
    (run,) = api.search_runs([experiment.experiment_id])
    assert run.info.run_name == "seed 2"
    assert (folder / "mlruns/histocae" / run.info.run_id / "artifacts/note.txt").read_text() == "text"
