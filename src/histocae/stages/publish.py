"""Command publish: deliver the runs of all trained models, to whichever server is named now."""

import logging
from collections.abc import Iterable

from histocae import paths
from histocae.params import Params
from histocae.tracking.delivery import deliver
from histocae.tracking.record import Record

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Fill a tracking server from the outputs; what is there already stays as it is."""
    trained = [name for name in params.models if (paths.TRAINED / name).is_dir()]
    for name in params.models:
        if name not in trained:
            log.info("%s is not trained here; nothing to deliver of it", name)
    delivered = deliver_all(params, trained)
    log.info("%d runs are complete in experiment %s", len(delivered), params.tracking.experiment)


def deliver_all(params: Params, names: Iterable[str]) -> list[tuple[Record, str, str]]:
    """Deliver models; give their records, run ids and logged models' ids."""
    delivered = []
    for name in names:
        record = Record(name)
        run, model_id = deliver(record, params.tracking.experiment)
        delivered.append((record, run.info.run_id, model_id))
    return delivered
