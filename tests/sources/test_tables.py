"""The user's table: all supported formats are read, and each error is reported with its row."""

import csv
import string
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocae import identifiers
from histocae.sources import tables, texts
from support import make_data
from support.make_data import NORMAL, TUMOR, table_text
from support.workspace import Workspace, slide_row

HEADER = "slide_id,case_id,sample_type,file_name"
VALID_ROW = f"a,case-0,{TUMOR},a.tif\n"


@pytest.mark.parametrize("column", ["slide_id", "case_id", "sample_type", "file_name"])
def test_a_missing_column_is_reported(broken_table, column):
    rows = [{name: cell for name, cell in slide_row("a").items() if name != column}]
    message = broken_table(table_text(rows))
    assert f"own/table.csv: no column '{column}'" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "own/table.csv: no column 'slide_id'; it has none"),
        ("\n\n", "own/table.csv: no column 'slide_id'"),
        (f"{HEADER}\n", "own/table.csv: no rows"),
        (f"{HEADER}\n,,,\n\n", "own/table.csv: no rows"),
        (f"{HEADER},case_id\n", "own/table.csv: two columns are called 'case_id'"),
        (
            f"{HEADER}\n{VALID_ROW}b,case-1,{NORMAL}\n",
            "own/table.csv: row 3: 3 cells under 4 columns; put cells that contain ',' in quotes",
        ),
        (f"{HEADER}\n{VALID_ROW}\nb,case-1,{NORMAL},b.tif,0.5\n", "own/table.csv: row 4: 5 cells under 4 columns"),
        (f"{HEADER}\nb,case-1,{NORMAL},b,1.tif\n", "own/table.csv: row 2: 5 cells under 4 columns"),
        (f"{HEADER}\n{VALID_ROW},case-1,{NORMAL},b.tif\n", "own/table.csv: row 3: slide_id is empty"),
        (f"{HEADER}\n{VALID_ROW}b,  ,{NORMAL},b.tif\n", "own/table.csv: row 3: case_id is empty"),
        (f"{HEADER}\n{VALID_ROW}b,--,{NORMAL},b.tif\n", "own/table.csv: row 3: case_id is empty"),
        (f"{HEADER}\n{VALID_ROW}b,c,,b.tif\n", "own/table.csv: row 3: sample_type is empty"),
        (f"{HEADER}\n{VALID_ROW}b,c,{NORMAL},\n", "own/table.csv: row 3: file_name is empty"),
        (
            f"{HEADER}\n{VALID_ROW}b,c,healthy,b.tif\n",
            "own/table.csv: row 3: sample_type 'healthy' is not among the GDC's",
        ),
        (
            f"{HEADER}\n{VALID_ROW}b,c,Primary,b.tif\n",
            "own/table.csv: row 3: sample_type 'Primary' is not among the GDC's",
        ),
        (f"{HEADER}\n{VALID_ROW}{VALID_ROW}", "own/table.csv: rows 2 and 3: slide_id 'a' occurs twice"),
        (
            f"{HEADER}\n{VALID_ROW}b,c,{NORMAL},c.tif\n",
            "own/table.csv: row 3: file_name 'c.tif': no such file in own",
        ),
        (f"{HEADER}\n{VALID_ROW}b,c,{NORMAL},.\n", "own/table.csv: row 3: file_name '.': no such file in own"),
        ("slide_id\na\n", "own/table.csv: no column 'case_id'; it has slide_id"),
    ],
)
def test_an_invalid_table_is_reported_with_file_and_row(broken_table, text, expected):
    message = broken_table(text)
    assert expected in message


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
def test_a_path_out_of_the_folder_is_refused(broken_table, file):
    message = broken_table(table_text([slide_row("a", 0, file)]))
    assert (
        f"own/table.csv: row 2: file_name {file!r} leads out of own; set data.path to a folder that has all files"
        in message
    )


