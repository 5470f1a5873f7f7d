"""The patch store: one file of patches per slide, an index table, and a manifest with the hash of each file.

docs/patch-store.md describes the format. `shards` and `shard_record` write a shard's own rows and record.
"""

import math
import os
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from cachetools import LRUCache
from numpy.typing import NDArray

from histocae.errors import StoreError, raise_if_machine
from histocae.files import read_cells, read_json_or_none, read_table, sha256, table_writer, write_json, write_table
from histocae.patches import integrity
from histocae.patches.shard_file import REMEDY, check_shard

VERSION = 4
CHANGE = "since version 4, patches have labels and measures of quality"
FORMAT = "histocae patch store"
MOST = 2**48  # of any count
MANIFEST = "store.json"
INDEX = "index.csv"
SHARDS = "shards"
# what `patches.quality` measures of faults. They are named here, so that no training depends on how it measures
MEASURES = ("pen_share", "sharpness", "saturation", "debris_share", "stain")
INDEX_COLUMNS = (
    "slide_id",
    "case_id",
    "sample_type",
    "shard",
    "position",
    "file",
    "row",
    "column",
    "x",
    "y",
    "mpp",
    "tissue_share",
    *MEASURES,
    "patch_label",
    "label_share",
    "flags",
)
SLIDE_COLUMNS = INDEX_COLUMNS[:4]  # the same for all patches of a slide; its file is not, where it has many tiles
PATCH_COLUMNS = INDEX_COLUMNS[4:]
LABEL_COLUMNS = INDEX_COLUMNS[-3:]
SHARD_COLUMNS = PATCH_COLUMNS[:-3]  # of a shard's own rows: labels and flags may change while its patches stay
# each shard in use is an open file, and a process may have about 1,000; training has two selections
MOST_OPEN = 300
AT_ONCE = 2**20  # rows that are handled together, where all would take several times their memory
INDEX_TEXTS = ("slide_id", "case_id", "sample_type", "shard", "file", "patch_label", "flags")


class Shard(NamedTuple):
    """A shard as the manifest describes it.

    Attributes:
        patches: their number.
        sha256: of the file, hex.

    """

    patches: int
    sha256: str


def write_index(folder: Path, index: pd.DataFrame, pixels: int, mpp: float | None) -> None:
    """Complete a store: write its index and, last, its manifest with the hashes of the shards, which it reads.

    Args:
        folder: of the store.
        index: one row a patch, with the columns of `INDEX_COLUMNS`; without `LABEL_COLUMNS`, patches have the label
            of their slide and no flags; without `quality.MEASURES`, these are empty.
        pixels: side of a patch.
        mpp: microns per patch pixel that were aimed at; None for tiles.

    """
    if "patch_label" not in index:
        index = index.assign(patch_label=index["sample_type"])
    write_table(index.reindex(columns=list(INDEX_COLUMNS)), folder / INDEX)
    files = {name: folder / SHARDS / f"{name}.npy" for name in index["shard"].unique()}
    counts = index["shard"].value_counts()
    shards = {name: Shard(int(counts[name]), sha256(path)) for name, path in files.items() if path.is_file()}
    _write_manifest(folder, len(index), pixels, mpp, shards)


def write_rows(
    folder: Path, rows: Iterable[Sequence[str]], pixels: int, mpp: float | None, shards: Mapping[str, Shard]
) -> int:
    """Complete a store as `write_index` does, from the index row by row.

    Args:
        folder: of the store.
        rows: of the index, cells as text, in the order of `INDEX_COLUMNS`.
        pixels: side of a patch.
        mpp: microns per patch pixel that were aimed at; None for tiles.
        shards: by name, with the hashes that they had when they were written.

    Returns:
        The number of rows.

    """
    count = 0
    with table_writer(folder / INDEX, INDEX_COLUMNS) as writer:
        for count, row in enumerate(rows, 1):  # noqa: B007 (the last number is the number of rows)
            writer.writerow(row)
    _write_manifest(folder, count, pixels, mpp, shards)
    return count


def _write_manifest(folder: Path, count: int, pixels: int, mpp: float | None, shards: Mapping[str, Shard]) -> None:
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "pixels": pixels,
        "channels": 3,
        "dtype": "uint8",
        "mpp": mpp,
        "patches": count,
        "index": sha256(folder / INDEX),
        "shards": {name: shard._asdict() for name, shard in shards.items()},
    }
    write_json(manifest, folder / MANIFEST)


