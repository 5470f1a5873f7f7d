"""Reading pixels: OpenSlide's, whoever decodes them, of sound slides and of damaged ones."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histocae.errors import SlideError
from histocae.params import Patches
from histocae.patches import grid as patching
from histocae.patches import shards
from histocae.patches.grid import Grid, PatchPlan, read_patches
from histocae.slides import tiled
from histocae.slides.slide import Slide
from histocae.workers import processes as executor
from support import make_data
from support.extracted_slides import EXTRACTION, counts, only_slide
from support.workspace import ROOT

HEIGHT, WIDTH = 388, 500  # no multiple of a tile, but of the levels' 4
OURS = ("generic", "4:4:4", "4:2:2", "4:2:0", "RGB", "33005")
OPENSLIDES = ("33003", "lossless", "restarts")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """A slide of each kind; not to be changed."""
    folder, picture = tmp_path_factory.mktemp("made"), make_data.tissue(1, HEIGHT, WIDTH, glass=90)
    found = {
        "generic": make_data.write_slide(folder / "generic.tif", picture, 0.5, pyramid=True, tile=64),
        "lossless": make_data.write_slide(folder / "lossless.tif", picture, 0.5, pyramid=True, lossless=True),
    }
    for kind in ("4:4:4", "4:2:2", "4:2:0", "RGB", "restarts", "33003", "33005"):
        found[kind] = make_data.write_aperio(folder / f"{kind.replace(':', '')}.svs", picture, kind)
    return found


def by_openslide(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray | None:
    """What OpenSlide reads, on white; None where it fails."""
    with openslide.OpenSlide(path) as slide:
        scale = round(slide.level_downsamples[level])
        try:
            region = slide.read_region((x * scale, y * scale), level, (width, height))
        except openslide.OpenSlideError:
            return None
    return np.asarray(Image.alpha_composite(Image.new("RGBA", region.size, "white"), region).convert("RGB"))


def ours(path: Path, *box: int, threads: int = 1) -> np.ndarray | None:
    with Slide(path, threads) as slide:
        try:
            return slide.read(*box)
        except SlideError:
            return None


def every_cell(slide: Slide, level: int, pixels: int) -> tuple[Grid, PatchPlan]:
    """The grid of a level that is read as it is, and a plan of all its cells."""
    size = slide.levels[level]
    rows, columns = size.height // pixels, size.width // pixels
    row, column = (one.ravel() for one in np.mgrid[:rows, :columns])
    grid = Grid(
        rows=rows,
        columns=columns,
        partial=0,
        level=level,
        cell=pixels,
        downsample=size.downsample,
        mpp=0.5,
    )
    return grid, PatchPlan(row, column, np.ones(len(row)), np.zeros(len(row), bool))


def everything(slide: Slide, level: int, pixels: int) -> np.ndarray:
    grid, plan = every_cell(slide, level, pixels)
    patches = np.zeros((len(plan.rows), pixels, pixels, 3), np.uint8)
    for which, read in read_patches(slide, grid, plan, pixels):
        patches[which] = read
    return patches


def no_openslide(*_: object) -> None:
    raise AssertionError("OpenSlide was asked")


# --- sound slides ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*OURS, *OPENSLIDES])
def test_any_box_of_any_kind_has_openslides_pixels(made, kind):
    where = st.tuples(st.integers(-70, WIDTH + 5), st.integers(-70, HEIGHT + 5))

    @settings(max_examples=8)
    @given(level=st.integers(0, 1), corners=st.lists(where, min_size=1, max_size=4), sides=where)
    def check(level, corners, sides):
        width, height = (1 + abs(one) for one in sides)
        corners = [(x // 4**level, y // 4**level) for x, y in corners]
        with Slide(made[kind], 2) as slide:
            which = level if len(slide.levels) == 2 else 2 * level  # these are twice apart
            boxes = slide.start(which, *np.array(corners).T, width, height).result()
        for box, (x, y) in zip(boxes, corners, strict=True):
            np.testing.assert_array_equal(box, by_openslide(made[kind], which, x, y, width, height))

    check()


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("pixels", [32, 50])
def test_kinds_that_are_known_are_decoded_without_openslide_and_each_tile_once(made, monkeypatch, kind, pixels):
    decoded, decode = [], tiled._decode

    def counting(*tile: object) -> np.ndarray | None:
        decoded.append(tile)
        return decode(*tile)

    monkeypatch.setattr(tiled, "_decode", counting)
    monkeypatch.setattr(Slide, "_read", no_openslide)
    monkeypatch.setattr(patching, "BLOCK_PIXELS", 160)  # tiles lie across the borders of blocks
    with Slide(made[kind]) as slide:
        patches = everything(slide, 0, pixels)
        looked_at = len(slide.levels)  # the first tile of each
    rows, columns = (-(-(length // pixels * pixels) // 64) for length in (HEIGHT, WIDTH))
    assert len(decoded) == looked_at + rows * columns
    for i in (0, 17, len(patches) - 1):
        row, column = divmod(i, WIDTH // pixels)
        expected = by_openslide(made[kind], 0, column * pixels, row * pixels, pixels, pixels)
        np.testing.assert_array_equal(patches[i], expected)


@pytest.mark.parametrize("kind", ["generic", "33003"])
def test_pixels_do_not_depend_on_threads(made, monkeypatch, kind):
    monkeypatch.setattr(patching, "BLOCK_PIXELS", 160)
    read = []
    for threads in (1, 3):
        with Slide(made[kind], threads) as slide:
            read.append(everything(slide, 0, 50))
    np.testing.assert_array_equal(*read)


@pytest.mark.parametrize("mpp", [0.5, 0.31])
def test_shards_do_not_depend_on_cores(project, monkeypatch, mpp):
    only_slide(project, make_data.tissue(1, 600, 500), mpp)
    outputs = []
    for cores in (1, 4):
        monkeypatch.setattr(executor, "count_cores", lambda cores=cores: cores)
        shutil.rmtree(project.folder / "data" / "patches", ignore_errors=True)
        project.make(*EXTRACTION)
        outputs.append(project.outputs("data/patches", "reports"))
    assert outputs[0] == outputs[1]


def test_few_slides_use_all_cores_by_threads(monkeypatch):
    monkeypatch.setattr(executor, "count_cores", lambda: 8)
    processes = executor.ExecutorParams(kind="processes", workers=None, devices=1, scheduler=None, slurm=None)
    assert [executor.threads_each(tasks, processes) for tasks in (0, 1, 2, 3, 8, 100)] == [8, 8, 4, 2, 1, 1]
    one = executor.ExecutorParams(kind="processes", workers=1, devices=1, scheduler=None, slurm=None)
    assert executor.threads_each(100, one) == 8
    assert executor.threads_each(100, processes, fetching=16) == 1


def test_a_real_slide_has_openslides_pixels(shared, monkeypatch):
    path = shared / "slides" / "CMU-1-Small-Region.svs"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the checkout")
    corners = [(0, 0), (1000, 333), (2220 - 100, 2967 - 100), (241, 2000)]
    expected = [by_openslide(path, 0, x, y, 300, 250) for x, y in corners]
    monkeypatch.setattr(Slide, "_read", no_openslide)
    with Slide(path, 2) as slide:
        boxes = slide.start(0, *np.array(corners).T, 300, 250).result()
    np.testing.assert_array_equal(boxes, expected)


def test_nothing_is_left_open(made):
    def left() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    before = left()
    with Slide(made["generic"], 3) as slide:
        reading = slide.start(0, np.arange(99), np.arange(99), 99, 99)
    with Slide(made["33003"], 3) as slide:
        slide.read(0, 0, 0, 99, 99)
        patches = read_patches(slide, *every_cell(slide, 0, 32), 32)
        next(patches)  # and the others are not asked for
    del reading, patches
    assert left() == before


# --- damaged slides ----------------------------------------------------------------------------


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def ends_in_zeros(data: bytes) -> bytes:
    return data[: 2 * len(data) // 3] + bytes(len(data) - 2 * len(data) // 3)


def garbled(seed: int, length: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        rng = np.random.default_rng(seed)
        at = int(rng.integers(len(data) // 3, len(data) - length - 2))
        return data[:at] + rng.bytes(length) + data[at + length :]

    return change


HARM = {
    "zeros": lambda data: bytes(len(data)),
    "short": cut_short,
    "ends": ends_in_zeros,
    "no end": lambda data: data[:-2],
    "other size": lambda data: data.replace(b"\0\x40\0\x40", b"\0\x20\0\x20"),
    **{f"garbled {seed}": garbled(seed, 4 * (seed + 1)) for seed in range(8)},
}


@pytest.mark.parametrize("kind", [*OURS, "restarts"])
def test_of_a_damaged_tile_openslide_decides(made, tmp_path, kind):
    outcomes = set()
    for name, change in HARM.items():
        path = tmp_path / f"{name}{made[kind].suffix}"
        shutil.copy(made[kind], path)
        make_data.change_tiles(path, {19: change})
        for box in ((0, 192, 128, 64, 64), (0, 100, 90, 200, 150), (0, 320, 128, 64, 64)):
            expected, found = by_openslide(path, *box), ours(path, *box)
            outcomes.add(expected is None)
            assert (expected is None) == (found is None), (name, box)
            if found is not None:
                np.testing.assert_array_equal(found, expected, err_msg=f"{name} {box}")
    assert outcomes == ({False, True})


@pytest.mark.parametrize("kind", ["generic", "4:2:2", "33005"])
@pytest.mark.parametrize("level", [0, 1])
def test_tiles_that_are_not_there(made, tmp_path, kind, level):
    path = tmp_path / made[kind].name
    shutil.copy(made[kind], path)
    make_data.change_tiles(path, dict.fromkeys((1, 2), lambda data: b""), level)
    for at in (0, 1):
        box = (at, 0, 0, 120, 90)
        expected, found = by_openslide(path, *box), ours(path, *box)
        assert (expected is None) == (found is None)
        if found is not None:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["generic", "4:2:2"])
def test_a_tile_that_ends_beyond_the_file(made, tmp_path, kind):
    path = tmp_path / made[kind].name
    shutil.copy(made[kind], path)
    make_data.change_tiles(path, {19: lambda data: data}, claim=10**7)
    assert by_openslide(path, 0, 192, 128, 64, 64) is None and ours(path, 0, 192, 128, 64, 64) is None
    assert ours(path, 0, 0, 0, 64, 64) is not None


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["generic", "33003"])
def test_all_before_a_bad_tile_is_read_whatever_was_begun(made, tmp_path, monkeypatch, threads, kind):
    monkeypatch.setattr(patching, "BLOCK_PIXELS", 128)  # two tiles, four blocks in a row
    path = tmp_path / made[kind].name
    shutil.copy(made[kind], path)
    bad = 2 * 8 + 4  # the first tile of the third block of the second row of blocks
    make_data.change_tiles(path, {bad: lambda data: bytes(len(data))})
    read = []
    with Slide(path, threads) as slide:
        grid, plan = every_cell(slide, 0, 64)
        with pytest.raises(SlideError, match="can't be read at level 0, x 256, y 128"):
            for which, patches in read_patches(slide, grid, plan, 64):
                read += list(zip(which.tolist(), patches.copy(), strict=True))
        # and the slide goes on
        np.testing.assert_array_equal(slide.read(0, 0, 0, 64, 64), by_openslide(path, 0, 0, 0, 64, 64))
    assert len(read) == 2 * 7 + 2 * 2 * 2
    for one, patch in read:
        x, y = 64 * int(plan.columns[one]), 64 * int(plan.rows[one])
        np.testing.assert_array_equal(patch, by_openslide(made[kind], 0, x, y, 64, 64))


def test_a_damaged_tile_that_openslide_reads_costs_no_patch(project):
    path = only_slide(project, make_data.tissue(1, 256, 256), 0.5)
    make_data.change_tiles(path, {3: garbled(0, 1)})
    expected = by_openslide(path, 0, 128, 128, 128, 128)
    project.make(*EXTRACTION)
    told = counts(project).loc["a"]
    assert told["kept"] == (64 if expected is not None else told["kept"])
    assert told["kept"] + told["unread"] == 64


def test_threads_are_no_part_of_a_fingerprint():
    params = Patches(**yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["patches"])
    task = shards.ShardTask(
        slide_id="a",
        files=("a.tif",),
        source=None,
        own_mpp=None,
        default_mpp=None,
        params=params,
        seed=1,
        shards=Path(),
        overviews=Path(),
        previews=Path(),
        made_from="x",
    )
    assert replace(task, threads=7).fingerprint == task.fingerprint


def test_where_a_downsample_is_no_whole_number_the_pixels_are_those_that_are_stored(tmp_path):
    picture = make_data.tissue(2, 387, 501, glass=90)
    path = make_data.write_slide(tmp_path / "odd.tif", picture, 0.5, pyramid=True, tile=64)
    with Slide(path) as slide, tifffile.TiffFile(path) as tiff:
        level = slide.levels[1]
        assert level.downsample != round(level.downsample)
        stored = tiff.pages[1].asarray()
        assert stored.shape[:2] == (level.height, level.width)
        np.testing.assert_array_equal(slide.read(1, 37, 51, 101, 77), stored[51:128, 37:138])