def test_an_absolute_path_into_the_folder_is_refused_too(broken_table, project):
    message = broken_table(table_text([slide_row("a", 0, str(project.own / "a.tif"))]))
    assert "row 2" in message and "leads out" in message


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("SHA256", "sha256"),
        ("sha-256", "sha256"),
        ("MD5", "md5"),
        ("Mpp", "mpp"),
        ("disease type", "disease_type"),
        ("Percent_Tumor_Nuclei", "percent_tumor_nuclei"),
    ],
)
def test_a_column_whose_name_is_written_in_another_way_is_refused(broken_table, column, meant):
    message = broken_table(table_text([slide_row("a", 0, **{column: "1"})]))
    assert f"own/table.csv: column '{column}' would not be read; call it '{meant}'" in message


def test_a_column_like_one_that_is_there_is_a_further_column(project):
    rows = project.slides("a")
    project.table([row | {"mpp": 0.5, "MPP": "x", "SHA256 of the scan": "x"} for row in rows])
    project.make("inventory", "metadata")
    assert list(project.read("data/slides_metadata.csv")["mpp"]) == [0.5]


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("percent_tumor_cells", "101", "is 101, not 0 to 100"),
        ("percent_tumor_nuclei", "-0.5", "is -0.5, not 0 to 100"),
        ("percent_normal_cells", "50%", "is '50%', not a number"),
        ("percent_stromal_cells", "inf", "is 'inf', not a number"),
        ("mpp", "0,25", "is '0,25', not a number"),
        ("mpp", "40x", "is '40x', not a number"),
    ],
)
def test_an_invalid_number_is_reported_with_row_and_column(broken_table, column, cell, problem):
    message = broken_table(table_text([slide_row("a"), slide_row("b", 1, **{column: cell})]))
    assert f"own/table.csv: row 3: {column} {problem}" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{HEADER}\n{VALID_ROW}ä,c,{TUMOR},b.tif\n".encode("cp1252"), "row 3 is not UTF-8 (perhaps cp1252"),
        (f"{HEADER}\n{VALID_ROW}ä,c,{TUMOR},b.tif\n".encode("utf-16-le"), "row 3 is not UTF-8 (UTF-16)"),
        (f"{HEADER}\n{VALID_ROW}".encode("utf-16")[:-1], "is damaged"),
        (b"PK\x03\x04" + b"x" * 100, "is a spreadsheet (xlsx, ods)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "is a spreadsheet (xls)"),
    ],
)
def test_a_table_of_another_encoding_or_format_is_refused(broken_table, content, expected):
    message = broken_table(content)
    assert f"own/table.csv: {expected}" in message and 'save it as "CSV UTF-8"' in message


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_table_in_utf16_with_a_byte_order_mark_is_read(project, encoding):
    project.table([row | {"disease_type": "Größe"} for row in project.slides("a", "b")], separator="\t")
    expected = project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"]
    text = (project.own / "table.csv").read_text(encoding="utf-8")
    (project.own / "table.csv").write_bytes(f"\ufeff{text}".encode(encoding))
    assert project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"] == expected


@pytest.mark.parametrize("separator", list(",|;\t"))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_first_line_may_name_the_separator(project, separator, end):
    project.table(rows := project.slides("a", "b"))
    expected = project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"]
    text = f"sep={separator}{end}{table_text(rows, separator, end)}"
    (project.own / "table.csv").write_bytes(text.encode())
    assert project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"] == expected
    (project.own / "table.csv").write_bytes(text.replace(TUMOR, "healthy").encode())
    assert "row 3: sample_type 'healthy'" in project.run("metadata").only_line


def test_another_separator_in_the_first_line_is_refused(broken_table):
    assert "own/table.csv: row 1: sep='#' is not among" in broken_table(f"sep=#\n{HEADER}\n{VALID_ROW}")


