"""Disks that can less than others, and processes that end while they write."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from histocae import asides, files
from histocae.sources.hashes import Hashes

ON_OLD_DISK = """
import sys
from pathlib import Path

import numpy as np

from histocae.files import reserve
from support.old_disk import refuse_fallocate

if not refuse_fallocate():
    sys.exit(77)
file, new = Path("latents.npy"), Path("w.weights.h5")
np.lib.format.open_memmap(file, "w+", np.float32, (100_000, 8)).flush()
before = file.read_bytes()
reserve(file)
assert file.read_bytes() == before
assert file.stat().st_blocks * 512 >= len(before), "the disk has set no space aside"
reserve(new, 100_000)
assert new.stat().st_size == 100_000
"""

KILLED = """
import os, signal
from pathlib import Path

from histocae.files import replacing_folder

rename = os.replace
def replace(source, target):
    if Path(target) == Path("model"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

os.replace = replace
with replacing_folder(Path("model")) as folder:
    (folder / "weights").write_text("new")
"""


def test_space_is_set_aside_on_disks_that_leave_it_to_the_library(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", ON_OLD_DISK]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("the kernel refuses no call here")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF])
def test_a_disk_that_sets_no_space_aside_stops_no_one(tmp_path, monkeypatch, number):
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = tmp_path / "latents.npy"
    file.write_bytes(b"sparse")
    files.reserve(file)
    assert file.read_bytes() == b"sparse"
    number = errno.ENOSPC
    with pytest.raises(OSError, match=f"No space left on device: '{file}'"):
        files.reserve(file)
    assert not file.exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that a process replaces."""
    with files.replacing_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("former")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_signal_while_a_folder_is_replaced_leaves_the_former_one(model, monkeypatch):
    rename, renamed = os.replace, []

    def replace(source: Path, target: Path) -> None:
        renamed.append(target)
        if renamed[1:] == [model]:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(model) as folder:
        (folder / "weights").write_text("new")
    assert contents(model.parent) == {"model/weights": "former"}


def test_a_folder_of_a_process_killed_while_it_was_replaced_comes_back(model):
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=model.parent, check=False)
    assert done.returncode == -signal.SIGKILL and not model.exists()
    with pytest.raises(ValueError, match="no model"), files.replacing_folder(model) as folder:
        raise ValueError("no model")
    assert contents(model.parent) == {"model/weights": "former"}
    with files.replacing_folder(model) as folder:
        (folder / "weights").write_text("new")
    assert contents(model.parent) == {"model/weights": "new"}


def write_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> Path:
    """Begin to write a file on another machine, by a process whose number no process has here."""
    with monkeypatch.context() as patch:
        patch.setattr(asides, "HOST", host)
        patch.setattr(os, "getpid", lambda: 2**22 + 1)
        aside = asides.aside_of(path)
    aside.write_text("of another machine")
    return aside


def test_a_file_that_another_machine_writes_stays(tmp_path, monkeypatch):
    path = tmp_path / "checked.json"
    aside = write_elsewhere(path, monkeypatch, "00000000")
    files.write_text("here", path)
    assert aside.read_text() == "of another machine"
    os.utime(aside, (0, 0))
    files.write_text("here", path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_of_this_machine_left_is_deleted(tmp_path, monkeypatch):
    path = tmp_path / "checked.json"
    write_elsewhere(path, monkeypatch, asides.HOST)
    files.write_text("here", path)
    assert list(tmp_path.iterdir()) == [path]


def test_hashes_that_cannot_be_remembered_stop_no_one(tmp_path, caplog):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "memory").mkdir()
    hashes = Hashes(tmp_path / "memory/checked.json")
    (tmp_path / "memory").rmdir()
    (tmp_path / "memory").write_bytes(b"no folder")
    assert hashes.of(tmp_path / "a")[0] == 1
    hashes.save()
    assert "checked.json: hashes are not remembered: " in caplog.text


@pytest.mark.parametrize(
    "damaged", ["[1]", "3", '"x"', '{"FILE": 3}', '{"FILE": [1, 2]}', '{"FILE": [1, 2, 3, null]}', "{"]
)
def test_a_damaged_memory_of_hashes_is_made_anew(tmp_path, damaged):
    file, memory = tmp_path / "a", tmp_path / "memory.json"
    file.write_bytes(b"a")
    memory.write_text(damaged.replace("FILE", str(file)))
    hashes = Hashes(memory)
    assert hashes.remembered(file) is None
    found = hashes.of(file)
    hashes.save()
    assert Hashes(memory).remembered(file) == found[1] == Hashes(None).of(file)[1]


PRINTS = """
import sys

from histocae.cli import streams

try:
    for _ in range(lines := int(sys.argv[1])):
        print("x" * 100)
    if not lines:
        raise OSError(5, "of a file, without its name")
    streams.flush()
except OSError as error:
    unread = streams.is_unread(error)
    print(unread, error.filename, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("lines", "redirection", "out", "err"),
    [
        (0, "", "", "False None\n"),
        (0, "> out", "", "False None\n"),
        (9999, "| true", "", "True standard output\n"),
        (9999, "> /dev/full", "", "False standard output\n"),
    ],
)
def test_an_error_of_another_file_prints_no_empty_line(tmp_path, lines, redirection, out, err):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    (tmp_path / "prints.py").write_text(PRINTS)
    shell = f'"{sys.executable}" prints.py {lines} {redirection}'
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (out, err)
    if redirection == "> out":
        assert (tmp_path / "out").read_bytes() == b""
