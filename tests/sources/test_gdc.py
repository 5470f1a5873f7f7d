"""The slides of the GDC, from a server on loopback and from files of the portal, and slides that are set aside."""

import json
import uuid
from itertools import groupby
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from histocae.errors import TableError
from histocae.sources import slide_source
from histocae.sources.gdc import cohort, portal, query, remote
from support.gdc_server import RELEASE, GdcServer, GdcSlide

METADATA_COLUMNS = [
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
COLUMNS = [*METADATA_COLUMNS, "file_name", "mpp", "file_id", "md5", "size", "state", "access"]


def make_slides(count: int, suffix: str = "01A-01-TS1", **fields: object) -> list[GdcSlide]:
    return [GdcSlide(f"TCGA-AA-{i:04d}-{suffix}", f"{suffix} {i}".encode(), **fields) for i in range(count)]


@pytest.fixture(autouse=True)
def short_time_limits(monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", remote.Patience(5, 0.3, 0.3, 50_000, 0.001, 0.01))


@pytest.fixture
def metadata(project):
    """Run inventory and metadata against a server, and return the table."""

    def run(server: GdcServer, **gdc: object) -> pd.DataFrame:
        configure(project, server, **gdc).make("inventory", "metadata")
        return project.read("data/slides_metadata.csv")

    return run


def configure(workspace, server, **gdc):
    params = {f"data__gdc__{key}": value for key, value in gdc.items()}
    workspace.params(data__source="gdc", data__gdc__url=server.url, **params)
    return workspace


def read_set_aside(project) -> dict[str, str]:
    table = project.read("data/set_aside/metadata.csv")
    assert set(table["stage"]) <= {"metadata"}
    return dict(zip(table["slide_id"], table["reason"], strict=True))


# -- the API


def test_the_table_has_columns_of_the_slide_and_of_its_file(metadata, project):
    percents = {"percent_tumor_cells": 70, "percent_normal_cells": 2.5}
    tumor = GdcSlide("TCGA-AA-0001-01A-01-TS1", b"tumor", percents=percents)
    normal = GdcSlide("TCGA-AA-0002-11A-01-TS1", b"normal")
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
    assert read_set_aside(project) == {}


def test_percentages_are_of_the_slide_and_not_of_others_of_its_sample(metadata):
    top, bottom = (
        GdcSlide(f"TCGA-AA-0001-01A-01-{code}", code.encode(), percents={"percent_tumor_cells": percent})
        for code, percent in (("TS1", 10), ("BS1", 90))
    )
    with GdcServer([top, bottom, *make_slides(1, "11A-01-TS1")]) as server:
        table = metadata(server).set_index("slide_id")
        assert len(json.dumps(server.slides[0].as_hit(server.slides)["cases"]).split("submitter_id")) > 5
    assert table["percent_tumor_cells"].dropna().to_dict() == {top.slide_id: 10, bottom.slide_id: 90}


@pytest.mark.parametrize("missing", [None, "--", "'--", "", "Not Reported"])
def test_words_for_a_missing_value_are_read_as_missing(metadata, missing):
    percents = {"percent_tumor_cells": missing, "percent_normal_cells": "12.5"}
    with GdcServer([GdcSlide("TCGA-AA-0001-01A-01-TS1", b"1", percents=percents)]) as server:
        row = metadata(server).iloc[0]
    assert pd.isna(row["percent_tumor_cells"]) and row["percent_normal_cells"] == 12.5


@pytest.mark.parametrize("page_size", [1, 7, 50])
def test_all_pages_are_read_for_any_page_size(metadata, page_size):
    with GdcServer(make_slides(50), page_size=page_size) as server:
        table = metadata(server)
        # a request that gets no answer in time, on a busy machine, is repeated
        pages = [begin for begin, _ in groupby(body["from"] for body in server.bodies)]
        assert pages == list(range(0, 50, page_size))
    assert table["slide_id"].tolist() == sorted(slide.slide_id for slide in server.slides)


def test_a_server_with_faults_leads_to_the_same_output_files(project):
    all_outputs = []
    for faults in (0.0, 0.4):
        with GdcServer(
            [*make_slides(30), *make_slides(9, "06A-01-TS1")], faults=faults, seed=1, page_size=3
        ) as server:
            configure(project, server).make("inventory", "metadata")
            assert bool(server.fault_counts) == bool(faults)
        all_outputs.append(project.outputs("data"))
        query_file = json.loads(all_outputs[-1].pop("data/gdc/query.json"))
        assert query_file.pop("url") == server.url
        all_outputs[-1]["query"] = json.dumps(query_file).encode()
    assert {"garbage", "shrunk", "status"} <= set(server.fault_counts)
    assert all_outputs[0] == all_outputs[1]


def test_a_list_that_changes_between_two_pages_is_read_again(metadata):
    with GdcServer(make_slides(30), page_size=10) as server:

        def change(path: str) -> None:
            if path == "/files" and server.request_count("/files") == 2:
                del server.slides[3]

        server.on_request = change
        table = metadata(server)
    assert len(table) == 29 and table["slide_id"].nunique() == 29


def test_params_choose_the_sample_types_the_strategy_and_the_project(metadata, project):
    with GdcServer(
        [
            *make_slides(2),
            *make_slides(2, "11A-01-BS1"),
            *make_slides(1, "06A-01-TSA"),
            *make_slides(1, "20A-01-TS1"),
            *make_slides(1, "02A-01-TS1"),
            *make_slides(3, "01Z-00-DX1", strategy="Diagnostic Slide"),
            *make_slides(2, "01B-01-TS1", project="TCGA-STAD"),
        ]
    ) as server:
        table = metadata(server)
        assert set(table["slide_id"].str[-3:]) == {"TS1", "BS1"} and len(table) == 4
        assert read_set_aside(project) == {
            "TCGA-AA-0000-06A-01-TSA": "sample type Metastatic is not compared",
            "TCGA-AA-0000-20A-01-TS1": "sample type Control Analyte is not compared",
            "TCGA-AA-0000-02A-01-TS1": "sample type Recurrent Tumor is not compared",
        }
        assert metadata(server, strategy="Diagnostic Slide")["slide_id"].str.endswith("DX1").all()
        assert metadata(server, project="TCGA-STAD")["slide_id"].str.contains("01B").all()
        assert metadata(server, sample_types=["Solid Tissue Normal"])["slide_id"].str.contains("11A").all()
        assert "not among data.gdc.sample_types" in read_set_aside(project)["TCGA-AA-0000-01A-01-TS1"]


def test_the_query_and_a_manifest_are_written_with_the_table(metadata, project):
    with GdcServer([*make_slides(2), *make_slides(1, "11A-01-TS1")]) as server:
        table = metadata(server)
        query_file = json.loads((project.folder / "data/gdc/query.json").read_text())
        assert query_file["data_release"] == RELEASE and query_file["url"] == server.url and query_file["files"] == 3
        (body,) = server.bodies
        assert query_file["filters"] == body["filters"] and ",".join(query_file["fields"]) == body["fields"]
        values = {part["content"]["field"]: part["content"]["value"] for part in body["filters"]["content"]}
        assert values == {
            "cases.project.project_id": ["TCGA-PAAD"],
            "data_type": ["Slide Image"],
            "experimental_strategy": ["Tissue Slide"],
            "access": ["open"],
        }
    lines = (project.folder / "data/gdc/gdc_manifest.txt").read_text().splitlines()
    assert lines[0].split("\t") == ["id", "filename", "md5", "size", "state"]
    by_name = {slide.name: slide for slide in server.slides}
    assert len(lines) == 4
    for line, file_name in zip(lines[1:], table["file_name"], strict=True):
        slide = by_name[file_name]
        assert line.split("\t") == [slide.file_id, slide.name, slide.md5, str(len(slide.data)), "released"]


def test_a_mirror_without_a_status_can_be_used(metadata, project):
    with GdcServer(make_slides(1)) as server:
        server.has_status = False
        metadata(server)
    assert json.loads((project.folder / "data/gdc/query.json").read_text())["data_release"] is None


def test_a_missing_sample_type_is_read_from_the_barcode(metadata):
    with GdcServer(
        [*make_slides(1, sample_type=None), *make_slides(1, "11A-01-TS1", sample_type="Not Reported")]
    ) as server:
        assert metadata(server)["sample_type"].tolist() == ["Primary Tumor", "Solid Tissue Normal"]


def test_an_incomplete_hit_is_completed_from_the_barcode(metadata):
    without_case = GdcSlide(
        "TCGA-AA-0001-01A-01-TS1", b"1", hit_changes={"cases": None, "associated_entities": [], "state": None}
    )
    with_case_id = GdcSlide(
        "TCGA-AA-0002-11A-01-TS1", b"2", hit_changes={"cases": [{"submitter_id": "TCGA-AA-0002"}, "odd", None]}
    )
    with GdcServer([without_case, with_case_id]) as server:
        table = metadata(server)
    assert table["case_id"].tolist() == ["TCGA-AA-0001", "TCGA-AA-0002"]
    assert table["sample_id"].tolist() == ["TCGA-AA-0001-01A", "TCGA-AA-0002-11A"]
    assert table["slide_id"].tolist() == [without_case.slide_id, with_case_id.slide_id]


def test_the_file_name_decides_which_of_several_slides_a_file_shows(metadata):
    entities = [{"entity_submitter_id": f"TCGA-AA-0001-01A-01-TS{i}", "entity_type": "slide"} for i in (1, 10)]
    slide = GdcSlide("TCGA-AA-0001-01A-01-TS10", b"1", hit_changes={"associated_entities": entities})
    with GdcServer([slide]) as server:
        assert metadata(server)["slide_id"].tolist() == [slide.slide_id]


def test_the_second_file_of_a_slide_is_used_where_the_first_is_invalid(metadata, project):
    invalid = GdcSlide("TCGA-AA-0008-01A-01-TS1", b"a", file_name="a.svs", hit_changes={"md5sum": None})
    valid = GdcSlide("TCGA-AA-0008-01A-01-TS1", b"b", file_name="b.svs")
    with GdcServer([invalid, valid]) as server:
        assert metadata(server)["file_name"].tolist() == ["b.svs"]
    assert "md5" in read_set_aside(project)[invalid.slide_id]


INVALID_HITS = {
    "path out of the folder": ({"file_name": "../x.svs"}, "plain name"),
    "absolute path": ({"file_name": "/etc/passwd"}, "plain name"),
    "hidden file": ({"file_name": ".x.svs"}, "plain name"),
    "line break": ({"file_name": "a\nb.svs"}, "plain name"),
    "no file name": ({"file_name": None}, "plain name"),
    "path as id": ({"file_id": "../../status"}, "no UUID"),
    "no md5": ({"md5sum": None}, "could not be checked"),
    "short md5": ({"md5sum": "abc"}, "could not be checked"),
    "size 0": ({"file_size": 0}, "its size is 0"),
    "no id": ({"file_id": None, "id": None}, "no UUID"),
    "huge size": ({"file_size": 10**30}, "could not be checked"),
    "size as text": ({"file_size": "12"}, "its size is '12'"),
}


@pytest.mark.parametrize("fault", INVALID_HITS)
def test_an_invalid_hit_is_set_aside_with_the_reason(metadata, project, fault):
    changes, reason = INVALID_HITS[fault]
    invalid = GdcSlide("TCGA-AA-0009-01A-01-TS1", b"bad", hit_changes=changes)
    with GdcServer([*make_slides(2), invalid]) as server:
        assert len(metadata(server)) == 2
    assert reason in read_set_aside(project)[invalid.slide_id]


def test_a_percentage_out_of_range_and_a_second_file_are_set_aside(metadata, project):
    out_of_range = GdcSlide("TCGA-AA-0009-01A-01-TS1", b"bad", percents={"percent_tumor_cells": 153})
    same_slide = [GdcSlide("TCGA-AA-0008-01A-01-TS1", name.encode(), file_name=f"{name}.svs") for name in ("b", "a")]
    same_name = [
        GdcSlide(f"TCGA-AA-000{i}-01A-01-TS1", b"1", file_name=name) for i, name in ((6, "x.svs"), (7, "X.svs"))
    ]
    with GdcServer([out_of_range, *same_slide, *same_name]) as server:
        table = metadata(server)
    assert table["file_name"].tolist() == ["x.svs", "a.svs"]
    reasons = read_set_aside(project)
    assert reasons[out_of_range.slide_id] == "percent_tumor_cells is 153, not 0 to 100"
    assert "there already: a.svs" in reasons[same_slide[0].slide_id]
    assert "there already: x.svs" in reasons[same_name[1].slide_id]


def test_a_slide_with_the_bytes_of_another_is_set_aside(metadata, project):
    twins = [GdcSlide(f"TCGA-AA-000{i}-01A-01-TS1", b"equal", file_name=f"{i}.svs") for i in (6, 7)]
    with GdcServer(twins) as server:
        assert metadata(server)["file_name"].tolist() == ["6.svs"]
    assert (
        read_set_aside(project)[twins[1].slide_id]
        == "7.svs: has the same bytes (md5) as 6.svs; one slide can't be two"
    )


@pytest.mark.parametrize("slide_id", ["=CASE2()", "@SUM(1)", "-2+3", "+1", "a\x07"])
def test_an_id_that_a_spreadsheet_would_run_never_stands_in_a_table(metadata, project, slide_id):
    hostile = GdcSlide(slide_id, b"bad", file_name="bad.svs", sample_type="Primary Tumor")
    with GdcServer([*make_slides(2), hostile]) as server:
        assert len(metadata(server)) == 2
        assert repr(slide_id) in read_set_aside(project)
        configure(project, server, slides=[slide.slide_id for slide in make_slides(2)]).make("inventory", "metadata")
    text = (project.folder / "data/set_aside/metadata.csv").read_text(encoding="utf-8")
    assert not any(cell.startswith(tuple("=+-@")) for line in text.splitlines() for cell in line.split("|"))


@pytest.mark.parametrize("key", ["case_id", "sample_id", "disease_type", "sample_type"])
def test_other_texts_of_a_hostile_server_are_checked_too(key):
    row = cohort._row(query.slide(GdcSlide("TCGA-AA-0001-01A-01-TS1", b"1").as_hit([])))
    assert cohort._fault(row) is None
    assert f"its {key} '=1' begins with '='" in cohort._fault(row | {key: "=1"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
HIT_KEYS = ["file_id", "file_name", "md5sum", "file_size", "state", "access", "associated_entities", "cases"]
CASE_KEYS = ["samples", "submitter_id"]


@given(st.dictionaries(st.sampled_from(HIT_KEYS), JSON), st.dictionaries(st.sampled_from(CASE_KEYS), JSON))
def test_any_hit_becomes_a_row_or_a_reason(changes, case_changes):
    valid = GdcSlide("TCGA-AA-0001-01A-01-TS1", b"1").as_hit([])
    for hit in (changes, {**valid, **changes}, {**valid, "cases": [{**valid["cases"][0], **case_changes}]}):
        row = cohort._row(query.slide(hit))
        fault = cohort._fault(row)
        if fault is None:
            assert row["case_id"] and row["sample_type"] and "/" not in row["file_name"]
            pd.DataFrame([row]).to_csv(None, sep="|")


# -- selection by params


def test_caps_draw_slides_of_many_cases_and_the_rarer_sample_type_first(metadata, project):
    normals = make_slides(2, "11A-01-TS1")
    tumors = [slide for code in ("TS1", "BS1", "MS1") for slide in make_slides(6, f"01A-01-{code}")]
    with GdcServer([*normals, *tumors]) as server:
        one_per_case = metadata(server, per_case=1)
        assert one_per_case["case_id"].is_unique and len(one_per_case) == 6
        assert one_per_case["sample_type"].eq("Solid Tissue Normal").sum() == 2
        assert len(read_set_aside(project)) == 14
        assert set(read_set_aside(project).values()) == {"data.gdc.per_case takes 1 of its case"}
        two_per_case = metadata(server, per_case=2)
        assert two_per_case.groupby("case_id").size().eq(2).all()
        type_counts = two_per_case.groupby("case_id")["sample_type"].nunique()
        assert type_counts.to_dict() == {f"TCGA-AA-{i:04d}": 2 if i < 2 else 1 for i in range(6)}
        capped = metadata(server, per_class=4)
        assert capped["sample_type"].value_counts().to_dict() == {"Primary Tumor": 4, "Solid Tissue Normal": 2}
        assert capped.loc[capped["sample_type"] == "Primary Tumor", "case_id"].is_unique
        repeated = metadata(server, per_class=4)
        assert repeated.equals(capped)
        # the removal of a slide that was not drawn changes nothing
        server.slides.remove(next(slide for slide in tumors if slide.slide_id not in set(capped["slide_id"])))
        assert metadata(server, per_class=4).equals(capped)


def test_slides_can_be_listed_and_excluded_by_id(metadata, project):
    with GdcServer(make_slides(5)) as server:
        ids = [slide.slide_id for slide in server.slides]
        assert metadata(server, slides=ids[1:3])["slide_id"].tolist() == ids[1:3]
        assert read_set_aside(project)[ids[0]] == "is not among data.gdc.slides"
        assert metadata(server, without=[ids[0], "TCGA-unknown"])["slide_id"].tolist() == ids[1:]
        configure(project, server, slides=[ids[0], "TCGA-AA-9999-01A-01-TS1"])
        message = project.run("metadata").error
        assert message == "histocae metadata: data.gdc.slides: no such slide was found: TCGA-AA-9999-01A-01-TS1"


# -- errors


def test_an_unknown_project_is_reported(project):
    with GdcServer(make_slides(2)) as server:
        message = configure(project, server, project="TCGA-XXXX").run("metadata").error
    assert "has no file of cases.project.project_id TCGA-XXXX" in message and "data.gdc" in message
    assert not (project.folder / "data/slides_metadata.csv").exists()


def test_an_unreachable_server_leaves_former_outputs_unchanged(project):
    with GdcServer(make_slides(2)) as server:
        configure(project, server, tries=3).make("inventory", "metadata")
    before = project.outputs()
    result = project.run("metadata")
    assert result.error.endswith(f"{server.url}/files: no connection: Connection refused (3 tries)")
    assert project.outputs() == before and not project.leftovers()


def test_a_query_that_the_server_rejects_is_not_repeated(project):
    with GdcServer(make_slides(1)) as server:
        project.params(data__source="gdc", data__gdc__url=f"{server.url}/nowhere")
        message = project.run("metadata").error
        assert "/nowhere/files: status 404" in message
        assert server.request_count("/nowhere/files") == 1


def test_a_selection_without_slides_is_reported_with_the_reasons(project):
    with GdcServer(make_slides(3, "06A-01-TS1")) as server:
        message = configure(project, server).run("metadata").error
    assert "no slide is left of 3; 3 slides: sample type Metastatic is not compared" in message


def test_a_redirect_that_drops_the_filters_is_not_followed(project):
    """After status 301 or 302 a client sends GET without the filters, which would match all files."""
    with GdcServer(make_slides(2)) as target, GdcServer([], redirect_url=target.url) as server:
        message = configure(project, server).run("metadata").error
        assert f"/files redirects to {target.url}; set data.gdc.url to the right address" in message


def test_a_missing_file_of_certificates_is_reported(project, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(project.folder / "missing.pem"))
    project.params(data__source="gdc", data__gdc__url="https://localhost:1", data__gdc__tries=1)
    assert "missing.pem" in project.run("metadata").error


def test_a_server_on_this_machine_is_reached_without_the_proxy(metadata, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with GdcServer(make_slides(2)) as server:
        assert len(metadata(server)) == 2


def test_an_excluded_id_that_matches_no_slide_is_reported(project):
    with GdcServer(make_slides(2)) as server:
        result = configure(project, server, without=["TCGA-typo"]).run("metadata")
    assert result.code == 0 and any("without: no such slide was found: TCGA-typo" in line for line in result.lines)


@pytest.mark.parametrize(
    ("url", "message"),
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
def test_an_unsafe_or_invalid_address_is_refused(project, url, message):
    project.params(data__source="gdc", data__gdc__url=url)
    assert message in project.run("inventory").only_line


@pytest.mark.parametrize(
    "url", ["https://mirror.org/gdc/", "http://[::1]:80", "http://localhost:1", "http://127.0.0.2"]
)
def test_a_valid_address_is_accepted(project, url):
    project.params(data__source="gdc", data__gdc__url=url)
    project.make("inventory")


# -- files of the portal


def slide_table(slides: list[GdcSlide], dotted: bool) -> str:
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
    for slide in slides:
        percent = slide.percents.get("percent_tumor_cells", missing)
        cells = [
            slide.slide_id,
            slide.case_id,
            slide.project,
            slide.sample_id,
            str(percent),
            str(uuid.uuid4()),
            missing,
        ]
        lines.append(cells)
    return "".join("\t".join(line) + "\n" for line in lines)


def manifest(slides: list[GdcSlide]) -> str:
    lines = [f"{slide.file_id}\t{slide.name}\t{slide.md5}\t{len(slide.data)}\treleased\n" for slide in slides]
    return "id\tfilename\tmd5\tsize\tstate\n" + "".join(lines)


PORTAL_SLIDES = [
    GdcSlide("TCGA-AA-0001-01A-01-TS1", b"tumor", percents={"percent_tumor_cells": "70.0"}),
    GdcSlide("TCGA-AA-0002-11A-01-TS1", b"normal"),
    GdcSlide("TCGA-AA-0003-06A-01-TS1", b"else"),
    GdcSlide("TCGA-AA-0001-01Z-00-DX1", b"fixed", strategy="Diagnostic Slide"),
]


def test_with_a_manifest_alone_case_and_sample_type_come_from_barcodes(project):
    other_file = f"{uuid.uuid4()}\tcounts.txt\t{'0' * 32}\t12\treleased\n"
    (project.folder / "manifest.txt").write_text(manifest(PORTAL_SLIDES) + other_file)
    project.params(data__source="gdc", data__gdc__manifest="manifest.txt", data__gdc__url="http://127.0.0.1:1")
    result = project.run("inventory", "metadata")
    assert result.code == 0 and any("1 files are no images of slides" in line for line in result.lines)
    table = project.read("data/slides_metadata.csv")
    assert table["slide_id"].tolist() == [PORTAL_SLIDES[0].slide_id, PORTAL_SLIDES[1].slide_id]
    assert table["case_id"].tolist() == ["TCGA-AA-0001", "TCGA-AA-0002"]
    assert table["sample_type"].tolist() == ["Primary Tumor", "Solid Tissue Normal"]
    assert table["percent_tumor_cells"].isna().all()
    assert read_set_aside(project) == {
        PORTAL_SLIDES[2].slide_id: "sample type Metastatic is not compared",
        PORTAL_SLIDES[3].slide_id: "is a Diagnostic Slide, not a Tissue Slide",
    }
    # the written manifest has the lines of the manifest that was read
    written = (project.folder / "data/gdc/gdc_manifest.txt").read_text()
    assert written == manifest(PORTAL_SLIDES[:2])


@pytest.mark.parametrize("dotted", [False, True])
def test_a_table_with_a_manifest_needs_no_request(project, dotted):
    without_file = GdcSlide("TCGA-AA-0009-01A-01-TS1", b"no file")
    row_without_id = "'--" + "\t'--" * 6 + "\n"
    of_other_project = GdcSlide("TCGA-AA-0008-01A-01-TS1", b"x", project="TCGA-STAD")
    (project.folder / "slide.tsv").write_text(
        slide_table([*PORTAL_SLIDES, without_file, of_other_project], dotted) + row_without_id
    )
    (project.folder / "manifest.txt").write_text(manifest(PORTAL_SLIDES))
    project.params(
        data__source="gdc",
        data__gdc__url="http://127.0.0.1:1",
        data__gdc__manifest="manifest.txt",
        data__gdc__table="slide.tsv",
    )
    project.make("inventory", "metadata")
    table = project.read("data/slides_metadata.csv")
    assert table["percent_tumor_cells"].tolist()[0] == 70 and pd.isna(table["percent_tumor_cells"][1])
    assert len(table) == 2 and read_set_aside(project)[without_file.slide_id] == "has no image among the files"
    assert of_other_project.slide_id not in read_set_aside(project)
    query_file = json.loads((project.folder / "data/gdc/query.json").read_text())
    assert query_file["table"]["file"] == "slide.tsv" and query_file["manifest"]["file"] == "manifest.txt"
    inventory = project.read("data/inventory.csv")["file"].tolist()
    assert inventory == ["(table) slide.tsv", "(table) manifest.txt"]


def test_files_of_a_table_without_a_manifest_are_queried(metadata, project):
    (project.folder / "slide.tsv").write_text(slide_table(PORTAL_SLIDES[:2], True))
    with GdcServer([*PORTAL_SLIDES, *make_slides(3, "01B-01-TS1")]) as server:
        table = metadata(server, table="slide.tsv")
        assert "cases" not in server.bodies[0]["fields"]
    assert table["slide_id"].tolist() == [PORTAL_SLIDES[0].slide_id, PORTAL_SLIDES[1].slide_id]
    assert table["md5"].tolist() == [PORTAL_SLIDES[0].md5, PORTAL_SLIDES[1].md5]
    assert table["percent_tumor_cells"].tolist()[0] == 70


def test_invalid_files_of_the_portal_are_refused_in_one_line(project):
    path = project.folder / "table.tsv"
    project.params(data__source="gdc", data__gdc__table="table.tsv", data__gdc__manifest="table.tsv")
    assert "table.tsv" in project.run("inventory").only_line
    path.write_text("a\tb\n1\t2\n")
    assert "no column 'id'" in project.run("metadata").only_line
    path.write_text("id\tfilename\tmd5\tsize\n1\tx.svs\t2\tmany\n")
    assert "row 2: size is 'many'" in project.run("metadata").only_line
    path.write_text(f"id\tfilename\tmd5\tsize\n1\tx.svs\t2\t{'9' * 5000}\n")
    assert "row 2: size is" in project.run("metadata").only_line
    path.write_text("id\tfilename\tmd5\tsize\n1\tcounts.txt\t2\t3\n")
    project.params(data__source="gdc", data__gdc__manifest="table.tsv")
    assert "there is no image of a slide at all" in project.run("metadata").error
    project.params(data__source="gdc", data__gdc__table="table.tsv", data__gdc__manifest="table.tsv")
    path.write_text(manifest(PORTAL_SLIDES))
    assert "no column slide_submitter_id or slides.submitter_id" in project.run("metadata").only_line
    project.params(data__source="gdc", data__gdc__manifest="table.tsv", data__gdc__table="slide.tsv")
    (project.folder / "slide.tsv").write_text(slide_table(make_slides(1, project="TCGA-STAD"), False))
    assert "no slide of data.gdc.project TCGA-PAAD; it has TCGA-STAD" in project.run("metadata").only_line


def test_a_real_table_of_the_portal_is_read(shared):
    """TCGA-STAD: 1216 slides of 443 cases; the percentage of tumor cells is known for 661 slides."""
    slides = portal.read_slides(shared / "gdc/slide_tcga_stad.tsv", "TCGA-STAD")
    table = pd.DataFrame([cohort._row(slide) for slide in slides])
    assert len(table) == 1216 and table["case_id"].nunique() == 443
    assert table["sample_type"].value_counts().to_dict() == {"Primary Tumor": 1089, "Solid Tissue Normal": 127}
    with_percent = table[table["percent_tumor_cells"].notna()]
    assert with_percent["sample_type"].value_counts().to_dict() == {"Primary Tumor": 644, "Solid Tissue Normal": 17}
    assert with_percent["percent_tumor_cells"].astype(float).between(0, 100).all()
    with pytest.raises(TableError, match="it has TCGA-STAD"):
        portal.read_slides(shared / "gdc/slide_tcga_stad.tsv", "TCGA-PAAD")


def test_the_real_manifest_of_a_release_is_read(shared):
    slides, other_files = portal.read_manifest(shared / "gdc/gdc_manifest_20181003_data_release_13.0_cnv_slides.txt")
    assert (len(slides), other_files) == (36, 506)
    assert [cohort._fault(cohort._row(slide)) for slide in slides] == [None] * 36
    assert all(slide.slide_id.startswith("TCGA-") for slide in slides)


def test_real_names_of_diagnostic_slides_have_case_and_strategy(shared):
    names = pd.read_csv(shared / "gdc/TCGA-PAAD_diagnostic_slides.csv")
    for name, case in zip(names["slide_id"], names["case_id"], strict=True):
        slide = query.slide({"file_name": f"{name}.svs"})
        assert cohort._row(slide)["case_id"] == case
        assert portal.of_strategy([slide], "Diagnostic Slide") == [slide]
        assert portal.of_strategy([slide], "Tissue Slide") == []


def test_real_answers_of_the_api_are_read(shared):
    """Read the answers of the files endpoint that the API's guide shows, with slides and other files."""
    slide_count = 0
    for path in sorted((shared / "gdc/api_responses").glob("*_files.json")):
        answer = json.loads(path.read_text())["data"]
        if "hits" not in answer:
            continue

        class StoredAnswer:
            def json(self, *_, answer=answer):
                return {"data": answer}

        page, total = query._page(StoredAnswer(), {}, ("file_id",), 0)
        assert total == answer["pagination"]["total"] > 900_000
        for hit in page:
            slide = query.slide(hit)
            assert cohort._fault(cohort._row(slide)) is not None  # the guide omits the md5
            if slide.file["file_name"].endswith(".svs"):
                assert cohort._row(slide)["case_id"] == slide.slide_id[:12]
                slide_count += 1
    assert slide_count == 3


def test_the_query_of_the_demo_is_empty(project):
    project.params(data__source="demo", data__demo={"cases": 6, "side_microns": 128.0, "faults": False})
    project.make("inventory", "metadata")
    (path,) = (project.folder / "data/gdc").iterdir()
    assert json.loads(path.read_text()) == {}


def test_the_http_library_is_imported_only_where_it_is_used(monkeypatch):
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
