"""Stage patches: a shard per slide, the index, and the cells and slides that were left out, with reasons.

Finished shards are kept between runs (`persist` in dvc.yaml). A shard is made again only where
its slide, the parameters or the code that reads slides changed.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from histocae import paths
from histocae.cohort.setaside import COLUMNS, check_share, set_aside
from histocae.errors import DataError, FetchError, shortened
from histocae.files import code_fingerprint, fingerprint, read_table, replacing_folder, write_table
from histocae.params import Params
from histocae.patches import counted, fault_images, integrity, labeling, previews, store
from histocae.patches.choice import Choice, as_indexed, choose, index_rows
from histocae.patches.labeling import Labeling
from histocae.patches.shard_record import (
    NO_TISSUE,
    ShardRecord,
    ShardTask,
    finished,
    hashes_of_files,
    states_of_files,
)
from histocae.patches.shards import make_shard
from histocae.progress import bar
from histocae.regions import stored
from histocae.slides.units import MicronsPerPixel
from histocae.sources import slide_source
from histocae.sources.gdc.remote import FailureCount
from histocae.sources.hashes import Hashes
from histocae.sources.integrity import shared_tiles
from histocae.workers.processes import WorkerDiedError, spread, threads_each

CODE = (
    "patches/color",
    "patches/extraction",
    "patches/grid",
    "patches/previews",
    "patches/quality",
    "patches/sampling",
    "patches/shard_file",
    "patches/shard_record",
    "patches/shards",
    "patches/stored",
    "patches/tiles",
    "patches/tissue",
    "scanners",
    "slides/area_means",
    "slides/budget",
    "slides/reading",
    "slides/slide",
    "slides/thumbnails",
    "slides/tiled",
    "slides/units",
)
SLIDES_TEXTS = ("slide_id", "file", "sha256", "md5", "mpp_from", "vendor")
SHARDS = paths.PATCHES / store.SHARDS
SHARED_TILES = "shared_tiles.csv"
log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write the store and reports/patching, and gather the slides that all stages set aside.

    Raises:
        DataError: too many slides failed or could not be fetched, or no slide has tissue.

    """
    source = slide_source.from_params(params.data, params.seed, paths.SLIDE_FILES)
    metadata = slide_source.read_metadata(paths.METADATA, source).set_index("slide_id", drop=False)
    files = read_table(paths.SLIDES, SLIDES_TEXTS, needed=SLIDES_TEXTS)
    tasks = _tasks(params, files, metadata, source)
    records = _extract(params, source, tasks)
    before = [
        read_table(path, ("slide_id",), needed=COLUMNS) for path in (paths.METADATA_SET_ASIDE, paths.SLIDES_SET_ASIDE)
    ]
    labelings = _label(params, records, [slide_id for each in before for slide_id in each["slide_id"]])
    shards = {each.shard: store.Shard(each.kept, each.files["shard"]) for each in records.values() if each.kept}
    choices = {
        slide_id: choose(record, labelings.get(slide_id, Labeling()), params.quality, SHARDS)
        for slide_id, record in records.items()
    }
    made, records = records, {slide_id: as_indexed(record, choices[slide_id]) for slide_id, record in records.items()}
    aside = set_aside(
        "patches", [(record.slide_id, record.reason, record.kept) for record in records.values() if record.reason]
    )
    reasons = [f"{record.slide_id}: {record.reason}" for record in records.values() if record.failed]
    check_share(len(reasons) + len(before[1]), len(metadata), params.data.max_failed_share, reasons)
    if not any(record.kept for record in records.values()):
        told = [
            f"{each.slide_id}: {each.reason}" for each in records.values() if each.reason not in (None, NO_TISSUE)
        ]
        why = f"; {shortened(told)}" if told else " with enough tissue; lower patches.tissue_share?"
        raise DataError(f"no slide has a patch{why}")
    # up to here the former index and its shards are complete, whatever happened above
    kept = [record for record in records.values() if record.kept]
    count = store.write_rows(
        paths.PATCHES,
        _rows(kept, metadata, choices),
        params.patches.pixels,
        None if source.tiles else params.patches.mpp,
        {record.shard: shards[record.shard] for record in kept},
    )
    names = {record.shard for record in records.values()}
    _remove_others(SHARDS, names)
    _remove_others(paths.PATCHING_REPORT / "slides", names)
    _remove_others(paths.PREVIEWS, names)
    _write_regions(records, labelings)
    _draw_faults(made, choices, params.patches.pixels)
    more: dict[str, Any] = {"shared_tiles": _shared(files, metadata)} if source.tiles else {}
    if not more:
        (paths.PATCHING_REPORT / SHARED_TILES).unlink(missing_ok=True)
    if params.data.annotations is not None:
        more["regions"] = counted.regions(records, choices)
    counted.write(paths.PATCHING_REPORT, records, choices, metadata["sample_type"].to_dict(), params.quality, more)
    write_table(pd.concat([*before, aside]), paths.SET_ASIDE, separator=",")
    log.info("%d patches of %d slides", count, len(kept))


