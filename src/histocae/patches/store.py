"""The patch store: one raw uint8 array a slide, and an index table.

docs/patch-store.md describes the format; only this module knows it.
"""

import hashlib
import math
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from cachetools import LRUCache
from numpy.typing import NDArray

from histocae.errors import StoreError
from histocae.files import read_cells, read_json_or_none, read_table, replacing, table_writer, write_json, write_table

VERSION = 1
MANIFEST = "store.json"
INDEX = "index.csv"
SHARDS = "shards"
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
)
SLIDE_COLUMNS = INDEX_COLUMNS[:4]  # the same for all patches of a slide; its file is not, where it has many tiles
POSITION_COLUMNS = INDEX_COLUMNS[4:]
# each shard in use is an open file, and a process may have about 1,000; training has two selections
MOST_OPEN = 300
AT_ONCE = 2**20  # rows that are handled together, where all would take several times their memory
INDEX_TEXTS = ("slide_id", "case_id", "sample_type", "shard", "file")


def shard_name(slide_id: str) -> str:
    """Name a slide's shard, without suffix: any slide_id makes a safe file name.

    Example:
        >>> shard_name("TCGA-AA-0001-01A-01-TS1")
        'TCGA-AA-0001-01A-01-TS1'
        >>> shard_name("A/B")
        'A%2FB~998d3ed8'

    """
    name = quote(slide_id, safe=" ()+,=@[]").replace("~", "%7E").strip(". ")
    if name != slide_id or len(name) > 120:
        # different ids may become equal when they are made safe
        name = f"{name[:120]}~{hashlib.sha256(slide_id.encode()).hexdigest()[:8]}"
    return name


class ShardWriter:
    """Writes one shard; it appears under its name when the block ends without an error.

    The array grows while it is written. Its length is in the header, which numpy
    pads so that a longer number does not move the data.

    Attributes:
        count: patches written so far.

    """

    def __init__(self, path: Path, pixels: int):
        """Prepare to write.

        Args:
            path: of the shard.
            pixels: side of a patch.

        """
        self.count = 0
        self._pixels = pixels
        self._aside = replacing(path)

    def __enter__(self) -> "ShardWriter":
        self._handle = self._aside.__enter__()
        self._write_header()
        return self

    def _write_header(self) -> None:
        shape = (self.count, self._pixels, self._pixels, 3)
        np.lib.format.write_array_header_1_0(self._handle, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def append(self, patches: NDArray[np.uint8]) -> None:
        """Append patches.

        Args:
            patches: uint8, shape (n, pixels, pixels, 3).

        Raises:
            ValueError: the patches have another type or shape.

        """
        if patches.dtype != np.uint8 or patches.shape[1:] != (self._pixels, self._pixels, 3):
            raise ValueError(f"a shard of {self._pixels} px uint8 patches can't take {patches.shape}")
        self._handle.write(np.ascontiguousarray(patches).data)
        self.count += len(patches)

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.seek(0)
        self._write_header()
        self._aside.__exit__(kind, failure, trace)


def open_shard(path: Path, pixels: int) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """Map a shard into memory.

    Args:
        path: of the shard.
        pixels: side of a patch.

    Returns:
        uint8, shape (patches, pixels, pixels, 3), read on access.

    Raises:
        StoreError: it is missing, too short, or holds something else.

    """
    try:
        shard: np.memmap[Any, np.dtype[np.uint8]] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path}: can't be read: {error}; run dvc repro patches") from None
    if shard.dtype != np.uint8 or shard.shape[1:] != (pixels, pixels, 3):
        raise StoreError(f"{path}: holds no patches of {pixels} pixels; run dvc repro patches")
    return shard


def write_index(folder: Path, index: pd.DataFrame, pixels: int, mpp: float | None) -> None:
    """Complete a store: write its index and, last, its manifest.

    Args:
        folder: of the store.
        index: one row a patch, with the columns of `INDEX_COLUMNS`.
        pixels: side of a patch.
        mpp: microns per patch pixel that were aimed at; None for tiles.

    """
    write_table(index[list(INDEX_COLUMNS)], folder / INDEX)
    _write_manifest(folder, len(index), pixels, mpp)


def write_rows(folder: Path, rows: Iterable[Sequence[str]], pixels: int, mpp: float | None) -> int:
    """Complete a store as `write_index` does, from the index row by row.

    Args:
        folder: of the store.
        rows: of the index, cells as text, in the order of `INDEX_COLUMNS`.
        pixels: side of a patch.
        mpp: microns per patch pixel that were aimed at; None for tiles.

    Returns:
        The number of rows.

    """
    count = 0
    with table_writer(folder / INDEX, INDEX_COLUMNS) as writer:
        for count, row in enumerate(rows, 1):  # noqa: B007 (the last number is the number of rows)
            writer.writerow(row)
    _write_manifest(folder, count, pixels, mpp)
    return count


def _write_manifest(folder: Path, count: int, pixels: int, mpp: float | None) -> None:
    manifest = {
        "format": "histocae patch store",
        "version": VERSION,
        "pixels": pixels,
        "channels": 3,
        "dtype": "uint8",
        "mpp": mpp,
        "patches": count,
    }
    write_json(manifest, folder / MANIFEST)


class PatchStore:
    """A store opened for reading.

    Attributes:
        pixels: side of a patch.
        mpp: microns per patch pixel that were aimed at; None for tiles.

    """

    def __init__(self, folder: Path):
        """Open a store.

        Args:
            folder: of the store.

        Raises:
            StoreError: it is missing, or of a version that this code does not know.

        """
        self.folder = folder
        manifest = read_json_or_none(folder / MANIFEST)
        if not isinstance(manifest, dict):
            raise StoreError(f"{folder}: no patch store here; run dvc repro patches")
        if manifest.get("version") != VERSION:
            raise StoreError(
                f"{folder}: patch store of version {manifest.get('version')}, this histocae reads "
                f"version {VERSION}; run dvc repro patches"
            )
        self.pixels: int = manifest["pixels"]
        self.mpp: float | None = manifest["mpp"]
        self._patches: int = manifest["patches"]

    def index(self) -> pd.DataFrame:
        """Read the index: one row a patch, with the columns of `INDEX_COLUMNS`."""
        index = read_table(self.folder / INDEX, INDEX_TEXTS)
        self._check(len(index))
        return index

    def rows(self, columns: Sequence[str] = INDEX_COLUMNS) -> Iterator[tuple[str, ...]]:
        """Read the index row by row, as text, in little memory whatever its length."""
        return read_cells(self.folder / INDEX, columns)

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

    def _check(self, rows: int) -> None:
        if rows != self._patches:
            raise StoreError(f"{self.folder}: the index has {rows} rows, not {self._patches}")

    def select(self, rows: pd.DataFrame) -> "PatchSelection":
        """Select the patches of some rows of the index (columns shard and position)."""
        return PatchSelection(self, rows)


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
            StoreError: a shard is missing or shorter than the rows say.

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
        for code in used:
            path = self._paths[code]
            shard = open_shard(path, self.pixels)
            if longest[code] >= len(shard):
                raise StoreError(f"{path}: has fewer patches than its index says; run dvc repro patches")
            self._offsets[code] = shard.offset

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
                    raise StoreError(f"{self._paths[code]}: can't be read: {error}; run dvc repro patches") from None
                if count != each:
                    raise StoreError(f"{self._paths[code]}: ends too early; run dvc repro patches")
        return out
