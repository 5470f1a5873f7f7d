"""Pre-cut pictures: reduced or cut, in every usual kind, and those that can't be read."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histocae.errors import SlideError
from histocae.patches.store import PatchStore
from histocae.patches.tiles import read_tile
from support import make_data
from support.make_data import tissue, write_tile
from support.workspace import Workspace, slide_row

CUT = ("inventory", "metadata", "slides", "patches")
REASONS = ["kept", "background", "border", "capped", "unread", "dropped"]


def tile_row(path: str, slide_id: str = "s", number: int = 0) -> dict:
    row = slide_row(slide_id, number)
    row.pop("file_name")
    return {"path": path, **row}


def tiles(project: Workspace, pictures: dict[str, np.ndarray | Image.Image], **changed: object) -> None:
    """Give the project tiles of one slide s."""
    for name, picture in pictures.items():
        write_tile(project.own / name, picture)
    project.table([tile_row(name) for name in pictures])
    project.params(data__source="tiles", **changed)


def stored(project: Workspace) -> tuple[pd.DataFrame, np.ndarray]:
    store = PatchStore(project.folder / "data" / "patches")
    index = store.index()
    return index, store.select(index).take(np.arange(len(index)))


def told(project: Workspace) -> tuple[str, int]:
    """Give the reason and the patches kept of the one slide that was set aside."""
    table = project.read("reports/set_aside.csv")
    assert list(table["slide_id"]) == ["s"] and list(table["stage"]) == ["patches"]
    return table["reason"][0], table["patches_kept"][0]


def counts(project: Workspace) -> pd.Series:
    return project.read("reports/patching/counts.csv").set_index("slide_id").loc["s", REASONS]


def encoded(kind: str, side: int) -> bytes:
    handle = io.BytesIO()
    Image.fromarray(tissue(1, side, side)).save(handle, kind)
    return handle.getvalue()


def test_by_default_a_whole_tile_becomes_one_patch_with_no_filter_and_no_cap(project):
    pictures = {f"{i}.png": tissue(i, 64, 64) for i in range(6)} | {"glass.png": tissue(9, 64, 64, glass=64)}
    tiles(project, pictures)
    project.make(*CUT)
    index, patches = stored(project)
    assert list(index["file"]) == list(pictures)
    for picture, patch in zip(pictures.values(), patches, strict=True):
        expected = picture.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(patch - expected).mean() < 3  # about the mean of its pixels
    assert list(index["tissue_share"][-1:]) == [0] and index["mpp"].isna().all()
    assert set(index["row"]) == set(index["column"]) == set(index["x"]) == set(index["y"]) == {0}
    assert counts(project)["kept"] == 7


def test_a_tile_of_the_size_of_a_patch_stays_as_it_is(project):
    tiles(project, {"a.png": tissue(1, 32, 32), "b.tif": tissue(2, 32, 32)})
    np.testing.assert_array_equal(stored(project.make(*CUT))[1], [tissue(1, 32, 32), tissue(2, 32, 32)])


def test_of_an_oblong_tile_the_middle_is_taken(project):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, :32], wide[:, 32:64], wide[:, 64:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    tiles(project, {"wide.png": wide, "tall.png": wide.swapaxes(0, 1)})
    _, patches = stored(project.make(*CUT))
    assert (patches == (0, 200, 0)).all()


def test_tiles_are_cut_into_whole_patches_with_enough_tissue(project):
    pictures = {"a.png": tissue(1, 100, 70), "b.png": tissue(2, 64, 128, glass=64)}
    tiles(project, pictures, patches__tiles="cut")
    project.make(*CUT)
    index, patches = stored(project)
    assert index.groupby("file").size().to_dict() == {"a.png": 6, "b.png": 4}
    for row, patch in zip(index.itertuples(), patches, strict=True):
        assert (row.x, row.y) == (32 * row.column, 32 * row.row)
        np.testing.assert_array_equal(patch, pictures[row.file][row.y : row.y + 32, row.x : row.x + 32])
    assert counts(project).to_dict() == dict.fromkeys(REASONS, 0) | {"kept": 10, "background": 4, "border": 6}


def test_the_cap_over_tiles_is_a_seeded_sample_of_all_of_them(project):
    tiles(project, {f"{i}.png": tissue(i, 64, 64) for i in range(5)}, patches__tiles="cut", patches__max_per_slide=6)
    project.make(*CUT)
    index, _ = stored(project)
    assert len(index) == 6 and index["file"].nunique() > 1
    assert counts(project)["capped"] == 14
    write_tile(project.own / "t.png", tissue(7, 64, 64))
    project.table([*(tile_row(f"{i}.png") for i in range(5)), tile_row("t.png", "t", 1)])
    project.make(*CUT)
    again, _ = stored(project)
    pd.testing.assert_frame_equal(again[again["slide_id"] == "s"], index)


@pytest.mark.parametrize("how", ["reduce", "cut"])
def test_a_tile_smaller_than_a_patch_is_told_and_the_others_are_kept(project, how):
    tiles(project, {"a.png": tissue(1, 64, 64), "small.png": tissue(2, 20, 64)}, patches__tiles=how)
    project.make(*CUT)
    reason, kept = told(project)
    assert "small.png" in reason and "64 x 20" in reason and "smaller than a patch" in reason
    assert "patches.pixels" in reason and "20" in reason
    assert kept == len(project.index) == {"reduce": 1, "cut": 4}[how]


def picture_kinds() -> dict[str, Image.Image]:
    rgb = Image.fromarray(tissue(1, 32, 32))
    clear = rgb.copy()
    clear.putalpha(Image.fromarray(np.repeat([[0, 255]], 32, axis=0).repeat(16, axis=1).astype(np.uint8)))
    return {
        "palette.png": rgb.quantize(64),
        "gray.png": rgb.convert("L"),
        "gray.jpg": rgb.convert("L"),
        "bits.png": rgb.convert("1"),
        "rgba.png": clear,
        "gray alpha.png": clear.convert("LA"),
        "cmyk.jpg": rgb.convert("CMYK"),
        "cmyk.tif": rgb.convert("CMYK"),
        "rgba.tif": clear,
        "RGB.JPEG": rgb,
        "rgb.tiff": rgb,
        "deep name ü/rgb.png": rgb,
    }


def test_every_usual_kind_of_picture_becomes_rgb(project):
    kinds = picture_kinds()
    tiles(project, kinds)
    result = project.run(*CUT)
    assert result.code == 0 and not list(project.read("reports/set_aside.csv")["slide_id"])
    index, patches = stored(project)
    patches = dict(zip(index["file"], patches.astype(int), strict=True))
    assert set(patches) == set(kinds)
    rgb = tissue(1, 32, 32).astype(int)
    for name, patch in patches.items():
        if name.startswith(("gray", "bits")):
            assert (np.ptp(patch, axis=2) == 0).all()
        elif name.startswith("rgba"):
            assert (patch[:, :16] == 255).all()  # what is transparent shows white
            np.testing.assert_array_equal(patch[:, 16:], rgb[:, 16:])
        else:
            assert np.abs(patch - rgb).mean() < 25, name
    assert (patches["gray alpha.png"][:, :16] == 255).all()


@pytest.mark.parametrize("kind", ["16-bit.png", "16-bit.tif", "float.tif", "32-bit.tif"])
def test_more_than_eight_bits_are_refused_not_cut_off(project, kind):
    deep = {"1": np.uint16, "f": np.float32, "3": np.int32}[kind[0]]
    values = (np.arange(32 * 32).reshape(32, 32) * 60).astype(deep)
    tiles(project, {"a.png": tissue(1, 32, 32), kind: Image.fromarray(values)})
    project.make(*CUT)
    reason, kept = told(project)
    assert kind in reason and "8 bits" in reason and kept == 1


BROKEN = {
    "cut.png": ("PNG", lambda whole: whole[: len(whole) // 2]),
    "cut.jpg": ("JPEG", lambda whole: whole[: len(whole) // 2]),
    "cut.tif": ("TIFF", lambda whole: whole[: len(whole) // 2]),
    "head.tif": ("TIFF", lambda whole: whole[:60]),
    "text.png": ("PNG", lambda whole: b"no picture"),
    "empty.png": ("PNG", lambda whole: b""),
    "inside.png": ("PNG", lambda whole: whole[:60] + bytes(200) + whole[260:]),
}


@pytest.mark.parametrize("on_read_error", ["keep", "drop"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_tile_that_cannot_be_read(project, name, on_read_error):
    tiles(project, {f"{i}.png": tissue(i, 32, 32) for i in range(4)}, patches__on_read_error=on_read_error)
    kind, spoil = BROKEN[name]
    (project.own / name).write_bytes(spoil(encoded(kind, 64)))
    write_tile(project.own / "other.png", tissue(5, 32, 32))
    names = ["0.png", "1.png", name, "2.png", "3.png"]
    project.table([*(tile_row(one) for one in names), tile_row("other.png", "t", 1)])
    project.make(*CUT)
    reason, kept = told(project)
    assert name in reason and kept == {"keep": 4, "drop": 0}[on_read_error]
    assert project.index["slide_id"].value_counts().to_dict() == {"t": 1} | ({"s": 4} if kept else {})
    assert not project.leftovers()


def test_a_tile_that_cannot_be_read_is_counted(project):
    tiles(project, {f"{i}.png": tissue(i, 32, 32) for i in range(4)})
    (project.own / "1.png").write_bytes(b"no picture")
    project.make(*CUT)
    found = counts(project)
    assert found["kept"] == 3 and found["unread"] == 1


def test_tiles_that_fail_count_against_the_share_by_slide(project):
    tiles(project, {f"{i}.png": tissue(i, 32, 32) for i in range(4)}, data__max_failed_share=0.4)
    project.table([tile_row(f"{i}.png", f"s{i // 2}", i // 2) for i in range(4)])
    (project.own / "1.png").write_bytes(b"no picture")
    project.make(*CUT)  # one bad tile is told, but its slide has others
    (project.own / "0.png").write_bytes(b"no picture")
    told_line = project.run(*CUT).error
    assert "1 of 2 slides failed" in told_line and "data.max_failed_share" in told_line and "0.png" in told_line


def test_a_tile_that_changed_under_its_name_is_noticed(project):
    write_tile(project.own / "sub" / "b.png", tissue(2, 32, 32))
    tiles(project, {"a.png": tissue(1, 32, 32)})
    # however its path is spelt
    project.table([tile_row("a.png"), tile_row("sub//./b.png")])
    project.make(*CUT)
    now = {"a.png": tissue(1, 32, 32), "sub/b.png": tissue(2, 32, 32)}
    for name, seed in (("a.png", 7), ("sub/b.png", 8)):
        now[name] = tissue(seed, 32, 32)
        write_tile(project.own / name, now[name])
        project.make(*CUT)
        np.testing.assert_array_equal(stored(project)[1], list(now.values()))


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF"]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=4),
    length=st.integers(0, 2000),
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # warnings are the matter of the test above
def test_any_spoilt_picture_is_read_or_refused(tmp_path_factory, kind, changes, length):
    data = bytearray(encoded(kind, 16))
    for at, new in changes:
        data[at : at + len(new)] = new
    path: Path = tmp_path_factory.getbasetemp() / "spoilt.img"
    path.write_bytes(data[: len(data) - length] if length < 1000 else data)
    try:
        picture = read_tile(path)
    except SlideError as error:
        assert "spoilt.img" in str(error)
    else:
        assert picture.mode == "RGB"


def test_real_lung_tiles(project, shared):
    folder = shared / "lc25000_lung_tiles"
    groups = pd.read_csv(folder / "groups.csv")
    chosen = pd.concat(
        one[one["source_group"].isin(one["source_group"].unique()[:3])].groupby("source_group").head(4)
        for _, one in groups.groupby("class")
    )
    kinds = {"lung_aca": make_data.TUMOR, "lung_n": make_data.NORMAL}
    table = pd.DataFrame(
        {
            "path": chosen["path"],
            "slide_id": chosen["source_group"],
            "case_id": chosen["source_group"],
            "sample_type": chosen["class"].map(kinds),
        }
    )
    table.to_csv(project.own / "lung.csv", index=False)
    project.params(
        data__source="tiles", data__path=str(folder), data__table=str(project.own / "lung.csv"), patches__pixels=128
    )
    project.make()
    index, patches = stored(project)
    assert len(index) == 24 and patches.shape == (24, 128, 128, 3) and not len(project.read("reports/set_aside.csv"))
    for split in ("train", "validation", "test"):
        assert set(project.read(f"data/splits/{split}.csv")["sample_type"]) == set(kinds.values())


def test_real_crops_of_one_class(project, shared):
    folder = shared / "tcga_paad_crops"
    crops = pd.read_csv(folder / "crops.csv")
    table = pd.DataFrame(
        {"path": crops["file"], "slide_id": crops["case"], "case_id": crops["case"], "sample_type": make_data.TUMOR}
    )
    table.to_csv(project.own / "crops.csv", index=False)
    project.params(
        data__source="tiles",
        data__path=str(folder),
        data__table=str(project.own / "crops.csv"),
        patches__pixels=128,
        patches__tiles="cut",
        patches__max_per_slide=8,
    )
    project.make()
    assert set(project.index["sample_type"]) == {make_data.TUMOR}
    assert project.index["slide_id"].nunique() == len(crops) and len(project.index) <= 8 * len(crops)
