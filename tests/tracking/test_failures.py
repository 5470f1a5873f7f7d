"""Failures of a tracking server: a training ends as without them, and `histocae publish` delivers all of it later."""

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from histocae.tracking import database, delivery, live, logged_models
from support import registered
from support.workspace import ALL_STAGES, Workspace

EPOCHS = 2
MODEL = {"filters": [4], "latent_features": 16}  # weights larger than all other files of a logged model
WEIGHTS = "artifacts/histocae/networks/variables/variables.data-00000-of-00001"  # of a logged model
# status, headers and body of every answer
ANSWERS = {
    "an internal error": (500, {}, b"oops"),
    "too many requests": (429, {"Retry-After": "1"}, b""),
    "no permission": (403, {}, b"<html>\n<body>Forbidden</body></html>"),
    "a page": (200, {"Content-Type": "text/html"}, b"<html>\n<body>Log in</body></html>"),
    "a redirect to itself": (302, {"Location": "/"}, b""),
    "a list": (200, {}, b"[]"),
    "an empty object": (200, {}, b"{}"),
    "a number in place of an object": (200, {}, b'{"experiment": 5, "experiment_id": {}}'),
    "a list in place of a text": (200, {}, b'{"experiment": {"experiment_id": [], "name": null}}'),
    "bytes that are no text": (200, {}, b"\xff\xfe\x00"),
    "less than announced": (200, {"Content-Length": "1000"}, b"{"),
    "no HTTP": None,
}


@contextlib.contextmanager
def broken_server(answer: tuple[int, dict[str, str], bytes] | None) -> Iterator[str]:
    """Start a server that answers everything in the same way; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.close_connection = True
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if answer is None:
                self.wfile.write(b"no HTTP\r\n\r\n")
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    for method in ("GET", "POST", "PATCH", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def in_turn(values: Iterable[str]) -> list:
    """Leave all values but the first to `make test-long`."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.long) for value in others)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A project with a trained model, whose server never failed."""
    with pytest.MonkeyPatch.context() as patch:
        project = registered.Registered(tmp_path_factory.mktemp("prepared") / "project")
        registered.enter(project, patch)
        project.slides(*(f"s{i}" for i in range(12)))
        project.params(models={"all": MODEL}, patches__max_per_slide=4, training__epochs=EPOCHS)
        yield project.make(*ALL_STAGES, "train all")


