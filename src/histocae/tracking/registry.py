"""The registry: versions of the models of each cohort and of the pair; the best ones have an alias."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from histocae.errors import TrackingError
from histocae.files import fingerprint
from histocae.identifiers import COHORTS
from histocae.tracking import cards, contracts
from histocae.tracking.delivery import Delivered
from histocae.tracking.record import PairRecord, TrainingRecord
from histocae.tracking.server import (
    FAILURES,
    MlflowClient,
    MlflowException,
    call_limits,
    client,
    delivering,
    failure_message,
)

log = logging.getLogger(__name__)
CHAMPION, CHALLENGER = "champion", "challenger"
PAIR = "histocae-pair"
# shown as tags of a version, beside its data and architecture; its run and its card have the others
METRICS = ("validation_mse", "test_mse", "test_psnr", "test_ssim")
LATENT_METRICS = ("latent_auroc_patch", "latent_auroc_slide", "latent_auroc_case", "latent_ari", "latent_nmi")
PAIR_METRICS = ("auroc_patch", "auroc_slide", "auroc_case", "threshold_patch")


def remove_aliases(current: set[str], experiment: str) -> None:
    """Remove our aliases from registered models that have no champion any more.

    Versions from another experiment keep theirs: a server may serve several projects.

    Args:
        current: registered models that have a champion now.
        experiment: with the pipeline's runs.

    Raises:
        TrackingError: the server is unreachable or refuses.

    """
    with _registry() as api:
        ours = api.get_experiment_by_name(experiment)
        if ours is None:
            return  # no run of ours, so no version either
        for name in {*map(registered_name, COHORTS), PAIR} - current:
            try:
                aliases = api.get_registered_model(name).aliases
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                continue
            for alias in {CHAMPION, CHALLENGER} & set(aliases):
                version = api.get_model_version(name, aliases[alias])
                if _experiment_of(api, version.run_id) == ours.experiment_id:
                    _remove(api, name, alias)


def _experiment_of(api: MlflowClient, run_id: str | None) -> str | None:
    """Return the experiment of a version's run; None where the version has no run, or the run is deleted."""
    if not run_id:
        return None
    try:
        return str(api.get_run(run_id).info.experiment_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def registered_name(cohort: str) -> str:
    """Return the name of a cohort's registered model."""
    return f"histocae-{cohort}"


def register_all(
    delivered: Sequence[Delivered], pair: tuple[PairRecord, str, str] | None, experiment: str
) -> dict[str, Any]:
    """Register the models of each cohort, and the pair; their order is by validation error.

    Args:
        delivered: all models of the pipeline.
        pair: with the ids of its run and of its logged model; None where there is no pair.
        experiment: with the pipeline's runs.

    Returns:
        What `register_cohort` and `register_pair` return, by registered model.

    Raises:
        TrackingError: the server is unreachable or refuses, or a model is not evaluated.

    """
    registered = {}
    for cohort in dict.fromkeys(entry.record.training["cohort"] for entry in delivered):
        entries = [entry for entry in delivered if entry.record.training["cohort"] == cohort]
        if aliases := register_cohort(cohort, entries):
            registered[registered_name(cohort)] = aliases
    if pair is not None:
        registered[PAIR] = register_pair(*pair)
    remove_aliases(set(registered), experiment)
    return registered


def register_cohort(cohort: str, entries: Sequence[Delivered]) -> dict[str, Any]:
    """Make versions of a cohort's models; the best on validation is champion, the second challenger.

    Linear maps are never registered. Repeating it changes nothing.

    Args:
        cohort: all | tumor | normal.
        entries: its models, in the order of params.yaml.

    Returns:
        Alias -> model, version, run, logged model and validation error; empty where the cohort has only linear maps.

    Raises:
        TrackingError: the server is unreachable or refuses, or a model is not evaluated.

    """
    name = registered_name(cohort)
    linear = [entry.record for entry in entries if entry.record.is_linear]
    candidates = [entry for entry in entries if not entry.record.is_linear]
    if not candidates:
        log.info("%s: only linear maps; nothing to register", name)
        return {}
    ranked = sorted(candidates, key=lambda entry: entry.record.metrics["validation_mse"])
    for entry in ranked:
        if entry.lacks_contract:
            raise TrackingError(contracts.unmeasured(entry.record.folder))
    best = dict(zip((CHAMPION, CHALLENGER), ranked, strict=False))
    with _registry() as api:
        _model(api, name, cards.of_cohort(cohort))
        versions = {
            entry.record.name: _version(
                api,
                name,
                run_id=entry.run_id,
                model_id=entry.model_id,
                tags=_tags(entry.record),
                card=cards.of_model(entry.record, name, [other.record for other in ranked], linear),
            )
            for entry in candidates
        }
        aliases = {alias: (versions[entry.record.name], entry.record.name) for alias, entry in best.items()}
        _set_aliases(api, name, aliases)
    return {
        alias: {
            "model": entry.record.name,
            "version": int(versions[entry.record.name]),
            "run_id": entry.run_id,
            "model_id": entry.model_id,
            "validation_mse": entry.record.metrics["validation_mse"],
        }
        for alias, entry in best.items()
    }


def register_pair(pair: PairRecord, run_id: str, model_id: str) -> dict[str, Any]:
    """Make the pair a version of histocae-pair, and its champion; repeating it changes nothing.

    Args:
        pair: both models and the results of their comparison.
        run_id: of the comparison's run.
        model_id: of the pair's logged model.

    Returns:
        Alias -> models, version, run and logged model.

    Raises:
        TrackingError: the server is unreachable or refuses.

    """
    names = {"tumor": pair.tumor.name, "normal": pair.normal.name}
    numbers = {key: f"{pair.metrics[key]:.6g}" for key in PAIR_METRICS}
    tags = {**_origin(pair.tumor), "cohort": "pair", **names, **numbers}
    with _registry() as api:
        _model(api, PAIR, cards.PAIR)
        version = _version(api, PAIR, run_id=run_id, model_id=model_id, tags=tags, card=cards.of_pair(pair, PAIR))
        _set_aliases(api, PAIR, {CHAMPION: (version, " and ".join(names.values()))})
    return {CHAMPION: {**names, "version": int(version), "run_id": run_id, "model_id": model_id}}


@contextmanager
def _registry() -> Iterator[MlflowClient]:
    try:
        with delivering(), call_limits(retries=3, timeout=60):
            yield client()
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def _model(api: MlflowClient, name: str, description: str) -> None:
    """Create a registered model, or bring its description up to date."""
    try:
        api.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if api.get_registered_model(name).description != description:
            api.update_registered_model(name, description)


def _version(
    api: MlflowClient, name: str, *, run_id: str, model_id: str | None, tags: dict[str, str], card: str
) -> str:
    """Find or create the version of a logged model, and bring its tags and card up to date."""
    source = f"models:/{model_id}"
    for version in api.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if version.source == source:
            for key, value in tags.items():
                if version.tags.get(key) != value:
                    api.set_model_version_tag(name, version.version, key, value)
            if version.description != card:
                api.update_model_version(name, version.version, card)
            return str(version.version)
    created = api.create_model_version(
        name, source=source, run_id=run_id, model_id=model_id, tags=tags, description=card
    )
    return str(created.version)


def _set_aliases(api: MlflowClient, name: str, aliases: dict[str, tuple[str, str]]) -> None:
    """Give each alias its version (second in the tuple: the model's name, for the log); remove our other aliases."""
    known = {alias: str(version) for alias, version in api.get_registered_model(name).aliases.items()}
    for alias, (version, model) in aliases.items():
        if known.get(alias) != version:
            api.set_registered_model_alias(name, alias, version)
            log.info("%s version %s (%s) is the %s", name, version, model, alias)
    for alias in {CHAMPION, CHALLENGER} & set(known) - set(aliases):
        _remove(api, name, alias)


def _remove(api: MlflowClient, name: str, alias: str) -> None:
    api.delete_registered_model_alias(name, alias)
    log.info("%s has no %s any more", name, alias)


def _tags(record: TrainingRecord) -> dict[str, str]:
    metrics = record.metrics | (record.latent["metrics"] if record.latent else {})
    return {
        **_origin(record),
        "model": record.name,
        "cohort": record.training["cohort"],
        **{key: f"{metrics[key]:.6g}" for key in (*METRICS, *LATENT_METRICS) if key in metrics},
    }


def _origin(record: TrainingRecord) -> dict[str, str]:
    """Describe architecture, data and commit of a model."""
    training = record.training
    return {
        "architecture": training["model"]["architecture"],
        "filters": "-".join(str(n) for n in record.filters),
        "latent_features": str(training["latent_features"]),
        "parameters": str(training["parameters"]),
        "source": training["params"]["data"]["source"],
        "splits.sha256": fingerprint(training["splits"]),
        **{key: value for key, value in record.run["tags"].items() if key.endswith((".md5", ".commit"))},
    }
