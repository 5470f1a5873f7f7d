"""The bytes of the user's files: those that the table's hashes name, no other slide's, and the same as at first."""

import hashlib
import shutil

import pandas as pd
import pytest

from support import make_data
from support.make_data import NORMAL, TUMOR, tissue, write_slide, write_tile
from support.workspace import Workspace, slide_row

CHECKED = ("inventory", "metadata", "slides")


def hash_of(project: Workspace, file: str, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, (project.own / file).read_bytes()).hexdigest()


def flip(project: Workspace, file: str) -> None:
    """Flip a bit in the middle of a compressed slide: it still opens, and some pixels are others."""
    path = project.own / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def set_aside(project: Workspace) -> dict[str, str]:
    table = project.read("data/set_aside/slides.csv")
    return dict(zip(table["slide_id"], table["reason"], strict=True))


def make_tiles(project: Workspace, rows: list[dict]) -> None:
    for number, row in enumerate(rows):
        if not (project.own / row["path"]).exists():
            write_tile(project.own / row["path"], tissue(number, 32, 32))
    project.table(rows)
    project.params(data__source="tiles")


def tile_row(path: str, slide_id: str, number: int, **columns: object) -> dict:
    row = slide_row(slide_id, number, **columns)
    row.pop("file_name")
    return {"path": path, **row}


# --- hashes in the table -------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_slide_with_another_hash_than_its_table_is_set_aside(project, algorithm):
    rows = project.slides("a", "b", "c")
    for row in rows[:2]:
        row[algorithm] = hash_of(project, row["file_name"], algorithm).upper()
    rows[2][algorithm] = None
    project.table(rows)
    assert not set_aside(project.make(*CHECKED))
    flip(project, "a.tif")
    result = project.run(*CHECKED)
    assert result.code == 0, result.lines
    reasons = set_aside(project)
    assert set(reasons) == {"a"}
    assert reasons["a"].startswith(f"a.tif: its {algorithm} is {hash_of(project, 'a.tif', algorithm)[:12]}…")
    assert rows[0][algorithm].lower()[:12] in reasons["a"] and "restore it, or correct the table" in reasons["a"]
    assert set(project.read("data/slides.csv")["slide_id"]) == {"b", "c"}


