"""Downloads of many files of the GDC in parallel, or of one file when it is needed; see `fetching` for a download."""

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
from histocae.progress import bar, bytes_bar, format_bytes
from histocae.sources.gdc.client import read_token
from histocae.sources.gdc.fetching import Meter, fetch, has_size, is_whole, part_of
from histocae.sources.gdc.remote import FailureCount, File, Server
from histocae.sources.hashes import Hashes

SAVE_EVERY = 60.0  # seconds between two times that the md5s of fetched files are saved
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tally:
    """The result of a download of many files.

    Attributes:
        missing: by file name the reason why a file could not be fetched.
        fetched: number of files.
        received: bytes over the network.
        wasted: bytes of these that were received twice or damaged.

    """

    missing: dict[str, str]
    fetched: int
    received: int
    wasted: int


def fetch_all(server: Server, files: Sequence[File], folder: Path, hashes: Hashes) -> Tally:
    """Fetch all files that are not there yet; a file that fails does not stop the others.

    Args:
        server: of the files.
        files: no two with the same name.
        folder: of the downloads.
        hashes: md5s of files that were there before.

    Returns:
        The result.

    Raises:
        DataError: the disk has no space for all files, or can't be used.
        FetchError: some data are controlled, and the token file can't be used.

    """
    todo = _missing(files, folder, hashes)
    try:
        check_space(folder, todo)
    except StuckError as error:
        raise DataError(
            f"{error}, take fewer slides (data.gdc.per_class, data.gdc.per_case), or delete slides after patch "
            "extraction (data.keep_slides: false)"
        ) from None
    log.info("%d of %d slides to fetch, %s", len(todo), len(files), format_bytes(sum(file.size for file in todo)))
    check_token(server, todo)
    return _fetch_in_parallel(server, todo, folder, hashes)


def _missing(files: Sequence[File], folder: Path, hashes: Hashes) -> list[File]:
    """Return the files that are missing or differ from the GDC's: older versions, or files put there by hand."""
    missing = []
    for file in bar(files, "checking", "slides"):
        path = folder / file.name
        if not has_size(path, file) or hashes.of(path)[1] != file.md5:
            missing.append(file)
    return missing


def _fetch_in_parallel(server: Server, todo: Sequence[File], folder: Path, hashes: Hashes) -> Tally:
    stop, failures = threading.Event(), FailureCount(server.streams)
    received, wasted = 0, 0
    missing: dict[str, str] = {}
    ended: set[str] = set()
    saved = time.monotonic()
    with (
        logging_redirect_tqdm(),  # a line of the log goes above the bars
        bytes_bar("all slides", sum(file.size for file in todo), position=0) as total,
    ):

        def attempt(file: File) -> tuple[File, Meter, FetchError | None]:
            meter = Meter(shown=total.update)
            try:
                fetch(server, file, folder, meter, stop)
            except FetchError as error:
                return file, meter, error
            return file, meter, None

        # threads, since they wait for the network; of a ThreadPool, whose threads do not keep an interrupted program
        # from ending
        with ThreadPool(max(1, min(server.streams, len(todo)))) as pool:
            try:
                for number, (file, meter, failure) in enumerate(pool.imap_unordered(attempt, todo), 1):
                    ended.add(file.name)
                    received, wasted = received + meter.received, wasted + meter.wasted
                    if failure is None:
                        hashes.learn(folder / file.name, file.md5)
                        log.info("%d of %d: %s, %s", number, len(todo), file.name, format_bytes(file.size))
                    else:
                        missing[file.name] = str(failure)
                        log.warning("%d of %d is missing: %s", number, len(todo), failure)
                    if time.monotonic() - saved > SAVE_EVERY:  # for a run after a kill, which would hash all again
                        hashes.save()
                        saved = time.monotonic()
                    if failures.too_many(failure):
                        log.warning("too many failures in a row: the remaining slides are left to the next run")
                        missing |= {left.name: "left to the next run" for left in todo if left.name not in ended}
                        break
            finally:
                stop.set()
    return Tally(missing, len(todo) - len(missing), received, wasted)


def check_token(server: Server, files: Sequence[File]) -> None:
    """Check the token before hours of downloads.

    Args:
        server: with the token file.
        files: to be fetched.

    Raises:
        FetchError: some of the files are controlled or may be, and the token file can't be used.

    """
    unknown = server.token_file is not None and any(file.access is None for file in files)
    if unknown or any(file.access == "controlled" for file in files):
        read_token(server.token_file)


def check_space(folder: Path, files: Sequence[File]) -> None:
    """Check that the disk has space for files, apart from the bytes that are there already.

    Args:
        folder: of the downloads.
        files: to be fetched.

    Raises:
        StuckError: there is too little space, or the folder can't be written to.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = (part_of(folder, file) for file in files)
        needed = sum(file.size for file in files) - sum(part.stat().st_size for part in parts if part.is_file())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StuckError(f"{folder}: can't be written to: {error.strerror}") from None
    if needed > free:
        raise StuckError(
            f"{folder}: {format_bytes(needed)} more are needed, and {format_bytes(free)} are free; make space"
        )


def traffic(received: int, wasted: int) -> str:
    """Return the traffic of downloads in words.

    Args:
        received: bytes over the network.
        wasted: bytes of these that were received twice or damaged.

    Returns:
        A text for the log.

    """
    share = wasted / max(received, 1)
    return f"{format_bytes(received)} received, {format_bytes(wasted)} of them wasted ({share:.1%})"


def provide(server: Server, file: File, folder: Path, trusted: bool) -> Path:
    """Return the path of a file; it is fetched where it is missing or differs from the GDC's.

    Args:
        server: of the file.
        file: of the GDC.
        folder: of the downloads.
        trusted: the md5 of the file on disk was checked before, so only its size is compared.

    Returns:
        The path.

    Raises:
        FetchError: the file could not be fetched.

    """
    path = folder / file.name
    try:
        whole = has_size(path, file) if trusted else is_whole(path, file)
    except OSError as error:
        raise StuckError(f"{path}: can't be read: {error.strerror}") from None
    if not whole:
        check_space(folder, [file])
        fetch(server, file, folder, Meter())
    return path


def forget_others(folder: Path, names: set[str]) -> None:
    """Delete partial downloads of files that are no longer in the cohort.

    Args:
        folder: of the downloads.
        names: files of the cohort.

    """
    for path in [*folder.glob(".*.part"), *folder.glob(".*.lock")]:
        name = path.name[1:].rsplit(".", 2)[0]
        if name not in names and not path.name.startswith(".stream-"):
            path.unlink(missing_ok=True)
