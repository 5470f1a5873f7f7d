"""Cases divided into splits and folds: whole cases, every sample type in each, seeded."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from histocae import paths
from histocae.cohort.balance import read_rows_for_model, read_split, rows_for_model, sample, select
from histocae.cohort.split import SPLITS, check_apart, count_patches, folds, split_cases, summarize_sites
from histocae.errors import DataError
from histocae.files import read_table, write_table
from histocae.identifiers import site_of
from histocae.patches.store import MEASURES
from histocae.sources.tables import SEED_COLUMNS
from support.cohorts import MIXED, at_sites, rows_of, write_index
from support.make_data import NORMAL, TUMOR
from support.workspace import Workspace

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def read_splits(project: Workspace) -> dict[str, pd.DataFrame]:
    return {
        name: pd.read_csv(f"data/splits/{name}.csv", sep="|", dtype={"case_id": str, "slide_id": str})
        for name in SPLITS
    }


def test_every_patch_is_in_one_split_and_no_case_is_in_two(project):
    write_index(project, MIXED)
    project.make("split")
    tables = read_splits(project)
    together = pd.concat(tables.values())
    assert len(together) == 25 * 2 * 5 and not together.duplicated(["slide_id", "position"]).any()
    for column in ("case_id", "slide_id", "shard"):
        for split in SPLITS:
            for other in set(SPLITS) - {split}:
                assert not set(tables[split][column]) & set(tables[other][column])


def test_neighbors_on_a_slide_are_in_the_same_split(project):
    # a random fifth of the patches as validation would divide neighbors
    write_index(project, MIXED, patches=20)
    project.make("split")
    rows = pd.concat(table.assign(split=name) for name, table in read_splits(project).items())
    rows = rows.sort_values(["slide_id", "row"])
    for _, slide in rows.groupby("slide_id"):
        assert all(split == next_split for split, next_split in pairwise(slide["split"]))
    assert rows.groupby("case_id")["split"].nunique().max() == 1


def test_columns_of_the_metadata_come_first_then_the_position_columns(project):
    write_index(project, MIXED)
    project.make("split")
    for table in read_splits(project).values():
        assert tuple(table.columns[:9]) == SEED_COLUMNS
        position_columns = {"shard", "position", "file", "row", "column", "x", "y", "mpp", "tissue_share"}
        assert set(table.columns[9:]) == {*position_columns, *MEASURES, "patch_label", "label_share", "flags"}
        assert (table["disease_type"] == "Ductal|x").all() and (table["percent_tumor_cells"] == 50).all()
    head = (project.folder / "data/splits/train.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("case_id|sample_id|slide_id|disease_type|sample_type|percent_normal_cells|")


def test_the_shares_of_the_sample_types_are_reported(project):
    write_index(project, MIXED)
    result = project.run("split")
    summary = json.loads((project.folder / "reports/split.json").read_text(encoding="utf-8"))
    for name, table in read_splits(project).items():
        part = summary[name]
        assert (part["cases"], part["patches"]) == (table["case_id"].nunique(), len(table))
        assert sum(row["share_of_patches"] for row in part["sample_types"].values()) == pytest.approx(1, abs=1e-5)
        for sample_type, rows in table.groupby("sample_type"):
            assert part["sample_types"][sample_type]["patches"] == len(rows)
            assert part["sample_types"][sample_type]["share_of_patches"] == pytest.approx(
                len(rows) / len(table), abs=1e-5
            )
        assert any(f"{name}: " in line and "Primary Tumor" in line and "%" in line for line in result.lines)


def test_the_split_depends_on_the_seed_and_is_the_same_in_each_run(project):
    write_index(project, MIXED)
    first = project.make("split").outputs("data/splits", "reports")
    assert project.make("split").outputs("data/splits", "reports") == first
    project.params(seed=99)
    assert project.make("split").outputs("data/splits") != {
        path: data for path, data in first.items() if "splits" in path
    }


@pytest.mark.parametrize("sample_type", [TUMOR, NORMAL])
def test_a_cohort_of_one_sample_type_is_split(project, sample_type):
    write_index(project, [(sample_type,)] * 5)
    project.make("split")
    assert {name: table["case_id"].nunique() for name, table in read_splits(project).items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }


def test_balanced_models_of_one_tissue_need_patches_of_both_sample_types():
    table = rows_of([(TUMOR,)] * 5)
    assert len(select(table, "all")) == len(select(table, "tumor")) == 5
    for balance in ("patches", "cases"):
        with pytest.raises(DataError, match=f"cohort tumor.*no patches of {NORMAL}.*training.balance: none"):
            sample(table, "tumor", balance, None, 1)
    for balance in ("patches", "cases", "none"):
        with pytest.raises(DataError, match=f"no patches of {NORMAL}, of which models of cohort normal are"):
            sample(table, "normal", balance, None, 1)


def test_without_balance_a_model_of_one_tissue_needs_patches_of_that_tissue_only():
    table = rows_of([(TUMOR,)] * 5)
    pd.testing.assert_frame_equal(sample(table, "tumor", "none", None, 1), table)


@pytest.mark.parametrize(
    ("sample_types", "reason"),
    [
        ([(TUMOR,)] * 2, "Primary Tumor: 2 cases"),
        ([(TUMOR,)] * 9 + [(NORMAL,)] * 2, "Solid Tissue Normal: 2 cases"),
        ([(TUMOR,)] * 9 + [(TUMOR, NORMAL)], "Solid Tissue Normal: 1 case,"),
    ],
)
def test_fewer_cases_than_splits_are_refused(project, sample_types, reason):
    write_index(project, [(TUMOR,)] * 5)
    before = project.make("split").outputs()
    write_index(project, sample_types)
    splits_before = {path: data for path, data in before.items() if "splits" in path or "reports" in path}
    message = project.run("split").only_line
    assert reason in message and "at least 3" in message
    assert project.outputs("data/splits", "reports") == splits_before and not project.leftovers()


def test_overlapping_splits_are_an_error():
    table = rows_of([(TUMOR,), (TUMOR,)]).assign(shard=["a", "b"])
    check_apart({"train": table[:1], "test": table[1:]})
    for column in ("case_id", "slide_id", "shard"):
        overlapping = table[1:].assign(**{column: table[column][0]})
        with pytest.raises(DataError, match=f"{column} .* is in train and in test"):
            check_apart({"train": table[:1], "test": overlapping})


cases = st.lists(st.sampled_from([(TUMOR,), (NORMAL,), (TUMOR, NORMAL)]), min_size=3, max_size=60)
held_out_shares = st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45))


@given(sample_types=cases, held_out_shares=held_out_shares, seed=st.integers(0, 2**32 - 1))
def test_any_cohort_is_split_by_its_shares(sample_types, held_out_shares, seed):
    count = {sample_type: sum(sample_type in types for types in sample_types) for sample_type in (TUMOR, NORMAL)}
    assume(all(n == 0 or n >= 3 for n in count.values()))
    shares = {"train": 1 - sum(held_out_shares), "validation": held_out_shares[0], "test": held_out_shares[1]}
    table = rows_of(sample_types)
    assigned = split_cases(count_patches(table), shares, seed)
    assert set(assigned) == set(table["case_id"])
    shuffled = count_patches(table).sample(frac=1, random_state=seed % 1000)
    assert split_cases(shuffled, shares, seed) == assigned  # the order of rows does not matter
    rarest = min(
        (sample_type for sample_type in count if count[sample_type]), key=lambda sample_type: count[sample_type]
    )
    for sample_type, n in count.items():
        for split, share in shares.items():
            assigned_cases = sum(
                sample_type in sample_types[int(case)]
                for case, split_of_case in assigned.items()
                if split_of_case == split
            )
            if n:
                assert assigned_cases >= 1
            # each split gets at least one case, which may cost the other splits up to two; and a case of both
            # sample types is assigned by the rarer type first
            if all(n * other_share >= 1 for other_share in shares.values()):
                assert abs(assigned_cases - n * share) <= (
                    1 if sample_type == rarest or n == len(sample_types) else 2
                )


def test_large_cohorts_keep_their_shares():
    sample_types = [(TUMOR,)] * 150 + [(NORMAL,)] * 20 + [(TUMOR, NORMAL)] * 30
    table = rows_of(sample_types)
    split_of_row = table["case_id"].map(split_cases(count_patches(table), SHARES, 1))
    measured = pd.crosstab(table["sample_type"], split_of_row, normalize="index")
    np.testing.assert_allclose(measured[list(SHARES)], [list(SHARES.values())] * 2, atol=0.02)


# --- sites ---------------------------------------------------------------------------------------


def test_the_site_of_a_case_is_the_second_field_of_its_barcode():
    assert site_of("TCGA-2J-AAB8") == site_of("TCGA-2J-AAB8-01A") == site_of("tcga-2j-aab8") == "2J"
    assert site_of("DEMO-S1-0003") == "S1"
    for other in ("case-1", "0012", "", "TCGA-2J", "TCGA-2JX-AAB8", "XTCGA-2J-AAB8"):
        assert site_of(other) is None


def test_sites_are_not_divided_where_split_together_is_site(project):
    sites = ["AA", "BB", "CC", "DD", "EE"] * 4
    write_index(project, MIXED, sites=sites)
    project.make("split")
    split_by_case = pd.concat(read_splits(project).values(), keys=SPLITS, names=["split"]).reset_index("split")
    assert split_by_case.groupby(split_by_case["case_id"].map(site_of))["split"].nunique().max() > 1
    project.params(split__together="site")
    project.make("split")
    tables = read_splits(project)
    site_sets = [set(table["case_id"].map(site_of)) for table in tables.values()]
    assert sum(map(len, site_sets)) == len(set.union(*site_sets)) == 5 and len(site_sets[0]) == 3
    for table in tables.values():
        assert set(table["sample_type"]) == {TUMOR, NORMAL}


@pytest.mark.parametrize(
    ("sites", "together", "reason"),
    [
        (None, "site", "case_id '000' is no barcode; set split.together: case"),
        (["AA"] * 12 + ["BB"] * 8, "site", f"{TUMOR}: 2 sites, .* at least 3.*set split.together: case"),
    ],
)
def test_unknown_or_too_few_sites_are_reported(project, sites, together, reason):
    write_index(project, MIXED, sites=sites)
    project.params(split__together=together)
    message = project.run("split").only_line
    assert pd.Series([message]).str.contains(reason).all(), message


def test_the_report_has_the_share_of_cases_at_sites_with_both_tissues(project):
    sites = ["AA"] * 9 + ["BB"] * 6 + ["CC"] * 4 + ["AA"]
    write_index(project, MIXED, sites=sites)
    report = project.folder / "reports/split.json"
    lines = project.make("split").run("split").lines
    summary = json.loads(report.read_text(encoding="utf-8"))
    assert set(summary) == {*SPLITS, "given", "sites"} and summary["given"] is False
    # the cases of site CC and the last case of site AA have both tissues
    assert summary["sites"] == {"sample_types": {TUMOR: 2, NORMAL: 3}, "in_both": 2, "share_of_cases_in_both": 0.7}
    assert any("2 have both, with 70.0% of the cases" in line for line in lines)
    write_index(project, MIXED)
    project.make("split")
    assert json.loads(report.read_text(encoding="utf-8"))["sites"] is None


def test_a_cohort_of_one_tissue_has_no_site_with_both():
    summary = summarize_sites(at_sites(rows_of([(TUMOR,)] * 4), ["AA", "AA", "BB", "CC"]))
    assert summary == {"sample_types": {TUMOR: 3}, "in_both": 0, "share_of_cases_in_both": 0.0}
    mixed = rows_of([(TUMOR,)] * 4).replace({"case_id": {"000": "TCGA-AA-0001"}})
    assert summarize_sites(mixed) is None


@given(sample_types=cases, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_sites_stay_whole_and_every_split_has_every_sample_type(sample_types, seed, data):
    names = data.draw(st.lists(st.sampled_from(["A1", "B2", "C3", "D4", "E5", "F6"]), min_size=len(sample_types)))
    table = at_sites(rows_of(sample_types), names)
    present = sorted(set().union(*sample_types))
    count = {
        sample_type: table.loc[table["sample_type"] == sample_type, "case_id"].map(site_of).nunique()
        for sample_type in present
    }
    if min(count.values()) < 3:
        with pytest.raises(DataError, match=r"sites?, and the split needs at least 3"):
            split_cases(count_patches(table), SHARES, seed, "site")
        return
    assigned = split_cases(count_patches(table), SHARES, seed, "site")
    assert split_cases(count_patches(table).sample(frac=1, random_state=1), SHARES, seed, "site") == assigned
    split_of_row = table["case_id"].map(assigned)
    assert split_of_row.groupby(table["case_id"].map(site_of)).nunique().max() == 1
    assert (pd.crosstab(table["sample_type"], split_of_row) > 0).all(axis=None)


def test_a_site_with_most_of_the_cases_is_in_training():
    sites = ["AA"] * 60 + [f"B{i % 8}" for i in range(40)]
    table = at_sites(rows_of(([(TUMOR,)] * 3 + [(NORMAL,)]) * 25), sites)
    split_of_row = table["case_id"].map(split_cases(count_patches(table), SHARES, 5, "site"))
    measured = pd.crosstab(table["sample_type"], split_of_row, normalize="index")[list(SHARES)]
    np.testing.assert_allclose(measured, [list(SHARES.values())] * 2, atol=0.08)


# --- folds ---------------------------------------------------------------------------------------


@given(sample_types=cases, count=st.integers(2, 8), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_folds_have_similar_numbers_of_cases_of_every_sample_type(sample_types, count, seed, data):
    table = rows_of(sample_types, slides=2)
    together = data.draw(st.sampled_from(["case", "site"]))
    if together == "site":
        table = at_sites(
            table, data.draw(st.lists(st.sampled_from(["A1", "B2", "C3", "D4"]), min_size=len(sample_types)))
        )
    unit_of_row = table["case_id"] if together == "case" else table["case_id"].map(site_of)
    units_of_type = unit_of_row.groupby(table["sample_type"]).nunique()
    if units_of_type.min() < count:
        with pytest.raises(
            DataError, match=f"{units_of_type.min()} {together}s?, and each of {count} folds needs one"
        ):
            folds(count_patches(table), count, seed, together)
        return
    assigned = folds(count_patches(table), count, seed, together)
    assert set(assigned) == set(table["case_id"]) and set(assigned.values()) == set(range(count))
    assert folds(count_patches(table).sample(frac=1, random_state=1), count, seed, together) == assigned
    fold_of_row = table["case_id"].map(assigned)
    assert fold_of_row.groupby(unit_of_row).nunique().max() == 1
    slides_in = pd.crosstab(table["sample_type"], fold_of_row)
    assert (slides_in > 0).all(axis=None)
    if together == "case":
        cases_in = slides_in / 2  # each case has two slides of a type
        assert ((cases_in.max(axis=1) - cases_in.min(axis=1)) <= 3).all()


def test_too_many_folds_are_refused_with_the_possible_number():
    table = rows_of([(TUMOR,)] * 9 + [(NORMAL,)] * 3)
    assert set(folds(count_patches(table), 3, 1, "case").values()) == {0, 1, 2}
    with pytest.raises(DataError, match=r"Solid Tissue Normal: 3 cases.*crossvalidation.folds to 3 or less"):
        folds(count_patches(table), 4, 1, "case")
    with pytest.raises(DataError, match=r"1 site, .*crossvalidation.folds to null, or set split\.together: case"):
        folds(count_patches(at_sites(table, ["AA"] * 9 + ["BB"] * 3)), 2, 1, "site")
    with pytest.raises(DataError, match="case_id '000'"):
        folds(count_patches(table), 2, 1, "site")


def test_folds_depend_on_the_seed():
    table = rows_of(MIXED)
    assert (
        folds(count_patches(table), 4, 1, "case")
        == folds(count_patches(table), 4, 1, "case")
        != folds(count_patches(table), 4, 2, "case")
    )


@pytest.mark.parametrize("cohort", ["all", "tumor", "normal"])
@pytest.mark.parametrize(
    ("balance", "min_percent"), [("patches", None), ("cases", None), ("none", None), ("patches", 50.0)]
)
def test_both_ways_to_read_a_split_return_the_same_rows_for_a_model(project, cohort, balance, min_percent):
    write_index(project, MIXED)
    metadata = read_table(paths.METADATA, ("case_id", "slide_id"))
    percents = np.where(np.arange(len(metadata)) % 3 > 0, 70.0, 30.0)
    write_table(metadata.assign(percent_tumor_nuclei=percents), paths.METADATA)
    project.make("split")
    training = {"balance": balance, "min_percent_tumor_nuclei": min_percent}
    record = {"cohort": cohort, "params": {"seed": 3, "training": training}}
    for part in ("train", "validation"):
        path = paths.SPLITS / f"{part}.csv"
        all_columns, few_columns = rows_for_model(read_split(path), record), read_rows_for_model(path, record)
        assert len(few_columns) > 0 and list(few_columns.index) == list(all_columns.index)
        for column in ("shard", "position", "patch_label"):
            assert list(few_columns[column]) == list(all_columns[column])


def test_a_slide_without_metadata_is_reported_and_no_table_is_written(project):
    write_index(project, MIXED)
    metadata = read_table(paths.METADATA, ("case_id", "slide_id"))
    write_table(metadata[1:], paths.METADATA)
    message = project.run("split").only_line
    assert f"slide {metadata['slide_id'][0]!r} has patches and no metadata; run dvc repro patches" in message
    assert not list(project.folder.glob("data/splits/*")) and not project.leftovers()