def test_a_slide_of_tiles_of_which_one_has_another_hash_is_set_aside(project):
    rows = [tile_row(f"{i}.png", f"s{i // 2}", i // 2) for i in range(6)]
    make_tiles(project, rows)
    for row in rows[:4]:
        row |= {"sha256": hash_of(project, row["path"]), "md5": hash_of(project, row["path"], "md5")}
    project.table(rows)
    assert not set_aside(project.make(*CHECKED))
    write_tile(project.own / "1.png", tissue(99, 32, 32))
    reasons = set_aside(project.make(*CHECKED))
    assert set(reasons) == {"s0"} and reasons["s0"].startswith("1.png: its sha256 is ")
    assert set(project.read("data/slides.csv")["slide_id"]) == {"s1", "s2"}


def test_a_sha256_of_a_slide_of_several_files_is_that_of_the_file_in_the_table(project):
    project.slides("a")
    (project.own / "a.tif").rename(project.own / "a.mrxs")  # OpenSlide goes by the content
    (project.own / "a").mkdir()
    (project.own / "a" / "part.dat").write_bytes(b"part")
    project.table([slide_row("a", 0, "a.mrxs", sha256=hash_of(project, "a.mrxs"))])
    assert not set_aside(project.make(*CHECKED))


@pytest.mark.parametrize(("column", "digits"), [("sha256", 64), ("md5", 32)])
def test_a_cell_that_is_no_hash_is_refused(broken_table, column, digits):
    for cell in ("abc", "g" * digits, "a" * (digits + 1)):
        message = broken_table(make_data.table_text([slide_row("a"), slide_row("b", 1) | {column: cell}]))
        assert f"own/table.csv: row 3: {column} is '{cell[:20]}" in message
        assert f"not {digits} hexadecimal digits; leave the cell empty" in message


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [{}, {"case_id": "case-0"}, {"case_id": "case-0", "sample_type": TUMOR}])
def test_one_slide_as_two_is_refused_with_both_rows(project, columns):
    rows = project.slides("a", "b", "c")
    project.make(*CHECKED)
    before = project.outputs()
    shutil.copy(project.own / "a.tif", project.own / "copy.tif")
    project.table([*rows, slide_row("d", 1, "copy.tif") | columns])
    message = project.run(*CHECKED).error
    assert "own/table.csv: rows 2 and 5: 'a.tif' and 'copy.tif' have the same bytes" in message
    assert "delete one of the rows" in message
    after = project.outputs()
    assert {path: after[path] for path in before if "slides" in path and "metadata" not in path} == {
        path: before[path] for path in before if "slides" in path and "metadata" not in path
    }


def test_equal_files_that_are_no_slides_are_set_aside_each(project):
    rows = project.slides("a", "b", "c")
    for name in "bc":
        (project.own / f"{name}.tif").write_text("404 Not Found")
    project.table(rows)
    assert set(set_aside(project.make(*CHECKED))) == {"b", "c"}


def test_equal_tiles_of_two_cases_are_counted_and_listed(project):
    rows = [tile_row(f"{i}.png", f"s{i // 2}", i // 2) for i in range(6)]
    make_tiles(project, rows)
    shutil.copy(project.own / "0.png", project.own / "1.png")  # of one slide
    shutil.copy(project.own / "2.png", project.own / "5.png")  # of two cases
    result = project.run(*CHECKED, "patches")
    assert result.code == 0
    assert any("2 tiles have the same bytes as a tile of another case" in line for line in result.lines)
    table = project.read("reports/patching/shared_tiles.csv")
    assert list(table["file"]) == ["2.png", "5.png"] and list(table["case_id"]) == ["case-1", "case-2"]
    assert '"shared_tiles": 2' in (project.folder / "reports/patching/summary.json").read_text()
    (project.own / "5.png").unlink()
    project.forget("5.png")
    make_tiles(project, rows)
    assert not any("same bytes" in line for line in project.run(*CHECKED, "patches").lines)
    assert '"shared_tiles": 0' in (project.folder / "reports/patching/summary.json").read_text()


def test_equal_tiles_of_two_sample_types_of_a_case_are_listed(project):
    rows = [tile_row(f"{i}.png", f"s{i}", i, case_id="one") for i in range(2)]
    assert {row["sample_type"] for row in rows} == {TUMOR, NORMAL}
    make_tiles(project, rows)
    shutil.copy(project.own / "0.png", project.own / "1.png")
    project.make(*CHECKED, "patches")
    assert len(project.read("reports/patching/shared_tiles.csv")) == 2


# --- first hashes --------------------------------------------------------------------------------


def test_a_slide_that_changes_later_is_refused_until_it_is_restored_or_its_row_deleted(project):
    project.slides("a", "b")
    project.make(*CHECKED)
    before, data = project.outputs("data"), (project.own / "a.tif").read_bytes()
    first = hash_of(project, "a.tif")
    flip(project, "a.tif")
    message = project.run(*CHECKED).error
    assert (
        f"own: 'a.tif' (sha256 {first[:12]}… → {hash_of(project, 'a.tif')[:12]}…) changed since first read" in message
    )
    assert "restore the former file, or if the change is meant, delete its row in data/first_seen.csv" in message
    for path in ("data/slides.csv", "data/first_seen.csv"):
        assert project.outputs("data")[path] == before[path]
    (project.own / "a.tif").write_bytes(data)
    assert project.make(*CHECKED).outputs("data") == before
    flip(project, "a.tif")
    project.forget("a.tif")
    project.make(*CHECKED)
    assert hash_of(project, "a.tif") in project.outputs("data")["data/first_seen.csv"].decode()


def test_a_changed_tile_is_refused(project):
    make_tiles(project, [tile_row(f"{i}.png", "s", 0) for i in range(3)])
    project.make(*CHECKED)
    for i in range(2):
        write_tile(project.own / f"{i}.png", tissue(50 + i, 32, 32))
    assert "'0.png' (sha256 " in (message := project.run(*CHECKED).error) and "and 1 more changed" in message


def test_a_change_that_the_table_confirms_is_accepted(project):
    rows = project.slides("a", "b")
    project.make(*CHECKED)
    flip(project, "a.tif")
    rows[0]["sha256"] = hash_of(project, "a.tif")
    project.table(rows)
    assert not set_aside(project.make(*CHECKED))
    rows[0].pop("sha256")
    project.table(rows)
    project.make(*CHECKED)  # the confirmed hash is now the first


def test_a_file_that_was_no_slide_may_be_replaced_and_one_that_left_the_table_is_remembered(project):
    rows = project.slides("a", "b")
    data = (project.own / "b.tif").read_bytes()
    (project.own / "b.tif").write_bytes(data[:100])
    assert set(set_aside(project.make(*CHECKED))) == {"b"}
    (project.own / "b.tif").write_bytes(data)
    assert not set_aside(project.make(*CHECKED))
    project.table(rows[:1])
    project.make(*CHECKED)
    flip(project, "b.tif")
    project.table(rows)
    assert "'b.tif' (sha256 " in project.run(*CHECKED).error


@pytest.mark.parametrize("damage", ["cut off", "replaced"])
def test_a_slide_that_changes_so_that_it_does_not_open_is_refused(project, damage):
    project.slides("a", "b", "c")
    project.make(*CHECKED)
    before, data = project.outputs("data"), (project.own / "b.tif").read_bytes()
    (project.own / "b.tif").write_bytes(data[: len(data) // 2] if damage == "cut off" else b"404 Not Found")
    message = project.run(*CHECKED).error
    assert "own: 'b.tif' (sha256 " in message and "changed since first read: restore the former file" in message
    for path in ("data/slides.csv", "data/first_seen.csv", "data/set_aside/slides.csv"):
        assert project.outputs("data")[path] == before[path]
    project.forget("b.tif")
    assert set(set_aside(project.make(*CHECKED))) == {"b"}  # the change is meant
    assert "|b.tif|" not in project.outputs("data")["data/first_seen.csv"].decode()
    (project.own / "b.tif").write_bytes(data)
    assert not set_aside(project.make(*CHECKED))


def test_a_changed_tile_of_a_slide_that_is_set_aside_is_refused(project):
    rows = [tile_row(f"{i}.png", f"s{i // 2}", i // 2) for i in range(4)]
    make_tiles(project, rows)
    rows[0]["sha256"] = hash_of(project, "0.png")
    project.table(rows)
    project.make(*CHECKED)
    for i in range(2):
        write_tile(project.own / f"{i}.png", tissue(50 + i, 32, 32))
    message = project.run(*CHECKED).error
    assert "own: '1.png' (sha256 " in message and "0.png" not in message


def test_another_folder_has_its_own_first_hashes(project):
    project.slides("a")
    project.make(*CHECKED)
    write_slide(project.folder / "other" / "a.tif", tissue(9, 64, 64), 0.5)
    shutil.copy(project.own / "table.csv", project.folder / "other")
    project.params(data__path="other")
    project.make(*CHECKED)
    table = pd.read_csv("data/first_seen.csv", sep="|")
    assert list(zip(table["folder"], table["file"], strict=True)) == [("other", "a.tif"), ("own", "a.tif")]
    project.params()
    flip(project, "a.tif")
    assert "own: 'a.tif' (sha256 " in project.run(*CHECKED).error


@pytest.mark.parametrize("path", ["own/", "./own", "{}/own", "linked", "moved"])
def test_a_folder_named_by_another_path_keeps_its_first_hashes(project, path):
    project.slides("a", "b")
    project.make(*CHECKED)
    before, data = project.outputs("data")["data/first_seen.csv"], (project.own / "a.tif").read_bytes()
    (project.folder / "linked").symlink_to("own")
    shutil.copytree(project.own, project.folder / "moved")
    path = path.format(project.folder)
    project.params(data__path=path)
    project.make(*CHECKED)
    rows = project.read("data/first_seen.csv")
    assert len(rows) == (4 if path in ("linked", "moved") else 2)
    assert set(before.splitlines()) <= set(project.outputs("data")["data/first_seen.csv"].splitlines())
    (project.folder / "data/first_seen.csv").write_bytes(before)
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 4
    (project.folder / path / "a.tif").write_bytes(damaged)
    message = project.run(*CHECKED).error
    assert (
        f"{path}: 'a.tif' (sha256 " in message and "delete its row in data/first_seen.csv, there as 'own'" in message
    )
    assert project.outputs("data")["data/first_seen.csv"] == before
    project.forget("a.tif")
    project.make(*CHECKED)
    (project.folder / path / "a.tif").write_bytes(data)
    assert "'a.tif' (sha256 " in project.run(*CHECKED).error


def test_first_hashes_under_two_paths_of_a_folder_are_both_accepted_and_kept(project):
    project.slides("a", "b")
    project.make(*CHECKED)
    path = project.folder / "data/first_seen.csv"
    rows = path.read_text().splitlines(keepends=True)
    other = f"own/|a.tif|{'0' * 64}\n"
    path.write_text("".join([*rows, other]))
    for name in ("own", "own/"):
        project.params(data__path=name)
        project.make(*CHECKED)
        assert path.read_text() == "".join([*rows, other])
    flip(project, "a.tif")
    assert "there as 'own'" not in project.run(*CHECKED).error


@pytest.mark.parametrize("text", ["", "folder,file,sha256\n", "folder|file|sha256\nown|a.tif\n"])
def test_damaged_first_hashes_are_reported(project, text):
    project.slides("a")
    project.make(*CHECKED)
    (project.folder / "data" / "first_seen.csv").write_text(text)
    assert "data/first_seen.csv: " in (message := project.run(*CHECKED).error) and "delete the file" in message


@pytest.mark.parametrize("source", ["slides", "tiles"])
@pytest.mark.parametrize("damage", ["no row", "no hash"])
def test_a_file_that_the_inventory_lacks_is_reported(project, source, damage):
    if source == "tiles":
        make_tiles(project, [tile_row(f"{i}.tif", "ab"[i % 2], i % 2) for i in range(4)])
    else:
        project.slides("0", "1", "2")
    project.make(*CHECKED)
    before, path = project.outputs(), project.folder / "data/inventory.csv"
    lines = path.read_text().splitlines(keepends=True)
    row = next(line for line in lines if line.startswith("1.tif|"))
    other = "" if damage == "no row" else row.rpartition("|")[0] + "|\n"
    path.write_text("".join(lines).replace(row, other))
    message = project.run("slides").only_line
    assert "data/inventory.csv: has no hash of '1.tif'; run dvc repro" in message
    assert project.make("inventory", "slides").outputs() == before


def test_real_tiles_have_the_hashes_of_their_table_and_none_is_shared(project, shared):
    table = pd.read_csv(shared / "ebhi_colorectal" / "table.csv")
    table["slide_id"] += "-" + table["sample_type"].str[:1]  # two slides have both labels
    table.iloc[::12].to_csv(project.own / "tiles.csv", index=False)
    project.params(
        data__source="tiles",
        data__path=str(shared / "ebhi_colorectal"),
        data__table=str(project.own / "tiles.csv"),
        patches__pixels=128,
    )
    project.make(*CHECKED, "patches")
    assert not set_aside(project)
    assert '"shared_tiles": 0' in (project.folder / "reports/patching/summary.json").read_text()
