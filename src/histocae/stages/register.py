"""Stage register: complete every run, and put the models and the pair into the registry."""

from histocae import paths
from histocae.files import write_json
from histocae.params import Params
from histocae.stages.publish import deliver_all
from histocae.tracking import registry


def run(params: Params) -> None:
    """Choose by validation error; test errors only report."""
    delivered, pair = deliver_all(params, params.models)
    registered = {}
    for cohort in dict.fromkeys(one.record.training["cohort"] for one in delivered):
        entries = [one for one in delivered if one.record.training["cohort"] == cohort]
        if crowned := registry.register_cohort(cohort, entries):
            registered[registry.registered_name(cohort)] = crowned
    if pair is not None:
        registered[registry.PAIR] = registry.register_pair(*pair)
    registry.depose(set(registered), params.tracking.experiment)
    write_json(registered, paths.REGISTERED)
