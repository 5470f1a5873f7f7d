"""The command verify: each file that is not as it was written is named, with and without DVC."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from histocae import CAE, checksums
from histocae.errors import DataError
from histocae.files import read_table, write_json, write_table, write_text
from histocae.networks import saved
from histocae.paths import SLIDES
from histocae.pipeline import dvc_state
from support.damage import flip_byte
from support.workspace import ALL_STAGES, Workspace

MODELS = ("models/trained/all", "models/folds/fold-1/trained/all")
LATENTS = "models/latents/all"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A project with a patch store, which DVC has not recorded."""
    folder = tmp_path_factory.mktemp("prepared")
    project = Workspace(folder)
    project.slides("a", "b", "c", "d", "e", "f")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        project.make(*ALL_STAGES)
        for path in MODELS:
            save_model(Path(path))
        save_latents(Path(LATENTS))
    return folder


def save_model(folder: Path) -> None:
    """Save what the stage train leaves of a model; it was never trained."""
    CAE((32, 32, 3), filters=[2], latent_features=2).save(folder)
    (folder / "samples").mkdir()
    (folder / "samples/epoch_0001.png").write_bytes(b"an image")
    (folder / "history.csv").write_text("epoch|loss|validation_loss\n1|0.5|0.5\n")
    write_json({"weights": saved.weights_fingerprint(folder)}, folder / "training.json")
    checksums.write(folder)


def save_latents(folder: Path) -> None:
    """Save what the stage evaluate leaves of latents."""
    folder.mkdir(parents=True)
    write_json({"features": 2}, folder / "latents.json")
    np.save(folder / "train.npy", np.zeros((3, 2), np.float32))
    checksums.write(folder)


@pytest.fixture
def project(prepared, tmp_path, monkeypatch) -> Workspace:
    """A copy of the project, as the working directory."""
    shutil.copytree(prepared, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    copy = Workspace.__new__(Workspace)
    copy.folder, copy.own = tmp_path / "copy", tmp_path / "copy" / "own"
    return copy


def reasons(project: Workspace) -> dict[str, str]:
    """Run verify, which must fail; return what it says of each file, but for what it could not compare."""
    result = project.run("verify")
    assert "histocae verify: not as written: " in result.error
    lines = [line.partition(" verify: ")[2] for line in result.lines[:-1]]
    pairs = (line.partition(": ") for line in lines if "there is no dvc.lock" not in line)
    return {path: reason for path, _, reason in pairs}


def test_without_dvc_the_files_that_were_not_compared_are_counted(project):
    result = project.run("verify")
    assert result.code == 0
    *_, others, end, _ = (line for line in result.lines if " verify: " in line)
    count = sum(path.is_file() for folder in ("data", "models", "reports") for path in Path(folder).rglob("*"))
    compared = [*Path("data/patches/shards").glob("*.npy"), Path("data/patches/index.csv")]
    compared += [path for folder in (*MODELS, LATENTS) for path in Path(folder).rglob("*") if path.is_file()]
    count -= len(compared)
    lists = "data/annotations.csv, data/code, data/features.csv"
    counted = f"{count} of the files have no hash and were not compared, in {lists}, "
    assert counted in others and "data/patches, " in others and "there is no dvc.lock" in others
    assert end.endswith("verify: all other files are as they were written")


def test_a_folder_where_nothing_can_be_compared_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        Workspace(tmp_path)
        .run("verify")
        .error.startswith("histocae verify: nothing was compared: there is no dvc.lock")
    )
    Path("reports").mkdir()
    Path("reports/index.html").touch()
    result = Workspace(tmp_path).run("verify")
    assert "1 of the files have no hash and were not compared, in reports/index.html" in result.lines[0]
    assert "nothing was compared" in result.error


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"version": 3}', b'{"version": 2}'])
def test_a_store_whose_manifest_is_damaged_is_named(project, content):
    manifest = Path("data/patches/store.json")
    if content is None:
        manifest.unlink()
    else:
        manifest.write_bytes(content)
    assert list(reasons(project)) == ["data/patches/store.json"]


def test_a_damaged_shard_is_named_once(project):
    (shard, *_) = sorted(Path("data/patches/shards").glob("*.npy"))
    flip_byte(shard)
    assert reasons(project) == {shard.as_posix(): "is not as it was written (its SHA-256 differs)"}


@pytest.mark.parametrize("change", ["damaged", "missing", "extra"])
@pytest.mark.parametrize(
    "path",
    [
        *(f"{folder}/{name}" for folder in MODELS for name in ("encoder.weights.h5", "params.yaml", "training.json")),
        *(f"{folder}/{name}" for folder in MODELS for name in ("history.csv", "samples/epoch_0001.png")),
        f"{LATENTS}/latents.json",
        f"{LATENTS}/train.npy",
    ],
)
def test_each_file_of_a_model_and_of_latents_is_compared(project, path, change):
    file = Path(path)
    if change == "damaged":
        flip_byte(file)
        reason = "is not as it was written (its SHA-256 is not that in SHA256SUMS)"
    elif change == "missing":
        file.unlink()
        reason = "is missing"
    else:
        file = file.with_name("extra.txt")
        file.touch()
        reason = "is not in SHA256SUMS"
    assert reasons(project) == {file.as_posix(): reason}


@pytest.mark.parametrize("folder", [*MODELS, LATENTS])
def test_damaged_hashes_of_a_model_or_of_latents_are_named(project, folder):
    (Path(folder) / "SHA256SUMS").write_text("damaged\n")
    ((path, reason),) = reasons(project).items()
    assert path == f"{folder}/SHA256SUMS" and reason.startswith("line 1 is not a SHA-256 and a file's name")


