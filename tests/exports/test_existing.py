"""What is there already is replaced only if histocae wrote it."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from histocae.errors import DataError
from histocae.exports import existing, writing
from histocae.exports.columns import About, SlidePatches
from histocae.exports.forms import ALL, FORMS

ABOUT = About(model="all", weights="w", pixels=32, mpp=0.5, version="1")
TABLE = pd.DataFrame({"slide_id": ["a", "a"], "x": [0, 64], "y": 0, "width": 64.0, "mpp": 0.5, "tissue_share": 1.0})
LATENTS = np.ones((2, 3), np.float32)
SLIDE = SlidePatches(slide_id="a", stem="a", table=lambda: TABLE, latents=lambda: LATENTS, count=3)


@pytest.fixture
def written(tmp_path) -> Path:
    """A folder with all forms."""
    writing.write(tmp_path / "ex", FORMS, [SLIDE], ABOUT)
    return tmp_path / "ex"


def text(path: Path) -> None:
    path.write_text("a user's own")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def features_of_another_encoder(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = LATENTS
        file["features"].attrs["encoder"] = "uni_v1"


def parquet_of_pandas(path: Path) -> None:
    TABLE.to_parquet(path)


def neighbors_of_scanpy(path: Path) -> None:
    data = anndata.read_h5ad(path)
    data.uns["neighbors"] = {"connectivities_key": "connectivities"}
    data.write(path)


def annotated(path: Path) -> None:
    data = anndata.read_h5ad(path)
    data.obs["my_label"] = "tumor nest"
    data.write(path)


def test_what_histocae_wrote_is_replaced(written):
    (written / "h5_files" / ".DS_Store").write_text("of a file browser")
    existing.check(written, [ALL])
    existing.check(written / "not there", [ALL])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("h5_files/mine.h5", text),
        ("h5_files/mine.h5", features_of_another_encoder),
        ("h5_files/notes.txt", text),
        ("h5_files/.mine", text),
        ("h5_stamp/mine", folder),
        ("h5_stamp/mine.h5", folder),
        ("latents.h5ad", text),
        ("latents.h5ad", folder),
        ("latents.h5ad", neighbors_of_scanpy),
        ("latents.h5ad", annotated),
        ("latents.parquet", text),
        ("latents.parquet", parquet_of_pandas),
    ],
)
def test_what_a_user_wrote_is_named_in_one_line(written, name, change):
    change(written / name)
    before = {path: path.is_dir() or path.read_bytes() for path in written.rglob("*")}
    for refuse in (lambda: existing.check(written, [ALL]), lambda: writing.write(written, FORMS, [SLIDE], ABOUT)):
        with pytest.raises(DataError, match=r"not written by histocae.* by --out") as error:
            refuse()
        assert str(error.value).startswith(f"{written / name}: exists")
    assert {path: path.is_dir() or path.read_bytes() for path in written.rglob("*")} == before


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    text(tmp_path / "h5_files")
    with pytest.raises(DataError, match="h5_files: exists"):
        existing.check(tmp_path, ["h5"])
    existing.check(tmp_path, ["stamp", "h5ad"])


def test_a_table_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "slides.csv"
    existing.check_table(path, ("a", "b"))
    path.write_text("a,b\n1,2\n")
    existing.check_table(path, ("a", "b"))
    path.write_text("a,b,mine\n1,2,3\n")
    with pytest.raises(DataError, match=r"slides\.csv: exists"):
        existing.check_table(path, ("a", "b"))
