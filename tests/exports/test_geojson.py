"""GeoJSON of a slide has the form that QuPath documents, and shows its patches and tissue where they are."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from matplotlib.colors import to_rgb
from scipy.ndimage import gaussian_filter

from histocae.exports import geojson
from histocae.identifiers import COMPARED, TISSUE_COLORS

TUMOR, NORMAL = COMPARED
NO_TISSUE = np.zeros((8, 8), bool)


def patches_at(x: list[float], y: list[float], width: float, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"x": x, "y": y, "width": width, **columns})


def write(path: Path, patches: pd.DataFrame, mask: np.ndarray | None = None, pixel: float = 1.0) -> list[dict]:
    """Write a slide's file, and read its features with a reader that knows no NaN and no infinity."""
    geojson.write_slide(path / "a.geojson", patches, mask, pixel)

    def refuse_constant(name):
        raise AssertionError(f"{name} in {path}")

    collection = json.loads((path / "a.geojson").read_text(encoding="utf-8"), parse_constant=refuse_constant)
    assert set(collection) == {"type", "features"} and collection["type"] == "FeatureCollection"
    return collection["features"]


def shape_of(feature: dict) -> shapely.Geometry:
    return shapely.from_geojson(json.dumps(feature["geometry"]))


def regions_of(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """List the pixels of each region whose pixels share sides."""
    left, regions = {(int(row), int(column)) for row, column in np.argwhere(mask)}, []
    while left:
        region, todo = [], [left.pop()]
        while todo:
            row, column = todo.pop()
            region.append((row, column))
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            todo += near
        regions.append(region)
    return regions


def without_specks(mask: np.ndarray) -> np.ndarray:
    kept = np.zeros_like(mask)
    for region in regions_of(mask):
        if len(region) >= geojson.SPECK:
            kept[tuple(np.transpose(region))] = True
    return kept


def outline_of(mask: np.ndarray, pixel: float) -> shapely.Geometry:
    """Join the squares of all pixels."""
    rows, columns = np.nonzero(mask)
    edges = np.stack([columns, rows, columns + 1, rows + 1]) * pixel
    return shapely.union_all(shapely.box(*edges))


def check_contour(contour: shapely.Geometry, mask: np.ndarray, pixel: float) -> None:
    """Compare a contour with a mask that has no specks."""
    assert contour.is_valid and contour.geom_type in ("Polygon", "MultiPolygon")
    exact = outline_of(mask, pixel)
    near = exact.boundary.buffer(2 * geojson.TOLERANCE * pixel + geojson.PRECISION)
    assert exact.symmetric_difference(contour).difference(near).area < 1e-6


def test_the_tissue_is_an_annotation_with_its_holes(tmp_path):
    mask = np.zeros((40, 64), bool)
    mask[4:36, 8:40] = True
    mask[12:20, 16:24] = False  # a hole
    mask[30, 10] = False  # a hole too small to be shown
    mask[0:2, 50:56] = True  # a region too small to be shown
    annotation, patch = write(tmp_path, patches_at([320], [160], 256.0), mask, 32.0)
    assert annotation == {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [
                [[256, 128], [1280, 128], [1280, 1152], [256, 1152], [256, 128]],
                [[512, 384], [512, 640], [768, 640], [768, 384], [512, 384]],
            ],
        },
        "properties": {
            "objectType": "annotation",
            "name": "Tissue",
            "classification": {"name": "Tissue", "color": [0, 120, 60]},
            "isLocked": True,
        },
    }
    assert shape_of(annotation).area == 32**4 - (8 * 32) ** 2
    assert patch["properties"] == {"objectType": "detection"}


def test_several_regions_are_one_annotation_and_no_tissue_is_none(tmp_path):
    mask = np.zeros((24, 40), bool)
    mask[:8, :8] = mask[8:16, 8:16] = mask[10:20, 30:40] = True  # the first two touch at a corner
    (annotation,) = write(tmp_path, patches_at([], [], 256.0), mask, 31.75)
    shape = shape_of(annotation)
    assert shape.is_valid and shape.geom_type == "MultiPolygon" and len(shape.geoms) == 3
    assert shape.area == pytest.approx((64 + 64 + 100) * 31.75**2)
    assert write(tmp_path, patches_at([], [], 256.0), NO_TISSUE, 32.0) == []
    assert write(tmp_path, patches_at([], [], 256.0)) == []
    (whole,) = write(tmp_path, patches_at([], [], 256.0), ~NO_TISSUE, 32.0)
    assert shape_of(whole).equals(shapely.box(0, 0, 256, 256))


