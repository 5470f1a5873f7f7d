"""Cases into train, validation and test: whole cases, each class everywhere, seeded."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from conftest import Project
from histocae import store
from histocae.cohorts import select
from histocae.errors import DataError
from histocae.files import write_table
from histocae.split import SPLITS, check_apart, split_cases
from histocae.tables import SEED_COLUMNS
from make_data import NORMAL, TUMOR

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def rows_of(kinds: list[tuple[str, ...]], slides: int = 1, patches: int = 1) -> pd.DataFrame:
    """Give the index rows of one case per entry, with so many slides of each of its sample types."""
    return pd.DataFrame(
        {
            "case_id": f"{case:03d}", "sample_type": kind, "slide_id": f"{case:03d}-{kind[0]}-{slide}",
            "position": patch,
        }
        for case, types in enumerate(kinds)
        for kind in types
        for slide in range(slides)
        for patch in range(patches)
    )  # fmt: skip


def cut(project: Project, kinds: list[tuple[str, ...]], slides: int = 2, patches: int = 5) -> None:
    """Give the project a patch store and its metadata, without pictures."""
    rows = rows_of(kinds, slides, patches)
    rows = rows.assign(
        shard=rows["slide_id"], file=rows["slide_id"] + ".tif", row=rows["position"], column=0,
        x=0, y=rows["position"] * 8, mpp=0.5, tissue_share=1.0,
    )  # fmt: skip
    store.write_index(project.folder / "data/patches", rows, 8, 0.5)
    metadata = rows.drop_duplicates("slide_id").assign(disease_type="Ductal|x", percent_tumor_cells=50.0)
    metadata = metadata.reindex(columns=[*SEED_COLUMNS, "file_name", "mpp"])
    write_table(metadata, project.folder / "data/slides_metadata.csv")


def splits(project: Project) -> dict[str, pd.DataFrame]:
    return {
        name: pd.read_csv(f"data/splits/{name}.csv", sep="|", dtype={"case_id": str, "slide_id": str})
        for name in SPLITS
    }


MIXED = [(TUMOR,)] * 9 + [(NORMAL,)] * 6 + [(TUMOR, NORMAL)] * 5


def test_every_patch_lands_once_and_no_case_lands_twice(project):
    cut(project, MIXED)
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
    cut(project, MIXED, patches=20)
    project.make("split")
    where = pd.concat(table.assign(split=name) for name, table in splits(project).items())
    where = where.sort_values(["slide_id", "row"])
    for _, slide in where.groupby("slide_id"):
        assert all(one == other for one, other in pairwise(slide["split"]))
    assert where.groupby("case_id")["split"].nunique().max() == 1


def test_the_seeds_columns_come_first_then_the_place_in_the_store(project):
    cut(project, MIXED)
    project.make("split")
    for table in splits(project).values():
        assert tuple(table.columns[:9]) == SEED_COLUMNS
        place = {"shard", "position", "file", "row", "column", "x", "y", "mpp", "tissue_share"}
        assert set(table.columns[9:]) == place
        assert (table["disease_type"] == "Ductal|x").all() and (table["percent_tumor_cells"] == 50).all()
    head = (project.folder / "data/splits/train.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("case_id|sample_id|slide_id|disease_type|sample_type|percent_normal_cells|")


def test_class_shares_are_reported(project):
    cut(project, MIXED)
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
    cut(project, MIXED)
    first = project.make("split").outputs("data/splits", "reports")
    assert project.make("split").outputs("data/splits", "reports") == first
    project.params(seed=99)
    assert project.make("split").outputs("data/splits") != {k: v for k, v in first.items() if "splits" in k}


@pytest.mark.parametrize("kind", [TUMOR, NORMAL])
def test_one_class_alone_is_split(project, kind):
    cut(project, [(kind,)] * 5)
    project.make("split")
    assert {name: table["case_id"].nunique() for name, table in splits(project).items()} == {
        "train": 3, "validation": 1, "test": 1
    }  # fmt: skip


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
    cut(project, [(TUMOR,)] * 5)
    before = project.make("split").outputs()
    cut(project, kinds)
    cut_before = {k: v for k, v in before.items() if "splits" in k or "reports" in k}
    told = project.run("split").only_line
    assert said in told and "at least 3" in told
    assert project.outputs("data/splits", "reports") == cut_before and not project.leftovers()


def test_overlap_is_an_error():
    table = rows_of([(TUMOR,), (TUMOR,)]).assign(shard=["a", "b"])
    check_apart({"train": table[:1], "test": table[1:]})
    for column in ("case_id", "slide_id", "shard"):
        other = table[1:].assign(**{column: table[column][0]})
        with pytest.raises(DataError, match=f"{column} .* stands in train and in test"):
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
