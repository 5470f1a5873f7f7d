"""Reading pixels: equal to OpenSlide's, whichever library decodes them, of sound and of damaged slides."""

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
from histocae.patches import grid as grid_module
from histocae.patches.grid import Grid, PatchPlan, read_patches
from histocae.patches.shard_record import ShardTask
from histocae.slides import tiled
from histocae.slides.slide import Slide
from histocae.workers import processes
from support import make_data
from support.extracted_slides import EXTRACTION, counts, only_slide
from support.workspace import ROOT

HEIGHT, WIDTH = 388, 500  # not multiples of a tile's side, but of 4, the coarser level's downsample
DECODED_HERE = ("generic", "4:4:4", "4:2:2", "4:2:0", "RGB", "33005")
LEFT_TO_OPENSLIDE = ("33003", "lossless", "restarts")


@pytest.fixture(scope="module")
def slide_paths(tmp_path_factory) -> dict[str, Path]:
    """Write a slide of each kind; tests do not change them."""
    folder, image = tmp_path_factory.mktemp("slides"), make_data.tissue(1, HEIGHT, WIDTH, glass=90)
    paths = {
        "generic": make_data.write_slide(folder / "generic.tif", image, 0.5, pyramid=True, tile=64),
        "lossless": make_data.write_slide(folder / "lossless.tif", image, 0.5, pyramid=True, lossless=True),
    }
    for kind in ("4:4:4", "4:2:2", "4:2:0", "RGB", "restarts", "33003", "33005"):
        paths[kind] = make_data.write_aperio(folder / f"{kind.replace(':', '')}.svs", image, kind)
    return paths


