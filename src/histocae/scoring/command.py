"""Score slides, one after the other or on many machines, and write the results of all."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from histocae.errors import DataError, SlideError, shortened
from histocae.files import write_table, write_text
from histocae.params import Bounds, Executor
from histocae.scoring import given as inputs
from histocae.scoring import models, results
from histocae.scoring.given import Given
from histocae.scoring.model import Model, Source
from histocae.scoring.results import Result
from histocae.scoring.slides import BOUNDS, Settings, in_words, score
from histocae.slides.units import MicronsPerPixel
from histocae.workers.processes import count_cores, spread

MODELS = ".models"  # in the folder of results: fetched models
CORES_EACH = 8  # of a worker: TensorFlow and the reader use several
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to score, and how.

    Attributes:
        given: slides, folders, tables, tiles.
        model: see `models.find`.
        out: folder of the results.
        mpp: microns per level-0 pixel of slides that state none; None: those are set aside.
        latents: whether the results have latents.
        forms: of `exporting.FORMS`: further files with all slides' latents.
        bounds: of the reading of a slide.
        executor: what the slides are spread over; None: processes of this machine.

    """

    given: Sequence[Path]
    model: str = models.DEFAULT
    out: Path = Path("scores")
    mpp: float | None = None
    latents: bool = False
    forms: Collection[str] = ()
    bounds: Bounds = BOUNDS
    executor: Executor | None = None


@dataclass(frozen=True)
class _Task:
    """A slide to score, for a worker."""

    given: Given
    source: Source
    settings: Settings
    out: Path


def run(request: Request) -> dict[str, Any]:
    """Score slides, and write `<out>/<slide_id>/`, slides.csv, set_aside.csv and index.html.

    Args:
        request: what to score, and how.

    Returns:
        model (its label), slides (rows of slides.csv; warnings as lists) and set_aside (rows of set_aside.csv).

    Raises:
        HistocaeError: an input or the model is not there, or no slide could be scored.

    """
    slides = inputs.find(request.given, request.out)
    source = models.find(request.model, request.out / MODELS)
    latents = request.latents or bool(request.forms)
    if latents and not source.with_latents:
        raise DataError(f"{source.label} has no latents: no model of it has a latent layer; leave out --latents")
    executor = request.executor or Executor(kind="processes", workers=None, devices=1, scheduler=None, slurm=None)
    if executor.kind == "processes" and executor.workers is None:
        executor = executor.model_copy(update={"workers": max(1, count_cores() // CORES_EACH)})
    workers = max(1, min(executor.workers or 1, len(slides)))
    mpp = None if request.mpp is None else MicronsPerPixel(request.mpp)
    settings = Settings(mpp=mpp, bounds=request.bounds, threads=max(1, count_cores() // workers), latents=latents)
    out = request.out.resolve()
    tasks = [_Task(each, source, settings, out) for each in slides]
    log.info("%d slides to score by %s", len(tasks), source.label)
    done, aside = dict[int, Result](), dict[int, str]()
    for position, outcome in spread(_work, tasks, executor, "scores", "slides"):
        if isinstance(outcome, Result):
            done[position] = outcome
            log.info("%s: %s", slides[position].slide_id, _in_short(outcome.summary))
            continue
        aside[position] = str(outcome)
        log.warning("%s is set aside: %s", slides[position].slide_id, outcome)
    reasons = [f"{slides[i].slide_id}: {reason}" for i, reason in sorted(aside.items())]
    rows = [(slides[i].slide_id, _named_files(slides[i]), reason) for i, reason in sorted(aside.items())]
    set_aside = pd.DataFrame(rows, columns=["slide_id", "file", "reason"])
    found = [done[i] for i in sorted(done)] + _earlier({each.slide_id for each in slides}, source, out)
    _write(found, set_aside, source, out)
    if request.forms:
        from histocae.scoring import exporting

        exporting.write(found, request.forms, source, out)
    if not done:
        raise DataError(f"no slide could be scored: {shortened(reasons)}")
    log.info("%d slides scored, %d set aside: %s", len(done), len(aside), request.out / "index.html")
    return {
        "model": source.label,
        "slides": [result.summary for _, result in sorted(done.items())],
        "set_aside": set_aside.to_dict("records"),
    }


def _in_short(summary: dict[str, Any]) -> str:
    """Word the row of a slide for the log."""
    if "score" in summary:
        verdict = f"score {summary['score']:.3f}, called {summary['class']}"
    else:
        verdict = f"mean error {summary['error']:.5f}"
    warned = "; with warnings" if summary["warnings"] else ""
    return f"{verdict}, {summary['patches']} patches{warned}"


def _named_files(each: Given) -> str:
    more = f" and {len(each.files) - 1} more" if len(each.files) > 1 else ""
    return f"{each.paths[0]}{more}"


def _earlier(slides: Collection[str], source: Source, out: Path) -> list[Result]:
    """Read the results of slides that earlier calls scored by the same model."""
    found = []
    for folder in sorted(path.parent for path in out.glob(f"*/{inputs.RECORD}")):
        result = results.read(folder) if results.state_of(folder) == source.state else None
        if result is not None and result.summary["slide_id"] not in slides:
            found.append(result)
    if found:
        log.info("%s also has %d slides that an earlier call scored by this model", out, len(found))
    return found


def _write(found: Sequence[Result], set_aside: pd.DataFrame, source: Source, out: Path) -> None:
    from histocae.scoring.page import page

    write_table(set_aside, out / "set_aside.csv", separator=",")
    write_table(results.table_of(found), out / "slides.csv", separator=",")
    write_text(page(found, set_aside, source), out / "index.html")


def _work(task: _Task) -> Result | str:
    """Score a slide, on a worker; return its results, or the reason why there are none."""
    try:
        identity = results.identify(task.given, task.out)
        found = results.finished(task.given, task.source, task.settings, identity, task.out)
        if found is not None:
            return found
        model = loaded(task.source, task.settings.latents)
        scored = score(task.given, model, task.settings)
        return results.write(scored, model, task.settings, identity, task.out)
    except SlideError as error:
        return in_words(error, task.source.contract)


_MODELS: dict[tuple[str, Path, bool], Model] = {}  # at most one


def loaded(source: Source, latents: bool) -> Model:
    """Load a model once per process.

    Args:
        source: of the model.
        latents: whether latents are computed, too.

    Returns:
        The model.

    """
    name = source.state, source.folder, latents
    if name not in _MODELS:
        _MODELS.clear()
        _MODELS[name] = Model(source, latents)
    return _MODELS[name]
