"""The patch store: one raw uint8 array a slide, and an index table.

The format is written up in docs/patch-store.md; only this module knows it.
"""

import hashlib
import math
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from threading import Lock
from urllib.parse import quote

import numpy as np
import pandas as pd

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
SLIDE_COLUMNS = INDEX_COLUMNS[:4]  # what all patches of a slide have in common, but for the file of tiles
PLACE_COLUMNS = INDEX_COLUMNS[4:]
# each shard that is in use is an open file, and a process may have about 1,000; training has two selections
MOST_OPEN = 300
AT_ONCE = 2**20  # rows that are looked at together, where all would take several times their memory
INDEX_TEXTS = ("slide_id", "case_id", "sample_type", "shard", "file")


def shard_name(slide_id: str) -> str:
    """Give the name of a slide's shard, without suffix: any slide_id makes a safe file name."""
    name = quote(slide_id, safe=" ()+,=@[]").replace("~", "%7E").strip(". ")
    if name != slide_id or len(name) > 120:
        # different ids may look alike once they are made safe
        name = f"{name[:120]}~{hashlib.sha256(slide_id.encode()).hexdigest()[:8]}"
    return name


class ShardWriter:
    """Writes one shard; it appears under its name when the block ends without an error.

    The array grows while it is written: its length stands in the header, which numpy
    pads so that a longer number does not move the data.
    """

    def __init__(self, path: Path, pixels: int):
        """Prepare to write patches of `pixels` x `pixels` x 3 to `path`."""
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

    def append(self, patches: np.ndarray) -> None:
        """Append uint8 patches, n x pixels x pixels x 3."""
        if patches.dtype != np.uint8 or patches.shape[1:] != (self._pixels, self._pixels, 3):
            raise ValueError(f"a shard of {self._pixels} px uint8 patches can't take {patches.shape}")
        self._handle.write(np.ascontiguousarray(patches).data)
        self.count += len(patches)

    def __exit__(self, *failure: object) -> None:
        self._handle.seek(0)
        self._write_header()
        self._aside.__exit__(*failure)


def open_shard(path: Path, pixels: int) -> np.ndarray:
    """Map a shard.

    Returns:
        uint8, patches x pixels x pixels x 3, read when looked at.

    Raises:
        StoreError: it is missing, cut short, or holds something else.

    """
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path}: can't be read: {error}; run dvc repro patches") from None
    if shard.dtype != np.uint8 or shard.shape[1:] != (pixels, pixels, 3):
        raise StoreError(f"{path}: holds no patches of {pixels} pixels; run dvc repro patches")
    return shard


def write_index(folder: Path, index: pd.DataFrame, pixels: int, mpp: float | None) -> None:
    """Complete a store: write its index and, last, its manifest."""
    write_table(index[list(INDEX_COLUMNS)], folder / INDEX)
    _write_manifest(folder, len(index), pixels, mpp)


def write_rows(folder: Path, rows: Iterable[Sequence[str]], pixels: int, mpp: float | None) -> int:
    """Complete a store as `write_index` does, from the index row by row: cells as text, in the order of its columns.

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
        """Read the index row by row, as text: the way for what an index of any length has to go through."""
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

    def select(self, rows: pd.DataFrame) -> "Patches":
        """Give the patches of some rows of the index (columns shard and position)."""
        return Patches(self, rows)


def _close(files: OrderedDict[int, FileIO]) -> None:
    for file in files.values():
        file.close()


class Patches:
    """Patches of a store in a given order, read when asked for.

    Attributes:
        pixels: side of a patch.
        shape: height, width and channels of one.
        shards: how many they lie in.

    """

    def __init__(self, store: PatchStore, rows: pd.DataFrame):
        """Map the shards that `rows` name.

        Raises:
            StoreError: a shard is missing or shorter than the rows say.

        """
        self.pixels = store.pixels
        self.shape = (store.pixels, store.pixels, 3)
        # six bytes a patch, and no copies: there may be a hundred million
        shards = rows["shard"].astype("category").cat
        self._shard = shards.codes.to_numpy()
        self._position = rows["position"].to_numpy(np.int32)
        names = shards.categories
        self._paths = [store.folder / SHARDS / f"{name}.npy" for name in names]
        self._offsets = np.zeros(len(names), np.int64)  # of a shard's first patch in its file, in bytes
        self._open: OrderedDict[int, FileIO] = OrderedDict()
        weakref.finalize(self, _close, self._open)
        self._lock = Lock()
        longest = np.full(len(names), -1, np.int32)
        for start in range(0, len(rows), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            np.maximum.at(longest, self._shard[some], self._position[some])
        used = np.flatnonzero(longest >= 0).tolist()  # rows that were chosen from others may leave some out
        self.shards = len(used)
        for code in used:
            path = self._paths[code]
            shard = open_shard(path, self.pixels)
            if longest[code] >= len(shard):
                raise StoreError(f"{path}: has fewer patches than its index says; run dvc repro patches")
            self._offsets[code] = shard.offset

    def _file(self, code: int) -> FileIO:
        """Open a shard, or give its file; the one that was used the longest ago is closed for it."""
        if code not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[code] = FileIO(self._paths[code])
        self._open.move_to_end(code)
        return self._open[code]

    def __len__(self) -> int:
        return len(self._position)

    def take(self, which: np.ndarray) -> np.ndarray:
        """Read some patches.

        Args:
            which: int, positions in this selection, in any order.

        Returns:
            uint8, len(which) x pixels x pixels x 3, in the order asked for.

        Raises:
            StoreError: a shard is gone by now, or shorter.

        """
        out = np.empty((len(which), *self.shape), np.uint8)
        each = math.prod(self.shape)
        # read, not looked at through a map: a map brings far more into memory than is wanted of it, and keeps it
        # there while a cohort that is larger than memory has use for every page
        room = memoryview(out.reshape(-1))
        shards, positions = self._shard[which], self._position[which].astype(np.int64)
        at = self._offsets[shards] + positions * each
        # neighbours on disk are read one after the other, whatever the order asked for
        with self._lock:
            for place in np.lexsort((positions, shards)).tolist():
                code = int(shards[place])
                try:
                    file = self._file(code)
                    file.seek(int(at[place]))
                    got = file.readinto(room[place * each : (place + 1) * each])
                except OSError as error:
                    raise StoreError(f"{self._paths[code]}: can't be read: {error}; run dvc repro patches") from None
                if got != each:
                    raise StoreError(f"{self._paths[code]}: ends too early; run dvc repro patches")
        return out
