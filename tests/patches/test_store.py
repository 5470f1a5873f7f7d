"""The patch store: patches are read as they were written, in any order; a store that is damaged is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocae.errors import StoreError
from histocae.patches import store as store_module
from histocae.patches.shard_file import ShardWriter, shard_name
from histocae.patches.store import INDEX_COLUMNS, PatchStore, write_index, write_rows
from support import make_data
from support.extracted_slides import EXTRACTION

V1, V2, V3, V4 = (make_data.DATA / f"store-v{version}" for version in (1, 2, 3, 4))


@pytest.fixture
def store_folder(tmp_path):
    """A copy of the committed store."""
    return shutil.copytree(V4, tmp_path / "store")


def read_all_patches(store: PatchStore) -> np.ndarray:
    index = store.index()
    return store.select(index).take(np.arange(len(index)))


def test_a_store_of_version_4_can_be_read():
    store = PatchStore(V4)
    assert (store.pixels, store.mpp) == (8, 0.5)
    index = store.index()
    assert tuple(index.columns) == INDEX_COLUMNS
    assert list(index["slide_id"].unique()) == ["0012", "A/B"]
    assert list(index["case_id"].unique()) == ["case 1", "case|2"]
    assert list(index["mpp"].isna()) == [False] * 3 + [True] * 2
    np.testing.assert_array_equal(read_all_patches(store), np.concatenate(list(make_data.stored_patches().values())))


@pytest.mark.parametrize(("folder", "version"), [(V1, 1), (V2, 2), (V3, 3)])
def test_a_store_of_a_former_version_is_refused_by_its_version(folder, version):
    expected = f"patch store of version {version}, this histocae reads version 4; run dvc repro patches"
    with pytest.raises(StoreError, match=expected):
        PatchStore(folder)


def test_the_patches_of_a_former_version_are_extracted_again(project, monkeypatch):
    project.slides("a", "b", mpp=0.25)
    with monkeypatch.context() as former:
        former.setattr(store_module, "VERSION", 2)
        project.make(*EXTRACTION)
    folder = project.folder / "data" / "patches"
    before = {path.name for path in (folder / "shards").iterdir()}
    message = project.run("split").only_line
    assert "data/patches: patch store of version 2, this histocae reads version 4; run dvc repro patches" in message
    lines = project.run("patches").lines
    expected = "patch store of version 2, this histocae writes version 4: the patches of 2 slides are extracted again"
    assert sum(expected in line for line in lines) == 1
    assert before.isdisjoint(path.name for path in (folder / "shards").iterdir())
    assert len(read_all_patches(PatchStore(folder))) == 2 * 16
    assert not any("version" in line for line in project.run("patches").lines)


def test_the_committed_store_equals_the_one_that_make_data_writes(tmp_path):
    make_data.make_store(tmp_path / "made")
    files = {path.relative_to(V4): path.read_bytes() for path in V4.rglob("*") if path.is_file()}
    made = {
        path.relative_to(tmp_path / "made"): path.read_bytes()
        for path in (tmp_path / "made").rglob("*")
        if path.is_file()
    }
    assert made == files and len(files) == 4


def test_stores_are_written_in_version_4(tmp_path):
    index = PatchStore(V4).index()
    for name, patches in make_data.stored_patches().items():
        with ShardWriter(tmp_path / "shards" / f"{name}.npy", 8) as writer:
            for patch in patches:
                writer.append(patch[None])
        assert (tmp_path / "shards" / f"{name}.npy").read_bytes() == (V4 / "shards" / f"{name}.npy").read_bytes()
    write_index(tmp_path, index, 8, 0.5)
    assert (tmp_path / "index.csv").read_bytes() == (V4 / "index.csv").read_bytes()
    assert json.loads((tmp_path / "store.json").read_bytes()) == json.loads((V4 / "store.json").read_bytes())


@pytest.mark.parametrize("version", [0, 5, "4", None])
def test_another_version_is_refused(store_folder, version):
    manifest = json.loads((store_folder / "store.json").read_bytes())
    manifest["version"] = version
    (store_folder / "store.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(StoreError, match=f"version {version}.*reads version 4; run dvc repro patches"):
        PatchStore(store_folder)


def test_a_missing_or_newer_store_is_reported_in_one_line(project):
    message = project.run("split").only_line
    assert "data/patches: no patch store here" in message and "dvc repro" in message
    shutil.copytree(V4, project.folder / "data" / "patches")
    manifest = project.folder / "data" / "patches" / "store.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"version": 4', '"version": 9'), encoding="utf-8")
    assert "patch store of version 9" in project.run("split").only_line


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_an_invalid_manifest_is_refused(store_folder, text):
    (store_folder / "store.json").write_text(text, encoding="utf-8")
    with pytest.raises(StoreError):
        PatchStore(store_folder)


@pytest.mark.parametrize("name", ["00\\u000012", "00\\ud80012", "../0012"])
def test_a_manifest_with_a_name_that_no_shard_has_is_refused(project, name):
    project.slides("a", "b")
    project.make("inventory", "metadata", "slides", "patches")
    manifest = project.folder / "data" / "patches" / "store.json"
    shard = next(manifest.parent.glob("shards/a.*.npy")).stem
    manifest.write_text(manifest.read_text().replace(f'"{shard}"', f'"{name}"'))
    message = project.run("split").only_line
    assert "data/patches/store.json: is damaged: " in message and "run dvc repro patches" in message


DAMAGES = ["missing", "empty", "truncated", "longer", "text", "fewer", "other side", "floats", "Fortran order"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_that_does_not_match_its_index_is_refused(store_folder, damage):
    path = store_folder / "shards" / "0012.npy"
    patches = np.load(path)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage in ("empty", "truncated", "longer", "text"):
        changed = {"empty": b"", "truncated": data[:-1], "longer": data + data[128:], "text": b"no shard at all"}
        path.write_bytes(changed[damage])
    else:
        arrays = {"fewer": patches[:2], "other side": patches[:, :4], "floats": patches / 255}
        np.save(path, (arrays | {"Fortran order": np.asfortranarray(patches)})[damage])
    store = PatchStore(store_folder)
    with pytest.raises(StoreError, match=r"0012\.npy"):
        store.select(store.index())


def test_swapped_shards_are_refused(store_folder):
    """Both have the same number of patches, so that only their bytes differ."""
    shards = store_folder / "shards"
    with ShardWriter(shards / "0012.npy", 8) as writer:
        writer.append(make_data.stored_patches()["0012"][:2])
    write_index(store_folder, PatchStore(store_folder).index().drop(index=2), 8, 0.5)
    (shards / "0012.npy").rename(shards / "other")
    (shards / "A%2FB~3b1b2c3d.npy").rename(shards / "0012.npy")
    (shards / "other").rename(shards / "A%2FB~3b1b2c3d.npy")
    store = PatchStore(store_folder)
    with pytest.raises(StoreError, match=r"0012\.npy: is not as it was written.*run dvc repro patches"):
        store.select(store.index())


@given(data=st.data())
@settings(max_examples=300)
def test_no_changed_byte_of_a_store_passes_unnoticed(tmp_path_factory, data):
    """Whatever bytes are changed, the store is refused or its patches are those that were written."""
    folder = tmp_path_factory.getbasetemp() / "changed"
    shutil.copytree(V4, folder, dirs_exist_ok=True)
    path = data.draw(st.sampled_from(sorted(file for file in folder.rglob("*") if file.is_file())))
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, 2 * len(content)))])
    try:
        patches = read_all_patches(PatchStore(folder))
    except StoreError as error:
        assert "\n" not in str(error)
    else:
        np.testing.assert_array_equal(patches, np.concatenate(list(make_data.stored_patches().values())))


def test_a_shard_is_read_once_for_its_hash(store_folder, monkeypatch):
    monkeypatch.chdir(store_folder.parent)
    read_all_patches(PatchStore(store_folder))
    known = json.loads((store_folder.parent / ".histocae/checked.json").read_bytes())
    assert {Path(path).name for path in known} == {"index.csv", "0012.npy", "A%2FB~3b1b2c3d.npy"}
    monkeypatch.setattr(hashlib, "file_digest", None)
    read_all_patches(PatchStore(store_folder))


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), max_size=12))
def test_patches_are_returned_in_the_requested_order(rows, positions):
    store = PatchStore(V4)
    patches = np.concatenate(list(make_data.stored_patches().values()))
    selected = store.select(store.index().iloc[rows])
    assert len(selected) == len(rows)
    positions = np.array([position for position in positions if position < len(rows)], int)
    taken = selected.take(positions)
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, patches[np.array(rows, int)[positions]])


@given(lengths=st.lists(st.integers(0, 3), max_size=6), pixels=st.sampled_from([8, 9, 16]), seed=st.integers(0, 9))
def test_a_shard_is_the_array_of_all_appended_patches(tmp_path_factory, lengths, pixels, seed):
    path = tmp_path_factory.getbasetemp() / "any" / "shard.npy"
    patches = np.random.default_rng(seed).integers(0, 256, (sum(lengths), pixels, pixels, 3), np.uint8)
    with ShardWriter(path, pixels) as writer:
        for batch in np.split(patches, np.cumsum(lengths)[:-1]) if lengths else []:
            writer.append(batch)
    np.testing.assert_array_equal(np.load(path), patches)
    assert path.stat().st_size == 128 + patches.nbytes


def test_an_error_leaves_the_former_shard_and_no_partial_file(tmp_path):
    path = tmp_path / "a.npy"
    with ShardWriter(path, 8) as writer:
        writer.append(np.ones((2, 8, 8, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), ShardWriter(path, 8) as writer:
        writer.append(np.zeros((1, 8, 8, 3), np.uint8))
        raise KeyboardInterrupt
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("shape", "dtype"), [((1, 8, 8, 3), float), ((1, 8, 7, 3), np.uint8), ((8, 8, 3), np.uint8)])
def test_patches_of_another_shape_or_dtype_are_refused(tmp_path, shape, dtype):
    wrong = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match="can't take"), ShardWriter(tmp_path / "a.npy", 8) as writer:
        writer.append(wrong)
    assert not list(tmp_path.iterdir())


ANY_ID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(ANY_ID)
def test_any_slide_id_gives_a_safe_file_name(slide_id):
    name = shard_name(slide_id)
    assert name and name == shard_name(slide_id)
    assert not set(name) & set('/\\:*?"<>|\0\n') and name.isprintable() and name.isascii()
    assert name.strip(". ") == name and name not in (".", "..")
    assert len(f".{name}.npy.4194304.part") < 255


@given(ANY_ID, ANY_ID)
def test_two_slides_never_share_a_file_name(first, second):
    assert (shard_name(first) == shard_name(second)) == (first == second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a/b", "a%2Fb"),
        ("a b", "a_b"),
        (" a", "a"),
        ("a.", "a"),
        ("x" * 130, "x" * 131),
        ("a~b", "a%7Eb"),
        ("\u00e4", "a\u0308"),
        ("a/b", shard_name("a/b")),
        ("..", "."),
    ],
)
def test_similar_slide_ids_have_different_file_names(first, second):
    assert shard_name(first) != shard_name(second)


def test_plain_barcodes_are_file_names_without_changes():
    assert shard_name("TCGA-2J-AAB1-01A-01-TS1") == "TCGA-2J-AAB1-01A-01-TS1"
    assert shard_name("0012") == "0012"


def test_an_index_has_one_row_per_patch_with_its_position(project):
    project.slides("a", "b").copy()
    project.make("inventory", "metadata", "slides", "patches")
    index = PatchStore(project.folder / "data" / "patches").index()
    assert tuple(index.columns) == INDEX_COLUMNS and isinstance(index, pd.DataFrame)
    for shard, rows in index.groupby("shard"):
        assert list(rows["position"]) == list(range(len(rows)))
        assert len(np.load(project.folder / "data/patches/shards" / f"{shard}.npy")) == len(rows)


def test_an_index_written_row_by_row_has_the_same_bytes(tmp_path, store_folder):
    store = PatchStore(store_folder)
    assert write_rows(tmp_path / "again", store.rows(), 8, 0.5, store.shards) == len(store.index())
    for name in ("index.csv", "store.json"):
        assert (tmp_path / "again" / name).read_bytes() == (store_folder / name).read_bytes()


def test_slides_are_counted_without_the_whole_index(store_folder):
    store = PatchStore(store_folder)
    counted = store.slides()
    expected = store.index().groupby("slide_id", sort=False).size()
    assert dict(zip(counted["slide_id"], counted["patches"], strict=True)) == expected.to_dict()
    assert list(counted.columns) == ["slide_id", "case_id", "sample_type", "shard", "patches"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("|shard|", "|chard|"),
        lambda text: text[: text.rindex("|Solid") + 3],
        lambda text: text.rstrip("\n").rsplit("\n", 1)[0] + "\n",
        lambda text: text.replace("case 1", "case 2", 1),
    ],
)
@pytest.mark.parametrize("read", ["index", "rows", "slides"])
def test_a_changed_index_is_reported(store_folder, change, read):
    index = store_folder / "index.csv"
    index.write_text(change(index.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(StoreError, match=r"index\.csv: is not as it was written .*; run dvc repro patches"):
        getattr(PatchStore(store_folder), read)()


def test_a_manifest_of_another_index_is_refused(store_folder):
    manifest = store_folder / "store.json"
    manifest.write_text(
        manifest.read_text(encoding="utf-8").replace('"patches": 5', '"patches": 4'), encoding="utf-8"
    )
    for read in ("index", "slides"):
        with pytest.raises(StoreError, match="the index has 5 rows, not 4"):
            getattr(PatchStore(store_folder), read)()
