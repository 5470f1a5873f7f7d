"""Files of the GDC that arrive whole: resumed where they broke off, named only when bytes and md5 hold.

What has come of a file lies in a hidden `.part` beside it. Whatever ends the process, that is a beginning of
the file or its md5 tells that it is not, in which case it is fetched again from zero.
"""

import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from histocae.errors import DataError, FetchError, StuckError
from histocae.gdc.client import Client, Response, StoppedError, TransientError
from histocae.gdc.query import is_controlled
from histocae.gdc.remote import File, InARow, Server
from histocae.hashes import Hashes
from histocae.progress import bar, bytes_bar

LOOK_AGAIN = 0.2  # seconds between looks for a free stream
SAVE_EVERY = 60.0  # seconds between savings of the md5s of what came
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
    path, part = folder / file.name, _part(folder, file)
    stop = stop or threading.Event()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            _alone(part, stop),
            _stream(folder, server.streams, stop) as stream,
            bytes_bar(file.name, file.size, position=stream + 1) as progress,
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


def _part(folder: Path, file: File) -> Path:
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
            raise TransientError(f"more than the {self._file.size} bytes that the GDC names")
        self._handle.write(data)
        self._handle.flush()  # a kill loses nothing that came
        self._take(data)

    def forget(self) -> None:
        """Begin from zero."""
        self._handle.truncate(0)  # it is open to append
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._count(-self.count)

    def seal(self) -> None:
        """Bring the bytes to the disk if they are those that the GDC names, else begin from zero."""
        if self.count != self._file.size or self._md5.hexdigest() != self._file.md5:
            self.forget()
            raise TransientError("its md5 is not the one that the GDC names")
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
        raise TransientError("status 416: the server has fewer bytes than came before")
    skip, named = begin, None
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not found or int(found[1]) != begin:
            raise TransientError("gave another range than was asked for")
        skip, named = 0, None if found[3] == "*" else int(found[3])
    elif response.headers.get("Content-Length", "").isdecimal():
        named = int(response.headers["Content-Length"])
    if named is not None and named != file.size:
        raise TransientError(f"has {named} bytes there, not the {file.size} that the GDC names")
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


@dataclass(frozen=True)
class Tally:
    """What a download of many files came to.

    Attributes:
        missing: why a file could not be had, by its name.
        fetched: files.
        came: bytes over the network.
        wasted: those of them that were of no use.

    """

    missing: dict[str, str]
    fetched: int
    came: int
    wasted: int


def fetch_all(server: Server, files: Sequence[File], folder: Path, hashes: Hashes) -> Tally:
    """Get all files that are not there yet; one that can't be had does not keep the others.

    Args:
        server: that has them.
        files: which ones, each with a name of its own.
        folder: where they go.
        hashes: md5s of files that were there before.

    Raises:
        DataError: the disk has no space for all of them, or can't be used.

    """
    todo = []
    for file in bar(files, "checking", "slides"):
        path = folder / file.name
        # other bytes or md5: a file that was put there by hand, or an older one
        if not has_size(path, file) or hashes.of(path)[1] != file.md5:
            todo.append(file)
    try:
        check_space(folder, todo)
    except StuckError as error:
        raise DataError(
            f"{error}, take fewer (data.gdc.per_class, data.gdc.per_case), or let slides go (data.keep_slides: false)"
        ) from None
    log.info("%d of %d slides to fetch, %s", len(todo), len(files), amount(sum(one.size for one in todo)))
    stop, came, wasted, missing, row = threading.Event(), 0, 0, {}, InARow(server.streams)
    saved = time.monotonic()
    with bytes_bar("all slides", sum(file.size for file in todo), position=0) as total:

        def one(file: File) -> tuple[File, Meter, FetchError | None]:
            meter = Meter(shown=total.update)
            try:
                fetch(server, file, folder, meter, stop)
            except FetchError as error:
                return file, meter, error
            return file, meter, None

        # threads, since they wait for the network; a ThreadPool's, since those do not keep an interrupted
        # program from ending while one waits
        with ThreadPool(max(1, min(server.streams, len(todo)))) as pool:
            try:
                for at, (file, meter, error) in enumerate(pool.imap_unordered(one, todo), 1):
                    came, wasted = came + meter.came, wasted + meter.wasted
                    if error is None:
                        hashes.learn(folder / file.name, file.md5)
                        log.info("%d of %d: %s, %s", at, len(todo), file.name, amount(file.size))
                    else:
                        missing[file.name] = str(error)
                        log.warning("%d of %d is missing: %s", at, len(todo), error)
                    if time.monotonic() - saved > SAVE_EVERY:  # a killed run has not to read again what it fetched
                        hashes.save()
                        saved = time.monotonic()
                    if row.too_many(error):
                        missing |= {one.name: "not tried" for one in todo[at:] if one.name not in missing}
                        break
            finally:
                stop.set()
    return Tally(missing, len(todo) - len(missing), came, wasted)


def check_space(folder: Path, files: Sequence[File]) -> None:
    """Look whether a folder's disk has the space for files, but for what has come of them.

    Raises:
        StuckError: it has not, or can't be written to.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = (_part(folder, file) for file in files)
        needed = sum(file.size for file in files) - sum(part.stat().st_size for part in parts if part.is_file())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StuckError(f"{folder}: can't be written to: {error.strerror}") from None
    if needed > free:
        raise StuckError(f"{folder}: {amount(needed)} more are needed, and {amount(free)} are free; make space")


def told(came: int, wasted: int) -> str:
    """Say how many bytes came, and how many in vain."""
    return f"{amount(came)} came, {amount(wasted)} of them in vain ({wasted / max(came, 1):.1%})"


def amount(count: int) -> str:
    """Tell bytes to people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def provide(server: Server, file: File, folder: Path, trusted: bool) -> Path:
    """Give the path of one file, fetched where it is not there or not what the GDC names.

    Args:
        server: that has it.
        file: which one.
        folder: where it is, or goes.
        trusted: what is there was checked before, and now only its bytes are counted.

    Raises:
        FetchError: it could not be had.

    """
    path = folder / file.name
    try:
        there = has_size(path, file) if trusted else is_whole(path, file)
    except OSError as error:
        raise StuckError(f"{path}: can't be read: {error.strerror}") from None
    if not there:
        check_space(folder, [file])
        fetch(server, file, folder, Meter())
    return path


def forget_others(folder: Path, names: set[str]) -> None:
    """Delete what has come of files that are no longer asked for."""
    for place in [*folder.glob(".*.part"), *folder.glob(".*.lock")]:
        name = place.name[1:].rsplit(".", 2)[0]
        if name not in names and not place.name.startswith(".stream-"):
            place.unlink()
