"""Stage slides: check that the files are there and open as slides, and how many microns per pixel they have."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from histocae import paths
from histocae.cohort.setaside import check_share, set_aside
from histocae.errors import DataError, SlideError, shortened
from histocae.files import read_table, sha256, write_table
from histocae.params import Bounds, Params
from histocae.slides.budget import Budget
from histocae.slides.slide import Slide
from histocae.slides.units import MicronsPerPixel
from histocae.sources import first_seen, slide_source
from histocae.sources.gdc.remote import Server
from histocae.sources.hashes import Hashes
from histocae.sources.integrity import ExpectedHashes, check_bytes, check_copies
from histocae.sources.tables import HASHES
from histocae.sources.texts import quoted
from histocae.workers.processes import WorkerDiedError, spread

COLUMNS = [
    "slide_id",
    "file",
    "bytes",
    "sha256",
    "md5",
    "mpp",
    "mpp_from",
    "objective_power",
    "width",
    "height",
    "levels",
    "vendor",
]
log = logging.getLogger(__name__)


class SlideToCheck(NamedTuple):
    """A slide to check.

    Attributes:
        source: of its file.
        slide_id: of the slide.
        file: as its table names it.
        sha256: of the file, or of all files of the slide, from the inventory; None where that lists no slides.
        md5: of the file, where the GDC names it and it was checked.
        expected: hashes of the file in the user's table.
        own_mpp: microns per level-0 pixel from its table.
        default_mpp: microns per level-0 pixel from data.mpp.
        bounds: of a slide, of which only the end of a worker that hangs counts here.

    """

    source: slide_source.Source
    slide_id: str
    file: str
    sha256: str | None
    md5: str | None
    expected: ExpectedHashes
    own_mpp: MicronsPerPixel | None
    default_mpp: MicronsPerPixel | None
    bounds: Bounds


def run(params: Params) -> None:
    """Fetch and check every slide; write one row per file, a row per slide that fails, and the first hashes.

    Slides that are not kept are neither fetched nor checked here, but in the stage that extracts their patches.
    """
    source = slide_source.from_params(params.data, params.seed, paths.SLIDE_FILES)
    metadata = slide_source.read_metadata(paths.METADATA, source)
    own = slide_source.own_files(params.data) if params.data.source in ("slides", "tiles") else None
    aside: list[tuple[str, str, int]] = []
    if source.tiles and own is not None:
        table, aside = _check_tiles(source, own.files[own.files["slide_id"].isin(metadata["slide_id"])])
    elif not source.keep:
        table = metadata.rename(columns={"file_name": "file", "size": "bytes"}).reindex(columns=COLUMNS)
        table["mpp"] = np.nan  # not known before the slide is fetched
        log.info("%.2f GB, to be fetched when patches are extracted", table["bytes"].sum() / 1e9)
    else:
        if source.server is not None:
            _fetch(source, source.server, metadata)
        table, aside = _check_all(params, source, metadata, own)
    aside_table = set_aside("slides", aside)
    reasons = [f"{slide_id}: {reason}" for slide_id, reason, _ in aside]
    first = _first_seen(params, own, table, {slide_id for slide_id, *_ in aside})
    check_share(len(aside), len(metadata), params.data.max_failed_share, reasons)
    write_table(first, paths.FIRST_SEEN)
    write_table(table, paths.SLIDES)
    write_table(aside_table, paths.SLIDES_SET_ASIDE)
    source.forget_others(set(table["file"]))
    log.info("%d slides, %d set aside", table["slide_id"].nunique(), len(aside))


def _inventory(files: Iterable[str]) -> pd.DataFrame:
    """Read bytes and SHA-256 of the user's files by name; those of a slide of several files are of all together.

    Raises:
        DataError: the inventory lacks a file.

    """
    table = read_table(paths.INVENTORY, ("file", "sha256"), needed=("file", "bytes", "sha256")).set_index("file")
    known = set(table.index[table["sha256"].notna()])
    if lacking := [file for file in files if file not in known]:
        raise DataError(f"{paths.INVENTORY}: has no hash of {quoted(lacking[0])}; run dvc repro, which lists it")
    return table


def _fetch(source: slide_source.Source, server: Server, metadata: pd.DataFrame) -> None:
    """Fetch all slides that are not there yet.

    Raises:
        DataError: slides could not be fetched; the others stay, and the next run resumes from there.

    """
    from histocae.sources.gdc import download  # HTTP, which other sources do not need

    files = [slide_source.remote_file(row) for _, row in metadata.iterrows()]
    hashes = Hashes(paths.FETCHED, "md5")
    try:
        tally = download.fetch_all(server, files, source.folder, hashes)
    finally:
        hashes.save()
    if tally.received:
        log.info("%d slides fetched; %s", tally.fetched, download.traffic(tally.received, tally.wasted))
    if tally.missing:
        raise DataError(
            f"{len(tally.missing)} of {len(files)} slides are missing; run this again to resume, or name in "
            f"data.gdc.without those that can't be fetched: {shortened(list(tally.missing.values()))}"
        )


def _expected(hashes: pd.DataFrame) -> dict[str, ExpectedHashes]:
    """Return the hashes that the user's table has, by file."""
    return dict(zip(hashes["file"], map(ExpectedHashes._make, hashes[list(HASHES)].to_numpy()), strict=True))