def _extract(params: Params, source: slide_source.Source, tasks: list[ShardTask]) -> dict[str, ShardRecord]:
    """Make the shards that are not there yet, and return the records of all, in the order of the tasks.

    Raises:
        DataError: slides could not be fetched; the shards of the others stay.

    """
    records = finished(tasks)
    for task in tasks:
        if task.slide_id in records:
            source.delete_fetched(task.files[0])
    todo = [task for task in tasks if task.slide_id not in records]
    former = store.former_version(paths.PATCHES)
    if former is not None and todo:
        log.warning(
            "%s: patch store of version %s, this histocae writes version %d: the patches of %d slides are extracted "
            "again (%s)",
            paths.PATCHES,
            former,
            store.VERSION,
            len(todo),
            store.CHANGE,
        )
    log.info("patches of %d slides to extract, %d done before", len(todo), len(records))
    if source.server is not None:
        from histocae.sources.gdc import download  # HTTP, which other sources have no need of

        remotes = [task.source.remote for task in todo]
        download.check_token(source.server, [remote for remote in remotes if remote is not None])
    made, states = dict[Path, str](), dict[Path, list[int]]()
    missing, failures = list[str](), FailureCount(params.data.gdc.streams)
    fetching = None if source.keep else params.data.gdc.streams
    threads = threads_each(len(todo), params.executor, fetching)
    todo = [replace(task, threads=threads) for task in todo]
    results = spread(_make, todo, params.executor, "patches", "slides", fetching=fetching)
    for number, (position, result) in enumerate(results, 1):
        task = todo[position]
        if isinstance(result, FetchError):
            log.warning("%d of %d is missing: %s", number, len(todo), result)
            missing.append(str(result))
        else:
            if isinstance(result, WorkerDiedError):
                result = ShardRecord(
                    slide_id=task.slide_id, shard=task.name, reason=str(result), failed=True, kept=0, counts={}
                )
            records[task.slide_id] = result
            made |= hashes_of_files(task, result)
            states |= states_of_files(task, result)
            source.delete_fetched(task.files[0])
        if failures.too_many(result):
            log.warning("too many slides in a row can't be fetched: the rest is left to the next run")
            results.close()
            break
    integrity.remember(made, states)  # the stages after this one need not read the shards for their hashes
    if missing:
        raise DataError(
            f"{len(tasks) - len(records)} of {len(tasks)} slides are missing; run this again to resume, or name in "
            f"data.gdc.without those that can't be fetched: {shortened(missing)}"
        )
    return {task.slide_id: records[task.slide_id] for task in tasks}


def _make(task: ShardTask) -> ShardRecord | FetchError:
    """Make a shard. That a slide can't be fetched is not its fault, and does not stop the other slides."""
    try:
        return make_shard(task)
    except FetchError as error:
        return error


