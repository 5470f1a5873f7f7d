"""Reading, writing and hashing of files.

A file or folder appears whole: it is written aside in the same folder, flushed, then renamed.
"""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any

from histocae import table_faults
from histocae.asides import FORMER, aside_of
from histocae.errors import DataError, YamlError, naming, raise_if_machine

if TYPE_CHECKING:  # pandas takes a third of a second to load, and a repro with nothing to do needs no table
    import pandas as pd

# the separator of every table in data/, as in the notebooks this began with; tables in reports/ use a comma
SEPARATOR = "|"
# of numpy about files that are no arrays, are damaged, or hold something else
ARRAY_FAULTS = (OSError, ValueError, EOFError, TypeError, KeyError, OverflowError, SyntaxError, TokenError)
# of file systems that can't set space aside: NFS before 4.2, many in user space
_NO_RESERVES = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF)
_REMEDY = "run the stages before this one: dvc repro"


def reserve(path: Path, size: int | None = None) -> None:
    """Let the disk set space for a file aside, for writers that crash on a full disk (HDF5, memory maps).

    Where the file system can't set space aside, the system's library writes to each block, or nothing is done.

    Args:
        path: of the file; it is made if it is not there.
        size: of the file in bytes; None: the size that it has, with holes.

    Raises:
        OSError: the disk is full, or takes no file of this size.

    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        with naming(path, path):
            # not to append, nor only to write: glibc refuses both where it has to write to each block
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                os.posix_fallocate(handle, 0, size or os.fstat(handle).st_size)
            finally:
                os.close(handle)
    except OSError as error:
        if error.errno in _NO_RESERVES:
            return
        path.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that replaces `path` only if the block ends without an error.

    Args:
        path: of the file; missing folders are made.
        mode: "wb" for bytes, "w+b" for libraries that also read what they write (HDF5), "w" for UTF-8 text whose line
            ends stay as they are.

    Yields:
        The open file.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    try:
        with naming(path, aside):
            with open(aside, mode, encoding=encoding, newline=newline) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder that replaces `path` only if the block ends without an error.

    For a moment there is neither the former folder nor the new one: a folder can't be renamed over another. After a
    kill in that moment, `recover` moves the former folder back.

    Args:
        path: of the folder; missing folders above it are made.

    Yields:
        The folder to fill.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    former = aside.with_suffix(FORMER)
    try:
        with naming(path, aside):
            aside.mkdir()
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
        if path.exists():
            os.replace(path, former)
        os.replace(aside, path)
    finally:
        # also after a signal between the two
        if former.exists() and not path.exists():
            os.replace(former, path)
        shutil.rmtree(former, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 text whole.

    Args:
        text: its line ends stay as they are.
        path: of the file.

    """
    with replacing(path, "w") as handle:
        handle.write(text)


def write_json(value: object, path: Path) -> None:
    """Write JSON whole, with sorted keys.

    Args:
        value: of plain dicts, lists, texts and numbers.
        path: of the file.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON does not have.

    """
    write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", path)


def read_json(path: Path, remedy: str = _REMEDY) -> Any:
    """Read a JSON file that an earlier stage wrote.

    Args:
        path: of the file.
        remedy: end of an error's line.

    Returns:
        The content.

    Raises:
        DataError: the file is missing or damaged.

    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: not there yet; {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise_if_machine(error)
        # Python's text about a number of thousands of digits is advice to programmers
        problem = "a number has thousands of digits" if type(error) is ValueError else error
        raise DataError(f"{path}: can't be read: {problem}; {remedy}") from None


def read_json_or_none(path: Path) -> Any:
    """Read a JSON file that may not be there; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def read_yaml(path: Path) -> Any:
    """Read a file of YAML 1.2, as DVC reads it: `1e-3` is a number, `on` is text, keys are unique.

    Raises:
        YamlError: the file holds no such YAML, or is too large or too deeply nested.
        OSError: the file is missing or can't be read.

    """
    from histocae import yaml_text  # its library is not there on a machine that only trains

    with open(path, "rb") as handle:
        content = handle.read(yaml_text.MOST_BYTES + 1)
    try:
        return yaml_text.load(content)
    except ValueError as error:
        raise YamlError(f"{path}: {error}") from None


def write_yaml(value: object, path: Path) -> None:
    """Write YAML whole, with sorted keys and one entry per line.

    Args:
        value: of plain dicts, lists, texts and numbers.
        path: of the file.

    """
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump(value, text)
    write_text(text.getvalue(), path)


def write_table(table: "pd.DataFrame", path: Path, separator: str = SEPARATOR) -> None:
    """Write a table whole; floats keep every digit that reading them back exactly needs.

    Args:
        table: without its index.
        path: of the file.
        separator: of columns.

    """
    with replacing(path, "w") as handle:
        table.to_csv(handle, sep=separator, index=False, lineterminator="\n")


