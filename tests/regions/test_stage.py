"""Regions as labels of patches, from the user's files to the tables of the split."""

import numpy as np
import pytest

from histocae import paths
from histocae.cohort.balance import read_split
from histocae.patches.shard_file import shard_name
from support.make_data import NORMAL, TUMOR
from support.regions import feature, polygon, rectangle, write
from support.workspace import slide_row

STAGES = ("inventory", "metadata", "slides", "patches")
SIDE = 32  # of a patch; slides have 8 x 8 of them
LEFT, RIGHT = polygon(rectangle(0, 0, 128, 256)), polygon(rectangle(128, 0, 256, 256))


@pytest.fixture
def regions(project):
    """A project of four slides (a and c are tumor), whose regions are in `regions`."""
    project.slides("a", "b", "c", "d", mpp=0.5)
    project.params(data__annotations="regions")
    folder = project.folder / "regions"
    folder.mkdir()
    return folder


def counts(project):
    return project.read("reports/patching/counts.csv").set_index("slide_id")


def test_patches_have_the_label_of_their_regions_or_of_their_slide(project, regions):
    write(regions / "a.geojson", feature("Tumor", LEFT), feature("Stroma", polygon(rectangle(128, 0, 256, 128))))
    write(regions / "b.geojson.gz", feature("Ignore*", polygon(rectangle(0, 0, 256, 64))))
    result = project.run(*STAGES)
    assert result.code == 0, result.lines
    index = project.index.set_index(["slide_id", "row", "column"])
    a = index.loc["a"]
    left, upper = a.index.get_level_values("column") < 4, a.index.get_level_values("row") < 4
    assert (a["patch_label"][left] == TUMOR).all() and (a["patch_label"][~left & upper] == NORMAL).all()
    assert a["patch_label"][~left & ~upper].isna().all() and list(a["label_share"].unique()) == [1.0, 0.0]
    assert len(index.loc["b"]) == 48 and index.loc["b"].index.get_level_values("row").min() == 2
    for name, label in (("b", NORMAL), ("c", TUMOR), ("d", NORMAL)):
        assert (index.loc[name, "patch_label"] == label).all() and index.loc[name, "label_share"].isna().all()
    table = counts(project)
    assert list(table["excluded"]) == [0, 16, 0, 0] and list(table["kept"]) == [64, 48, 64, 64]
    assert list(table["labels_from"]) == ["regions", "slide", "slide", "slide"]
    assert list(table.loc["a", ["tumor", "normal", "unlabeled"]]) == [32, 16, 16]
    lines = "\n".join(result.lines)
    assert "3 slides without tumor or normal regions keep the label of the slide: b; c; d" in lines
    assert "regions give the labels of the patches of 1 slide" in lines


def test_the_tables_of_the_split_have_the_labels(project, regions):
    project.slides(*(f"s{i}" for i in range(6)), mpp=0.5)
    write(regions / "s0.geojson", feature("Tumor", LEFT))
    project.make()
    tables = [read_split(paths.SPLITS / f"{name}.csv") for name in ("train", "validation", "test")]
    rows = [table[table["slide_id"] == "s0"] for table in tables if (table["slide_id"] == "s0").any()]
    assert len(rows) == 1 and rows[0]["patch_label"].value_counts(dropna=False).to_dict() == {TUMOR: 32, np.nan: 32}


def test_changed_regions_change_labels_and_extract_no_patch_again(project, regions):
    write(regions / "a.geojson", feature("Tumor", LEFT))
    project.make(*STAGES)
    before = project.index
    write(regions / "a.geojson", feature("Tumor", RIGHT))
    result = project.run(*STAGES)
    assert any("patches of 0 slides to extract, 4 done before" in line for line in result.lines)
    after = project.index
    assert list(before["shard"]) == list(after["shard"]) and list(before["position"]) == list(after["position"])
    changed = before["slide_id"] == "a"
    assert (before["patch_label"].isna() != after["patch_label"].isna())[changed].all()
    project.params(data__annotations="regions", annotations__share=1.0, annotations__exclude=["Tumor"])
    project.params(data__annotations="regions", annotations__exclude=["Tumor"], annotations__tumor=["Carcinoma"])
    project.make(*STAGES)
    assert len(project.index) == len(after) - 32


def test_a_file_that_is_added_is_noticed(project, regions):
    project.make("inventory")
    path = project.folder / "data/annotations.csv"
    assert path.read_text() == "file|bytes|sha256\n"
    write(regions / "a.geojson", feature("Tumor", LEFT))
    project.make("inventory")
    assert path.read_text().splitlines()[1].startswith("a.geojson|")


def test_a_file_that_changed_after_the_inventory_is_refused(project, regions):
    write(regions / "a.geojson", feature("Tumor", LEFT))
    project.make(*STAGES[:3])
    write(regions / "a.geojson", feature("Tumor", RIGHT))
    assert "regions/a.geojson: changed since the stage inventory listed it" in project.run("patches").error
    assert not (project.folder / "data/patches/store.json").exists()


def test_a_file_that_was_deleted_after_the_inventory_is_refused(project, regions):
    write(regions / "a.geojson", feature("Tumor", LEFT))
    project.make(*STAGES[:3])
    (regions / "a.geojson").unlink()
    assert "regions/a.geojson: changed since the stage inventory listed it" in project.run("patches").error