@pytest.mark.parametrize("folder", MODELS)
def test_a_model_without_hashes_and_record_is_named(project, folder):
    for name in ("SHA256SUMS", "training.json"):
        (Path(folder) / name).unlink()
    flip_byte(Path(folder) / "encoder.weights.h5")
    assert reasons(project) == {folder: "has no SHA256SUMS and no training.json, so that it can't be compared"}


@pytest.mark.parametrize("folder", MODELS)
def test_weights_of_another_training_are_named(project, folder):
    write_json({"weights": "0" * 64}, Path(folder) / "training.json")
    checksums.write(Path(folder))
    ((path, reason),) = reasons(project).items()
    assert path == folder and "not the weights of the training in training.json" in reason


def test_the_files_of_a_model_of_an_earlier_version_without_hashes_are_counted(project):
    (Path(MODELS[0]) / "SHA256SUMS").unlink()
    result = project.run("verify")
    assert result.code == 0 and any("models/trained, " in line for line in result.lines)


@pytest.mark.parametrize("folder", MODELS)
def test_a_model_whose_record_is_lost_is_not_loaded(project, folder):
    (Path(folder) / "training.json").unlink()
    with pytest.raises(DataError, match=r"training\.json: can't be read: No such file"):
        CAE(path=folder, load=True)


def test_a_slide_that_cannot_be_read_does_not_hide_another(project):
    project.own.joinpath("b.tif").unlink()
    project.own.joinpath("b.tif").symlink_to("/proc/self/mem")  # reading it is an error of input and output
    flip_byte(project.own / "d.tif")
    project.own.joinpath("e.tif").unlink()
    assert reasons(project) == {
        "own/b.tif": "can't be read: Input/output error",
        "own/d.tif": "is not the slide that was read (its SHA-256 differs)",
        "own/e.tif": "is missing",
    }


def test_slides_on_another_machine_are_not_compared(project, monkeypatch):
    monkeypatch.setenv("HISTOCAE_FILES", "elsewhere")
    shutil.rmtree(project.own)
    result = project.run("verify")
    assert result.code == 0 and any("the slides are on another machine" in line for line in result.lines)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("file", None, "line 2 names no file"),
        ("sha256", None, "line 2 has no hash of a.tif"),
        ("sha256", ..., "can't be read: it has no column 'sha256'; run the stages before this one: dvc repro"),
        ("md5", ..., "can't be read: it has no column 'md5'; run the stages before this one: dvc repro"),
        ("file", ..., "can't be read: it has no column 'file'; run the stages before this one: dvc repro"),
    ],
)
def test_a_damaged_table_of_slides_is_named(project, column, value, reason):
    table = read_table(SLIDES, ("slide_id",))
    if value is ...:
        table = table.drop(columns=column)
    else:
        table.loc[0, column] = value
    write_table(table, SLIDES)
    assert reasons(project) == {SLIDES.as_posix(): reason}


def test_a_table_of_slides_without_lines_is_named(project):
    SLIDES.write_bytes(b"")
    assert list(reasons(project)) == [SLIDES.as_posix()]


def test_with_dvc_damaged_missing_extra_and_renamed_files_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"damaged": "b", "gone": "c", "old": "d", "deep/old": "e"}
    stage = {"cmd": "histocae --version", "outs": ["out", "table.csv"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    for name, text in names.items():
        write_text(text, Path("out", name))
    write_text("table", Path("table.csv"))
    for command in ("git init -q", "dvc init -q", "dvc commit -q --force"):
        subprocess.run(command.split(), check=True)
    assert dvc_state.compare().differing == {}
    Path("out/damaged").write_text("x")
    Path("out/gone").unlink()
    Path("out/extra").write_text("y")
    Path("out/old").rename("out/new")
    Path("out/deep/old").rename("out/new too")
    Path("table.csv").rename("out/table too.csv")
    assert {path.as_posix(): reason for path, reason in dvc_state.compare().differing.items()} == {
        "out/damaged": "differs from dvc.lock",
        **dict.fromkeys(("out/gone", "out/old", "out/deep/old", "table.csv"), "is missing"),
        **dict.fromkeys(("out/extra", "out/new", "out/new too", "out/table too.csv"), "is not in dvc.lock"),
    }


def test_with_dvc_files_outside_its_outputs_are_counted(tmp_path, monkeypatch):
    """DVC would not mention them: git ignores all of data, models and reports."""
    monkeypatch.chdir(tmp_path)
    stage = {"cmd": "histocae --version", "outs": ["data/splits", "reports/split.json"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    Path(".gitignore").write_text("/data/*\n/reports/*\n")
    for name in ("data/splits/train.csv", "reports/split.json"):
        write_text(name, Path(name))
    for command in ("git init -q", "dvc init -q", "dvc commit -q --force"):
        subprocess.run(command.split(), check=True)
    project = Workspace(tmp_path)
    assert "all files are as they were written" in "".join(project.run("verify").lines)
    Path("data/slides").mkdir()
    for name in ("data/extra.csv", "data/slides/a.txt", "data/slides/b.txt"):
        Path(name).touch()
    result = project.run("verify")
    assert result.code == 0
    count = "3 of the files have no hash and were not compared, in data/extra.csv, data/slides: these are no outputs"
    assert any(count in line for line in result.lines)
