"""`histocae score` as a user runs it: in an empty folder, with a tracking server and nothing else of the project."""

import doctest
import errno
import hashlib
import html
import json
import os
import re
import shutil
import sqlite3
import time
import warnings
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import anndata
import h5py
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

import histocae
from histocae import checksums, files
from histocae.contrast import pair
from histocae.errors import ParamsError, SlideError, TableError, TrackingError
from histocae.patches.store import MEASURES
from histocae.scoring import api, command, results
from histocae.scoring.given import RECORD
from histocae.tracking import registered as registered_models
from histocae.tracking import server
from support import make_data, registered
from support.registered import Registered
from support.workspace import command as run

FILES = {"patches.parquet", "heatmap.png", "thumbnail.jpg", "patches.geojson", RECORD}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Registered:
    """A project with registered models, which tests only read."""
    with pytest.MonkeyPatch.context() as patch:
        return registered.make(tmp_path_factory.mktemp("registered") / "project", patch)


@pytest.fixture
def empty(project, tmp_path, monkeypatch, in_process) -> Path:
    """An empty working directory; the environment names the project's tracking server."""
    registered.enter(project, monkeypatch)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(command, "_MODELS", {})
    return tmp_path / "empty"


def score(*words: object) -> None:
    result = run(" ".join(["score", *map(str, words)]))
    assert result.code == 0, result.lines


def table(slide_id: str, out: str = "scores") -> pd.DataFrame:
    return pd.read_parquet(Path(out) / slide_id / "patches.parquet")


def times(out: str = "scores") -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in Path(out).glob(f"*/{RECORD}")}


def test_a_slide_gets_the_scores_that_the_pipeline_gives_it(project, empty):
    rows = project.read("data/splits/test.csv")
    slide_id = rows["slide_id"].iloc[0]
    score(project.own / f"{slide_id}.tif")
    found = table(slide_id)
    own = rows[rows["slide_id"] == slide_id]
    columns = ["slide_id", "x", "y", "width", "mpp", "tissue_share", *MEASURES, "flags", "color_distance"]
    assert list(found) == [*columns, "error_tumor", "error_normal", "score", "probability", "class"]
    both = own.merge(found, on=["x", "y"], suffixes=("", "_found"))  # the pipeline drew at most 12 patches
    assert len(both) == len(own) < len(found)
    np.testing.assert_allclose(both["tissue_share"], both["tissue_share_found"])
    for name in ("tumor", "normal"):
        errors = project.read(f"reports/models/{name}/evaluation/per_patch.csv")
        errors = errors[errors["slide_id"] == slide_id]
        np.testing.assert_allclose(both[f"error_{name}"], errors["mse"], rtol=1e-4)
    np.testing.assert_allclose(found["score"], pair.score(found["error_tumor"], found["error_normal"]))
    threshold = project.json("reports/tissue/metrics.json")["threshold"]
    called = np.where(found["score"] >= threshold["patch"], make_data.TUMOR, make_data.NORMAL)
    assert (found["class"] == called).all() and found["probability"].between(0, 1).all()
    (slide,) = pd.read_csv("scores/slides.csv").to_dict("records")
    assert slide["slide_id"] == slide_id and slide["patches"] == len(found)
    assert slide["score"] == pytest.approx(found["score"].mean())
    assert slide["class"] == (make_data.TUMOR if slide["score"] >= threshold["slide"] else make_data.NORMAL)
    assert slide["tumor_share"] == pytest.approx((found["class"] == make_data.TUMOR).mean())
    assert {path.name for path in Path("scores", slide_id).iterdir()} == FILES
    assert pd.read_csv("scores/set_aside.csv").empty


def test_the_working_directory_gets_the_results_and_nothing_else(project, empty):
    score(project.own / "s0.tif", "--out", "deep/er")
    assert {path.name for path in empty.iterdir()} == {"deep"}
    assert {path.name for path in Path("deep/er").iterdir()} == {
        ".models",
        "s0",
        "slides.csv",
        "set_aside.csv",
        "index.html",
    }


def test_a_single_model_gives_errors_and_latents(project, empty):
    score(project.own / "s1.tif", "--model", "histocae-all", "--latents")
    found = table("s1")
    assert "score" not in found and (found["error"] > 0).all()
    champion = project.json("models/registered.json")["histocae-all"]["champion"]["model"]
    features = registered.MODELS[champion]["latent_features"]
    assert np.stack(found["latent"]).shape == (len(found), features)
    columns = ["slide_id", "error", "patches", "left_out", "flagged", "warnings"]
    assert list(pd.read_csv("scores/slides.csv")) == columns
    assert "The error is no diagnosis" in Path("scores/index.html").read_text()


