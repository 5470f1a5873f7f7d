"""Regions that a pathologist drew: reading QuPath's files, and the share of each patch in them."""

import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from histocae.errors import DataError
from histocae.exports import geojson
from histocae.identifiers import COMPARED
from histocae.params import Annotations
from histocae.regions import files, labels, reading, stored
from histocae.regions.labels import area_shares
from support.regions import feature, polygon, rectangle, write

CLASSES = Annotations(tumor=["Tumor"], normal=["Normal", "Stroma"], exclude=["Ignore*", "Artifact"], share=0.5)
SQUARE = polygon(rectangle(0, 0, 100, 100))
CROSSED = polygon([[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]])


def read(folder, *features):
    return reading.read(write(folder / "s.geojson", *features), CLASSES)


def kinds(drawn):
    return [region.kind for region in drawn.regions]


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s.geojson", "s.geojson.gz"])
def test_polygons_multipolygons_and_holes_are_read(tmp_path, name):
    hole = polygon(rectangle(0, 0, 100, 100), rectangle(25, 25, 75, 75))
    two = {"type": "MultiPolygon", "coordinates": [[rectangle(0, 0, 10, 10)], [rectangle(20, 0, 30, 10)]]}
    drawn = reading.read(write(tmp_path / name, feature("Tumor", hole), feature("Stroma", two)), CLASSES)
    assert kinds(drawn) == ["tumor", "normal"] and not drawn.faults
    assert [region.shape.area for region in drawn.regions] == [7500, 200]


@pytest.mark.parametrize(
    "content",
    [
        [feature("Tumor", SQUARE)],
        feature("Tumor", SQUARE),
        {"type": "FeatureCollection", "features": [feature("Tumor", SQUARE)]},
        # QuPath 0.2 and 0.3
        [
            {
                **feature("Tumor", SQUARE),
                "id": "PathAnnotationObject",
                "properties": {"classification": {"name": "Tumor"}},
            }
        ],
        # several names, since QuPath 0.5
        [feature(None, SQUARE, classification={"names": ["Tumor", "Positive"]})],
        [feature("Tumor: Positive", SQUARE)],
        [feature("Tumor", {"type": "GeometryCollection", "geometries": [SQUARE]})],
    ],
)
def test_forms_of_all_versions_of_qupath_are_read(tmp_path, content):
    path = tmp_path / "s.geojson"
    path.write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    drawn = reading.read(path, CLASSES)
    assert kinds(drawn) == ["tumor"] and not drawn.faults


def test_cells_and_detections_are_no_regions(tmp_path):
    drawn = read(
        tmp_path,
        feature("Tumor", SQUARE, objectType="detection"),
        feature("Tumor", SQUARE, objectType="cell"),
        feature("Normal", SQUARE),
    )
    assert kinds(drawn) == ["normal"] and drawn.other == 2 and not drawn.faults


