"""Score slides, on this machine or on many, and write the results of all."""

import logging
import platform
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from histocae.errors import DataError, SlideError, counted, shortened
from histocae.files import write_table, write_text
from histocae.params import Bounds, Executor
from histocae.scoring import inputs, models, outputs, results, summary
from histocae.scoring.given import PAGE, RECORD, SET_ASIDE, SLIDES, Given
from histocae.scoring.model import Model, Source
from histocae.scoring.results import Result
from histocae.scoring.scored import BOUNDS, Settings
from histocae.scoring.slides import score
from histocae.scoring.wording import in_words
from histocae.slides.units import MicronsPerPixel
from histocae.sources.texts import harmless
from histocae.workers.processes import count_cores, spread, threads_each

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
        forms: of `exports.forms.FORMS`, or `exports.forms.ALL`: further files with the latents of all slides.
        bounds: limits on the reading of a slide.
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


@dataclass(frozen=True)
class _Unseen:
    """A path that is not there for a worker, and the worker's machine."""

    path: Path
    machine: str


def run(request: Request) -> dict[str, Any]:
    """Score slides, and write `<out>/<slide_id>/`, slides.csv, set_aside.csv and index.html.

    Args:
        request: what to score, and how.

    Returns:
        model (its label), slides (rows of slides.csv; warnings as lists) and set_aside (rows of set_aside.csv).

    Raises:
        HistocaeError: an input or the model is missing or unusable, or no slide could be scored.

    """
    outputs.check(request.out, request.forms)
    named = [_placed(each, request.out) for each in inputs.find(request.given, request.out)]
    slides = [each for each in named if each.trouble is None]
    source = models.find(request.model, request.out / outputs.MODELS)
    latents = request.latents or bool(request.forms)
    if latents and not source.with_latents:
        raise DataError(
            f"{source.label} has no latents, since none of its networks has a latent layer; leave out --latents "
            "and --export"
        )
    executor = _executor(request.executor)
    if request.mpp is not None and any(each.tiles for each in slides):
        log.warning("--mpp is not used for tiles: they are taken at their own resolution")
    mpp = None if request.mpp is None else MicronsPerPixel(request.mpp)
    threads = threads_each(len(slides), executor)
    settings = Settings(mpp=mpp, bounds=request.bounds, threads=threads, latents=latents)
    out = request.out.resolve()
    out.mkdir(parents=True, exist_ok=True)  # a worker that does not see it has other folders than this machine
    tasks = [_Task(each, source, settings, out) for each in slides]
    log.info("slides to score: %d, with the model %s", len(tasks), source.label)
    done, aside = dict[int, Result](), dict[int, str]()
    troubles = [(each, each.trouble) for each in named if each.trouble is not None]
    for position, outcome in _outcomes(tasks, executor):
        if isinstance(outcome, Result):
            done[position] = outcome
            log.info("%s: %s", slides[position].slide_id, _in_short(outcome))
            continue
        aside[position] = outcome
        log.warning("%s is set aside: %s", slides[position].slide_id, outcome)
    for each, trouble in troubles:
        log.warning("%s is set aside: %s", each.slide_id, trouble)
    failed = [(slides[i], reason) for i, reason in sorted(aside.items())] + troubles
    set_aside = _table_of(failed)
    with outputs.alone(out):
        found = [done[i] for i in sorted(done)] + _earlier(named, source, out)
        _write(found, set_aside, source, out)
    if not done:
        raise DataError(f"no slide could be scored: {shortened([f'{each.slide_id}: {why}' for each, why in failed])}")
    if request.forms:
        from histocae.scoring import exporting

        exporting.write(found, request.forms, source, out)
    earlier = sum(result.earlier for result in done.values())
    log.info(
        "%s scored%s, %d set aside: %s",
        counted(len(done)),
        f" ({earlier} of them by an earlier call)" if earlier else "",
        len(failed),
        request.out / PAGE,
    )
    return {
        "model": source.label,
        "slides": [result.summary for _, result in sorted(done.items())],
        "set_aside": set_aside.to_dict("records"),
    }


