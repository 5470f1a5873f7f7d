"""The command verify: each file that is not as it was written is named, with and without DVC."""

import shutil
from pathlib import Path

import pytest

from support.damage import flip_byte
from support.workspace import ALL_STAGES, Workspace


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A project with a patch store, which DVC has not recorded."""
    folder = tmp_path_factory.mktemp("prepared")
    project = Workspace(folder)
    project.slides("a", "b", "c", "d", "e", "f")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        project.make(*ALL_STAGES)
    return folder


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
    count -= 1 + len(list(Path("data/patches/shards").glob("*.npy")))  # and the index
    assert "there is no dvc.lock" in others and f"so {count} of the files were not compared, in data/code, " in others
    assert "data/patches, data/set_aside, " in others and end.endswith(
        "verify: all other files are as they were written"
    )


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
    assert "so 1 of the files were not compared, in reports/index.html" in result.lines[0]
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
