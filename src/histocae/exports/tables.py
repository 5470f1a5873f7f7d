"""Patches with their latents in one file: AnnData's .h5ad, and Parquet. docs/exports.md describes both."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.exports.columns import KEY, About, SlidePatches, check, is_text
from histocae.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

LATENT = "latent"


def write_h5ad(path: Path, table: pd.DataFrame, latents: NDArray[np.float32], about: About) -> None:
    """Write patches as an AnnData object. The same input gives the same bytes.

    The index of obs is `<slide_id>:<number>`, counted from 0 within each slide. Texts are categories.

    Args:
        path: of the file, *.h5ad.
        table: one row a patch, with at least the columns of `columns.REQUIRED`; all of them go into obs.
        latents: float32, shape (patches, latents), in the order of the table; they become X.
        about: the model and its patches, for uns["histocae"].

    Raises:
        DataError: there are no patches, or latents of another number of patches.

    """
    check(path, table, len(latents))
    import h5py
    from anndata import AnnData
    from anndata.io import write_elem

    data = AnnData(
        X=latents,
        obs=_obs(table),
        var=pd.DataFrame(index=_index([f"{LATENT}_{i}" for i in range(latents.shape[1])])),
        uns={KEY: about.as_dict(table.columns)},
    )
    if table["width"].notna().any():  # tiles have no position on a slide: without any other patch nothing is written
        data.obsm["spatial"] = table[["x", "y"]].to_numpy(np.float64) + table[["width"]].to_numpy(np.float64) / 2
    # h5py and HDF5 write no times unless they are told to
    with replacing(path, "w+b") as handle, h5py.File(handle, "w") as file:
        write_elem(file, "/", data)


def write_h5ad_of_slides(path: Path, slides: Sequence[SlidePatches], about: About) -> None:
    """Write the patches of slides as one AnnData object, with the latents of all of them in memory once.

    Args:
        path: of the file, *.h5ad.
        slides: at least one.
        about: the model and its patches.

    Raises:
        DataError: a slide has no patches, or latents of another number of patches.

    """
    rows = [slide.table() for slide in slides]
    latents = np.empty((sum(map(len, rows)), slides[0].count), np.float32)
    end = 0
    for slide, table in zip(slides, rows, strict=True):
        start, end = end, end + len(table)
        _copy(path, table, slide.latents(), latents[start:end])
    write_h5ad(path, pd.concat(rows, ignore_index=True), latents, about)


def _copy(path: Path, table: pd.DataFrame, latents: NDArray[np.float32], place: NDArray[np.float32]) -> None:
    check(path, table, len(latents))
    place[:] = latents


def _obs(table: pd.DataFrame) -> pd.DataFrame:
    number = table.groupby("slide_id", sort=False).cumcount()
    obs = pd.DataFrame(index=_index([f"{slide}:{i}" for slide, i in zip(table["slide_id"], number, strict=True)]))
    for name, column in table.items():
        values = column.to_numpy(object) if is_text(column) else column.to_numpy()
        obs[str(name)] = _categories(values) if is_text(column) else values
    return obs


def _categories(texts: NDArray[np.object_]) -> pd.Categorical:
    present = sorted({text for text in texts if not pd.isna(text)})
    return pd.Categorical(texts, categories=_index(present))


def _index(texts: list[str]) -> "pd.Index[str]":
    # object: anndata writes pandas' newer types of texts in forms that earlier versions of it do not read
    return pd.Index(texts, dtype=object)


def write_parquet(path: Path, table: pd.DataFrame, latents: NDArray[np.float32] | None, about: About) -> None:
    """Write patches as Parquet. The same input gives the same bytes.

    Latents are one column `latent`, a list of a fixed size. Missing numbers are null.

    Args:
        path: of the file, *.parquet.
        table: one row a patch, with at least the columns of `columns.REQUIRED`; all of them are written.
        latents: float32, shape (patches, latents), in the order of the table; None for none.
        about: the model and its patches; as JSON under the key `histocae` in the metadata of the schema.

    Raises:
        DataError: there are no patches, or latents of another number of patches.

    """
    check(path, table, None if latents is None else len(latents))
    import pyarrow.parquet as pq

    arrow = _arrow(table, latents)
    with replacing(path) as handle:
        pq.write_table(arrow.replace_schema_metadata(_metadata(table.columns, about)), handle)


def write_parquet_of_slides(path: Path, slides: Sequence[SlidePatches], about: About) -> None:
    """Write the patches of slides as Parquet, each slide as a row group, with one slide at a time in memory.

    Tables of slides may have different columns; what a slide lacks is null.

    Args:
        path: of the file, *.parquet.
        slides: at least one.
        about: the model and its patches.

    Raises:
        DataError: a slide has no patches, or latents of another number of patches.

    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = pa.unify_schemas([_arrow(slide.table(), None).schema for slide in slides], promote_options="permissive")
    schema = columns.append(pa.field(LATENT, pa.list_(pa.float32(), slides[0].count)))
    schema = schema.with_metadata(_metadata(columns.names, about))
    with replacing(path) as handle, pq.ParquetWriter(handle, schema) as writer:
        for slide in slides:
            # without a name: the former slide would stay in memory while the next one is read
            writer.write_table(_row_group(path, slide.table(), slide.latents(), schema))


def _row_group(path: Path, table: pd.DataFrame, latents: NDArray[np.float32], schema: "pa.Schema") -> "pa.Table":
    check(path, table, len(latents))
    import pyarrow as pa

    arrow = _arrow(table, latents)
    columns = dict(zip(arrow.column_names, arrow.columns, strict=True))
    return pa.table(
        [
            columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(table), field.type)
            for field in schema
        ],
        schema=schema,
    )


def _arrow(table: pd.DataFrame, latents: NDArray[np.float32] | None) -> "pa.Table":
    import pyarrow as pa

    arrays: dict[str, Any] = {}
    for name, column in table.items():
        kind = pa.string() if is_text(column) else None
        arrays[str(name)] = pa.array(column.to_numpy(object if kind else None), type=kind, from_pandas=True)
    if latents is not None:
        arrays[LATENT] = pa.FixedSizeListArray.from_arrays(pa.array(latents.reshape(-1)), latents.shape[1])
    return pa.table(arrays)


def _metadata(columns: Iterable[str], about: About) -> dict[str, str]:
    return {KEY: json.dumps(about.as_dict(columns), sort_keys=True)}
