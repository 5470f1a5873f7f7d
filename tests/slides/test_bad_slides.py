"""Slides that can't be used, or ask for too much: each is set aside with its reason, and the others are kept."""

import itertools
import json
import os
import shutil
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from histocae import params as params_module
from histocae.files import fingerprint
from histocae.patches import grid as grid_module
from histocae.patches.shard_record import ShardTask
from histocae.slides import budget as budget_module
from histocae.slides.slide import Slide
from histocae.sources import slide_source
from histocae.sources.integrity import ExpectedHashes
from histocae.stages.slides import SlideToCheck
from histocae.workers import processes
from support import make_data
from support.extracted_slides import EXTRACTION, REASONS, counts, hang, only_slide, open_and_hang
from support.make_data import directories, encode_jpeg, tissue, write_plain_tiff, write_shared_tiles, write_slide
from support.workspace import Workspace, slide_row

TISSUE = tissue(1, 256, 256)
GRAY = np.repeat(TISSUE[..., 1:2], 3, axis=2)
BOUNDS = {"seconds": 3600, "gigabytes": 4, "patches": 1000000, "expansion": 1000}


def bounds(**changed: float) -> dict[str, object]:
    return {"patches__bounds": BOUNDS | changed}


def set_aside(project: Workspace) -> dict[str, tuple[str, int]]:
    table = project.read("reports/set_aside.csv")
    return {row.slide_id: (row.reason, row.patches_kept) for row in table.itertuples()}


def plain(pixels: np.ndarray, **options: object) -> Callable[[Path], object]:
    return lambda path: write_plain_tiff(path, pixels, **options)


def with_tag(tag: int, value: int) -> Callable[[Path], object]:
    """Write a sound slide, then change the value of a tag."""

    def write(path: Path) -> None:
        write_slide(path, TISSUE, 0.5)
        data, (position, kind, _) = bytearray(path.read_bytes()), directories(path)[0][tag]
        struct.pack_into({3: "<H", 4: "<I"}[kind], data, position, value)
        path.write_bytes(data)

    return write


def with_levels(count: int) -> Callable[[Path], object]:
    """Write a slide whose header is repeated; a negative count makes a circle."""

    def write(path: Path) -> None:
        write_slide(path, TISSUE, 0.5)
        data, first = bytearray(path.read_bytes()), directories(path)[0]
        header, link = bytes(data[first["offset"] : first[make_data.NEXT]]), first[make_data.NEXT]
        for _ in range(count):
            struct.pack_into("<I", data, link, len(data))
            link = len(data) + len(header)
            data += header + bytes(4)
        if count < 0:
            struct.pack_into("<I", data, link, first["offset"])
        path.write_bytes(data)

    return write


