"""The tracking server: its client, its experiments, and what its failures mean."""

import importlib.metadata
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]  # it has no types
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from histocae.address import origin, without_credentials
from histocae.paths import SCRATCH
from histocae.tracking import database
from histocae.tracking.environment import address, call_limits, default_address, project_folder

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its errors are raised, too
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # all retries are reported as one failure
logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # that it checks an example
# what an unreachable, full or broken server can raise: uploads raise errors of requests (which are OSErrors), a
# database those of SQLAlchemy, and an answer that is not MLflow's those of its parsers
FAILURES = (MlflowException, OSError, SQLAlchemyError, ParseError, JSONDecodeError)
DATABASES = {
    "sqlite": "sqlite:///mlflow.db needs none",
    "postgresql": "pip install psycopg2-binary, and write postgresql+psycopg2:// in the address",
    "mysql": "pip install pymysql, and write mysql+pymysql:// in the address",
    "mssql": "pip install pyodbc, and write mssql+pyodbc:// in the address",
}
SHOWN = 500  # characters of a message; an answer may be a page of HTML
__all__ = ["FAILURES", "MlflowClient", "MlflowException", "call_limits", "client", "experiment", "failure_message"]


def failure_message(error: Exception) -> str:
    """Describe a failure of the server in one line, without the credentials that its address may contain."""
    request = error.__context__ or error
    if isinstance(request, RequestException):
        server = f"tracking server {origin(mlflow.get_tracking_uri())}"
        if refused := re.search(r"certificate verify failed: (.+?) \(_ssl", str(request)):
            return (
                f"{server}: certificate not accepted: {refused[1]}; MLFLOW_TRACKING_SERVER_CERT_PATH may name a "
                "file with the certificate of its authority"
            )
        return f"{server} can't be reached, or fails"
    cause = error.__cause__ or error
    # the database's own message: SQLAlchemy's begins with advice to its caller
    problem = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else error
    line = (str(problem).splitlines() or [type(problem).__name__])[0]
    line = without_credentials(line)  # before it is cut, else a half secret would not be found
    return f"tracking server: {line if len(line) <= SHOWN else line[:SHOWN] + ' ...'}"


@contextmanager
def delivering() -> Iterator[None]:
    """Wait until no other process delivers to the project's server: two at once would make runs or versions twice."""
    folder = project_folder() / SCRATCH / "locks"  # of all pipelines and experiments that share a database
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "delivery.lock"):
        yield


def client() -> MlflowClient:
    """Return a client of the server that MLFLOW_TRACKING_URI names, or of the project's mlflow.db.

    Making it may call the server or create the database.

    Raises:
        FAILURES: the address is invalid, a driver is missing, or the server is unreachable.

    """
    uri = address()
    if (problem := _problem(uri)) is not None:
        raise MlflowException(f"MLFLOW_TRACKING_URI: {problem}")
    database.prepare(uri)
    mlflow.set_tracking_uri(uri)
    try:
        return MlflowClient(uri)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        lacks = "names a driver that SQLAlchemy does not know"
        if isinstance(error, ModuleNotFoundError):
            lacks = f"needs the Python module {error.name}, which is not installed"
        raise MlflowException(
            f"MLFLOW_TRACKING_URI: {origin(uri)} {lacks}; use for example: {DATABASES[_database(uri)]}"
        ) from None


def _database(uri: str) -> str:
    """Return the kind of database in an address: postgresql of postgresql+psycopg2://..."""
    return uri.partition("://")[0].partition("+")[0]


def _problem(uri: str) -> str | None:
    """Say what is wrong with the address of a tracking server; None if it may be right."""
    kind, separator, rest = uri.partition("://")
    if kind in ("http", "https") and separator:
        return _url_problem(uri, rest)
    if _database(uri) in DATABASES and separator:
        try:
            make_url(uri), urlsplit(uri)  # as SQLAlchemy and MLflow read it
        except (ValueError, SQLAlchemyError):
            return (
                f"{origin(uri)} is no address of a database; expected postgresql://host:port/name, or sqlite:///file"
            )
        if _database(uri) == "sqlite" and database.file_of(uri) is None and "file:" not in uri:
            return f"{uri} is a database in memory, which ends with the command; name a file: sqlite:///mlflow.db"
        return None
    # those of plugins, and Databricks, whose address may be the name alone
    plugins = {plugin.name for plugin in importlib.metadata.entry_points(group="mlflow.tracking_store")}
    if kind in {"databricks", *plugins}:
        return None
    return (
        f"{origin(uri)} names no tracking server; expected https://host, http://host:port, sqlite:///file, "
        "or the address of a PostgreSQL, MySQL or MSSQL database"
    )


def _url_problem(uri: str, rest: str) -> str | None:
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port  # a port that is no number shows here
    except ValueError:
        host = None
    if "@" in rest and origin(uri).endswith("***"):
        return "a user or password with @ / ? or # in it; write %40 %2F %3F %23 in their place"
    if not host or any(character.isspace() for character in uri):
        return f"{origin(uri)} is no address; expected https://host or http://host:port"
    if parts.query or parts.fragment:
        return f"{origin(uri)}: expected an address without ? and #; a token goes into MLFLOW_TRACKING_TOKEN"
    return None


def experiment(api: MlflowClient, name: str) -> str:
    """Find an experiment, and create or restore it if needed.

    Args:
        api: client of the server.
        name: of the experiment.

    Returns:
        The experiment's id.

    Raises:
        MlflowException: the server refuses.

    """
    existing = api.get_experiment_by_name(name)
    if existing is None:
        try:
            return str(api.create_experiment(name, _artifacts(name)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            existing = api.get_experiment_by_name(name)  # another process was faster
            if existing is None:  # and a third one deleted it for good
                raise
    if existing.lifecycle_stage == "deleted":
        api.restore_experiment(existing.experiment_id)
    return str(existing.experiment_id)


def _artifacts(name: str) -> str | None:
    """Return the folder of an experiment's files; None for the default of the server or of MLflow here."""
    if address() != default_address() or (folder := project_folder()) == Path.cwd():
        return None
    return (folder / database.ARTIFACTS / name).as_uri()
