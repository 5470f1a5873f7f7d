"""Many files of the GDC, or one where it is needed; what of it is fetched is `fetching`'s."""

import logging
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from histocae.errors import DataError, FetchError, StuckError
from histocae.progress import bar, bytes_bar
from histocae.sources.gdc.client import read_token
from histocae.sources.gdc.fetching import Meter, fetch, has_size, is_whole, part_of
from histocae.sources.gdc.remote import File, InARow, Server
from histocae.sources.hashes import Hashes

SAVE_EVERY = 60.0  # seconds between savings of the md5s of what came
log = logging.getLogger(__name__)


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
        FetchError: the token file is no good, and there are controlled data.

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
    check_token(server, todo)
    stop, came, wasted, missing, row = threading.Event(), 0, 0, {}, InARow(server.streams)
    saved, ended = time.monotonic(), set()
    with (
        logging_redirect_tqdm(),  # a line of the log goes above the bars
        bytes_bar("all slides", sum(file.size for file in todo), position=0) as total,
    ):

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
                    ended.add(file.name)
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
                        log.warning("so many in a row can't be had: the others are left to the next run")
                        missing |= {one.name: "left to the next run" for one in todo if one.name not in ended}
                        break
            finally:
                stop.set()
    return Tally(missing, len(todo) - len(missing), came, wasted)


def check_token(server: Server, files: Sequence[File]) -> None:
    """Raise FetchError where there are controlled data, and the token file is no good: before hours of fetching."""
    unknown = server.token_file is not None and any(file.access is None for file in files)
    if unknown or any(file.access == "controlled" for file in files):
        read_token(server.token_file)


def check_space(folder: Path, files: Sequence[File]) -> None:
    """Look whether a folder's disk has the space for files, but for what has come of them.

    Raises:
        StuckError: it has not, or can't be written to.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = (part_of(folder, file) for file in files)
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
            place.unlink(missing_ok=True)
