"""Pre-cut tiles: reduced or divided, of every usual kind, and tiles that can't be read."""

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histocae.errors import SlideError
from histocae.patches.store import PatchStore
from histocae.patches.tiles import read_tile
from support import make_data
from support.make_data import tissue, write_tile
from support.workspace import Workspace, slide_row

EXTRACTION = ("inventory", "metadata", "slides", "patches")
REASONS = ["kept", "background", "border", "capped", "unread", "dropped"]


def tile_row(path: str, slide_id: str = "s", number: int = 0) -> dict:
    row = slide_row(slide_id, number)
    row.pop("file_name")
    return {"path": path, **row}


def add_tiles(project: Workspace, images: dict[str, np.ndarray | Image.Image], **changed: object) -> None:
    """Write tiles of one slide, s, and the params to use them."""
    for name, image in images.items():
        write_tile(project.own / name, image)
    project.table([tile_row(name) for name in images])
    project.params(data__source="tiles", **changed)


def read_store(project: Workspace) -> tuple[pd.DataFrame, np.ndarray]:
    store = PatchStore(project.folder / "data" / "patches")
    index = store.index()
    return index, store.select(index).take(np.arange(len(index)))


def read_set_aside(project: Workspace) -> tuple[str, int]:
    """Read the reason and the number of kept patches of slide s, the only one set aside."""
    table = project.read("reports/set_aside.csv")
    assert list(table["slide_id"]) == ["s"] and list(table["stage"]) == ["patches"]
    return table["reason"][0], table["patches_kept"][0]


def counts(project: Workspace) -> pd.Series:
    return project.read("reports/patching/counts.csv").set_index("slide_id").loc["s", REASONS]


def encoded(kind: str, side: int) -> bytes:
    handle = io.BytesIO()
    Image.fromarray(tissue(1, side, side)).save(handle, kind)
    return handle.getvalue()


def test_by_default_a_whole_tile_becomes_one_patch_without_filter(project):
    images = {f"{i}.png": tissue(i, 64, 64) for i in range(6)} | {"glass.png": tissue(9, 64, 64, glass=64)}
    add_tiles(project, images)
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    assert list(index["file"]) == list(images)
    for image, patch in zip(images.values(), patches, strict=True):
        expected = image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(patch - expected).mean() < 3  # about the mean of its pixels
    assert list(index["tissue_share"][-1:]) == [0] and index["mpp"].isna().all()
    assert set(index["row"]) == set(index["column"]) == set(index["x"]) == set(index["y"]) == {0}
    assert counts(project)["kept"] == 7


def test_a_tile_of_the_size_of_a_patch_is_not_changed(project):
    add_tiles(project, {"a.png": tissue(1, 32, 32), "b.tif": tissue(2, 32, 32)})
    np.testing.assert_array_equal(read_store(project.make(*EXTRACTION))[1], [tissue(1, 32, 32), tissue(2, 32, 32)])