@pytest.mark.parametrize(
    ("columns", "expected"), [(10**6, "1,000,000 columns, more than 16,384"), (9000, "no column")]
)
def test_a_table_of_many_columns_is_refused_at_once_in_one_short_line(tmp_path, columns, expected):
    path = tmp_path / "wide.csv"
    path.write_text(",".join(f"column {i}" for i in range(columns)) + "\n")
    began = time.monotonic()
    with pytest.raises(tables.TableError, match=expected) as refused:
        tables.read(path, ("slide_id",))
    assert time.monotonic() - began < 10  # it was minutes
    assert len(str(refused.value)) < 400


FORMULAS = ["=CASE2()", "@SUM(1)", "-2+3", "+1", "＝1+1"]


@pytest.mark.parametrize("column", ["slide_id", "case_id", "sample_id", "disease_type", "file_name"])
@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_run_is_refused(broken_table, column, text):
    message = broken_table(table_text([slide_row("a"), slide_row("b", 1) | {column: text}]))
    assert f"own/table.csv: row 3: {column} {text!r} begins with {text[0]!r}" in message
    assert ("rename the file" if column == "file_name" else "change this cell") in message


@pytest.mark.parametrize("column", ["slide_id", "case_id", "disease_type", "file_name"])
@pytest.mark.parametrize("text", ["x;=1+1", "x; @SUM(1)", "a,+1", "a|-1", "x;＝1+1"])
def test_a_text_that_a_spreadsheet_would_divide_into_a_formula_is_refused(broken_table, column, text):
    message = broken_table(table_text([slide_row("a"), slide_row("b", 1) | {column: text}]))
    sign = text[1:].strip(" ,;|")[0]
    assert f"row 3: {column} {text!r} has {sign!r} after {text[1]!r}, so spreadsheets would run it" in message


def test_separators_and_signs_within_a_text_are_allowed(project):
    project.slides("a")
    project.table([slide_row("a", case_id="c-1; d, e+f|g=h", disease_type="Adenomas, NOS; T1-2 (a-b)")])
    project.make("inventory", "metadata")


@pytest.mark.parametrize("sign", ["\x00", "\x07", "\x1b", "\x7f", "\x85\x07"])
def test_a_text_with_a_control_character_is_refused(broken_table, sign):
    message = broken_table(table_text([slide_row("a"), slide_row("b", 1, case_id=f"c{sign}1")]))
    assert "own/table.csv: row 3: case_id 'c" in message and "control character" in message


def test_an_id_after_a_tab_is_checked_as_it_is_used(broken_table):
    message = broken_table(f'{HEADER}\n"\t=1",case-0,{TUMOR},a.tif\n')
    assert "row 2: slide_id '=1' begins with '='" in message


def test_the_path_of_a_tile_is_checked_as_that_of_a_slide(project):
    write_tiles(project, [tile_row("=1.png", "s", 0)])
    assert "row 2: path '=1.png' begins with '='; " not in (line := project.run("metadata").only_line)
    assert "row 2: path '=1.png' begins with '='" in line and "rename the file" in line


def test_a_long_cell_is_shortened_in_the_message(broken_table):
    message = broken_table(table_text([slide_row("a"), slide_row("b", 1, sample_type="x" * 100_000)]))
    assert "row 3: sample_type 'xxx" in message and len(message) < 400


@pytest.mark.parametrize("mpp", ["0.00025", "250", "40", "0", "-0.25", "1e-9"])
def test_a_resolution_that_no_scanner_has_is_refused(broken_table, mpp):
    message = broken_table(table_text([slide_row("a", mpp=0.25), slide_row("b", 1, mpp=mpp)]))
    assert f"own/table.csv: row 3: mpp is {float(mpp):g}, not 0.05 to 10 microns per pixel" in message
    assert "leave the cell empty to use the slide's own" in message


