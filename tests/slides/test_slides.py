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
from histocae.patches.grid import Grid
from histocae.patches.store import PatchStore
from histocae.slides.slide import Level, choose_level
from histocae.sources import demo
from histocae.stages import patches as patches_stage
from histocae.workers import processes
from support import make_data
from support.extracted_slides import EXTRACTION, REASONS, counts, extract_or_die, only_slide
from support.make_data import directories, spoil_tiles, tissue, write_slide
from support.workspace import Workspace, slide_row


def stored(project: Workspace) -> tuple[pd.DataFrame, np.ndarray]:
    """Give the index and all its patches."""
    store = PatchStore(project.folder / "data" / "patches")
    index = store.index()
    return index, store.select(index).take(np.arange(len(index)))


def aside(project: Workspace) -> dict[str, tuple[str, str, int]]:
    table = project.read("reports/set_aside.csv")
    assert list(table.columns) == ["slide_id", "stage", "reason", "patches_kept"]
    return {row.slide_id: (row.stage, row.reason, row.patches_kept) for row in table.itertuples()}


def region(path: Path, x: int, y: int, side: int, level: int = 0) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((x, y), level, (side, side)).convert("RGB"))


def halved(picture: np.ndarray, times: int = 2) -> np.ndarray:
    """Mean of blocks of times x times pixels."""
    height, width, _ = picture.shape
    return picture.reshape(height // times, times, width // times, times, 3).mean(axis=(1, 3))


# --- microns per pixel -------------------------------------------------------------------------


def test_the_table_wins_over_the_slide_and_the_slide_over_params(project):
    own = project.own
    write_slide(own / "says.tif", tissue(1, 128, 128), 0.5)
    write_slide(own / "silent.tif", tissue(2, 128, 128), None)
    write_slide(own / "power.tif", tissue(3, 128, 128), None, description="Aperio x|AppMag = 20")
    write_slide(own / "both.tif", tissue(4, 128, 128), None, description="Aperio x|AppMag = 20|MPP = 0.4990")
    write_slide(own / "dpi.tif", tissue(5, 128, 128), 352.8)
    cases = [
        ("says.tif", None, 0.5, "slide"),
        ("says.tif", 0.25, 0.25, "table"),
        ("says.tif", 352.8, 0.5, "slide"),
        ("says.tif", -1, 0.5, "slide"),
        ("says.tif", 0, 0.5, "slide"),
        ("power.tif", None, 0.5, "slide"),
        ("both.tif", None, 0.499, "slide"),
        ("silent.tif", None, 0.47, "data.mpp"),
        ("silent.tif", 0.25, 0.25, "table"),
        ("silent.tif", 352.8, 0.47, "data.mpp"),
        ("dpi.tif", None, 0.47, "data.mpp"),
    ]
    rows = []
    for i, (file, mpp, _, _) in enumerate(cases):
        shutil.copy(own / file, own / f"{i}.tif")
        rows.append(slide_row(f"s{i}", i, f"{i}.tif", mpp=mpp))
    project.table(rows)
    project.params(data__mpp=0.47)
    project.make(*EXTRACTION[:3])
    table = project.read("data/slides.csv")
    assert list(zip(table["mpp"].round(6), table["mpp_from"], strict=True)) == [case[2:] for case in cases]
    assert not aside_of(project)


def aside_of(project: Workspace) -> dict[str, str]:
    table = project.read("data/set_aside/slides.csv")
    return dict(zip(table["slide_id"], table["reason"], strict=True))


@pytest.mark.parametrize("default", [None, 352.8, 0.0, -0.5, float("nan"), float("inf")])
def test_a_slide_that_nowhere_has_a_resolution_is_set_aside(project, default):
    rows = [slide_row("good"), slide_row("silent", 1), slide_row("dpi", 2), slide_row("table", 3, mpp=352.8)]
    for i, (name, mpp) in enumerate({"good": 0.5, "silent": None, "dpi": 352.8, "table": None}.items()):
        write_slide(project.own / f"{name}.tif", tissue(i, 128, 128), mpp)
    project.table(rows)
    project.params(data__mpp=default)
    project.make(*EXTRACTION)
    assert set(project.index["slide_id"]) == {"good"}
    found = aside(project)
    assert set(found) == {"silent", "dpi", "table"}
    for stage, reason, kept in found.values():
        assert stage == "slides" and "microns per pixel" in reason and "data.mpp" in reason and kept == 0


def test_a_power_that_is_no_whole_number_is_not_cut_off(project):
    only_slide(project, tissue(1, 128, 128), None, description="Aperio x|AppMag = 39.999")
    project.make(*EXTRACTION[:3])
    table = project.read("data/slides.csv")
    assert table["mpp"][0] == pytest.approx(10 / 39.999) and table["objective_power"][0] == 39.999


# --- levels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [0.5, 0.45, 0.46, 0.54, 0.55])
@pytest.mark.parametrize("said_by", ["slide", "table"])
def test_a_level_within_a_tenth_of_the_target_is_read_as_it_is(project, mpp, said_by):
    path = only_slide(project, tissue(1, 200, 170), mpp if said_by == "slide" else None)
    project.table([slide_row("a", mpp=mpp if said_by == "table" else None)])
    project.make(*EXTRACTION)
    index, patches = stored(project)
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
    assert {k: v[2] for k, v in aside(project).items()} == {"b": 0, "c": 0}
    assert "coarser" in aside(project)["b"][1] and "1 microns per pixel" in aside(project)["c"][1]


def test_a_finer_level_is_reduced_by_the_mean_of_its_pixels(project):
    path = only_slide(project, tissue(1, 300, 260), 0.25)
    project.make(*EXTRACTION)
    index, patches = stored(project)
    assert len(index) == 4 * 4 and counts(project)["border"]["a"] == 5 * 5 - 4 * 4
    for row, patch in zip(index.itertuples(), patches, strict=True):
        assert (row.x, row.y) == (64 * row.column, 64 * row.row)
        expected = halved(region(path, row.x, row.y, 64))
        np.testing.assert_allclose(patch, expected, atol=1)
    assert set(index["mpp"]) == {0.5}


def test_a_patch_does_not_depend_on_which_others_are_kept(project):
    only_slide(project, tissue(1, 600, 600), 0.3)
    project.make(*EXTRACTION)
    index, patches = stored(project)
    every = {(row.row, row.column): patch for row, patch in zip(index.itertuples(), patches, strict=True)}
    project.params(patches__max_per_slide=9)
    project.make("patches")
    index, patches = stored(project)
    assert len(index) == 9
    for row, patch in zip(index.itertuples(), patches, strict=True):
        np.testing.assert_array_equal(patch, every[row.row, row.column])


@pytest.mark.parametrize(
    ("mpp", "keep", "level", "step"),
    [
        (0.125, [0, 2, 4], 1, 1.0),  # 0.125, 0.5, 2.0: read as it is
        (0.0625, [0, 2, 4], 1, 2.0),  # 0.0625, 0.25, 1.0: the middle one reduced by 2
        (0.5, [0, 2, 4], 0, 1.0),
        (0.25, [0, 1, 2], 1, 1.0),
        (0.12, [0, 1, 2], 2, 1.0),  # 0.48 is within a tenth
    ],
)
def test_the_level_is_chosen_by_its_true_downsample(project, mpp, keep, level, step):
    path = only_slide(project, tissue(1, 512, 448), mpp, pyramid=True, keep_levels=keep, tile=32)
    with openslide.OpenSlide(path) as slide:
        assert len(slide.level_dimensions) == len(keep)
        down = slide.level_downsamples[level]
    project.make(*EXTRACTION)
    index, patches = stored(project)
    assert set(counts(project)["level"]) == {level} and len(index)
    for row, patch in list(zip(index.itertuples(), patches, strict=True))[:40]:
        side = round(32 * step)
        assert (row.x, row.y) == (round(side * down * row.column), round(side * down * row.row))
        expected = region(path, row.x, row.y, side, level)
        np.testing.assert_allclose(patch, expected if step == 1 else halved(expected), atol=0 if step == 1 else 1)


@given(
    downsamples=st.lists(st.floats(1, 64), max_size=5, unique=True),
    mpp=st.floats(0.05, 10),
    target=st.floats(0.1, 8),
)
def test_any_pyramid_gives_the_target_or_is_refused(downsamples, mpp, target):
    levels = tuple(Level(100, 100, one) for one in sorted({1.0, *downsamples}))
    have = np.array([mpp * one.downsample for one in levels])
    if have[0] > 1.1001 * target:
        with pytest.raises(SlideError, match="coarser"):
            choose_level(levels, mpp, target)
        return
    if have[0] > 1.0999 * target:
        return
    level, step = choose_level(levels, mpp, target)
    assert step >= 1
    if step == 1:
        assert 0.8999 < have[level] / target < 1.1001
        assert abs(have[level] - target) == pytest.approx(abs(have - target).min())
    else:
        assert have[level] * step == pytest.approx(target)
        assert not ((have > have[level] * 1.0001) & (have < 1.0999 * target)).any()


@given(height=st.integers(32, 5000), width=st.integers(32, 5000), mpp=st.floats(0.05, 0.549))
def test_on_any_slide_the_grid_stays_inside_and_counts_every_cell(height, width, mpp):
    from histocae.patches.grid import make_grid

    class Plain:
        levels = (Level(width, height, 1.0),)

    try:
        grid: Grid = make_grid(Plain(), mpp, 32, 0.5)
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


def test_patches_never_leave_the_slide_and_every_cell_is_counted_once(project):
    write_slide(project.own / "a.tif", tissue(1, 333, 421, glass=100), 0.5)
    write_slide(project.own / "b.tif", tissue(2, 700, 501, glass=200), 0.25, pyramid=True)
    write_slide(project.own / "c.tif", tissue(3, 444, 333, glass=32), 0.31)
    project.table([slide_row(name, i) for i, name in enumerate("abc")])
    project.params(patches__max_per_slide=40)
    project.make(*EXTRACTION)
    told, index = counts(project), project.index
    shapes = {"a": (333, 421, 32), "b": (700, 501, 64), "c": (444, 333, 32 * 0.5 / 0.31)}
    for name, (height, width, cell) in shapes.items():
        mine = index[index["slide_id"] == name]
        assert len(mine) == told["kept"][name] <= 40
        assert not mine.duplicated(["row", "column"]).any()
        assert (mine["x"] >= 0).all() and (mine["x"] + cell <= width + 1).all()
        assert (mine["y"] >= 0).all() and (mine["y"] + cell <= height + 1).all()
        assert told.loc[name, REASONS].sum() == np.ceil(height / cell) * np.ceil(width / cell)
    summary = json.loads((project.folder / "reports/patching/summary.json").read_text(encoding="utf-8"))
    assert summary == {"slides": 3, "cells": int(told[REASONS].to_numpy().sum()), **told[REASONS].sum().to_dict()}


def test_glass_is_left_out_and_tissue_is_kept(project):
    only_slide(project, tissue(1, 320, 320, glass=170), 0.5)
    project.params(patches__tissue_share=0.4)
    project.make(*EXTRACTION)
    index = project.index
    assert set(index["column"]) == {5, 6, 7, 8, 9} and len(index) == 50
    assert (index.loc[index["column"] > 5, "tissue_share"] > 0.95).all()
    told = counts(project)
    assert (told["kept"]["a"], told["background"]["a"]) == (50, 50)


def test_a_slide_of_glass_alone_is_set_aside_but_has_not_failed(project):
    rows = project.slides("a", "b")
    write_slide(project.own / "b.tif", tissue(1, 256, 256, glass=256), 0.5)
    project.table(rows)
    project.params(data__max_failed_share=0.0)
    project.make(*EXTRACTION)
    assert aside(project) == {"b": ("patches", "shows no tissue", 0)}
    assert counts(project)["background"]["b"] == 64


def test_nothing_but_glass(project):
    only_slide(project, tissue(1, 256, 256, glass=256), 0.5)
    told = project.run(*EXTRACTION).error
    assert "no slide has a patch" in told and "patches.tissue_share" in told
    assert not (project.folder / "data/patches/store.json").exists()


def test_a_slide_smaller_than_a_patch_is_set_aside(project):
    project.slides("a", "b")
    write_slide(project.own / "b.tif", tissue(1, 31, 200), 0.5)
    project.make(*EXTRACTION)
    stage, reason, kept = aside(project)["b"]
    assert stage == "patches" and "smaller than one patch of 32 pixels" in reason and kept == 0


def test_the_cap_is_a_seeded_sample_that_other_slides_do_not_change(new_project):
    def indices(name: str, count: int, **changed: object) -> pd.DataFrame:
        one = new_project(name)
        one.params(patches__max_per_slide=12, **changed)
        one.slides(*"abcd"[:count])
        return one.make(*EXTRACTION).index.drop(columns=["tissue_share"])

    alone, beside = indices("one", 1), indices("two", 3)
    assert len(alone) == 12 and list(beside["slide_id"].value_counts()) == [12] * 3
    pd.testing.assert_frame_equal(beside[beside["slide_id"] == "a"], alone)
    a, b = (beside[beside["slide_id"] == one][["row", "column"]].to_numpy().tolist() for one in "ab")
    assert a != b
    other = indices("three", 1, seed=7)
    assert other[["row", "column"]].to_numpy().tolist() != alone[["row", "column"]].to_numpy().tolist()


# --- slides that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("pyramid", [False, True])
@pytest.mark.parametrize("on_read_error", ["keep", "drop"])
def test_a_slide_that_fails_midway(project, pyramid, on_read_error):
    rows = project.slides("a", "b", pyramid=pyramid)
    whole = write_slide(project.own / "b.tif", tissue(5, 512, 512), 0.5, pyramid=pyramid)
    project.table(rows)
    project.params(patches__pixels=64)
    project.make(*EXTRACTION)
    index, patches = stored(project)
    before = {
        (row.row, row.column): patch
        for row, patch in zip(index.itertuples(), patches, strict=True)
        if row.slide_id == "b"
    }
    assert len(before) == 64
    spoil_tiles(whole, [9, 10])
    project.params(patches__pixels=64, patches__on_read_error=on_read_error)
    result = project.run(*EXTRACTION)
    assert result.code == 0
    stage, reason, kept = aside(project)["b"]
    assert stage == "patches" and "can't be read at level 0" in reason and "Traceback" not in "".join(result.lines)
    index, patches = stored(project)
    mine = index["slide_id"] == "b"
    told = counts(project).loc["b"]
    assert told[REASONS].sum() == 64 and kept == mine.sum() == told["kept"]
    if on_read_error == "keep":
        assert kept > 0 and told["dropped"] == 0 and kept + told["unread"] == 64
        for row, patch in zip(index[mine].itertuples(), patches[mine], strict=True):
            np.testing.assert_array_equal(patch, before[row.row, row.column])
    else:
        assert kept == 0 and told["dropped"] > 0
    assert (index["slide_id"] == "a").sum() == 16
    assert not project.leftovers()


def test_files_that_are_no_slides_are_set_aside(project):
    rows = project.slides("good", "cut", "text", "empty", "png", "binary", "header")
    own = project.own
    whole = (own / "good.tif").read_bytes()
    (own / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (own / "text.tif").write_text("this is no slide\n" * 99, encoding="utf-8")
    (own / "empty.tif").write_bytes(b"")
    make_data.write_tile(own / "png.png", tissue(1, 64, 64)).rename(own / "png.tif")
    (own / "binary.tif").write_bytes(np.random.default_rng(1).bytes(5000))
    (own / "header.tif").write_bytes(whole[:8])
    project.table(rows)
    result = project.run(*EXTRACTION)
    assert result.code == 0
    assert set(project.index["slide_id"]) == {"good"}
    found = aside(project)
    assert set(found) == {"cut", "text", "empty", "png", "binary", "header"}
    for name, (stage, reason, kept) in found.items():
        assert stage in ("slides", "patches") and reason and "\n" not in reason and kept == 0
        if stage == "slides":
            assert f"{name}.tif" in reason
    assert not project.leftovers()


def test_more_failures_than_allowed_stop_with_one_line(project):
    rows = project.slides("a", "b", "c", "d")
    project.params(data__max_failed_share=0.5)
    for name in "bc":
        (project.own / f"{name}.tif").write_bytes(b"no slide")
    project.make("inventory", "metadata", "slides")  # half of them may fail
    (project.own / "d.tif").write_bytes(b"no slide")
    project.make("inventory")
    before = project.outputs()
    told = project.run("metadata", "slides").error
    assert "3 of 4 slides failed" in told and "data.max_failed_share 0.5" in told and "b.tif" in told
    assert project.outputs() == before and not project.leftovers()
    project.params(data__max_failed_share=1.0)
    project.table(rows)
    project.make("slides")


def test_slides_that_fail_early_and_late_are_counted_together(project):
    project.slides("a", "b", "c", "d")
    (project.own / "b.tif").write_bytes(b"no slide")
    spoil_tiles(project.own / "c.tif", [3])
    project.params(data__max_failed_share=0.5)
    project.make(*EXTRACTION)
    assert {k: v[0] for k, v in aside(project).items()} == {"b": "slides", "c": "patches"}
    project.params(data__max_failed_share=0.4)
    reports = project.outputs("reports")
    told = project.run("slides", "patches").error
    assert "2 of 4 slides failed" in told
    assert project.outputs("reports") == reports and not project.leftovers()


def test_a_run_that_stops_leaves_no_index_that_its_shards_belie(project):
    project.slides("a", "b")
    write_slide(project.own / "b.tif", tissue(1, 20, 20), 0.5)  # fails, but only when it is cut
    project.params(patches__max_per_slide=10)
    project.make(*EXTRACTION)
    index, patches = stored(project)
    project.params(patches__max_per_slide=10, seed=3, data__max_failed_share=0.0)
    assert "1 of 2 slides failed" in project.run("patches").error
    try:
        again, now = stored(project)
    except HistocaeError:
        return  # it says that it is not whole
    pd.testing.assert_frame_equal(again, index)
    np.testing.assert_array_equal(now, patches)


# --- going on after a stop, and noticing changes ------------------------------------------------


def stamps(project: Workspace) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (project.folder / "data/patches/shards").iterdir()}


def shard(project: Workspace, slide_id: str, suffix: str = ".npy") -> Path:
    """The one file of a slide's shard: its name ends in what it was made from."""
    (found,) = (project.folder / "data/patches/shards").glob(f"{slide_id}.*{suffix}")
    return found


def test_a_finished_shard_is_not_made_again(project):
    project.slides("a", "b")
    project.make(*EXTRACTION)
    before, written = project.outputs(), stamps(project)
    project.make(*EXTRACTION)
    assert stamps(project) == written and project.outputs() == before


@pytest.mark.parametrize("harm", ["shard", "shorter", "empty", "rows", "record", "cut record"])
def test_a_shard_that_is_not_whole_is_made_again(project, harm):
    project.slides("a", "b")
    project.make(*EXTRACTION)
    before, written = project.outputs("data"), stamps(project)
    if harm in ("shard", "rows", "record"):
        shard(project, "b", {"shard": ".npy", "rows": ".csv", "record": ".json"}[harm]).unlink()
    elif harm == "cut record":
        path = shard(project, "b", ".json")
        path.write_bytes(path.read_bytes()[:40])
    else:
        path = shard(project, "b")
        path.write_bytes(b"" if harm == "empty" else path.read_bytes()[:-1])
    (project.folder / "data/patches/shards/.b.npy.123.part").write_bytes(b"of a killed run")
    project.make(*EXTRACTION)
    assert project.outputs("data") == before
    now = stamps(project)
    for suffix in (".npy", ".csv", ".json"):
        name = shard(project, "a", suffix).name
        assert now[name] == written[name]
    assert not project.leftovers()


def test_pictures_that_were_deleted_come_back(project):
    project.slides("a", "b")
    project.make(*EXTRACTION)
    before = project.outputs("reports")
    shutil.rmtree(project.folder / "reports" / "patching")
    project.make("patches")
    assert project.outputs("reports") == before


@pytest.mark.parametrize("restore_time", [False, True])
def test_a_slide_that_changed_under_its_name_is_noticed(project, restore_time):
    project.slides("a", "b")
    project.make(*EXTRACTION)
    index, patches = stored(project)
    path = project.own / "b.tif"
    old, length = path.stat(), len(path.read_bytes())
    write_slide(path, tissue(77, 256, 256), 0.5)
    data = path.read_bytes()
    if len(data) < length:  # the same number of bytes too
        path.write_bytes(data + bytes(length - len(data)))
    if restore_time:
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    inventory = project.outputs("data/")["data/inventory.csv"]
    written = stamps(project)
    project.make(*EXTRACTION)
    assert project.outputs("data/")["data/inventory.csv"] != inventory
    again, now = stored(project)
    first = (index["slide_id"] == "a").to_numpy()
    np.testing.assert_array_equal(now[first], patches[first])
    assert (now[~first] != patches[~first]).any()
    name = shard(project, "a").name
    assert stamps(project)[name] == written[name]
    row = next(row for row in again.itertuples() if row.slide_id == "b")
    np.testing.assert_array_equal(now[~first][0], region(path, row.x, row.y, 32))


def test_a_changed_table_or_param_cuts_anew(project):
    rows = project.slides("a", "b")
    project.make(*EXTRACTION)
    rows[1]["mpp"] = 0.25
    project.table(rows)
    project.make(*EXTRACTION)
    assert list(counts(project)["mpp"]) == [0.5, 0.25] and list(counts(project)["kept"]) == [64, 16]
    project.params(patches__pixels=64)
    project.make(*EXTRACTION)
    assert list(counts(project)["kept"]) == [16, 4]
    assert stored(project)[1].shape == (20, 64, 64, 3)


def test_what_belongs_to_a_removed_slide_vanishes(project):
    rows = project.slides("a", "b.1", "b", "c d")
    project.make(*EXTRACTION)
    project.table(rows[:1] + rows[2:3])
    project.make(*EXTRACTION)
    names = {path.stem.split(".")[0] for path in (project.folder / "data/patches/shards").iterdir()}
    pictures = (project.folder / "reports/patching/slides").iterdir()
    assert names == {"a", "b"} == {path.stem.split(".")[0] for path in pictures}
    assert set(project.index["slide_id"]) == {"a", "b"}


def test_the_same_input_gives_the_same_bytes_in_another_folder(new_project, monkeypatch):
    outputs = []
    for name in ("one", "two"):
        project = new_project(name)
        project.slides("a", "b", "c", "d", "e", "f", "g", "h", mpp=0.4)
        project.params(patches__max_per_slide=20)
        project.make()
        outputs.append(project.outputs("data", "reports"))
    assert outputs[0] == outputs[1]
    assert {"data/patches/index.csv", "data/splits/train.csv"} <= set(outputs[0])
    assert sum(name.endswith(".npy") for name in outputs[0]) == 8
    assert not any(b"/one/" in data for data in outputs[0].values())


# --- workers -----------------------------------------------------------------------------------


def test_a_worker_that_dies_loses_no_other_slide(project, monkeypatch):
    project.slides("a", "bad", "c")
    project.params(executor__workers=2)
    project.make(*EXTRACTION[:3])
    monkeypatch.undo()  # real processes
    monkeypatch.chdir(project.folder)
    make = patches_stage._make
    monkeypatch.setattr(patches_stage, "_make", extract_or_die)
    result = project.run("patches")
    assert result.code == 0, result.lines
    assert project.index["slide_id"].value_counts().to_dict() == {"a": 64, "c": 64}
    stage, reason, kept = aside(project)["bad"]
    assert stage == "patches" and "died" in reason and kept == 0
    monkeypatch.setattr(patches_stage, "_make", make)
    project.make("patches")  # what died is tried again
    assert set(project.index["slide_id"]) == {"a", "bad", "c"} and not aside(project)


def test_tasks_whose_workers_die_are_told_and_the_others_end(project, monkeypatch):
    monkeypatch.undo()
    workers = processes.ExecutorParams(kind="processes", workers=2, devices=1, scheduler=None, slurm=None)
    found = dict(processes.spread(make_data.die_on_odd, range(4), workers, "numbers", "numbers"))
    assert {i: one for i, one in found.items() if i % 2 == 0} == {0: 0, 2: 4}
    assert all(isinstance(found[i], processes.WorkerDiedError) for i in (1, 3))


@pytest.mark.slow
def test_the_command_as_a_user_types_it(project):
    rows = project.slides("a", "b")
    (project.own / "b.tif").write_bytes(b"no slide")
    command = Path(sys.executable).parent / "histocae"

    def typed(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([command, *words], capture_output=True, text=True, timeout=60, check=False)

    for stage in EXTRACTION:
        done = typed(stage)
        assert done.returncode == 0 and done.stdout == "" and "Warning" not in done.stderr
        assert all(f" {stage}: " in line for line in done.stderr.splitlines())  # log lines, no progress bars
    assert set(project.index["slide_id"]) == {"a"}
    project.table([rows[0], rows[0]])
    done = typed("metadata")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "histocae metadata: own/table.csv: rows 2 and 3: slide_id 'a' occurs twice\n"


# --- the demo cohort, and a real slide ------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_is_cut_like_any_slide_and_drawn_again_only_where_it_is_needed(project, monkeypatch):
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
    # let go of the bytes, and lose one shard: only its slide is needed again
    shutil.rmtree(slides)
    lost = project.index["slide_id"][0]
    shard(project, lost).unlink()
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
    told = counts(project).loc["CMU-1"]
    assert told["level"] == 0 and told[REASONS].sum() == 18 * 24 and told["border"] == 18 * 24 - 17 * 23
    assert 100 < told["kept"] < 17 * 23
    index, patches = stored(project)
    mine = (index["slide_id"] == "CMU-1").to_numpy()
    assert index["row"][mine].max() <= 22 and index["column"][mine].max() <= 16
    for row, patch in list(zip(index[mine].itertuples(), patches[mine], strict=True))[::10]:
        np.testing.assert_array_equal(patch, region(real, row.x, row.y, 128))


def test_the_slides_made_here_are_what_they_claim(tmp_path):
    path = write_slide(tmp_path / "a.tif", tissue(1, 512, 384), 0.25, pyramid=True, keep_levels=[0, 2])
    assert len(directories(path)) == 2
    spoil_tiles(path, [0], level=1)
    assert region(path, 0, 0, 64).shape == (64, 64, 3)
    with pytest.raises(openslide.OpenSlideError):
        region(path, 0, 0, 64, level=1)
