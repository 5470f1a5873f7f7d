"""The user's table: every way of writing it that is right, and every fault told by its row."""

import csv
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocae import identifiers
from histocae.sources import tables
from support import make_data
from support.make_data import NORMAL, TUMOR, table_text
from support.workspace import Workspace, slide_row

HEAD = "slide_id,case_id,sample_type,file_name"
GOOD = f"a,case-0,{TUMOR},a.tif\n"


@pytest.mark.parametrize("column", ["slide_id", "case_id", "sample_type", "file_name"])
def test_a_table_without_a_column(broken_table, column):
    rows = [{k: v for k, v in slide_row("a").items() if k != column}]
    told = broken_table(table_text(rows))
    assert f"own/table.csv: no column '{column}'" in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "own/table.csv: no column 'slide_id'; it has none"),
        ("\n\n", "own/table.csv: no column 'slide_id'"),
        (f"{HEAD}\n", "own/table.csv: no rows"),
        (f"{HEAD}\n,,,\n\n", "own/table.csv: no rows"),
        (f"{HEAD},case_id\n", "own/table.csv: two columns are called 'case_id'"),
        (f"{HEAD}\n{GOOD}b,case-1,{NORMAL}\n", "own/table.csv: row 3: 3 cells under 4 columns"),
        (f"{HEAD}\n{GOOD}\nb,case-1,{NORMAL},b.tif,0.5\n", "own/table.csv: row 4: 5 cells under 4 columns"),
        (f"{HEAD}\nb,case-1,{NORMAL},b,1.tif\n", "own/table.csv: row 2: 5 cells under 4 columns"),
        (f"{HEAD}\n{GOOD},case-1,{NORMAL},b.tif\n", "own/table.csv: row 3: slide_id is empty"),
        (f"{HEAD}\n{GOOD}b,  ,{NORMAL},b.tif\n", "own/table.csv: row 3: case_id is empty"),
        (f"{HEAD}\n{GOOD}b,--,{NORMAL},b.tif\n", "own/table.csv: row 3: case_id is empty"),
        (f"{HEAD}\n{GOOD}b,c,,b.tif\n", "own/table.csv: row 3: sample_type is empty"),
        (f"{HEAD}\n{GOOD}b,c,{NORMAL},\n", "own/table.csv: row 3: file_name is empty"),
        (f"{HEAD}\n{GOOD}b,c,healthy,b.tif\n", "own/table.csv: row 3: sample_type 'healthy' is not among the GDC's"),
        (f"{HEAD}\n{GOOD}b,c,Primary,b.tif\n", "own/table.csv: row 3: sample_type 'Primary' is not among the GDC's"),
        (f"{HEAD}\n{GOOD}{GOOD}", "own/table.csv: rows 2 and 3: slide_id 'a' occurs twice"),
        (f"{HEAD}\n{GOOD}b,c,{NORMAL},c.tif\n", "own/table.csv: row 3: file_name 'c.tif': no such file in own"),
        (f"{HEAD}\n{GOOD}b,c,{NORMAL},.\n", "own/table.csv: row 3: file_name '.': no such file in own"),
        ("slide_id\na\n", "own/table.csv: no column 'case_id'; it has slide_id"),
    ],
)
def test_a_fault_is_told_with_its_file_and_row(broken_table, text, expected):
    told = broken_table(text)
    assert expected in told


@pytest.mark.parametrize(
    "file",
    [
        "../own/a.tif",
        "x/../../own/a.tif",
        "..",
        "/etc/hostname",
        "//server/share/a.tif",
        "C:\\slides\\a.tif",
        "c:/slides/a.tif",
        "..\\a.tif",
        "x\\..\\..\\a.tif",
        "\\\\server\\share\\a.tif",
    ],
)
def test_a_path_that_leads_out_of_its_folder(broken_table, file):
    told = broken_table(table_text([slide_row("a", 0, file)]))
    assert f"own/table.csv: row 2: file_name {file!r} leads out of own" in told