def _tasks(
    params: Params, files: pd.DataFrame, metadata: pd.DataFrame, source: slide_source.Source
) -> list[ShardTask]:
    """List a task per slide; a slide that was deleted is fetched again where its shard has to be made."""
    code = code_fingerprint(*CODE)
    own = {} if source.tiles else metadata["mpp"]
    default = None if source.tiles or params.data.mpp is None else MicronsPerPixel(params.data.mpp)
    tasks, hashes = [], Hashes(paths.FETCHED, "md5")
    for slide_id, rows in files.groupby("slide_id", sort=False):
        tasks.append(
            ShardTask(
                slide_id=slide_id,
                files=tuple(rows["file"]),
                source=source.for_slide(metadata.loc[slide_id], hashes),
                own_mpp=own.get(slide_id),
                default_mpp=default,
                params=params.patches,
                seed=params.seed,
                shards=SHARDS,
                overviews=paths.PATCHING_REPORT / "slides",
                previews=paths.PREVIEWS,
                hashes=rows.dropna(subset="sha256").set_index("file")["sha256"].to_dict(),
                made_from=fingerprint([code, store.VERSION, list(rows["sha256"].fillna(rows["md5"]))]),
            )
        )
    return tasks


def _label(params: Params, records: Mapping[str, ShardRecord], aside: Iterable[str]) -> dict[str, Labeling]:
    """Label patches by the regions of data.annotations; without these, patches have the labels of their slides."""
    if params.data.annotations is None:
        return {}
    listed = read_table(paths.ANNOTATIONS, ("file", "sha256"), needed=("file", "sha256"))
    return labeling.label_slides(
        Path(params.data.annotations),
        dict(zip(listed["file"], listed["sha256"], strict=True)),
        records.values(),
        params.annotations,
        params.patches.pixels,
        SHARDS,
        aside,
    )


def _rows(
    records: list[ShardRecord], metadata: pd.DataFrame, choices: Mapping[str, Choice]
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the index one by one, as text: together they may not fit into memory."""
    for record in records:
        slide = metadata.loc[record.slide_id]
        common = (record.slide_id, slide["case_id"], slide["sample_type"], record.shard)
        for row in index_rows(record, slide["sample_type"], choices[record.slide_id], SHARDS):
            yield common + row


def _write_regions(records: Mapping[str, ShardRecord], labelings: Mapping[str, Labeling]) -> None:
    """Keep the regions of the slides for figures."""
    with replacing_folder(paths.REGIONS) as folder:
        for slide_id, of_slide in labelings.items():
            if of_slide.drawn is not None and records[slide_id].kept:
                stored.write(folder, records[slide_id].shard, of_slide.drawn.regions)
    if not labelings:
        shutil.rmtree(paths.REGIONS)  # DVC warns of an empty folder


def _draw_faults(records: Mapping[str, ShardRecord], choices: Mapping[str, Choice], pixels: int) -> None:
    """Draw the slides that have flagged patches."""
    drawn = [record for slide_id, record in records.items() if record.kept]
    drawn = [each for each in drawn if fault_images.worth_drawing(each, choices[each.slide_id], paths.PREVIEWS)]
    with replacing_folder(paths.FAULTS) as folder:
        for record in bar(drawn, "faults", "slides"):
            path = folder / f"{record.shard}.png"
            fault_images.draw(path, record, choices[record.slide_id], pixels, SHARDS, paths.PREVIEWS)
    if not drawn:
        shutil.rmtree(paths.FAULTS)  # DVC warns of an empty folder


def _remove_others(folder: Path, names: set[str]) -> None:
    """Delete files of slides that were changed or removed, and leftovers of killed runs."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if previews.shard_of(file) not in names:
            file.unlink()


def _shared(files: pd.DataFrame, metadata: pd.DataFrame) -> int:
    """List tiles whose bytes occur under several cases or sample types; return their number."""
    shared, path = shared_tiles(files, metadata), paths.PATCHING_REPORT / SHARED_TILES
    write_table(shared, path, separator=",")
    if len(shared):
        log.warning(
            "%d tiles have the same bytes as a tile of another case or sample type: blank tiles do no harm, copies "
            "of tissue make results too good; %s lists them",
            len(shared),
            path,
        )
    return len(shared)
