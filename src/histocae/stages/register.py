"""Stage register: complete every run, and put the best model of each cohort into the registry."""

import logging

from histocae import paths
from histocae.files import write_json
from histocae.params import Params
from histocae.stages.publish import deliver_all
from histocae.tracking import registry

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Choose by validation error; test errors only report."""
    delivered = deliver_all(params, params.models)
    champions = {}
    for cohort in dict.fromkeys(record.training["cohort"] for record, _, _ in delivered):
        best = min(
            (one for one in delivered if one[0].training["cohort"] == cohort),
            key=lambda one: one[0].metrics["validation_mse"],
        )
        champions[registry.registered_name(cohort)] = registry.crown(*best)
    write_json(champions, paths.REGISTERED)
