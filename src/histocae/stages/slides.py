"""Stage slides: the bytes are there and open as slides; their microns per pixel are known."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from histocae import paths
from histocae.cohort.setaside import check_share, set_aside
from histocae.errors import DataError, SlideError, shortened
from histocae.files import read_table, sha256, write_table
from histocae.params import Params
from histocae.slides.slide import Slide, in_range
from histocae.sources import slide_source
from histocae.sources.hashes import Hashes
from histocae.sources.tables import METADATA_TEXTS
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


class Wanted(NamedTuple):
    """A slide to look at.

    `sha256` is its hash where the inventory has it, `md5` where the GDC named it and it was checked; `own_mpp` is
    its table's, `default_mpp` that of data.mpp.
    """

    source: slide_source.Source
    slide_id: str
    file: str
    sha256: str | None
    md5: str | None
    own_mpp: float | None
    default_mpp: float | None


def run(params: Params) -> None:
    """Get and look at every slide; write one row per file and a row per slide that fails.

    Slides that are not kept are neither fetched nor looked at: that is left to where they are cut.
    """
    metadata = read_table(paths.METADATA, METADATA_TEXTS)
    source = slide_source.from_params(params.data, params.seed, paths.SLIDE_FILES)
    aside: list[tuple[str, str, int]] = []
    if source.tiles:
        files = slide_source.tile_files(params.data)
        files = files[files["slide_id"].isin(metadata["slide_id"])]
        table = files.join(_inventory(), on="file").reindex(columns=COLUMNS)
    elif not source.keep:
        table = metadata.rename(columns={"file_name": "file", "size": "bytes"}).reindex(columns=COLUMNS)
        table["mpp"] = np.nan  # what each says is known when it is there
        log.info("%.2f GB, to be fetched where they are cut", table["bytes"].sum() / 1e9)
    else:
        if source.server is not None:
            _fetch(source, metadata)
        table, aside = _look_at_all(params, source, metadata)
    told = set_aside("slides", aside)
    reasons = [f"{slide_id}: {reason}" for slide_id, reason, _ in aside]
    check_share(len(aside), len(metadata), params.data.max_failed_share, reasons)
    write_table(table, paths.SLIDES)
    write_table(told, paths.SLIDES_SET_ASIDE)
    source.forget_others(set(table["file"]))
    log.info("%d slides, %d set aside", table["slide_id"].nunique(), len(aside))


def _inventory() -> pd.DataFrame:
    return read_table(paths.INVENTORY, ("file", "sha256")).set_index("file")


def _fetch(source: slide_source.Source, metadata: pd.DataFrame) -> None:
    """Fetch all slides that are not there yet.

    Raises:
        DataError: some could not be had; what came stays, for the next run to go on from.

    """
    from histocae.sources.gdc import download  # HTTP, which other sources have no need of

    files = [slide_source.remote_file(row) for _, row in metadata.iterrows()]
    hashes = Hashes(paths.FETCHED, "md5")
    try:
        tally = download.fetch_all(source.server, files, source.folder, hashes)
    finally:
        hashes.save()
    if tally.came:
        log.info("%d slides fetched; %s", tally.fetched, download.told(tally.came, tally.wasted))
    if tally.missing:
        raise DataError(
            f"{len(tally.missing)} of {len(files)} slides are missing; run this again to go on, or name in "
            f"data.gdc.without those that can't be had: {shortened(list(tally.missing.values()))}"
        )


def _look_at_all(
    params: Params, source: slide_source.Source, metadata: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[str, str, int]]]:
    if params.data.mpp is not None and in_range(params.data.mpp) is None:
        log.warning("data.mpp %g is out of a scanner's range; taken as missing", params.data.mpp)
    sha256s, hashes = _inventory()["sha256"], Hashes(paths.FETCHED, "md5")
    wanted = [
        Wanted(
            source.for_slide(row, hashes),
            row["slide_id"],
            row["file_name"],
            sha256s.get(row["file_name"]),
            row.get("md5"),
            row["mpp"],
            params.data.mpp,
        )
        for _, row in metadata.iterrows()
    ]
    looks = dict(spread(_look, wanted, params.executor, "slides", "slides"))
    looks = {i: str(one) if isinstance(one, WorkerDiedError) else one for i, one in looks.items()}
    aside = [(wanted[i].slide_id, one, 0) for i, one in sorted(looks.items()) if isinstance(one, str)]
    rows = [one for _, one in sorted(looks.items()) if not isinstance(one, str)]
    return pd.DataFrame(rows, columns=COLUMNS), aside


def _look(one: Wanted) -> tuple | str:
    """Describe a slide, or say why it can't be used."""
    try:
        path: Path = one.source.fetch(one.slide_id, one.file)
        with Slide(path) as slide:
            mpp, origin = slide.microns(one.own_mpp, one.default_mpp)
            size = slide.levels[0]
            digest = None if one.md5 else one.sha256 or sha256(path)
            return (
                one.slide_id,
                one.file,
                path.stat().st_size,
                digest,
                one.md5,
                mpp,
                origin,
                slide.objective_power,
                size.width,
                size.height,
                len(slide.levels),
                slide.vendor,
            )
    except SlideError as error:
        return str(error) if one.file in str(error) else f"{one.file}: {error}"
