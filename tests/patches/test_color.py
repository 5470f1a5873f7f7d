"""Gray patches and normalized stains: the ablations of color, from every source."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torchstain
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from PIL import Image

from histocae.errors import SlideError
from histocae.patches import color
from histocae.patches.conversion import convert
from histocae.patches.store import PatchStore
from support.make_data import GLASS, tissue, write_slide, write_tile
from support.workspace import Workspace, slide_row

EXTRACTION = ("inventory", "metadata", "slides", "patches")
HEMATOXYLIN, EOSIN = np.array([0.62, 0.69, 0.38]), np.array([0.22, 0.83, 0.51])
patch_arrays = stn.arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(6), st.just(6), st.just(3)))


def paint_tissue(
    seed: int, side: int, stains: tuple[np.ndarray, np.ndarray] = (HEMATOXYLIN, EOSIN), dye: float = 1.0
) -> np.ndarray:
    """Paint two stains on glass, uint8 RGB; `seed` sets their amounts, `stains` and `dye` their colors."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(1.5, 0.35, (2, side // 4, side // 4)).repeat(4, 1).repeat(4, 2)
    density = dye * (amounts[0][..., None] * stains[0] + amounts[1][..., None] * stains[1])
    return np.rint(240 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)


def read_patches(project: Workspace) -> np.ndarray:
    store = PatchStore(project.folder / "data" / "patches")
    index = store.index()
    return store.select(index).take(np.arange(len(index)))


def read_shards(project: Workspace) -> dict[str, bytes]:
    return {path: data for path, data in project.outputs("data/patches").items() if path.endswith(".npy")}


def read_set_aside(project: Workspace) -> dict[str, tuple[str, int]]:
    table = project.read("reports/set_aside.csv")
    return {row.slide_id: (row.reason, row.patches_kept) for row in table.itertuples()}


# --- colors of patches ---------------------------------------------------------------------------


@given(patch_arrays)
def test_gray_patches_have_pillows_luma_in_every_channel(patches):
    gray = convert(patches, "grey")
    assert gray.dtype == np.uint8 and gray.shape == patches.shape
    for patch, gray_patch in zip(patches, gray, strict=True):
        luma = np.asarray(Image.fromarray(patch).convert("L"))
        assert all((gray_patch[..., channel] == luma).all() for channel in range(3))
    exact = patches @ np.array([0.299, 0.587, 0.114])
    assert not len(patches) or np.abs(gray[..., 0] - exact).max() <= 1


@given(patch_arrays)
def test_rgb_patches_are_not_changed(patches):
    assert convert(patches, "rgb") is patches


def test_one_image_is_normalized_as_by_torchstain():
    image = paint_tissue(1, 128, (np.array([0.55, 0.78, 0.3]), np.array([0.1, 0.9, 0.42])))
    normalizer = torchstain.normalizers.MacenkoNormalizer(backend="numpy")
    expected, _, _ = normalizer.normalize(image, stains=False)
    normalized = convert(image[None], "macenko", color.estimate(image[None]))[0]
    assert np.abs(normalized.astype(int) - expected).max() <= 1  # torchstain truncates, histocae rounds


def test_one_tissue_in_two_stainings_looks_alike_once_normalized():
    other_stains = (np.array([0.50, 0.75, 0.43]), np.array([0.10, 0.90, 0.42]))
    first, second = paint_tissue(1, 128)[None], paint_tissue(1, 128, other_stains, 0.6)[None]
    before = np.abs(first.astype(int) - second).mean()
    first, second = (convert(patches, "macenko", color.estimate(patches)) for patches in (first, second))
    assert before > 25 and np.abs(first.astype(int) - second).mean() < 4


def test_normalized_glass_stays_white():
    patches = np.stack([paint_tissue(1, 64), np.full((64, 64, 3), 240, np.uint8)])
    assert (convert(patches, "macenko", color.estimate(patches))[1] >= 238).all()


