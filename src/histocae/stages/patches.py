"""Stage patches: a shard per slide, the index, and what was left out for which reason.

Finished shards are kept between runs (`persist` in dvc.yaml), and made again only where
the slide, the parameters or the code that reads it changed.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from histocae import paths
from histocae.cohort.setaside import check_share, set_aside
from histocae.errors import DataError, FetchError, shortened
from histocae.files import code_fingerprint, fingerprint, read_cells, read_table, write_json, write_table
from histocae.params import Params
from histocae.patches import previews, store
from histocae.patches.shards import Record, Task, finished, make_shard
from histocae.sources import slide_source
from histocae.sources.gdc.remote import InARow
from histocae.sources.hashes import Hashes
from histocae.sources.tables import METADATA_TEXTS
from histocae.workers.processes import WorkerDiedError, spread, threads_each

CODE = (
    "patches/color",
    "patches/grid",
    "patches/previews",
    "patches/sampling",
    "patches/shards",
    "patches/store",
    "patches/tiles",
    "patches/tissue",
    "slides/slide",
    "slides/thumbnails",
    "slides/tiled",
)
REASONS = ("kept", "background", "border", "capped", "unread", "dropped")
log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Make the store and reports/patching, and gather what all stages set aside."""
    metadata = read_table(paths.METADATA, METADATA_TEXTS).set_index("slide_id", drop=False)
    files = read_table(paths.SLIDES, ("slide_id", "file", "sha256", "md5", "mpp_from", "vendor"))
    source = slide_source.from_params(params.data, params.seed, paths.SLIDE_FILES)
    tasks = _tasks(params, files, metadata, source)
    records = _cut(params, source, tasks)
    before = [read_table(path, ("slide_id",)) for path in (paths.METADATA_SET_ASIDE, paths.SLIDES_SET_ASIDE)]
    aside = set_aside("patches", [(r.slide_id, r.reason, r.kept) for r in records.values() if r.reason])
    reasons = [f"{r.slide_id}: {r.reason}" for r in records.values() if r.failed]
    check_share(len(reasons) + len(before[1]), len(metadata), params.data.max_failed_share, reasons)
    if not any(record.kept for record in records.values()):
        raise DataError("no slide has a patch with enough tissue; lower patches.tissue_share?")
    # the former index and its shards are whole up to here, whatever happened above
    count = store.write_rows(
        paths.PATCHES, _rows(records, metadata), params.patches.pixels, None if source.tiles else params.patches.mpp
    )
    names = {record.shard for record in records.values()}
    _remove_others(paths.PATCHES / store.SHARDS, names)
    _remove_others(paths.PATCHING_REPORT / "slides", names)
    _remove_others(paths.PREVIEWS, names)
    _report(records, metadata)
    write_table(pd.concat([*before, aside]), paths.SET_ASIDE, separator=",")
    log.info("%d patches of %d slides", count, sum(record.kept > 0 for record in records.values()))


def _cut(params: Params, source: slide_source.Source, tasks: list[Task]) -> dict[str, Record]:
    """Make the shards that are not there yet, and give the records of all in the order of the tasks.

    Raises:
        DataError: slides could not be fetched; the shards of the others stay.

    """
    records: dict[str, Record] = {}
    for task in tasks:
        if (record := finished(task)) is not None:
            records[task.slide_id] = record
            source.delete_fetched(task.files[0])
    todo = [task for task in tasks if task.slide_id not in records]
    log.info("%d slides to cut, %d done before", len(todo), len(records))
    if source.server is not None:
        from histocae.sources.gdc import download  # HTTP, which other sources have no need of

        download.check_token(source.server, [task.source.remote for task in todo])
    missing, row = [], InARow(params.data.gdc.streams)
    fetching = None if source.keep else params.data.gdc.streams
    threads = threads_each(len(todo), params.executor, fetching)
    todo = [replace(task, threads=threads) for task in todo]
    results = spread(_make, todo, params.executor, "patches", "slides", fetching=fetching)
    for at, (position, result) in enumerate(results, 1):
        task = todo[position]
        if isinstance(result, FetchError):
            log.warning("%d of %d is missing: %s", at, len(todo), result)
            missing.append(str(result))
        else:
            if isinstance(result, WorkerDiedError):
                result = Record(task.slide_id, task.name, str(result), True, 0, {})
            records[task.slide_id] = result
            source.delete_fetched(task.files[0])
        if row.too_many(result):
            log.warning("so many in a row can't be had: the others are left to the next run")
            results.close()
            break
    if missing:
        raise DataError(
            f"{len(tasks) - len(records)} of {len(tasks)} slides are missing; run this again to go on, or name in "
            f"data.gdc.without those that can't be had: {shortened(missing)}"
        )
    return {task.slide_id: records[task.slide_id] for task in tasks}


