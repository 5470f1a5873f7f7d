"""Hashes of files, remembered by path, bytes and times, so that a cohort is not read at every repro."""

import hashlib
import json
import os
from pathlib import Path

from histocae.errors import DataError
from histocae.files import state, write_json


class Hashes:
    """A memory of hashes, in a JSON file that is safe to delete.

    Args:
        memory: the file.
        algorithm: of the hash, as hashlib names it.

    """

    def __init__(self, memory: Path, algorithm: str = "sha256"):
        self._memory, self._algorithm = memory, algorithm
        self._known: dict[str, list] = {}
        try:
            self._former: dict[str, list] = json.loads(memory.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            self._former = {}

    def of(self, path: Path) -> tuple[int, str]:
        """Give a file's bytes and hash in hex, from memory if nothing about it changed.

        Raises:
            DataError: the file can't be read.

        """
        try:
            now = state(path)
            seen = self._former.get(os.path.abspath(path))
            if not seen or seen[:-1] != now:
                with open(path, "rb") as handle:
                    seen = [*now, hashlib.file_digest(handle, self._algorithm).hexdigest()]
        except OSError as error:
            raise DataError(f"{path}: can't be read: {error.strerror}") from None
        self._known[os.path.abspath(path)] = seen
        return now[0], seen[-1]

    def remembered(self, path: Path) -> str | None:
        """Give a file's hash if that is known without reading it; None where it is not, or there is no file."""
        try:
            seen, now = self._former.get(os.path.abspath(path)), state(path)
        except OSError:
            return None
        return seen[-1] if seen and seen[:-1] == now else None

    def learn(self, path: Path, digest: str) -> None:
        """Remember the hash of a file that was just written and hashed on the way."""
        self._known[os.path.abspath(path)] = [*state(path), digest]

    def save(self, only_asked: bool = False) -> None:
        """Write the memory; with `only_asked`, forget files that were not asked for this time."""
        write_json(self._known if only_asked else self._former | self._known, self._memory)
