"""MLflow's database: created as a whole, and artifacts that follow the project's folder."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from histocae.tracking import database, server

KILLED = """
import os, sqlite3, sys
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

def kill(*statement):
    if sys.argv[2] in statement[-1]:
        os._exit(9)

import sqlalchemy
@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "before_cursor_execute")
def before(connection, cursor, statement, *rest):
    kill(statement)

SqlAlchemyStore(f"sqlite:///{sys.argv[1]}", "./mlruns")
"""


MODEL = """
import mlflow

class Same(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[float]) -> list[float]:
        return model_input

mlflow.models.set_model(Same())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project's folder without a database, as the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    _artifact_repos_cache.clear()
    return folder


@pytest.fixture(scope="module")
def database_file(tmp_path_factory):
    """An empty database of this version of MLflow."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    database.prepare(f"sqlite:///{file}")
    return file


def make_old(file: Path) -> None:
    """Let a file look as if no process had written it for a while."""
    past = time.time() - 60
    os.utime(file, (past, past))


def kill_creation(file: Path, statement: str) -> None:
    """Let MLflow itself create a database in a process that ends before a statement with some words."""
    code = subprocess.run(
        [sys.executable, "-c", KILLED, file, statement], capture_output=True, check=False
    ).returncode
    assert code == 9 and file.exists()
    make_old(file)


def add_run(api: mlflow.MlflowClient) -> str:
    return api.create_run(server.experiment(api, "histocae")).info.run_id


def test_a_new_database_is_complete_and_nothing_else_is_left(folder):
    run_id = add_run(server.client())
    assert server.client().get_run(run_id).info.artifact_uri == f"{folder}/mlruns/1/{run_id}/artifacts"
    assert {path.name for path in folder.iterdir()} == {"MLproject", "mlflow.db", ".histocae"}
    assert not database.file_of("http://host") and not database.file_of("sqlite://")


@pytest.mark.parametrize("statement", ["CREATE TABLE metrics", "CREATE TABLE registered_models", "logged_models"])
def test_a_database_whose_creation_was_killed_is_replaced(folder, statement):
    kill_creation(folder / "mlflow.db", statement)
    run_id = add_run(server.client())
    assert server.client().get_run(run_id).info.status == "RUNNING"
    assert (folder / "mlflow.db.unfinished").is_file()


def test_an_empty_file_is_replaced(folder):
    (folder / "mlflow.db").touch()
    make_old(folder / "mlflow.db")
    assert add_run(server.client())


def test_a_database_that_another_process_is_creating_is_waited_for(folder):
    file = folder / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", KILLED, file, "no such statement"]) as other:
        while not file.exists() or not file.stat().st_size:
            time.sleep(0.01)
        run_id = add_run(server.client())
        assert other.wait() == 0
    assert server.client().get_run(run_id) and not (folder / "mlflow.db.unfinished").exists()


def test_a_killed_creation_leaves_no_database(folder):
    code = "import os; from histocae.tracking import database as d; d.SqlAlchemyStore = lambda *_: os._exit(9); "
    code += "d.prepare('sqlite:///mlflow.db')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not (folder / "mlflow.db").exists()
    assert add_run(server.client())
    assert not list(folder.glob(".mlflow.db*"))


def test_two_processes_create_one_database(folder):
    code = "from histocae.tracking import server; server.client().create_experiment({!r})"
    others = [subprocess.Popen([sys.executable, "-c", code.format(name)]) for name in ("a", "b")]
    assert [other.wait() for other in others] == [0, 0]
    assert {"a", "b"} <= {experiment.name for experiment in server.client().search_experiments()}


def change(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE alembic_version SET version_num = '0584bdc529eb'", "mlflow db upgrade sqlite:///"),
        ("DELETE FROM alembic_version", "mlflow db upgrade sqlite:///"),
        ("UPDATE alembic_version SET version_num = 'future'", "from a newer MLflow than"),
    ],
)
def test_a_database_of_another_version_with_runs_stays_as_it_is(folder, database_file, statement, message):
    shutil.copy(database_file, folder / "mlflow.db")
    add_run(server.client())
    change(folder / "mlflow.db", statement)
    make_old(folder / "mlflow.db")
    before = (folder / "mlflow.db").read_bytes()
    with pytest.raises(MlflowException, match=message) as error:
        server.client()
    assert "\n" not in str(error.value) and (folder / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize("kind", ["garbage", "folder", "other program", "locked"])
def test_a_file_that_is_no_database_of_mlflow_is_refused_in_one_line(folder, kind, database_file, monkeypatch):
    file, message = folder / "mlflow.db", "database"
    holder = None
    if kind == "garbage":
        file.write_bytes(b"no database" * 1000)
        message = "file is not a database; restore it from a backup, or rename it, and histocae publish makes a new"
    elif kind == "folder":
        file.mkdir()
    elif kind == "other program":
        change(file, "CREATE TABLE flights (id)")
        message = "is a database of another program"
    else:
        shutil.copy(database_file, file)
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
        holder = sqlite3.connect(file)
        holder.execute("BEGIN EXCLUSIVE")
        message = "database is locked"
    with pytest.raises(server.FAILURES) as error:
        server.client()
    line = server.failure_message(error.value)
    assert message in line and "mlflow.db" in line and "\n" not in line
    if holder is not None:
        holder.close()
    assert not list(folder.glob("*.unfinished"))


def delivered(folder: Path) -> tuple[str, str, dict[str, bytes]]:
    """Log a run with an artifact, and a registered model; return the run's id, the model's, and the files."""
    api = server.client()
    run_id = add_run(api)
    (folder / "note.txt").write_text("note")
    api.log_artifact(run_id, str(folder / "note.txt"))
    model = api.create_logged_model(api.get_run(run_id).info.experiment_id, name="model", source_run_id=run_id)
    # a model from code
    (folder / "model.py").write_text(MODEL)
    mlflow.pyfunc.save_model(folder / "saved", python_model=folder / "model.py")
    api.log_model_artifacts(model.model_id, str(folder / "saved"))
    api.finalize_logged_model(model.model_id, "READY")
    api.create_registered_model("registered")
    api.create_model_version("registered", f"models:/{model.model_id}", run_id, model_id=model.model_id)
    files = {str(path): path.read_bytes() for path in (folder / "mlruns").rglob("*") if path.is_file()}
    return run_id, model.model_id, files


@pytest.mark.parametrize(("depth", "name"), [("", "mlflow.db"), ("examples/small", "mlflow.db"), ("", "own.db")])
def test_artifacts_follow_a_project_that_was_moved_or_copied(folder, monkeypatch, depth, name):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / name}")
    (folder / depth).mkdir(parents=True, exist_ok=True)
    if depth:  # above, the address is absolute, since MLflow keeps connections by address
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(folder / depth)
    run_id, model_id, files = delivered(folder)
    for number in (1, 2):
        place = folder.with_name(f"place-{number}")
        shutil.copytree(folder, place) if number == 1 else folder.rename(place)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        if not depth:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / name}")
        monkeypatch.chdir(place / depth)
        api = server.client()
        _artifact_repos_cache.clear()  # as in a new process
        experiment = "histocae" if depth else "1"
        assert api.get_run(run_id).info.artifact_uri.endswith(f"{place}/mlruns/{experiment}/{run_id}/artifacts")
        assert [file.path for file in api.list_artifacts(run_id)] == ["note.txt"]
        assert "MLmodel" in {file.path for file in api.list_logged_model_artifacts(model_id)}
        assert mlflow.pyfunc.load_model("models:/registered/1").predict([1.0, 2.0]) == [1, 2]
        new_run_id = add_run(api)
        (place / "new.txt").touch()
        api.log_artifact(new_run_id, str(place / "new.txt"))
        assert len(list(place.glob("mlruns/**/new.txt"))) == 1
        if number == 1:  # the original stays as it is
            assert {str(path): path.read_bytes() for path in folder.glob("mlruns/**/*") if path.is_file()} == files
    assert not folder.exists()


def test_artifacts_in_a_place_that_somebody_chose_stay_there(folder, tmp_path):
    chosen = tmp_path / "disk/mlruns/1"
    chosen.mkdir(parents=True)
    server.client().create_experiment("histocae", str(chosen))
    assert server.client().get_experiment_by_name("histocae").artifact_location == str(chosen)
    for location in (None, "s3://bucket/mlruns/1", "mlflow-artifacts:/1", "relative/mlruns/1"):
        assert database._new_location(location, {"1", "histocae"}, folder, "mlflow.db") is None


@pytest.mark.parametrize(("mounted", "name"), [(True, "histocae"), (False, "mine")])
def test_artifacts_on_a_drive_that_is_not_there_stay_where_they_are(folder, tmp_path, mounted, name):
    drive = tmp_path / "drive"  # the mount point is there while the drive is not, or the folder has its own name
    (drive / "mlruns").mkdir(parents=True)
    location = str(drive / "mlruns" / name)
    server.client().create_experiment("histocae", location)
    (drive / "mlruns").rmdir()
    if not mounted:
        drive.rmdir()
    assert server.client().get_experiment_by_name("histocae").artifact_location == location