@pytest.fixture
def project(prepared, tmp_path, monkeypatch):
    """A copy of the project, with short waits for servers."""
    monkeypatch.setattr(live, "SERVER_SECONDS", 1)
    monkeypatch.setattr(delivery, "RETRIES", 0)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(database, "QUIET_SECONDS", 0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    return registered.copy(prepared, tmp_path / "copy", monkeypatch)


def check(prepared: Workspace, project: Workspace, uri: str, monkeypatch) -> None:
    """Train with a server that fails; then publish to a new one, which must have each epoch once."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = project.run("train all")
    assert result.code == 0, result.lines
    assert "Traceback" not in "".join(result.lines)
    problems = [line for line in result.lines if "tracking server" in line]
    assert "the training continues" in problems[0] and "`histocae publish` delivers it later" in problems[-1]
    files = Workspace.outputs(project, "models/trained")
    assert files == Workspace.outputs(prepared, "models/trained")
    uri = f"sqlite:///{project.folder / 'later.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for _ in range(2):
        assert project.run("publish").code == 0
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("histocae").experiment_id])
    assert run.info.status == "FINISHED"
    for key in ("loss", "validation_loss"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, key)] == [*range(1, EPOCHS + 1)]


@pytest.mark.parametrize("name", in_turn(ANSWERS))
def test_a_server_that_answers_wrongly_loses_nothing(prepared, project, name, monkeypatch):
    with broken_server(ANSWERS[name]) as uri:
        check(prepared, project, uri, monkeypatch)


@pytest.mark.parametrize("kind", ["no certificate", "a folder", "garbage", "locked", "read-only"])
def test_a_server_or_database_that_cannot_be_used_loses_nothing(prepared, project, kind, monkeypatch):
    file = project.folder / "bad.db"
    uri = f"sqlite:///{file}"
    with contextlib.ExitStack() as stack:
        if kind == "no certificate":
            uri = stack.enter_context(broken_server(None)).replace("http:", "https:")
        elif kind == "a folder":
            file.mkdir()
        elif kind == "garbage":
            file.write_bytes(b"garbage" * 1000)
        else:
            shutil.copy(prepared.folder / "mlflow.db", file)
        if kind == "locked":
            holder = stack.enter_context(contextlib.closing(sqlite3.connect(file)))
            holder.execute("BEGIN EXCLUSIVE")
        if kind == "read-only":
            uri = f"sqlite:///file:{file}?mode=ro&uri=true"
        check(prepared, project, uri, monkeypatch)


def test_a_full_disk_of_artifacts_loses_nothing(prepared, project, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", fail)
        patch.setattr(MlflowClient, "log_artifacts", fail)
        patch.setenv("MLFLOW_TRACKING_URI", project.uri)
        result = project.run("train all")
    assert result.code == 0 and "No space left on device" in "".join(result.lines), result.lines
    project.make("publish")
    run_id = project.json("models/runs/all.json")["run_id"]
    for key in ("loss", "validation_loss"):
        points = project.client.get_metric_history(run_id, key)
        assert [point.step for point in points] == [*range(1, EPOCHS + 1)]
    assert {"cae/encoder.weights.h5", "cae/decoder.weights.h5"} <= {
        file.path for file in project.client.list_artifacts(run_id, "cae")
    }


def artifacts(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "mlruns").rglob("*"))
        if path.is_file()
    }


def model_folder(weights: Path) -> Path:
    """Return the folder with the files of a logged model."""
    return weights.parents[len(Path(WEIGHTS).parts) - 1]


@pytest.fixture
def delivered(project):
    """A project whose run is complete, and the path of the weights in its logged model."""
    project.make("evaluate all", "publish")
    (weights,) = (project.folder / "mlruns").glob(f"*/models/*/artifacts/{WEIGHTS}")
    return project, weights


@pytest.fixture(params=["with the tag", "of an earlier version"])
def logged_model(request, delivered):
    project, weights = delivered
    if request.param == "of an earlier version":
        project.client.delete_logged_model_tag(model_folder(weights).parent.name, logged_models.FILES)
    return project, weights


def test_a_whole_logged_model_is_not_saved_again(logged_model):
    project, weights = logged_model
    before = weights.stat().st_mtime_ns
    project.make("publish")
    assert weights.stat().st_mtime_ns == before


@pytest.mark.parametrize("damaged", ["lost", "truncated", "described by half a file"])
def test_a_damaged_logged_model_is_saved_again(logged_model, damaged):
    project, weights = logged_model
    size = weights.stat().st_size
    description = model_folder(weights) / "MLmodel"
    if damaged == "lost":
        weights.unlink()
    elif damaged == "truncated":
        os.truncate(weights, size // 2)
    else:
        os.truncate(description, description.stat().st_size // 2)
    project.make("publish")
    assert weights.stat().st_size == pytest.approx(size, rel=0.01)
    mlflow.pyfunc.load_model(str(description.parent))
    (model,) = project.client.search_logged_models([project.experiment])
    assert json.loads(model.tags[logged_models.FILES])[WEIGHTS] == weights.stat().st_size


def test_a_logged_model_whose_tag_was_edited_is_checked_without_it(delivered):
    project, weights = delivered
    project.client.set_logged_model_tags(model_folder(weights).parent.name, {logged_models.FILES: "edited"})
    weights.unlink()
    project.make("publish")
    assert weights.is_file()


@pytest.mark.parametrize(
    "lost", in_turn(["*", "*/*/artifacts/cae/encoder*", "*/*/artifacts/images/*", "*/models/*/artifacts/*"])
)
def test_lost_artifacts_are_delivered_again(project, lost):
    project.make("evaluate all", "publish")
    before = artifacts(project.folder)
    found = list((project.folder / "mlruns").glob(lost))
    assert found
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    project.make("publish")
    after = artifacts(project.folder)
    assert set(after) == set(before)
    weights = [name for name in before if "/cae/" in name]
    assert weights and all(after[name] == before[name] for name in weights)
    model_id = project.client.search_logged_models([project.experiment])[0].model_id
    code = f"import mlflow; mlflow.pyfunc.load_model('models:/{model_id}')"
    subprocess.run(["python", "-c", code], check=True, cwd=project.folder)
