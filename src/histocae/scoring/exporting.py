"""The latents of all scored slides in the forms that other programs read."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError
from histocae.exports import features, forms, tables
from histocae.files import replacing_folder
from histocae.patches.shard_file import shard_name
from histocae.scoring.model import Source
from histocae.scoring.results import PATCHES, Result, about

log = logging.getLogger(__name__)


def write(found: Sequence[Result], chosen: Collection[str], source: Source, out: Path) -> None:
    """Write the latents of scored slides: files with all slides, or a folder with a file per slide.

    A file per slide has positions, which tiles lack: they are left out there, and in a line of the log.

    Args:
        found: results with latents; others are left out.
        chosen: of `forms.FORMS`.
        source: of the model.
        out: folder of all results.

    Raises:
        DataError: no slide has latents, or a form needs positions and all slides are tiles.

    """
    read = [(result, table, latents) for result in found for table, latents in [_read(result)] if latents is not None]
    if not read:
        raise DataError("no slide has latents to export; add --latents")
    described = about(source.contract)
    if set(chosen) & set(forms.FILES):
        table = pd.concat([table for _, table, _ in read], ignore_index=True)
        joined = np.concatenate([latents for *_, latents in read])
        if "h5ad" in chosen:
            tables.write_h5ad(out / forms.FILES["h5ad"], table, joined, described)
        if "parquet" in chosen:
            tables.write_parquet(out / forms.FILES["parquet"], table, joined, described)
    placed = [each for each in read if each[0].size is not None]
    for form in (form for form in forms.FOLDERS if form in chosen):
        name, reader = forms.FOLDERS[form]
        if not placed and set(chosen) != set(forms.FORMS):
            raise DataError(
                f"tiles have no position on a slide, which --export {form} needs; use --export h5ad or "
                "--export parquet"
            )
        if len(placed) < len(read):
            log.warning("%s lacks %d slides: tiles have no position on a slide", out / name, len(read) - len(placed))
        if not placed:
            continue
        with replacing_folder(out / name) as aside:
            for result, table, latents in placed:
                slide_id = result.summary["slide_id"]
                features.write_features_h5(
                    aside / f"{shard_name(slide_id)}.h5", table, latents, described, reader=reader, size=result.size
                )


def _read(result: Result) -> tuple[pd.DataFrame, NDArray[np.float32] | None]:
    """Read the patches of a slide, with its case and label from the user's table, and their latents (or None)."""
    import pyarrow.parquet as pq

    read = pq.read_table(result.folder / PATCHES)
    latents: Any = None
    if tables.LATENT in read.column_names:
        column = read.column(tables.LATENT).combine_chunks()
        latents = column.values.to_numpy().reshape(len(column), -1)
        read = read.drop_columns([tables.LATENT])
    table = read.to_pandas()
    for place, (name, key) in enumerate((("case_id", "case_id"), ("label", "sample_type")), 1):
        table.insert(place, name, result.summary.get(key))
    return table, latents
