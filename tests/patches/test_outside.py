"""Outside features joined to patches by position: the rule, files by slide, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocae.errors import DataError
from histocae.exports.columns import About
from histocae.exports.features import write_features_h5
from histocae.files import write_table
from histocae.patches import outside
from histocae.sources.hashes import Hashes
from support import outside_files
from support.outside_files import grid

MPP, PIXELS, PATCH_MPP = 0.25, 32, 0.5  # of the slide; side of a patch; of a patch
SIDE = PIXELS * PATCH_MPP / MPP  # 64 level-0 pixels
SIDE_MICRONS = SIDE * MPP


def rows_of(corners, slide_id="a"):
    return pd.DataFrame({"slide_id": slide_id, "x": corners[:, 0], "y": corners[:, 1], "mpp": PATCH_MPP})


def features_of(corners, count=5):
    """Features that are different for each position, and exact in float16."""
    return np.random.default_rng(len(corners)).integers(-99, 99, (len(corners), count)).astype(np.float32)


def folder_of(path, *slide_ids, mpp=MPP):
    slides = pd.DataFrame({"mpp": float(mpp), "width": 4096.0, "height": 4096.0}, index=list(slide_ids or ("a",)))
    return outside.Folder(sorted(path.rglob("*.h5")), slides, PIXELS)


# -- the three layouts


def test_each_layout_gives_the_same_patches_the_same_features(tmp_path):
    corners = grid(6, 5, SIDE)
    features, rows = features_of(corners), rows_of(corners)
    shuffled = np.random.default_rng(0).permutation(len(corners))
    for name, write in outside_files.PIXEL_LAYOUTS.items():
        write(tmp_path / name / "a.h5", features[shuffled], corners[shuffled], SIDE)
    for name, write in outside_files.MICRON_LAYOUTS.items():
        if name != "stamp 1":  # whose patches are of 256 microns
            write(tmp_path / name / "a.h5", features[shuffled], corners[shuffled] * MPP, SIDE_MICRONS)
    about = About(model="all", weights="w", pixels=PIXELS, mpp=PATCH_MPP, version="1")
    table = outside_files.table(corners[shuffled], mpp=PATCH_MPP, width=SIDE)
    for reader in ("clam", "stamp"):
        write_features_h5(tmp_path / f"own {reader}" / "a.h5", table, features[shuffled], about, reader=reader)
    layouts = sorted(path for path in tmp_path.iterdir())
    assert len(layouts) == 6
    for layout in layouts:
        joined = folder_of(layout).join(rows)
        assert joined.matched.all() and joined.slides_without == 0, layout
        np.testing.assert_array_equal(joined.features, features, err_msg=str(layout))


def test_patches_of_stamp_1_are_joined_by_their_256_microns(tmp_path):
    corners = grid(4, 4, 256 / MPP)
    features = features_of(corners)
    outside_files.stamp_1(tmp_path / "a.h5", features, corners * MPP, 256)
    # each outside patch has 16 x 16 of ours
    ours = grid(4 * 16, 4 * 16, SIDE)
    expected = features.reshape(4, 4, -1).repeat(16, axis=0).repeat(16, axis=1).reshape(len(ours), -1)
    np.testing.assert_array_equal(folder_of(tmp_path).join(rows_of(ours)).features, expected)


# -- the rule


@pytest.mark.parametrize(("shift", "matched"), [(0, True), (20, True), (33, True), (34, False), (60, False)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_shift_of_up_to_half_a_side_and_a_pixel_is_tolerated(shift, matched, axis):
    ours = grid(5, 1, 500).astype(float)
    theirs = ours.copy()
    theirs[:, axis] += shift
    pairs = outside.assign(ours, SIDE, theirs, SIDE)
    assert list(pairs.patches) == list(pairs.features) == (list(range(5)) if matched else [])


def test_jitter_within_the_tolerance_changes_nothing():
    rng = np.random.default_rng(3)
    ours = grid(9, 8, SIDE)
    for most in (0.5, 10, 31):
        # alternate signs would bring another patch as near; one sign for all is what another origin does
        theirs = ours + rng.uniform(0, most, 2)
        assert list(outside.assign(ours, SIDE, theirs, SIDE).features) == list(range(len(ours)))


def test_a_larger_patch_gives_its_features_to_all_patches_whose_center_it_includes():
    ours, theirs = grid(8, 6, SIDE), grid(4, 3, 2 * SIDE)
    pairs = outside.assign(ours, SIDE, theirs, 2 * SIDE)
    expected = np.arange(12).reshape(3, 4).repeat(2, axis=0).repeat(2, axis=1).ravel()
    assert list(pairs.patches) == list(range(48)) and list(pairs.features) == list(expected)
    # patches of the same grid beyond it have none
    beyond = outside.assign(grid(10, 6, SIDE), SIDE, theirs, 2 * SIDE)
    assert not {8, 9} & set(beyond.patches % 10)


def test_a_patch_has_the_mean_of_the_smaller_patches_in_it(tmp_path):
    theirs = grid(8, 6, SIDE / 2)
    features = features_of(theirs)
    outside_files.trident(tmp_path / "a.h5", features, theirs, SIDE / 2)
    joined = folder_of(tmp_path).join(rows_of(grid(5, 3, SIDE)))
    expected = features.reshape(3, 2, 4, 2, -1).mean(axis=(1, 3))
    np.testing.assert_allclose(joined.features, expected.reshape(12, -1), rtol=1e-6)
    assert list(np.flatnonzero(~joined.matched)) == [4, 9, 14]  # the fifth column
    # one of four is enough
    one = outside.assign(grid(1, 1, SIDE), SIDE, theirs[:1].astype(float), SIDE / 2)
    assert (list(one.patches), list(one.features)) == ([0], [0])


def test_of_overlapping_patches_the_nearest_counts_and_a_repeated_position_once():
    ours = grid(4, 4, SIDE).astype(float)
    theirs = grid(16, 16, SIDE / 4)  # of the same side, with an overlap of three quarters
    pairs = outside.assign(ours, SIDE, np.concatenate([theirs, theirs]), SIDE)
    np.testing.assert_array_equal(theirs[pairs.features], ours)
    smaller = outside.assign(ours[:1], SIDE, np.repeat(theirs[:1], 3, axis=0), SIDE / 2)
    assert list(smaller.features) == [0]


def brute_force(ours, side, theirs, their_side):
    """Assign patch by patch, in plain Python."""
    first = {}
    for number, (x, y) in enumerate(theirs):
        first.setdefault((round(y), round(x)), number)
    theirs_by_place = [(theirs[number] + their_side / 2, number) for _, number in sorted(first.items())]
    ours_by_place = sorted(range(len(ours)), key=lambda i: (round(ours[i][1]), round(ours[i][0])))
    ours_with_center = [(ours[i] + side / 2, i) for i in ours_by_place]
    reach = max(side, their_side) / 2 + 1

    def nearest(place, candidates):
        distances = [max(abs(place - center)) for center, _ in candidates]
        if not distances or min(distances) > reach:
            return None
        return next(n for (_, n), d in zip(candidates, distances, strict=True) if d <= min(distances) + 0.25)

    if their_side > side - 1:
        return sorted((i, n) for center, i in ours_with_center if (n := nearest(center, theirs_by_place)) is not None)
    return sorted((i, n) for center, n in theirs_by_place if (i := nearest(center, ours_with_center)) is not None)


@settings(max_examples=300)
@given(
    st.sampled_from([16, 30, 32, 33, 48, 64, 100]),
    st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
    st.integers(0, 2**16),
    st.sampled_from([1.0, 0.5]),
)
def test_patches_are_assigned_as_by_brute_force(their_side, origin, seed, share):
    rng = np.random.default_rng(seed)
    ours = grid(6, 5, 32)[rng.random(30) < 0.8].astype(float)
    theirs = grid(300 // their_side, 250 // their_side, their_side) + np.array(origin)
    theirs = theirs[rng.random(len(theirs)) < share] + rng.uniform(-0.05, 0.05, 2)  # as float32 microns
    theirs = rng.permutation(theirs)
    pairs = outside.assign(ours, 32.0, theirs, float(their_side))
    assert sorted(zip(pairs.patches.tolist(), pairs.features.tolist(), strict=True)) == brute_force(
        ours, 32.0, theirs, float(their_side)
    )
    assert (np.diff(pairs.patches) >= 0).all()
    if their_side >= 32:
        assert len(set(pairs.patches)) == len(pairs.patches)
    else:
        assert len(set(pairs.features)) == len(pairs.features)


# -- slides and their files


def test_patches_of_slides_without_a_file_or_beyond_the_features_have_none(tmp_path):
    corners = grid(4, 3, SIDE)
    features = features_of(corners)
    outside_files.clam(tmp_path / "a.h5", features[:9], corners[:9], SIDE)
    outside_files.clam(tmp_path / "empty.h5", features[:0], corners[:0], SIDE)
    rows = pd.concat([rows_of(corners, name) for name in ("none", "a", "empty")]).sample(frac=1, random_state=1)
    joined = folder_of(tmp_path, "a", "none", "empty", "further").join(rows)
    expected = (rows["slide_id"] == "a") & (rows["y"] < 2 * SIDE) | (rows["slide_id"] == "a") & (rows["x"] < SIDE)
    assert list(joined.matched) == list(expected) and joined.slides_without == 1
    number = (rows["y"] // SIDE * 4 + rows["x"] // SIDE).astype(int).to_numpy()
    np.testing.assert_array_equal(joined.features, features[number[joined.matched]])
    nothing = folder_of(tmp_path / "other", "a").join(rows)
    assert not nothing.matched.any() and nothing.features.shape == (0, 0) and nothing.slides_without == 3


def test_a_single_patch_without_a_stated_side_has_the_side_of_ours(tmp_path):
    outside_files.clam(tmp_path / "a.h5", features_of(grid(1, 1, 1)), grid(1, 1, 1), SIDE)
    assert folder_of(tmp_path).join(rows_of(grid(2, 1, SIDE))).matched.tolist() == [True, False]


UUID = "6f9619ff-8b86-d011-b42d-00c04fc964ff"


def test_files_are_named_after_slides():
    names = ["a.h5", f"b.{UUID}.h5", "b.c.h5", "A%2FB~998d3ed8.h5", "sub/d.h5", "other.h5"]
    files = [Path(name) for name in names]
    found = outside.files_of_slides(files, ["a", "b", "b.c", "A/B", "d", "e"])
    assert {slide_id: str(path) for slide_id, path in found.items()} == {
        "a": "a.h5",
        "b": f"b.{UUID}.h5",
        "b.c": "b.c.h5",
        "A/B": "A%2FB~998d3ed8.h5",
        "d": "sub/d.h5",
    }
    # a name without a UUID is of another slide, which may have been set aside
    assert outside.files_of_slides([Path("a.1.h5")], ["a"]) == {}
    assert outside.files_of_slides([Path(f"a.{UUID}.h5"), Path("a.h5")], ["a"]) == {"a": Path("a.h5")}
    message = r"h5_files/a.h5 and h5_stamp/a.h5: both are of slide a; baselines.features takes a folder with one file"
    with pytest.raises(DataError, match=message):
        outside.files_of_slides([Path("h5_files/a.h5"), Path("h5_stamp/a.h5")], ["a"])


def test_features_of_two_encoders_or_of_a_slide_without_a_scale_are_refused(tmp_path):
    corners = grid(4, 3, SIDE)
    outside_files.clam(tmp_path / "a.h5", features_of(corners, 5), corners, SIDE)
    outside_files.stamp(tmp_path / "b.h5", features_of(corners, 6), corners * MPP, SIDE_MICRONS)
    rows = pd.concat([rows_of(corners, "a"), rows_of(corners, "b")])
    with pytest.raises(DataError) as error:
        folder_of(tmp_path, "a", "b").join(rows)
    assert str(error.value) == (
        f"{tmp_path / 'b.h5'}: has 6 features per patch, and {tmp_path / 'a.h5'} has 5; name a folder with the "
        "features of one encoder"
    )
    with pytest.raises(DataError, match="the microns per pixel of slide b are unknown"):
        folder_of(tmp_path, "b", mpp=np.nan).join(rows_of(corners, "b"))


def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"baselines.features: .*/none: no such folder; name the folder"):
        outside.list_files(tmp_path / "none")
    (tmp_path / "a.pt").touch()
    with pytest.raises(DataError, match=r"has no .h5 file; name the folder with these files, or set null"):
        outside.list_files(tmp_path)


def test_files_that_the_inventory_does_not_list_as_they_are_now_are_refused(tmp_path):
    own, corners = tmp_path / "own", grid(4, 3, SIDE)
    listed, counts = tmp_path / "features.csv", tmp_path / "counts.csv"
    write_table(
        pd.DataFrame({"slide_id": ["a", "b"], "mpp": MPP, "width": 4096, "height": 4096}), counts, separator=","
    )
    outside_files.clam(own / "sub" / "a.h5", features_of(corners), corners, SIDE)
    hashes = Hashes(None)

    def list_them():
        rows = [(path.relative_to(own).as_posix(), *hashes.of(path)) for path in sorted(own.rglob("*.h5"))]
        write_table(pd.DataFrame(rows, columns=["file", "bytes", "sha256"]), listed)

    def opened():
        return outside.open_folder(own, listed, Hashes(None), counts, PIXELS)

    list_them()
    assert opened().join(rows_of(corners)).matched.all()
    outside_files.clam(own / "b.h5", features_of(corners), corners, SIDE)  # new: the next inventory lists it
    assert list(opened().files) == ["a"]
    outside_files.clam(own / "sub" / "a.h5", features_of(corners) + 1, corners, SIDE)
    with pytest.raises(DataError, match=r"a.h5: changed since this repro began; run dvc repro again"):
        opened()
    (own / "sub" / "a.h5").unlink()
    with pytest.raises(DataError, match=r"a.h5: changed since this repro began"):
        opened()
    write_table(pd.DataFrame(columns=["file", "bytes", "sha256"]), listed)
    with pytest.raises(DataError, match=r"features.csv: lists no file of .*/own; run dvc repro, which lists them"):
        opened()


def test_features_of_another_level_or_slide_are_noticed(tmp_path, caplog):
    corners = grid(8, 8, SIDE)
    outside_files.clam(tmp_path / "a.h5", features_of(corners, 5), corners + 5000, SIDE)
    with pytest.raises(DataError, match=r"a.h5: row 1: x 5000, y 5000 lies outside slide a, which has 4096 x 4096"):
        folder_of(tmp_path, "a").join(rows_of(corners, "a"))
    outside_files.clam(tmp_path / "a.h5", features_of(corners, 5), corners // 4, SIDE)
    folder_of(tmp_path, "a").join(rows_of(corners, "a"))
    assert "1 files have features of less than half of the patches: a.h5 (" in caplog.text


def test_links_to_nothing_and_other_suffixes_are_refused(tmp_path):
    (tmp_path / "a.H5").touch()
    with pytest.raises(DataError, match=r"a.H5: has another suffix than .h5; rename or remove it"):
        outside.list_files(tmp_path)
    (tmp_path / "a.H5").unlink()
    (tmp_path / "a.h5").symlink_to("nothing")
    with pytest.raises(DataError, match=r"a.h5: is no file"):
        outside.list_files(tmp_path)