def _executor(executor: Executor | None) -> Executor:
    """Give the executor of a request, with a number of workers of this machine."""
    executor = executor or Executor(kind="processes", workers=None, devices=1, scheduler=None, slurm=None)
    if executor.workers is None and executor.scheduler is None and executor.slurm is None:
        executor = executor.model_copy(update={"workers": max(1, count_cores() // CORES_EACH)})
    return executor


def _outcomes(tasks: Sequence[_Task], executor: Executor) -> Iterator[tuple[int, Result | str]]:
    """Yield the position of each slide with its results, or the reason why there are none.

    Raises:
        DataError: a worker does not see a path, or the cluster is unreachable; the message names the option.

    """
    try:
        with closing(spread(_work, tasks, executor, "scores", "slides")) as outcomes:  # an error ends Slurm's jobs
            for position, outcome in outcomes:
                if not isinstance(outcome, _Unseen):
                    yield position, outcome if isinstance(outcome, Result) else str(outcome)
                    continue
                if outcome.path.exists():
                    raise DataError(
                        f"{outcome.path}: the worker on {outcome.machine} does not see it; all workers need the "
                        "slides, the model and the folder of the results under the same paths as here"
                    )
                yield position, f"can't be read: {outcome.path} is no longer there"
    except DataError as error:
        raise DataError(re.sub(r"^executor\.", "--", str(error))) from None


def _table_of(failed: Sequence[tuple[Given, str]]) -> pd.DataFrame:
    """Make the table of slides that are set aside."""
    rows = [tuple(map(_cell, (each.slide_id, _named_files(each), reason))) for each, reason in failed]
    return pd.DataFrame(rows, columns=list(outputs.SET_ASIDE_COLUMNS))


def _cell(text: str) -> str:
    """Write a text so that any program can show it in a cell: a file may have any name."""
    return harmless(text.encode("utf-8", "backslashreplace").decode())


def _in_short(result: Result) -> str:
    """Word the row of a slide for the log."""
    summary = result.summary
    if "score" in summary:
        verdict = f"score {summary['score']:z.3f}, called {summary['class']}"
    else:
        verdict = f"mean error {summary['error']:.5f}"
    warned = "; with warnings" if summary["warnings"] else ""
    return f"{verdict}, {summary['patches']} patches{warned}{'; by an earlier call' if result.earlier else ''}"


def _named_files(each: Given) -> str:
    more = f" and {len(each.files) - 1} more" if len(each.files) > 1 else ""
    return f"{each.paths[0]}{more}"


def _placed(each: Given, out: Path) -> Given:
    """Note why the results of a slide can't be written."""
    return each if each.trouble is not None else replace(each, trouble=outputs.trouble(out, each.slide_id))


def _earlier(named: Sequence[Given], source: Source, out: Path) -> list[Result]:
    """Read the results of slides that earlier calls scored with the same model."""
    own = {results.folder_of(out, each.slide_id) for each in named}
    given = {str(path.resolve()) for each in named for path in each.paths}
    kept = []
    # names with a dot are what a killed process was writing
    for folder in sorted(path.parent for path in out.glob(f"[!.]*/{RECORD}")):
        result = None if folder in own else results.earlier(folder, source, given)
        if isinstance(result, Result):
            kept.append(result)
        elif result is not None:
            log.warning("%s: is left out of slides.csv: %s", folder, result)
    if kept:
        log.info(
            "slides that earlier calls scored with this model: %d; slides.csv and index.html have these, too",
            len(kept),
        )
    return kept


def _write(found: Sequence[Result], set_aside: pd.DataFrame, source: Source, out: Path) -> None:
    from histocae.scoring.page import page

    write_table(set_aside, out / SET_ASIDE, separator=",")
    for result in found:
        if not result.folder.is_dir():
            raise DataError(
                f"{result.folder}: a worker wrote it, and it is not here; choose a shared folder by --out"
            )
    table = summary.table_of((result.summary for result in found), source.contract.kind)
    write_table(table, out / SLIDES, separator=",")
    write_text(page(found, set_aside, source), out / PAGE)


def _work(task: _Task) -> Result | str | _Unseen:
    """Score a slide, on a worker; return its results, or the reason why there are none."""
    for path in (task.out, task.source.folder, *task.given.paths):
        if not path.exists():
            return _Unseen(path.absolute(), platform.node())
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
        latents: whether to compute latents, too.

    Returns:
        The model.

    """
    name = source.state, source.folder, latents
    if name not in _MODELS:
        _MODELS.clear()
        _MODELS[name] = Model(source, latents)
    return _MODELS[name]
