"""Find a registered model, or the model of a run, on any tracking server, and fetch it with its contract."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import LoggedModelStatus

from histocae.address import origin
from histocae.errors import TrackingError, raise_if_machine
from histocae.files import replacing_folder
from histocae.tracking import database, environment
from histocae.tracking.logged_models import MODEL
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
        TrackingError: this is no name of a model, no server is named, the server is unreachable or refuses, or it
            has no such model.

    """
    match = next(filter(None, (form.fullmatch(uri) for form in (_LOGGED, _RUN, _NAME))), None)
    if match is None:
        raise TrackingError(
            f"{uri}: neither a folder nor the name of a model; use models:/NAME@ALIAS, models:/NAME/VERSION, "
            "runs:/RUN_ID, or a folder under models/trained"
        )
    _check_server(uri)
    try:
        with call_limits(RETRIES, SECONDS):
            return _find(client(), uri, match.groupdict())
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise TrackingError(f"{uri}: {_lacks(uri)}") from None
        remedy = ""
        if re.search(r"error code 40[13]\b", str(error)):
            remedy = "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        raise TrackingError(f"{failure_message(error)}{remedy}") from None
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def _find(api: MlflowClient, uri: str, parts: Mapping[str, Any]) -> Fetched:
    if "model" in parts:
        return Fetched(f"logged model {parts['model']}", parts["model"])
    if "run" in parts:
        return _of_run(api, uri, parts["run"])
    name, alias, number = parts["name"], parts["alias"], parts["version"]
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


def _of_run(api: MlflowClient, uri: str, run_id: str) -> Fetched:
    """Return the last model of a run: a changed contract and other code of served models make another one."""
    run = api.get_run(run_id)
    models = api.search_logged_models(
        [run.info.experiment_id],
        f"source_run_id = '{run_id}' AND name = '{MODEL}'",
        order_by=[{"field_name": "creation_timestamp", "ascending": False}],
    )
    ready = [model for model in models if model.status == LoggedModelStatus.READY]
    if not ready:
        raise TrackingError(
            f"{uri}: the run {run.info.run_name} has no model (linear models and folds have none); name another"
        )
    last = max(ready, key=lambda model: model.creation_timestamp)
    return Fetched(f"run {run.info.run_name} ({run_id})", last.model_id)


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
                raise TrackingError(
                    f"{found.label}: its files are not on the server; run histocae register in its project"
                )
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
        f"{label}: registered by an earlier version of histocae, without a contract; run dvc repro in its project, "
        "which evaluates and registers it again"
    )


def _check_server(uri: str) -> None:
    """Refuse where the user names no database, or a missing one: MLflow would make an empty one."""
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        file = database.file_of(address) if address.startswith("sqlite") else None
        if file is not None and not file.is_file():
            raise TrackingError(f"MLFLOW_TRACKING_URI: {file}: no such database; check the address")
    elif not (environment.project_folder() / "mlflow.db").is_file():
        raise TrackingError(
            f"{uri}: no tracking server: set MLFLOW_TRACKING_URI to its address (https://host, or "
            "sqlite:////folder/mlflow.db), or give a folder under models/trained by --model"
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
