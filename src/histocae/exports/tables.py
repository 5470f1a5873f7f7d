"""Patches with their latents in one file: AnnData's .h5ad, and Parquet. docs/exports.md describes both."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.exports.columns import About, check, is_text
from histocae.files import replacing

KEY = "histocae"  # of the description of the model: in `uns`, and in the metadata of Parquet's schema
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name, column in table.items():
        kind = pa.string() if is_text(column) else None
        arrays[str(name)] = pa.array(column.to_numpy(object if kind else None), type=kind, from_pandas=True)
    if latents is not None:
        arrays[LATENT] = pa.FixedSizeListArray.from_arrays(pa.array(latents.reshape(-1)), latents.shape[1])
    metadata = {KEY: json.dumps(about.as_dict(table.columns), sort_keys=True)}
    with replacing(path) as handle:
        pq.write_table(pa.table(arrays).replace_schema_metadata(metadata), handle)
