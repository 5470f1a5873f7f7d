"""The download of one file of the GDC. It resumes where it broke off; only a file with the right md5 gets its name.

Received bytes are in a hidden `.part` file beside the target. Whatever ends the process, the part file is a
beginning of the file; if its md5 proves it is not, the download starts over.
"""

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from histocae.errors import FetchError, StuckError
from histocae.identifiers import slide_of
from histocae.progress import bytes_bar
from histocae.sources.gdc.client import Client, Response, StoppedError, TransientError
from histocae.sources.gdc.query import is_controlled
from histocae.sources.gdc.remote import File, Server

POLL_SECONDS = 0.2  # between two checks for a free stream
log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from histocae.progress import Bar


@dataclass
class Meter:
    """Counts the bytes of a download while it runs.

    Attributes:
        received: bytes over the network.
        before: bytes of the part file that an earlier run left.
        kept: bytes of the part file.
        shown: is called with each change of `kept`.

    """

    received: int = 0
    before: int = 0
    kept: int = 0
    shown: Callable[[int], object] = lambda _: None

    def add(self, count: int) -> None:
        """Count bytes that are kept; below 0: bytes that were dropped and have to be received again."""
        self.kept += count
        self.shown(count)

    @property
    def wasted(self) -> int:
        """Bytes that were received twice or damaged."""
        return self.received - (self.kept - self.before)


def fetch(server: Server, file: File, folder: Path, meter: Meter, stop: threading.Event | None = None) -> None:
    """Fetch a file into a folder. At most `server.streams` downloads run at once, in all processes together.

    Args:
        server: of the file.
        file: of the GDC.
        folder: where the file gets its name, once size and md5 are right.
        meter: counts bytes.
        stop: set by another thread to end the work.

    Raises:
        FetchError: the file can't be fetched; StuckError for a reason that likely holds for other files too.
        StoppedError: `stop` is set.

    """
    path, part = folder / file.name, part_of(folder, file)
    stop = stop or threading.Event()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            _alone(part, stop),
            _stream(folder, server.streams, stop) as stream,
            bytes_bar(slide_of(file.name), file.size, position=stream + 1) as progress,
        ):
            if is_whole(path, file):
                return  # another process has fetched it
            with _PartFile(part, file, meter, progress) as arriving:
                client = Client(server, stop)
                client.again(lambda: _continue(client, file, arriving), file.name)
            os.replace(part, path)
            part.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:  # of the file system; the client converts errors of the network
        raise StuckError(f"{file.name}: can't be written to {folder}: {error.strerror}") from None
    except FetchError as error:
        if file.name in str(error):
            raise
        raise type(error)(f"{file.name}: {error}") from None


def part_of(folder: Path, file: File) -> Path:
    """Return the path of the part file of a download.

    Args:
        folder: of the downloads.
        file: of the GDC.

    Returns:
        A hidden path in the folder.

    """
    # with the md5: a new version of a file may have the same name
    return folder / f".{file.name}.{file.md5[:8]}.part"


class _PartFile:
    """The bytes of a file received so far; they are dropped where they prove wrong."""

    def __init__(self, part: Path, file: File, meter: Meter, progress: "Bar"):
        self._part, self._file, self.meter, self._progress = part, file, meter, progress
        self.with_token = file.access == "controlled"

    def __enter__(self) -> "_PartFile":
        self._handle = open(self._part, "a+b")
        self._handle.seek(0)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.count = 0
        while data := self._handle.read(1 << 20):
            self._take(data)
        self.meter.before = self.count
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def _take(self, data: bytes) -> None:
        self._md5.update(data)
        self._count(len(data))

    def _count(self, count: int) -> None:
        self.count += count
        self._progress.update(count)
        self.meter.add(count)

    def add(self, data: bytes) -> None:
        """Write received bytes; with more bytes than the file has, all of them may be wrong."""
        if self.count + len(data) > self._file.size:
            self.drop()
            raise TransientError(f"more than the {self._file.size} bytes that the GDC names", own=True)
        self._handle.write(data)
        self._handle.flush()  # a kill loses no received byte
        self._take(data)

    def drop(self) -> None:
        """Drop all received bytes."""
        self._handle.truncate(0)  # the file is open to append
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._count(-self.count)
        self.meter.before = 0  # bytes of an earlier run don't count as waste of this run

    def seal(self) -> None:
        """Flush the bytes to disk if size and md5 are right, else drop them."""
        if self.count != self._file.size or self._md5.hexdigest() != self._file.md5:
            self.drop()
            raise TransientError("its md5 is not the one that the GDC names", own=True)
        self._handle.flush()
        os.fsync(self._handle.fileno())


