"""Which slides the GDC has: a real server on loopback, the portal's files, and what is set aside."""

import json
import uuid
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from histocae.errors import TableError
from histocae.sources import slide_source
from histocae.sources.gdc import cohort, portal, query, remote
from support.gdc_server import RELEASE, GdcServer, Remote

SEED_COLUMNS = [
    "case_id",
    "sample_id",
    "slide_id",
    "disease_type",
    "sample_type",
    "percent_normal_cells",
    "percent_stromal_cells",
    "percent_tumor_cells",
    "percent_tumor_nuclei",
]
COLUMNS = [*SEED_COLUMNS, "file_name", "mpp", "file_id", "md5", "size", "state", "access"]


def slides(count: int, kind: str = "01A-01-TS1", **more: object) -> list[Remote]:
    return [Remote(f"TCGA-AA-{i:04d}-{kind}", f"{kind} {i}".encode(), **more) for i in range(count)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", remote.Patience(5, 0.3, 0.3, 50_000, 0.001, 0.01))


@pytest.fixture
def metadata(project):
    """Run inventory and metadata against a server, and give the table."""

    def run(server: GdcServer, **gdc: object) -> pd.DataFrame:
        ask(project, server, **gdc).make("inventory", "metadata")
        return project.read("data/slides_metadata.csv")

    return run


def ask(here, server, **gdc):
    gdc = {f"data__gdc__{key}": value for key, value in gdc.items()}
    here.params(data__source="gdc", data__gdc__url=server.url, **gdc)
    return here


def aside(project) -> dict[str, str]:
    table = project.read("data/set_aside/metadata.csv")
    assert set(table["stage"]) <= {"metadata"}
    return dict(zip(table["slide_id"], table["reason"], strict=True))


# -- the API


def test_the_table_has_the_columns_of_the_seeds_and_those_of_the_files(metadata, project):
    percents = {"percent_tumor_cells": 70, "percent_normal_cells": 2.5}
    tumor = Remote("TCGA-AA-0001-01A-01-TS1", b"tumor", percents=percents)
    normal = Remote("TCGA-AA-0002-11A-01-TS1", b"normal")
    with GdcServer([normal, tumor]) as server:
        table = metadata(server)
    assert list(table.columns) == COLUMNS
    assert table["slide_id"].tolist() == [tumor.slide_id, normal.slide_id]
    row = table.iloc[0]
    assert row[:7].tolist() == [
        "TCGA-AA-0001",
        "TCGA-AA-0001-01A",
        tumor.slide_id,
        "Ductal and Lobular Neoplasms",
        "Primary Tumor",
        2.5,
        row["percent_stromal_cells"],
    ]
    assert row["percent_tumor_cells"] == 70 and table["percent_tumor_cells"].dtype == float
    assert row[["file_name", "file_id", "md5", "size", "state", "access"]].tolist() == [
        tumor.name,
        tumor.file_id,
        tumor.md5,
        5,
        "released",
        "open",
    ]
    assert table["size"].dtype == int
    assert table["sample_type"].tolist() == ["Primary Tumor", "Solid Tissue Normal"]
    assert aside(project) == {}


def test_percentages_are_those_of_the_slide_and_not_of_its_neighbors(metadata):
    one, other = (
        Remote(f"TCGA-AA-0001-01A-01-{code}", code.encode(), percents={"percent_tumor_cells": percent})
        for code, percent in (("TS1", 10), ("BS1", 90))
    )
    with GdcServer([one, other, *slides(1, "11A-01-TS1")]) as server:
        table = metadata(server).set_index("slide_id")
        assert len(json.dumps(server.slides[0].as_hit(server.slides)["cases"]).split("submitter_id")) > 5
    assert table["percent_tumor_cells"].dropna().to_dict() == {one.slide_id: 10, other.slide_id: 90}


@pytest.mark.parametrize("missing", [None, "--", "'--", "", "Not Reported"])
def test_missing_values_are_missing(metadata, missing):
    percents = {"percent_tumor_cells": missing, "percent_normal_cells": "12.5"}
    with GdcServer([Remote("TCGA-AA-0001-01A-01-TS1", b"1", percents=percents)]) as server:
        row = metadata(server).iloc[0]
    assert pd.isna(row["percent_tumor_cells"]) and row["percent_normal_cells"] == 12.5


@pytest.mark.parametrize("page", [1, 7, 50])
def test_pages_are_read_to_the_end_whatever_their_size(metadata, page):
    with GdcServer(slides(50), page=page) as server:
        table = metadata(server)
        assert server.request_count("/files") == -(-50 // page)
    assert table["slide_id"].tolist() == sorted(one.slide_id for one in server.slides)


def test_a_server_with_faults_gives_the_same_bytes(project):
    found = []
    for faults in (0.0, 0.4):
        with GdcServer([*slides(30), *slides(9, "06A-01-TS1")], faults=faults, seed=1, page=3) as server:
            ask(project, server).make("inventory", "metadata")
            assert bool(server.made) == bool(faults)
        found.append(project.outputs("data"))
        query_file = json.loads(found[-1].pop("data/gdc/query.json"))
        assert query_file.pop("url") == server.url
        found[-1]["asked"] = json.dumps(query_file).encode()
    assert {"garbage", "shrunk", "status"} <= set(server.made)
    assert found[0] == found[1]


def test_a_list_that_changes_while_it_is_read_is_read_again(metadata):
    with GdcServer(slides(30), page=10) as server:

        def change(path: str) -> None:
            if path == "/files" and server.request_count("/files") == 2:
                del server.slides[3]

        server.on_request = change
        table = metadata(server)
    assert len(table) == 29 and table["slide_id"].nunique() == 29


def test_other_sample_types_and_strategies(metadata, project):
    with GdcServer(
        [
            *slides(2),
            *slides(2, "11A-01-BS1"),
            *slides(1, "06A-01-TSA"),
            *slides(1, "20A-01-TS1"),
            *slides(1, "02A-01-TS1"),
            *slides(3, "01Z-00-DX1", strategy="Diagnostic Slide"),
            *slides(2, "01B-01-TS1", project="TCGA-STAD"),
        ]
    ) as server:
        table = metadata(server)
        assert set(table["slide_id"].str[-3:]) == {"TS1", "BS1"} and len(table) == 4
        assert aside(project) == {
            "TCGA-AA-0000-06A-01-TSA": "sample type Metastatic is not compared",
            "TCGA-AA-0000-20A-01-TS1": "sample type Control Analyte is not compared",
            "TCGA-AA-0000-02A-01-TS1": "sample type Recurrent Tumor is not compared",
        }
        assert metadata(server, strategy="Diagnostic Slide")["slide_id"].str.endswith("DX1").all()
        assert metadata(server, project="TCGA-STAD")["slide_id"].str.contains("01B").all()
        assert metadata(server, sample_types=["Solid Tissue Normal"])["slide_id"].str.contains("11A").all()
        assert "not among data.gdc.sample_types" in aside(project)["TCGA-AA-0000-01A-01-TS1"]


def test_what_was_asked_and_a_manifest_lie_beside_the_table(metadata, project):
    with GdcServer([*slides(2), *slides(1, "11A-01-TS1")]) as server:
        table = metadata(server)
        asked = json.loads((project.folder / "data/gdc/query.json").read_text())
        assert asked["data_release"] == RELEASE and asked["url"] == server.url and asked["files"] == 3
        (body,) = server.bodies
        assert asked["filters"] == body["filters"] and ",".join(asked["fields"]) == body["fields"]
        values = {one["content"]["field"]: one["content"]["value"] for one in body["filters"]["content"]}
        assert values == {
            "cases.project.project_id": ["TCGA-PAAD"],
            "data_type": ["Slide Image"],
            "experimental_strategy": ["Tissue Slide"],
            "access": ["open"],
        }
    lines = (project.folder / "data/gdc/gdc_manifest.txt").read_text().splitlines()
    assert lines[0].split("\t") == ["id", "filename", "md5", "size", "state"]
    by_name = {one.name: one for one in server.slides}
    assert len(lines) == 4
    for line, file_name in zip(lines[1:], table["file_name"], strict=True):
        one = by_name[file_name]
        assert line.split("\t") == [one.file_id, one.name, one.md5, str(len(one.data)), "released"]


def test_a_mirror_without_a_status_will_do(metadata, project):
    with GdcServer(slides(1)) as server:
        server.status = False
        metadata(server)
    assert json.loads((project.folder / "data/gdc/query.json").read_text())["data_release"] is None


def test_a_sample_type_that_is_not_told_is_read_from_the_barcode(metadata):
    with GdcServer([*slides(1, sample_type=None), *slides(1, "11A-01-TS1", sample_type="Not Reported")]) as server:
        assert metadata(server)["sample_type"].tolist() == ["Primary Tumor", "Solid Tissue Normal"]


def test_a_hit_that_tells_less_than_usual(metadata):
    bare = Remote("TCGA-AA-0001-01A-01-TS1", b"1", hit={"cases": None, "associated_entities": [], "state": None})
    half = Remote("TCGA-AA-0002-11A-01-TS1", b"2", hit={"cases": [{"submitter_id": "TCGA-AA-0002"}, "odd", None]})
    with GdcServer([bare, half]) as server:
        table = metadata(server)
    assert table["case_id"].tolist() == ["TCGA-AA-0001", "TCGA-AA-0002"]
    assert table["sample_id"].tolist() == ["TCGA-AA-0001-01A", "TCGA-AA-0002-11A"]
    assert table["slide_id"].tolist() == [bare.slide_id, half.slide_id]


def test_the_files_name_tells_which_of_several_slides_it_shows(metadata):
    entities = [{"entity_submitter_id": f"TCGA-AA-0001-01A-01-TS{i}", "entity_type": "slide"} for i in (1, 10)]
    one = Remote("TCGA-AA-0001-01A-01-TS10", b"1", hit={"associated_entities": entities})
    with GdcServer([one]) as server:
        assert metadata(server)["slide_id"].tolist() == [one.slide_id]


def test_a_slide_whose_first_file_is_bad_has_its_second(metadata, project):
    bad = Remote("TCGA-AA-0008-01A-01-TS1", b"a", file_name="a.svs", hit={"md5sum": None})
    good = Remote("TCGA-AA-0008-01A-01-TS1", b"b", file_name="b.svs")
    with GdcServer([bad, good]) as server:
        assert metadata(server)["file_name"].tolist() == ["b.svs"]
    assert "md5" in aside(project)[bad.slide_id]


BAD = {
    "leads out": ({"file_name": "../x.svs"}, "plain name"),
    "a path": ({"file_name": "/etc/passwd"}, "plain name"),
    "hidden": ({"file_name": ".x.svs"}, "plain name"),
    "a break": ({"file_name": "a\nb.svs"}, "plain name"),
    "no name": ({"file_name": None}, "plain name"),
    "id": ({"file_id": "../../status"}, "no UUID"),
    "no md5": ({"md5sum": None}, "could not be checked"),
    "short md5": ({"md5sum": "abc"}, "could not be checked"),
    "empty": ({"file_size": 0}, "its size is 0"),
    "no id": ({"file_id": None, "id": None}, "no UUID"),
    "size without end": ({"file_size": 10**30}, "could not be checked"),
    "size as text": ({"file_size": "12"}, "its size is '12'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_can_not_be_used_is_set_aside(metadata, project, name):
    changed, reason = BAD[name]
    bad = Remote("TCGA-AA-0009-01A-01-TS1", b"bad", hit=changed)
    with GdcServer([*slides(2), bad]) as server:
        assert len(metadata(server)) == 2
    assert reason in aside(project)[bad.slide_id]


def test_a_percentage_out_of_range_and_a_second_file_are_set_aside(metadata, project):
    odd = Remote("TCGA-AA-0009-01A-01-TS1", b"bad", percents={"percent_tumor_cells": 153})
    twins = [Remote("TCGA-AA-0008-01A-01-TS1", name.encode(), file_name=f"{name}.svs") for name in ("b", "a")]
    clash = [Remote(f"TCGA-AA-000{i}-01A-01-TS1", b"1", file_name=name) for i, name in ((6, "x.svs"), (7, "X.svs"))]
    with GdcServer([odd, *twins, *clash]) as server:
        table = metadata(server)
    assert table["file_name"].tolist() == ["x.svs", "a.svs"]
    told = aside(project)
    assert told[odd.slide_id] == "percent_tumor_cells is 153, not 0 to 100"
    assert "there already: a.svs" in told[twins[0].slide_id] and "there already: x.svs" in told[clash[1].slide_id]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["file_id", "file_name", "md5sum", "file_size", "state", "access", "associated_entities", "cases"]


IN_CASE = ["samples", "submitter_id"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.dictionaries(st.sampled_from(IN_CASE), JSON))
def test_any_answer_is_a_row_or_a_reason(hit, case):
    good = Remote("TCGA-AA-0001-01A-01-TS1", b"1").as_hit([])
    for one in (hit, {**good, **hit}, {**good, "cases": [{**good["cases"][0], **case}]}):
        row = cohort._row(query.slide(one))
        fault = cohort._fault(row)
        if fault is None:
            assert row["case_id"] and row["sample_type"] and "/" not in row["file_name"]
            pd.DataFrame([row]).to_csv(None, sep="|")


# -- what the user chooses


def test_caps_take_by_lot_many_cases_and_the_rarer_type(metadata, project):
    normals = slides(2, "11A-01-TS1")
    tumors = [one for code in ("TS1", "BS1", "MS1") for one in slides(6, f"01A-01-{code}")]
    with GdcServer([*normals, *tumors]) as server:
        one_each = metadata(server, per_case=1)
        assert one_each["case_id"].is_unique and len(one_each) == 6
        assert one_each["sample_type"].eq("Solid Tissue Normal").sum() == 2
        assert len(aside(project)) == 14
        assert set(aside(project).values()) == {"data.gdc.per_case takes 1 of its case"}
        two_each = metadata(server, per_case=2)
        assert two_each.groupby("case_id").size().eq(2).all()
        both = two_each.groupby("case_id")["sample_type"].nunique()
        assert both.to_dict() == {f"TCGA-AA-{i:04d}": 2 if i < 2 else 1 for i in range(6)}
        capped = metadata(server, per_class=4)
        assert capped["sample_type"].value_counts().to_dict() == {"Primary Tumor": 4, "Solid Tissue Normal": 2}
        assert capped.loc[capped["sample_type"] == "Primary Tumor", "case_id"].is_unique
        again = metadata(server, per_class=4)
        assert again.equals(capped)
        # a slide that was not drawn changes nothing by leaving
        server.slides.remove(next(one for one in tumors if one.slide_id not in set(capped["slide_id"])))
        assert metadata(server, per_class=4).equals(capped)


def test_lists_of_slides(metadata, project):
    with GdcServer(slides(5)) as server:
        ids = [one.slide_id for one in server.slides]
        assert metadata(server, slides=ids[1:3])["slide_id"].tolist() == ids[1:3]
        assert aside(project)[ids[0]] == "is not among data.gdc.slides"
        assert metadata(server, without=[ids[0], "TCGA-not-there"])["slide_id"].tolist() == ids[1:]
        ask(project, server, slides=[ids[0], "TCGA-AA-9999-01A-01-TS1"])
        told = project.run("metadata").error
        assert told == "histocae metadata: data.gdc.slides: no such slide was found: TCGA-AA-9999-01A-01-TS1"


# -- what goes wrong


def test_a_project_that_is_not_there(project):
    with GdcServer(slides(2)) as server:
        told = ask(project, server, project="TCGA-XXXX").run("metadata").error
    assert "has no file of cases.project.project_id TCGA-XXXX" in told and "data.gdc" in told
    assert not (project.folder / "data/slides_metadata.csv").exists()


def test_a_server_that_is_away_leaves_what_was_there(project):
    with GdcServer(slides(2)) as server:
        ask(project, server, tries=3).make("inventory", "metadata")
    before = project.outputs()
    result = project.run("metadata")
    assert result.error.endswith(f"{server.url}/files: no connection: Connection refused (3 tries)")
    assert project.outputs() == before and not project.leftovers()


def test_a_question_that_is_not_understood_is_asked_once(project):
    with GdcServer(slides(1)) as server:
        project.params(data__source="gdc", data__gdc__url=f"{server.url}/nowhere")
        told = project.run("metadata").error
        assert "/nowhere/files: status 404" in told
        assert server.request_count("/nowhere/files") == 1


def test_nothing_left_says_why(project):
    with GdcServer(slides(3, "06A-01-TS1")) as server:
        told = ask(project, server).run("metadata").error
    assert "no slide is left of 3; 3 slides: sample type Metastatic is not compared" in told


def test_a_redirect_that_changes_the_question_is_not_followed(project):
    """Of 301 and 302 a client makes a GET without the filters, which would find all files there are."""
    with GdcServer(slides(2)) as real, GdcServer([], elsewhere=real.url) as moved:
        told = ask(project, moved).run("metadata").error
        assert f"/files redirects to {real.url}; set data.gdc.url to the right address" in told


def test_certificates_that_are_not_there(project, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(project.folder / "none.pem"))
    project.params(data__source="gdc", data__gdc__url="https://localhost:1", data__gdc__tries=1)
    assert "none.pem" in project.run("metadata").error


def test_no_proxy_stands_between_this_machine_and_itself(metadata, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with GdcServer(slides(2)) as server:
        assert len(metadata(server)) == 2


def test_exclusions_that_match_nothing_are_told(project):
    with GdcServer(slides(2)) as server:
        result = ask(project, server, without=["TCGA-typo"]).run("metadata")
    assert result.code == 0 and any("without: no such slide was found: TCGA-typo" in line for line in result.lines)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://api..gdc.cancer.gov", "begins with https://"),
        ("http://api.gdc.cancer.gov", "plain http is for this machine itself"),
        ("http://localhost.evil.org", "plain http is for this machine itself"),
        ("http://127.0.0.1.evil.org/", "plain http is for this machine itself"),
        ("https://me:secret@api.gdc.cancer.gov", "without a user and password"),
        ("ftp://api.gdc.cancer.gov", "begins with https://"),
        ("api.gdc.cancer.gov", "begins with https://"),
        ("https://api.gdc.cancer.gov/?x=1", "without ? and #"),
        ("https://api.gdc.cancer.gov:port", "no address"),
    ],
)
def test_addresses_that_are_refused(project, url, told):
    project.params(data__source="gdc", data__gdc__url=url)
    assert told in project.run("inventory").only_line


@pytest.mark.parametrize(
    "url", ["https://mirror.org/gdc/", "http://[::1]:80", "http://localhost:1", "http://127.0.0.2"]
)
def test_addresses_that_are_taken(project, url):
    project.params(data__source="gdc", data__gdc__url=url)
    project.make("inventory")


# -- files of the portal


def slide_table(rows: list[Remote], dotted: bool) -> str:
    names = ["slide_submitter_id", "case_submitter_id", "project_id", "sample_submitter_id", "percent_tumor_cells"]
    if dotted:
        names = [
            "slides.submitter_id",
            "cases.submitter_id",
            "project.project_id",
            "samples.submitter_id",
            "slides.percent_tumor_cells",
        ]
    missing = "'--" if dotted else "--"
    lines = [[*names, "slides.slide_id" if dotted else "slide_id", "cases.case_id" if dotted else "case_id"]]
    for one in rows:
        percent = one.percents.get("percent_tumor_cells", missing)
        cells = [one.slide_id, one.case_id, one.project, one.sample_id, str(percent), str(uuid.uuid4()), missing]
        lines.append(cells)
    return "".join("\t".join(line) + "\n" for line in lines)


def manifest(rows: list[Remote]) -> str:
    lines = [f"{one.file_id}\t{one.name}\t{one.md5}\t{len(one.data)}\treleased\n" for one in rows]
    return "id\tfilename\tmd5\tsize\tstate\n" + "".join(lines)


PORTAL = [
    Remote("TCGA-AA-0001-01A-01-TS1", b"tumor", percents={"percent_tumor_cells": "70.0"}),
    Remote("TCGA-AA-0002-11A-01-TS1", b"normal"),
    Remote("TCGA-AA-0003-06A-01-TS1", b"else"),
    Remote("TCGA-AA-0001-01Z-00-DX1", b"fixed", strategy="Diagnostic Slide"),
]


def test_a_manifest_alone_tells_what_the_barcodes_say(project):
    extra = f"{uuid.uuid4()}\tcounts.txt\t{'0' * 32}\t12\treleased\n"
    (project.folder / "manifest.txt").write_text(manifest(PORTAL) + extra)
    project.params(data__source="gdc", data__gdc__manifest="manifest.txt", data__gdc__url="http://127.0.0.1:1")
    result = project.run("inventory", "metadata")
    assert result.code == 0 and any("1 files are no images of slides" in line for line in result.lines)
    table = project.read("data/slides_metadata.csv")
    assert table["slide_id"].tolist() == [PORTAL[0].slide_id, PORTAL[1].slide_id]
    assert table["case_id"].tolist() == ["TCGA-AA-0001", "TCGA-AA-0002"]
    assert table["sample_type"].tolist() == ["Primary Tumor", "Solid Tissue Normal"]
    assert table["percent_tumor_cells"].isna().all()
    assert aside(project) == {
        PORTAL[2].slide_id: "sample type Metastatic is not compared",
        PORTAL[3].slide_id: "is a Diagnostic Slide, not a Tissue Slide",
    }
    # what is written is what was read, and is read again
    written = (project.folder / "data/gdc/gdc_manifest.txt").read_text()
    assert written == manifest(PORTAL[:2])


@pytest.mark.parametrize("dotted", [False, True])
def test_a_table_with_a_manifest_asks_nobody(project, dotted):
    more = Remote("TCGA-AA-0009-01A-01-TS1", b"no file")
    nameless = "'--" + "\t'--" * 6 + "\n"
    foreign = Remote("TCGA-AA-0008-01A-01-TS1", b"x", project="TCGA-STAD")
    (project.folder / "slide.tsv").write_text(slide_table([*PORTAL, more, foreign], dotted) + nameless)
    (project.folder / "manifest.txt").write_text(manifest(PORTAL))
    project.params(
        data__source="gdc",
        data__gdc__url="http://127.0.0.1:1",
        data__gdc__manifest="manifest.txt",
        data__gdc__table="slide.tsv",
    )
    project.make("inventory", "metadata")
    table = project.read("data/slides_metadata.csv")
    assert table["percent_tumor_cells"].tolist()[0] == 70 and pd.isna(table["percent_tumor_cells"][1])
    assert len(table) == 2 and aside(project)[more.slide_id] == "has no image among the files"
    assert foreign.slide_id not in aside(project)
    asked = json.loads((project.folder / "data/gdc/query.json").read_text())
    assert asked["table"]["file"] == "slide.tsv" and asked["manifest"]["file"] == "manifest.txt"
    inventory = project.read("data/inventory.csv")["file"].tolist()
    assert inventory == ["(table) slide.tsv", "(table) manifest.txt"]


def test_a_table_alone_gets_its_files_from_the_api(metadata, project):
    (project.folder / "slide.tsv").write_text(slide_table(PORTAL[:2], True))
    with GdcServer([*PORTAL, *slides(3, "01B-01-TS1")]) as server:
        table = metadata(server, table="slide.tsv")
        assert "cases" not in server.bodies[0]["fields"]
    assert table["slide_id"].tolist() == [PORTAL[0].slide_id, PORTAL[1].slide_id]
    assert table["md5"].tolist() == [PORTAL[0].md5, PORTAL[1].md5]
    assert table["percent_tumor_cells"].tolist()[0] == 70


def test_tables_of_another_kind_are_refused_in_one_line(project):
    place = project.folder / "table.tsv"
    project.params(data__source="gdc", data__gdc__table="table.tsv", data__gdc__manifest="table.tsv")
    assert "table.tsv" in project.run("inventory").only_line
    place.write_text("a\tb\n1\t2\n")
    assert "no column 'id'" in project.run("metadata").only_line
    place.write_text("id\tfilename\tmd5\tsize\n1\tx.svs\t2\tmany\n")
    assert "row 2: size is 'many'" in project.run("metadata").only_line
    place.write_text(f"id\tfilename\tmd5\tsize\n1\tx.svs\t2\t{'9' * 5000}\n")
    assert "row 2: size is" in project.run("metadata").only_line
    place.write_text("id\tfilename\tmd5\tsize\n1\tcounts.txt\t2\t3\n")
    project.params(data__source="gdc", data__gdc__manifest="table.tsv")
    assert "there is no image of a slide at all" in project.run("metadata").error
    project.params(data__source="gdc", data__gdc__table="table.tsv", data__gdc__manifest="table.tsv")
    place.write_text(manifest(PORTAL))
    assert "no column slide_submitter_id or slides.submitter_id" in project.run("metadata").only_line
    project.params(data__source="gdc", data__gdc__manifest="table.tsv", data__gdc__table="slide.tsv")
    (project.folder / "slide.tsv").write_text(slide_table(slides(1, project="TCGA-STAD"), False))
    assert "no slide of data.gdc.project TCGA-PAAD; it has TCGA-STAD" in project.run("metadata").only_line


def test_the_real_table_of_a_portal(shared):
    """TCGA-STAD: 1216 slides of 443 cases, tumor cells told of 661."""
    found = [cohort._row(one) for one in portal.read_slides(shared / "gdc/slide_tcga_stad.tsv", "TCGA-STAD")]
    table = pd.DataFrame(found)
    assert len(table) == 1216 and table["case_id"].nunique() == 443
    assert table["sample_type"].value_counts().to_dict() == {"Primary Tumor": 1089, "Solid Tissue Normal": 127}
    told = table[table["percent_tumor_cells"].notna()]
    assert told["sample_type"].value_counts().to_dict() == {"Primary Tumor": 644, "Solid Tissue Normal": 17}
    assert told["percent_tumor_cells"].astype(float).between(0, 100).all()
    with pytest.raises(TableError, match="it has TCGA-STAD"):
        portal.read_slides(shared / "gdc/slide_tcga_stad.tsv", "TCGA-PAAD")


def test_the_real_manifest_of_a_release(shared):
    slides, others = portal.read_manifest(shared / "gdc/gdc_manifest_20181003_data_release_13.0_cnv_slides.txt")
    assert (len(slides), others) == (36, 506)
    assert [cohort._fault(cohort._row(one)) for one in slides] == [None] * 36
    assert all(one.slide_id.startswith("TCGA-") for one in slides)


def test_real_names_of_diagnostic_slides(shared):
    names = pd.read_csv(shared / "gdc/TCGA-PAAD_diagnostic_slides.csv")
    for name, case in zip(names["slide_id"], names["case_id"], strict=True):
        one = query.slide({"file_name": f"{name}.svs"})
        assert cohort._row(one)["case_id"] == case
        assert portal.of_strategy([one], "Diagnostic Slide") == [one]
        assert portal.of_strategy([one], "Tissue Slide") == []


def test_real_answers_of_the_api_have_the_form_that_is_read(shared):
    """Answers of the files endpoint as its guide shows them, slides and other files."""
    seen = 0
    for path in sorted((shared / "gdc/api_responses").glob("*_files.json")):
        answer = json.loads(path.read_text())["data"]
        if "hits" not in answer:
            continue

        class Canned:
            def json(self, *_, answer=answer):
                return {"data": answer}

        page, total = query._page(Canned(), {}, ("file_id",), 0)
        assert total == answer["pagination"]["total"] > 900_000
        for hit in page:
            slide = query.slide(hit)
            assert cohort._fault(cohort._row(slide)) is not None  # the guide abridges: no md5
            if slide.file["file_name"].endswith(".svs"):
                assert cohort._row(slide)["case_id"] == slide.slide_id[:12]
                seen += 1
    assert seen == 3


def test_demo_asks_nothing(project):
    project.params(data__source="demo", data__demo={"cases": 6, "side_microns": 128.0})
    project.make("inventory", "metadata")
    (only,) = (project.folder / "data/gdc").iterdir()
    assert json.loads(only.read_text()) == {}


def test_sources_do_not_load_http_where_it_is_not_used(monkeypatch):
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    assert values["data"]["source"] == "demo"
    import subprocess
    import sys

    code = (
        "import sys, histocae.sources.slide_source, histocae.stages.slides\n"
        "print([m for m in sys.modules if m == 'requests'])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert slide_source.Source.__dataclass_fields__["server"].default is None
