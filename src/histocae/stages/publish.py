"""Command publish: deliver the runs of all trained models, and the registry, to the tracking server."""

import logging
from collections.abc import Iterable

from histocae import paths
from histocae.params import Params
from histocae.report.plots import model_colors
from histocae.tracking import registry
from histocae.tracking.delivery import Delivered, deliver, deliver_pair
from histocae.tracking.record import PairRecord, TrainingRecord, read_pair

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Complete the runs on the server from the outputs, and the registry where the stage register has run."""
    trained = [name for name in params.models if (paths.TRAINED / name).is_dir()]
    for name in params.models:
        if name not in trained:
            log.info("%s is not trained here; nothing to deliver of it", name)
    delivered, pair = deliver_all(params, trained)
    count = len(delivered) + (pair is not None)
    log.info("%d runs are complete in experiment %s", count, params.tracking.experiment)
    ready = [entry for entry in delivered if entry.record.evaluation is not None and not entry.lacks_contract]
    if paths.REGISTERED.is_file() and len(ready) == len(params.models):
        registry.register_all(delivered, pair, params.tracking.experiment)
    else:
        log.info("the registry stays as it is; the stage register fills it")


def deliver_all(params: Params, names: Iterable[str]) -> tuple[list[Delivered], tuple[PairRecord, str, str] | None]:
    """Deliver models, and the pair if there is one.

    Args:
        params: of the pipeline.
        names: of the models, all trained.

    Returns:
        Each model with its run; the pair with the ids of its run and of its logged model, or None.

    Raises:
        TrackingError: the server is unreachable or refuses, or outputs do not belong together.

    """
    delivered, colors = [], model_colors(list(params.models))
    for name in names:
        record = TrainingRecord(name)
        run, model_id = deliver(record, params.tracking.experiment, colors[name])
        delivered.append(Delivered(record, run.info.run_id, model_id))
    for number in range(1, (params.crossvalidation.folds or 0) + 1):
        for name in params.pair or ():
            if (paths.fold(number).runs / f"{name}.json").is_file():
                deliver(TrainingRecord(name, paths.fold(number)), params.tracking.experiment)
    own_runs = {entry.record.name: entry.run_id for entry in delivered}
    pair = read_pair(own_runs)
    if pair is None:
        return delivered, None
    run, model_id = deliver_pair(pair, params.tracking.experiment, own_runs)
    return delivered, (pair, run.info.run_id, model_id)