def test_the_middle_of_an_oblong_tile_becomes_the_patch(project):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, :32], wide[:, 32:64], wide[:, 64:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    add_tiles(project, {"wide.png": wide, "tall.png": wide.swapaxes(0, 1)})
    _, patches = read_store(project.make(*EXTRACTION))
    assert (patches == (0, 200, 0)).all()


def test_tiles_are_divided_into_whole_patches_with_enough_tissue(project):
    images = {"a.png": tissue(1, 100, 70), "b.png": tissue(2, 64, 128, glass=64)}
    add_tiles(project, images, patches__tiles="cut")
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    assert index.groupby("file").size().to_dict() == {"a.png": 6, "b.png": 4}
    for row, patch in zip(index.itertuples(), patches, strict=True):
        assert (row.x, row.y) == (32 * row.column, 32 * row.row)
        np.testing.assert_array_equal(patch, images[row.file][row.y : row.y + 32, row.x : row.x + 32])
    assert counts(project).to_dict() == dict.fromkeys(REASONS, 0) | {"kept": 10, "background": 4, "border": 6}


def test_the_cap_is_a_seeded_sample_over_all_tiles_of_a_slide(project):
    add_tiles(
        project, {f"{i}.png": tissue(i, 64, 64) for i in range(5)}, patches__tiles="cut", patches__max_per_slide=6
    )
    project.make(*EXTRACTION)
    index, _ = read_store(project)
    assert len(index) == 6 and index["file"].nunique() > 1
    assert counts(project)["capped"] == 14
    write_tile(project.own / "t.png", tissue(7, 64, 64))
    project.table([*(tile_row(f"{i}.png") for i in range(5)), tile_row("t.png", "t", 1)])
    project.make(*EXTRACTION)
    index_after, _ = read_store(project)
    pd.testing.assert_frame_equal(index_after[index_after["slide_id"] == "s"], index)


def test_the_cap_holds_for_tiles_that_are_reduced_and_counts_only_those_that_can_be_read(project):
    add_tiles(project, {f"{i}.png": tissue(i, 64, 64) for i in range(5)}, patches__max_per_slide=3)
    (project.own / "0.png").write_bytes(b"no image")
    project.params(data__source="tiles", patches__max_per_slide=3, patches__on_read_error="keep")
    project.run(*EXTRACTION)
    index, patches = read_store(project)
    assert len(index) == 3 and set(index["file"]) < {f"{i}.png" for i in range(1, 5)}
    assert counts(project).to_dict() == dict.fromkeys(REASONS, 0) | {"kept": 3, "capped": 1, "unread": 1}
    expected = tissue(int(index["file"][0][0]), 64, 64).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(patches[0] - expected).mean() < 3


@pytest.mark.parametrize("method", ["reduce", "cut"])
def test_a_tile_smaller_than_a_patch_is_reported_and_the_others_are_kept(project, method):
    add_tiles(project, {"a.png": tissue(1, 64, 64), "small.png": tissue(2, 20, 64)}, patches__tiles=method)
    project.make(*EXTRACTION)
    reason, kept = read_set_aside(project)
    assert "small.png" in reason and "64 x 20" in reason and "smaller than a patch" in reason
    assert "patches.pixels" in reason and "20" in reason
    assert kept == len(project.index) == {"reduce": 1, "cut": 4}[method]


def images_of_every_kind() -> dict[str, Image.Image]:
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


def test_every_usual_kind_of_image_becomes_rgb(project):
    images = images_of_every_kind()
    add_tiles(project, images)
    result = project.run(*EXTRACTION)
    assert result.code == 0 and not list(project.read("reports/set_aside.csv")["slide_id"])
    index, patches = read_store(project)
    patches = dict(zip(index["file"], patches.astype(int), strict=True))
    assert set(patches) == set(images)
    rgb = tissue(1, 32, 32).astype(int)
    for name, patch in patches.items():
        if name.startswith(("gray", "bits")):
            assert (np.ptp(patch, axis=2) == 0).all()
        elif name.startswith("rgba"):
            assert (patch[:, :16] == 255).all()  # transparent pixels become white
            np.testing.assert_array_equal(patch[:, 16:], rgb[:, 16:])
        else:
            assert np.abs(patch - rgb).mean() < 25, name
    assert (patches["gray alpha.png"][:, :16] == 255).all()


@pytest.mark.parametrize("opacity", ["assocalpha", "unassalpha"])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_transparent_pixels_of_a_tiff_become_white(tmp_path, photometric, opacity):
    colors = tissue(1, 32, 32)[..., : 1 if photometric == "minisblack" else 3]
    opaque = np.repeat([[0, 255]], 32, axis=0).repeat(16, axis=1).astype(np.uint8)
    channels = np.dstack([colors, opaque])
    (tmp_path / "a.tif").write_bytes(
        tiff(channels, photometric=photometric, planarconfig="contig", extrasamples=[opacity])
    )
    pixels = np.asarray(read_tile(tmp_path / "a.tif"))
    assert (pixels[:, :16] == 255).all()
    np.testing.assert_array_equal(pixels[:, 16:], np.broadcast_to(colors[:, 16:], (32, 16, 3)))


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    tifffile.imwrite(handle := io.BytesIO(), pixels, metadata=None, **options)
    return handle.getvalue()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    image.save(handle := io.BytesIO(), kind, **options)
    return handle.getvalue()


RGB = tissue(1, 32, 32)
DEEP = RGB.astype(np.uint16) << 4  # 12 of 16 bits, as cameras deliver them
OTHER = Image.fromarray(tissue(2, 32, 32))
UNUSABLE = {
    "rgb.png": (imagecodecs.png_encode(DEEP), "has 16 bits a channel; convert it to 8 bits"),
    "gray.png": (imagecodecs.png_encode(DEEP[..., 0].copy()), "has 16 bits a channel"),
    "rgba.png": (imagecodecs.png_encode(np.dstack([DEEP, DEEP[..., :1]])), "has 16 bits a channel"),
    "rgb.tif": (tiff(DEEP, photometric="rgb"), "has 16 bits a channel"),
    "deflate.tif": (tiff(DEEP, photometric="rgb", compression="deflate"), "has 16 bits a channel"),
    "bigendian.tif": (tiff(DEEP, photometric="rgb", byteorder=">"), "has 16 bits a channel"),
    "gray.tif": (tiff(DEEP[..., 0]), "has 16 bits a channel"),
    "fractions.tif": (tiff(RGB.astype(np.float32), photometric="rgb"), "has 32 bits a channel"),
    "integers.tif": (tiff(RGB[..., 0].astype(np.int32)), "has 32 bits a channel"),
    "signed.tif": (tiff(RGB[..., 0].astype(np.int8)), "has signed integers as pixels"),
    "12.jpg": (imagecodecs.jpeg_encode(DEEP >> 4 << 4, bitspersample=12), "has 12 bits a channel"),
    "lab.tif": (tiff(RGB, photometric="cielab"), "has colors of the kind CIELAB"),
    "five.tif": (tiff(np.dstack([RGB, RGB[..., :2]]), photometric="rgb"), "has 5 channels, of which 3"),
    "gray and another.tif": (
        tiff(RGB[..., :2].copy(), photometric="minisblack", planarconfig="contig"),
        "has 2 channels, of which 1 would be read; convert it to 8-bit RGB",
    ),
    "rgb and another.tif": (
        tiff(np.dstack([RGB, RGB[..., :1]]), photometric="rgb", extrasamples=["unspecified"]),
        "has 4 channels, of which 3 would be read; convert it to 8-bit RGB",
    ),
    "pages.tif": (tiff(np.stack([RGB, RGB]), photometric="rgb"), "has 2 pages, of which one"),
    "animated.png": (saved(OTHER, "PNG", save_all=True, append_images=[OTHER.rotate(90)]), "is animated"),
    "2000.jp2": (saved(OTHER, "JPEG2000"), "can't be read as an image (PNG, JPEG, TIFF)"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_pixels_that_would_be_reduced_silently_are_refused(project, name):
    add_tiles(project, {"a.png": tissue(1, 32, 32)}, patches__on_read_error="keep")
    data, problem = UNUSABLE[name]
    (project.own / name).write_bytes(data)
    project.table([tile_row("a.png"), tile_row(name)])
    project.make(*EXTRACTION)
    reason, kept = read_set_aside(project)
    assert f"{name}: {problem}" in reason and kept == 1 and len(project.index) == 1


def test_a_tile_that_is_read_but_not_used_does_not_drop_the_others(project):
    add_tiles(project, {"a.png": tissue(1, 32, 32), "small.png": tissue(2, 20, 32)}, patches__on_read_error="drop")
    (project.own / "deep.png").write_bytes(UNUSABLE["rgb.png"][0])
    project.table([tile_row(name) for name in ("a.png", "small.png", "deep.png")])
    project.make(*EXTRACTION)
    reason, kept = read_set_aside(project)
    assert "small.png" in reason and "1 more" in reason and kept == 1 and counts(project)["unread"] == 2
    assert "deep.png" in project.read("reports/patching/failures.csv")["reason"][1]


def test_smaller_copies_and_masks_in_a_tiff_are_no_further_pages(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(RGB, photometric="rgb", metadata=None)
        writer.write(RGB[::2, ::2].copy(), photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_tile(path), RGB)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiles_are_turned_as_their_orientation_says(tmp_path, kind, orientation):
    upright = np.kron([[200, 150, 100], [50, 0, 250]], np.ones((16, 16)))[..., None].repeat(3, 2).astype(np.uint8)
    # TIFF's orientation: where the first row and the first column of the stored pixels are
    stored = upright.swapaxes(0, 1) if orientation > 4 else upright
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (0,), 7: (0, 1), 8: (1,)}
    stored = np.flip(stored, flips.get(orientation, ()))
    exif = Image.Exif()
    exif[274] = orientation
    quality = {"quality": 95} if kind == "JPEG" else {}
    (tmp_path / "a").write_bytes(saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **quality))
    image = np.asarray(read_tile(tmp_path / "a")).astype(int)
    assert image.shape == upright.shape and np.abs(image - upright).mean() < 3


def test_gray_tiles_are_reduced_but_not_cut(project):
    gray = np.repeat(tissue(2, 64, 64)[..., :1], 3, axis=2)
    images = {"a.png": tissue(1, 64, 64), "gray.png": Image.fromarray(gray), "l.png": Image.fromarray(gray[..., 0])}
    add_tiles(project, images)
    assert len(project.make(*EXTRACTION).index) == 3
    project.params(data__source="tiles", patches__tiles="cut")
    project.make(*EXTRACTION)
    reason, kept = read_set_aside(project)
    assert "gray.png: is gray: tissue is found by its color" in reason and "1 more" in reason and kept == 4
    project.params(data__source="tiles", patches__tiles="cut", patches__tissue_share=0.0)
    assert len(project.make("patches").index) == 12


DAMAGED = {
    "truncated.png": ("PNG", lambda data: data[: len(data) // 2]),
    "truncated.jpg": ("JPEG", lambda data: data[: len(data) // 2]),
    "truncated.tif": ("TIFF", lambda data: data[: len(data) // 2]),
    "header.tif": ("TIFF", lambda data: data[:60]),
    "text.png": ("PNG", lambda data: b"no image"),
    "empty.png": ("PNG", lambda data: b""),
    "inside.png": ("PNG", lambda data: data[:60] + bytes(200) + data[260:]),
}


@pytest.mark.parametrize("on_read_error", ["keep", "drop"])
@pytest.mark.parametrize("name", DAMAGED)
def test_an_unreadable_tile_is_reported_and_the_others_kept_or_dropped(project, name, on_read_error):
    add_tiles(project, {f"{i}.png": tissue(i, 32, 32) for i in range(4)}, patches__on_read_error=on_read_error)
    kind, damage = DAMAGED[name]
    (project.own / name).write_bytes(damage(encoded(kind, 64)))
    write_tile(project.own / "other.png", tissue(5, 32, 32))
    names = ["0.png", "1.png", name, "2.png", "3.png"]
    project.table([*(tile_row(path) for path in names), tile_row("other.png", "t", 1)])
    project.make(*EXTRACTION)
    reason, kept = read_set_aside(project)
    assert name in reason and kept == {"keep": 4, "drop": 0}[on_read_error]
    assert project.index["slide_id"].value_counts().to_dict() == {"t": 1} | ({"s": 4} if kept else {})
    assert not project.leftovers()


def test_an_unreadable_tile_is_counted(project):
    add_tiles(project, {f"{i}.png": tissue(i, 32, 32) for i in range(4)}, patches__on_read_error="keep")
    (project.own / "1.png").write_bytes(b"no image")
    project.make(*EXTRACTION)
    cells = counts(project)
    assert cells["kept"] == 3 and cells["unread"] == 1


def test_a_slide_fails_only_when_all_its_tiles_are_unreadable(project):
    images = {f"{i}.png": tissue(i, 32, 32) for i in range(4)}
    add_tiles(project, images, data__max_failed_share=0.4, patches__on_read_error="keep")
    project.table([tile_row(f"{i}.png", f"s{i // 2}", i // 2) for i in range(4)])
    (project.own / "1.png").write_bytes(b"no image")
    project.make(*EXTRACTION)  # the unreadable tile is reported, but its slide has another tile
    (project.own / "0.png").write_bytes(b"no image")
    project.forget("0.png")
    message = project.run(*EXTRACTION).error
    assert "1 of 2 slides failed" in message and "data.max_failed_share" in message and "0.png" in message


def test_the_patches_of_a_changed_tile_are_extracted_again(project):
    write_tile(project.own / "sub" / "b.png", tissue(2, 32, 32))
    add_tiles(project, {"a.png": tissue(1, 32, 32)})
    # also where the table writes a path differently
    project.table([tile_row("a.png"), tile_row("sub//./b.png")])
    project.make(*EXTRACTION)
    images = {"a.png": tissue(1, 32, 32), "sub/b.png": tissue(2, 32, 32)}
    for name, seed in (("a.png", 7), ("sub/b.png", 8)):
        images[name] = tissue(seed, 32, 32)
        write_tile(project.own / name, images[name])
        project.forget(name)
        project.make(*EXTRACTION)
        np.testing.assert_array_equal(read_store(project)[1], list(images.values()))


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF"]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=4),
    length=st.integers(0, 2000),
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of damage; only the result matters
def test_any_damaged_image_is_read_or_refused(tmp_path_factory, kind, changes, length):
    data = bytearray(encoded(kind, 16))
    for start, replacement in changes:
        data[start : start + len(replacement)] = replacement
    path: Path = tmp_path_factory.getbasetemp() / "damaged.img"
    path.write_bytes(data[: len(data) - length] if length < 1000 else data)
    try:
        image = read_tile(path)
    except SlideError as error:
        assert "damaged.img" in str(error)
    else:
        assert image.mode == "RGB"


def test_real_lung_tiles(project, shared):
    folder = shared / "lc25000_lung_tiles"
    groups = pd.read_csv(folder / "groups.csv")
    chosen = pd.concat(
        rows[rows["source_group"].isin(rows["source_group"].unique()[:3])].groupby("source_group").head(4)
        for _, rows in groups.groupby("class")
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
    index, patches = read_store(project)
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
