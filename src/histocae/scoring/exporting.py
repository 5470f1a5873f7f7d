"""The latents of all scored slides in the forms that other programs read."""

import logging
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError, counted, shortened
from histocae.exports import forms, writing
from histocae.exports.columns import SlidePatches
from histocae.exports.tables import LATENT
from histocae.patches.shard_file import shard_name
from histocae.scoring.model import Source
from histocae.scoring.results import PATCHES, Result, about

log = logging.getLogger(__name__)


def write(found: Sequence[Result], chosen: Collection[str], source: Source, out: Path) -> None:
    """Write the latents of scored slides: files with all slides, or a folder with a file per slide.

    A file per slide has positions, which tiles lack: they are left out there, and named in a line of the log, as are
    slides without latents.

    Args:
        found: results; those of an earlier call may have no latents.
        chosen: of `forms.FORMS`, or `forms.ALL`.
        source: of the model.
        out: folder of all results.

    Raises:
        DataError: no slide has latents, or a form needs positions and all slides are tiles, or something that
            histocae did not write would be replaced.

    """
    counts = [_latents_each(result) for result in found]
    slides = [_slide(result, count) for result, count in zip(found, counts, strict=True) if count is not None]
    if not slides:
        raise DataError("no slide has latents to export; add --latents")
    positions = any(not slide.tiles for slide in slides)
    written = forms.allowed(chosen, positions=positions, option="--export")
    writing.write(out, written, slides, about(source.contract))
    missing = [result.summary["slide_id"] for result, count in zip(found, counts, strict=True) if count is None]
    if missing:
        log.warning(
            "%s %s %s, scored without latents: %s; give %s again",
            ", ".join(map(forms.name_of, written)),
            "lacks" if len(written) == 1 else "lack",
            counted(len(missing)),
            shortened(missing),
            "it" if len(missing) == 1 else "them",
        )


def _slide(result: Result, count: int) -> SlidePatches:
    slide_id = result.summary["slide_id"]
    return SlidePatches(
        slide_id=slide_id,
        stem=shard_name(slide_id),
        table=partial(_table, result),
        latents=partial(_latents, result),
        count=count,
        size=result.size,
        tiles=result.size is None,
    )


def _latents_each(result: Result) -> int | None:
    """Read the number of latents of a patch; None for none."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(result.folder / PATCHES)
    return schema.field(LATENT).type.list_size if LATENT in schema.names else None


def _table(result: Result) -> pd.DataFrame:
    """Read the patches of a slide, with its case and label from the user's table."""
    import pyarrow.parquet as pq

    path = result.folder / PATCHES
    names = [name for name in pq.read_schema(path).names if name != LATENT]
    table: pd.DataFrame = pq.read_table(path, columns=names).to_pandas()
    for place, (name, key) in enumerate((("case_id", "case_id"), ("label", "sample_type")), 1):
        table.insert(place, name, result.summary.get(key))
    return table


def _latents(result: Result) -> NDArray[np.float32]:
    """Read the latents of a slide's patches."""
    import pyarrow.parquet as pq

    column = pq.read_table(result.folder / PATCHES, columns=[LATENT]).column(LATENT).combine_chunks()
    latents: Any = column.values.to_numpy().reshape(len(column), -1)
    return latents  # type: ignore[no-any-return]
