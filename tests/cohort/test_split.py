"""Cases into train, validation and test: whole cases, each class everywhere, seeded."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from histocae import paths
from histocae.cohort.balance import read_rows_for_model, read_split, rows_for_model, select
from histocae.cohort.split import SPLITS, check_apart, folds, split_cases, summarize_sites
from histocae.errors import DataError
from histocae.files import read_table, write_table
from histocae.identifiers import site_of
from histocae.sources.tables import SEED_COLUMNS
from support.cohorts import MIXED, at_sites, rows_of, write_index
from support.make_data import NORMAL, TUMOR
from support.workspace import Workspace

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def splits(project: Workspace) -> dict[str, pd.DataFrame]:
    return {
        name: pd.read_csv(f"data/splits/{name}.csv", sep="|", dtype={"case_id": str, "slide_id": str})
        for name in SPLITS
    }


def test_every_patch_lands_once_and_no_case_lands_twice(project):
    write_index(project, MIXED)
    project.make("split")
    tables = splits(project)
    together = pd.concat(tables.values())
    assert len(together) == 25 * 2 * 5 and not together.duplicated(["slide_id", "position"]).any()
    for column in ("case_id", "slide_id", "shard"):
        for one in SPLITS:
            for other in set(SPLITS) - {one}:
                assert not set(tables[one][column]) & set(tables[other][column])


def test_neighbours_on_a_slide_never_land_in_two_splits(project):
    # the seeds drew a random fifth of the patches for validation
    write_index(project, MIXED, patches=20)
    project.make("split")
    where = pd.concat(table.assign(split=name) for name, table in splits(project).items())
    where = where.sort_values(["slide_id", "row"])
    for _, slide in where.groupby("slide_id"):
        assert all(one == other for one, other in pairwise(slide["split"]))
    assert where.groupby("case_id")["split"].nunique().max() == 1


def test_the_seeds_columns_come_first_then_the_place_in_the_store(project):
    write_index(project, MIXED)
    project.make("split")
    for table in splits(project).values():
        assert tuple(table.columns[:9]) == SEED_COLUMNS
        place = {"shard", "position", "file", "row", "column", "x", "y", "mpp", "tissue_share"}
        assert set(table.columns[9:]) == place
        assert (table["disease_type"] == "Ductal|x").all() and (table["percent_tumor_cells"] == 50).all()
    head = (project.folder / "data/splits/train.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("case_id|sample_id|slide_id|disease_type|sample_type|percent_normal_cells|")


def test_class_shares_are_reported(project):
    write_index(project, MIXED)
    result = project.run("split")
    summary = json.loads((project.folder / "reports/split.json").read_text(encoding="utf-8"))
    for name, table in splits(project).items():
        told = summary[name]
        assert (told["cases"], told["patches"]) == (table["case_id"].nunique(), len(table))
        assert sum(one["share_of_patches"] for one in told["sample_types"].values()) == pytest.approx(1, abs=1e-5)
        for kind, rows in table.groupby("sample_type"):
            assert told["sample_types"][kind]["patches"] == len(rows)
            assert told["sample_types"][kind]["share_of_patches"] == pytest.approx(len(rows) / len(table), abs=1e-5)
        assert any(f"{name}: " in line and "Primary Tumor" in line and "%" in line for line in result.lines)


def test_the_seed_decides_and_nothing_else(project):
    write_index(project, MIXED)
    first = project.make("split").outputs("data/splits", "reports")
    assert project.make("split").outputs("data/splits", "reports") == first
    project.params(seed=99)
    assert project.make("split").outputs("data/splits") != {k: v for k, v in first.items() if "splits" in k}


@pytest.mark.parametrize("kind", [TUMOR, NORMAL])
def test_one_class_alone_is_split(project, kind):
    write_index(project, [(kind,)] * 5)
    project.make("split")
    assert {name: table["case_id"].nunique() for name, table in splits(project).items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }


def test_one_class_is_refused_where_both_are_needed():
    table = rows_of([(TUMOR,)] * 5)
    assert len(select(table, "all")) == 5
    for cohort in ("tumor", "normal"):
        with pytest.raises(DataError, match=f"cohort {cohort}.*no patches of {NORMAL}"):
            select(table, cohort)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([(TUMOR,)] * 2, "Primary Tumor: 2 cases"),
        ([(TUMOR,)] * 9 + [(NORMAL,)] * 2, "Solid Tissue Normal: 2 cases"),
        ([(TUMOR,)] * 9 + [(TUMOR, NORMAL)], "Solid Tissue Normal: 1 case,"),
    ],
)
def test_fewer_cases_than_splits_are_refused(project, kinds, said):
    write_index(project, [(TUMOR,)] * 5)
    before = project.make("split").outputs()
    write_index(project, kinds)
    cut_before = {k: v for k, v in before.items() if "splits" in k or "reports" in k}
    told = project.run("split").only_line
    assert said in told and "at least 3" in told
    assert project.outputs("data/splits", "reports") == cut_before and not project.leftovers()


def test_overlap_is_an_error():
    table = rows_of([(TUMOR,), (TUMOR,)]).assign(shard=["a", "b"])
    check_apart({"train": table[:1], "test": table[1:]})
    for column in ("case_id", "slide_id", "shard"):
        other = table[1:].assign(**{column: table[column][0]})
        with pytest.raises(DataError, match=f"{column} .* is in train and in test"):
            check_apart({"train": table[:1], "test": other})


cases = st.lists(st.sampled_from([(TUMOR,), (NORMAL,), (TUMOR, NORMAL)]), min_size=3, max_size=60)
parts = st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45))


@given(kinds=cases, parts=parts, seed=st.integers(0, 2**32 - 1))
def test_any_cohort_is_split_as_asked(kinds, parts, seed):
    count = {kind: sum(kind in one for one in kinds) for kind in (TUMOR, NORMAL)}
    assume(all(n == 0 or n >= 3 for n in count.values()))
    shares = {"train": 1 - sum(parts), "validation": parts[0], "test": parts[1]}
    table = rows_of(kinds)
    assigned = split_cases(table, shares, seed)
    assert set(assigned) == set(table["case_id"])
    shuffled = table.sample(frac=1, random_state=seed % 1000)
    assert split_cases(shuffled, shares, seed) == assigned  # the order of the rows says nothing
    rarest = min((kind for kind in count if count[kind]), key=lambda kind: count[kind])
    for kind, n in count.items():
        for split, share in shares.items():
            got = sum(kind in kinds[int(case)] for case, where in assigned.items() if where == split)
            if n:
                assert got >= 1
            # one case to each split may cost the others up to two; and a case of both classes counts
            # for the rarer one first
            if all(n * one >= 1 for one in shares.values()):
                assert abs(got - n * share) <= (1 if kind == rarest or n == len(kinds) else 2)


def test_large_cohorts_keep_their_shares():
    kinds = [(TUMOR,)] * 150 + [(NORMAL,)] * 20 + [(TUMOR, NORMAL)] * 30
    table = rows_of(kinds)
    where = table["case_id"].map(split_cases(table, SHARES, 1))
    found = pd.crosstab(table["sample_type"], where, normalize="index")
    np.testing.assert_allclose(found[list(SHARES)], [list(SHARES.values())] * 2, atol=0.02)


# --- sites ---------------------------------------------------------------------------------------


def test_the_site_of_a_case_is_the_second_field_of_its_barcode():
    assert site_of("TCGA-2J-AAB8") == site_of("TCGA-2J-AAB8-01A") == site_of("tcga-2j-aab8") == "2J"
    assert site_of("DEMO-S1-0003") == "S1"
    for other in ("case-1", "0012", "", "TCGA-2J", "TCGA-2JX-AAB8", "XTCGA-2J-AAB8"):
        assert site_of(other) is None


def test_sites_stay_together_where_that_is_asked_for(project):
    sites = ["AA", "BB", "CC", "DD", "EE"] * 4
    write_index(project, MIXED, sites=sites)
    project.make("split")
    torn = pd.concat(splits(project).values(), keys=SPLITS, names=["split"]).reset_index("split")
    assert torn.groupby(torn["case_id"].map(site_of))["split"].nunique().max() > 1
    project.params(split__together="site")
    project.make("split")
    tables = splits(project)
    found = [set(table["case_id"].map(site_of)) for table in tables.values()]
    assert sum(map(len, found)) == len(set.union(*found)) == 5 and len(found[0]) == 3
    for table in tables.values():
        assert set(table["sample_type"]) == {TUMOR, NORMAL}


@pytest.mark.parametrize(
    ("sites", "together", "said"),
    [
        (None, "site", "case_id '000' is no barcode; set split.together: case"),
        (["AA"] * 12 + ["BB"] * 8, "site", f"{TUMOR}: 2 sites, .* at least 3.*set split.together: case"),
    ],
)
def test_sites_that_are_unknown_or_too_few_are_told(project, sites, together, said):
    write_index(project, MIXED, sites=sites)
    project.params(split__together=together)
    told = project.run("split").only_line
    assert pd.Series([told]).str.contains(said).all(), told


def test_the_report_says_how_far_tumor_and_normal_share_sites(project):
    sites = ["AA"] * 9 + ["BB"] * 6 + ["CC"] * 4 + ["AA"]
    write_index(project, MIXED, sites=sites)
    report = project.folder / "reports/split.json"
    lines = project.make("split").run("split").lines
    told = json.loads(report.read_text(encoding="utf-8"))
    assert set(told) == {*SPLITS, "sites"}
    # CC's cases and the last of AA have both tissues
    assert told["sites"] == {"sample_types": {TUMOR: 2, NORMAL: 3}, "in_both": 2, "share_of_cases_in_both": 0.7}
    assert any("2 have both, with 70.0% of the cases" in line for line in lines)
    write_index(project, MIXED)
    project.make("split")
    assert json.loads(report.read_text(encoding="utf-8"))["sites"] is None


def test_sites_of_one_tissue_have_nothing_in_common():
    found = summarize_sites(at_sites(rows_of([(TUMOR,)] * 4), ["AA", "AA", "BB", "CC"]))
    assert found == {"sample_types": {TUMOR: 3}, "in_both": 0, "share_of_cases_in_both": 0.0}
    mixed = rows_of([(TUMOR,)] * 4).replace({"case_id": {"000": "TCGA-AA-0001"}})
    assert summarize_sites(mixed) is None


@given(kinds=cases, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_sites_are_dealt_whole_and_every_type_everywhere(kinds, seed, data):
    names = data.draw(st.lists(st.sampled_from(["A1", "B2", "C3", "D4", "E5", "F6"]), min_size=len(kinds)))
    table = at_sites(rows_of(kinds), names)
    present = sorted(set().union(*kinds))
    count = {kind: table.loc[table["sample_type"] == kind, "case_id"].map(site_of).nunique() for kind in present}
    if min(count.values()) < 3:
        with pytest.raises(DataError, match=r"sites?, and the split needs at least 3"):
            split_cases(table, SHARES, seed, "site")
        return
    assigned = split_cases(table, SHARES, seed, "site")
    assert split_cases(table.sample(frac=1, random_state=1), SHARES, seed, "site") == assigned
    where = table["case_id"].map(assigned)
    assert where.groupby(table["case_id"].map(site_of)).nunique().max() == 1
    assert (pd.crosstab(table["sample_type"], where) > 0).all(axis=None)


def test_a_site_with_most_of_the_cases_is_for_training():
    sites = ["AA"] * 60 + [f"B{i % 8}" for i in range(40)]
    table = at_sites(rows_of(([(TUMOR,)] * 3 + [(NORMAL,)]) * 25), sites)
    where = table["case_id"].map(split_cases(table, SHARES, 5, "site"))
    found = pd.crosstab(table["sample_type"], where, normalize="index")[list(SHARES)]
    np.testing.assert_allclose(found, [list(SHARES.values())] * 2, atol=0.08)


# --- folds ---------------------------------------------------------------------------------------


@given(kinds=cases, count=st.integers(2, 8), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_folds_share_the_cases_of_every_type_alike(kinds, count, seed, data):
    table = rows_of(kinds, slides=2)
    together = data.draw(st.sampled_from(["case", "site"]))
    if together == "site":
        table = at_sites(table, data.draw(st.lists(st.sampled_from(["A1", "B2", "C3", "D4"]), min_size=len(kinds))))
    unit = table["case_id"] if together == "case" else table["case_id"].map(site_of)
    have = unit.groupby(table["sample_type"]).nunique()
    if have.min() < count:
        with pytest.raises(DataError, match=f"{have.min()} {together}s?, and each of {count} folds needs one"):
            folds(table, count, seed, together)
        return
    assigned = folds(table, count, seed, together)
    assert set(assigned) == set(table["case_id"]) and set(assigned.values()) == set(range(count))
    assert folds(table.sample(frac=1, random_state=1), count, seed, together) == assigned
    where = table["case_id"].map(assigned)
    assert where.groupby(unit).nunique().max() == 1
    found = pd.crosstab(table["sample_type"], where)
    assert (found > 0).all(axis=None)
    if together == "case":
        cases_in = found / 2  # of two slides each
        assert ((cases_in.max(axis=1) - cases_in.min(axis=1)) <= 3).all()


def test_how_many_folds_are_possible_is_told():
    table = rows_of([(TUMOR,)] * 9 + [(NORMAL,)] * 3)
    assert set(folds(table, 3, 1, "case").values()) == {0, 1, 2}
    with pytest.raises(DataError, match=r"Solid Tissue Normal: 3 cases.*crossvalidation.folds to 3 or less"):
        folds(table, 4, 1, "case")
    with pytest.raises(DataError, match=r"1 site, .*crossvalidation.folds to null, or set split\.together: case"):
        folds(at_sites(table, ["AA"] * 9 + ["BB"] * 3), 2, 1, "site")
    with pytest.raises(DataError, match="case_id '000'"):
        folds(table, 2, 1, "site")


def test_the_seed_decides_the_folds():
    table = rows_of(MIXED)
    assert folds(table, 4, 1, "case") == folds(table, 4, 1, "case") != folds(table, 4, 2, "case")


@pytest.mark.parametrize("cohort", ["all", "tumor", "normal"])
@pytest.mark.parametrize(
    ("balance", "least"), [("patches", None), ("cases", None), ("none", None), ("patches", 50.0)]
)
def test_a_training_learns_from_the_same_rows_however_they_are_read(project, cohort, balance, least):
    write_index(project, MIXED)
    metadata = read_table(paths.METADATA, ("case_id", "slide_id"))
    percents = np.where(np.arange(len(metadata)) % 3 > 0, 70.0, 30.0)
    write_table(metadata.assign(percent_tumor_nuclei=percents), paths.METADATA)
    project.make("split")
    training = {"balance": balance, "min_percent_tumor_nuclei": least}
    record = {"cohort": cohort, "params": {"seed": 3, "training": training}}
    for part in ("train", "validation"):
        path = paths.SPLITS / f"{part}.csv"
        whole, lean = rows_for_model(read_split(path), record), read_rows_for_model(path, record)
        assert len(lean) > 0 and list(lean.index) == list(whole.index)
        for column in ("shard", "position", "sample_type"):
            assert list(lean[column]) == list(whole[column])


def test_a_slide_that_the_metadata_lack_is_told_and_no_table_is_written(project):
    write_index(project, MIXED)
    metadata = read_table(paths.METADATA, ("case_id", "slide_id"))
    write_table(metadata[1:], paths.METADATA)
    told = project.run("split").only_line
    assert f"slide {metadata['slide_id'][0]!r} has patches and no metadata; run dvc repro patches" in told
    assert not list(project.folder.glob("data/splits/*")) and not project.leftovers()