def test_stains_are_estimated_for_the_slide_and_not_for_a_patch():
    patches = np.stack([paint_tissue(i, 32) for i in range(200)])
    patches[3] = patches[3] // 8  # too dark to estimate stains from
    stains = color.estimate(patches)
    whole = convert(patches, "macenko", stains)
    parts = np.concatenate([convert(patches[i : i + 7], "macenko", stains) for i in range(0, 200, 7)])
    assert np.abs(whole.astype(int) - parts).max() <= 1
    stains_of_few = color.estimate(patches[:: 199 // 63])
    assert np.abs(convert(patches, "macenko", stains_of_few).astype(int) - whole).mean() < 3


@pytest.mark.parametrize(
    ("make_image", "reason"),
    [
        (lambda: np.full((64, 64, 3), GLASS, np.uint8), "0 of 4096 pixels show stained tissue"),
        (lambda: paint_tissue(1, 24), "pixels show stained tissue, and it takes 1000"),
        (lambda: np.full((64, 64, 3), (120, 60, 140), np.uint8), "one stain only"),
        (lambda: convert(tissue(1, 64, 64)[None] // 2, "grey")[0], "one stain only"),
        (lambda: paint_tissue(1, 64, (HEMATOXYLIN, HEMATOXYLIN)), "one stain only"),
    ],
)
def test_the_reason_is_reported_where_stains_cannot_be_estimated(make_image, reason):
    with pytest.raises(SlideError, match=reason) as error:
        color.estimate(make_image()[None])
    assert "patches.color" in str(error.value)


@settings(max_examples=60)
@given(image=stn.arrays(np.uint8, (40, 40, 3)), spread=st.sampled_from([1, 4, 64]), base=st.integers(0, 255))
def test_any_image_is_normalized_or_refused(image, spread, base):
    patches = (base + image.astype(int) // spread).clip(0, 255).astype(np.uint8)[None]
    try:
        stains = color.estimate(patches)
    except SlideError:
        return
    assert np.isfinite(stains).all()
    normalized = convert(patches, "macenko", stains)
    assert normalized.dtype == np.uint8 and normalized.shape == patches.shape


# --- in the pipeline -----------------------------------------------------------------------------


def add_slides(project: Workspace) -> dict:
    """Write two slides into the project, and return the params that they need."""
    for i, name in enumerate("ab"):
        write_slide(project.own / f"{name}.tif", paint_tissue(i, 256), 0.5, lossless=True)
    project.table([slide_row(name, i) for i, name in enumerate("ab")])
    return {}


def add_tiles(project: Workspace) -> dict:
    rows = []
    for i in range(6):
        write_tile(project.own / f"{i}.png", paint_tissue(i, 96))
        rows.append({**slide_row("ab"[i % 2], i % 2), "path": f"{i}.png"})
        del rows[-1]["file_name"]
    project.table(rows)
    return {"data__source": "tiles"}


SOURCES = {
    "slides": add_slides,
    "demo": lambda _: {"data__source": "demo", "data__demo__cases": 6, "data__demo__side_microns": 128.0},
    "reduce": add_tiles,
    "cut": lambda project: add_tiles(project) | {"patches__tiles": "cut"},
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_patches_of_every_source_have_the_color_set_in_params(project, source):
    params = SOURCES[source](project)
    project.params(**params)
    project.make(*EXTRACTION)
    rgb, index = read_patches(project), project.index.drop(columns="shard")
    before = set(read_shards(project))

    project.params(**params, patches__color="grey")
    project.make("patches")
    assert before.isdisjoint(read_shards(project))
    np.testing.assert_array_equal(read_patches(project), convert(rgb, "grey"))
    # the tissue mask is computed from the colors, whatever is stored
    assert project.index.drop(columns="shard").equals(index)

    project.params(**params, patches__color="macenko")
    project.make("patches")
    assert project.index.drop(columns="shard").equals(index) and not read_set_aside(project)
    normalized = read_patches(project)
    for slide in index["slide_id"].unique():
        of_slide = (index["slide_id"] == slide).to_numpy()
        expected = convert(rgb[of_slide], "macenko", color.estimate(rgb[of_slide]))
        assert np.abs(normalized[of_slide].astype(int) - expected).max() <= 1
    assert (normalized != rgb).mean() > 0.5
    normalized_shards = read_shards(project)
    for path in (project.folder / "data/patches/shards").glob("*.json"):
        path.unlink()
    assert read_shards(project.make("patches")) == normalized_shards and not project.leftovers()


@pytest.mark.parametrize("on_read_error", ["keep", "drop"])
def test_a_slide_whose_stains_cannot_be_estimated_is_set_aside(project, on_read_error):
    add_slides(project)
    write_slide(project.own / "onestain.tif", paint_tissue(3, 256, (HEMATOXYLIN, HEMATOXYLIN)), 0.5, lossless=True)
    pale = np.full((256, 256, 3), (238, 190, 225), np.uint8)
    write_slide(project.own / "pale.tif", pale, 0.5, lossless=True)
    project.table([slide_row(name, i) for i, name in enumerate(("a", "b", "onestain", "pale"))])
    project.make(*EXTRACTION)
    assert not read_set_aside(project)
    rgb_counts = project.index["slide_id"].value_counts()
    project.params(patches__color="macenko", patches__on_read_error=on_read_error)
    project.make("patches")
    assert set(project.index["slide_id"]) == {"a", "b"}
    records = read_set_aside(project)
    assert set(records) == {"onestain", "pale"} and {kept for _, kept in records.values()} == {0}
    assert "one stain only" in records["onestain"][0] and "show stained tissue" in records["pale"][0]
    counts = project.read("reports/patching/counts.csv").set_index("slide_id")
    assert counts["dropped"].to_dict() == {
        "a": 0,
        "b": 0,
        "onestain": rgb_counts["onestain"],
        "pale": rgb_counts["pale"],
    }
    summary = json.loads((project.folder / "reports/patching/summary.json").read_text(encoding="utf-8"))
    assert summary["kept"] == len(project.index) and not project.leftovers()
    project.params(patches__color="macenko", data__max_failed_share=0.4)
    assert "2 of 4 slides failed" in project.run("patches").error


def test_normalized_stains_do_not_depend_on_the_other_slides(new_project: Callable[[str], Workspace]):
    kept = []
    for name, others in (("first", 0), ("second", 2)):
        project = new_project(name)
        project.params(patches__color="macenko", patches__max_per_slide=20)
        for i, slide in enumerate("abc"[: 1 + others]):
            write_slide(project.own / f"{slide}.tif", paint_tissue(i, 256), 0.5)
        project.table([slide_row(slide, i) for i, slide in enumerate("abc"[: 1 + others])])
        index = project.make(*EXTRACTION).index
        kept.append(read_patches(project)[(index["slide_id"] == "a").to_numpy()])
    np.testing.assert_array_equal(*kept)


def test_the_luma_of_every_level_is_that_of_pillow():
    levels = np.random.default_rng(0).integers(0, 256, (1, 512, 512, 3), np.uint8)
    gray = convert(levels, "grey")
    luma = np.asarray(Image.fromarray(levels[0]).convert("L"))
    np.testing.assert_array_equal(gray[0], np.repeat(luma[..., None], 3, axis=2))
    np.testing.assert_array_equal(convert(gray, "grey"), gray)


@given(patch_arrays, stn.arrays(np.float64, (3, 3), elements=st.floats(-2, 2)))
def test_any_stains_make_pixels(patches, stains):
    normalized = convert(patches, "macenko", stains)
    assert normalized.dtype == np.uint8 and normalized.shape == patches.shape


def test_stains_are_not_normalized_without_those_of_the_slide():
    with pytest.raises(ValueError, match="pass those of the slide"):
        convert(np.zeros((1, 8, 8, 3), np.uint8), "macenko")
