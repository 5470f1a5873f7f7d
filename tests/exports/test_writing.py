"""Patches of several slides in all forms: what is in memory, what tiles lack, and which bytes are written."""

import json
import weakref
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from histocae.errors import DataError
from histocae.exports import forms, writing
from histocae.exports.columns import About, SlidePatches

ABOUT = About(model="all", weights="w", pixels=32, mpp=0.5, version="1")
COUNT = 3  # latents of a patch


def table_of(slide_id: str, tiles: bool) -> pd.DataFrame:
    rows = 2 + len(slide_id)
    table = pd.DataFrame({"slide_id": slide_id, "x": np.arange(rows) * 64, "y": 0}, index=range(rows))
    if tiles:
        table["file"] = "1.png"
    sides = {"width": np.nan, "mpp": np.nan} if tiles else {"width": 64.0, "mpp": 0.5}
    return table.assign(**sides, tissue_share=1.0, error=np.linspace(0, 1, rows))


def latents_of(slide_id: str) -> np.ndarray:
    return np.full((2 + len(slide_id), COUNT), len(slide_id), np.float32)


def slide(slide_id: str, *, tiles: bool = False) -> SlidePatches:
    return SlidePatches(
        slide_id=slide_id,
        stem=f"file of {slide_id}",
        table=partial(table_of, slide_id, tiles),
        latents=partial(latents_of, slide_id),
        count=COUNT,
        tiles=tiles,
    )


class Watched:
    """Latents of a slide, and how many arrays of latents were alive at most."""

    def __init__(self):
        self.alive: list[weakref.ref] = []
        self.most = 0

    def read(self, slide_id: str) -> np.ndarray:
        latents = latents_of(slide_id)
        self.alive = [reference for reference in self.alive if reference() is not None] + [weakref.ref(latents)]
        self.most = max(self.most, len(self.alive))
        return latents


@pytest.mark.parametrize("form", forms.FORMS)
def test_latents_of_one_slide_at_a_time_are_read(tmp_path, form):
    watched = Watched()
    slides = [
        SlidePatches(
            slide_id=name,
            stem=name,
            table=partial(table_of, name, False),
            latents=partial(watched.read, name),
            count=COUNT,
        )
        for name in ("a", "bb", "ccc")
    ]
    writing.write(tmp_path, [form], slides, ABOUT)
    assert watched.most == 1


def test_parquet_has_a_row_group_for_each_slide_and_null_where_a_slide_lacks_a_column(tmp_path):
    writing.write(tmp_path, ["parquet"], [slide("a"), slide("t", tiles=True), slide("bb")], ABOUT)
    file = pq.ParquetFile(tmp_path / "latents.parquet")
    assert [file.read_row_group(i)["slide_id"].unique().to_pylist() for i in range(3)] == [["a"], ["t"], ["bb"]]
    assert file.num_row_groups == 3
    table = pd.read_parquet(tmp_path / "latents.parquet")
    expected = pd.concat([table_of("a", False), table_of("t", True), table_of("bb", False)], ignore_index=True)
    for name in expected:
        assert table[name].isna().equals(expected[name].isna()) and table[name].dropna().equals(
            expected[name].dropna()
        )
    np.testing.assert_array_equal(np.stack(table["latent"])[:, 0], [1] * 6 + [2] * 4)
    about = json.loads(file.schema_arrow.metadata[b"histocae"])
    assert about["model"] == "all" and set(about["columns"]) == set(expected)


def test_tiles_among_slides_have_no_position_and_no_file(tmp_path, caplog):
    writing.write(tmp_path, forms.FORMS, [slide("a"), slide("t", tiles=True)], ABOUT)
    assert caplog.messages == [
        f"{name} lacks 1 slide: tiles have no position on a slide: t" for name in ("h5_files", "h5_stamp")
    ]
    data = anndata.read_h5ad(tmp_path / "latents.h5ad")
    of_tiles = (data.obs["slide_id"] == "t").to_numpy()
    assert np.isnan(data.obsm["spatial"][of_tiles]).all() and np.isfinite(data.obsm["spatial"][~of_tiles]).all()
    assert [path.name for path in (tmp_path / "h5_files").iterdir()] == ["file of a.h5"]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_slides_give_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        writing.write(tmp_path / name, forms.FORMS, [slide("a"), slide("bb"), slide("t", tiles=True)], ABOUT)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other") and len(bytes_of(tmp_path / "one")) == 6


@pytest.mark.parametrize("form", forms.FORMS)
def test_other_latents_and_no_slides_are_refused_and_leave_no_file(tmp_path, form):
    wrong = SlidePatches(
        slide_id="b",
        stem="b",
        table=partial(table_of, "b", False),
        latents=lambda: latents_of("b")[1:],
        count=COUNT,
    )
    with pytest.raises(DataError, match="2 rows of latents for 3 patches"):
        writing.write(tmp_path, [form], [slide("a"), wrong], ABOUT)
    with pytest.raises(DataError, match="no slides"):
        writing.write(tmp_path, [form], [], ABOUT)
    assert not list(tmp_path.iterdir())


def test_forms_that_need_positions_are_refused_by_name_and_left_out_of_all():
    assert forms.allowed(["all"], positions=False, option="--form") == ["h5ad", "parquet"]
    assert forms.allowed(["stamp", "h5ad"], positions=True, option="--form") == ["h5ad", "stamp"]
    with pytest.raises(DataError, match="which --form stamp needs; use --form h5ad or --form parquet"):
        forms.allowed(["h5ad", "stamp"], positions=False, option="--form")
