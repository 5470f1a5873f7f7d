"""A sqlite database of MLflow: created as a whole, and its paths of artifacts follow the project's folder.

Of MLflow's parts that are not public, only this module uses those of databases (MLflow 3.17).
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from alembic.script import ScriptDirectory
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from sqlalchemy.engine import make_url

from histocae.files import replacing
from histocae.tracking.environment import project_folder

log = logging.getLogger(__name__)
ARTIFACTS = "mlruns"
BUSY_SECONDS = 20  # how long to wait for a database that another process writes, as MLflow itself does
QUIET_SECONDS = 10  # a process that creates the tables writes more often
# rows worth keeping: MLflow makes experiment 0 by itself
_KEPT = {
    "experiments": "SELECT 1 FROM experiments WHERE experiment_id != 0 LIMIT 1",
    "runs": "SELECT 1 FROM runs LIMIT 1",
    "logged_models": "SELECT 1 FROM logged_models LIMIT 1",
    "registered_models": "SELECT 1 FROM registered_models LIMIT 1",
    "trace_info": "SELECT 1 FROM trace_info LIMIT 1",
}
# replace :old at the beginning of a path; :length is that of :old with the slash after it
_MOVES = (
    "UPDATE experiments SET artifact_location = :new || substr(artifact_location, :length) WHERE experiment_id = :id",
    "UPDATE runs SET artifact_uri = :new || substr(artifact_uri, :length)"
    " WHERE experiment_id = :id AND substr(artifact_uri || '/', 1, :length) = :old || '/'",
    "UPDATE logged_models SET artifact_location = :new || substr(artifact_location, :length)"
    " WHERE experiment_id = :id AND substr(artifact_location || '/', 1, :length) = :old || '/'",
    "UPDATE model_versions SET storage_location = :new || substr(storage_location, :length)"
    " WHERE substr(storage_location || '/', 1, :length) = :old || '/'",
    "UPDATE model_versions SET source = :new || substr(source, :length)"
    " WHERE substr(source || '/', 1, :length) = :old || '/'",
)

DAMAGED = "; restore it from a backup, or rename it, and histocae publish makes a new one with the runs of all models"


def prepare(uri: str) -> None:
    """Create the database that an address names, if it is a file of sqlite, or check it.

    MLflow creates its tables one by one, and a database whose creation was killed would stay unusable. Here it is
    created aside and renamed. One that is half-made, and so holds no runs, is renamed to <name>.unfinished.

    Args:
        uri: the address of a tracking server.

    Raises:
        MlflowException: the file is no database of MLflow, or of another version; or it can't be read or written.

    """
    path = file_of(uri)
    if path is None:
        return
    try:
        if _state(path).revision != _revisions().get_current_head():
            _create(uri, path.resolve())
        folder = project_folder()
        if path.resolve().parent == folder.resolve():  # whatever its name
            _follow_folder(path, folder)
    except sqlite3.Error as error:
        damaged = getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
        raise MlflowException(f"{path}: {error}{DAMAGED if damaged else ''}") from None


def file_of(uri: str) -> Path | None:
    """Return the file of a sqlite database; None where the address names no such file."""
    if not uri.startswith("sqlite"):
        return None
    name = make_url(uri).database
    return None if not name or name.startswith((":memory:", "file:")) else Path(name)


class _State(NamedTuple):
    """What a database holds.

    Attributes:
        tables: names of its tables.
        revision: of MLflow's schema; None where it has none.
        kept: whether there are runs, models or experiments in it.

    """

    tables: frozenset[str]
    revision: str | None
    kept: bool


@contextlib.contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a database that exists; what it writes is committed unless an error is raised."""
    if path.is_dir():
        raise sqlite3.OperationalError("a folder, not a database")
    # mode rw: does not create the file
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def _state(path: Path) -> _State:
    if not path.exists():
        return _State(frozenset(), None, False)
    with _connection(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        row = None
        if "alembic_version" in tables:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        kept = any(connection.execute(query).fetchone() for table, query in _KEPT.items() if table in tables)
    return _State(frozenset(tables), row[0] if row else None, kept)


@lru_cache(maxsize=1)
def _revisions() -> ScriptDirectory:
    """Return the history of MLflow's schema."""
    return ScriptDirectory.from_config(_get_alembic_config(db_url=""))  # type: ignore[no-untyped-call]  # MLflow's


def _create(uri: str, path: Path) -> None:
    """Create the database, unless another process is doing so; keep a half-made one under another name."""
    locks = path.parent / ".histocae/locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{path.name}.lock"):
        state = _state(path)
        while path.exists() and state.revision != _revisions().get_current_head():
            _check_unfinished(uri, path, state)
            if _set_aside(path):
                break
            time.sleep(0.2)
            state = _state(path)
        if not path.exists():
            _create_aside(uri, path)


