"""Stage register: complete every run, and put the models and the pair into the registry."""

from histocae import paths
from histocae.files import write_json
from histocae.params import Params
from histocae.stages.publish import deliver_all
from histocae.tracking import registry


def run(params: Params) -> None:
    """Register all models; their order is by validation error, and test errors have no influence."""
    delivered, pair = deliver_all(params, params.models)
    registered = {}
    for cohort in dict.fromkeys(entry.record.training["cohort"] for entry in delivered):
        entries = [entry for entry in delivered if entry.record.training["cohort"] == cohort]
        if aliases := registry.register_cohort(cohort, entries):
            registered[registry.registered_name(cohort)] = aliases
    if pair is not None:
        registered[registry.PAIR] = registry.register_pair(*pair)
    registry.remove_aliases(set(registered), params.tracking.experiment)
    write_json(registered, paths.REGISTERED)
