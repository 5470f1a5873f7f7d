"""Stage slides: the bytes are there and open as slides; their microns per pixel are known."""

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from histocae import paths, sources
from histocae.errors import SlideError
from histocae.executor import WorkerDiedError, spread
from histocae.files import read_table, sha256, write_table
from histocae.params import Params
from histocae.setaside import check_share, set_aside
from histocae.slide import Slide, in_range
from histocae.tables import TEXTS

COLUMNS = [
    "slide_id", "file", "bytes", "sha256", "mpp", "mpp_from", "objective_power",
    "width", "height", "levels", "vendor",
]  # fmt: skip
log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A slide to look at; `own_mpp` is its table's, `default_mpp` that of data.mpp."""

    source: sources.Source
    slide_id: str
    file: str
    digest: str | None
    own_mpp: float | None
    default_mpp: float | None


def run(params: Params) -> None:
    """Look at every slide; write one row per file and a row per slide that fails."""
    metadata = read_table(paths.METADATA, TEXTS)
    inventory = read_table(paths.INVENTORY, ("file", "sha256")).set_index("file")
    source = sources.place(params.data, params.seed, paths.SLIDE_FILES)
    if source.tiles:
        files = sources.tile_files(params.data)
        files = files[files["slide_id"].isin(metadata["slide_id"])]
        table = files.join(inventory, on="file").reindex(columns=COLUMNS)
        aside = []
    else:
        if params.data.mpp is not None and in_range(params.data.mpp) is None:
            log.warning("data.mpp %g is out of a scanner's range; taken as missing", params.data.mpp)
        wanted = [
            Wanted(
                source, row.slide_id, row.file_name,
                inventory["sha256"].get(row.file_name), row.mpp, params.data.mpp,
            )
            for row in metadata.itertuples()
        ]  # fmt: skip
        looks = dict(spread(_look, wanted, params.executor, "slides", "slides"))
        looks = {i: str(one) if isinstance(one, WorkerDiedError) else one for i, one in looks.items()}
        aside = [(wanted[i].slide_id, one, 0) for i, one in sorted(looks.items()) if isinstance(one, str)]
        rows = [one for _, one in sorted(looks.items()) if not isinstance(one, str)]
        table = pd.DataFrame(rows, columns=COLUMNS)
    told = set_aside("slides", aside)
    reasons = [f"{slide_id}: {reason}" for slide_id, reason, _ in aside]
    check_share(len(aside), len(metadata), params.data.max_failed_share, reasons)
    write_table(table, paths.SLIDES)
    write_table(told, paths.SLIDES_SET_ASIDE)
    source.forget_others(set(table["file"]))
    log.info("%d slides, %d set aside", table["slide_id"].nunique(), len(aside))


def _look(one: Wanted) -> tuple | str:
    """Describe a slide, or say why it can't be used."""
    try:
        path: Path = one.source.fetch(one.slide_id, one.file)
        with Slide(path) as slide:
            mpp, origin = slide.microns(one.own_mpp, one.default_mpp)
            size = slide.levels[0]
            digest = one.digest or sha256(path)
            return (
                one.slide_id, one.file, path.stat().st_size, digest, mpp, origin,
                slide.objective_power, size.width, size.height, len(slide.levels), slide.vendor,
            )  # fmt: skip
    except SlideError as error:
        return str(error) if one.file in str(error) else f"{one.file}: {error}"
