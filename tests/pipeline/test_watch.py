"""The inventory of an unchanged cohort: quick, and never wrong about what is unchanged."""

import os
import subprocess
import sys
import time

import pytest

from histocae.pipeline import watch

SAME = "nothing changed"


@pytest.fixture
def seen(project, monkeypatch):
    """A project whose inventory ran and is remembered."""
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0)
    project.slides("a", "b")
    time.sleep(0.05)  # more than the clock of file systems is late
    project.make("inventory")
    assert SAME in project.run("inventory").lines[-1]
    return project


def test_it_loads_nothing_heavy(seen):
    code = (
        "import sys; from histocae.cli import main\n"
        "assert main(['inventory']) == 0\n"
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'pandas', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert SAME in done.stderr and done.stdout.strip() == "[]"


@pytest.mark.parametrize("change", ["slide", "same bytes and time", "table", "params", "code"])
def test_what_changed_is_looked_at_again(seen, change, monkeypatch):
    before = seen.outputs("data")
    path = seen.own / "a.tif"
    data, stat = path.read_bytes(), path.stat()
    if change == "slide":
        path.write_bytes(data + b"more")
    elif change == "same bytes and time":
        path.write_bytes(data[:-1] + b"?")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "table":
        seen.table([])
    elif change == "params":
        (seen.folder / "params.yaml").write_text((seen.folder / "params.yaml").read_text() + "other: 1\n")
    else:
        monkeypatch.setattr(watch, "PACKAGE", seen.folder / "elsewhere")
    result = seen.run("inventory")
    assert SAME not in "".join(result.lines)
    assert (result.code == 1) == (change in ("table", "params"))
    assert (seen.outputs("data") != before) == (change in ("slide", "same bytes and time"))


@pytest.mark.parametrize("change", ["gone", "other", "one more"])
def test_outputs_that_are_not_as_they_were_are_written_again(seen, change):
    before = seen.outputs("data", "models")
    if change == "gone":
        (seen.folder / "data/inventory.csv").unlink()
    elif change == "other":
        (seen.folder / "models/lineage/all.json").write_text("{}")
    else:
        (seen.folder / "models/lineage/former.json").write_text("{}")
    seen.make("inventory")
    assert seen.outputs("data", "models") == before


def test_a_file_beside_a_mirax_slide_belongs_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0)
    slide, params, out = (tmp_path / name for name in ("a.mrxs", "params.yaml", "out"))
    for path in (slide, params, out):
        path.write_text(path.name)
    time.sleep(0.05)
    now = watch.Watch(params)
    now.remember([slide], [out])
    assert now.unchanged()
    (tmp_path / "a").mkdir()
    assert now.unchanged()
    (tmp_path / "a" / "Data0000.dat").write_text("0")
    assert not now.unchanged()


def test_what_changed_just_before_is_not_trusted(seen, monkeypatch):
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 1000)
    (seen.folder / "data/inventory.csv").unlink()
    seen.make("inventory")
    assert SAME not in "".join(seen.run("inventory").lines)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"inputs": 1, "outputs": 2}'])
def test_a_memory_that_is_spoilt_is_made_anew(seen, text):
    watch.MEMORY.write_text(text)
    seen.make("inventory")
    assert SAME in seen.run("inventory").lines[-1]


def test_code_that_changed_just_before_is_not_trusted(tmp_path, monkeypatch):
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
        now = watch.Watch(params)
        now.remember([], [out])
        assert now.unchanged() == expected
        (package / "watch.py").write_text("other")
