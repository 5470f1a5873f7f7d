"""Too few file handles, too little memory or a failing disk are no fault of a slide, a table or another file."""

import contextlib
import errno
import gzip
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import openslide
import pytest
from PIL import Image

from histocae import checksums, params_file
from histocae.cli import system_errors
from histocae.errors import DataError, HistocaeError, SlideError
from histocae.mnist import images
from histocae.networks import saved_params
from histocae.patches import integrity, shard_file
from histocae.patches.tiles import read_tile
from histocae.slides import parts, tiled
from histocae.slides.slide import Slide
from histocae.sources import table_files, table_text
from histocae.sources.gdc import client
from histocae.sources.hashes import Hashes
from histocae.sources.integrity import check_unchanged
from histocae.tracking import documents
from support import make_data, short_of


def file_of(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"any")
    return path


def sums_of(folder: Path) -> Path:
    path = file_of(folder, "weights")
    checksums.write(folder)
    return path


def shard_of(folder: Path) -> Path:
    path = folder / "a.npy"
    with shard_file.ShardWriter(path, 8) as shard:
        shard.append(np.zeros((2, 8, 8, 3), np.uint8))
    return path


def differing(path: Path) -> list[Path]:
    return integrity.differing({path: hashlib.sha256(b"any").hexdigest()})


def find_tiles(path: Path) -> None:
    tiled.Tiles(path, "generic-tiff", [(64, 64)]).close()


def idx_of(folder: Path) -> Path:
    path = folder / "digits"
    path.write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\1\5"))
    return path


READS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "slide": (lambda folder: make_data.write_slide(folder / "a.tif", make_data.tissue(0, 64, 64), 0.5), Slide),
    "header": (lambda folder: make_data.write_slide(folder / "a.tif", make_data.tissue(0, 64, 64), 0.5), find_tiles),
    "pixels": (lambda folder: file_of(folder, "a.tif"), tiled.find_problem),
    "tile": (lambda folder: make_data.write_tile(folder / "a.png", make_data.tissue(0, 8, 8)), read_tile),
    "hash": (lambda folder: file_of(folder, "a.tif"), lambda path: Hashes(None).of(path)),
    "changed slide": (lambda folder: file_of(folder, "a.tif"), lambda path: check_unchanged(path, "0" * 64)),
    "VMS": (lambda folder: file_of(folder, "a.vms"), parts.parts_of),
    "DICOM": (lambda folder: file_of(folder, "a.dcm"), parts.parts_of),
    "shard": (shard_of, lambda path: shard_file.check_shard(path, 2, 8)),
    "store": (lambda folder: file_of(folder, "a.csv"), differing),
    "hashes of a folder": (sums_of, lambda path: checksums.check(path, "")),
    "table": (lambda folder: file_of(folder, "a.csv"), lambda path: table_text.read_text(path, "")),
    "folder of files": (
        lambda folder: file_of(folder, "a.tif"),
        lambda path: table_files._Listing(path.parent).has(PurePosixPath("a.tif")),
    ),
    "token": (lambda folder: file_of(folder, "token"), client.read_token),
    "params.yaml": (lambda folder: file_of(folder, "params.yaml"), params_file.read),
    "params of a model": (
        lambda folder: file_of(folder, "params.yaml"),
        lambda path: saved_params.read_params(path, ""),
    ),
    "idx": (idx_of, lambda path: images._idx(path.parent, path.name)),
    "npz": (lambda folder: file_of(folder, "a.npz"), images._npz),
    "record": (
        lambda folder: file_of(folder, "metrics.json"),
        lambda path: documents.read(path, documents.Document, ""),
    ),
}


@pytest.mark.parametrize(("make", "read"), READS.values(), ids=READS)
def test_too_many_open_files_are_blamed_on_no_file(tmp_path, monkeypatch, make, read):
    monkeypatch.chdir(tmp_path)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    with contextlib.suppress(HistocaeError):
        read(make(tmp_path / "first"))  # imports what is imported when it is first needed
    path = make(tmp_path / "second")
    with short_of.file_handles(), pytest.raises(OSError, match="Too many open files"):
        read(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_a_failing_disk_is_named_with_the_file(tmp_path, monkeypatch, number):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    path = file_of(tmp_path, "a.tif")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", fail)
    for read in (Hashes(None).of, lambda path: check_unchanged(path, "0" * 64), differing):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            read(path)
        line = system_errors.explain(caught.value)
        assert line is not None and line.split("; ")[0] in (f"{path}: {os.strerror(number)}", "out of memory")


def test_a_disk_that_fails_under_openslide_is_no_fault_of_the_slide(tmp_path, monkeypatch):
    path = make_data.write_slide(tmp_path / "a.tif", make_data.tissue(0, 64, 64), 0.5)

    def fail(*_: object) -> None:
        raise openslide.OpenSlideError("Couldn't read from file: Input/output error")

    with Slide(path) as slide:
        monkeypatch.setattr(openslide.OpenSlide, "read_region", fail)
        with pytest.raises(OSError, match=f"Input/output error: '{path}'"):
            slide._read(0, 0, 0, 8, 8)


def test_a_file_of_others_is_still_that_files_fault(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(hashlib, "file_digest", fail)
    with pytest.raises(DataError, match="can't be read: Permission denied"):
        Hashes(None).of(file_of(tmp_path, "a.tif"))


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path

from histocae.patches.tiles import read_tile

read_tile(Path("small.png"))
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 50 * 2**20, resource.RLIM_INFINITY))
try:
    read_tile(Path("large.png"))
except MemoryError:
    sys.exit(7)
"""


def test_too_little_memory_is_no_fault_of_a_tile(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    Image.new("RGB", (6000, 6000)).save(tmp_path / "large.png")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", SHORT_OF_MEMORY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr


def test_a_tile_that_claims_any_amount_of_memory_is_that_tiles_fault(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    path = make_data.write_tile(tmp_path / "a.png", make_data.tissue(0, 8, 8))
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(SlideError, match=r"a\.png: can't be read as an image"):
        read_tile(path)
