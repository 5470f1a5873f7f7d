"""Command publish: deliver the runs of all trained models, to whichever server is named now."""

import logging

from histocae.params import Params
from histocae.tracking.delivery import deliver
from histocae.tracking.record import Record

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Fill a tracking server from the outputs; what is there already stays as it is."""
    delivered = deliver_all(params)
    log.info("%d runs are complete in experiment %s", len(delivered), params.tracking.experiment)


def deliver_all(params: Params) -> list[tuple[Record, str, str]]:
    """Deliver every model of params.yaml; give records, run ids and logged models' ids."""
    delivered = []
    for name in params.models:
        record = Record(name)
        run, model_id = deliver(record, params.tracking.experiment)
        delivered.append((record, run.info.run_id, model_id))
    return delivered