def test_an_absolute_path_into_the_folder_is_refused_all_the_same(broken_table, project):
    told = broken_table(table_text([slide_row("a", 0, str(project.own / "a.tif"))]))
    assert "row 2" in told and "leads out" in told


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("percent_tumor_cells", "101", "is 101, not 0 to 100"),
        ("percent_tumor_nuclei", "-0.5", "is -0.5, not 0 to 100"),
        ("percent_normal_cells", "50%", "is '50%', not a number"),
        ("percent_stromal_cells", "inf", "is 'inf', not a number"),
        ("mpp", "0,25", "is '0,25', not a number"),
        ("mpp", "40x", "is '40x', not a number"),
    ],
)
def test_a_number_that_is_none(broken_table, column, cell, said):
    told = broken_table(table_text([slide_row("a"), slide_row("b", 1, **{column: cell})]))
    assert f"own/table.csv: row 3: {column} {said}" in told


def test_bytes_that_are_no_text(broken_table):
    assert "own/table.csv: can't be read" in broken_table(f"{HEAD}\nä,c,{TUMOR},a.tif\n".encode("latin-1"))
    assert "own/table.csv: " in broken_table(f"{HEAD}\n{GOOD}".encode("utf-16"))


def test_one_file_under_two_slides_is_a_duplicate(broken_table):
    # the same pixels would stand in two cases, so in two splits
    for file in ("a.tif", "./a.tif"):
        told = broken_table(table_text([slide_row("a"), slide_row("b", 1, file)]))
        assert "rows 2 and 3" in told and "a.tif" in told


def test_a_quote_that_never_closes(broken_table):
    rows = "".join(f"s{i},case-{i},{TUMOR},a.tif\n" for i in range(6000))
    assert "own/table.csv: row" in broken_table(f'{HEAD}\n"a,case-0,{TUMOR},a.tif\n{rows}')


def test_a_table_or_a_folder_that_is_not_there(project):
    project.slides("a")
    project.make("inventory", "metadata")
    before = project.outputs()
    for changed, expected in (
        ({"data__table": "other.csv"}, "own/other.csv: no such table"),
        ({"data__table": "."}, "own: "),
        ({"data__path": "nowhere"}, "nowhere/table.csv: no such table"),
        ({"data__path": "nowhere", "data__table": str(project.own / "table.csv")}, "nowhere: no such folder"),
    ):
        project.params(**changed)
        for command in ("inventory", "metadata"):
            assert expected in project.run(command).only_line
    assert project.outputs() == before


