"""The optional column `split` of the user's table: all rows have a part or none, and a case is in one part."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocae.errors import DataError, TableError
from histocae.sources import given_split
from support import make_data
from support.make_data import table_text
from support.workspace import Workspace, slide_row

COLUMNS = ["slide_id", "split"]
PARTS = ("train", "validation", "test")


def write_tiles(project: Workspace, rows: list[tuple[str, int, str]]) -> None:
    """Write a tile for each row (slide, number of its case, part) and their table."""
    table = []
    for i, (slide_id, number, part) in enumerate(rows):
        make_data.write_tile(project.own / f"{i}.png", make_data.tissue(i, 32, 32))
        row = slide_row(slide_id, number, split=part)
        del row["file_name"]
        table.append({"path": f"{i}.png", **row})
    project.table(table)
    project.params(data__source="tiles")


def given_rows(project: Workspace) -> list[list[str]]:
    table = project.read("data/given_split.csv")
    assert list(table.columns) == COLUMNS
    return table.to_numpy().tolist()


def test_the_given_parts_of_slides_reach_their_own_table_and_the_metadata_stay_the_same(project):
    rows = project.slides("a", "b", "c", "d")
    metadata = project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"]
    assert given_rows(project) == []
    for row, part in zip(rows, ("train", " Validation ", "TEST", "train"), strict=True):
        row["split"] = part
    project.table(rows)
    assert project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"] == metadata
    assert given_rows(project) == [["a", "train"], ["b", "validation"], ["c", "test"], ["d", "train"]]


def test_a_slide_of_a_sample_type_that_is_not_compared_has_no_given_part(project):
    rows = project.slides("a", "b", "c", "d")
    for row, part in zip(rows, (*PARTS, "test"), strict=True):
        row["split"] = part
    rows[3]["sample_type"] = "Metastatic"
    project.table(rows)
    assert [slide_id for slide_id, _ in given_rows(project.make("inventory", "metadata"))] == ["a", "b", "c"]


@pytest.mark.parametrize("missing", ["", "NA", "--", "null"])
def test_a_column_of_missing_values_gives_no_split(project, missing):
    project.table([row | {"split": missing} for row in project.slides("a", "b")])
    assert given_rows(project.make("inventory", "metadata")) == []


def test_the_demo_has_no_given_split(project):
    project.params(data__source="demo", data__demo={"cases": 6, "side_microns": 256.0, "faults": False})
    assert given_rows(project.make("inventory", "metadata")) == []


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("train", "", "test"), "row 3: split is empty, and row 2 has one; fill in this column in every row, or in"),
        (("--", "train", "test"), "row 2: split is empty, and row 3 has one"),
        (("train", "val", "test"), "row 3: split is 'val', not train, validation or test; rename this column if"),
        (
            ("train", "test", "test"),
            "no row has split 'validation'; give some cases to each of train, validation and",
        ),
    ],
)
def test_a_column_that_is_no_split_is_refused(project, broken_table, parts, expected):
    (project.own / "c.tif").write_bytes(b"not opened before the table is read")
    rows = [slide_row(name, i, split=part) for i, (name, part) in enumerate(zip("abc", parts, strict=True))]
    assert f"own/table.csv: {expected}" in broken_table(table_text(rows))


def test_a_case_in_two_parts_is_refused_with_its_rows(project, broken_table):
    (project.own / "c.tif").write_bytes(b"not opened before the table is read")
    rows = [slide_row("a", 0, split="train"), slide_row("b", 1, split="validation"), slide_row("c", 0, split="test")]
    message = broken_table(table_text(rows))
    assert "own/table.csv: rows 2 and 4: case_id 'case-0' is in train and in test; give all rows of a case" in message


def test_a_slide_whose_tiles_are_in_two_parts_is_refused_with_its_case(project):
    write_tiles(project, [("t", 0, "train"), ("u", 1, "validation"), ("t", 0, "validation"), ("v", 3, "test")])
    message = project.run("inventory").only_line
    assert "rows 2 and 4: slide_id 't' of case 'case-0' is in train and in validation; give all" in message


def test_tiles_of_a_slide_have_one_given_part(project):
    write_tiles(project, [("t", 0, "train"), ("u", 1, "validation"), ("t", 0, "train"), ("v", 3, "test")])
    rows = given_rows(project.make("inventory", "metadata"))
    assert rows == [["t", "train"], ["u", "validation"], ["v", "test"]]


def test_a_column_whose_name_differs_in_case_is_refused(broken_table):
    message = broken_table(table_text([slide_row("a", Split="train")]))
    assert "column 'Split' would not be read; call it 'split'" in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [("slide_id|split\na|valid\n", "split 'valid' is not train, validation or test"), ("slide_id\na\n", "'split'")],
)
def test_a_damaged_table_of_given_parts_is_reported(tmp_path, text, problem):
    path = tmp_path / "given_split.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        given_split.read(path)


slides = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(PARTS)), min_size=1, max_size=12)


@given(slides=slides, changed=st.integers(0, 11), cell=st.none() | st.sampled_from([*PARTS, "validate"]))
def test_any_column_is_taken_as_it_is_or_refused_with_a_row(slides, changed, cell):
    part_of_case = {"x": "train", "y": "validation", "z": "test"} | {str(case): part for case, part in slides}
    cases = [*"xyz", *(str(case) for case, _ in slides)]
    table = pd.DataFrame({"slide_id": [f"s{i}" for i in range(len(cases))], "case_id": cases}, dtype=object)
    table["split"] = table["case_id"].map(part_of_case)
    table.index += 2  # lines of the file
    path = Path("table.csv")
    parts = dict(zip(table["slide_id"], table["split"], strict=True))
    assert given_split.check(table, path) == parts
    assert (
        given_split.check(table.assign(split=None), path)
        == given_split.check(table[["slide_id", "case_id"]], path)
        == {}
    )
    line = 2 + changed % len(table)
    former = table.at[line, "split"]
    table.at[line, "split"] = cell
    alone = (table["case_id"] == table.at[line, "case_id"]).sum() == 1
    if cell == former:
        assert given_split.check(table, path) == parts
    elif cell in PARTS and alone and former in set(table["split"]):
        assert given_split.check(table, path) == parts | {table.at[line, "slide_id"]: cell}
    else:
        with pytest.raises(TableError, match=r"table\.csv: (rows? \d+|no row has split)"):
            given_split.check(table, path)