def _make(task: Task) -> Record | FetchError:
    """Make a shard; a slide that can't be fetched is no fault of the slide, and keeps no other from being cut."""
    try:
        return make_shard(task)
    except FetchError as error:
        return error


def _tasks(params: Params, files: pd.DataFrame, metadata: pd.DataFrame, source: slide_source.Source) -> list[Task]:
    """One task a slide; bytes that were let go are fetched again where the shard has to be made."""
    code = code_fingerprint(*CODE)
    own = {} if source.tiles else metadata["mpp"]
    default = None if source.tiles else params.data.mpp
    tasks, hashes = [], Hashes(paths.FETCHED, "md5")
    for slide_id, rows in files.groupby("slide_id", sort=False):
        tasks.append(
            Task(
                slide_id,
                tuple(rows["file"]),
                source.for_slide(metadata.loc[slide_id], hashes),
                own.get(slide_id),
                default,
                params.patches,
                params.seed,
                paths.PATCHES / store.SHARDS,
                paths.PATCHING_REPORT / "slides",
                paths.PREVIEWS,
                fingerprint([code, list(rows["sha256"].fillna(rows["md5"]))]),
            )
        )
    return tasks


def _rows(records: dict[str, Record], metadata: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Give the rows of the index one by one, as text: together they may be more than fits into memory."""
    for record in records.values():
        if record.kept:
            about = metadata.loc[record.slide_id]
            common = (record.slide_id, about["case_id"], about["sample_type"], record.shard)
            for place in read_cells(paths.PATCHES / store.SHARDS / f"{record.shard}.csv", store.PLACE_COLUMNS):
                yield common + place


def _remove_others(folder: Path, names: set[str]) -> None:
    """Delete what belongs to slides that have changed or left, and what a killed run left."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if previews.shard_of(file) not in names:
            file.unlink()


def _report(records: dict[str, Record], metadata: pd.DataFrame) -> None:
    rows = [
        {
            "slide_id": r.slide_id,
            "sample_type": metadata.loc[r.slide_id, "sample_type"],
            "width": r.width,
            "height": r.height,
            "level": r.level,
            "mpp": r.mpp,
            "mpp_from": r.mpp_from,
            "patch_mpp": r.patch_mpp,
            **{name: r.counts.get(name, 0) for name in REASONS},
        }
        for r in records.values()
    ]
    table = pd.DataFrame(rows).astype(dict.fromkeys(("width", "height", "level"), "Int64"))
    write_table(table, paths.PATCHING_REPORT / "counts.csv", separator=",")
    failures = [(r.slide_id, reason) for r in records.values() for reason in r.failures]
    failures = pd.DataFrame(failures, columns=["slide_id", "reason"])
    write_table(failures, paths.PATCHING_REPORT / "failures.csv", separator=",")
    totals: Counter[str] = Counter()
    for record in records.values():
        totals.update(record.counts)
    totals = {name: totals.get(name, 0) for name in REASONS}
    write_json(
        {"slides": len(records), "cells": sum(totals.values()), **totals},
        paths.PATCHING_REPORT / "summary.json",
    )
