"""The patch store: what was written is read back, in any order; what does not fit is refused."""

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
def store(tmp_path):
    """A copy of the committed store."""
    return shutil.copytree(V1, tmp_path / "store")


def everything(store: PatchStore) -> np.ndarray:
    index = store.index()
    return store.select(index).take(np.arange(len(index)))


def test_a_store_of_version_1_stays_readable():
    store = PatchStore(V1)
    assert (store.pixels, store.mpp) == (8, 0.5)
    index = store.index()
    assert tuple(index.columns) == INDEX_COLUMNS
    assert list(index["slide_id"].unique()) == ["0012", "A/B"]
    assert list(index["case_id"].unique()) == ["case 1", "case|2"]
    assert list(index["mpp"].isna()) == [False] * 3 + [True] * 2
    np.testing.assert_array_equal(everything(store), np.concatenate(list(make_data.v1_patches().values())))


def test_the_committed_store_is_what_the_script_makes(tmp_path):
    make_data.make_store_v1(tmp_path / "made")
    files = {path.relative_to(V1): path.read_bytes() for path in V1.rglob("*") if path.is_file()}
    again = {p.relative_to(tmp_path / "made"): p.read_bytes() for p in (tmp_path / "made").rglob("*") if p.is_file()}
    assert again == files and len(files) == 4


def test_today_version_1_is_written(tmp_path):
    index = PatchStore(V1).index()
    for name, patches in make_data.v1_patches().items():
        with ShardWriter(tmp_path / "shards" / f"{name}.npy", 8) as writer:
            for one in patches:
                writer.append(one[None])
        assert (tmp_path / "shards" / f"{name}.npy").read_bytes() == (V1 / "shards" / f"{name}.npy").read_bytes()
    write_index(tmp_path, index, 8, 0.5)
    assert (tmp_path / "index.csv").read_bytes() == (V1 / "index.csv").read_bytes()
    assert json.loads((tmp_path / "store.json").read_bytes()) == json.loads((V1 / "store.json").read_bytes())


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(store, version):
    manifest = json.loads((store / "store.json").read_bytes())
    manifest["version"] = version
    (store / "store.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(StoreError, match=f"version {version}.*reads version 1; run dvc repro patches"):
        PatchStore(store)


def test_a_user_is_told_in_one_line(project):
    told = project.run("split").only_line
    assert "data/patches: no patch store here" in told and "dvc repro" in told
    shutil.copytree(V1, project.folder / "data" / "patches")
    manifest = project.folder / "data" / "patches" / "store.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"version": 1', '"version": 9'), encoding="utf-8")
    assert "patch store of version 9" in project.run("split").only_line


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_manifest_that_is_none_is_refused(store, text):
    (store / "store.json").write_text(text, encoding="utf-8")
    with pytest.raises(StoreError):
        PatchStore(store)


def test_an_index_that_is_cut_short_is_refused(store):
    lines = (store / "index.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (store / "index.csv").write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(StoreError, match="4 rows, not 5"):
        PatchStore(store).index()


@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "text", "fewer", "other side", "floats"])
def test_a_shard_that_is_not_what_its_index_says_is_refused(store, harm):
    path = store / "shards" / "0012.npy"
    patches = np.load(path)
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm in ("empty", "cut", "text"):
        path.write_bytes({"empty": b"", "cut": data[:-1], "text": b"no shard at all"}[harm])
    else:
        np.save(path, {"fewer": patches[:2], "other side": patches[:, :4], "floats": patches / 255}[harm])
    opened = PatchStore(store)
    with pytest.raises(StoreError, match=r"0012\.npy"):
        opened.select(opened.index())


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), max_size=12))
def test_patches_come_in_the_order_asked_for(rows, which):
    store = PatchStore(V1)
    every = np.concatenate(list(make_data.v1_patches().values()))
    selected = store.select(store.index().iloc[rows])
    assert len(selected) == len(rows)
    which = np.array([one for one in which if one < len(rows)], int)
    taken = selected.take(which)
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, every[np.array(rows, int)[which]])


@given(parts=st.lists(st.integers(0, 3), max_size=6), pixels=st.sampled_from([8, 9, 16]), seed=st.integers(0, 9))
def test_a_shard_is_the_array_that_was_appended(tmp_path_factory, parts, pixels, seed):
    path = tmp_path_factory.getbasetemp() / "any" / "shard.npy"
    patches = np.random.default_rng(seed).integers(0, 256, (sum(parts), pixels, pixels, 3), np.uint8)
    with ShardWriter(path, pixels) as writer:
        for part in np.split(patches, np.cumsum(parts)[:-1]) if parts else []:
            writer.append(part)
    np.testing.assert_array_equal(np.load(path), patches)
    assert path.stat().st_size == 128 + patches.nbytes


def test_an_error_leaves_the_former_shard_and_nothing_half_written(tmp_path):
    path = tmp_path / "a.npy"
    with ShardWriter(path, 8) as writer:
        writer.append(np.ones((2, 8, 8, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), ShardWriter(path, 8) as writer:
        writer.append(np.zeros((1, 8, 8, 3), np.uint8))
        raise KeyboardInterrupt
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("shape", "kind"), [((1, 8, 8, 3), float), ((1, 8, 7, 3), np.uint8), ((8, 8, 3), np.uint8)])
def test_patches_of_another_kind_are_not_taken(tmp_path, shape, kind):
    wrong = np.zeros(shape, kind)
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
def test_two_slides_never_share_a_name(one, other):
    assert (shard_name(one) == shard_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
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
def test_names_that_look_alike_stay_apart(one, other):
    assert shard_name(one) != shard_name(other)


def test_plain_barcodes_keep_their_name():
    assert shard_name("TCGA-2J-AAB1-01A-01-TS1") == "TCGA-2J-AAB1-01A-01-TS1"
    assert shard_name("0012") == "0012"


def test_an_index_has_a_row_a_patch_with_its_place(project):
    project.slides("a", "b").copy()
    project.make("inventory", "metadata", "slides", "patches")
    index = PatchStore(project.folder / "data" / "patches").index()
    assert tuple(index.columns) == INDEX_COLUMNS and isinstance(index, pd.DataFrame)
    for shard, rows in index.groupby("shard"):
        assert list(rows["position"]) == list(range(len(rows)))
        assert len(np.load(project.folder / "data/patches/shards" / f"{shard}.npy")) == len(rows)


def test_an_index_written_row_by_row_is_the_same_to_the_byte(tmp_path, store):
    given = PatchStore(store)
    assert write_rows(tmp_path / "again", given.rows(), 8, 0.5) == len(given.index())
    for name in ("index.csv", "store.json"):
        assert (tmp_path / "again" / name).read_bytes() == (store / name).read_bytes()


def test_slides_are_counted_without_the_whole_index(store):
    given = PatchStore(store)
    counted = given.slides()
    expected = given.index().groupby("slide_id", sort=False).size()
    assert dict(zip(counted["slide_id"], counted["patches"], strict=True)) == expected.to_dict()
    assert list(counted.columns) == ["slide_id", "case_id", "sample_type", "shard", "patches"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("|shard|", "|chard|"), "no column 'shard'"),
        (lambda text: text[: text.rindex("|Solid") + 3], "row 6 ends too early"),
        (lambda text: text.rstrip("\n").rsplit("\n", 1)[0] + "\n", "the index has 4 rows, not 5"),
    ],
)
def test_a_damaged_index_is_told(store, change, told):
    index = store / "index.csv"
    index.write_text(change(index.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(HistocaeError, match=told):
        PatchStore(store).slides()