def former_version(folder: Path) -> int | None:
    """Return the version of a store that earlier code wrote; None where there is no such store."""
    manifest = read_json_or_none(folder / MANIFEST)
    version = manifest.get("version") if isinstance(manifest, dict) else None
    return version if isinstance(version, int) and version < VERSION else None


class PatchStore:
    """A store opened for reading.

    Attributes:
        pixels: side of a patch.
        mpp: microns per patch pixel that were aimed at; None for tiles.
        shards: by name.

    """

    def __init__(self, folder: Path):
        """Open a store.

        Args:
            folder: of the store.

        Raises:
            StoreError: it is missing, damaged, or of a version that this code does not know.

        """
        self.folder = folder
        manifest = read_json_or_none(folder / MANIFEST)
        if not isinstance(manifest, dict):
            raise StoreError(f"{folder}: no patch store here; {REMEDY}")
        if manifest.get("version") != VERSION:
            raise StoreError(
                f"{folder}: patch store of version {manifest.get('version')}, this histocae reads "
                f"version {VERSION}; {REMEDY}"
            )
        try:
            self.pixels: int = _count(manifest["pixels"], 1)
            self.mpp: float | None = None if manifest["mpp"] is None else float(manifest["mpp"])
            self._patches: int = _count(manifest["patches"])
            self._index: str = str(manifest["index"])
            self.shards = {
                name: Shard(_count(shard["patches"]), str(shard["sha256"]))
                for name, shard in manifest["shards"].items()
            }
            if any(Path(name).name != name for name in self.shards):
                raise ValueError("a shard lies in another folder")
            if any(b"\0" in os.fsencode(name) for name in self.shards):  # which also refuses half a character
                raise ValueError("the name of a shard can't be a file's")
            if manifest["format"] != FORMAT:
                raise ValueError("the format is another one")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise StoreError(f"{folder / MANIFEST}: is damaged: {_problem(error)}; {REMEDY}") from None

    def index(self) -> pd.DataFrame:
        """Read the index: one row a patch, with the columns of `INDEX_COLUMNS`.

        Raises:
            StoreError: it is not as it was written.

        """
        self._check_index()
        index = read_table(self.folder / INDEX, INDEX_TEXTS)
        self._check(len(index))
        return index

    def rows(self, columns: Sequence[str] = INDEX_COLUMNS) -> Iterator[tuple[str, ...]]:
        """Read the index row by row, as text, in little memory whatever its length.

        Raises:
            StoreError: it is not as it was written.

        """
        self._check_index()
        return read_cells(self.folder / INDEX, columns)

    def _check_index(self) -> None:
        for path in integrity.differing({self.folder / INDEX: self._index}):
            raise StoreError(f"{path}: {integrity.DIFFERS}; {REMEDY}")

    def hashes(self) -> dict[Path, str]:
        """Return the SHA-256 (hex) that the index and each shard had when they were written."""
        shards = {self._path(name): shard.sha256 for name, shard in self.shards.items()}
        return {self.folder / INDEX: self._index, **shards}

    def _path(self, shard: str) -> Path:
        return self.folder / SHARDS / f"{shard}.npy"

    def check_shards(self, names: Iterable[str]) -> dict[str, int]:
        """Check shards against the manifest; each file is read once, then known by its size and times.

        Args:
            names: of shards.

        Returns:
            Where the first patch begins in each file, in bytes.

        Raises:
            StoreError: the manifest lacks one, or one is missing or not as it was written.

        """
        starts, files = dict[str, int](), dict[Path, str]()
        for name in names:
            path = self._path(name)
            if name not in self.shards:
                raise StoreError(f"{path}: {self.folder / MANIFEST} does not list it; {REMEDY}")
            starts[name] = check_shard(path, self.shards[name].patches, self.pixels)
            files[path] = self.shards[name].sha256
        for path in integrity.differing(files):
            raise StoreError(f"{path}: {integrity.DIFFERS}; {REMEDY}")
        return starts

    def slides(self) -> pd.DataFrame:
        """Count the patches of each slide, in little memory whatever their number.

        Returns:
            One row per slide that has patches, in the order of the index: slide_id, case_id, sample_type, shard
            (text) and patches (int64).

        """
        counts = Counter(self.rows(SLIDE_COLUMNS))
        self._check(counts.total())
        slides = pd.DataFrame(list(counts), columns=list(SLIDE_COLUMNS), dtype=str)
        return slides.assign(patches=list(counts.values()))

    def labels(self) -> pd.DataFrame:
        """Count the patches of each slide by label, in little memory whatever their number.

        Returns:
            One row per slide and label: slide_id, patch_label (text, "" for none) and patches (int64).

        """
        counts = Counter(self.rows(("slide_id", "patch_label")))
        self._check(counts.total())
        labels = pd.DataFrame(list(counts), columns=["slide_id", "patch_label"], dtype=str)
        return labels.assign(patches=list(counts.values()))

    def _check(self, rows: int) -> None:
        if rows != self._patches:
            raise StoreError(f"{self.folder}: the index has {rows} rows, not {self._patches}")

    def select(self, rows: pd.DataFrame) -> "PatchSelection":
        """Select the patches of some rows of the index (columns shard and position)."""
        return PatchSelection(self, rows)