@pytest.mark.parametrize("separator", [",", "|", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_every_usual_way_of_writing_a_table_gives_the_same(project, separator, end, start, quoting):
    rows = project.slides("0012", "b c")
    rows[0] |= {"disease_type": 'Ductal, "NOS" | other; rare', "percent_tumor_cells": 40, "mpp": 0.25}
    project.table(rows)
    expected = project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"]
    text = start + table_text(rows, separator, end, quoting)
    (project.own / "table.csv").write_bytes(text.encode("utf-8"))
    again = project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"]
    assert again == expected
    assert again.decode().splitlines()[1] == (
        f'case-0||0012|"Ductal, ""NOS"" | other; rare"|{TUMOR}|||40.0||0012.tif|0.25'
    )


def test_a_line_break_inside_a_quoted_cell_is_no_new_row(project):
    project.slides("a", "b")
    text = f'{HEAD},disease_type\n{GOOD.strip()},"Ductal\nLobular"\nb,case-1,healthy,b.tif,x\n'
    (project.own / "table.csv").write_text(text, encoding="utf-8")
    assert "row 4: sample_type 'healthy'" in project.run("metadata").only_line
    (project.own / "table.csv").write_text(text.replace("healthy", NORMAL), encoding="utf-8")
    disease = project.make("inventory", "metadata").read("data/slides_metadata.csv")["disease_type"]
    assert disease[0].split() == ["Ductal", "Lobular"]


def test_the_columns_are_the_seeds_then_file_and_mpp(project):
    row = slide_row("TCGA-2J-AAB1-01A-01-TS1", 0, "a.tif", stain="H&E", percent_normal_cells="", mpp="--")
    project.slides("a")
    project.table([{name: row[name] for name in reversed(row)}])  # in any order
    table = project.make("inventory", "metadata").read("data/slides_metadata.csv")
    assert tuple(table.columns) == (*tables.SEED_COLUMNS, "file_name", "mpp")
    assert tables.SEED_COLUMNS == (
        "case_id",
        "sample_id",
        "slide_id",
        "disease_type",
        "sample_type",
        "percent_normal_cells",
        "percent_stromal_cells",
        "percent_tumor_cells",
        "percent_tumor_nuclei",
    )
    assert table["sample_id"][0] == "TCGA-2J-AAB1-01A"  # from the barcode, where the table does not say
    assert table[["percent_normal_cells", "mpp"]].isna().all(axis=None)


def test_sample_types_that_are_not_compared_are_set_aside_with_the_reason(project):
    rows = project.slides("a", "b", "c", "d")
    rows[0]["sample_type"], rows[3]["sample_type"] = "Metastatic", "recurrent tumor"
    rows[1]["sample_type"] = "  solid TISSUE  normal "
    project.table(rows)
    result = project.run("inventory", "metadata", "slides", "patches")
    assert result.code == 0
    table = project.read("data/slides_metadata.csv")
    assert list(table["slide_id"]) == ["b", "c"] and table["sample_type"][0] == NORMAL
    aside = project.read("reports/set_aside.csv")
    assert list(aside.columns) == ["slide_id", "stage", "reason", "patches_kept"]
    assert aside.to_numpy().tolist() == [
        ["a", "metadata", "sample type Metastatic is not compared", 0],
        ["d", "metadata", "sample type Recurrent Tumor is not compared", 0],
    ]
    assert sum("set aside: " in line for line in result.lines) == 2
    assert set(project.index["slide_id"]) == {"b", "c"}


def test_only_sample_types_that_are_not_compared(project):
    rows = project.slides("a")
    project.make("inventory", "metadata")
    before = project.outputs()
    project.table([rows[0] | {"sample_type": "Metastatic"}])
    assert "Primary Tumor or Solid Tissue Normal" in project.run("metadata").only_line
    assert project.outputs() == before


@pytest.mark.parametrize("word", identifiers.SAMPLE_TYPES)
def test_every_word_of_gdc_is_known_whatever_its_case(word):
    assert identifiers.sample_type(word.upper()) == word == identifiers.sample_type(f" {word.lower()} ")


def test_a_folder_anywhere_and_a_table_elsewhere(project, tmp_path):
    far = tmp_path / "far away" / "ü"
    make_data.write_slide(far / "sub" / "a b.tif", make_data.tissue(1, 64, 64), 0.5)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mine.csv").write_text(table_text([slide_row("a", 0, "sub/a b.tif")]), encoding="utf-8")
    project.params(data__path=str(far), data__table=str(tmp_path / "lists" / "mine.csv"))
    project.make("inventory", "metadata", "slides", "patches")
    assert list(project.read("data/inventory.csv")["file"])[1] == "sub/a b.tif"
    assert set(project.index["file"]) == {"sub/a b.tif"}


def test_a_link_inside_the_folder_may_point_anywhere(project, tmp_path):
    make_data.write_slide(tmp_path / "store" / "x.tif", make_data.tissue(1, 64, 64), 0.5)
    (project.own / "a.tif").symlink_to(tmp_path / "store" / "x.tif")
    project.table([slide_row("a")])
    assert len(project.make("inventory", "metadata", "slides", "patches").index) == 4


# what people write in cells: letters of any script, separators, quotes, blanks inside
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20
).filter(lambda word: word.strip() == word and word.lower() not in tables.MISSING)


@settings(max_examples=60)
@given(
    slides=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=6, unique_by=lambda row: row[0]),
    percents=st.lists(st.none() | st.floats(0, 100), min_size=6, max_size=6),
    separator=st.sampled_from(",|;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_cells_come_through_as_they_are(tmp_path_factory, slides, percents, separator, end):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    rows = [
        slide_row(slide, i, "a.tif", case_id=case, disease_type=disease, percent_tumor_cells=percents[i])
        for i, (slide, case, disease) in enumerate(slides)
    ]
    path.write_bytes(table_text(rows, separator, end, csv.QUOTE_ALL).encode("utf-8"))
    table = tables.check_types(tables.read(path, ("slide_id", "case_id", "sample_type", "file_name")), path)
    assert list(zip(table["slide_id"], table["case_id"], table["disease_type"], strict=True)) == slides
    known = [np.nan if one is None else one for one in percents[: len(slides)]]
    np.testing.assert_array_equal(table["percent_tumor_cells"], known)
    assert list(table.index) == list(range(2, 2 + len(slides)))


@settings(max_examples=150)
@given(text=st.text(string.ascii_letters[:4] + ',|;"\n\r\t 0\u2028\x0b\x00', max_size=60), head=st.booleans())
def test_any_text_is_a_table_or_refused_in_one_line(tmp_path_factory, text, head):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(((f"{HEAD}\n" if head else "") + text).encode("utf-8"))
    try:
        table = tables.check_types(tables.read(path, ("slide_id", "case_id", "sample_type", "file_name")), path)
    except tables.TableError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(table, pd.DataFrame) and len(table)


AWKWARD = [
    "0012",
    "1e5",
    "NA12",
    "a/b",
    "a\\b",
    "..",
    "a b",
    "ä/ö",
    "α" * 80,
    "x" * 200,
    "a~b",
    "CON",
    ".x",
    "a%b",
    "|",
]


def test_any_slide_id_goes_from_table_to_split(project):
    rows = [slide_row(slide_id, i, f"{i}.tif", case_id=f"{i // 2:03d}") for i, slide_id in enumerate(AWKWARD)]
    for i in range(len(rows)):
        make_data.write_slide(project.own / f"{i}.tif", make_data.tissue(i, 64, 64), 0.5)
    project.table(rows)
    project.make()
    texts = {"slide_id": str, "case_id": str, "shard": str}
    metadata = pd.read_csv("data/slides_metadata.csv", sep="|", dtype=texts)
    assert list(metadata["slide_id"]) == AWKWARD
    splits = pd.concat(
        [pd.read_csv(path, sep="|", dtype=texts) for path in sorted(project.folder.glob("data/splits/*.csv"))]
    )
    assert set(splits["slide_id"]) == set(AWKWARD) and set(splits["case_id"]) == set(metadata["case_id"])
    assert splits["shard"].nunique() == len(AWKWARD)
    assert len(list((project.folder / "data/patches/shards").glob("*.npy"))) == len(AWKWARD)
    assert not project.leftovers()


def tiles_project(project: Workspace, rows: list[dict]) -> None:
    for i, row in enumerate(rows):
        if not (project.own / row["path"]).exists():
            make_data.write_tile(project.own / row["path"], make_data.tissue(i, 32, 32))
    project.table(rows)
    project.params(data__source="tiles")


def tile_row(path: str, slide_id: str, number: int, **more: object) -> dict:
    row = slide_row(slide_id, number, **more)
    row.pop("file_name")
    return {"path": path, **row}


def test_tiles_of_one_slide_agree_in_what_a_slide_has_once(project):
    tiles_project(project, [tile_row("a.png", "s", 0), tile_row("b.png", "s", 0)])
    project.make("inventory", "metadata")
    before = project.outputs()
    for changed in ({"sample_type": NORMAL}, {"case_id": "other"}, {"percent_tumor_cells": 3}):
        tiles_project(project, [tile_row("a.png", "s", 0), tile_row("b.png", "s", 0) | changed])
        told = project.run("metadata").only_line
        assert "own/table.csv: row 2: the tiles of slide 's' differ in " + next(iter(changed)) in told
    assert project.outputs() == before


@pytest.mark.parametrize("again", ["a.png", "./a.png", "sub/../a.png", "x//../a.png"])
def test_one_tile_stands_once(project, again):
    tiles_project(project, [tile_row("a.png", "s", 0)])
    project.table([tile_row("a.png", "s", 0), tile_row(again, "t", 1)])
    assert "row" in project.run("metadata").only_line


def test_a_table_of_tiles_needs_its_own_columns(project):
    tiles_project(project, [tile_row("a.png", "s", 0)])
    project.table([slide_row("s")])
    assert "own/table.csv: no column 'path'" in project.run("metadata").only_line
    project.table([tile_row("../a.png", "s", 0)])
    assert "row 2: path '../a.png' leads out of own" in project.run("metadata").only_line
