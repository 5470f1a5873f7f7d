"""The registry: versions of the models of each cohort and of the pair, the best ones with an alias."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from histocae.errors import TrackingError
from histocae.files import fingerprint
from histocae.identifiers import COHORTS
from histocae.tracking import cards
from histocae.tracking.delivery import Delivered
from histocae.tracking.record import PairRecord, TrainingRecord
from histocae.tracking.server import FAILURES, MlflowClient, MlflowException, call_limits, client, failure_message

log = logging.getLogger(__name__)
CHAMPION, CHALLENGER = "champion", "challenger"
PAIR = "histocae-pair"
# what a version shows beside its data and architecture; its run and its card have the rest
METRICS = ("validation_mse", "test_mse", "test_psnr", "test_ssim")
LATENT_METRICS = ("latent_auroc_patch", "latent_auroc_slide", "latent_auroc_case", "latent_ari", "latent_nmi")
PAIR_METRICS = ("auroc_patch", "auroc_slide", "auroc_case", "threshold_patch")


def depose(crowned: set[str], experiment: str) -> None:
    """Take the aliases from our registered models that have no candidate any more.

    Versions of other experiments keep theirs: a server may be shared.

    Args:
        crowned: registered models that have a champion of today.
        experiment: in which the pipeline's runs are.

    Raises:
        TrackingError: the server is away or refuses.

    """
    with _registry() as api:
        ours = api.get_experiment_by_name(experiment)
        for name in {*map(registered_name, COHORTS), PAIR} - crowned:
            try:
                aliases = api.get_registered_model(name).aliases
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                continue
            for alias in {CHAMPION, CHALLENGER} & set(aliases):
                if _place_of(api, api.get_model_version(name, aliases[alias]).run_id) == ours.experiment_id:
                    _take(api, name, alias)


def _place_of(api: MlflowClient, run_id: str | None) -> str | None:
    """Give the experiment of a version's run; None for a version without a run, or whose run is gone."""
    if not run_id:
        return None
    try:
        return api.get_run(run_id).info.experiment_id
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def registered_name(cohort: str) -> str:
    """Name a cohort's registered model."""
    return f"histocae-{cohort}"


def register_cohort(cohort: str, entries: Sequence[Delivered]) -> dict[str, Any]:
    """Make versions of a cohort's models; the best on validation is champion, the second challenger.

    Linear yardsticks are no candidates. Doing it twice changes nothing.

    Args:
        cohort: all | tumor | normal.
        entries: its models, in the order of params.yaml.

    Returns:
        Alias -> model, version, run, logged model and validation error; empty where the
        cohort has yardsticks only.

    Raises:
        TrackingError: the server is away or refuses, or a model is not evaluated.

    """
    name = registered_name(cohort)
    ranked = sorted(
        (one for one in entries if not one.record.is_linear), key=lambda one: one.record.metrics["validation_mse"]
    )
    if not ranked:
        log.info("%s: nothing but yardsticks; nothing to register", name)
        return {}
    yardsticks = [one.record for one in entries if one.record.is_linear]
    crowned = dict(zip((CHAMPION, CHALLENGER), ranked, strict=False))
    with _registry() as api:
        _model(api, name, cards.of_cohort(cohort))
        versions = {
            one.record.name: _version(
                api,
                name,
                one.run_id,
                one.model_id,
                _tags(one.record),
                cards.of_model(one.record, name, [other.record for other in ranked], yardsticks),
            )
            for one in entries
            if not one.record.is_linear
        }
        named = {alias: one.record.name for alias, one in crowned.items()}
        _set_aliases(api, name, {alias: (versions[model], model) for alias, model in named.items()})
    return {
        alias: {
            "model": one.record.name,
            "version": int(versions[one.record.name]),
            "run_id": one.run_id,
            "model_id": one.model_id,
            "validation_mse": one.record.metrics["validation_mse"],
        }
        for alias, one in crowned.items()
    }


def register_pair(pair: PairRecord, run_id: str, model_id: str) -> dict[str, Any]:
    """Make the pair a version of histocae-pair, and its champion; doing it twice changes nothing.

    Returns:
        Alias -> models, version, run and logged model.

    Raises:
        TrackingError: the server is away or refuses.

    """
    names = {"tumor": pair.tumor.name, "normal": pair.normal.name}
    numbers = {key: f"{pair.metrics[key]:.6g}" for key in PAIR_METRICS}
    tags = {**_made_of(pair.tumor), "cohort": "pair", **names, **numbers}
    with _registry() as api:
        _model(api, PAIR, cards.PAIR)
        version = _version(api, PAIR, run_id, model_id, tags, cards.of_pair(pair, PAIR))
        _set_aliases(api, PAIR, {CHAMPION: (version, " and ".join(names.values()))})
    return {CHAMPION: {**names, "version": int(version), "run_id": run_id, "model_id": model_id}}


@contextmanager
def _registry() -> Iterator[MlflowClient]:
    try:
        with call_limits(retries=3, timeout=60):
            yield client()
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None


def _model(api: MlflowClient, name: str, about: str) -> None:
    try:
        api.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if api.get_registered_model(name).description != about:
            api.update_registered_model(name, about)


def _version(api: MlflowClient, name: str, run_id: str, model_id: str, tags: dict[str, str], card: str) -> str:
    """Find or make the version of a logged model; its tags and card are brought up to date."""
    source = f"models:/{model_id}"
    for one in api.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if one.source == source:
            for key, value in tags.items():
                if one.tags.get(key) != value:
                    api.set_model_version_tag(name, one.version, key, value)
            if one.description != card:
                api.update_model_version(name, one.version, card)
            return str(one.version)
    made = api.create_model_version(
        name, source=source, run_id=run_id, model_id=model_id, tags=tags, description=card
    )
    return str(made.version)


def _set_aliases(api: MlflowClient, name: str, wanted: dict[str, tuple[str, str]]) -> None:
    """Set aliases to (version, what it is); take those of ours away that nothing deserves any more."""
    known = {alias: str(version) for alias, version in api.get_registered_model(name).aliases.items()}
    for alias, (version, what) in wanted.items():
        if known.get(alias) != version:
            api.set_registered_model_alias(name, alias, version)
            log.info("%s version %s (%s) is the %s", name, version, what, alias)
    for alias in {CHAMPION, CHALLENGER} & set(known) - set(wanted):
        _take(api, name, alias)


def _take(api: MlflowClient, name: str, alias: str) -> None:
    api.delete_registered_model_alias(name, alias)
    log.info("%s has no %s any more", name, alias)


def _tags(record: TrainingRecord) -> dict[str, str]:
    found = record.metrics | (record.latent["metrics"] if record.latent else {})
    return {
        **_made_of(record),
        "model": record.name,
        "cohort": record.training["cohort"],
        **{key: f"{found[key]:.6g}" for key in (*METRICS, *LATENT_METRICS) if key in found},
    }


def _made_of(record: TrainingRecord) -> dict[str, str]:
    """Tell architecture, data and commit."""
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
