"""The patch store: patches are read as they were written, in any order; a store that is damaged is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocae.errors import HistocaeError, StoreError
from histocae.patches.store import INDEX_COLUMNS, PatchStore, ShardWriter, shard_name, write_index, write_rows
from support import make_data

V1 = make_data.DATA / "store-v1"


@pytest.fixture
def store_folder(tmp_path):
    """A copy of the committed store."""
    return shutil.copytree(V1, tmp_path / "store")


def read_all_patches(store: PatchStore) -> np.ndarray:
    index = store.index()
    return store.select(index).take(np.arange(len(index)))


def test_a_store_of_version_1_can_be_read():
    store = PatchStore(V1)
    assert (store.pixels, store.mpp) == (8, 0.5)
    index = store.index()
    assert tuple(index.columns) == INDEX_COLUMNS
    assert list(index["slide_id"].unique()) == ["0012", "A/B"]
    assert list(index["case_id"].unique()) == ["case 1", "case|2"]
    assert list(index["mpp"].isna()) == [False] * 3 + [True] * 2
    np.testing.assert_array_equal(read_all_patches(store), np.concatenate(list(make_data.v1_patches().values())))


def test_the_committed_store_equals_the_one_that_make_data_writes(tmp_path):
    make_data.make_store_v1(tmp_path / "made")
    files = {path.relative_to(V1): path.read_bytes() for path in V1.rglob("*") if path.is_file()}
    made = {
        path.relative_to(tmp_path / "made"): path.read_bytes()
        for path in (tmp_path / "made").rglob("*")
        if path.is_file()
    }
    assert made == files and len(files) == 4


def test_stores_are_written_in_version_1(tmp_path):
    index = PatchStore(V1).index()
    for name, patches in make_data.v1_patches().items():
        with ShardWriter(tmp_path / "shards" / f"{name}.npy", 8) as writer:
            for patch in patches:
                writer.append(patch[None])
        assert (tmp_path / "shards" / f"{name}.npy").read_bytes() == (V1 / "shards" / f"{name}.npy").read_bytes()
    write_index(tmp_path, index, 8, 0.5)
    assert (tmp_path / "index.csv").read_bytes() == (V1 / "index.csv").read_bytes()
    assert json.loads((tmp_path / "store.json").read_bytes()) == json.loads((V1 / "store.json").read_bytes())


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(store_folder, version):
    manifest = json.loads((store_folder / "store.json").read_bytes())
    manifest["version"] = version
    (store_folder / "store.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(StoreError, match=f"version {version}.*reads version 1; run dvc repro patches"):
        PatchStore(store_folder)


def test_a_missing_or_newer_store_is_reported_in_one_line(project):
    message = project.run("split").only_line
    assert "data/patches: no patch store here" in message and "dvc repro" in message
    shutil.copytree(V1, project.folder / "data" / "patches")
    manifest = project.folder / "data" / "patches" / "store.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"version": 1', '"version": 9'), encoding="utf-8")
    assert "patch store of version 9" in project.run("split").only_line


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_an_invalid_manifest_is_refused(store_folder, text):
    (store_folder / "store.json").write_text(text, encoding="utf-8")
    with pytest.raises(StoreError):
        PatchStore(store_folder)


def test_a_truncated_index_is_refused(store_folder):
    lines = (store_folder / "index.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (store_folder / "index.csv").write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(StoreError, match="4 rows, not 5"):
        PatchStore(store_folder).index()


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "fewer", "other side", "floats"])
def test_a_shard_that_does_not_match_its_index_is_refused(store_folder, damage):
    path = store_folder / "shards" / "0012.npy"
    patches = np.load(path)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage in ("empty", "truncated", "text"):
        path.write_bytes({"empty": b"", "truncated": data[:-1], "text": b"no shard at all"}[damage])
    else:
        np.save(path, {"fewer": patches[:2], "other side": patches[:, :4], "floats": patches / 255}[damage])
    store = PatchStore(store_folder)
    with pytest.raises(StoreError, match=r"0012\.npy"):
        store.select(store.index())


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), max_size=12))
def test_patches_are_returned_in_the_requested_order(rows, positions):
    store = PatchStore(V1)
    patches = np.concatenate(list(make_data.v1_patches().values()))
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
    assert write_rows(tmp_path / "again", store.rows(), 8, 0.5) == len(store.index())
    for name in ("index.csv", "store.json"):
        assert (tmp_path / "again" / name).read_bytes() == (store_folder / name).read_bytes()


def test_slides_are_counted_without_the_whole_index(store_folder):
    store = PatchStore(store_folder)
    counted = store.slides()
    expected = store.index().groupby("slide_id", sort=False).size()
    assert dict(zip(counted["slide_id"], counted["patches"], strict=True)) == expected.to_dict()
    assert list(counted.columns) == ["slide_id", "case_id", "sample_type", "shard", "patches"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("|shard|", "|chard|"), "no column 'shard'"),
        (lambda text: text[: text.rindex("|Solid") + 3], "row 6 ends too early"),
        (lambda text: text.rstrip("\n").rsplit("\n", 1)[0] + "\n", "the index has 4 rows, not 5"),
    ],
)
def test_a_damaged_index_is_reported(store_folder, change, message):
    index = store_folder / "index.csv"
    index.write_text(change(index.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(HistocaeError, match=message):
        PatchStore(store_folder).slides()
