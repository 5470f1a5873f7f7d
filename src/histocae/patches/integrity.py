"""Files of the patch store against the SHA-256 that was kept when they were written.

A file is read for this once: its hash is remembered with its size and times. `histocae verify` reads all again.
"""

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from histocae import paths
from histocae.errors import DataError
from histocae.files import state
from histocae.sources.hashes import Hashes

log = logging.getLogger(__name__)
LARGE = 2e9  # bytes that take seconds to read
DIFFERS = "is not as it was written (its SHA-256 differs)"
MEMORY = paths.SCRATCH / "checked.json"  # safe to delete


def remember(files: Mapping[Path, str], states: Mapping[Path, list[int]]) -> None:
    """Remember the hashes of files that were hashed when they were written.

    Args:
        files: SHA-256 (hex) of each.
        states: size and times that each had then; a file that has others now is not remembered, but read again.

    """
    if files:
        hashes = _hashes(MEMORY.absolute())
        for path, digest in files.items():
            if path.exists() and state(path) == states.get(path):
                hashes.learn(path, digest)
        hashes.save()


def differing(files: Mapping[Path, str]) -> list[Path]:
    """List the files that are missing or can't be read, or whose bytes are not those that were written.

    Args:
        files: SHA-256 (hex) that each had when it was written.

    Returns:
        Those that differ, in the order of `files`.

    """
    hashes = _hashes(MEMORY.absolute())
    known = {path: hashes.remembered(path) for path in files}
    if unknown := [path for path, digest in known.items() if digest is None]:
        try:
            known |= zip(unknown, _read(hashes, unknown), strict=True)
        finally:
            hashes.save()  # so that an interrupted first pass over a large store resumes from there
    return [path for path, expected in files.items() if known[path] != expected]


def read_again(files: Mapping[Path, str]) -> list[Path]:
    """List the files that differ as `differing` does, but read each, whatever is remembered of it."""
    hashes = _hashes(MEMORY.absolute())
    hashes.forget(files)
    return differing(files)


def _read(hashes: Hashes, files: list[Path]) -> list[str | None]:
    """Hash files in threads: hashlib lets other threads run meanwhile."""

    def digest(path: Path) -> str | None:
        try:
            return hashes.of(path)[1]
        except DataError:
            return None

    size = sum(path.stat().st_size for path in files if path.exists())
    if size > LARGE:
        log.info("reading %d files (%.1f GB) to compare them with their hashes", len(files), size / 1e9)
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1), "hash") as pool:
        return list(pool.map(digest, files))


@lru_cache(maxsize=4)
def _hashes(memory: Path) -> Hashes:
    return Hashes(memory)
