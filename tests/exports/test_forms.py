"""Exported files, read back by the libraries and by the layouts of the tools that they are for."""

import json
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from histocae.errors import DataError
from histocae.exports import features, tables
from histocae.exports.columns import About
from support.make_data import NORMAL, TUMOR

PIXELS = 128
ABOUT = About(model="all", weights="a fingerprint", pixels=PIXELS, mpp=0.5, version="1.2.3")
ODD = ("0012", "A/B ä", "0012:1")  # names that look like numbers, have separators, or end like an index


def rows_of(*slides: str, level0_mpp: float = 0.25, count: int = 4) -> pd.DataFrame:
    """Make the table of a column of patches for each slide; the last slide has no scores."""
    width = PIXELS * ABOUT.mpp / level0_mpp
    table = pd.DataFrame(
        {
            "slide_id": np.repeat(slides, count),
            "case_id": np.repeat([f"case {slide}" for slide in slides], count),
            "label": np.repeat([(TUMOR, NORMAL)[i % 2] for i in range(len(slides))], count),
            "x": np.int64(3),
            "y": np.tile(np.rint(np.arange(count) * width).astype(int), len(slides)),
            "width": width,
            "mpp": ABOUT.mpp,
            "tissue_share": 0.75,
            "score": np.arange(len(slides) * count) / 3,
            "class": pd.Series([TUMOR] * (len(slides) * count), dtype=object),
        }
    )
    table.loc[table["slide_id"] == slides[-1], ["score", "class"]] = None
    return table


def latents_of(table: pd.DataFrame, count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(table), count)).astype(np.float32)


def values(column: pd.Series) -> list[object]:
    """List the values of a column; every kind of missing value is None."""
    return [None if pd.isna(value) else value for value in column]


# -- AnnData


def test_anndata_has_latents_columns_centers_and_what_they_are(tmp_path):
    table, path = rows_of(*ODD), tmp_path / "out" / "latents.h5ad"
    latents = latents_of(table)
    tables.write_h5ad(path, table, latents, ABOUT)
    data = anndata.read_h5ad(path)
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X, latents)
    assert list(data.var_names) == [f"latent_{i}" for i in range(5)]
    assert list(data.obs_names[[0, 3, 4, 8]]) == ["0012:0", "0012:3", "A/B ä:0", "0012:1:0"]
    assert data.obs_names.is_unique
    assert list(data.obs.columns) == list(table.columns)
    for name in ("slide_id", "case_id", "label", "class"):
        assert data.obs[name].dtype == "category"  # squidpy's library_key must be one
        assert values(data.obs[name]) == values(table[name])
    for name in ("x", "y", "width", "mpp", "tissue_share", "score"):
        np.testing.assert_array_equal(data.obs[name], table[name])
    centers = np.column_stack([table["x"] + 128.0, table["y"] + 128.0])  # 128 pixels of 0.5 um at 0.25 um a pixel
    np.testing.assert_array_equal(data.obsm["spatial"], centers)
    about = data.uns["histocae"]
    numbers = {"patch_pixels": PIXELS, "patch_mpp": 0.5}
    assert {key: about[key] for key in numbers} == numbers
    assert (about["model"], about["weights"], about["histocae_version"]) == ("all", "a fingerprint", "1.2.3")
    assert set(about["columns"]) == set(table.columns)


def test_anndata_of_tiles_has_no_positions_on_slides(tmp_path):
    table = rows_of("a").assign(width=np.nan, mpp=np.nan, file="a.png")
    about = About(model="all", weights="w", pixels=PIXELS, mpp=None, version="1")
    tables.write_h5ad(tmp_path / "a.h5ad", table, latents_of(table), about)
    data = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert "spatial" not in data.obsm and "patch_mpp" not in data.uns["histocae"]
    assert data.obs["width"].isna().all() and set(data.obs["file"]) == {"a.png"}


def test_tiles_among_slides_take_no_positions_from_the_others(tmp_path):
    table = rows_of("a", "b")
    of_tiles = table["slide_id"] == "b"
    table.loc[of_tiles, ["width", "mpp"]] = np.nan
    tables.write_h5ad(tmp_path / "a.h5ad", table, latents_of(table), ABOUT)
    positions = anndata.read_h5ad(tmp_path / "a.h5ad").obsm["spatial"]
    np.testing.assert_array_equal(positions[~of_tiles], table.loc[~of_tiles, ["x", "y"]] + 128)
    assert np.isnan(positions[of_tiles]).all()


# -- Parquet


def test_parquet_has_columns_latents_and_what_they_are(tmp_path):
    table, path = rows_of(*ODD), tmp_path / "latents.parquet"
    latents = latents_of(table)
    tables.write_parquet(path, table, latents, ABOUT)
    read = pd.read_parquet(path)
    assert list(read.columns) == [*table.columns, "latent"]
    np.testing.assert_array_equal(np.stack(read["latent"]), latents)
    for name in table:
        assert values(read[name]) == values(table[name])
    arrow = pq.read_table(path)
    assert arrow.schema.field("latent").type.list_size == 5
    assert arrow["score"].null_count == arrow["class"].null_count == 4  # null, not NaN
    about = json.loads(arrow.schema.metadata[b"histocae"])
    assert about["model"] == "all" and about["patch_mpp"] == 0.5 and about["columns"]["x"].endswith("tile")


def test_parquet_of_scores_alone_has_no_latents(tmp_path):
    table = rows_of("a", "b")
    tables.write_parquet(tmp_path / "scores.parquet", table, None, ABOUT)
    assert list(pd.read_parquet(tmp_path / "scores.parquet").columns) == list(table.columns)


# -- .h5 of a slide, by what the readers of each tool access


