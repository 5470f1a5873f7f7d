"""Stage publish: every run with its results on the tracking server."""

import logging
from pathlib import Path

from histocae import paths
from histocae.files import fingerprint, read_json, write_json
from histocae.mnist import paths as mnist_paths
from histocae.mnist.images import DIGITS
from histocae.mnist.params import Params
from histocae.mnist.record import MnistRecord
from histocae.report import plots
from histocae.tracking.delivery import Results, deliver, deliver_results

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Deliver all models, then what was found with models of one digit, and with pixels alone."""
    experiment, published = params.tracking.experiment, {}
    names = [f"digit-{digit}" for digit in range(DIGITS)]
    colors = plots.model_colors([*params.models, *names])
    records = [MnistRecord(name) for name in params.models] + [
        MnistRecord(name, mnist_paths.CLASSES_LAYOUT) for name in names
    ]
    for record in records:
        run, _ = deliver(record, experiment, colors[record.name])
        published[record.name] = run.info.run_id
    end = max(record.run["end"] for record in records)
    common = {"seed": params.seed, "data": params.data.model_dump(exclude={"path"})}
    for name, (about, metrics, files) in _found(params).items():
        about = common | about
        tags = {"mlflow.source.name": "histocae mnist publish", "model": name}
        state = fingerprint([name, about, metrics])
        results = Results(
            name=name,
            state=state,
            params=about,
            metrics=metrics,
            files=files,
            tags=tags,
            end=end,
            view=MnistRecord.view,
        )
        published[name] = deliver_results(results, experiment)
    write_json(published, mnist_paths.PUBLISHED)
    log.info("%d runs in experiment %s; the page is %s", len(published), experiment, paths.PAGE)


def _found(params: Params) -> dict[str, tuple[dict, dict, tuple[Path, ...]]]:
    """Give what was found without a training of its own: params, metrics and files, by name."""
    classes, pixels = mnist_paths.CLASSES_REPORT, mnist_paths.PIXELS
    # times are in the runs of the trainings
    whole = {
        key: value
        for key, value in read_json(paths.METRICS).items()
        if isinstance(value, int | float) and not key.endswith("seconds")
    }
    files = (mnist_paths.SAMPLES, paths.COMPARISON, paths.METRICS, paths.PAGE, paths.FIGURES)
    ten = params.classes.model_dump(exclude_none=True)
    return {
        "one-per-digit": ({"classes": ten}, read_json(classes / "metrics.json")["metrics"], (classes,)),
        "pixels": ({}, read_json(pixels / "metrics.json")["metrics"], (pixels,)),
        "comparison": ({"compare": params.compare.model_dump()}, whole, files),
    }
