"""The registry: the best model of each cohort, as a version with the alias champion."""

import json
import logging
from typing import Any

from histocae.errors import TrackingError
from histocae.tracking.record import Record
from histocae.tracking.server import FAILURES, MlflowClient, MlflowException, client, patience, told

log = logging.getLogger(__name__)
CHAMPION = "champion"


def registered_name(cohort: str) -> str:
    """Name a cohort's registered model."""
    return f"histocae-{cohort}"


def crown(record: Record, run_id: str, model_id: str) -> dict[str, Any]:
    """Make a logged model the champion of its cohort; nothing changes if it is already.

    Returns:
        Name, version, run and model of the champion.

    Raises:
        TrackingError: the server is away or refuses.

    """
    name = registered_name(record.training["cohort"])
    try:
        with patience(retries=3, timeout=60):
            api = client()
            version = _version(api, name, record, run_id, model_id)
            if api.get_registered_model(name).aliases.get(CHAMPION) != version:
                api.set_registered_model_alias(name, CHAMPION, version)
                log.info("%s version %s (%s) is the champion", name, version, record.name)
    except FAILURES as error:
        raise TrackingError(told(error)) from None
    return {
        "model": record.name, "version": int(version), "run_id": run_id, "model_id": model_id,
        "validation_mse": record.metrics["validation_mse"],
    }  # fmt: skip


def _version(api: MlflowClient, name: str, record: Record, run_id: str, model_id: str) -> str:
    try:
        cohort = record.training["cohort"]
        api.create_registered_model(name, description=f"The best autoencoder of cohort {cohort}.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{model_id}"
    tags = _tags(record)
    for one in api.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if one.source == source:
            for key, value in tags.items():
                if one.tags.get(key) != value:
                    api.set_model_version_tag(name, one.version, key, value)
            return str(one.version)
    made = api.create_model_version(
        name, source=source, run_id=run_id, model_id=model_id, tags=tags,
        description=f"{record.name}: {json.dumps(record.training['model'], sort_keys=True)}",
    )  # fmt: skip
    return str(made.version)


def _tags(record: Record) -> dict[str, str]:
    metrics = record.metrics
    return {
        "model": record.name,
        "cohort": record.training["cohort"],
        "filters": str(record.training["model"]["filters"]),
        "latent_features": str(record.training["model"]["latent_features"]),
        "source": record.training["params"]["data"]["source"],
        **{key: f"{metrics[key]:.6g}" for key in ("validation_mse", "test_mse") if key in metrics},
        **{k: v for k, v in record.run["tags"].items() if k.endswith((".md5", ".commit"))},
    }
