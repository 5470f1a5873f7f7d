"""Features that other programs wrote: files in the layouts of CLAM, TRIDENT and STAMP, and damaged ones."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocae.errors import DataError
from histocae.exports import outside
from histocae.exports.columns import About
from histocae.exports.features import write_features_h5
from support import outside_files
from support.outside_files import grid

COUNT = 7  # features of a patch


@pytest.fixture
def path(tmp_path):
    return tmp_path / "slide.h5"


@pytest.fixture
def features():
    # halves are exact in float16, which STAMP writes
    return np.random.default_rng(0).integers(-8, 8, (12, COUNT)).astype(np.float32) / 2


@pytest.mark.parametrize("layout", outside_files.PIXEL_LAYOUTS)
def test_files_of_clam_and_trident_have_level_0_pixels(path, features, layout):
    corners = grid(4, 3, 256)
    outside_files.PIXEL_LAYOUTS[layout](path, features, corners, 256)
    content = outside.read(path)
    assert content.features.dtype == np.float32 and content.corners.dtype == np.float64
    np.testing.assert_array_equal(content.features, features)
    np.testing.assert_array_equal(content.corners, corners)
    assert content.unit == outside.PIXELS
    assert content.side == (None if layout == "clam" else 256)


@pytest.mark.parametrize("layout", outside_files.MICRON_LAYOUTS)
def test_files_of_stamp_have_microns_whatever_its_version(path, features, layout):
    corners = grid(4, 3, 256.0)
    outside_files.MICRON_LAYOUTS[layout](path, features, corners, 256.0)
    content = outside.read(path)
    np.testing.assert_array_equal(content.features, features)
    np.testing.assert_allclose(content.corners, corners, rtol=1e-6)
    assert (content.unit, content.side) == (outside.MICRONS, 256)


@pytest.mark.parametrize(("reader", "unit", "side"), [("clam", "level-0 pixels", 64.0), ("stamp", "microns", 16.0)])
def test_files_that_histocae_writes_are_read(path, reader, unit, side):
    table = outside_files.table(grid(4, 3, 64), mpp=0.5, width=64.0)
    latents = np.random.default_rng(1).normal(size=(12, COUNT)).astype(np.float32)
    about = About(model="all", weights="w", pixels=32, mpp=0.5, version="1")
    write_features_h5(path, table, latents, about, reader=reader)
    content = outside.read(path)
    np.testing.assert_array_equal(content.features, latents)
    assert (content.unit, content.side) == (unit, side)
    np.testing.assert_allclose(content.corners, grid(4, 3, side))


@pytest.mark.parametrize(
    ("attributes", "side"),
    [
        ({}, None),
        ({"patch_size": 256}, None),  # of a level that is not stated
        ({"patch_size": 256, "patch_level": 0}, 256),
        ({"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0)}, 1024),
        ({"patch_size": 256, "patch_level": 0, "custom_downsample": 2}, 512),
        ({"patch_size": 256, "level0_magnification": 40, "target_magnification": 20}, 512),
        ({"patch_size": 256, "patch_size_level0": 508, "level0_magnification": 40, "target_magnification": 20}, 508),
    ],
)
def test_the_side_of_a_patch_is_read_from_the_attributes_of_coords(path, features, attributes, side):
    outside_files.write(path, {"features": features, "coords": grid(4, 3, 512)}, coords=attributes)
    assert outside.read(path).side == side


def test_a_leading_axis_of_one_slide_is_dropped_and_a_slide_may_have_no_patch(path, features):
    outside_files.write(path, {"features": features[None], "coords": grid(4, 3, 256)[None]})
    assert outside.read(path).features.shape == (12, COUNT)
    outside_files.trident(path, features[:0], grid(4, 3, 256)[:0], 256)
    assert outside.read(path).features.shape == (0, COUNT)


def with_value(values, row, value):
    changed = values.astype(np.float32)
    changed[row, 0] = value
    return changed


def damage(kind, features):
    """Give datasets, attributes of the file and of coords that are wrong in one way."""
    corners, stamp = grid(4, 3, 256), {"unit": "um", "tile_size_um": 256.0}
    good, feats = {"features": features, "coords": corners}, {"feats": features, "coords": corners}
    return {
        "no features": ({"coords": corners}, {}, {}),
        "both": (good | {"feats": features}, {}, {}),
        "no coords": ({"features": features}, {}, {}),
        "of the slide": (good | {"features": features[0]}, {}, {}),
        "of a patient": ({"feats": features[:1], "coords": corners[:1]}, stamp | {"feat_type": "patient"}, {}),
        "fewer coords": (good | {"coords": corners[1:]}, {}, {}),
        "coords in one column": (good | {"coords": corners[:, :1]}, {}, {}),
        "no columns": (good | {"features": features[:, :0]}, {}, {}),
        "NaN": (good | {"features": with_value(features, 5, np.nan)}, {}, {}),
        "infinite": (feats | {"feats": with_value(features, 3, np.inf)}, stamp, {}),
        "too large": (good | {"features": np.full((12, 2), 1e300)}, {}, {}),
        "coords not finite": (feats | {"coords": with_value(corners, 2, np.nan)}, stamp, {}),
        "texts": (good | {"features": np.array([b"a"] * 12)}, {}, {}),
        "pixels": (feats, stamp | {"unit": "px"}, {}),
        "no unit": (feats, {}, {}),
        "side of zero": (good, {}, {"patch_size_level0": 0}),
        "side in words": (good, {}, {"patch_size_level0": "large"}),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no features", "has neither features (CLAM, TRIDENT) nor feats (STAMP); extract"),
        ("both", "has both features and feats; extract"),
        ("no coords", "has no coords, and features are joined by position; extract"),
        ("of the slide", "has features of the whole slide; name the folder with the features of its patches"),
        ("of a patient", "has features of the whole slide; name the folder"),
        ("fewer coords", "features (12, 7) and coords (11, 2) do not agree: expected features, and x and y, of each"),
        ("coords in one column", "features (12, 7) and coords (12, 1) do not agree"),
        ("no columns", "features has no columns; extract"),
        ("NaN", "row 5 of features has a number that is not finite; extract"),
        ("infinite", "row 3 of feats has a number that is not finite"),
        ("too large", "row 0 of features has a number that is not finite"),
        ("coords not finite", "row 2 of coords has a number that is not finite"),
        ("texts", "features is no array of numbers; extract"),
        ("pixels", "the unit of coords is 'px', expected 'um'; extract"),
        ("no unit", "states no unit of coords (unit, tile_size_um); extract the features with STAMP 2"),
        ("side of zero", "attribute patch_size_level0 is '0', expected a number above 0; extract"),
        ("side in words", "attribute patch_size_level0 is 'large', expected a number above 0"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault_and_the_remedy(path, features, kind, message):
    datasets, attributes, of_coords = damage(kind, features)
    outside_files.write(path, datasets, attributes, of_coords)
    with pytest.raises(DataError) as error:
        outside.read(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no HDF5", "cut", "group"])
def test_what_is_no_hdf5_or_cut_is_refused_in_one_line(path, features, content):
    outside_files.trident(path, features, grid(4, 3, 256), 256)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif content == "group":
        with h5py.File(path, "w") as file:
            file.create_group("features")
            file["coords"] = grid(4, 3, 256)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        outside.read(path)
    assert str(error.value).startswith(f"{path}: ") and outside.REMEDY in str(error.value)


def test_a_shape_that_the_file_cannot_hold_takes_no_memory(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (2**30, 1024), np.float32, chunks=(64, 1024))
        file.create_dataset("coords", (2**30, 2), np.int64, chunks=(64, 2))
    with pytest.raises(DataError, match=r"features \(1073741824, 1024\) has more numbers than the file can hold"):
        outside.read(path)


@settings(max_examples=150)
@given(st.sampled_from(["clam", "trident", "stamp"]), st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_a_file_with_damaged_bytes_is_read_or_refused_in_one_line(tmp_path_factory, layout, seed, count):
    path = tmp_path_factory.getbasetemp() / "damaged.h5"
    values = np.arange(24.0).reshape(12, 2)
    (outside_files.PIXEL_LAYOUTS | outside_files.MICRON_LAYOUTS)[layout](path, values, grid(4, 3, 256), 256)
    rng, content = np.random.default_rng(seed), bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), count):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    try:
        found = outside.read(path)
    except DataError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert len(found.features) == len(found.corners) and np.isfinite(found.features).all()


def test_the_step_of_a_grid_is_that_of_most_patches():
    pieces = np.concatenate(
        [grid(5, 5, 256), grid(4, 4, 256) + np.array([5000, 4103])]
    )  # each piece has a grid of its own
    assert outside.step(pieces.astype(float)) == 256
    assert outside.step(np.repeat(pieces[:1], 3, axis=0).astype(float)) is None