def truncated(path: Path) -> None:
    write_slide(path, TISSUE, 0.5)
    os.truncate(path, path.stat().st_size // 2)


def sparse(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 200 * 2**20)


DEEP = TISSUE.astype(np.uint16) << 4  # 12 of 16 bits, as cameras deliver them
TWO_OF_GRAY = "has 2 channels, of which 1 would be read; convert it to 8-bit RGB"
BAD = {
    "16-bit RGB": (plain(DEEP, photometric="rgb"), "has 16 bits a channel; convert it to 8 bits"),
    "16-bit gray": (plain(DEEP[..., 0]), "has 16 bits a channel"),
    "fractions": (plain(TISSUE.astype(np.float32), photometric="rgb"), "has 32 bits a channel"),
    "signed": (plain(TISSUE.astype(np.int8), photometric="rgb"), "has signed integers as pixels"),
    "CIELAB": (plain(TISSUE, photometric="cielab"), "has colors of the kind CIELAB"),
    "five channels": (plain(np.dstack([TISSUE, TISSUE[..., :2]]), photometric="rgb"), "has 5 channels, of which 3"),
    "gray and another": (plain(TISSUE[..., :2].copy(), photometric="minisblack", planarconfig="contig"), TWO_OF_GRAY),
    "RGB and another": (
        plain(np.dstack([TISSUE, TISSUE[..., :1]]), photometric="rgb", extrasamples=["unspecified"]),
        "has 4 channels, of which 3 would be read",
    ),
    "three of gray": (
        plain(TISSUE.transpose(2, 0, 1).copy(), photometric="minisblack", planarconfig="separate"),
        "has 3 channels, of which 1",
    ),
    "bilevel": (plain(TISSUE[..., 0] > 190), "can't be opened as a slide"),
    "gray": (plain(TISSUE[..., 1]), "is gray: tissue is found by its color"),
    "gray JPEG": (lambda path: write_slide(path, GRAY, 0.5), "is gray: tissue is found by its color"),
    "no width": (with_tag(256, 0), "can't be opened as a slide"),
    "no tile": (with_tag(322, 0), "can't be opened as a slide"),
    "huge tile": (with_tag(322, 65520), "can't be"),
    "circle of levels": (with_levels(-1), "can't be opened as a slide"),
    "truncated": (truncated, "can't be opened as a slide"),
    "empty": (lambda path: path.write_bytes(b""), "can't be opened as a slide"),
    "sparse": (sparse, "can't be opened as a slide"),
    "mpp of nan": (
        lambda path: write_slide(path, TISSUE, None, description="Aperio x|AppMag = nan|MPP = nan"),
        "states no usable microns per pixel",
    ),
    "all of one tile": (
        lambda path: write_shared_tiles(
            path, 6000, 512, encode_jpeg(np.full((512, 512, 3), (190, 110, 160), np.uint8)), 0.25
        ),
        "patches.bounds.expansion",
    ),
    "a million a side": (
        lambda path: write_shared_tiles(path, 10**6, 16384, encode_jpeg(TISSUE)),
        "patches.bounds.gigabytes",
    ),
    "tiles of a gigapixel": (
        lambda path: write_shared_tiles(path, 60000, 32768, encode_jpeg(TISSUE)),
        "a tile of 32768 x 32768 pixels at level 0 would take 8.6 GB of memory",
    ),
    "without tiles": (
        lambda path: write_shared_tiles(path, 2000, 128, encode_jpeg(TISSUE[:128, :128]), there=0),
        "has no pixels: the file lacks all tiles",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_slide_is_set_aside_with_its_reason(project, kind):
    write, reason = BAD[kind]
    write_slide(project.own / "good.tif", tissue(2, 128, 128), 0.5)
    write(project.own / "bad.tif")
    project.table([slide_row("good"), slide_row("bad", 1)])
    began = time.monotonic()
    project.make(*EXTRACTION)
    assert time.monotonic() - began < 60
    (message, kept), *others = set_aside(project).values()
    assert reason in message
    assert "\n" not in message and kept == 0 and not others
    assert set(project.index["slide_id"]) == {"good"} and not project.leftovers()


SOUND = {
    "CMYK": plain(np.asarray(Image.fromarray(TISSUE).convert("CMYK")), photometric="separated"),
    "opacity": plain(np.dstack([TISSUE, np.full((256, 256), 255, np.uint8)]), photometric="rgb", extrasamples=[2]),
    "planes": plain(TISSUE.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
    "BigTIFF": plain(TISSUE, photometric="rgb", bigtiff=True),
    "hundreds of levels": with_levels(300),
    "sparse end": lambda path: (write_slide(path, TISSUE, 0.5), os.truncate(path, 200 * 2**20)),
}


@pytest.mark.parametrize("kind", SOUND)
def test_an_unusual_slide_gives_all_its_patches(project, kind):
    SOUND[kind](project.own / "a.tif")
    project.table([slide_row("a")])
    project.make(*EXTRACTION)
    assert counts(project).loc["a", REASONS].to_dict() == dict.fromkeys(REASONS, 0) | {"kept": 64}
    assert not set_aside(project)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.name)])
def test_what_is_no_file_is_reported_by_its_own_row(project, make):
    project.slides("a", "b")
    (project.own / "b.tif").unlink()
    make(project.own / "b.tif")
    for command in ("inventory", "metadata"):
        assert project.run(command).only_line.endswith("own/table.csv: row 3: file_name 'b.tif': no such file in own")


def test_names_as_long_as_the_file_system_allows(project):
    name = "n" * 251
    write_slide(project.own / f"{name}.tif", TISSUE, 0.5)
    project.table([slide_row("a", file=f"{name}.tif")])
    project.make(*EXTRACTION)
    assert counts(project)["kept"]["a"] == 64


def test_gray_cells_are_kept_where_all_cells_are(project):
    only_slide(project, GRAY, 0.5)
    project.params(patches__tissue_share=0.0)
    project.make(*EXTRACTION)
    assert counts(project)["kept"]["a"] == 64


def test_a_cohort_of_bad_slides_says_why(project):
    only_slide(project, GRAY, 0.5)
    message = project.run(*EXTRACTION).error
    assert "a: is gray" in message


# --- cells without pixels ------------------------------------------------------------------------


def test_cells_without_pixels_are_unread_and_not_background(project):
    write_slide(project.own / "a.tif", tissue(1, 512, 512, glass=256), 0.5)
    make_data.change_tiles(project.own / "a.tif", dict.fromkeys(range(8, 16), lambda data: b""))
    project.table([slide_row("a")])
    project.make(*EXTRACTION)
    cells = counts(project).loc["a", REASONS]
    assert cells.to_dict() == dict.fromkeys(REASONS, 0) | {"kept": 64, "background": 64, "unread": 128}


def test_a_header_that_states_more_pixels_than_there_are(project, monkeypatch):
    monkeypatch.setattr(grid_module, "BLOCK_PIXELS", 1000)
    write_shared_tiles(project.own / "a.tif", 6000, 128, encode_jpeg(TISSUE[:128, :128]), there=20)
    project.table([slide_row("a")])
    project.params(patches__pixels=64)
    project.make(*EXTRACTION)
    cells = counts(project).loc["a", REASONS]
    assert cells["kept"] == 80 and cells["background"] == 0 and cells["unread"] == 93**2 - 80


# --- bounds --------------------------------------------------------------------------------------


def test_a_slide_over_its_time_is_set_aside_whole_and_tried_again(project, monkeypatch):
    rows = project.slides("a", "b")
    write_slide(project.own / "b.tif", tissue(3, 256, 1024), 0.5)
    project.table(rows)
    project.params(patches__on_read_error="keep", **bounds(seconds=500))
    monkeypatch.setattr(grid_module, "BLOCK_PIXELS", 128)
    project.make(*EXTRACTION[:3])
    looks = itertools.count()  # at a clock that goes on by 20 seconds each time
    with monkeypatch.context() as patched:
        patched.setattr(budget_module, "time", SimpleNamespace(monotonic=lambda: 20 * next(looks)))
        project.make("patches")
    reason, kept = set_aside(project)["b"]
    assert "was not read in 500 seconds" in reason and "patches.bounds.seconds" in reason and kept == 0
    cells = counts(project).loc["b", REASONS]
    assert set(project.index["slide_id"]) == {"a"} and cells["kept"] == 0 and cells.sum() == 8 * 32
    shard = next((project.folder / "data/patches/shards").glob("a.*.npy"))
    before = shard.stat().st_mtime_ns
    project.params(patches__on_read_error="keep", **bounds(seconds=2000))
    project.make("patches")
    assert counts(project)["kept"].to_dict() == {"a": 64, "b": 256} and not set_aside(project)
    assert shard.stat().st_mtime_ns == before  # bounds do not change a shard


def test_a_worker_that_hangs_in_a_decoder_is_ended(project, monkeypatch):
    monkeypatch.undo()  # real processes
    workers = processes.ExecutorParams(kind="processes", workers=1, devices=1, scheduler=None, slurm=None)
    ((_, result),) = processes.spread(hang, [0.1], workers, "slides", "slides")
    assert isinstance(result, processes.WorkerDiedError) and "hung" in str(result)


def test_a_worker_that_hangs_while_it_opens_a_slide_is_ended(tmp_path, monkeypatch):
    monkeypatch.undo()  # real processes
    write_slide(tmp_path / "a.tif", TISSUE, 0.5)
    limits = params_module.Bounds(**BOUNDS | {"seconds": 0.1})
    source, expected = slide_source.Source(tmp_path), ExpectedHashes()
    patches = SimpleNamespace(bounds=limits)
    check = SlideToCheck(source, "a", "a.tif", "0" * 64, None, expected, None, None, limits)
    settle = ShardTask(
        slide_id="a",
        files=("a.tif",),
        source=source,
        own_mpp=None,
        default_mpp=0.5,
        params=patches,
        seed=0,
        shards=tmp_path,
        overviews=tmp_path,
        previews=tmp_path,
        made_from="",
        hashes={},
    )
    workers = processes.ExecutorParams(kind="processes", workers=2, devices=1, scheduler=None, slurm=None)
    results = dict(processes.spread(open_and_hang, [check, settle], workers, "slides", "slides"))
    assert all(isinstance(result, processes.WorkerDiedError) for result in results.values()) and len(results) == 2


@pytest.fixture
def ended(monkeypatch) -> threading.Event:
    """Make this process seem a worker; the event is set where it would end."""
    ended = threading.Event()
    monkeypatch.setattr(budget_module.multiprocessing, "parent_process", lambda: True)
    monkeypatch.setattr(budget_module.os, "_exit", lambda code: ended.set())
    return ended


def test_time_in_which_nothing_is_read_does_not_count(ended):
    with budget_module.Budget(params_module.Bounds(**BOUNDS | {"seconds": 0.2})) as budget:
        with budget.paused():
            assert not ended.wait(1)
        budget.check_time()
        assert ended.wait(10)
        with pytest.raises(budget_module.OverBudgetError, match="was not read in"):
            budget.check_time()


def test_more_seconds_than_a_timer_takes_are_refused(project, ended):
    project.slides("a")
    project.params(**bounds(seconds=1e12))
    assert "patches.bounds.seconds" in project.run("inventory").only_line
    project.params(**bounds(seconds=2.0**31 - 1))
    project.make(*EXTRACTION)
    with budget_module.Budget(params_module.Bounds(**BOUNDS | {"seconds": 2.0**31 - 1})):
        assert not ended.wait(0.2)


def test_tiles_of_few_bytes_are_bounded_where_patches_are_cut_from_them(project):
    make_data.write_tile(project.own / "a.png", np.full((640, 640, 3), (190, 110, 160), np.uint8))
    make_data.write_tile(project.own / "b.png", tissue(1, 640, 640))
    rows = [{"path": f"{name}.png", **slide_row(name, number)} for number, name in enumerate("ab")]
    project.table([{key: value for key, value in row.items() if key != "file_name"} for row in rows])
    for tiles, over in (("cut", {"a"}), ("reduce", set())):
        project.params(data__source="tiles", patches__tiles=tiles, patches__tissue_share=0.0, **bounds(expansion=20))
        aside = set_aside(project.make(*EXTRACTION))
        assert set(aside) == over
        assert all("(patches.bounds.expansion); are the files tiles?" in reason for reason, _ in aside.values())


def test_more_patches_than_allowed_are_refused_unless_a_sample_is_drawn(project):
    rows = project.slides("a", "b")
    write_slide(project.own / "b.tif", tissue(3, 256, 512), 0.5)
    project.table(rows)
    project.params(**bounds(patches=100))
    project.make(*EXTRACTION)
    reason, kept = set_aside(project)["b"]
    assert "has 128 patches, more than the 100 of patches.bounds.patches" in reason and "max_per_slide" in reason
    assert kept == 0 and counts(project).loc["b", REASONS].sum() == 128
    project.params(patches__max_per_slide=100, **bounds(patches=100))
    project.make("patches")
    assert counts(project)["kept"].to_dict() == {"a": 64, "b": 100}


def taken(project: Workspace, bound: str) -> dict[str, float]:
    records = [json.loads(path.read_text()) for path in (project.folder / "data/patches/shards").glob("*.json")]
    return {record["slide_id"]: record["taken"][bound] for record in records}


@pytest.mark.parametrize("bound", ["patches", "gigabytes", "expansion"])
def test_a_slide_over_a_bound_that_was_lowered_is_set_aside_as_in_a_fresh_project(project, bound):
    rows = project.slides("a", "b")
    write_plain_tiff(project.own / "a.tif", TISSUE, photometric="rgb")
    write_slide(project.own / "b.tif", tissue(3, 256, 1024), 0.5)
    project.table([row | {"mpp": 0.5} for row in rows])
    project.make(*EXTRACTION)
    before, shards = project.outputs(), project.folder / "data/patches/shards"
    written = next(shards.glob("a.*.npy")).stat().st_mtime_ns
    values = taken(project, bound)
    assert values["a"] < values["b"]
    project.params(**bounds(**{bound: values["b"]}))
    project.make("patches")
    assert project.outputs() == before  # exactly as much as allowed
    limit = (values["a"] + values["b"]) / 2
    project.params(**bounds(**{bound: int(limit) if bound == "patches" else limit}))
    project.make("patches")
    reason, kept = set_aside(project)["b"]
    assert f"patches.bounds.{bound}" in reason and kept == 0 and set(project.index["slide_id"]) == {"a"}
    assert next(shards.glob("a.*.npy")).stat().st_mtime_ns == written
    lowered = project.outputs()
    shutil.rmtree(project.folder / "data/patches")
    project.make("patches")
    assert project.outputs() == lowered
    project.params()
    project.make("patches")
    assert project.outputs() == before


def test_a_record_of_a_former_version_is_used_unless_its_patches_are_too_many(project):
    project.slides("a")
    project.make(*EXTRACTION)
    record = next((project.folder / "data/patches/shards").glob("a.*.json"))
    values = json.loads(record.read_text())
    del values["taken"], values["sha256"]
    record.write_text(json.dumps({**values, "sha256": fingerprint(values)}))
    former = record.read_bytes()
    project.params(**bounds(patches=64, expansion=1, gigabytes=1e-9))
    project.make("patches")
    assert record.read_bytes() == former and not set_aside(project)
    project.params(**bounds(patches=63))
    assert "has 64 patches, more than the 63" in project.run("patches").error


def test_tiles_of_a_slide_are_bounded_together(project):
    for i in range(4):
        make_data.write_tile(project.own / f"{i}.png", tissue(i, 64, 64))
    rows = [{"path": f"{i}.png", **slide_row("st"[i == 3], i == 3)} for i in range(4)]
    project.table([{key: value for key, value in row.items() if key != "file_name"} for row in rows])
    project.params(data__source="tiles", patches__tiles="cut", **bounds(patches=8))
    project.make(*EXTRACTION)
    reason, kept = set_aside(project)["s"]
    assert "has 12 patches, more than the 8 of patches.bounds.patches" in reason and kept == 0
    assert set(project.index["slide_id"]) == {"t"} and not project.leftovers()
    project.params(data__source="tiles", patches__tiles="cut", **bounds(patches=12))
    before = project.make("patches").outputs()
    assert not set_aside(project)
    project.params(data__source="tiles", patches__tiles="cut", **bounds(patches=11))
    assert list(set_aside(project.make("patches"))) == ["s"]
    project.params(data__source="tiles", patches__tiles="cut", **bounds(patches=12))
    assert project.make("patches").outputs() == before


def test_memory_is_bounded_before_it_is_taken(project):
    only_slide(project, TISSUE, 0.5)
    project.params(**bounds(gigabytes=1e-5))
    assert "patches.bounds.gigabytes" in project.run(*EXTRACTION).error


def test_tiles_that_share_their_bytes_are_decoded_once(tmp_path, monkeypatch):
    from histocae.slides import tiled

    decoded, decode = [], tiled._decode
    monkeypatch.setattr(tiled, "_decode", lambda *tile: decoded.append(tile) or decode(*tile))
    image = np.full((256, 256, 3), 243, np.uint8)
    path = write_shared_tiles(tmp_path / "a.tif", 2048, 256, encode_jpeg(image))
    with Slide(path) as slide:
        assert (slide.read(0, 0, 0, 2048, 2048) == 243).all()
    assert len(decoded) == 2  # once to find out whether it can be


def test_a_large_grid_of_small_cells_is_drawn(project):
    only_slide(project, tissue(1, 32, 8000), 0.5)
    project.params(patches__pixels=8, models={"all": {"filters": [8], "latent_features": 4}})
    project.make(*EXTRACTION)
    assert counts(project)["kept"]["a"] == 4 * 1000