def write_inked(path: Path, columns: slice = slice(128)) -> None:
    make_data.write_slide(path, make_data.inked(make_data.tissue(0, 256, 256), columns), mpp=0.5, lossless=True)


def test_patches_under_ink_have_no_score(project, empty):
    write_inked(empty / "ink.tif")
    write_inked(empty / "all.tif", slice(None))
    make_data.write_slide(empty / "clean.tif", make_data.tissue(0, 256, 256), mpp=0.5, lossless=True)
    score("ink.tif", "all.tif", "clean.tif", "--model", "histocae-all", "--export", "h5ad", "--export", "parquet")
    ink, clean = table("ink"), table("clean")
    inked = clean["x"] < 128
    both = clean[~inked].merge(ink, on=["x", "y"])
    np.testing.assert_allclose(both["error_x"], both["error_y"], rtol=1e-5)
    assert len(both) == 32 and not ink["flags"].str.contains("pen").any() and (ink["pen_share"] <= 0.2).all()
    rows = pd.read_csv("scores/slides.csv").set_index("slide_id")
    assert list(rows.index) == ["ink", "clean"] and list(rows["patches"]) == [len(ink), len(clean)]
    # not all ink looks like tissue
    assert 20 < rows.loc["ink", "left_out"] <= len(clean) - len(ink) and not rows.loc["clean", "left_out"]
    assert rows.loc["ink", "error"] == pytest.approx(ink["error"].mean())
    assert rows.loc["ink", "flagged"] == (ink["flags"] != "").sum()
    assert f"patches left out: {rows.loc['ink', 'left_out']} under ink" in rows.loc["ink", "warnings"]
    (aside,) = pd.read_csv("scores/set_aside.csv").to_dict("records")
    assert aside["slide_id"] == "all"
    assert re.fullmatch(r"all of its patches are left out: \d\d pen", aside["reason"])
    page = Path("scores/index.html").read_text()
    assert page.count(" left out</div>") == 1 and f">{rows.loc['ink', 'left_out']} left out</div>" in page
    exported = anndata.read_h5ad("scores/latents.h5ad")
    assert exported.n_obs == len(ink) + len(clean) and set(exported.obs["flags"]) >= {""}
    assert {"pen_share", "flags"} <= set(exported.uns["histocae"]["columns"])
    score("ink.tif", "--model", "histocae-all", "--export", "h5ad")  # the export is histocae's own


