"""Hashes of files, remembered by path, size and times, so that a repro does not read a whole cohort."""

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histocae.errors import DataError, naming, raise_if_machine
from histocae.files import fingerprint, read_json_or_none, state, write_json
from histocae.slides.parts import parts_of

log = logging.getLogger(__name__)


def digest(path: Path, algorithm: str) -> str:
    """Return the hash of a file in hex.

    Args:
        path: of the file.
        algorithm: as hashlib names it.

    Returns:
        The hash.

    """
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest()


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and list(map(type, entry)) == [int, int, int, str]


class Hashes:
    """Remembered hashes of files, in a JSON file that is safe to delete."""

    def __init__(self, memory: Path | None, algorithm: str = "sha256"):
        """Read the memory.

        Args:
            memory: the JSON file; what is damaged in it is ignored. None: nothing is remembered.
            algorithm: of the hash, as hashlib names it.

        """
        self._memory, self._algorithm = memory, algorithm
        # absolute path -> size, mtime_ns, ctime_ns and hash
        self._current: dict[str, list[Any]] = {}
        former = None if memory is None else read_json_or_none(memory)
        self._former: dict[str, list[Any]] = (
            {path: entry for path, entry in former.items() if _is_entry(entry)} if isinstance(former, dict) else {}
        )

    def of(self, path: Path) -> tuple[int, str]:
        """Return size (bytes) and hash (hex) of a file, from memory if size and times have not changed.

        Raises:
            DataError: the file can't be read.
            OSError: no file can be read now: this is no fault of the file.

        """
        try:
            with naming(path, path):
                now = state(path)
                entry = self._known(path)
                if not entry or entry[:-1] != now:
                    entry = [*now, digest(path, self._algorithm)]
        except OSError as error:
            raise_if_machine(error)
            raise DataError(f"{path}: can't be read: {error.strerror}") from None
        self._current[os.path.abspath(path)] = entry
        return now[0], entry[-1]

    def of_slide(self, path: Path) -> tuple[int, str]:
        """Return size (bytes) and hash (hex) of a slide, of all its files together.

        Raises:
            DataError: a file can't be read.

        """
        parts = [self.of(part) for part in parts_of(path)]
        return sum(size for size, _ in parts), parts[0][1] if len(parts) == 1 else fingerprint(parts)

    def remembered(self, path: Path) -> str | None:
        """Return the hash of a file if it is known without reading the file, else None."""
        try:
            entry, now = self._known(path), state(path)
        except OSError:
            return None
        return entry[-1] if entry and entry[:-1] == now else None

    def learn(self, path: Path, digest: str) -> None:
        """Remember the hash of a file that was hashed while it was written.

        Args:
            path: of the file.
            digest: its hash in hex.

        """
        self._current[os.path.abspath(path)] = [*state(path), digest]

    def forget(self, paths: Iterable[Path]) -> None:
        """Forget the hashes of some files, so that they are read again."""
        for path in map(os.path.abspath, paths):
            self._current.pop(path, None)
            self._former.pop(path, None)

    def _known(self, path: Path) -> list[Any] | None:
        name = os.path.abspath(path)
        return self._current.get(name) or self._former.get(name)

    def save(self, only_used: bool = False) -> None:
        """Write the memory, if that can be; without it, files are only read again.

        Args:
            only_used: drop files whose hash was not used since the memory was read.

        """
        if self._memory is None:
            return
        try:
            write_json(self._current if only_used else self._former | self._current, self._memory)
        except OSError as error:
            log.warning("%s: hashes are not remembered: %s", self._memory, error.strerror)
