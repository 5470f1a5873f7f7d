"""Disks that can less than others, and processes that end while they write."""

import errno
import os
import subprocess
import sys

import pytest

from histocae import files

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
