"""Files that appear whole: written aside in the same folder, flushed, renamed."""

import csv
import glob
import hashlib
import json
import operator
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from histocae.errors import DataError

if TYPE_CHECKING:  # pandas takes a third of a second to load, and a repro with nothing to do needs no table
    import pandas as pd

# the separator of every table in data/ (the seeds' habit); tables in reports/ use a comma
SEPARATOR = "|"


def _aside(path: Path) -> Path:
    """Name a place beside `path` to write to, and clear away what killed processes left there."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        owner = stale.name.removeprefix(f".{path.name}.").split(".")[0]
        if owner == str(os.getpid()) or not (owner.isdecimal() and _runs(int(owner))):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    return path.parent / f".{path.name}.{os.getpid()}.part"


def _runs(process: int) -> bool:
    try:
        import psutil
    except ImportError:  # where only a training runs, on a machine with keras alone
        return True
    return psutil.pid_exists(process)


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Open a file that takes `path`'s place only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(aside, mode, **text) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder that takes `path`'s place only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        former = aside.with_suffix(".former.part")
        if path.exists():
            os.replace(path, former)
        try:
            os.replace(aside, path)
        except OSError:
            if former.exists():
                os.replace(former, path)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 text whole."""
    with replacing(path, "w") as handle:
        handle.write(text)


def write_json(value: object, path: Path) -> None:
    """Write JSON whole, with sorted keys; NaN and infinity raise ValueError."""
    write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", path)


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        DataError: an earlier stage has not written it yet.

    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: not there yet; run the stages before this one: dvc repro") from None


def write_table(table: "pd.DataFrame", path: Path, separator: str = SEPARATOR) -> None:
    """Write a table whole; floats keep every digit they need to be read back the same."""
    with replacing(path, "w") as handle:
        table.to_csv(handle, sep=separator, index=False, lineterminator="\n")


def read_table(
    path: Path, text: Iterable[str] = (), separator: str = SEPARATOR, columns: dict[str, str] | None = None
) -> "pd.DataFrame":
    """Read a table of ours; the columns in `text` stay strings (a slide may be called 0012).

    With `columns` only these are read, each with its dtype; the others take no memory.

    Raises:
        DataError: an earlier stage has not written it yet.

    """
    import pandas as pd

    try:
        return pd.read_csv(
            path,
            sep=separator,
            dtype=columns or dict.fromkeys(text, str),
            usecols=columns,
            keep_default_na=False,
            na_values=[""],
        )
    except FileNotFoundError:
        raise DataError(f"{path}: not there yet; run the stages before this one: dvc repro") from None


def read_table_parts(path: Path, text: Iterable[str] = (), rows: int = 100_000) -> "Iterator[pd.DataFrame]":
    """Read a table of ours in parts, as `read_table` reads it whole.

    Args:
        path: of the table, of any length.
        text: columns that stay strings.
        rows: of a part; the last one may have fewer.

    Yields:
        The parts in their order; the index of each goes on where that of the former ends.

    Raises:
        DataError: an earlier stage has not written it yet.

    """
    import pandas as pd

    try:
        with pd.read_csv(
            path,
            sep=SEPARATOR,
            dtype=dict.fromkeys(text, str),
            keep_default_na=False,
            na_values=[""],
            chunksize=rows,
        ) as parts:
            yield from parts
    except FileNotFoundError:
        raise DataError(f"{path}: not there yet; run the stages before this one: dvc repro") from None


@contextmanager
def table_writer(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Give a `csv.writer` of a table that may not fit into memory; it appears if the block ends without an error.

    Rows of text come out as `write_table` writes them.
    """
    with replacing(path, "w") as handle:
        writer = csv.writer(handle, delimiter=SEPARATOR, lineterminator="\n")
        writer.writerow(columns)
        yield writer


def read_cells(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Read some columns (two or more) of a table of ours row by row, as the text that stands there.

    Raises:
        DataError: an earlier stage has not written it yet, or it is damaged.

    """
    remedy = "run the stages before this one: dvc repro"
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            rows = csv.reader(handle, delimiter=SEPARATOR)
            head = next(rows, [])
            if missing := [name for name in columns if name not in head]:
                raise DataError(f"{path}: no column {missing[0]!r}; {remedy}")
            yield from map(operator.itemgetter(*map(head.index, columns)), rows)
    except FileNotFoundError:
        raise DataError(f"{path}: not there yet; {remedy}") from None
    except IndexError:
        raise DataError(f"{path}: row {rows.line_num} ends too early; {remedy}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: row {rows.line_num} can't be read: {error}; {remedy}") from None


def parts_of(path: Path) -> list[Path]:
    """List the files that make up a slide: itself, and for MIRAX those of the folder beside it."""
    beside = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and beside.is_dir():
        return [path, *sorted(one for one in beside.rglob("*") if one.is_file())]
    return [path]


def state(path: Path) -> list[int]:
    """Tell bytes and times of a file, in ns, by which a change of it is noticed without reading it."""
    stat = path.stat()
    # the time of the last change of the inode too: a copy that keeps the old time is noticed
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def sha256(path: Path) -> str:
    """Hash a file's bytes, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """Hash a file's bytes, in hex, at most once per process while its size and times stay the same."""
    return _sha256_of_state(path.absolute(), *state(path))


@lru_cache(maxsize=1024)
def _sha256_of_state(path: Path, *_state: int) -> str:
    return sha256(path)


def fingerprint(value: object) -> str:
    """Hash a JSON-able value, in hex; the order of dict keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_fingerprint(*names: str) -> str:
    """Hash the source of modules of this package: what they make depends on it."""
    folder = Path(__file__).parent
    return fingerprint([[name, sha256(folder / f"{name}.py")] for name in sorted(names)])