def _check_unfinished(uri: str, path: Path, state: _State) -> None:
    """Raise an error unless a database that is not of this version of MLflow is a half-made one."""
    if not state.kept and (not state.tables - {"alembic_version"} or "experiments" in state.tables):
        return
    if "experiments" not in state.tables:
        raise MlflowException(f"{path} is a database of another program; name another file")
    if state.revision is not None and state.revision not in {
        script.revision for script in _revisions().walk_revisions()
    }:
        raise MlflowException(
            f"{path} is from a newer MLflow than {mlflow.__version__}; install that version, or name another file"
        )
    raise MlflowException(
        f"{path} has runs of another version of MLflow, or its upgrade was interrupted; copy the file, then run: "
        f"mlflow db upgrade {uri}"
    )


def _set_aside(path: Path) -> bool:
    """Rename a half-made database; return False while another process may still be creating it."""
    files = [path, *(path.with_name(f"{path.name}{end}") for end in ("-journal", "-wal"))]
    newest = max(file.stat().st_mtime for file in files if file.exists())
    if 0 <= time.time() - newest < QUIET_SECONDS:
        return False
    name = path.with_name(f"{path.name}.unfinished")
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return False
        path.rename(name)
    log.warning("%s was left half-made, without runs; it is now %s, and a new one is created", path, name.name)
    return True


def _create_aside(uri: str, path: Path) -> None:
    with replacing(path) as file:
        Path(f"{file.name}-journal").unlink(missing_ok=True)  # of a killed process with the same id
        aside = make_url(uri).set(database=os.path.abspath(file.name)).render_as_string(hide_password=False)
        root = str(project_folder() / ARTIFACTS)
        store = SqlAlchemyStore(aside, root)  # type: ignore[no-untyped-call]  # MLflow's own
        store.engine.dispose()
        SqlAlchemyStore._engine_map.pop(aside)


def _follow_folder(path: Path, folder: Path) -> None:
    """Replace the paths of artifacts where the project's folder was moved or copied: MLflow stores absolute ones.

    The files of the folder that the project came from are neither read nor changed any more.
    """
    with _connection(path) as connection:
        experiments = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
        moved = [
            (id_, old, new)
            for id_, name, old in experiments
            if (new := _new_location(old, {str(id_), name}, folder, path.name))
        ]
        if not moved:
            return
        connection.execute("BEGIN IMMEDIATE")
        for id_, old, new in moved:
            values = {"id": id_, "old": old, "new": new, "length": len(old) + 1}
            for statement in _MOVES:
                connection.execute(statement, values)
    _artifact_repos_cache.clear()
    log.info("%s: the project's folder was moved or copied; artifacts are now in %s", path, folder / ARTIFACTS)


def _new_location(location: str | None, names: set[str], folder: Path, database: str) -> str | None:
    """Return where the artifacts of an experiment belong, if its location is in the folder that the project left.

    Args:
        location: of the experiment, a path or an address.
        names: id and name of the experiment; one of them is the folder's name, unless somebody chose another.
        folder: of the project.
        database: name of the database's file in it.

    Returns:
        The new location in the same form; None where the location is right, or was chosen by somebody.

    """
    is_address = (location or "").startswith("file:")
    former = Path(url2pathname(urlsplit(location).path) if is_address and location else location or "")
    if not former.is_absolute() or ARTIFACTS not in former.parts:
        return None
    depth = len(former.parts) - former.parts[::-1].index(ARTIFACTS)  # of mlruns, from the root
    origin, name = Path(*former.parts[: depth - 1]), Path(*former.parts[depth:])
    here = folder / ARTIFACTS / name
    if origin == folder or (origin.exists() and origin.samefile(folder)):
        return None
    # a folder that somebody chose may be on a drive that is not there now; its mount point is
    was_project = str(name) in names and ((origin / database).exists() or not origin.exists())
    if not was_project and not here.exists():
        return None
    return here.as_uri() if is_address else str(here)