def test_names_of_files_may_be_safe_and_of_any_unicode_form(project, regions):
    project.slides("a", "b", mpp=0.5)
    rows = [slide_row("x/a", 0, "a.tif"), slide_row("slide\u00e9", 1, "b.tif")]
    project.table(rows)
    write(regions / f"{shard_name('x/a')}.geojson", feature("Tumor", LEFT))
    write(regions / "slidee\u0301.geojson", feature("Stroma", LEFT))
    project.make(*STAGES)
    assert list(counts(project)["labels_from"]) == ["regions", "regions"]


def test_files_of_slides_that_are_set_aside_are_named(project, regions):
    (project.own / "c.tif").write_bytes(b"no slide")
    for name in "ac":
        write(regions / f"{name}.geojson", feature("Tumor", LEFT))
    lines = "\n".join(project.run(*STAGES).lines)
    assert "files of slides that are set aside: 1 (c.geojson)" in lines and "files of no slide" not in lines


def test_a_file_of_cells_alone_is_named(project, regions):
    write(regions / "a.geojson", feature("Tumor", LEFT, objectType="detection"))
    lines = "\n".join(project.run(*STAGES).lines)
    assert "files without an annotation of QuPath: 1 (a (1 other objects))" in lines
    assert (project.index["label_share"].isna()).all()


@pytest.mark.parametrize("name", ["", " Tumor", "T*umor", "T\numor"])
def test_names_of_classes_that_match_nothing_are_refused(project, regions, name):
    project.params(annotations__tumor=[name])
    assert "annotations.tumor" in project.run("inventory").only_line


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (feature("Necrosis", LEFT), "regions/a.geojson: feature 2 (Necrosis): unknown class"),
        (
            feature("Tumor", polygon(rectangle(200, 0, 300, 99))),
            "feature 2 (Tumor): lies outside the slide: x 200 to 300",
        ),
        (feature("Tumor", polygon([[0, 0], [99, 99], [99, 0], [0, 99], [0, 0]])), "feature 2 (Tumor): crosses"),
    ],
)
def test_a_slide_with_bad_regions_is_set_aside_with_file_and_feature(project, regions, bad, message):
    write(regions / "a.geojson", feature("Normal", LEFT), bad)
    project.make(*STAGES)
    aside = project.read("reports/set_aside.csv").set_index("slide_id")
    assert list(aside.index) == ["a"] and message in aside.loc["a", "reason"] and aside.loc["a", "patches_kept"] == 0
    assert set(project.index["slide_id"]) == {"b", "c", "d"}
    assert counts(project).loc["a", ["kept", "dropped"]].tolist() == [0, 64]
    write(regions / "a.geojson", feature("Normal", LEFT))
    project.make(*STAGES)
    assert set(project.index["slide_id"]) == {"a", "b", "c", "d"} and project.read("reports/set_aside.csv").empty


def test_all_faults_of_a_file_are_listed(project, regions):
    write(regions / "a.geojson", *(feature(name, LEFT) for name in ("One", "Two", "Tumor", "Three")))
    project.make(*STAGES)
    reason = project.read("reports/set_aside.csv").loc[0, "reason"]
    assert "feature 1 (One)" in reason and "(and 2 more, in reports/patching/failures.csv)" in reason
    failures = project.read("reports/patching/failures.csv")
    assert [name in reason for name, reason in zip(("One", "Two", "Three"), failures["reason"], strict=True)] == [
        True
    ] * 3


def test_bad_regions_count_as_failed_slides(project, regions):
    for name in "abc":
        write(regions / f"{name}.geojson", feature("Necrosis", LEFT))
    project.params(data__annotations="regions", data__max_failed_share=0.5)
    assert "3 of 4 slides failed" in project.run(*STAGES).error
    assert not (project.folder / "data/patches/store.json").exists()


def test_a_slide_whose_patches_are_all_excluded_is_set_aside(project, regions):
    write(regions / "a.geojson", feature("Artifact", polygon(rectangle(0, 0, 256, 256))))
    project.make(*STAGES)
    aside = project.read("reports/set_aside.csv").set_index("slide_id")
    assert aside.loc["a", "reason"] == "all of its patches are left out: 64 excluded (params.yaml: annotations)"
    assert "a" not in set(project.index["slide_id"])


def test_files_without_a_slide_and_missing_folders_are_reported(project, regions):
    write(regions / "a.geojson", feature("Tumor", LEFT))
    write(regions / "other.geojson", feature("Tumor", LEFT))
    lines = project.run(*STAGES).lines
    assert any("files of no slide: 1 (other.geojson)" in line for line in lines)
    project.params(data__annotations="nowhere")
    assert "data.annotations: nowhere: no such folder" in project.run("inventory").error


def test_regions_of_tiles_are_refused(project, regions):
    project.params(data__source="tiles", data__annotations="regions")
    assert "data.annotations: regions are of slides" in project.run("inventory").only_line


def test_a_class_in_two_lists_is_refused(project, regions):
    project.params(annotations__normal=["Tumor"])
    assert "annotations.normal: Tumor is in annotations.tumor too" in project.run("inventory").only_line


def test_regions_are_of_level_0_where_patches_are_reduced(project, regions):
    project.slides("a", "b", "c", "d", mpp=0.25)
    write(regions / "a.geojson", feature("Tumor", polygon(rectangle(0, 0, 160, 256))))
    project.make(*STAGES)
    rows = project.index[project.index["slide_id"] == "a"]
    assert set(rows.loc[rows["patch_label"] == TUMOR, "column"]) == {0, 1, 2}
    assert set(rows.loc[rows["column"] == 2, "label_share"]) == {0.5}
