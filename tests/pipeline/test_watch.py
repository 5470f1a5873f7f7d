"""The inventory of an unchanged cohort is quick, and notices every change."""

import os
import subprocess
import sys
import time

import pytest

from histocae.pipeline import watch

UNCHANGED = "nothing changed"


@pytest.fixture
def watched_project(project, monkeypatch):
    """A project whose inventory ran and was recorded."""
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0)
    project.slides("a", "b")
    time.sleep(0.05)  # longer than the clock of a file system lags
    project.make("inventory")
    assert UNCHANGED in project.run("inventory").lines[-1]
    return project


def test_an_unchanged_inventory_imports_no_heavy_library(watched_project):
    code = (
        "import sys; from histocae.cli import main\n"
        "assert main(['inventory']) == 0\n"
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'pandas', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert UNCHANGED in result.stderr and result.stdout.strip() == "[]"


@pytest.mark.parametrize("change", ["slide", "same bytes and time", "table", "params", "code"])
def test_a_changed_input_is_read_again(watched_project, change, monkeypatch):
    before = watched_project.outputs("data")
    path = watched_project.own / "a.tif"
    data, stat = path.read_bytes(), path.stat()
    if change == "slide":
        path.write_bytes(data + b"more")
    elif change == "same bytes and time":
        path.write_bytes(data[:-1] + b"?")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "table":
        watched_project.table([])
    elif change == "params":
        (watched_project.folder / "params.yaml").write_text(
            (watched_project.folder / "params.yaml").read_text() + "other: 1\n"
        )
    else:
        monkeypatch.setattr(watch, "PACKAGE", watched_project.folder / "elsewhere")
    result = watched_project.run("inventory")
    assert UNCHANGED not in "".join(result.lines)
    assert (result.code == 1) == (change in ("table", "params"))
    assert (watched_project.outputs("data") != before) == (change in ("slide", "same bytes and time"))


@pytest.mark.parametrize("change", ["deleted", "changed", "added"])
def test_changed_outputs_are_written_again(watched_project, change):
    before = watched_project.outputs("data", "models")
    if change == "deleted":
        (watched_project.folder / "data/inventory.csv").unlink()
    elif change == "changed":
        (watched_project.folder / "models/lineage/all.json").write_text("{}")
    else:
        (watched_project.folder / "models/lineage/former.json").write_text("{}")
    watched_project.make("inventory")
    assert watched_project.outputs("data", "models") == before


def test_a_file_in_the_folder_of_a_mirax_slide_belongs_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0)
    slide, params, out = (tmp_path / name for name in ("a.mrxs", "params.yaml", "out"))
    for path in (slide, params, out):
        path.write_text(path.name)
    time.sleep(0.05)
    inventory_watch = watch.Watch(params)
    inventory_watch.remember([slide], [out])
    assert inventory_watch.unchanged()
    (tmp_path / "a").mkdir()
    assert inventory_watch.unchanged()
    (tmp_path / "a" / "Data0000.dat").write_text("0")
    assert not inventory_watch.unchanged()


def test_inputs_that_changed_just_before_are_read_again(watched_project, monkeypatch):
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 1000)
    (watched_project.folder / "data/inventory.csv").unlink()
    watched_project.make("inventory")
    assert UNCHANGED not in "".join(watched_project.run("inventory").lines)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"inputs": 1, "outputs": 2}'])
def test_a_damaged_record_is_written_again(watched_project, text):
    watch.MEMORY.write_text(text)
    watched_project.make("inventory")
    assert UNCHANGED in watched_project.run("inventory").lines[-1]


def test_code_that_changed_just_before_is_not_taken_as_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0.5)
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(watch, "PACKAGE", package)
    params, out = tmp_path / "params", tmp_path / "out"
    for path in (params, out, package / "watch.py"):
        path.write_text(path.name)
    time.sleep(0.6)
    for expected in (True, False):
        inventory_watch = watch.Watch(params)
        inventory_watch.remember([], [out])
        assert inventory_watch.unchanged() == expected
        (package / "watch.py").write_text("other")