def exact_floats() -> dict[str, Any]:
    """Return the arguments with which `pandas.read_csv` reads floats as `write_table` wrote them, to the last bit.

    pandas 3.1 always does, and warns of the argument. Before, about a third of all floats came out one bit off.
    """
    import pandas as pd

    version = tuple(int(part) for part in pd.__version__.split(".")[:2])
    return {} if version >= (3, 1) else {"float_precision": "round_trip"}


def read_table(
    path: Path,
    text: Iterable[str] = (),
    separator: str = SEPARATOR,
    columns: dict[str, str] | None = None,
    remedy: str = _REMEDY,
    *,
    needed: Iterable[str] = (),
    numbers: Iterable[str] = (),
) -> "pd.DataFrame":
    """Read a table that a stage wrote; an empty cell is missing.

    Args:
        path: of the table.
        text: columns that stay strings: a slide may be called 0012.
        separator: of columns.
        columns: the only columns to read, each with its dtype; the rest takes no memory. None for all.
        remedy: end of an error's line.
        needed: columns that must be there.
        numbers: columns that must be there, with numbers or empty cells only.

    Returns:
        The table.

    Raises:
        DataError: the table is not there yet, or damaged.

    """
    import pandas as pd

    with _table_errors(path, remedy):
        table_faults.check_end(path)
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=columns or dict.fromkeys(text, "str"),
            usecols=columns,
            keep_default_na=False,
            na_values=[""],
            **exact_floats(),
        )
        table_faults.check_columns(table, needed, numbers)
        if table_faults.may_lack_cells(table):
            table_faults.check_cells(path, separator)
        return table


@contextmanager
def _table_errors(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Raise a DataError where pandas can't read a table of ours: no such file, or other bytes than a stage wrote."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: not there yet; {remedy}") from None
    except ValueError as error:  # also pandas' errors of parsing, and bytes that are no UTF-8
        raise DataError(f"{path}: can't be read: {error}; {remedy}") from None


def read_table_parts(
    path: Path, text: Iterable[str] = (), rows: int = 100_000, needed: Collection[str] = ()
) -> "Iterator[pd.DataFrame]":
    """Read a table in parts. A column without a given type may have another type in each part.

    Args:
        path: of the table, of any length.
        text: columns that stay strings.
        rows: of a part; the last part may have fewer.
        needed: columns that must be there.

    Yields:
        The parts in their order, with the row numbers of the whole table as index.

    Raises:
        DataError: the table is not there yet, or damaged.

    """
    import pandas as pd

    with _table_errors(path):
        table_faults.check_end(path)
        parts = pd.read_csv(
            path,
            sep=SEPARATOR,
            dtype=dict.fromkeys(text, str),
            keep_default_na=False,
            na_values=[""],
            **exact_floats(),
            chunksize=rows,
        )
    checked = False
    with parts:
        while True:
            with _table_errors(path):
                if (part := next(parts, None)) is None:
                    return
                table_faults.check_columns(part, needed)
                if not checked and table_faults.may_lack_cells(part):
                    table_faults.check_cells(path, SEPARATOR)  # all of them, at most once
                    checked = True
            yield part


@contextmanager
def table_writer(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Open a table that may not fit into memory, to be written row by row as `write_table` would write it.

    Args:
        path: of the table; it appears if the block ends without an error.
        columns: names of the columns.

    Yields:
        A `csv.writer`.

    """
    with replacing(path, "w") as handle:
        writer = csv.writer(handle, delimiter=SEPARATOR, lineterminator="\n")
        writer.writerow(columns)
        yield writer


def read_cells(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Read some columns of a table row by row.

    Args:
        path: of the table.
        columns: names of two or more columns.

    Yields:
        The cells of a row in these columns, as text.

    Raises:
        DataError: the table is not there yet, lacks a column, or is damaged.

    """
    with _table_errors(path):
        yield from table_faults.cells(path, columns, SEPARATOR)


def state(path: Path) -> list[int]:
    """Return size (bytes) and times (ns) of a file, which show that it changed without reading it."""
    stat = path.stat()
    # ctime too: it also changes where a copy keeps the old mtime
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """Return the SHA-256 of a file in hex, computed once per process while the file's size and times stay."""
    return _sha256_of_state(path.absolute(), *state(path))


def named_sha256(file: str, key: str) -> str:
    """Return the SHA-256 of a file that a key of params.yaml names, computed once per process.

    Args:
        file: its path.
        key: dotted, for the error's line.

    Returns:
        The hash in hex.

    Raises:
        DataError: the file is missing or can't be read.

    """
    try:
        return sha256_once(Path(file))
    except OSError as error:
        raise_if_machine(error)
        problem = "no such file" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        raise DataError(f"{key}: {file}: {problem}; put the file there, or correct the key") from None


@lru_cache(maxsize=1024)
def _sha256_of_state(path: Path, *_state: int) -> str:
    return sha256(path)


def fingerprint(value: object) -> str:
    """Return the SHA-256 of a value of plain dicts, lists, texts and numbers; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_fingerprint(*names: str) -> str:
    """Return the SHA-256 of the source of some modules of this package, named without suffix."""
    folder = Path(__file__).parent
    return fingerprint([[name, sha256(folder / f"{name}.py")] for name in sorted(names)])
