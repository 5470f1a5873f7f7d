"""Damage to what the stage patches wrote: noticed by every stage that reads it, repaired when patches are made."""

import json
from pathlib import Path

import pytest

from histocae.errors import SlideError
from histocae.patches import extraction, integrity, shard_record, tile_extraction
from histocae.sources.hashes import Hashes
from histocae.stages import patches as patches_stage
from support.make_data import tissue, write_tile
from support.workspace import Workspace, slide_row

EXTRACTION = ("inventory", "metadata", "slides", "patches")


@pytest.fixture
def extracted(project) -> Workspace:
    project.slides("a", "b")
    project.make(*EXTRACTION)
    return project


def find(project: Workspace, pattern: str) -> Path:
    (path,) = project.folder.glob(pattern)
    return path


def invert(path: Path, start: int, count: int = 1) -> None:
    """Invert bytes; the file's length stays."""
    data = bytearray(path.read_bytes())
    data[start : start + count] = bytes(255 - value for value in data[start : start + count])
    path.write_bytes(data)


# what is changed, and where: the first byte inverted, and how many
DAMAGES = {
    "pixels": ("data/patches/shards/b.*.npy", 5000, 2000),
    "one byte of the pixels": ("data/patches/shards/b.*.npy", 5000, 1),
    "header": ("data/patches/shards/b.*.npy", 70, 1),
    "rows": ("data/patches/shards/b.*.csv", 60, 1),
    "record": ("data/patches/shards/b.*.json", 40, 1),
    "overview": ("reports/patching/slides/b.*.png", 900, 1),
    "thumbnail": ("reports/patching/thumbnails/b.*.jpg", 900, 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_slide_is_made_again(extracted, damage):
    before = extracted.outputs()
    pattern, start, count = DAMAGES[damage]
    invert(find(extracted, pattern), start, count)
    assert extracted.outputs() != before
    result = extracted.run("patches")
    log = " ".join(result.lines)
    assert result.code == 0 and "patches of 1 slides to extract, 1 done before" in log
    assert extracted.outputs() == before
    if damage != "record":
        assert "is not as it was written" in log and "the slide's patches are extracted again" in log


def test_a_count_changed_in_a_record_is_noticed(extracted):
    before = extracted.outputs()
    path = find(extracted, "data/patches/shards/b.*.json")
    record = json.loads(path.read_bytes())
    record["counts"]["background"] = record["counts"].get("background", 0) + 1
    path.write_text(json.dumps(record), encoding="utf-8")
    extracted.make("patches")
    assert extracted.outputs() == before


def test_no_split_is_made_of_a_damaged_index(extracted):
    invert(extracted.folder / "data/patches/index.csv", 200)
    message = extracted.run("split").only_line
    assert "data/patches/index.csv: is not as it was written" in message and "run dvc repro patches" in message
    assert not (extracted.folder / "data/splits").exists()


def test_a_slide_that_changes_after_it_was_checked_gives_no_patches(extracted):
    """Neither its own patches nor those of the file that took its place become those of the slide."""
    before = extracted.outputs("data/patches")
    whole = (extracted.own / "b.tif").read_bytes()
    shard = find(extracted, "data/patches/shards/b.*.npy")
    shard.unlink()
    (extracted.own / "b.tif").write_bytes((extracted.own / "a.tif").read_bytes())
    result = extracted.run("patches")
    assert result.code == 0 and not shard.exists()
    aside = extracted.read("reports/set_aside.csv")
    assert list(aside["slide_id"]) == ["b"]
    assert aside["reason"][0] == "b.tif: changed since the stage slides read it; run dvc repro again"
    (extracted.own / "b.tif").write_bytes(whole)
    extracted.make("patches")
    assert extracted.outputs("data/patches") == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_slide_that_changes_while_it_is_read_gives_no_patches(project, monkeypatch, fails):
    project.slides("a", "b")
    project.params(patches__on_read_error="keep")
    project.make(*EXTRACTION[:3])
    read = extraction.read_patches

    def changing(slide, *plan):
        yield from read(slide, *plan)
        if slide.path.name == "b.tif":
            invert(slide.path, 5000)
            if fails:
                raise SlideError("a tile can't be decoded")

    with monkeypatch.context() as patched:
        patched.setattr(extraction, "read_patches", changing)
        assert project.run("patches").code == 0
    aside = project.read("reports/set_aside.csv")
    assert aside[["slide_id", "reason", "patches_kept"]].to_numpy().tolist() == [
        ["b", "b.tif: changed while it was read; run dvc repro again", 0]
    ]
    assert set(project.index["slide_id"]) == {"a"}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", ["reduce", "cut"])
def test_a_tile_that_changes_while_it_is_read_gives_no_patches_of_its_slide(project, monkeypatch, mode, fails):
    rows = [slide_row("st"[i // 2], i // 2) for i in range(4)]
    for i, row in enumerate(rows):
        row["path"] = write_tile(project.own / f"{i}.png", tissue(i, 32, 32)).name
        del row["file_name"]
    project.table(rows)
    project.params(data__source="tiles", patches__tiles=mode, patches__on_read_error="keep")
    project.make(*EXTRACTION[:3])
    read = tile_extraction.read_tile

    def changing(path):
        tile = read(path)
        if path.name == "3.png":
            write_tile(path, tissue(9, 32, 32))
            if fails:
                raise SlideError("3.png: can't be read")
        return tile

    with monkeypatch.context() as patched:
        patched.setattr(tile_extraction, "read_tile", changing)
        assert project.run("patches").code == 0
    aside = project.read("reports/set_aside.csv")
    assert list(aside["slide_id"]) == ["t"] and aside["reason"][0].startswith("3.png: changed while it was read")
    assert set(project.index["slide_id"]) == {"s"}


def test_files_of_all_slides_are_compared_together(extracted, monkeypatch):
    """Without their memory too, whose file is then written once, not once for each slide."""
    (extracted.folder / ".histocae/checked.json").unlink()
    integrity._hashes.cache_clear()
    saved, save = [], Hashes.save
    monkeypatch.setattr(
        Hashes, "save", lambda hashes, *args: saved.append(hashes._memory.name) or save(hashes, *args)
    )
    before = extracted.outputs()
    assert extracted.make("patches").outputs() == before
    assert saved.count("checked.json") == 1


@pytest.mark.parametrize(("mpp", "names"), [(None, 2), (0.5, 4)])
def test_records_of_the_other_name_are_read_only_where_a_shard_may_have_it(project, monkeypatch, mpp, names):
    project.slides("a", "b")
    project.params(data__mpp=mpp)
    project.make(*EXTRACTION)
    looked, read = [], shard_record.read_json_or_none
    monkeypatch.setattr(shard_record, "read_json_or_none", lambda path: looked.append(path) or read(path))
    result = project.run("patches")
    assert "patches of 0 slides to extract, 2 done before" in " ".join(result.lines)
    assert len(looked) == names


@pytest.mark.parametrize("kind", ["shard", "overview"])
def test_a_file_that_is_damaged_before_the_stage_ends_is_noticed(project, monkeypatch, kind):
    project.slides("a", "b")
    project.make(*EXTRACTION[:3])
    make = patches_stage._make

    def damaging(task):
        record = make(task)
        if task.slide_id == "a":
            invert(task.overview_file if kind == "overview" else task.shards / f"{task.name}.npy", 900)
        return record

    with monkeypatch.context() as patched:
        patched.setattr(patches_stage, "_make", damaging)
        project.make("patches")
    remembered = json.loads((project.folder / ".histocae/checked.json").read_text())
    masks = {name for name in remembered if name.endswith(".tissue.png")}
    suffixes = {Path(name).name[0] + Path(name).suffix for name in remembered.keys() - masks}
    assert {"b.npy", "b.png"} <= suffixes and {"shard": "a.npy", "overview": "a.png"}[kind] not in suffixes
    result = project.run("patches")
    assert "patches of 1 slides to extract, 1 done before" in " ".join(result.lines)