def test_a_table_in_a_temporary_experiment_is_reported_with_the_reason(new_project):
    project = new_project("project/.dvc/tmp/exps/standalone/tmpabc")
    project.params(data__path="data/own")
    for command in ("inventory", "metadata"):
        message = project.run(command).only_line
        assert "data/own/table.csv: no such table; dvc exp run --temp and --queue run in a copy" in message
        assert "(data.path)" in message
    (project.folder / "table.csv").write_text(table_text([slide_row("a")]))
    project.params(data__path="data/own", data__table=str(project.folder / "table.csv"))
    assert "data/own: no such folder; dvc exp run --temp" in project.run("metadata").only_line
    project.params(data__path=str(project.folder / "away"))
    assert "no such table; set data.table" in project.run("metadata").only_line


def test_a_file_of_two_slides_is_reported_as_a_duplicate(broken_table):
    # else the same pixels could be in two cases, and so in two parts of a split
    for file in ("a.tif", "./a.tif"):
        message = broken_table(table_text([slide_row("a"), slide_row("b", 1, file)]))
        assert "rows 2 and 3" in message and "a.tif" in message


def test_an_unclosed_quote_is_reported_with_a_row(broken_table):
    rows = "".join(f"s{i},case-{i},{TUMOR},a.tif\n" for i in range(6000))
    assert "own/table.csv: row" in broken_table(f'{HEADER}\n"a,case-0,{TUMOR},a.tif\n{rows}')


def test_a_missing_table_or_folder_is_reported(project):
    project.slides("a")
    project.make("inventory", "metadata")
    before = project.outputs()
    for params, expected in (
        ({"data__table": "other.csv"}, "own/other.csv: no such table"),
        ({"data__table": "."}, "own: "),
        ({"data__path": "missing"}, "missing/table.csv: no such table"),
        ({"data__path": "missing", "data__table": str(project.own / "table.csv")}, "missing: no such folder"),
    ):
        project.params(**params)
        for command in ("inventory", "metadata"):
            assert expected in project.run(command).only_line
    assert project.outputs() == before