def _check_tiles(source: slide_source.Source, files: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str, int]]]:
    """List the tiles; a slide is set aside if a tile has another hash than the table says."""
    table = files.drop(columns=list(HASHES)).join(_inventory(files["file"]), on="file").reindex(columns=COLUMNS)
    sha256s = dict(zip(table["file"], table["sha256"], strict=True))
    slide_ids = dict(zip(files["file"], files["slide_id"], strict=True))
    reasons: dict[str, list[str]] = {}
    stated = files[files[list(HASHES)].notna().any(axis=1)]
    for file, expected in _expected(stated).items():
        try:
            check_bytes(source.folder / file, expected, sha256s[file])
        except SlideError as error:
            reasons.setdefault(slide_ids[file], []).append(f"{file}: {error}")
    aside = [(slide_id, shortened(faults, 1), 0) for slide_id, faults in reasons.items()]
    return table[~table["slide_id"].isin(reasons)], aside


def _first_seen(
    params: Params, own: slide_source.OwnFiles | None, table: pd.DataFrame, aside: set[str]
) -> pd.DataFrame:
    """Check that no slide is a copy of another, and that no file changed; return the first hashes of all files.

    Raises:
        TableError: two slides have the same bytes.
        DataError: a file is not the one that was first read.

    """
    if own is None:
        return first_seen.update(paths.FIRST_SEEN, params.data.path, {}, set())
    if params.data.source == "slides":
        lines = own.files.reset_index(names="line")[["line", "file"]]
        check_copies(table[["slide_id", "file", "sha256"]].merge(lines, on="file").set_index("line"), own.table)
    confirmed = own.files[list(HASHES)].notna().any(axis=1)
    # a slide may be set aside because it changed; if the user's table has its hash, that is its reason already
    unused = own.files.loc[own.files["slide_id"].isin(aside) & ~confirmed, "file"]
    return first_seen.update(
        paths.FIRST_SEEN,
        params.data.path,
        dict(zip(table["file"], table["sha256"], strict=True)),
        set(own.files.loc[confirmed, "file"]),
        _inventory(unused)["sha256"].reindex(unused).to_dict(),
    )


def _check_all(
    params: Params, source: slide_source.Source, metadata: pd.DataFrame, own: slide_source.OwnFiles | None
) -> tuple[pd.DataFrame, list[tuple[str, str, int]]]:
    hashes = Hashes(paths.FETCHED, "md5")
    sha256s = {} if own is None else _inventory(metadata["file_name"])["sha256"]
    expected = {} if own is None else _expected(own.files)
    default = None if params.data.mpp is None else MicronsPerPixel(params.data.mpp)
    slides = [
        SlideToCheck(
            source.for_slide(row, hashes),
            row["slide_id"],
            row["file_name"],
            sha256s.get(row["file_name"]),
            row.get("md5"),
            expected.get(row["file_name"], ExpectedHashes()),
            row["mpp"],
            default,
            params.patches.bounds,
        )
        for _, row in metadata.iterrows()
    ]
    results = dict(spread(_check, slides, params.executor, "slides", "slides"))
    results = {i: str(result) if isinstance(result, WorkerDiedError) else result for i, result in results.items()}
    aside = [(slides[i].slide_id, result, 0) for i, result in sorted(results.items()) if isinstance(result, str)]
    rows = [result for _, result in sorted(results.items()) if not isinstance(result, str)]
    return pd.DataFrame(rows, columns=COLUMNS), aside


def _check(task: SlideToCheck) -> tuple[Any, ...] | str:
    """Describe a slide by the values of `COLUMNS`, or return why it can't be used."""
    try:
        path: Path = task.source.fetch(task.slide_id, task.file)
        check_bytes(path, task.expected, task.sha256)
        digest = None if task.md5 else task.sha256 or sha256(path)
        with Budget(task.bounds), Slide(path) as slide:
            mpp, origin = slide.microns(task.own_mpp, task.default_mpp)
            size = slide.levels[0]
            return (
                task.slide_id,
                task.file,
                path.stat().st_size,
                digest,
                task.md5,
                mpp,
                origin,
                slide.objective_power,
                size.width,
                size.height,
                len(slide.levels),
                slide.vendor,
            )
    except SlideError as error:
        return str(error) if task.file in str(error) else f"{task.file}: {error}"
