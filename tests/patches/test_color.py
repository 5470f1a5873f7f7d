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
from histocae.patches.store import PatchStore
from support.make_data import GLASS, tissue, write_slide, write_tile
from support.workspace import Workspace, slide_row

CUT = ("inventory", "metadata", "slides", "patches")
HEMATOXYLIN, EOSIN = np.array([0.62, 0.69, 0.38]), np.array([0.22, 0.83, 0.51])
patches_of = stn.arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(6), st.just(6), st.just(3)))


def stained(
    seed: int, side: int, stains: tuple[np.ndarray, np.ndarray] = (HEMATOXYLIN, EOSIN), dye: float = 1.0
) -> np.ndarray:
    """Paint tissue as amounts of two stains on glass, uint8 RGB; one seed is one tissue, however it is stained."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(1.5, 0.35, (2, side // 4, side // 4)).repeat(4, 1).repeat(4, 2)
    density = dye * (amounts[0][..., None] * stains[0] + amounts[1][..., None] * stains[1])
    return np.rint(240 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)


def stored(project: Workspace) -> np.ndarray:
    store = PatchStore(project.folder / "data" / "patches")
    index = store.index()
    return store.select(index).take(np.arange(len(index)))


def shards(project: Workspace) -> dict[str, bytes]:
    return {k: v for k, v in project.outputs("data/patches").items() if k.endswith(".npy")}


def set_aside(project: Workspace) -> dict[str, tuple[str, int]]:
    table = project.read("reports/set_aside.csv")
    return {row.slide_id: (row.reason, row.patches_kept) for row in table.itertuples()}


# --- what is done to patches ---------------------------------------------------------------------


@given(patches_of)
def test_grey_is_pillows_luma_in_every_channel(patches):
    gray = color.apply(patches, "grey")
    assert gray.dtype == np.uint8 and gray.shape == patches.shape
    for patch, one in zip(patches, gray, strict=True):
        luma = np.asarray(Image.fromarray(patch).convert("L"))
        assert all((one[..., channel] == luma).all() for channel in range(3))
    exact = patches @ np.array([0.299, 0.587, 0.114])
    assert not len(patches) or np.abs(gray[..., 0] - exact).max() <= 1


@given(patches_of)
def test_rgb_is_what_was_read(patches):
    assert color.apply(patches, "rgb") is patches


def test_one_picture_comes_out_as_torchstain_has_it():
    picture = stained(1, 128, (np.array([0.55, 0.78, 0.3]), np.array([0.1, 0.9, 0.42])))
    normalizer = torchstain.normalizers.MacenkoNormalizer(backend="numpy")
    expected, _, _ = normalizer.normalize(picture, stains=False)
    found = color.apply(picture[None], "macenko", color.estimate(picture[None]))[0]
    assert np.abs(found.astype(int) - expected).max() <= 1  # which cuts off where we round


def test_one_tissue_stained_twice_looks_the_same_once_normalized():
    other = (np.array([0.50, 0.75, 0.43]), np.array([0.10, 0.90, 0.42]))
    one, two = stained(1, 128)[None], stained(1, 128, other, 0.6)[None]
    before = np.abs(one.astype(int) - two).mean()
    one, two = (color.apply(patches, "macenko", color.estimate(patches)) for patches in (one, two))
    assert before > 25 and np.abs(one.astype(int) - two).mean() < 4


def test_glass_stays_glass():
    patches = np.stack([stained(1, 64), np.full((64, 64, 3), 240, np.uint8)])
    assert (color.apply(patches, "macenko", color.estimate(patches))[1] >= 238).all()


def test_stains_are_those_of_the_slide_and_not_of_a_patch():
    patches = np.stack([stained(i, 32) for i in range(200)])
    patches[3] = patches[3] // 8  # of which no stains could be told
    stains = color.estimate(patches)
    whole = color.apply(patches, "macenko", stains)
    parts = np.concatenate([color.apply(patches[i : i + 7], "macenko", stains) for i in range(0, 200, 7)])
    assert np.abs(whole.astype(int) - parts).max() <= 1
    few = color.estimate(patches[:: 199 // 63])
    assert np.abs(color.apply(patches, "macenko", few).astype(int) - whole).mean() < 3


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (lambda: np.full((64, 64, 3), GLASS, np.uint8), "0 of 4096 pixels show stained tissue"),
        (lambda: stained(1, 24), "pixels show stained tissue, and it takes 1000"),
        (lambda: np.full((64, 64, 3), (120, 60, 140), np.uint8), "one stain only"),
        (lambda: color.apply(tissue(1, 64, 64)[None] // 2, "grey")[0], "one stain only"),
        (lambda: stained(1, 64, (HEMATOXYLIN, HEMATOXYLIN)), "one stain only"),
    ],
)
def test_where_stains_can_not_be_estimated_the_reason_is_told(picture, said):
    with pytest.raises(SlideError, match=said) as told:
        color.estimate(picture()[None])
    assert "patches.color" in str(told.value)


@settings(max_examples=60)
@given(picture=stn.arrays(np.uint8, (40, 40, 3)), spread=st.sampled_from([1, 4, 64]), base=st.integers(0, 255))
def test_any_picture_is_normalized_or_refused(picture, spread, base):
    patches = (base + picture.astype(int) // spread).clip(0, 255).astype(np.uint8)[None]
    try:
        stains = color.estimate(patches)
    except SlideError:
        return
    assert np.isfinite(stains).all()
    found = color.apply(patches, "macenko", stains)
    assert found.dtype == np.uint8 and found.shape == patches.shape


# --- in the pipeline -----------------------------------------------------------------------------


def own_slides(project: Workspace) -> dict:
    """Give the project two slides, and the params that it needs for them."""
    for i, name in enumerate("ab"):
        write_slide(project.own / f"{name}.tif", stained(i, 256), 0.5, lossless=True)
    project.table([slide_row(name, i) for i, name in enumerate("ab")])
    return {}


def own_tiles(project: Workspace) -> dict:
    rows = []
    for i in range(6):
        write_tile(project.own / f"{i}.png", stained(i, 96))
        rows.append({**slide_row("ab"[i % 2], i % 2), "path": f"{i}.png"})
        del rows[-1]["file_name"]
    project.table(rows)
    return {"data__source": "tiles"}


SOURCES = {
    "slides": own_slides,
    "demo": lambda _: {"data__source": "demo", "data__demo__cases": 6, "data__demo__side_microns": 128.0},
    "reduce": own_tiles,
    "cut": lambda project: own_tiles(project) | {"patches__tiles": "cut"},
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_cut_in_the_color_asked_for(project, source):
    needed = SOURCES[source](project)
    project.params(**needed)
    project.make(*CUT)
    rgb, index = stored(project), project.index.drop(columns="shard")
    before = set(shards(project))

    project.params(**needed, patches__color="grey")
    project.make("patches")
    assert before.isdisjoint(shards(project))
    np.testing.assert_array_equal(stored(project), color.apply(rgb, "grey"))
    # what is tissue is decided by color, whatever is stored
    assert project.index.drop(columns="shard").equals(index)

    project.params(**needed, patches__color="macenko")
    project.make("patches")
    assert project.index.drop(columns="shard").equals(index) and not set_aside(project)
    normalized = stored(project)
    for slide in index["slide_id"].unique():
        mine = (index["slide_id"] == slide).to_numpy()
        expected = color.apply(rgb[mine], "macenko", color.estimate(rgb[mine]))
        assert np.abs(normalized[mine].astype(int) - expected).max() <= 1
    assert (normalized != rgb).mean() > 0.5
    again = shards(project)
    for one in (project.folder / "data/patches/shards").glob("*.json"):
        one.unlink()
    assert shards(project.make("patches")) == again and not project.leftovers()


@pytest.mark.parametrize("on_read_error", ["keep", "drop"])
def test_a_slide_whose_stains_can_not_be_estimated_is_set_aside(project, on_read_error):
    own_slides(project)
    write_slide(project.own / "one.tif", stained(3, 256, (HEMATOXYLIN, HEMATOXYLIN)), 0.5, lossless=True)
    pale = np.full((256, 256, 3), (238, 190, 225), np.uint8)
    write_slide(project.own / "pale.tif", pale, 0.5, lossless=True)
    project.table([slide_row(name, i) for i, name in enumerate(("a", "b", "one", "pale"))])
    project.make(*CUT)
    assert not set_aside(project)
    alone = project.index["slide_id"].value_counts()
    project.params(patches__color="macenko", patches__on_read_error=on_read_error)
    project.make("patches")
    assert set(project.index["slide_id"]) == {"a", "b"}
    found = set_aside(project)
    assert set(found) == {"one", "pale"} and {kept for _, kept in found.values()} == {0}
    assert "one stain only" in found["one"][0] and "show stained tissue" in found["pale"][0]
    counts = project.read("reports/patching/counts.csv").set_index("slide_id")
    assert counts["dropped"].to_dict() == {"a": 0, "b": 0, "one": alone["one"], "pale": alone["pale"]}
    summary = json.loads((project.folder / "reports/patching/summary.json").read_text(encoding="utf-8"))
    assert summary["kept"] == len(project.index) and not project.leftovers()
    project.params(patches__color="macenko", data__max_failed_share=0.4)
    assert "2 of 4 slides failed" in project.run("patches").error


def test_normalized_stains_do_not_depend_on_the_other_slides(new_project: Callable[[str], Workspace]):
    kept = []
    for name, others in (("one", 0), ("two", 2)):
        one = new_project(name)
        one.params(patches__color="macenko", patches__max_per_slide=20)
        for i, slide in enumerate("abc"[: 1 + others]):
            write_slide(one.own / f"{slide}.tif", stained(i, 256), 0.5)
        one.table([slide_row(slide, i) for i, slide in enumerate("abc"[: 1 + others])])
        index = one.make(*CUT).index
        kept.append(stored(one)[(index["slide_id"] == "a").to_numpy()])
    np.testing.assert_array_equal(*kept)