@pytest.mark.parametrize("separator", [",", "|", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_all_supported_formats_of_a_table_lead_to_the_same_metadata(project, separator, end, start, quoting):
    rows = project.slides("0012", "b c")
    rows[0] |= {"disease_type": 'Ductal, "NOS" | other; rare', "percent_tumor_cells": 40, "mpp": 0.25}
    project.table(rows)
    expected = project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"]
    text = start + table_text(rows, separator, end, quoting)
    (project.own / "table.csv").write_bytes(text.encode("utf-8"))
    metadata = project.make("inventory", "metadata").outputs("data")["data/slides_metadata.csv"]
    assert metadata == expected
    assert metadata.decode().splitlines()[1] == (
        f'case-0||0012|"Ductal, ""NOS"" | other; rare"|{TUMOR}|||40.0||0012.tif|0.25'
    )


def test_a_line_break_inside_a_quoted_cell_does_not_start_a_row(project):
    project.slides("a", "b")
    text = f'{HEADER},disease_type\n{VALID_ROW.strip()},"Ductal\nLobular"\nb,case-1,healthy,b.tif,x\n'
    (project.own / "table.csv").write_text(text, encoding="utf-8")
    assert "row 4: sample_type 'healthy'" in project.run("metadata").only_line
    (project.own / "table.csv").write_text(text.replace("healthy", NORMAL), encoding="utf-8")
    disease = project.make("inventory", "metadata").read("data/slides_metadata.csv")["disease_type"]
    assert disease[0].split() == ["Ductal", "Lobular"]


def test_the_metadata_have_fixed_columns_in_a_fixed_order(project):
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
    assert table["sample_id"][0] == "TCGA-2J-AAB1-01A"  # from the barcode, since the table has no sample_id
    assert table[["percent_normal_cells", "mpp"]].isna().all(axis=None)


def test_slides_of_other_sample_types_are_set_aside_with_the_reason(project):
    rows = project.slides("a", "b", "c", "d")
    rows[0]["sample_type"], rows[3]["sample_type"] = "Metastatic", "recurrent tumor"
    rows[1]["sample_type"] = "  solid TISSUE  normal "
    project.table(rows)
    result = project.run("inventory", "metadata", "slides", "patches")
    assert result.code == 0
    table = project.read("data/slides_metadata.csv")
    assert list(table["slide_id"]) == ["b", "c"] and table["sample_type"][0] == NORMAL
    set_aside = project.read("reports/set_aside.csv")
    assert list(set_aside.columns) == ["slide_id", "stage", "reason", "patches_kept"]
    assert set_aside.to_numpy().tolist() == [
        ["a", "metadata", "sample type Metastatic is not compared", 0],
        ["d", "metadata", "sample type Recurrent Tumor is not compared", 0],
    ]
    assert sum("set aside: " in line for line in result.lines) == 2
    assert set(project.index["slide_id"]) == {"b", "c"}


def test_a_table_without_tumor_or_normal_slides_is_refused(project):
    rows = project.slides("a")
    project.make("inventory", "metadata")
    before = project.outputs()
    project.table([rows[0] | {"sample_type": "Metastatic"}])
    assert "Primary Tumor or Solid Tissue Normal" in project.run("metadata").only_line
    assert project.outputs() == before


@pytest.mark.parametrize("word", identifiers.SAMPLE_TYPES)
def test_sample_types_of_the_gdc_are_recognized_in_upper_and_lower_case(word):
    assert identifiers.sample_type(word.upper()) == word == identifiers.sample_type(f" {word.lower()} ")


def test_folder_and_table_may_be_in_different_places(project, tmp_path):
    folder = tmp_path / "slide folder" / "ü"
    make_data.write_slide(folder / "sub" / "a b.tif", make_data.tissue(1, 64, 64), 0.5)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "slides.csv").write_text(table_text([slide_row("a", 0, "sub/a b.tif")]), encoding="utf-8")
    project.params(data__path=str(folder), data__table=str(tmp_path / "lists" / "slides.csv"))
    project.make("inventory", "metadata", "slides", "patches")
    assert list(project.read("data/inventory.csv")["file"])[1] == "sub/a b.tif"
    assert set(project.index["file"]) == {"sub/a b.tif"}


def test_a_link_inside_the_folder_may_lead_out_of_it(project, tmp_path):
    make_data.write_slide(tmp_path / "store" / "x.tif", make_data.tissue(1, 64, 64), 0.5)
    (project.own / "a.tif").symlink_to(tmp_path / "store" / "x.tif")
    project.table([slide_row("a")])
    assert len(project.make("inventory", "metadata", "slides", "patches").index) == 4


# texts of cells: letters of any script, separators, quotes, inner blanks
CELLS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20
).filter(lambda cell: cell.strip() == cell and cell.lower() not in tables.MISSING and texts.problem(cell) is None)


@settings(max_examples=60)
@given(
    slides=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6, unique_by=lambda row: row[0]),
    percents=st.lists(st.none() | st.floats(0, 100), min_size=6, max_size=6),
    separator=st.sampled_from(",|;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_cells_with_any_text_are_read_unchanged(tmp_path_factory, slides, percents, separator, end):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    rows = [
        slide_row(slide, i, "a.tif", case_id=case, disease_type=disease, percent_tumor_cells=percents[i])
        for i, (slide, case, disease) in enumerate(slides)
    ]
    path.write_bytes(table_text(rows, separator, end, csv.QUOTE_ALL).encode("utf-8"))
    table = tables.check_types(tables.read(path, ("slide_id", "case_id", "sample_type", "file_name")), path)
    assert list(zip(table["slide_id"], table["case_id"], table["disease_type"], strict=True)) == slides
    expected = [np.nan if percent is None else percent for percent in percents[: len(slides)]]
    np.testing.assert_array_equal(table["percent_tumor_cells"], expected)
    assert list(table.index) == list(range(2, 2 + len(slides)))


