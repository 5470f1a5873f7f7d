"""One file of the GDC that arrives whole: resumed where it broke off, named only when its bytes and md5 hold.

What has come of a file lies in a hidden `.part` beside it. Whatever ends the process, that is a beginning of
the file or its md5 tells that it is not, in which case it is fetched again from zero.
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

from filelock import FileLock, Timeout
from tqdm import tqdm

from histocae.errors import FetchError, StuckError
from histocae.identifiers import slide_of
from histocae.progress import bytes_bar
from histocae.sources.gdc.client import Client, Response, StoppedError, TransientError
from histocae.sources.gdc.query import is_controlled
from histocae.sources.gdc.remote import File, Server

LOOK_AGAIN = 0.2  # seconds between looks for a free stream
log = logging.getLogger(__name__)


@dataclass
class Meter:
    """What a download comes to, as it goes on.

    Attributes:
        came: bytes over the network.
        before: bytes that an earlier run had left.
        kept: bytes that are there.
        shown: is told of each change of `kept`.

    """

    came: int = 0
    before: int = 0
    kept: int = 0
    shown: Callable[[int], object] = lambda _: None

    def add(self, count: int) -> None:
        """Count bytes that are kept, or, below 0, that have to come again."""
        self.kept += count
        self.shown(count)

    @property
    def wasted(self) -> int:
        """Bytes that came and were of no use: sent twice, or wrong."""
        return self.came - (self.kept - self.before)


def fetch(server: Server, file: File, folder: Path, meter: Meter, stop: threading.Event | None = None) -> None:
    """Get a file into a folder. At most `server.streams` do so at once, whatever process they are in.

    Args:
        server: that has it.
        file: which one.
        folder: where it gets its name, once its bytes and md5 hold.
        meter: counts bytes.
        stop: set by another thread where the work is to end.

    Raises:
        FetchError: it can't be had; StuckError: for a reason that may keep others too.
        StoppedError: it is to stop.

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
                return  # another process was faster
            with _Arriving(part, file, meter, progress) as arriving:
                client = Client(server, stop)
                client.again(lambda: _continue(client, file, arriving), file.name)
            os.replace(part, path)
            part.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:  # of the file system: the client has words of its own for those of the network
        raise StuckError(f"{file.name}: can't be written to {folder}: {error.strerror}") from None
    except FetchError as error:
        if file.name in str(error):
            raise
        raise type(error)(f"{file.name}: {error}") from None


def part_of(folder: Path, file: File) -> Path:
    """Give the place for what has come of a file."""
    # another md5 is another file, though it may have the same name
    return folder / f".{file.name}.{file.md5[:8]}.part"


class _Arriving:
    """What has come of a file, and is forgotten where it proves to be wrong."""

    def __init__(self, part: Path, file: File, meter: Meter, progress: tqdm):
        self._part, self._file, self.meter, self._progress = part, file, meter, progress
        self.with_token = file.access == "controlled"

    def __enter__(self) -> "_Arriving":
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
        """Write bytes that came; more than there should be are a sign that all are wrong."""
        if self.count + len(data) > self._file.size:
            self.forget()
            raise TransientError(f"more than the {self._file.size} bytes that the GDC names", own=True)
        self._handle.write(data)
        self._handle.flush()  # a kill loses nothing that came
        self._take(data)

    def forget(self) -> None:
        """Begin from zero."""
        self._handle.truncate(0)  # it is open to append
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._count(-self.count)
        self.meter.before = 0  # what an earlier run had left is of no use, and none of this one's waste

    def seal(self) -> None:
        """Bring the bytes to the disk if they are those that the GDC names, else begin from zero."""
        if self.count != self._file.size or self._md5.hexdigest() != self._file.md5:
            self.forget()
            raise TransientError("its md5 is not the one that the GDC names", own=True)
        self._handle.flush()
        os.fsync(self._handle.fileno())


def _continue(client: Client, file: File, arriving: _Arriving) -> None:
    """One try: ask for the bytes that are missing, and check the whole."""
    if arriving.count > file.size:
        arriving.forget()
    if arriving.count < file.size:
        headers = {"Range": f"bytes={arriving.count}-"} if arriving.count else {}
        try:
            with client.open(f"data/{file.file_id}", headers, with_token=arriving.with_token) as response:
                skip = _begin(response, file, arriving)
                for data in client.chunks(response):
                    arriving.meter.came += len(data)
                    skipped = min(skip, len(data))
                    skip -= skipped
                    if skipped < len(data):
                        arriving.add(data[skipped:])
        except TransientError as error:
            # a manifest does not tell which files are controlled, and the token is for no others
            if error.status == 403 and file.access is None and client.server.token_file is not None:
                with suppress(FetchError):  # where the server does not tell, the token stays here
                    arriving.with_token = is_controlled(client, file.file_id)
            raise
        if arriving.count < file.size:
            raise TransientError(f"broke off after {arriving.count} of {file.size} bytes")
    arriving.seal()


def _begin(response: Response, file: File, arriving: _Arriving) -> int:
    """Look at an answer's head, and give how many bytes of its body are here already."""
    begin = arriving.count
    if response.status_code == 416:
        arriving.forget()
        raise TransientError("status 416: the server has fewer bytes than came before", own=True)
    skip, named = begin, None
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not found or int(found[1]) != begin:
            raise TransientError("gave another range than was asked for", own=True)
        skip, named = 0, None if found[3] == "*" else int(found[3])
    elif response.headers.get("Content-Length", "").isdecimal():
        named = int(response.headers["Content-Length"])
    if named is not None and named != file.size:
        raise TransientError(f"has {named} bytes there, not the {file.size} that the GDC names", own=True)
    return skip


@contextmanager
def _stream(folder: Path, streams: int, stop: threading.Event) -> Iterator[int]:
    """Hold one of a number of places, which are lock files so that processes share them; give its number."""
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
        if stop.wait(LOOK_AGAIN):
            raise StoppedError


@contextmanager
def _alone(part: Path, stop: threading.Event) -> Iterator[None]:
    """Hold what has come of a file; another process that wants the same file waits."""
    lock, told = FileLock(part.with_suffix(".lock")), False
    while True:
        try:
            lock.acquire(timeout=LOOK_AGAIN)
            break
        except Timeout:
            if not told:
                log.warning("another process fetches %s; waiting for it", part.name[1:])
                told = True
            if stop.is_set():
                raise StoppedError from None
    try:
        yield
    finally:
        lock.release()


def is_whole(path: Path, file: File) -> bool:
    """Whether a file is there with the bytes that the GDC names; reads all of it."""
    if not has_size(path, file):
        return False
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest() == file.md5


def has_size(path: Path, file: File) -> bool:
    """Whether a file is there with the number of bytes that the GDC names."""
    return path.is_file() and path.stat().st_size == file.size
