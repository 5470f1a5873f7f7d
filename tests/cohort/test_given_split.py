"""A split that the user's table gives: cases stay in their parts, and no share is asked for."""

import json

import pandas as pd
import pytest
import yaml

from histocae import paths
from histocae.cohort.split import SPLITS
from histocae.sources import given_split
from support.cohorts import MIXED, write_index
from support.make_data import NORMAL, TUMOR
from support.workspace import ROOT, Workspace

# by case: a benchmark of anomaly detection, with tumor in validation and test only
BENCHMARK = [(NORMAL,)] * 6 + [(NORMAL,), (TUMOR,)] * 3
PARTS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4


def parts_of_cases(project: Workspace) -> dict[str, set[str]]:
    tables = {part: project.read(f"data/splits/{part}.csv") for part in given_split.PARTS}
    return {part: set(table["case_id"].astype(str).str.zfill(3)) for part, table in tables.items()}


def test_the_parts_of_a_table_are_those_of_the_split():
    assert given_split.PARTS == SPLITS


def test_cases_are_in_the_parts_that_the_table_gives_whatever_seed_and_shares(project):
    write_index(project, BENCHMARK, given=PARTS)
    first = project.make("split").outputs("data/splits", "reports")
    assert parts_of_cases(project) == {
        part: {f"{case:03d}" for case, given in enumerate(PARTS) if given == part} for part in set(PARTS)
    }
    project.params(seed=5, split={"validation": 0.4, "test": 0.4, "together": "case"})
    assert project.make("split").outputs("data/splits", "reports") == first


def test_the_report_has_no_shares_asked_for(project):
    write_index(project, BENCHMARK, given=PARTS)
    result = project.run("split")
    summary = json.loads((project.folder / "reports/split.json").read_text(encoding="utf-8"))
    assert summary["given"] is True
    assert set(summary["train"]["sample_types"]) == {NORMAL}
    assert set(summary["validation"]["sample_types"]) == set(summary["test"]["sample_types"]) == {NORMAL, TUMOR}
    for part in given_split.PARTS:
        for counts in summary[part]["sample_types"].values():
            assert counts["share_of_type"].pop("asked") is None
            assert all(0 < share <= 1 for share in counts["share_of_type"].values())
    log = " ".join(result.lines)
    assert "as given" in log and "asked for" not in log and "try another seed" not in log


def test_models_that_need_tumor_in_training_are_named(project):
    models = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["models"]
    kept = {name: models[name] for name in ("all", "tumor", "normal")}
    write_index(project, BENCHMARK, given=PARTS)
    project.params(models=kept, training__balance="patches")
    (warning,) = (line for line in project.run("split").lines if "refused" in line)
    assert f"train has no patches of {TUMOR}: these models will be refused: tumor, normal" in warning
    project.params(models=kept, training__balance="none")
    (warning,) = (line for line in project.run("split").lines if "refused" in line)
    assert warning.endswith("these models will be refused: tumor")
    project.params(models={"normal": models["normal"]}, training__balance="none")
    assert not [line for line in project.run("split").lines if "refused" in line]


@pytest.mark.parametrize("part", given_split.PARTS)
def test_a_part_without_patches_is_refused(project, part):
    write_index(project, BENCHMARK, given=PARTS)
    before = project.make("split").outputs("data/splits", "reports")
    other = "test" if part == "train" else "train"
    write_index(project, BENCHMARK, given=[other if given == part else given for given in PARTS])
    message = project.run("split").only_line
    assert f"no slide to which your table gives split {part!r} has patches" in message
    assert f"give other cases to {part}" in message
    assert project.outputs("data/splits", "reports") == before and not project.leftovers()


def test_slides_without_patches_drop_out(project):
    write_index(project, BENCHMARK, given=PARTS)
    part_of = given_split.read(paths.GIVEN_SPLIT)
    more = part_of | {"without patches": "test"}
    given_split.write(more, pd.Series(list(more)), paths.GIVEN_SPLIT)
    project.make("split")
    assert sum(map(len, parts_of_cases(project).values())) == len(BENCHMARK)


def test_a_slide_without_a_given_part_is_reported(project):
    write_index(project, BENCHMARK, given=PARTS)
    part_of = given_split.read(paths.GIVEN_SPLIT)
    first = next(iter(part_of))
    given_split.write(part_of, pd.Series(list(part_of)[1:]), paths.GIVEN_SPLIT)
    assert f"slide {first!r} has patches and no given split" in project.run("split").only_line


def test_a_site_in_two_parts_is_refused_where_sites_stay_together(project):
    sites = ["AA"] * 6 + ["BB"] * 2 + ["CC"] * 4
    project.params(split__together="site")
    write_index(project, BENCHMARK, sites=sites, given=PARTS)
    project.make("split")
    write_index(project, BENCHMARK, sites=["BB", *sites[1:]], given=PARTS)
    message = project.run("split").only_line
    assert (
        "split.together: site: your table gives site 'BB' to train and, with case 'TCGA-BB-0006', to valid" in message
    )
    assert "set split.together: case" in message
    write_index(project, BENCHMARK, given=PARTS)
    assert "case_id '000' is no barcode; set split.together: case" in project.run("split").only_line
    project.params(split__together="case")
    write_index(project, BENCHMARK, sites=["BB", *sites[1:]], given=PARTS)
    project.make("split")


@pytest.mark.parametrize("command", ["split", "crossvalidate"])
def test_folds_of_a_given_split_are_refused(project, command):
    given = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    write_index(project, MIXED, given=given)
    project.params(crossvalidation__folds=3)
    message = project.run(command).only_line
    assert "crossvalidation.folds: folds would assign the cases anew" in message
    assert "set crossvalidation.folds: null, or remove the column" in message
    assert not list(project.folder.glob("data/splits/*")) and not project.leftovers()
