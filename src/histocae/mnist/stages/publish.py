"""Stage publish: every run with its results on the tracking server."""

import logging

from histocae import paths, plots
from histocae.files import fingerprint, read_json, write_json
from histocae.mnist import paths as places
from histocae.mnist.images import DIGITS
from histocae.mnist.params import Params
from histocae.mnist.record import DigitsRecord
from histocae.tracking.delivery import Results, deliver, deliver_results

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Deliver all models, then what was found with models of one digit, and with pixels alone."""
    experiment, published = params.tracking.experiment, {}
    names = [f"digit-{digit}" for digit in range(DIGITS)]
    colors = plots.model_colors([*params.models, *names])
    records = [DigitsRecord(name) for name in params.models] + [DigitsRecord(name, places.PLACE) for name in names]
    for record in records:
        run, _ = deliver(record, experiment, colors[record.name])
        published[record.name] = run.info.run_id
    end = max(record.run["end"] for record in records)
    data = {"seed": params.seed, "data": params.data.model_dump(exclude={"path"})}
    ten = params.classes.model.model_dump(exclude_none=True) | {"name": "one per digit"}
    found = {
        "one-per-digit": (places.CLASSES_REPORT, data | {"model": ten}),
        "pixels": (places.PIXELS, data | {"model": {"name": "logistic regression on pixels"}}),
    }
    for name, (folder, about) in found.items():
        metrics = read_json(folder / "metrics.json")["metrics"]
        state = fingerprint([name, about, metrics])
        tags = {"mlflow.source.name": "histocae mnist publish", "model": name}
        results = Results(name, state, about, metrics, folder, tags, end)
        published[name] = deliver_results(results, experiment)
    write_json(published, places.PUBLISHED)
    log.info("%d runs in experiment %s; the page is %s", len(published), experiment, paths.PAGE)