def test_patches_are_detections_with_their_measurements_and_class(tmp_path):
    table = patches_at(
        [0, 512.0],
        [256, 0],
        256,
        score=[-1.23456789, 2e-7],
        probability=[0.25, np.nan],
        error_tumor=[1 / 3, np.inf],
        row=[1, 0],  # no measurement
        **{"class": [NORMAL, TUMOR]},
    )
    first, second = write(tmp_path, table)
    assert first == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 256], [256, 256], [256, 512], [0, 512], [0, 256]]]},
        "properties": {
            "objectType": "detection",
            "classification": {"name": "Normal", "color": [44, 111, 166]},
            "measurements": {"score": -1.235, "probability": 0.25, "error_tumor": 0.3333},
        },
    }
    # QuPath knows no missing value
    assert second["properties"]["measurements"] == {"score": 2e-07}
    for feature, kind in ((first, NORMAL), (second, TUMOR)):
        classification = feature["properties"]["classification"]
        assert classification["name"] in kind
        assert np.divide(classification["color"], 255) == pytest.approx(to_rgb(TISSUE_COLORS[kind]))
    (unknown,) = write(tmp_path, table[1:][["x", "y", "width", "error_tumor"]])
    assert unknown["properties"] == {"objectType": "detection"}


def test_whole_numbers_are_written_without_decimals(tmp_path):
    write(tmp_path, patches_at([508], [254], 253.8700001, score=[1.0]))
    text = (tmp_path / "a.geojson").read_text(encoding="utf-8")
    assert "[[[508,254],[761.87,254],[761.87,507.87],[508,507.87],[508,254]]]" in text and '{"score":1}' in text


@settings(deadline=None)
@given(
    coarse=stn.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))),
    noise=st.integers(0, 2**32 - 1),
    share=st.floats(0, 0.5),
    pixel=st.floats(0.5, 100).map(lambda value: round(value, 4)),
)
def test_the_contour_follows_the_mask(coarse, noise, share, pixel):
    mask = coarse.repeat(5, axis=0).repeat(5, axis=1)
    mask ^= np.random.default_rng(noise).random(mask.shape) < share
    cleaned = ~without_specks(~without_specks(mask))
    contour = geojson.tissue_contour(mask, pixel)
    if not cleaned.any():
        assert contour.is_empty
        return
    check_contour(contour, cleaned, pixel)
    for part in shapely.get_parts(contour):
        assert part.exterior.is_ccw and not any(hole.is_ccw for hole in part.interiors)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 200_000),
            st.integers(0, 200_000),
            st.floats(),
            st.floats(0, 1),
            st.sampled_from(COMPARED),
        ),
        max_size=20,
    ),
    st.floats(1, 2000),
)
def test_any_patches_are_read_back(tmp_path_factory, rows, width):
    x, y, scores, shares, kinds = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 5
    table = patches_at(x, y, width, score=scores, tissue_share=shares, **{"class": kinds})
    features = write(tmp_path_factory.mktemp("patches"), table)
    assert len(features) == len(rows)
    for feature, (left, top, score, share, kind) in zip(features, rows, strict=True):
        shape, properties = shape_of(feature), feature["properties"]
        assert shape.is_valid and shape.exterior.is_ccw
        assert shape.bounds == pytest.approx((left, top, left + width, top + width), abs=geojson.PRECISION)
        assert shape.area == pytest.approx(width**2, abs=0.03 * width)
        measured = {"tissue_share": pytest.approx(share, rel=1e-3)}
        if abs(score) < geojson.LARGEST:
            measured["score"] = pytest.approx(score, rel=1e-3)
        assert properties["measurements"] == measured
        assert properties["classification"]["name"] in kind


def test_a_slide_of_20000_patches_stays_below_10_megabytes(tmp_path):
    rng = np.random.default_rng(1)
    rows, columns = (axis.ravel() for axis in np.mgrid[:160, :125])
    smooth = gaussian_filter(rng.normal(size=(160 * 8, 125 * 8)), 12)
    mask = smooth / smooth.std() + 0.1 * rng.normal(size=smooth.shape) > -0.7
    side = 253.87
    measured = {name: rng.normal(size=len(rows)) / 100 for name in geojson.MEASUREMENTS}
    kinds = rng.choice(COMPARED, len(rows))
    table = patches_at(np.rint(columns * side), np.rint(rows * side), side, **measured, **{"class": kinds})
    features = write(tmp_path, table, mask, side / 8)
    path = tmp_path / "a.geojson"
    content = path.read_bytes()
    assert len(features) == 20_001 and 5e6 < len(content) < 10e6
    tissue = shape_of(features[0])
    assert tissue.is_valid and tissue.area == pytest.approx(mask.sum() * (side / 8) ** 2, rel=0.01)
    geojson.write_slide(path, table, mask, side / 8)
    assert path.read_bytes() == content and [file.name for file in tmp_path.iterdir()] == ["a.geojson"]
