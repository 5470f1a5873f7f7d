"""Cases into training, validation and test, or into folds: stratified by sample type, seeded."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from histocae.errors import DataError
from histocae.files import table_writer
from histocae.identifiers import COMPARED, site_of
from histocae.patches.store import PLACE_COLUMNS, PatchStore
from histocae.sources.tables import SEED_COLUMNS

SPLITS = ("train", "validation", "test")
Part = TypeVar("Part", bound=Hashable)


def split_cases(index: pd.DataFrame, shares: dict[str, float], seed: int, together: str = "case") -> dict[str, str]:
    """Assign every case to a split; every split gets every sample type.

    Args:
        index: rows with columns case_id and sample_type.
        shares: share of the cases per split, summing to 1.
        seed: of the order in which equal cases are dealt.
        together: what is never torn apart: case, or site (the tissue-source site of a TCGA
            barcode, which pictures give away: Howard et al. 2021, Nature Communications 12:4423).

    Returns:
        The split of each case.

    Raises:
        DataError: a sample type has fewer cases (or sites) than there are splits, or a site is
            asked for and a case_id is no barcode.

    """
    units = _units(index, together)
    for name, count in _counts(units).items():
        if count < len(SPLITS):
            raise DataError(
                f"{name}: {count} {together}{'s' * (count != 1)}, and the split needs at least {len(SPLITS)}: "
                f"one each to train, validate and test; {_remedy(together)} or leave out this sample type"
            )
    dealt = _deal(units, {split: shares[split] for split in SPLITS}, seed)
    return units.groupby("case_id")["unit"].first().map(dealt).to_dict()


def folds(index: pd.DataFrame, count: int, seed: int, together: str) -> dict[str, int]:
    """Assign every case to one of `count` folds of equal share; every fold gets every sample type.

    Arguments are those of `split_cases`.

    Returns:
        The fold of each case, 0 to count - 1.

    Raises:
        DataError: a sample type has fewer cases (or sites) than there are folds, or a site is
            asked for and a case_id is no barcode.

    """
    units = _units(index, together)
    counts = _counts(units)
    name = min(counts, key=lambda name: (counts[name], name))
    if (most := counts[name]) < count:
        possible = f"set crossvalidation.folds to {most} or less" if most > 1 else "set crossvalidation.folds to null"
        raise DataError(
            f"{name}: {most} {together}{'s' * (most != 1)}, and each of {count} folds needs one; "
            f"{possible}, or {_remedy(together)}"
        )
    dealt = _deal(units, dict.fromkeys(range(count), 1 / count), seed)
    return units.groupby("case_id")["unit"].first().map(dealt).to_dict()


def _remedy(together: str) -> str:
    return "add cases" if together == "case" else "set split.together: case or add cases of other sites"


def _units(index: pd.DataFrame, together: str) -> pd.DataFrame:
    """One row per case and sample type, with the unit that is dealt as a whole."""
    units = index[["case_id", "sample_type"]].drop_duplicates()
    if together == "case":
        return units.assign(unit=units["case_id"])
    sites = units["case_id"].map(site_of)
    if (missing := sites.isna()).any():
        raise DataError(
            f"split.together: site reads the site from TCGA barcodes (TCGA-XX-...), and case_id "
            f"{units['case_id'][missing].iloc[0]!r} is none; set split.together: case"
        )
    return units.assign(unit=sites)


def _counts(units: pd.DataFrame) -> dict[str, int]:
    return units.groupby("sample_type")["unit"].nunique().to_dict()


def _deal(units: pd.DataFrame, shares: Mapping[Part, float], seed: int) -> dict[str, Part]:
    """Deal units to parts by iterative stratification, in numbers of cases.

    Sechidis, Tsoumakas and Vlahavas 2011, ECML PKDD, LNCS 6913:145-158, over the sample types
    that a unit has, so that a case with tumor and normal slides counts for both: the rarest
    type is dealt out first, each unit to the part that lacks the largest share of what it
    should get. A part that has nothing yet lacks the most: each type comes to every part
    if it has as many units.
    """
    cases_of = [(unit, rows["sample_type"].value_counts().to_dict()) for unit, rows in units.groupby("unit")]
    left = dict(cases_of[i] for i in np.random.default_rng(seed).permutation(len(cases_of)))
    names = sorted(units["sample_type"].unique())
    wanted = {name: _whole(sum(one.get(name, 0) for one in left.values()), shares) for name in names}
    lacking = {name: dict(one) for name, one in wanted.items()}
    assigned: dict[str, Part] = {}
    while left:
        counts = {name: sum(name in one for one in left.values()) for name in names}
        rarest = min((name for name in names if counts[name]), key=lambda name: (counts[name], name))
        # units of several types first, and then large ones: they are the hardest to place
        for unit in sorted((u for u in left if rarest in left[u]), key=lambda u: (-len(left[u]), -left[u][rarest])):
            cases = left.pop(unit)
            types = [rarest, *sorted(set(cases) - {rarest})]
            part = max(
                shares,
                # in proportion: by number alone, training would take all the first cases
                key=lambda p, types=types: [lacking[name][p] / wanted[name][p] for name in types],
            )
            assigned[unit] = part
            for name in types:
                lacking[name][part] -= cases[name]
    return assigned


def _whole(cases: int, shares: Mapping[Part, float]) -> dict[Part, int]:
    """Share out cases in whole numbers, at least one to each part (largest remainders)."""
    exact = {part: cases * share for part, share in shares.items()}
    whole = {part: max(1, int(one)) for part, one in exact.items()}
    parts = list(shares)
    while sum(whole.values()) != cases:
        step = 1 if sum(whole.values()) < cases else -1
        able = [p for p in parts if step > 0 or whole[p] > 1]
        whole[max(able, key=lambda p: (step * (exact[p] - whole[p]), -parts.index(p)))] += step
    return whole


def write_tables(
    folder: Path, store: PatchStore, split_of: Mapping[str, str], about: Mapping[str, Sequence[str]]
) -> None:
    """Write the table of each split, a patch a row, going through the store's index row by row.

    Args:
        folder: of the tables.
        store: the patches.
        split_of: the split of each slide.
        about: the nine columns of the metadata of each slide, as text.

    Raises:
        DataError: the metadata lack a slide.

    """
    with ExitStack() as whole:
        columns = (*SEED_COLUMNS, "shard", *PLACE_COLUMNS)
        writers = {
            name: whole.enter_context(table_writer(folder / f"{name}.csv", columns)).writerow for name in SPLITS
        }
        places: dict[str, tuple[Callable, Sequence[str]]] = {}
        for slide_id, name in split_of.items():
            if slide_id not in about:
                raise DataError(f"slide {slide_id!r} has patches and no metadata; run dvc repro patches")
            places[slide_id] = writers[name], about[slide_id]
        for slide_id, *place in store.rows(("slide_id", "shard", *PLACE_COLUMNS)):
            write, slide = places[slide_id]
            write((*slide, *place))


def with_metadata(index: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
    """Give each patch of a store's index the metadata of its slide, the nine columns of the metadata first."""
    place = [name for name in index.columns if name not in SEED_COLUMNS or name == "slide_id"]
    patches = index[place].merge(metadata[list(SEED_COLUMNS)], on="slide_id", how="left", validate="many_to_one")
    return patches[[*SEED_COLUMNS, *(name for name in place if name != "slide_id")]]


