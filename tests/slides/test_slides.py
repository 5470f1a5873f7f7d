"""From slides to patches: resolution, levels, the grid, tissue, and slides that fail."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocae.errors import HistocaeError, SlideError
from histocae.patches import quality
from histocae.patches.grid import Grid
from histocae.patches.store import PatchStore
from histocae.patches.tissue import RULE
from histocae.slides.slide import Level, choose_level
from histocae.sources import demo
from histocae.stages import patches as patches_stage
from histocae.workers import processes
from support import make_data
from support.extracted_slides import EXTRACTION, REASONS, counts, extract_or_die, only_slide
from support.make_data import damage_tiles, directories, tissue, write_slide
from support.workspace import Workspace, slide_row


def read_store(project: Workspace) -> tuple[pd.DataFrame, np.ndarray]:
    """Read the index and all its patches."""
    store = PatchStore(project.folder / "data" / "patches")
    index = store.index()
    return index, store.select(index).take(np.arange(len(index)))


def read_set_aside(project: Workspace) -> dict[str, tuple[str, str, int]]:
    table = project.read("reports/set_aside.csv")
    assert list(table.columns) == ["slide_id", "stage", "reason", "patches_kept"]
    return {row.slide_id: (row.stage, row.reason, row.patches_kept) for row in table.itertuples()}


def region(path: Path, x: int, y: int, side: int, level: int = 0) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((x, y), level, (side, side)).convert("RGB"))


def reduce_image(image: np.ndarray, factor: int = 2) -> np.ndarray:
    """Compute the means of blocks of `factor` x `factor` pixels."""
    height, width, _ = image.shape
    return image.reshape(height // factor, factor, width // factor, factor, 3).mean(axis=(1, 3))


# --- microns per pixel -------------------------------------------------------------------------


def test_mpp_is_from_the_table_else_the_slide_else_params(project):
    power, power_and_mpp = ({"description": f"Aperio x|AppMag = 20{more}"} for more in ("", "|MPP = 0.4990"))
    cases = [
        ((0.5, {}), None, 0.5, "slide"),
        ((0.5, {}), 0.25, 0.25, "table"),
        ((None, power), None, 0.5, "slide"),
        ((None, power_and_mpp), None, 0.499, "slide"),
        ((None, {}), None, 0.47, "data.mpp"),
        ((None, {}), 0.25, 0.25, "table"),
        ((352.8, {}), None, 0.47, "data.mpp"),
    ]
    rows = []
    for i, ((stated, options), mpp, _, _) in enumerate(cases):
        write_slide(project.own / f"{i}.tif", tissue(i, 128, 128), stated, **options)
        rows.append(slide_row(f"s{i}", i, f"{i}.tif", mpp=mpp))
    project.table(rows)
    project.params(data__mpp=0.47)
    project.make(*EXTRACTION[:3])
    table = project.read("data/slides.csv")
    assert list(zip(table["mpp"].round(6), table["mpp_from"], strict=True)) == [case[2:] for case in cases]
    assert not slides_set_aside(project)


def slides_set_aside(project: Workspace) -> dict[str, str]:
    """Read which slides the stage slides set aside, with the reasons."""
    table = project.read("data/set_aside/slides.csv")
    return dict(zip(table["slide_id"], table["reason"], strict=True))


def test_a_slide_without_any_resolution_is_set_aside(project):
    for i, (name, mpp) in enumerate({"good": 0.5, "without_mpp": None, "dpi": 352.8}.items()):
        write_slide(project.own / f"{name}.tif", tissue(i, 128, 128), mpp)
    project.table([slide_row("good"), slide_row("without_mpp", 1), slide_row("dpi", 2)])
    project.make(*EXTRACTION)
    assert set(project.index["slide_id"]) == {"good"}
    records = read_set_aside(project)
    assert set(records) == {"without_mpp", "dpi"}
    for stage, reason, kept in records.values():
        assert stage == "slides" and "microns per pixel" in reason and "data.mpp" in reason and kept == 0


def test_a_fractional_objective_power_is_not_rounded(project):
    only_slide(project, tissue(1, 128, 128), None, description="Aperio x|AppMag = 39.999")
    project.make(*EXTRACTION[:3])
    table = project.read("data/slides.csv")
    assert table["mpp"][0] == pytest.approx(10 / 39.999) and table["objective_power"][0] == 39.999


# --- levels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [0.5, 0.45, 0.46, 0.54, 0.55])
@pytest.mark.parametrize("mpp_from", ["slide", "table"])
def test_a_level_within_a_tenth_of_the_target_is_not_reduced(project, mpp, mpp_from):
    path = only_slide(project, tissue(1, 200, 170), mpp if mpp_from == "slide" else None)
    project.table([slide_row("a", mpp=mpp if mpp_from == "table" else None)])
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    assert len(index) == 6 * 5
    for row, patch in zip(index.itertuples(), patches, strict=True):
        assert (row.x, row.y) == (32 * row.column, 32 * row.row)
        np.testing.assert_array_equal(patch, region(path, row.x, row.y, 32))
    assert index["mpp"].to_numpy() == pytest.approx(mpp)


def test_a_coarse_slide_is_never_enlarged(project):
    for name, mpp in (("a", 0.5), ("b", 0.56), ("c", 1.0)):
        write_slide(project.own / f"{name}.tif", tissue(1, 128, 128), mpp)
    project.table([slide_row(name, i) for i, name in enumerate("abc")])
    project.make(*EXTRACTION)
    assert set(project.index["slide_id"]) == {"a"}
    assert {slide_id: kept for slide_id, (_, _, kept) in read_set_aside(project).items()} == {"b": 0, "c": 0}
    assert "coarser" in read_set_aside(project)["b"][1] and "1 microns per pixel" in read_set_aside(project)["c"][1]


def test_a_finer_level_is_reduced_to_the_means_of_its_pixels(project):
    path = only_slide(project, tissue(1, 300, 260), 0.25)
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    assert len(index) == 4 * 4 and counts(project)["border"]["a"] == 5 * 5 - 4 * 4
    for row, patch in zip(index.itertuples(), patches, strict=True):
        assert (row.x, row.y) == (64 * row.column, 64 * row.row)
        expected = reduce_image(region(path, row.x, row.y, 64))
        np.testing.assert_allclose(patch, expected, atol=1)
    assert set(index["mpp"]) == {0.5}


def test_a_patch_does_not_depend_on_which_other_patches_are_kept(project):
    only_slide(project, tissue(1, 600, 600), 0.3)
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    all_patches = {(row.row, row.column): patch for row, patch in zip(index.itertuples(), patches, strict=True)}
    project.params(patches__max_per_slide=9)
    project.make("patches")
    index, patches = read_store(project)
    assert len(index) == 9
    for row, patch in zip(index.itertuples(), patches, strict=True):
        np.testing.assert_array_equal(patch, all_patches[row.row, row.column])


@pytest.mark.parametrize(
    ("mpp", "keep", "level", "step"),
    [
        (0.125, [0, 2, 4], 1, 1.0),  # levels of 0.125, 0.5, 2.0 mpp: not reduced
        (0.0625, [0, 2, 4], 1, 2.0),  # 0.0625, 0.25, 1.0 mpp: the middle level is reduced by 2
        (0.5, [0, 2, 4], 0, 1.0),
        (0.25, [0, 1, 2], 1, 1.0),
        (0.12, [0, 1, 2], 2, 1.0),  # 0.48 mpp is within a tenth of the target
    ],
)
def test_the_level_is_chosen_by_its_true_downsample(project, mpp, keep, level, step):
    path = only_slide(project, tissue(1, 512, 448), mpp, pyramid=True, keep_levels=keep, tile=32)
    with openslide.OpenSlide(path) as slide:
        assert len(slide.level_dimensions) == len(keep)
        downsample = slide.level_downsamples[level]
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    assert set(counts(project)["level"]) == {level} and len(index)
    for row, patch in list(zip(index.itertuples(), patches, strict=True))[:40]:
        side = round(32 * step)
        assert (row.x, row.y) == (round(side * downsample * row.column), round(side * downsample * row.row))
        expected = region(path, row.x, row.y, side, level)
        np.testing.assert_allclose(
            patch, expected if step == 1 else reduce_image(expected), atol=0 if step == 1 else 1
        )


@given(
    downsamples=st.lists(st.floats(1, 64), max_size=5, unique=True),
    mpp=st.floats(0.05, 10),
    target=st.floats(0.1, 8),
)
def test_any_pyramid_reaches_the_target_or_is_refused(downsamples, mpp, target):
    levels = tuple(Level(100, 100, downsample) for downsample in sorted({1.0, *downsamples}))
    level_mpp = np.array([mpp * level.downsample for level in levels])
    if level_mpp[0] > 1.1001 * target:
        with pytest.raises(SlideError, match="coarser"):
            choose_level(levels, mpp, target)
        return
    if level_mpp[0] > 1.0999 * target:
        return
    level, step = choose_level(levels, mpp, target)
    assert step >= 1
    if step == 1:
        assert 0.8999 < level_mpp[level] / target < 1.1001
        assert abs(level_mpp[level] - target) == pytest.approx(abs(level_mpp - target).min())
    else:
        assert level_mpp[level] * step == pytest.approx(target)
        assert not ((level_mpp > level_mpp[level] * 1.0001) & (level_mpp < 1.0999 * target)).any()


@given(height=st.integers(32, 5000), width=st.integers(32, 5000), mpp=st.floats(0.05, 0.549))
def test_the_grid_of_any_slide_stays_inside_and_counts_every_cell(height, width, mpp):
    from histocae.patches.grid import make_grid

    class PlainSlide:
        levels = (Level(width, height, 1.0),)

    try:
        grid: Grid = make_grid(PlainSlide(), mpp, 32, 0.5)
    except SlideError:
        assert min(height, width) < 32 * 0.5 / mpp
        return
    x, y = grid.corners(np.array([grid.rows - 1]), np.array([grid.columns - 1]))
    assert 0 <= x[0] <= width - grid.cell + 1 and 0 <= y[0] <= height - grid.cell + 1
    rows, columns = -(-height // grid.cell), -(-width // grid.cell)
    assert grid.rows in (rows, rows - 1) and grid.columns in (columns, columns - 1)
    assert grid.rows * grid.columns + grid.partial in (
        rows * columns,
        grid.rows * columns,
        rows * grid.columns,
        grid.rows * grid.columns,
    )


# --- tissue and counts -------------------------------------------------------------------------


def test_patches_are_inside_the_slide_and_every_cell_is_counted_once(project):
    write_slide(project.own / "a.tif", tissue(1, 333, 421, glass=100), 0.5)
    write_slide(project.own / "b.tif", tissue(2, 700, 501, glass=200), 0.25, pyramid=True)
    write_slide(project.own / "c.tif", tissue(3, 444, 333, glass=32), 0.31)
    project.table([slide_row(name, i) for i, name in enumerate("abc")])
    project.params(patches__max_per_slide=40)
    project.make(*EXTRACTION)
    table, index = counts(project), project.index
    shapes = {"a": (333, 421, 32), "b": (700, 501, 64), "c": (444, 333, 32 * 0.5 / 0.31)}
    for name, (height, width, cell) in shapes.items():
        rows = index[index["slide_id"] == name]
        assert len(rows) == table["kept"][name] <= 40
        assert not rows.duplicated(["row", "column"]).any()
        assert (rows["x"] >= 0).all() and (rows["x"] + cell <= width + 1).all()
        assert (rows["y"] >= 0).all() and (rows["y"] + cell <= height + 1).all()
        assert table.loc[name, REASONS].sum() == np.ceil(height / cell) * np.ceil(width / cell)
    summary = json.loads((project.folder / "reports/patching/summary.json").read_text(encoding="utf-8"))
    assert summary.pop("tissue_rule") == RULE
    assert summary.pop("quality") == {"rule": quality.RULE, "thresholds": quality.THRESHOLDS, "left_out": []}
    assert summary.pop("flagged") == {name: int(table[f"flagged_{name}"].sum()) for name in quality.FAULTS}
    assert summary == {"slides": 3, "cells": int(table[REASONS].to_numpy().sum()), **table[REASONS].sum().to_dict()}


def test_glass_is_left_out_and_tissue_is_kept(project):
    only_slide(project, tissue(1, 320, 320, glass=170), 0.5)
    project.params(patches__tissue_share=0.4)
    project.make(*EXTRACTION)
    index = project.index
    assert set(index["column"]) == {5, 6, 7, 8, 9} and len(index) == 50
    assert (index.loc[index["column"] > 5, "tissue_share"] > 0.95).all()
    table = counts(project)
    assert (table["kept"]["a"], table["background"]["a"]) == (50, 50)


def test_a_slide_of_glass_alone_is_set_aside_but_has_not_failed(project):
    rows = project.slides("a", "b")
    write_slide(project.own / "b.tif", tissue(1, 256, 256, glass=256), 0.5)
    project.table(rows)
    project.params(data__max_failed_share=0.0)
    project.make(*EXTRACTION)
    assert read_set_aside(project) == {"b": ("patches", "shows no tissue", 0)}
    assert counts(project)["background"]["b"] == 64


def test_a_cohort_of_glass_alone_is_an_error(project):
    only_slide(project, tissue(1, 256, 256, glass=256), 0.5)
    message = project.run(*EXTRACTION).error
    assert "no slide has a patch" in message and "patches.tissue_share" in message
    assert not (project.folder / "data/patches/store.json").exists()


def test_a_slide_smaller_than_a_patch_is_set_aside(project):
    project.slides("a", "b")
    write_slide(project.own / "b.tif", tissue(1, 31, 200), 0.5)
    project.make(*EXTRACTION)
    stage, reason, kept = read_set_aside(project)["b"]
    assert stage == "patches" and "smaller than one patch of 32 pixels" in reason and kept == 0


def test_the_cap_is_a_seeded_sample_that_other_slides_do_not_change(new_project):
    def extract_index(name: str, count: int, **changed: object) -> pd.DataFrame:
        project = new_project(name)
        project.params(patches__max_per_slide=12, **changed)
        project.slides(*"abcd"[:count])
        return project.make(*EXTRACTION).index.drop(columns=["tissue_share", "flags"])

    alone, with_others = extract_index("first", 1), extract_index("second", 3)
    assert len(alone) == 12 and list(with_others["slide_id"].value_counts()) == [12] * 3
    pd.testing.assert_frame_equal(with_others[with_others["slide_id"] == "a"], alone)
    a, b = (
        with_others[with_others["slide_id"] == slide_id][["row", "column"]].to_numpy().tolist() for slide_id in "ab"
    )
    assert a != b
    other_seed = extract_index("third", 1, seed=7)
    assert other_seed[["row", "column"]].to_numpy().tolist() != alone[["row", "column"]].to_numpy().tolist()


# --- slides that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("pyramid", [False, True])
@pytest.mark.parametrize("on_read_error", ["keep", "drop"])
def test_on_read_error_keeps_or_drops_the_patches_of_a_damaged_slide(project, pyramid, on_read_error):
    rows = project.slides("a", "b", pyramid=pyramid)
    path = write_slide(project.own / "b.tif", tissue(5, 512, 512), 0.5, pyramid=pyramid)
    project.table(rows)
    project.params(patches__pixels=64)
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    before = {
        (row.row, row.column): patch
        for row, patch in zip(index.itertuples(), patches, strict=True)
        if row.slide_id == "b"
    }
    assert len(before) == 64
    damage_tiles(path, [9, 10])
    project.forget("b.tif")
    project.params(patches__pixels=64, patches__on_read_error=on_read_error)
    result = project.run(*EXTRACTION)
    assert result.code == 0
    stage, reason, kept = read_set_aside(project)["b"]
    assert stage == "patches" and "can't be read at level 0" in reason and "Traceback" not in "".join(result.lines)
    index, patches = read_store(project)
    of_b = index["slide_id"] == "b"
    cells = counts(project).loc["b"]
    assert cells[REASONS].sum() == 64 and kept == of_b.sum() == cells["kept"]
    if on_read_error == "keep":
        assert kept > 0 and cells["dropped"] == 0 and kept + cells["unread"] == 64
        for row, patch in zip(index[of_b].itertuples(), patches[of_b], strict=True):
            np.testing.assert_array_equal(patch, before[row.row, row.column])
    else:
        assert kept == 0 and cells["dropped"] > 0
    assert (index["slide_id"] == "a").sum() == 16
    assert not project.leftovers()


def test_files_that_are_not_slides_are_set_aside(project):
    rows = project.slides("good", "truncated", "text", "empty", "png", "binary", "header")
    folder = project.own
    data = (folder / "good.tif").read_bytes()
    (folder / "truncated.tif").write_bytes(data[: len(data) // 2])
    (folder / "text.tif").write_text("this is not a slide\n" * 99, encoding="utf-8")
    (folder / "empty.tif").write_bytes(b"")
    make_data.write_tile(folder / "png.png", tissue(1, 64, 64)).rename(folder / "png.tif")
    (folder / "binary.tif").write_bytes(np.random.default_rng(1).bytes(5000))
    (folder / "header.tif").write_bytes(data[:8])
    project.table(rows)
    result = project.run(*EXTRACTION)
    assert result.code == 0
    assert set(project.index["slide_id"]) == {"good"}
    records = read_set_aside(project)
    assert set(records) == {"truncated", "text", "empty", "png", "binary", "header"}
    for name, (stage, reason, kept) in records.items():
        assert stage in ("slides", "patches") and reason and "\n" not in reason and kept == 0
        if stage == "slides":
            assert f"{name}.tif" in reason
    assert not project.leftovers()


def test_more_failures_than_allowed_stop_the_stage_with_one_line(project):
    rows = project.slides("a", "b", "c", "d")
    project.params(data__max_failed_share=0.5)
    for name in "bc":
        (project.own / f"{name}.tif").write_bytes(b"no slide")
    project.make("inventory", "metadata", "slides")  # half of the slides may fail
    (project.own / "d.tif").write_bytes(b"no slide")
    project.forget("d.tif")
    project.make("inventory")
    before = project.outputs()
    message = project.run("metadata", "slides").error
    assert "3 of 4 slides failed" in message and "data.max_failed_share 0.5" in message and "b.tif" in message
    assert project.outputs() == before and not project.leftovers()
    project.params(data__max_failed_share=1.0)
    project.table(rows)
    project.make("slides")


def test_slides_that_fail_in_either_stage_are_counted_together(project):
    project.slides("a", "b", "c", "d")
    (project.own / "b.tif").write_bytes(b"no slide")
    damage_tiles(project.own / "c.tif", [3])
    project.params(data__max_failed_share=0.5)
    project.make(*EXTRACTION)
    assert {slide_id: stage for slide_id, (stage, _, _) in read_set_aside(project).items()} == {
        "b": "slides",
        "c": "patches",
    }
    project.params(data__max_failed_share=0.4)
    reports = project.outputs("reports")
    message = project.run("slides", "patches").error
    assert "2 of 4 slides failed" in message
    assert project.outputs("reports") == reports and not project.leftovers()


def test_a_failed_run_leaves_no_index_that_disagrees_with_its_shards(project):
    project.slides("a", "b")
    write_slide(project.own / "b.tif", tissue(1, 20, 20), 0.5)  # fails only in stage patches
    project.params(patches__max_per_slide=10)
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    project.params(patches__max_per_slide=10, seed=3, data__max_failed_share=0.0)
    assert "1 of 2 slides failed" in project.run("patches").error
    try:
        index_after, patches_after = read_store(project)
    except HistocaeError:
        return  # the store reports that it is incomplete
    pd.testing.assert_frame_equal(index_after, index)
    np.testing.assert_array_equal(patches_after, patches)


# --- resuming after a stop, and changed inputs --------------------------------------------------


def modified_times(project: Workspace) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (project.folder / "data/patches/shards").iterdir()}


def shard_path(project: Workspace, slide_id: str, suffix: str = ".npy") -> Path:
    """Find a file of a slide's shard; the file's name contains the fingerprint of the slide."""
    (path,) = (project.folder / "data/patches/shards").glob(f"{slide_id}.*{suffix}")
    return path


def test_a_finished_shard_is_not_made_again(project):
    project.slides("a", "b")
    project.make(*EXTRACTION)
    before, times = project.outputs(), modified_times(project)
    project.make(*EXTRACTION)
    assert modified_times(project) == times and project.outputs() == before


@pytest.mark.parametrize(
    "damage", ["no shard", "shorter shard", "empty shard", "no rows", "no record", "truncated record"]
)
def test_an_incomplete_or_damaged_shard_is_made_again(project, damage):
    project.slides("a", "b")
    project.make(*EXTRACTION)
    before, times = project.outputs("data"), modified_times(project)
    if damage in ("no shard", "no rows", "no record"):
        shard_path(project, "b", {"no shard": ".npy", "no rows": ".csv", "no record": ".json"}[damage]).unlink()
    elif damage == "truncated record":
        path = shard_path(project, "b", ".json")
        path.write_bytes(path.read_bytes()[:40])
    else:
        path = shard_path(project, "b")
        path.write_bytes(b"" if damage == "empty shard" else path.read_bytes()[:-1])
    (project.folder / "data/patches/shards/.b.npy.123.part").write_bytes(b"of a killed run")
    project.make(*EXTRACTION)
    assert project.outputs("data") == before
    times_after = modified_times(project)
    for suffix in (".npy", ".csv", ".json"):
        name = shard_path(project, "a", suffix).name
        assert times_after[name] == times[name]
    assert not project.leftovers()


def test_deleted_figures_are_drawn_again(project):
    project.slides("a", "b")
    project.make(*EXTRACTION)
    before = project.outputs("reports")
    shutil.rmtree(project.folder / "reports" / "patching")
    project.make("patches")
    assert project.outputs("reports") == before


@pytest.mark.parametrize("restore_time", [False, True])
def test_the_patches_of_a_changed_file_are_extracted_again(project, restore_time):
    project.slides("a", "b")
    project.make(*EXTRACTION)
    index, patches = read_store(project)
    path = project.own / "b.tif"
    status, length = path.stat(), len(path.read_bytes())
    write_slide(path, tissue(77, 256, 256), 0.5)
    data = path.read_bytes()
    if len(data) < length:  # keep the number of bytes as well
        path.write_bytes(data + bytes(length - len(data)))
    if restore_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    inventory = project.outputs("data/")["data/inventory.csv"]
    times = modified_times(project)
    assert "'b.tif' (sha256 " in project.run(*EXTRACTION).error
    project.forget("b.tif")
    project.make(*EXTRACTION)
    assert project.outputs("data/")["data/inventory.csv"] != inventory
    index_after, patches_after = read_store(project)
    of_a = (index["slide_id"] == "a").to_numpy()
    np.testing.assert_array_equal(patches_after[of_a], patches[of_a])
    assert (patches_after[~of_a] != patches[~of_a]).any()
    name = shard_path(project, "a").name
    assert modified_times(project)[name] == times[name]
    row = next(row for row in index_after.itertuples() if row.slide_id == "b")
    np.testing.assert_array_equal(patches_after[~of_a][0], region(path, row.x, row.y, 32))


def test_a_changed_table_or_param_extracts_patches_again(project):
    rows = project.slides("a", "b")
    project.make(*EXTRACTION)
    rows[1]["mpp"] = 0.25
    project.table(rows)
    project.make(*EXTRACTION)
    assert list(counts(project)["mpp"]) == [0.5, 0.25] and list(counts(project)["kept"]) == [64, 16]
    project.params(patches__pixels=64)
    project.make(*EXTRACTION)
    assert list(counts(project)["kept"]) == [16, 4]
    assert read_store(project)[1].shape == (20, 64, 64, 3)


def test_shards_and_figures_of_a_removed_slide_are_deleted(project):
    rows = project.slides("a", "b.1", "b", "c d")
    project.make(*EXTRACTION)
    project.table(rows[:1] + rows[2:3])
    project.make(*EXTRACTION)
    names = {path.stem.split(".")[0] for path in (project.folder / "data/patches/shards").iterdir()}
    figures = (project.folder / "reports/patching/slides").iterdir()
    assert names == {"a", "b"} == {path.stem.split(".")[0] for path in figures}
    assert set(project.index["slide_id"]) == {"a", "b"}


def test_the_same_input_gives_the_same_bytes_in_another_folder(new_project, monkeypatch):
    outputs = []
    for name in ("first", "second"):
        project = new_project(name)
        project.slides("a", "b", "c", "d", "e", "f", "g", "h", mpp=0.4)
        project.params(patches__max_per_slide=20)
        project.make()
        outputs.append(project.outputs("data", "reports"))
    assert outputs[0] == outputs[1]
    assert {"data/patches/index.csv", "data/splits/train.csv"} <= set(outputs[0])
    assert sum(name.endswith(".npy") for name in outputs[0]) == 8
    assert not any(b"/first/" in data for data in outputs[0].values())


# --- workers -----------------------------------------------------------------------------------


def test_no_other_slide_is_lost_when_a_worker_dies(project, monkeypatch):
    project.slides("a", "bad", "c")
    project.params(executor__workers=2)
    project.make(*EXTRACTION[:3])
    monkeypatch.undo()  # real processes
    monkeypatch.chdir(project.folder)
    original = patches_stage._make
    monkeypatch.setattr(patches_stage, "_make", extract_or_die)
    result = project.run("patches")
    assert result.code == 0, result.lines
    assert project.index["slide_id"].value_counts().to_dict() == {"a": 64, "c": 64}
    stage, reason, kept = read_set_aside(project)["bad"]
    assert stage == "patches" and "died" in reason and kept == 0
    monkeypatch.setattr(patches_stage, "_make", original)
    project.make("patches")  # the slide that failed is tried again
    assert set(project.index["slide_id"]) == {"a", "bad", "c"} and not read_set_aside(project)


def test_tasks_whose_workers_die_are_reported_and_the_others_finish(project, monkeypatch):
    monkeypatch.undo()
    workers = processes.ExecutorParams(kind="processes", workers=2, devices=1, scheduler=None, slurm=None)
    results = dict(processes.spread(make_data.die_on_odd, range(4), workers, "numbers", "numbers"))
    assert {i: result for i, result in results.items() if i % 2 == 0} == {0: 0, 2: 4}
    assert all(isinstance(results[i], processes.WorkerDiedError) for i in (1, 3))


@pytest.mark.slow
def test_the_installed_command_runs_the_stages_and_reports_errors(project):
    rows = project.slides("a", "b")
    (project.own / "b.tif").write_bytes(b"no slide")
    command = Path(sys.executable).parent / "histocae"

    def run_command(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([command, *words], capture_output=True, text=True, timeout=60, check=False)

    for stage in EXTRACTION:
        result = run_command(stage)
        assert result.returncode == 0 and result.stdout == "" and "Warning" not in result.stderr
        assert all(f" {stage}: " in line for line in result.stderr.splitlines())  # log lines, no progress bars
    assert set(project.index["slide_id"]) == {"a"}
    project.table([rows[0], rows[0]])
    result = run_command("metadata")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == "histocae metadata: own/table.csv: rows 2 and 3: slide_id 'a' occurs twice\n"


# --- the demo cohort, and a real slide ------------------------------------------------------------


@pytest.mark.slow
def test_demo_slides_are_drawn_again_only_where_they_are_needed(project, monkeypatch):
    monkeypatch.undo()  # real processes: drawing takes a while
    monkeypatch.chdir(project.folder)
    project.params(
        data__source="demo",
        data__demo__cases=6,
        data__demo__side_microns=256.0,
        patches__pixels=64,
        executor__workers=2,
    )
    project.make()
    before, slides = project.outputs("data/patches", "data/splits"), project.folder / "data" / "slides"
    assert len(list(slides.glob("*.tif"))) == project.index["slide_id"].nunique() == 12
    # delete the slides and one shard: only the slide of that shard is needed
    shutil.rmtree(slides)
    lost = project.index["slide_id"][0]
    shard_path(project, lost).unlink()
    project.make("patches", "split")
    assert project.outputs("data/patches", "data/splits") == before
    assert [path.name.split(".")[0] for path in slides.glob("*.tif")] == [lost]


def test_a_real_slide_among_demo_slides(project, shared):
    real = shared / "slides" / "CMU-1-Small-Region.svs"
    if not real.is_file():
        pytest.skip(f"no {real.name} beside the checkout")
    spec = demo.DemoSpec(3, 6, 256.0)
    drawn = demo.cohort(spec).iloc[0]
    demo.write_slide(spec, drawn["slide_id"], project.own)
    shutil.copy(real, project.own / real.name)
    project.table([slide_row("CMU-1", 0, real.name), slide_row("demo", 1, drawn["file_name"])])
    project.params(patches__pixels=128)
    project.make(*EXTRACTION)
    table = project.read("data/slides.csv").set_index("slide_id")
    assert table["mpp"]["CMU-1"] == 0.499 and table["objective_power"]["CMU-1"] == 20
    cells = counts(project).loc["CMU-1"]
    assert cells["level"] == 0 and cells[REASONS].sum() == 18 * 24 and cells["border"] == 18 * 24 - 17 * 23
    assert 100 < cells["kept"] < 17 * 23
    index, patches = read_store(project)
    is_real = (index["slide_id"] == "CMU-1").to_numpy()
    assert index["row"][is_real].max() <= 22 and index["column"][is_real].max() <= 16
    for row, patch in list(zip(index[is_real].itertuples(), patches[is_real], strict=True))[::10]:
        np.testing.assert_array_equal(patch, region(real, row.x, row.y, 128))


def test_slides_written_for_tests_have_the_levels_and_damage_they_should(tmp_path):
    path = write_slide(tmp_path / "a.tif", tissue(1, 512, 384), 0.25, pyramid=True, keep_levels=[0, 2])
    assert len(directories(path)) == 2
    damage_tiles(path, [0], level=1)
    assert region(path, 0, 0, 64).shape == (64, 64, 3)
    with pytest.raises(openslide.OpenSlideError):
        region(path, 0, 0, 64, level=1)