def _continue(client: Client, file: File, arriving: _PartFile) -> None:
    """Try once: request the missing bytes, and check the whole file."""
    if arriving.count > file.size:
        arriving.drop()
    if arriving.count < file.size:
        headers = {"Range": f"bytes={arriving.count}-"} if arriving.count else {}
        try:
            with client.open(f"data/{file.file_id}", headers, with_token=arriving.with_token) as response:
                skip = _begin(response, file, arriving)
                for data in client.chunks(response):
                    arriving.meter.received += len(data)
                    skipped = min(skip, len(data))
                    skip -= skipped
                    if skipped < len(data):
                        arriving.add(data[skipped:])
        except TransientError as error:
            # a manifest does not say which files are controlled, and the token is sent for controlled files only
            if error.status == 403 and file.access is None and client.server.token_file is not None:
                with suppress(FetchError):  # without an answer the token is not sent
                    arriving.with_token = is_controlled(client, file.file_id)
            raise
        if arriving.count < file.size:
            raise TransientError(f"broke off after {arriving.count} of {file.size} bytes")
    arriving.seal()


def _begin(response: Response, file: File, arriving: _PartFile) -> int:
    """Check the headers of an answer; return how many bytes of its body were received before."""
    begin = arriving.count
    if response.status_code == 416:
        arriving.drop()
        raise TransientError("status 416: the server has fewer bytes than were received before", own=True)
    skip, named = begin, None
    if response.status_code == 206:
        parts = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not parts or int(parts[1]) != begin:
            raise TransientError("sent another range than requested", own=True)
        skip, named = 0, None if parts[3] == "*" else int(parts[3])
    elif response.headers.get("Content-Length", "").isdecimal():
        named = int(response.headers["Content-Length"])
    if named is not None and named != file.size:
        raise TransientError(f"has {named} bytes there, not the {file.size} that the GDC names", own=True)
    return skip


@contextmanager
def _stream(folder: Path, streams: int, stop: threading.Event) -> Iterator[int]:
    """Hold one of the streams, which are lock files that all processes share; yield its number."""
    locks = [FileLock(folder / f".stream-{i}.lock") for i in range(streams)]
    while True:
        for i, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield i
            finally:
                lock.release()
            return
        if stop.wait(POLL_SECONDS):
            raise StoppedError


@contextmanager
def _alone(part: Path, stop: threading.Event) -> Iterator[None]:
    """Hold the lock of a part file; another process that fetches the same file waits."""
    lock, logged = FileLock(part.with_suffix(".lock")), False
    while True:
        try:
            lock.acquire(timeout=POLL_SECONDS)
            break
        except Timeout:
            if not logged:
                log.warning("another process fetches %s; waiting for it", part.name[1:])
                logged = True
            if stop.is_set():
                raise StoppedError from None
    try:
        yield
    finally:
        lock.release()


def is_whole(path: Path, file: File) -> bool:
    """Return whether a file exists with the GDC's size and md5; this reads the whole file.

    Args:
        path: on disk.
        file: of the GDC.

    Returns:
        True for the same file.

    """
    if not has_size(path, file):
        return False
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest() == file.md5


def has_size(path: Path, file: File) -> bool:
    """Return whether a file exists with the GDC's size.

    Args:
        path: on disk.
        file: of the GDC.

    Returns:
        True for the same size.

    """
    return path.is_file() and path.stat().st_size == file.size
