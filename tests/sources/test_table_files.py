"""Files that a user's table names: the right one is found or named, in whatever way its name is written."""

import unicodedata

import pytest

from support import make_data
from support.make_data import TUMOR, table_text
from support.workspace import slide_row

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "é.tif"), unicodedata.normalize("NFD", "é.tif")


@pytest.fixture
def refused(project):
    """Return the error line for a table with one slide of a given file name."""

    def error_line(file: str) -> str:
        (project.own / "table.csv").write_text(table_text([slide_row("a", 0, file)]), encoding="utf-8")
        lines = {project.run(command).only_line.partition(": ")[2] for command in ("inventory", "metadata")}
        assert len(lines) == 1 and not project.outputs()
        return lines.pop()

    return error_line


@pytest.mark.parametrize(("there", "listed"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
@pytest.mark.parametrize("folder", ["", "é/", "e\u0301/"])
def test_a_name_in_another_form_of_unicode_is_found(project, there, listed, folder):
    make_data.write_slide(project.own / f"{folder}{there}", make_data.tissue(1, 64, 64), 0.5)
    project.table([slide_row("a", 0, unicodedata.normalize("NFC", folder) + listed)])
    result = project.run("inventory", "metadata", "slides", "patches")
    assert result.code == 0, result.lines
    assert any("row 2" in line and "another form of Unicode" in line for line in result.lines)
    assert set(project.index["file"]) == {f"{folder}{there}"}


def test_a_path_with_backslashes_is_found(project):
    make_data.write_slide(project.own / "x" / "a.tif", make_data.tissue(1, 64, 64), 0.5)
    project.table([slide_row("a", 0, "x\\a.tif")])
    assert set(project.make("inventory", "metadata", "slides", "patches").index["file"]) == {"x/a.tif"}


def test_of_two_names_that_look_alike_the_exact_one_is_taken(project):
    for name in (COMPOSED, DECOMPOSED):
        make_data.write_slide(project.own / name, make_data.tissue(len(name), 64, 64), 0.5)
    project.table([slide_row("a", 0, COMPOSED), slide_row("b", 1, DECOMPOSED)])
    assert list(project.make("inventory", "metadata").read("data/slides_metadata.csv")["file_name"]) == [
        COMPOSED,
        DECOMPOSED,
    ]


def test_a_file_that_two_rows_name_in_two_forms_is_refused(project):
    (project.own / COMPOSED).write_bytes(b"1")
    project.table([slide_row("a", 0, COMPOSED), slide_row("b", 1, DECOMPOSED)])
    assert "rows 2 and 3" in project.run("metadata").error


@pytest.mark.parametrize(
    ("file", "similar"),
    [
        ("Slide-1.TIF", "slide-1.tif"),
        ("slide-l.tif", "slide-1.tif"),
        ("SUB/deep.tif", "sub/deep.tif"),
        ("sub\\ddeep.tif", "sub/deep.tif"),
        ("quite other.svs", None),
        ("sub/slide-1.tif", None),
        ("slide-1.tif/a.tif", None),
    ],
)
def test_a_file_with_a_similar_name_is_named(project, refused, file, similar):
    for name in ("slide-1.tif", "sub/deep.tif"):
        (project.own / name).parent.mkdir(exist_ok=True)
        (project.own / name).write_bytes(b"1")
    message = refused(file)
    assert f"own/table.csv: row 2: file_name {file!r}: no such file in own" in message
    assert message.endswith(f"; did you mean {similar!r}?" if similar else "no such file in own")


def test_a_backslash_in_a_name_is_a_name_where_there_is_such_a_file(project):
    for number, name in enumerate(("x\\a.tif", "x/a.tif")):
        make_data.write_slide(project.own / name, make_data.tissue(number, 64, 64), 0.5)
    project.table([slide_row("a", 0, "x\\a.tif")])
    assert list(project.make("inventory", "metadata").read("data/slides_metadata.csv")["file_name"]) == ["x\\a.tif"]


def test_a_file_name_too_long_for_any_file_system_is_reported(refused):
    assert "no such file in own" in refused("x" * 5000)
    assert TUMOR not in refused("y/" * 5000 + "a")