def _count(value: object, least: int = 0) -> int:
    """Return a count from the manifest."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < MOST:
        raise ValueError("a number is out of its range")
    return value


def _problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]}"
    return str(error) if type(error) is ValueError else "a value is of another kind"


class _OpenShards(LRUCache[int, FileIO]):
    """Open files by the number of their shard; the least recently used file is closed to make room."""

    def __init__(self, paths: Sequence[Path]):
        """Take the paths of the shards; none is opened yet."""
        super().__init__(MOST_OPEN)
        self._paths = paths

    def __missing__(self, code: int) -> FileIO:
        file = self[code] = FileIO(self._paths[code])
        return file

    def popitem(self) -> tuple[int, FileIO]:
        code, file = super().popitem()
        file.close()
        return code, file

    def close(self) -> None:
        """Close all files."""
        while self:
            self.popitem()


class PatchSelection:
    """Patches of a store in a given order, read on request.

    Attributes:
        pixels: side of a patch.
        shape: height, width and channels of a patch.
        shards: number of shards that hold them.

    """

    def __init__(self, store: PatchStore, rows: pd.DataFrame):
        """Check the shards that `rows` name.

        Args:
            store: that has the patches.
            rows: shard and position of each patch.

        Raises:
            StoreError: a shard is missing, not as it was written, or has fewer patches than the rows say.

        """
        self.pixels = store.pixels
        self.shape = (store.pixels, store.pixels, 3)
        # six bytes a patch, and no copies: there may be a hundred million patches
        shards = rows["shard"].astype("category").cat
        self._shard = shards.codes.to_numpy()
        self._position = rows["position"].to_numpy(np.int32)
        names = shards.categories
        self._paths = [store.folder / SHARDS / f"{name}.npy" for name in names]
        self._offsets = np.zeros(len(names), np.int64)  # of a shard's first patch in its file, in bytes
        self._open = _OpenShards(self._paths)
        weakref.finalize(self, self._open.close)
        self._lock = Lock()
        longest = np.full(len(names), -1, np.int32)
        for start in range(0, len(rows), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            np.maximum.at(longest, self._shard[some], self._position[some])
        used = np.flatnonzero(longest >= 0).tolist()  # a selection of rows may leave out some of the categories
        self.shards = len(used)
        starts = store.check_shards(names[used])
        for code in used:
            if longest[code] >= store.shards[names[code]].patches:
                raise StoreError(f"{self._paths[code]}: has fewer patches than its index says; {REMEDY}")
            self._offsets[code] = starts[names[code]]

    def __len__(self) -> int:
        return len(self._position)

    def take(self, which: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Read some patches.

        Args:
            which: integers, shape (n,): positions in this selection, in any order.

        Returns:
            uint8, shape (n, pixels, pixels, 3), in the order of `which`.

        Raises:
            StoreError: a shard was deleted or shortened meanwhile.

        """
        out = np.empty((len(which), *self.shape), np.uint8)
        each = math.prod(self.shape)
        # Read from files, not through a memory map: a map brings whole pages around a patch into memory and keeps
        # them there, which slows down a cohort that is larger than memory.
        room = out.reshape(-1).data
        shards, positions = self._shard[which], self._position[which].astype(np.int64)
        offsets = self._offsets[shards] + positions * each
        file, opened = None, -1
        # neighbors on disk are read one after the other, whatever the order of `which`
        with self._lock:
            for number in np.lexsort((positions, shards)).tolist():
                code = int(shards[number])
                try:
                    if file is None or code != opened:
                        file, opened = self._open[code], code
                    file.seek(int(offsets[number]))
                    count = file.readinto(room[number * each : (number + 1) * each])
                except OSError as error:
                    raise_if_machine(error)
                    raise StoreError(f"{self._paths[code]}: can't be read: {error}; {REMEDY}") from None
                if count != each:
                    raise StoreError(f"{self._paths[code]}: ends too early; {REMEDY}")
        return out
