"""Stage register: complete every run, and put the models and the pair into the registry."""

from histocae import paths
from histocae.files import write_json
from histocae.params import Params
from histocae.stages.publish import deliver_all
from histocae.tracking import registry


def run(params: Params) -> None:
    """Register all models; their order is by validation error, and test errors have no influence."""
    delivered, pair = deliver_all(params, params.models)
    write_json(registry.register_all(delivered, pair, params.tracking.experiment), paths.REGISTERED)