def read_as_clam(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read as CLAM's Generic_MIL_Dataset does with load_from_h5(True)."""
    with h5py.File(path, "r") as file:
        return file["features"][:], file["coords"][:]


def read_as_trident(path: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    """Read as TRIDENT's extract_slide_features and read_coords do."""
    with h5py.File(path, "r") as file:
        return file["features"][:], file["coords"][:], dict(file["coords"].attrs)


def read_as_stamp(path: Path) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Read as STAMP's BagDataset and get_coords do: features, coordinates in microns, side in microns and pixels."""
    with h5py.File(path, "r") as file:
        assert file.attrs["unit"] == "um" and "stamp_version" not in file.attrs and file.attrs["feat_type"] == "tile"
        feats = file["feats"][:]
        return feats, file["coords"][:], float(file.attrs["tile_size_um"]), int(file.attrs["tile_size_px"])


@pytest.mark.parametrize("level0_mpp", [0.25, 0.5, 0.2527, 0.499])
def test_clam_and_trident_read_features_and_corners_in_level_0_pixels(tmp_path, level0_mpp):
    table, path = rows_of("A/B ä", level0_mpp=level0_mpp), tmp_path / "a.h5"
    latents = latents_of(table)
    features.write_features_h5(path, table, latents, ABOUT, reader="clam", size=(1000, 900))
    for found, coords, *_ in (read_as_clam(path), read_as_trident(path)):
        assert found.dtype == np.float32 and coords.dtype == np.int64
        np.testing.assert_array_equal(found, latents)
        np.testing.assert_array_equal(coords, table[["x", "y"]])
    *_, attrs = read_as_trident(path)
    # TRIDENT's WSIPatcher: microns per pixel are 10 / magnification
    downsample = (10 / attrs["target_magnification"]) / (10 / attrs["level0_magnification"])
    assert downsample == pytest.approx(0.5 / level0_mpp)
    side = round(attrs["patch_size"] * downsample)
    assert side == attrs["patch_size_level0"] == round(PIXELS * 0.5 / level0_mpp)
    assert 10 / attrs["level0_magnification"] == pytest.approx(level0_mpp)
    assert (attrs["name"], attrs["overlap"], attrs["patch_size"]) == ("A/B ä", 0, PIXELS)
    assert (attrs["level0_width"], attrs["level0_height"]) == (1000, 900)
    # CLAM would read patch_size pixels of patch_level, which are the patch at no reduction only
    assert attrs.get("patch_level") == (0 if level0_mpp == 0.5 else None)


@pytest.mark.parametrize("level0_mpp", [0.25, 0.2527])
def test_stamp_reads_features_and_corners_in_microns(tmp_path, level0_mpp):
    table, path = rows_of("a", level0_mpp=level0_mpp), tmp_path / "a.h5"
    latents = latents_of(table)
    features.write_features_h5(path, table, latents, ABOUT, reader="stamp")
    feats, coords_um, side_um, side_px = read_as_stamp(path)
    np.testing.assert_array_equal(feats, latents)
    np.testing.assert_allclose(coords_um, table[["x", "y"]] * level0_mpp, rtol=1e-6)
    assert (side_um, side_px) == (64.0, 128)
    # STAMP's heatmaps: the cell of a patch is its corner divided by its side
    assert np.rint(coords_um / side_um).astype(int).tolist() == [[0, i] for i in range(4)]


def test_the_file_of_one_tool_is_no_file_of_the_other(tmp_path):
    """Level-0 pixels must never be taken for microns, nor the other way around."""
    table = rows_of("a")
    for reader in ("clam", "stamp"):
        features.write_features_h5(tmp_path / f"{reader}.h5", table, latents_of(table), ABOUT, reader=reader)
    with pytest.raises(KeyError):
        read_as_clam(tmp_path / "stamp.h5")
    with pytest.raises(KeyError):
        read_as_stamp(tmp_path / "clam.h5")


# -- all forms


def write(form: str, path: Path, table: pd.DataFrame, latents: np.ndarray) -> None:
    if form in ("clam", "stamp"):
        features.write_features_h5(path, table, latents, ABOUT, reader=form)
    else:
        {"h5ad": tables.write_h5ad, "parquet": tables.write_parquet}[form](path, table, latents, ABOUT)


@pytest.mark.parametrize("form", ["h5ad", "parquet", "clam", "stamp"])
def test_the_same_input_gives_the_same_bytes(tmp_path, form):
    table = rows_of("a")
    write(form, tmp_path / "first", table, latents_of(table))
    start = int(time.time())
    while int(time.time()) == start:  # HDF5 would write times of whole seconds
        time.sleep(0.05)
    write(form, tmp_path / "second", table, latents_of(table))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("form", ["h5ad", "parquet", "clam", "stamp"])
def test_no_patches_and_other_latents_are_refused_and_leave_no_file(tmp_path, form):
    table = rows_of("a")
    for rows, latents, reason in (
        (table[:0], latents_of(table)[:0], "there are no patches"),
        (table, latents_of(table)[1:], "3 rows of latents for 4 patches"),
        (table.drop(columns="width"), latents_of(table), "lacks width"),
    ):
        with pytest.raises(DataError, match=reason):
            write(form, tmp_path / "a", rows, latents)
    assert not list(tmp_path.iterdir())


def test_a_file_of_features_refuses_several_slides_and_tiles(tmp_path):
    table = rows_of("a", "b")
    with pytest.raises(DataError, match="2 slides"):
        write("clam", tmp_path / "a", table, latents_of(table))
    tiles = rows_of("a").assign(width=np.nan, mpp=np.nan)
    with pytest.raises(DataError, match="tiles have no position"):
        write("stamp", tmp_path / "a", tiles, latents_of(tiles))