@settings(max_examples=150)
@given(text=st.text(string.ascii_letters[:4] + ',|;"\n\r\t 0\u2028\x0b\x00', max_size=60), with_header=st.booleans())
def test_any_text_is_read_as_a_table_or_refused_with_its_path(tmp_path_factory, text, with_header):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(((f"{HEADER}\n" if with_header else "") + text).encode("utf-8"))
    try:
        table = tables.check_types(tables.read(path, ("slide_id", "case_id", "sample_type", "file_name")), path)
    except tables.TableError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(table, pd.DataFrame) and len(table)


UNUSUAL_IDS = [
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


def test_unusual_slide_ids_are_unchanged_from_table_to_split(project):
    rows = [slide_row(slide_id, i, f"{i}.tif", case_id=f"{i // 2:03d}") for i, slide_id in enumerate(UNUSUAL_IDS)]
    for i in range(len(rows)):
        make_data.write_slide(project.own / f"{i}.tif", make_data.tissue(i, 64, 64), 0.5)
    project.table(rows)
    project.make()
    texts = {"slide_id": str, "case_id": str, "shard": str}
    metadata = pd.read_csv("data/slides_metadata.csv", sep="|", dtype=texts)
    assert list(metadata["slide_id"]) == UNUSUAL_IDS
    splits = pd.concat(
        [pd.read_csv(path, sep="|", dtype=texts) for path in sorted(project.folder.glob("data/splits/*.csv"))]
    )
    assert set(splits["slide_id"]) == set(UNUSUAL_IDS) and set(splits["case_id"]) == set(metadata["case_id"])
    assert splits["shard"].nunique() == len(UNUSUAL_IDS)
    assert len(list((project.folder / "data/patches/shards").glob("*.npy"))) == len(UNUSUAL_IDS)
    assert not project.leftovers()


def write_tiles(project: Workspace, rows: list[dict]) -> None:
    for i, row in enumerate(rows):
        if not (project.own / row["path"]).exists():
            make_data.write_tile(project.own / row["path"], make_data.tissue(i, 32, 32))
    project.table(rows)
    project.params(data__source="tiles")


def tile_row(path: str, slide_id: str, number: int, **columns: object) -> dict:
    row = slide_row(slide_id, number, **columns)
    row.pop("file_name")
    return {"path": path, **row}


def test_tiles_of_a_slide_must_agree_in_the_columns_of_the_slide(project):
    write_tiles(project, [tile_row("a.png", "s", 0), tile_row("b.png", "s", 0)])
    project.make("inventory", "metadata")
    before = project.outputs()
    for changes in ({"sample_type": NORMAL}, {"case_id": "other"}, {"percent_tumor_cells": 3}):
        write_tiles(project, [tile_row("a.png", "s", 0), tile_row("b.png", "s", 0) | changes])
        message = project.run("metadata").only_line
        assert "own/table.csv: row 2: the tiles of slide 's' differ in " + next(iter(changes)) in message
    assert project.outputs() == before


@pytest.mark.parametrize("same_path", ["a.png", "./a.png", "sub/../a.png", "x//../a.png"])
def test_a_tile_that_is_listed_twice_is_refused(project, same_path):
    write_tiles(project, [tile_row("a.png", "s", 0)])
    project.table([tile_row("a.png", "s", 0), tile_row(same_path, "t", 1)])
    assert "row" in project.run("metadata").only_line


def test_a_table_of_tiles_needs_valid_paths(project):
    write_tiles(project, [tile_row("a.png", "s", 0)])
    project.table([slide_row("s")])
    assert "own/table.csv: no column 'path'" in project.run("metadata").only_line
    project.table([tile_row("../a.png", "s", 0)])
    assert "row 2: path '../a.png' leads out of own" in project.run("metadata").only_line


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_table_without_the_mark_of_its_encoding_is_refused(project, encoding):
    project.table([slide_row("a")])
    path = project.own / "table.csv"
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    message = project.run("metadata").only_line
    assert "own/table.csv: is not UTF-8 (perhaps UTF-16 or UTF-32 without its mark)" in message
    assert 'save it as "CSV UTF-8"' in message and "\0" not in message
