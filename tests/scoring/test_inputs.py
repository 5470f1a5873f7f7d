"""Slides, folders, tables and tiles that are given to be scored."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histocae.errors import TableError
from histocae.scoring import inputs
from histocae.scoring.given import RECORD, Given
from support import make_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "in"


def slide(path: Path, seed: int = 0) -> Path:
    return make_data.write_slide(path, make_data.tissue(seed, 64, 64), 0.5)


def tile(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_data.write_tile(path, make_data.tissue(seed, 64, 64))


def names(found: list[Given]) -> dict[str, list[str]]:
    return {each.slide_id: [path.name for path in each.paths] for each in found}


def test_a_folder_has_all_slides_below_it_and_the_tiles_of_folders_without_slides(folder, caplog):
    slide(folder / "b.tif")
    slide(folder / "deep" / "a.svs")
    tile(folder / "beside.png")  # beside a slide: its label, or a figure
    tile(folder / "tiles" / "2.png", 2)
    tile(folder / "tiles" / "1.jpg", 1)
    (folder / "notes.txt").write_text("hello")
    (folder / "tiles" / "notes.txt").write_text("hello")
    (folder / ".hidden.svs").write_bytes(b"")
    with caplog.at_level("INFO"):
        found = inputs.find([folder])
    assert names(found) == {"b": ["b.tif"], "a": ["a.svs"], "tiles": ["1.jpg", "2.png"]}
    assert [each.tiles for each in found] == [False, False, True]
    assert "3 files are no slides and are left out: notes.txt; beside.png; tiles/notes.txt" in caplog.text


def test_a_plain_tiff_is_a_tile_and_a_tiled_one_a_slide(folder):
    slide(folder / "slide.tif")
    Image.fromarray(make_data.tissue(1, 64, 64)).save(folder / "tile.tif")
    found = {each.slide_id: each.tiles for each in inputs.find([folder / "slide.tif", folder / "tile.tif"])}
    assert found == {"slide": False, "tile": True}


def test_a_damaged_slide_is_found_so_that_its_reason_can_be_reported(folder):
    folder.mkdir()
    (folder / "broken.svs").write_bytes(b"no slide")
    assert names(inputs.find([folder])) == {"broken": ["broken.svs"]}


@pytest.mark.parametrize(("beside", "tiles"), [("slide", False), ("tile", True)])
def test_a_damaged_tiff_is_lost_neither_among_slides_nor_among_tiles(folder, beside, tiles):
    slide(folder / "s.tif") if beside == "slide" else tile(folder / "t.png")
    (folder / "cut.tif").write_bytes(b"II*\0" + bytes(4))
    found = inputs.find([folder])
    assert any("cut.tif" in each.files and each.tiles == tiles for each in found)
    assert sum(len(each.files) for each in found) == 2


def test_slides_of_one_name_are_called_by_their_folders_too(folder):
    for patient in ("p1", "p2"):
        slide(folder / patient / "HE.tif", 1)
    slide(folder / "other.tif")
    assert names(inputs.find([folder])) == {"p1_HE": ["HE.tif"], "p2_HE": ["HE.tif"], "other": ["other.tif"]}


def test_slides_that_differ_in_their_suffix_only_are_called_with_it(folder):
    slide(folder / "a.tif", 1)
    slide(folder / "a.svs", 2)
    assert names(inputs.find([folder])) == {"in_a.svs": ["a.svs"], "in_a.tif": ["a.tif"]}


def test_a_slide_of_the_gdc_is_called_by_its_barcode(folder):
    path = slide(folder / "TCGA-AA-0001-01A-01-TS1.0b1f5b3a-1111-2222-3333-0123456789ab.svs")
    other = slide(folder / "no.barcode.svs", 1)
    assert names(inputs.find([path, other])) == {"TCGA-AA-0001-01A-01-TS1": [path.name], "no.barcode": [other.name]}


def test_a_slide_that_is_given_twice_is_scored_once_with_what_a_table_says(folder):
    path = slide(folder / "a.tif")
    (folder / "table.csv").write_text("slide_id,file_name,case_id,mpp\nmine,a.tif,c1,0.25\n")
    for order in ([path, folder / "table.csv"], [folder / "table.csv", path, folder]):
        (found,) = inputs.find(order)
        assert (found.slide_id, found.own_mpp, found.metadata) == ("mine", 0.25, (("case_id", "c1"),))


def test_a_table_that_has_only_names_and_hashes_comes_before_the_file(folder):
    path = slide(folder / "a.tif")
    (folder / "table.csv").write_text(f"slide_id,file_name,md5\nmine,a.tif,{'0' * 32}\n")
    for order in ([path, folder / "table.csv"], [folder / "table.csv", path]):
        (found,) = inputs.find(order)
        assert (found.slide_id, found.hashes) == ("mine", (("a.tif", "md5", "0" * 32),))


def test_a_name_from_a_table_stays_where_a_file_of_a_folder_has_it_too(folder):
    slide(folder / "deep" / "a.tif", 1)
    path = slide(folder / "b.tif", 2)
    (folder / "table.csv").write_text("slide_id,file_name\na,b.tif\n")
    assert names(inputs.find([folder / "table.csv", folder])) == {"a": [path.name], "deep_a": ["a.tif"]}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            "slide_id,file_name,mpp\na,a.tif,0.25\n",
            "slide_id,file_name,mpp\na,a.tif,0.5\n",
            "its mpp: '0.25' and '0.5'",
        ),
        ("slide_id,file_name\na,a.tif\n", "slide_id,file_name\nb,a.tif\n", "its slide_id: 'a' and 'b'"),
        ("slide_id,file_name\na,a.tif\n", "slide_id,file_name,case_id\na,a.tif,c\n", "its case_id: none and 'c'"),
        (
            f"slide_id,file_name,sha256\na,a.tif,{'0' * 64}\n",
            f"slide_id,file_name,sha256\na,a.tif,{'1' * 64}\n",
            f"its sha256 of a.tif: '{'0' * 64}' and '{'1' * 64}'",
        ),
    ],
)
def test_tables_that_differ_about_a_slide_are_refused_with_the_column(folder, first, second, words):
    slide(folder / "a.tif")
    for name, text in (("first", first), ("same", first), ("other", second)):
        (folder / f"{name}.csv").write_text(text)
    assert len(inputs.find([folder / "first.csv", folder / "same.csv"])) == 1
    with pytest.raises(TableError) as error:
        inputs.find([folder / "first.csv", folder / "other.csv"])
    assert f"a.tif: two tables differ in {words}; give one of them" in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_named_pipe_is_left_out_and_not_waited_for(folder):
    slide(folder / "a.tif")
    os.mkfifo(folder / "pipe.svs")
    assert names(inputs.find([folder])) == {"a": ["a.tif"]}


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("=1+1.tif", "the name '=1+1' begins with '='"),
        ("INDEX.html.tif", "a file of the results has the name INDEX.html; rename the slide"),
        ("a\nb.tif", "has the control character"),
        ("x\udcff.tif", "the name 'x\\udcff' is not UTF-8; rename the file"),
    ],
)
def test_a_file_whose_name_can_not_be_in_a_report_is_trouble_of_its_own(folder, name, trouble):
    slide(folder / "a.tif")
    try:
        slide(folder / "b.tif").rename(folder / name)
    except (OSError, UnicodeError):
        pytest.skip("the file system refuses such names")
    odd, good = sorted(inputs.find([folder]), key=lambda each: each.trouble is None)
    assert trouble in odd.trouble and good.trouble is None and odd.slide_id.isprintable()


def test_a_folder_that_can_not_be_listed_is_reported(folder, caplog, monkeypatch):
    slide(folder / "a.tif")
    (folder / "closed").mkdir()
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(inputs.find([folder])) == 1
    assert "closed: can't be listed (Permission denied): what is below it is left out" in caplog.text


def test_results_may_lie_among_the_slides(folder):
    slide(folder / "a.tif")
    (folder / "a").mkdir()
    (folder / "a" / RECORD).write_text("{}")
    assert names(inputs.find([folder], folder)) == {"a": ["a.tif"]}


def test_a_table_of_tiles_has_many_tiles_of_a_slide(folder):
    for number in range(3):
        tile(folder / "t" / f"{number}.png", number)
    (folder / "table.csv").write_text("path;slide_id\nt/0.png;a\nt/2.png;a\nt/1.png;b\n")
    found = inputs.find([folder / "table.csv"])
    assert names(found) == {"a": ["0.png", "2.png"], "b": ["1.png"]} and all(each.tiles for each in found)


def test_links_that_lead_back_and_folders_with_results_are_left_out(folder):
    slide(folder / "a.tif")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    for results in (folder / "scores" / "a", folder / "earlier" / "a"):
        tile(results / "heatmap.png")
    (folder / "earlier" / "a" / RECORD).write_text("{}")
    assert names(inputs.find([folder], folder / "scores")) == {"a": ["a.tif"]}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("slide_id,mpp\na,0.5\n", "needs a column file_name (slides) or path (tiles), and not both"),
        ("slide_id,file_name,path\na,a.tif,a.tif\n", "needs a column file_name (slides) or path (tiles)"),
        ("slide_id,file_name\na,\n", "row 2: file_name is empty"),
        ("slide_id,file_name\na,no.tif\n", "row 2: file_name 'no.tif': no such file"),
        ("slide_id,file_name\na,/in/a.tif\n", "move the table into a folder above all files"),
        ("slide_id,file_name,mpp\na,a.tif,352.9\n", "row 2: mpp is 352.9"),
        ("slide_id,file_name,SHA256\na,a.tif,x\n", "column 'SHA256' would not be read"),
        ("slide_id,file_name\na,a.tif\na,b.tif\n", "rows 2 and 3: slide_id 'a' occurs twice"),
        ("slide_id,file_name\n=1+1,a.tif\n", "begins with '='"),
        ("slide_id,file_name\na,a.tif\nA,b.tif\n", "are called 'a' and 'A', which a disk may not tell apart"),
        ("slide_id,file_name\na,../a.tif\n", "leads out of {folder}; move the table into a folder above all files"),
        ("slide_id,path,case_id\na,a.tif,c1\na,b.tif,c2\n", "the tiles of slide 'a' differ in case_id"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused_with_its_row(folder, table, reason):
    for number, name in enumerate(("a", "b")):
        slide(folder / f"{name}.tif", number)
    (folder / "table.csv").write_text(table)
    with pytest.raises(TableError) as error:
        inputs.find([folder / "table.csv"])
    assert reason.format(folder=folder) in str(error.value) and "\n" not in str(error.value)


def test_what_is_not_there_or_empty_is_refused(folder):
    folder.mkdir()
    (folder / "readme.md").write_text("nothing")
    with pytest.raises(TableError, match="has no slides and no tiles"):
        inputs.find([folder])
    with pytest.raises(TableError, match=r"no\.svs: no such file; give slides"):
        inputs.find([folder / "no.svs"])


def test_two_slides_that_can_not_be_told_apart_are_refused(folder):
    first, second = slide(folder / "x" / "in" / "a.tif", 1), slide(folder / "y" / "in" / "a.tif", 2)
    with pytest.raises(TableError, match=r"both would have the name 'in_a\.tif'; give a table"):
        inputs.find([first, second])


def test_the_hash_of_a_table_is_kept_with_its_file(folder):
    slide(folder / "a.tif")
    (folder / "table.csv").write_text(f"slide_id,file_name,sha256,md5\na,a.tif,{'A' * 64},\n")
    (found,) = inputs.find([folder / "table.csv"])
    assert found.hashes == (("a.tif", "sha256", "a" * 64),)


def test_pixels_are_not_read_to_find_slides(folder, monkeypatch):
    slide(folder / "a.tif")
    monkeypatch.setattr(np, "asarray", lambda *_: pytest.fail("pixels were read"))
    assert len(inputs.find([folder])) == 1
