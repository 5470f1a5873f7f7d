"""Files of shards: the patches of one slide as one uint8 array in NumPy's format .npy.

The array grows while it is written, so it never has to be in memory as a whole.
"""

import hashlib
import io
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from histocae.errors import StoreError, raise_if_machine
from histocae.files import replacing

REMEDY = "run dvc repro patches"


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
        self._path = path

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            self._handle = stack.enter_context(replacing(self._path))
            self._write_header()
            self._stack = stack.pop_all()
        return self

    def _write_header(self) -> None:
        self._handle.write(_header(self.count, self._pixels))

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
        if failure is not None:
            self._stack.__exit__(kind, failure, trace)
            return
        with self._stack:
            self._handle.seek(0)
            self._write_header()


def _header(count: int, pixels: int) -> bytes:
    """Return the header of a shard's file, which the number and size of its patches determine."""
    header = io.BytesIO()
    shape = (count, pixels, pixels, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def check_shard(path: Path, count: int, pixels: int) -> int:
    """Check header and length of a shard's file, in little time.

    Args:
        path: of the shard.
        count: of its patches.
        pixels: side of a patch.

    Returns:
        Where the first patch begins in the file, in bytes.

    Raises:
        StoreError: it is missing, too short or too long, or holds something else.

    """
    expected = _header(count, pixels)
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            header = handle.read(len(expected))
    except OSError as error:
        raise_if_machine(error)
        raise StoreError(f"{path}: can't be read: {error.strerror}; {REMEDY}") from None
    if header != expected:
        raise StoreError(f"{path}: holds no array of {count} patches of {pixels} pixels; {REMEDY}")
    if size != len(expected) + count * pixels**2 * 3:
        raise StoreError(f"{path}: has {size} bytes, more or fewer than its {count} patches; {REMEDY}")
    return len(expected)


def open_shard(path: Path, count: int, pixels: int) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """Map a shard into memory.

    Args:
        path: of the shard.
        count: of its patches.
        pixels: side of a patch.

    Returns:
        uint8, shape (count, pixels, pixels, 3), read on access.

    Raises:
        StoreError: it is missing, too short or too long, or holds something else.

    """
    return np.memmap(path, np.uint8, "r", check_shard(path, count, pixels), (count, pixels, pixels, 3))
