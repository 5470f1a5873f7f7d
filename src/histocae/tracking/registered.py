"""Find a registered model, or the model of a run, on any tracking server, and fetch it with its contract."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import mlflow

from histocae.address import origin
from histocae.errors import TrackingError, raise_if_machine
from histocae.files import replacing_folder
from histocae.tracking import database, environment
from histocae.tracking.registry import CHAMPION
from histocae.tracking.server import (
    FAILURES,
    MlflowClient,
    MlflowException,
    call_limits,
    client,
    failure_message,
)

ARTIFACTS = "artifacts/histocae"  # inside a registered model
RETRIES, SECONDS = 2, 60  # of each call
_RUN = re.compile(r"(runs:/)?(?P<run>[0-9a-f]{32})(/\w+)?")
_LOGGED = re.compile(r"(models:/)?(?P<model>m-[0-9a-f]{32})")
_NAME = re.compile(r"(models:/)?(?P<name>[^@/:]+)(?:@(?P<alias>[^@/:]+)|/(?P<version>\d{1,9}))?")


class Fetched(NamedTuple):
    """A model that was found.

    Attributes:
        label: for readers: its name and version.
        model_id: of the logged model.

    """

    label: str
    model_id: str


def find(uri: str) -> Fetched:
    """Find a model on the tracking server that MLFLOW_TRACKING_URI names.

    Args:
        uri: models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME (its champion), models:/m-ID, runs:/ID, or any of
            them without `models:/` or `runs:/`.

    Returns:
        The model.

    Raises:
        TrackingError: no server is named, the server is unreachable or refuses, or it has no such model.

    """
    _check_server()
    try:
        with call_limits(RETRIES, SECONDS):
            return _find(client(), uri)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise TrackingError(f"{uri}: {_lacks(uri)}") from None
        remedy = ""
        if re.search(r"error code 40[13]\b", str(error)):
            remedy = "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        raise TrackingError(f"{failure_message(error)}{remedy}") from None
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def _find(api: MlflowClient, uri: str) -> Fetched:
    if match := _LOGGED.fullmatch(uri):
        return Fetched(f"logged model {match['model']}", match["model"])
    if match := _RUN.fullmatch(uri):
        run = api.get_run(match["run"])
        models = run.outputs.model_outputs if run.outputs else []
        if not models:
            raise TrackingError(
                f"{uri}: the run {run.info.run_name} has no model (linear models and folds have none); name another"
            )
        return Fetched(f"run {run.info.run_name} ({match['run']})", models[-1].model_id)
    match = _NAME.fullmatch(uri)
    if match is None:
        raise TrackingError(
            f"{uri}: neither a folder nor the name of a model; use models:/NAME@ALIAS, models:/NAME/VERSION, "
            "runs:/RUN_ID, or a folder under models/trained"
        )
    name, alias, number = match["name"], match["alias"], match["version"]
    if number is not None:
        version = api.get_model_version(name, number)
    else:
        version = api.get_model_version_by_alias(name, alias or CHAMPION)
    called = f"models:/{name}/{version.version}" if number else f"models:/{name}@{alias or CHAMPION}"
    label = called if number else f"{called} (version {version.version})"
    logged = _LOGGED.fullmatch(version.model_id or str(version.source))
    if logged is None:  # MLflow 2 registered the files of a run
        raise TrackingError(_without_contract(label))
    return Fetched(label, logged["model"])


def fetch(found: Fetched, folder: Path) -> None:
    """Download a model's contract and networks; the folder appears whole.

    Args:
        found: the model.
        folder: to write, with contract.json, networks and SHA256SUMS.

    Raises:
        TrackingError: the server is unreachable, or the model has no contract.

    """
    try:
        with call_limits(RETRIES, SECONDS), replacing_folder(folder) as aside:
            api = client()
            names = {entry.path for entry in api.list_logged_model_artifacts(found.model_id, "artifacts")}
            if not names and not api.list_logged_model_artifacts(found.model_id):
                raise TrackingError(f"{found.label}: its files are not on the server; run histocae register again")
            if ARTIFACTS not in names:
                raise TrackingError(_without_contract(found.label))
            model = api.get_logged_model(found.model_id)
            mlflow.artifacts.download_artifacts(f"{model.artifact_location}/{ARTIFACTS}", dst_path=str(aside))
            inner = aside / Path(ARTIFACTS).name
            for entry in inner.iterdir():
                entry.rename(aside / entry.name)
            inner.rmdir()
    except FAILURES as error:
        raise_if_machine(error)
        problem = failure_message(error)
        if problem.endswith(":"):  # MLflow's list of files, each with its traceback
            problem = "files are missing on the server, or the download broke off; try again, or register it again"
        raise TrackingError(f"{found.label}: can't be downloaded: {problem}") from None


def _without_contract(label: str) -> str:
    return (
        f"{label}: an earlier version of histocae registered it, without its contract (what its patches were); run "
        "histocae register in its project again"
    )


def _check_server() -> None:
    """Refuse where the user names no database, or a missing one: MLflow would make an empty one."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        file = database.file_of(uri) if uri.startswith("sqlite") else None
        if file is not None and not file.is_file():
            raise TrackingError(f"MLFLOW_TRACKING_URI: {file}: no such database; check the address")
    elif not (environment.project_folder() / "mlflow.db").is_file():
        raise TrackingError(
            "no tracking server: set MLFLOW_TRACKING_URI to its address (https://host, or sqlite:////folder/mlflow.db)"
            ", or give a folder under models/trained by --model"
        )


def _lacks(uri: str) -> str:
    """Explain what the server lacks, and list what it has."""
    server = origin(environment.address())
    match = _NAME.fullmatch(uri)
    if _RUN.fullmatch(uri) or _LOGGED.fullmatch(uri) or match is None:
        return f"not on {server}"
    try:
        with call_limits(RETRIES, SECONDS):
            api = client()
            names = sorted(model.name for model in api.search_registered_models())
            if match["name"] not in names:
                has = f"it has {', '.join(names)}" if names else "it has no registered model; run dvc repro register"
                return f"no registered model {match['name']} on {server}; {has}"
            aliases = sorted(api.get_registered_model(match["name"]).aliases)
            wanted = f"version {match['version']}" if match["version"] else f"alias {match['alias'] or CHAMPION}"
            return f"{match['name']} has no {wanted} on {server}; its aliases: {', '.join(aliases) or 'none'}"
    except FAILURES as error:
        return failure_message(error)
