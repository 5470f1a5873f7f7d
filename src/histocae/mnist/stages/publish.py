"""Stage publish: all runs and their results on the tracking server."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histocae import paths
from histocae.files import fingerprint, write_json
from histocae.mnist import paths as mnist_paths
from histocae.mnist.images import DIGITS
from histocae.mnist.params import Params
from histocae.mnist.record import MnistRecord, read_metrics
from histocae.report import plots
from histocae.tracking import documents
from histocae.tracking.delivery import Results, deliver, deliver_results

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """The content of a run that belongs to no single training.

    Attributes:
        params: nested dicts.
        metrics: by name.
        files: tables and figures, or folders of them.

    """

    params: dict[str, Any]
    metrics: dict[str, float]
    files: tuple[Path, ...]


def run(params: Params) -> None:
    """Deliver the run of each model, then those of the ten models together, of pixels and of the comparison."""
    experiment, published, contents = params.tracking.experiment, {}, _contents(params)
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
    for name, content in contents.items():
        run_params = common | content.params
        results = Results(
            name=name,
            state=fingerprint([name, run_params, content.metrics]),
            params=run_params,
            metrics=content.metrics,
            files=content.files,
            tags={"mlflow.source.name": MnistRecord.publishes, "model": name},
            end=end,
            view=MnistRecord.view,
        )
        published[name] = deliver_results(results, experiment)
    write_json(published, mnist_paths.PUBLISHED)
    log.info("%d runs in experiment %s; the page is %s", len(published), experiment, paths.PAGE)


def _contents(params: Params) -> dict[str, Content]:
    """Read the content of the runs that belong to no single training, by the name of the run."""
    classes, pixels = mnist_paths.CLASSES_REPORT, mnist_paths.PIXELS
    # without durations: they are in the runs of the trainings
    numbers = {
        key: value
        for key, value in documents.read(paths.METRICS, documents.Document, "run dvc repro compare").items()
        if isinstance(value, int | float) and not key.endswith("seconds")
    }
    files = (mnist_paths.SAMPLES, paths.COMPARISON, paths.METRICS, paths.PAGE, paths.FIGURES)
    of_classes = {"classes": params.classes.model_dump(exclude_none=True)}
    return {
        "one-per-digit": Content(of_classes, read_metrics(classes, "classes"), (classes,)),
        "pixels": Content({}, read_metrics(pixels, "pixels"), (pixels,)),
        "comparison": Content({"compare": params.compare.model_dump()}, numbers, files),
    }