def openslide_pixels(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray | None:
    """Read a region with OpenSlide, on white; None where OpenSlide fails."""
    with openslide.OpenSlide(path) as slide:
        scale = round(slide.level_downsamples[level])
        try:
            region = slide.read_region((x * scale, y * scale), level, (width, height))
        except openslide.OpenSlideError:
            return None
    return np.asarray(Image.alpha_composite(Image.new("RGBA", region.size, "white"), region).convert("RGB"))


def histocae_pixels(path: Path, *box: int, threads: int = 1) -> np.ndarray | None:
    with Slide(path, threads) as slide:
        try:
            return slide.read(*box)
        except SlideError:
            return None


def plan_every_cell(slide: Slide, level: int, pixels: int) -> tuple[Grid, PatchPlan]:
    """Make the grid of a level that is not reduced, and the plan of all its cells."""
    size = slide.levels[level]
    rows, columns = size.height // pixels, size.width // pixels
    row, column = (values.ravel() for values in np.mgrid[:rows, :columns])
    grid = Grid(
        rows=rows,
        columns=columns,
        partial=0,
        level=level,
        cell=pixels,
        downsample=size.downsample,
        mpp=0.5,
    )
    return grid, PatchPlan(row, column, np.ones(len(row)), np.zeros(len(row), bool), np.ones((0, 0), bool))


def read_all_patches(slide: Slide, level: int, pixels: int) -> np.ndarray:
    grid, plan = plan_every_cell(slide, level, pixels)
    patches = np.zeros((len(plan.rows), pixels, pixels, 3), np.uint8)
    for positions, block in read_patches(slide, grid, plan, pixels):
        patches[positions] = block
    return patches


def no_openslide(*_: object) -> None:
    raise AssertionError("OpenSlide was called")


# --- sound slides ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*DECODED_HERE, *LEFT_TO_OPENSLIDE])
def test_any_box_of_any_kind_has_the_pixels_that_openslide_reads(slide_paths, kind):
    points = st.tuples(st.integers(-70, WIDTH + 5), st.integers(-70, HEIGHT + 5))

    @settings(max_examples=8)
    @given(level=st.integers(0, 1), corners=st.lists(points, min_size=1, max_size=4), sides=points)
    def check(level, corners, sides):
        width, height = (1 + abs(side) for side in sides)
        corners = [(x // 4**level, y // 4**level) for x, y in corners]
        with Slide(slide_paths[kind], 2) as slide:
            number = level if len(slide.levels) == 2 else 2 * level  # their levels are a factor of 2 apart
            boxes = slide.start(number, *np.array(corners).T, width, height).result()
        for box, (x, y) in zip(boxes, corners, strict=True):
            np.testing.assert_array_equal(box, openslide_pixels(slide_paths[kind], number, x, y, width, height))

    check()


@pytest.mark.parametrize("kind", DECODED_HERE)
@pytest.mark.parametrize("pixels", [32, 50])
def test_supported_kinds_are_decoded_without_openslide_each_tile_once(slide_paths, monkeypatch, kind, pixels):
    decoded, decode = [], tiled._decode

    def count_and_decode(*tile: object) -> np.ndarray | None:
        decoded.append(tile)
        return decode(*tile)

    monkeypatch.setattr(tiled, "_decode", count_and_decode)
    monkeypatch.setattr(Slide, "_read", no_openslide)
    monkeypatch.setattr(grid_module, "BLOCK_PIXELS", 160)  # some tiles overlap two blocks
    with Slide(slide_paths[kind]) as slide:
        patches = read_all_patches(slide, 0, pixels)
        checked = len(slide.levels)  # the first tile of each level
    rows, columns = (-(-(length // pixels * pixels) // 64) for length in (HEIGHT, WIDTH))
    assert len(decoded) == checked + rows * columns
    for i in (0, 17, len(patches) - 1):
        row, column = divmod(i, WIDTH // pixels)
        expected = openslide_pixels(slide_paths[kind], 0, column * pixels, row * pixels, pixels, pixels)
        np.testing.assert_array_equal(patches[i], expected)


@pytest.mark.parametrize("kind", ["generic", "33003"])
def test_pixels_do_not_depend_on_the_number_of_threads(slide_paths, monkeypatch, kind):
    monkeypatch.setattr(grid_module, "BLOCK_PIXELS", 160)
    results = []
    for threads in (1, 3):
        with Slide(slide_paths[kind], threads) as slide:
            results.append(read_all_patches(slide, 0, 50))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("mpp", [0.5, 0.31])
def test_shards_do_not_depend_on_the_number_of_cores(project, monkeypatch, mpp):
    only_slide(project, make_data.tissue(1, 600, 500), mpp)
    outputs = []
    for cores in (1, 4):
        monkeypatch.setattr(processes, "count_cores", lambda cores=cores: cores)
        shutil.rmtree(project.folder / "data" / "patches", ignore_errors=True)
        project.make(*EXTRACTION)
        outputs.append(project.outputs("data/patches", "reports"))
    assert outputs[0] == outputs[1]


def test_few_slides_use_all_cores_by_several_threads_per_slide(monkeypatch):
    monkeypatch.setattr(processes, "count_cores", lambda: 8)
    many_workers = processes.ExecutorParams(kind="processes", workers=None, devices=1, scheduler=None, slurm=None)
    assert [processes.threads_each(tasks, many_workers) for tasks in (0, 1, 2, 3, 8, 100)] == [8, 8, 4, 2, 1, 1]
    one_worker = processes.ExecutorParams(kind="processes", workers=1, devices=1, scheduler=None, slurm=None)
    assert processes.threads_each(100, one_worker) == 8
    assert processes.threads_each(100, many_workers, fetching=16) == 1


def test_a_real_slide_has_the_pixels_that_openslide_reads(shared, monkeypatch):
    path = shared / "slides" / "CMU-1-Small-Region.svs"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the checkout")
    corners = [(0, 0), (1000, 333), (2220 - 100, 2967 - 100), (241, 2000)]
    expected = [openslide_pixels(path, 0, x, y, 300, 250) for x, y in corners]
    monkeypatch.setattr(Slide, "_read", no_openslide)
    with Slide(path, 2) as slide:
        boxes = slide.start(0, *np.array(corners).T, 300, 250).result()
    np.testing.assert_array_equal(boxes, expected)


def test_closing_a_slide_ends_its_threads_and_closes_its_files(slide_paths):
    def count_threads_and_files() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    before = count_threads_and_files()
    with Slide(slide_paths["generic"], 3) as slide:
        reading = slide.start(0, np.arange(99), np.arange(99), 99, 99)
    with Slide(slide_paths["33003"], 3) as slide:
        slide.read(0, 0, 0, 99, 99)
        patches = read_patches(slide, *plan_every_cell(slide, 0, 32), 32)
        next(patches)  # the other patches are never requested
    del reading, patches
    assert count_threads_and_files() == before


# --- damaged slides ----------------------------------------------------------------------------


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def end_in_zeros(data: bytes) -> bytes:
    return data[: 2 * len(data) // 3] + bytes(len(data) - 2 * len(data) // 3)


def garble(seed: int, length: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        rng = np.random.default_rng(seed)
        start = int(rng.integers(len(data) // 3, len(data) - length - 2))
        return data[:start] + rng.bytes(length) + data[start + length :]

    return change


DAMAGE = {
    "zeros": lambda data: bytes(len(data)),
    "truncated": truncate,
    "zeros at end": end_in_zeros,
    "no end": lambda data: data[:-2],
    "other size": lambda data: data.replace(b"\0\x40\0\x40", b"\0\x20\0\x20"),
    **{f"garbled {seed}": garble(seed, 4 * (seed + 1)) for seed in range(8)},
}


@pytest.mark.parametrize("kind", [*DECODED_HERE, "restarts"])
def test_openslide_decides_whether_a_damaged_tile_is_read(slide_paths, tmp_path, kind):
    outcomes = set()
    for name, change in DAMAGE.items():
        path = tmp_path / f"{name}{slide_paths[kind].suffix}"
        shutil.copy(slide_paths[kind], path)
        make_data.change_tiles(path, {19: change})
        for box in ((0, 192, 128, 64, 64), (0, 100, 90, 200, 150), (0, 320, 128, 64, 64)):
            expected, pixels = openslide_pixels(path, *box), histocae_pixels(path, *box)
            outcomes.add(expected is None)
            assert (expected is None) == (pixels is None), (name, box)
            if pixels is not None:
                np.testing.assert_array_equal(pixels, expected, err_msg=f"{name} {box}")
    assert outcomes == ({False, True})


@pytest.mark.parametrize("kind", ["generic", "4:2:2", "33005"])
@pytest.mark.parametrize("level", [0, 1])
def test_missing_tiles_have_the_same_result_as_with_openslide(slide_paths, tmp_path, kind, level):
    path = tmp_path / slide_paths[kind].name
    shutil.copy(slide_paths[kind], path)
    make_data.change_tiles(path, dict.fromkeys((1, 2), lambda data: b""), level)
    for read_level in (0, 1):
        box = (read_level, 0, 0, 120, 90)
        expected, pixels = openslide_pixels(path, *box), histocae_pixels(path, *box)
        assert (expected is None) == (pixels is None)
        if pixels is not None:
            np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["generic", "4:2:2"])
def test_a_tile_that_ends_after_the_end_of_the_file_is_not_read(slide_paths, tmp_path, kind):
    path = tmp_path / slide_paths[kind].name
    shutil.copy(slide_paths[kind], path)
    make_data.change_tiles(path, {19: lambda data: data}, claim=10**7)
    assert openslide_pixels(path, 0, 192, 128, 64, 64) is None and histocae_pixels(path, 0, 192, 128, 64, 64) is None
    assert histocae_pixels(path, 0, 0, 0, 64, 64) is not None


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["generic", "33003"])
def test_all_patches_before_a_damaged_tile_are_read(slide_paths, tmp_path, monkeypatch, threads, kind):
    monkeypatch.setattr(grid_module, "BLOCK_PIXELS", 128)  # two tiles, four blocks in a row
    path = tmp_path / slide_paths[kind].name
    shutil.copy(slide_paths[kind], path)
    damaged = 2 * 8 + 4  # the first tile of the third block of the second row of blocks
    make_data.change_tiles(path, {damaged: lambda data: bytes(len(data))})
    patches_read = []
    with Slide(path, threads) as slide:
        grid, plan = plan_every_cell(slide, 0, 64)
        with pytest.raises(SlideError, match="can't be read at level 0, x 256, y 128"):
            for positions, patches in read_patches(slide, grid, plan, 64):
                patches_read += list(zip(positions.tolist(), patches.copy(), strict=True))
        # the slide can still be read
        np.testing.assert_array_equal(slide.read(0, 0, 0, 64, 64), openslide_pixels(path, 0, 0, 0, 64, 64))
    assert len(patches_read) == 2 * 7 + 2 * 2 * 2
    for position, patch in patches_read:
        x, y = 64 * int(plan.columns[position]), 64 * int(plan.rows[position])
        np.testing.assert_array_equal(patch, openslide_pixels(slide_paths[kind], 0, x, y, 64, 64))


def test_no_patch_is_lost_where_openslide_reads_a_damaged_tile(project):
    path = only_slide(project, make_data.tissue(1, 256, 256), 0.5)
    make_data.change_tiles(path, {3: garble(0, 1)})
    expected = openslide_pixels(path, 0, 128, 128, 128, 128)
    project.make(*EXTRACTION)
    row = counts(project).loc["a"]
    assert row["kept"] == (64 if expected is not None else row["kept"])
    assert row["kept"] + row["unread"] == 64


def test_the_number_of_threads_does_not_change_a_fingerprint():
    params = Patches(**yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["patches"])
    task = ShardTask(
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
        hashes={},
        made_from="x",
    )
    assert replace(task, threads=7).fingerprint == task.fingerprint


def test_a_level_with_a_fractional_downsample_is_read_as_it_is_stored(tmp_path):
    image = make_data.tissue(2, 387, 501, glass=90)
    path = make_data.write_slide(tmp_path / "odd.tif", image, 0.5, pyramid=True, tile=64)
    with Slide(path) as slide, tifffile.TiffFile(path) as tiff:
        level = slide.levels[1]
        assert level.downsample != round(level.downsample)
        stored = tiff.pages[1].asarray()
        assert stored.shape[:2] == (level.height, level.width)
        np.testing.assert_array_equal(slide.read(1, 37, 51, 101, 77), stored[51:128, 37:138])