def check_apart(tables: dict[str, pd.DataFrame]) -> None:
    """Check that no case, slide or patch stands in two splits.

    Args:
        tables: per split, rows with columns case_id, slide_id and shard, of slides or of patches.

    Raises:
        DataError: one does.

    """
    for column in ("case_id", "slide_id", "shard"):
        seen: dict[str, str] = {}
        for split, table in tables.items():
            for value in table[column].unique():
                if value in seen:
                    raise DataError(f"{column} {value!r} stands in {seen[value]} and in {split}")
                seen[value] = split


def summarise(tables: dict[str, pd.DataFrame]) -> dict[str, dict]:
    """Count cases, slides and patches per split and sample type, with each type's share.

    Args:
        tables: per split, a row per slide, as `PatchStore.slides` gives them.

    """
    summary: dict[str, dict] = {}
    for split, table in tables.items():
        total = int(table["patches"].sum())
        by_type = {
            name: _counted(rows) | {"share_of_patches": round(int(rows["patches"].sum()) / total, 6)}
            for name, rows in table.groupby("sample_type")
        }
        summary[split] = _counted(table) | {"sample_types": by_type}
    return summary


def _counted(slides: pd.DataFrame) -> dict[str, int]:
    return {
        "cases": int(slides["case_id"].nunique()),
        "slides": int(slides["slide_id"].nunique()),
        "patches": int(slides["patches"].sum()),
    }


def summarise_sites(index: pd.DataFrame) -> dict | None:
    """Count tissue-source sites per sample type, and how far the types share them.

    Where tumor and normal come from different sites, what tells the sites apart tells the
    tissues as well.

    Args:
        index: rows with columns case_id and sample_type.

    Returns:
        sample_types (sites of each), in_both (sites that have tumor and normal) and
        share_of_cases_in_both; None where a case_id is no barcode.

    """
    sites = index["case_id"].map(site_of)
    if sites.isna().any():
        return None
    has = pd.crosstab(sites, index["sample_type"]) > 0
    both = has.reindex(columns=list(COMPARED), fill_value=False).all(axis=1)
    of_case = sites.groupby(index["case_id"]).first()
    return {
        "sample_types": {name: int(count) for name, count in has.sum().items()},
        "in_both": int(both.sum()),
        "share_of_cases_in_both": round(float(of_case.map(both).mean()), 6),
    }