def test_a_model_has_many_names(project, empty):
    entry = project.json("models/registered.json")["histocae-all"]["champion"]
    names = [
        "models:/histocae-all@champion",
        "histocae-all@champion",
        f"models:/histocae-all/{entry['version']}",
        f"models:/{entry['model_id']}",
        f"runs:/{entry['run_id']}",
        entry["run_id"],
        project.folder / "models/trained" / entry["model"],
    ]
    tables = []
    for number, name in enumerate(names):
        score(project.own / "s1.tif", "--model", name, "--out", f"out{number}")
        tables.append(table("s1", f"out{number}"))
    for other in tables[1:-1]:
        pd.testing.assert_frame_equal(tables[0], other)
    pd.testing.assert_frame_equal(tables[0], tables[-1], rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("models:/histocae-pair@challenger", "histocae-pair has no alias challenger on sqlite:"),
        ("histocae-pair/99", "histocae-pair has no version 99 on sqlite:"),
        ("nobody@champion", "no registered model nobody on sqlite:"),
        ("0" * 32, "not on sqlite:"),
        ("models/trained/none", "neither a folder nor the name of a model; use models:/NAME@ALIAS"),
        ("histocae-pair/99999999999999999999", "neither a folder nor the name of a model"),
        (".", ".: no trained model (it has no training.json)"),
        ("/", "/: no trained model (it has no training.json)"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_those_that_are(project, empty, model, words):
    message = run(f"score {project.own / 's0.tif'} --model {model}").error
    assert words in message and not Path("scores/slides.csv").exists()


def test_without_a_server_no_empty_database_is_made(project, empty, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "no tracking server: set MLFLOW_TRACKING_URI" in run(f"score {project.own / 's0.tif'}").error
    message = run(f"score {project.own / 's0.tif'} --model {project.folder}/models/trained/al").error
    assert f"{project.folder}/models/trained/al: neither a folder nor the name of a model" in message
    assert "al: no tracking server" in run(f"score {project.own / 's0.tif'} --model al").error
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty / 'typo.db'}")
    assert "typo.db: no such database" in run(f"score {project.own / 's0.tif'}").error
    assert not list(empty.iterdir())


def test_a_model_without_a_contract_is_refused(project, empty, monkeypatch):
    """As models that an earlier version of histocae registered, or those of other programs."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty.parent / 'other.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{empty.parent / 'other.db'}")
    with warnings.catch_warnings(), mlflow.start_run():
        warnings.simplefilter("ignore")  # about a model without a signature

        class Older(PythonModel):
            def predict(self, context, model_input: list[str]) -> list[str]:
                return model_input

        info = mlflow.pyfunc.log_model(name="model", python_model=Older(), pip_requirements=[])
        mlflow.register_model(f"models:/{info.model_id}", "older")
    message = run(f"score {project.own / 's0.tif'} --model older/1").error
    line = "models:/older/1: registered by an earlier version of histocae, without a contract; run dvc repro in its"
    assert line in message
    assert not list(Path("scores").rglob("*.json"))


@pytest.fixture
def other(project, empty, tmp_path, monkeypatch) -> Registered:
    """A copy of the project that a test may damage; its database is the server."""
    copied = registered.copy(project, tmp_path / "copy", monkeypatch)
    server.client()  # corrects the paths in the copied database, which else lead to the files of the original
    monkeypatch.chdir(empty)
    return copied


def files_of(project: Registered, name: str) -> Path:
    """The folder in the registry's champion with its contract and networks."""
    version = project.client.get_model_version_by_alias(name, "champion")
    model = project.client.get_logged_model(version.source.removeprefix("models:/"))
    files = Path(model.artifact_location) / "artifacts/histocae"
    assert files.is_relative_to(project.folder)
    return files


def test_a_model_that_is_damaged_on_the_server_is_refused(project, empty, other):
    """Also where its hashes were written again."""
    folder, slide = files_of(other, "histocae-pair"), project.own / "s0.tif"

    def message() -> str:
        shutil.rmtree("scores/.models", ignore_errors=True)
        return run(f"score {slide}").error

    def change(**values: object) -> None:
        (folder / "contract.json").write_text(json.dumps(contract | values))
        (folder / "SHA256SUMS").unlink()
        checksums.write(folder)

    contract = json.loads((folder / "contract.json").read_text())
    change(version=2)
    assert "a contract of version 2, this histocae reads 1; update histocae" in message()
    change(patches=contract["patches"] | {"pixels": 64})
    assert "the networks are not those of contract.json, 2 of 64 x 64 pixels" in message()
    change(classes=["A", "B"])
    assert "classes: expected Primary Tumor and Solid Tissue Normal" in message()
    change()
    (folder / "networks/saved_model.pb").write_bytes(b"damaged")
    assert "saved_model.pb: is not as it was written" in message()
    shutil.rmtree(folder / "networks")
    assert "networks: is missing" in message()
    (folder / "SHA256SUMS").unlink()
    assert "SHA256SUMS: is missing" in message()
    shutil.rmtree(folder.parents[1])
    assert "its files are not on the server" in message()
    assert not Path("scores/index.html").exists()


def test_a_damaged_download_is_downloaded_again(project, empty):
    score(project.own / "s0.tif")
    (sums,) = Path("scores/.models").rglob("SHA256SUMS")
    whole = sums.read_text()
    for damaged in ("damaged\n", f"{'0' * 64}{whole[64:]}", None):
        if damaged is None:
            sums.unlink()
        else:
            sums.write_text(damaged)
        lines = run(f"score {project.own / 's0.tif'}").lines
        (line,) = (line for line in lines if "the model is downloaded again" in line)
        assert str(sums.parent) in line and "register" not in line
        assert sums.read_text() == whole


def test_a_run_stands_for_its_last_model(project, empty, other):
    """MLflow lists the models of a run in no order."""
    run_id = other.json("models/registered.json")["histocae-pair"]["champion"]["run_id"]

    def log_model(name: str = "model", ready: bool = True) -> str:
        time.sleep(0.002)  # for the times of their creation, in milliseconds
        model = other.client.create_logged_model(other.experiment, name=name, source_run_id=run_id)
        if ready:
            other.client.finalize_logged_model(model.model_id, "READY")
        other.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        return model.model_id

    last = log_model()
    while other.client.get_run(run_id).outputs.model_outputs[-1].model_id == last:
        last = log_model()
    log_model(ready=False)
    log_model("another")
    assert registered_models.find(f"runs:/{run_id}").model_id == last


def test_a_folder_of_results_does_not_hide_a_registered_model(project, empty):
    for _ in range(2):
        score(project.own / "s0.tif", "--out", "histocae-pair", "--model", "histocae-pair")
    message = run(f"score {project.own / 's0.tif'} --model ./histocae-pair").error
    assert "histocae-pair: no trained model (it has no training.json)" in message


def test_a_download_that_breaks_off_leaves_nothing(project, empty, monkeypatch):
    def broken(*_, dst_path: str) -> None:
        (Path(dst_path) / "half").write_text("half")
        raise MlflowException("The following failures occurred while downloading:\n##### File contract.json #####")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", broken)
    message = run(f"score {project.own / 's0.tif'}").error
    assert "(version 1): can't be downloaded: files are missing on the server, or the download broke off" in message
    assert [path.name for path in Path("scores/.models").iterdir()] == ["lock"]


def test_a_server_that_wants_a_password_is_named_with_the_variables_for_it(project, empty, monkeypatch):
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as refusing:
        Thread(target=refusing.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{refusing.server_port}")
        message = run(f"score {project.own / 's0.tif'}").error
        refusing.shutdown()
    assert "error code 401" in message and "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in message


def test_a_version_without_a_logged_model_is_refused(project, empty, other):
    """As MLflow 2 registered the files of a run; what a server says is no path here."""
    with sqlite3.connect(other.folder / "mlflow.db") as database:
        database.execute("UPDATE model_versions SET source = 'models:/../../own' WHERE name = 'histocae-pair'")
    message = run(f"score {project.own / 's0.tif'}").error
    assert "registered by an earlier version of histocae, without a contract" in message
    assert not Path("scores").exists() and (other.own / "s0.tif").is_file()


def test_slides_that_fail_are_set_aside_and_the_others_go_on(project, empty):
    make_data.write_slide(empty / "in" / "nompp.tif", make_data.tissue(1, 128, 128), mpp=None)
    make_data.write_slide(empty / "in" / "glass.tif", np.full((128, 128, 3), 240, np.uint8), mpp=0.5)
    shutil.copy(project.own / "s2.tif", empty / "in" / "good.tif")
    cut_off = (project.own / "s3.tif").read_bytes()
    (empty / "in" / "damaged.tif").write_bytes(cut_off[: len(cut_off) // 2])
    result = run("score in --json")
    assert result.code == 0
    aside = pd.read_csv("scores/set_aside.csv").set_index("slide_id")["reason"]
    assert list(aside.index) == ["damaged", "glass", "nompp"] and aside["glass"] == "shows no tissue"
    assert aside["nompp"].endswith("give --mpp, or a table with a column mpp")
    assert list(pd.read_csv("scores/slides.csv")["slide_id"]) == ["good"]
    page = html.unescape(Path("scores/index.html").read_text())
    assert all(reason.split(":")[0] in page for reason in aside) and "3 slides were set aside" in page
    score("in", "--mpp", "0.5")
    warnings = pd.read_csv("scores/slides.csv").set_index("slide_id")["warnings"]
    assert "the slide states no microns per pixel: 0.5 was given" in warnings["nompp"]


def test_if_no_slide_can_be_scored_the_command_fails_and_says_why(project, empty):
    (empty / "broken.svs").write_bytes(b"no slide")
    message = run("score broken.svs").error
    assert "no slide could be scored: broken: can't be opened as a slide" in message
    assert list(pd.read_csv("scores/set_aside.csv")["slide_id"]) == ["broken"]


def test_a_slide_is_scored_again_only_where_something_changed(project, empty):
    make = shutil.copy(project.own / "s0.tif", empty / "a.tif")
    shutil.copy(project.own / "s1.tif", empty / "b.tif")
    score("a.tif", "b.tif")
    before, rows = times(), Path("scores/slides.csv").read_bytes()
    score("a.tif", "b.tif")
    os.utime(make)  # the same bytes at another time
    score("a.tif", "b.tif")
    assert times() == before and Path("scores/slides.csv").read_bytes() == rows
    (empty / "scores/b/heatmap.png").write_bytes(b"damaged")
    score("a.tif", "b.tif")
    assert times()["a"] == before["a"] and times()["b"] > before["b"]
    before = times()
    shutil.copy(project.own / "s2.tif", empty / "a.tif")  # other bytes
    score("a.tif", "b.tif")
    assert times()["a"] > before["a"] and times()["b"] == before["b"]
    before = times()
    score("a.tif", "--model", "histocae-tumor")
    assert times()["a"] > before["a"] and times()["b"] == before["b"]
    # the page and the table are of one model
    assert list(pd.read_csv("scores/slides.csv")["slide_id"]) == ["a"]
    score("b.tif", "--model", "histocae-tumor")
    assert list(pd.read_csv("scores/slides.csv")["slide_id"]) == ["b", "a"]


def listed() -> list[str]:
    return list(pd.read_csv("scores/slides.csv")["slide_id"])


def test_results_of_another_slide_of_the_same_name_are_not_replaced(project, empty):
    for folder, name in (("d1", "s0.tif"), ("d2", "s1.tif")):
        (empty / folder).mkdir()
        shutil.copy(project.own / name, empty / folder / "x.tif")
    score("d1/x.tif")
    before = times()
    message = run("score d2/x.tif").error
    assert f"scores/x has the results of another slide of this name, {empty / 'd1/x.tif'}" in message
    assert "choose another folder by --out, or name the slides in a table" in message and times() == before
    Path("d1/x.tif").rename(empty / "moved.tif")
    Path("moved.csv").write_text("slide_id,file_name\nx,moved.tif\n")
    score("moved.csv")  # the same bytes elsewhere
    assert times() != before and listed() == ["x"]


def test_a_slide_that_gets_another_name_is_in_the_table_once(project, empty, caplog):
    for folder, name in (("a", "s0.tif"), ("b", "s1.tif")):
        (empty / "all" / folder).mkdir(parents=True)
        shutil.copy(project.own / name, empty / "all" / folder / "x.tif")
    (empty / "all/b/x.tif").rename(empty / "later.tif")
    score("all")
    assert listed() == ["x"]
    (empty / "later.tif").rename(empty / "all/b/x.tif")
    result = run("score all")
    assert result.code == 0 and listed() == ["a_x", "b_x"]
    assert any("x: is left out of slides.csv: the slide has another name now" in line for line in result.lines)


def test_an_earlier_slide_stays_in_the_table_only_while_its_results_hold(project, empty):
    for name in ("s0", "s1", "s2", "s3"):
        shutil.copy(project.own / f"{name}.tif", empty / f"{name}.tif")
    score("s0.tif", "s1.tif", "s2.tif", "s3.tif")
    os.utime("s0.tif")  # the same bytes
    Path("s1.tif").write_bytes(b"no slide")
    Path("scores/s2/heatmap.png").write_bytes(b"damaged")
    Path("s3.tif").unlink()  # moved away
    assert "no slide could be scored: s1" in run("score s1.tif").error
    result = run(f"score {project.own / 's4.tif'}")
    assert result.code == 0 and sorted(listed()) == ["s0", "s3", "s4"]
    page = Path("scores/index.html").read_text()
    assert "s4" in page and "s1.tif" not in page
    lines = "\n".join(result.lines)
    assert f"s1: is left out of slides.csv: {empty / 's1.tif'} was changed after it was scored" in lines
    assert "s2/heatmap.png was changed or damaged after it was written" in lines


def test_results_of_another_version_of_the_code_are_not_mixed_with_new_ones(project, empty, monkeypatch):
    score(project.own / "s0.tif")
    monkeypatch.setattr(results, "_code", lambda: "another")
    score(project.own / "s1.tif")
    assert listed() == ["s1"]
    before = times()
    score(project.own / "s0.tif")
    assert listed() == ["s0", "s1"] and times()["s0"] > before["s0"]


def test_hashes_of_a_table_are_compared_once(project, empty, monkeypatch):
    text = hashlib.sha256((project.own / "s0.tif").read_bytes()).hexdigest()
    shutil.copy(project.own / "s0.tif", empty / "a.tif")
    Path("table.csv").write_text(f"slide_id,file_name,sha256\na,a.tif,{text}\n")
    score("table.csv")

    def read(*_):
        pytest.fail("the slide is read again")

    with monkeypatch.context() as patched:
        patched.setattr(results, "digest", read)
        score("table.csv")
    Path("table.csv").write_text(f"slide_id,file_name,sha256\na,a.tif,{'0' * 64}\n")
    assert "a.tif: its sha256 differs from that in the table" in run("score table.csv").error


def test_a_slide_that_can_not_have_its_folder_is_set_aside_among_good_ones(project, empty):
    (empty / "in").mkdir()
    for name in ("index.html", "s0", "s1"):
        shutil.copy(project.own / "s0.tif", empty / "in" / f"{name}.tif")
    (empty / "scores/s0").mkdir(parents=True)
    Path("scores/s0/notes.txt").write_text("mine")
    score("in")
    aside = pd.read_csv("scores/set_aside.csv").set_index("slide_id")["reason"]
    assert aside["index.html"] == "a file of the results has the name index.html; rename the slide"
    assert "scores/s0/notes.txt was not written by histocae score, and would be replaced" in aside["s0"]
    assert listed() == ["s1"] and Path("scores/s0/notes.txt").read_text() == "mine"


def test_the_same_slides_give_the_same_bytes(project, empty, monkeypatch):
    contents = []
    for out in ("first", "second"):
        monkeypatch.setattr(command, "_MODELS", {})
        score(project.own / "s0.tif", project.own / "s4.tif", "--out", out, "--model", "histocae-all", "--latents")
        contents.append(
            {
                path.relative_to(out).as_posix(): path.read_bytes()
                for path in Path(out).rglob("*")
                if path.is_file() and ".models" not in path.parts
            }
        )
    assert contents[0] == contents[1] and len(contents[0]) == 2 * len(FILES) + 3


def test_workers_of_dask_write_the_same_bytes(project, empty, monkeypatch):
    monkeypatch.undo()  # real processes
    registered.enter(project, monkeypatch)
    monkeypatch.chdir(empty)
    options = (project.own / "s0.tif", project.own / "s1.tif", "--model", "histocae-tumor")
    score(*options, "--out", "processes")
    score(*options, "--out", "dask", "--executor", "dask", "--workers", "1")
    for file in Path("processes").rglob("*.*"):
        if ".models" not in file.parts and file.is_file():
            assert (empty / "dask" / file.relative_to("processes")).read_bytes() == file.read_bytes()


def test_json_has_the_rows_of_both_tables(project, empty, capsys):
    (empty / "broken.svs").write_bytes(b"no slide")
    score(project.own / "s0.tif", "broken.svs", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["model"].startswith("models:/histocae-pair@champion (version ")
    (slide,), (aside,) = found["slides"], found["set_aside"]
    assert slide["slide_id"] == "s0" and isinstance(slide["warnings"], list) and slide["class"]
    assert aside["slide_id"] == "broken" and aside["file"] == "broken.svs"


def test_tiles_are_scored_as_one_slide_and_have_no_geojson(project, empty):
    for number in range(3):
        make_data.write_tile(empty / "patient" / f"{number}.png", make_data.tissue(number, 64, 96))
    score("patient")
    found = table("patient")
    assert set(found["file"]) == {"0.png", "1.png", "2.png"} and len(found) == 18
    assert found["width"].isna().all() and found["mpp"].isna().all() and set(found["x"]) == {0, 32, 64}
    assert {path.name for path in Path("scores/patient").iterdir()} == FILES - {"patches.geojson"}
    assert "tiles state none" in pd.read_csv("scores/slides.csv")["warnings"].iloc[0]
    message = run("score patient --model histocae-all --export h5").error
    assert message.endswith("--export h5ad or --export parquet") and "tiles have no position" in message


def test_latents_leave_in_the_forms_of_other_tools(project, empty):
    score(
        project.own / "s0.tif",
        project.own / "s1.tif",
        "--model",
        "histocae-all",
        *(f"--export {form}" for form in ("h5ad", "h5", "stamp")),
    )
    data = anndata.read_h5ad("scores/latents.h5ad")
    assert list(data.obs["slide_id"].unique()) == ["s0", "s1"] and data.obsm["spatial"].shape == (len(data), 2)
    for slide_id in ("s0", "s1"):
        own = data[data.obs["slide_id"] == slide_id]
        with (
            h5py.File(f"scores/h5_files/{slide_id}.h5") as clam,
            h5py.File(f"scores/h5_stamp/{slide_id}.h5") as stamp,
        ):
            np.testing.assert_array_equal(clam["features"][:], own.X)
            np.testing.assert_array_equal(clam["coords"][:], own.obs[["x", "y"]].to_numpy())
            np.testing.assert_array_equal(stamp["feats"][:], own.X)


def test_exported_patches_have_the_case_and_the_label_of_the_table(project, empty):
    shutil.copy(project.own / "s0.tif", empty / "a.tif")
    shutil.copy(project.own / "s1.tif", empty / "b.tif")
    (empty / "t.csv").write_text(f"slide_id,file_name,case_id,sample_type\na,a.tif,c1,{make_data.TUMOR}\nb,b.tif,,\n")
    score("t.csv", "--model", "histocae-all", "--export", "h5ad", "--export", "parquet")
    slides = anndata.read_h5ad("scores/latents.h5ad").obs.groupby("slide_id", observed=True)
    assert list(slides["label"].first().astype(object).fillna("-")) == [make_data.TUMOR, "-"]
    assert list(slides["case_id"].first().astype(object).fillna("-")) == ["c1", "-"]


def test_tiles_are_left_out_of_forms_that_have_positions(project, empty):
    make_data.write_tile(empty / "t" / "1.png", make_data.tissue(0, 64, 64))
    result = run(f"score {project.own / 's0.tif'} t --model histocae-all --export stamp --export parquet")
    assert result.code == 0 and "h5_stamp lacks 1 slide: tiles have no position on a slide: t" in result.lines[-2]
    assert [path.name for path in Path("scores/h5_stamp").iterdir()] == ["s0.h5"]
    assert set(pd.read_parquet("scores/latents.parquet")["slide_id"]) == {"s0", "t"}
    message = run("score t --model histocae-all --export stamp --out tiles").error
    assert "tiles have no position on a slide, which --export stamp needs; use --export h5ad or" in message
    score("t", "--model", "histocae-all", "--export", "all", "--out", "tiles")
    assert {path.name for path in Path("tiles").iterdir() if path.name.startswith(("latents", "h5"))} == {
        "latents.h5ad",
        "latents.parquet",
    }


def test_a_model_without_latents_is_refused_before_anything_is_read(project, empty):
    assert "has no latents" in run(f"score {project.own / 's0.tif'} --latents").error
    assert not Path("scores/s0").exists()


def test_a_file_that_is_not_the_one_of_the_table_is_set_aside(project, empty):
    for name in ("s0", "s1"):
        shutil.copy(project.own / f"{name}.tif", empty / f"{name}.tif")
    digest = hashlib.sha256((empty / "s1.tif").read_bytes()).hexdigest()
    (empty / "t.csv").write_text(f"slide_id,file_name,sha256,case_id\na,s0.tif,{'0' * 64},c1\nb,s1.tif,{digest},c2\n")
    score("t.csv")
    (aside,) = pd.read_csv("scores/set_aside.csv").to_dict("records")
    assert aside["slide_id"] == "a" and "its sha256 differs from that in the table" in aside["reason"]
    (slide,) = pd.read_csv("scores/slides.csv").to_dict("records")
    assert (slide["slide_id"], slide["case_id"]) == ("b", "c2")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--mpp 352.9", "--mpp 352.9: not 0.05 to 10"),
        ("--bound speed=3", "--bound speed=3: expected NAME=NUMBER with a name of seconds, gigabytes"),
        ("--bound seconds=fast", "--bound seconds=fast: expected a number, such as 7200"),
        ("--bound patches=1e6", "--bound patches=1e6: expected a whole number, such as 100000"),
        ("--bound patches=0", "--bound patches"),
        ("--workers 0", "--workers"),
        ("--scheduler tcp://a:1", "--scheduler and --slurm need --executor dask"),
        ("--executor dask --slurm {", "--slurm: is no JSON"),
    ],
)
def test_an_option_out_of_range_is_named(empty, option, words):
    assert words in run(f"score a.svs {option}").error


def test_the_function_gives_the_table_without_any_file(project, empty):
    found = histocae.score(project.own / "s0.tif")
    score(project.own / "s0.tif")
    pd.testing.assert_frame_equal(found, table("s0"), check_dtype=False)
    assert found.attrs["summary"]["patches"] == len(found)
    assert {path.name for path in empty.iterdir()} == {"scores"}
    (empty / "broken.svs").write_bytes(b"no slide")
    with pytest.raises(SlideError, match=r"broken\.svs: can't be opened as a slide"):
        histocae.score("broken.svs")
    with pytest.raises(ParamsError, match=r"mpp 352\.9: not 0\.05 to 10"):
        histocae.score(project.own / "s0.tif", mpp=352.9)
    with pytest.raises(TrackingError, match="no registered model nobody"):
        histocae.score(project.own / "s0.tif", model="nobody")
    make_data.write_slide(empty / "nompp.tif", make_data.tissue(1, 128, 128), mpp=None)
    with pytest.raises(SlideError, match=r"microns per pixel.*; give mpp$"):
        histocae.score("nompp.tif")
    Path("table.csv").write_text("slide_id,file_name\na,nompp.tif\n")
    with pytest.raises(TableError, match=r"table\.csv: is a table; give a slide"):
        histocae.score("table.csv")


def test_the_example_of_the_function_holds(project, empty, monkeypatch):
    monkeypatch.chdir(project.folder)
    (project.folder / "slides").mkdir(exist_ok=True)
    shutil.copy(project.own / "s0.tif", "slides/new.tif")
    (example,) = [test for test in doctest.DocTestFinder().find(api.score, "score") if test.examples]
    failures = doctest.DocTestRunner().run(example)
    assert failures.attempted >= 4 and failures.failed == 0


def test_an_earlier_call_is_named_in_the_log_and_its_table_has_the_same_columns(project, empty):
    (empty / "t.csv").write_text("slide_id,file_name,case_id\ns0,s0.tif,c1\n")
    shutil.copy(project.own / "s0.tif", empty)
    score("t.csv")
    table, page = Path("scores/slides.csv").read_bytes(), Path("scores/index.html").read_bytes()
    lines = run("score t.csv").lines
    assert "s0: " in lines[-2] and lines[-2].endswith("; by an earlier call")
    assert "1 slide scored (1 of them by an earlier call), 0 set aside" in lines[-1]
    assert Path("scores/slides.csv").read_bytes() == table and Path("scores/index.html").read_bytes() == page


def test_a_name_that_is_not_utf8_is_set_aside_and_the_others_go_on(project, empty):
    shutil.copy(project.own / "s0.tif", empty / "s0.tif")
    try:
        shutil.copy(project.own / "s1.tif", empty / "x\udcff.tif")
    except (OSError, UnicodeError):
        pytest.skip("the file system refuses such names")
    score(".")
    (aside,) = pd.read_csv("scores/set_aside.csv").to_dict("records")
    assert aside["reason"] == "the name 'x\\udcff' is not UTF-8; rename the file"
    assert list(pd.read_csv("scores/slides.csv")["slide_id"]) == ["s0"]


def test_a_reason_never_begins_as_a_formula(project, empty):
    (empty / "t").mkdir()
    (empty / "t" / "=1+1.png").write_bytes(b"damaged")
    assert "no slide could be scored" in run("score t").error
    reason = "the name '=1+1.png' begins with '=', so spreadsheets would run it as a formula; rename the file"
    assert list(pd.read_csv("scores/set_aside.csv")["reason"]) == [reason]


def test_letters_that_the_font_lacks_are_no_warnings(project, empty):
    shutil.copy(project.own / "s0.tif", empty / "日本語.tif")
    score("日本語.tif")
    assert list(pd.read_csv("scores/slides.csv")["slide_id"]) == ["日本語"]


def test_results_replace_neither_tables_nor_tiles_of_the_user(project, empty):
    tile = make_data.write_tile(empty / "s1" / "1.png", make_data.tissue(0, 64, 64)).read_bytes()
    shutil.copy(project.own / "s0.tif", empty / "s0.tif")
    Path("slides.csv").write_text("slide_id,file_name\ns0,s0.tif\n")
    refused = "exists and was not written by histocae score"
    assert f"slides.csv: {refused}; choose another folder" in run("score slides.csv --out .").error
    Path("slides.csv").rename("mine.csv")
    assert "s1/1.png was not written by histocae score, and would be replaced" in run("score s1 --out .").error
    assert Path("s1/1.png").read_bytes() == tile and len(list(Path("s1").iterdir())) == 1
    score("mine.csv", "--out", ".")
    (empty / "s0" / "notes.txt").write_text("mine")
    os.utime("s0.tif")
    assert "s0/notes.txt was not written by histocae score" in run("score mine.csv --out .").error
    Path("index.html").write_text("mine")
    assert f"index.html: {refused}" in run("score mine.csv --out .").error


def test_a_file_in_place_of_the_folder_of_results_is_named(project, empty):
    Path("out").write_text("mine")
    assert "Not a directory; move or rename it" in run(f"score {project.own / 's0.tif'} --out out").error
    assert Path("out").read_text() == "mine"


def test_no_slide_at_all_leaves_tables_with_columns_and_says_why(project, empty):
    (empty / "broken.svs").write_bytes(b"no slide")
    message = run("score broken.svs --model histocae-all --export parquet").error
    assert "no slide could be scored: broken: can't be opened" in message
    columns = ["slide_id", "error", "patches", "left_out", "flagged", "warnings"]
    assert list(pd.read_csv("scores/slides.csv")) == columns


def test_what_a_killed_process_left_is_no_result(project, empty):
    score(project.own / "s0.tif")
    shutil.copytree("scores/s0", "scores/.s0.0a1b2c3d.999999.part")
    score(project.own / "s1.tif")
    assert list(pd.read_csv("scores/slides.csv")["slide_id"]) == ["s1", "s0"]


@pytest.mark.parametrize("same", [True, False])
def test_two_commands_may_score_a_slide_at_once(project, empty, monkeypatch, same):
    """The folder is made by the other command just before this one renames its own."""
    other = "histocae-tumor" if same else "histocae-normal"
    score(project.own / "s0.tif", "--out", "other", "--model", other)

    @contextmanager
    def replacing_folder(path):
        with files.replacing_folder(path.with_name("never")) as aside:
            yield aside
            shutil.copytree("other/s0", path)
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    monkeypatch.setattr(results, "replacing_folder", replacing_folder)
    result = run(f"score {project.own / 's0.tif'} --model histocae-tumor")
    if same:
        assert result.code == 0 and "by an earlier call" in result.lines[-1]
    else:
        assert "another command writes its results at the same time; score it again" in result.error


def test_names_of_slides_are_escaped_on_the_page(project, empty):
    shutil.copy(project.own / "s0.tif", empty / "<b>$x$.tif")
    score("<b>$x$.tif")
    page = Path("scores/index.html").read_text()
    assert "&lt;b&gt;$x$" in page and "<b>$x$" not in page


def test_the_real_slide_is_scored(project, empty, shared):
    score(shared / "slides/CMU-1-Small-Region.svs")
    found = table("CMU-1-Small-Region")
    assert len(found) > 500 and found["x"].max() < 2220 and found["y"].max() < 2967
    warnings = pd.read_csv("scores/slides.csv")["warnings"].iloc[0]
    assert "unlike the training slides" in warnings