def test_scores_that_were_exported_again_are_no_regions(tmp_path):
    patches = pd.DataFrame(
        {"x": [0, 64], "y": [0, 0], "width": [64.0, 64.0], "score": [1.0, -1.0], "class": COMPARED}
    )
    geojson.write_slide(tmp_path / "scores.geojson", patches, np.ones((8, 16), bool), 8.0)
    content = json.loads((tmp_path / "scores.geojson").read_text())
    drawn = read(tmp_path, *content["features"], feature("Tumor", SQUARE))
    assert kinds(drawn) == ["tumor"] and not drawn.faults and drawn.other == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Tumor", "tumor"),
        ("Ignore*", "exclude"),
        ("Ignored", "exclude"),
        ("Stroma", "normal"),
        ("Stroma: dense", "normal"),
        ("tumor", None),
        ("Necrosis", None),
    ],
)
def test_classes_are_known_by_their_name(name, kind):
    assert reading.kind_of(name, CLASSES) == kind


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (feature("Tumor", CROSSED), r"feature 2 \(Tumor\): crosses or touches itself: Self-intersection\[50 50\]"),
        (feature("Necrosis", SQUARE), r"feature 2 \(Necrosis\): unknown class"),
        (feature(None, SQUARE), "feature 2: has no class"),
        (feature("Tumor", {"type": "Point", "coordinates": [1, 2]}), r"feature 2 \(Tumor\): is a Point"),
        (feature("Tumor", {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}), "is a LineString"),
        (feature("Tumor", None), "has no geometry"),
        (feature("Tumor", polygon([[0, 0], [1, 1], [0, 0]])), "fewer than three points"),
        (feature("Tumor", polygon([[0, 0], [1, 1], [2, 2], [0, 0]])), r"feature 2 \(Tumor\)"),
        (feature("Tumor", polygon([[0, 0], ["1", 1], [2, 0], [0, 0]])), "pairs of finite numbers"),
        (feature("Tumor", polygon([[0, 0], [float("nan"), 1], [2, 0], [0, 0]])), "pairs of finite numbers"),
        (feature("Tumor", polygon()), "without coordinates"),
        (feature("Tumor", {"type": "MultiPolygon", "coordinates": []}), "has no polygon"),
        (
            feature(
                "Tumor", {"type": "MultiPolygon", "coordinates": [[rectangle(0, 0, 9, 9)], [rectangle(5, 0, 20, 9)]]}
            ),
            "its parts overlap",
        ),
        ({"type": "Something"}, "feature 2: is no GeoJSON feature"),
        (feature("Tumor", SQUARE, objectType="annotatoin"), "unknown type annotatoin; regions are annotations"),
        (feature("Tumor", polygon([[0, 0], [10**400, 1], [2, 0], [0, 0]])), "feature 2"),
        (feature("\ud800\x1b\nbad", SQUARE), r"feature 2 \(\\ud800\\x1b bad\): unknown class"),
        (7, "feature 2: is no GeoJSON feature"),
    ],
)
def test_a_bad_feature_is_one_line_with_file_number_and_class(tmp_path, bad, message):
    drawn = read(tmp_path, feature("Normal", SQUARE), bad)
    (fault,) = drawn.faults
    assert fault.startswith(f"{tmp_path / 's.geojson'}: ") and "\n" not in fault
    assert re.search(message, fault), fault


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"type": "FeatureCollection"}', b'"text"', b"7", b"PK\x03\x04zip"],
)
def test_what_is_no_geojson_is_one_line(tmp_path, content):
    for name, text in (("s.geojson", content), ("s.geojson.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(text)
        (fault,) = reading.read(tmp_path / name, CLASSES).faults
        assert fault.startswith(f"{tmp_path / name}: is not GeoJSON") and "\n" not in fault


def test_the_longest_class_with_a_star_counts():
    classes = Annotations(tumor=["T*"], normal=["Normal"], exclude=["Tumor bed*"], share=0.5)
    kinds = [reading.kind_of(name, classes) for name in ("Tumor", "Tumor bed, ignore", "Tissue")]
    assert kinds == ["tumor", "exclude", "tumor"]


def test_a_file_with_many_faults_lists_the_first(tmp_path):
    drawn = read(tmp_path, *[feature("Other", SQUARE)] * 300)
    assert len(drawn.faults) == reading.MOST_FAULTS + 1 and drawn.faults[-1].endswith(
        "200 more features can't be used"
    )


def test_a_damaged_archive_is_one_line(tmp_path):
    path = write(tmp_path / "s.geojson.gz", feature("Tumor", SQUARE))
    path.write_bytes(path.read_bytes()[:-12])
    (fault,) = reading.read(path, CLASSES).faults
    assert f"{path}: can't be read" in fault
    path.write_bytes(b"plain")
    (fault,) = reading.read(path, CLASSES).faults
    assert f"{path}: can't be read" in fault


def test_regions_outside_of_the_slide_are_faults(tmp_path):
    drawn = read(tmp_path, feature("Tumor", SQUARE), feature("Normal", polygon(rectangle(50, 50, 130, 90))))
    assert reading.outside(drawn, 130, 100) == []
    (fault,) = reading.outside(drawn, 120, 100)
    assert "feature 2 (Normal): lies outside the slide: x 50 to 130" in fault and "120 x 100 pixels" in fault
    negative = read(tmp_path, feature("Tumor", polygon(rectangle(-30, 0, 10, 10))))
    assert len(reading.outside(negative, 120, 100)) == 1


def test_files_are_found_by_slide(tmp_path):
    for name in ("a.geojson", "b.geojson.gz", "c.txt", ".d.geojson"):
        (tmp_path / name).write_text("x")
    assert files.find(tmp_path) == {"a": tmp_path / "a.geojson", "b": tmp_path / "b.geojson.gz"}
    (tmp_path / "a.geojson.gz").write_text("x")
    with pytest.raises(DataError, match=r"a\.geojson\.gz: a\.geojson is of the same slide"):
        files.find(tmp_path)
    (tmp_path / "a.geojson.gz").unlink()
    (tmp_path / "B.GEOJSON").write_text("x")
    assert set(files.find(tmp_path)) == {"a", "b", "B"}
    (tmp_path / "e.geojson").mkdir()
    with pytest.raises(DataError, match=r"e\.geojson: is no file; remove it"):
        files.find(tmp_path)
    with pytest.raises(DataError, match=r"data\.annotations: .*no such folder"):
        files.find(tmp_path / "none")


# --- shares and labels -------------------------------------------------------------------------


def cells(rows, columns):
    row, column = np.divmod(np.arange(rows * columns), columns)
    return row, column


def test_holes_are_outside():
    shape = shapely.Polygon(rectangle(0, 0, 40, 40), [rectangle(10, 10, 30, 20)])
    shares = area_shares(shape, *cells(4, 4), 10.0).reshape(4, 4)
    expected = np.ones((4, 4))
    expected[1, 1:3] = 0
    np.testing.assert_allclose(shares, expected, atol=1e-12)


numbers = st.floats(0, 60, allow_nan=False).map(lambda value: round(value, 2))


@given(
    points=st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12),
    side=st.floats(3, 20),
    order=st.randoms(use_true_random=False),
)
def test_shares_are_areas_of_intersections(points, side, order):
    shape = shapely.make_valid(shapely.Polygon(points), method="structure", keep_collapsed=False)
    row, column = cells(7, 6)
    shuffled = np.array(order.sample(range(len(row)), len(row)))[: 5 + len(row) // 2]
    row, column = row[shuffled], column[shuffled]
    shares = area_shares(shape, row, column, side)
    boxes = shapely.box(column * side, row * side, (column + 1) * side, (row + 1) * side)
    expected = [box.intersection(shape).area / side**2 for box in boxes]
    np.testing.assert_allclose(shares, expected, atol=1e-7)
    assert ((shares >= 0) & (shares <= 1)).all()


def label(tmp_path, *features, least=0.5, rows=2, columns=4):
    return labels.label(read(tmp_path, *features).regions, *cells(rows, columns), 10.0, least)


def test_a_patch_has_the_label_with_the_larger_share_of_its_area(tmp_path):
    found = label(
        tmp_path,
        feature("Tumor", polygon(rectangle(0, 0, 16, 10))),
        feature("Normal", polygon(rectangle(16, 0, 30, 10))),
        feature("Ignore*", polygon(rectangle(0, 10, 15, 20))),
        rows=2,
        columns=4,
    )
    names = [*reading.KINDS, ""]
    assert [names[code] for code in found.codes] == ["tumor", "tumor", "normal", "", "exclude", "exclude", "", ""]
    np.testing.assert_allclose(found.shares, [1, 0.6, 1, 0, 1, 0.5, 0, 0], atol=1e-12)
    assert found.labeled and found.excluded.sum() == 2 and found.unclear == 0


def test_a_share_below_the_least_is_no_label_and_stays_known(tmp_path):
    found = label(tmp_path, feature("Tumor", polygon(rectangle(0, 0, 16, 10))), least=0.7, rows=1, columns=2)
    assert list(found.codes) == [0, labels.NONE] and found.shares[1] == pytest.approx(0.6)


def test_a_patch_in_regions_of_both_tissues_has_no_label(tmp_path):
    found = label(tmp_path, feature("Tumor", SQUARE), feature("Normal", polygon(rectangle(0, 0, 16, 20))))
    assert [int(code) for code in found.codes[:3]] == [labels.NONE, 0, 0]
    assert found.unclear == 2 and found.overlap == pytest.approx(320 / 10_000)


def test_regions_to_exclude_alone_leave_the_label_of_the_slide(tmp_path):
    found = label(tmp_path, feature("Artifact", polygon(rectangle(0, 0, 10, 10))))
    assert not found.labeled and list(found.excluded) == [True] + [False] * 7


def test_regions_for_figures_are_read_as_they_were_written(tmp_path):
    hole = polygon(rectangle(0, 0, 40, 40), rectangle(10, 10, 30, 20))
    drawn = read(tmp_path, feature("Tumor", hole), feature("Tumor", polygon(rectangle(50, 0, 60, 10))))
    stored.write(tmp_path, "shard", drawn.regions)
    assert stored.read(tmp_path, "other") is None
    shapes = stored.read(tmp_path, "shard")
    assert list(shapes) == ["tumor"] and shapes["tumor"].equals(shapely.union_all([r.shape for r in drawn.regions]))
