"""Assign cases to training, validation and test, or to folds: stratified by sample type, seeded."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from histocae.errors import DataError
from histocae.files import table_writer
from histocae.identifiers import COMPARED, site_of
from histocae.patches.store import POSITION_COLUMNS, PatchStore
from histocae.sources.tables import SEED_COLUMNS

SPLITS = ("train", "validation", "test")
Split = TypeVar("Split", bound=Hashable)  # the name of a split, or the number of a fold


def split_cases(index: pd.DataFrame, shares: dict[str, float], seed: int, together: str = "case") -> dict[str, str]:
    """Assign every case to a split; every split gets every sample type.

    Args:
        index: rows with columns case_id and sample_type.
        shares: share of the cases per split, summing to 1.
        seed: of the order in which equal cases are assigned.
        together: the unit that is never divided: case, or site (the tissue source site of a TCGA
            barcode; images reveal it: Howard et al. 2021, Nature Communications 12:4423).

    Returns:
        The split of each case.

    Raises:
        DataError: a sample type has fewer cases (or sites) than there are splits, or the unit is
            the site and a case_id is no barcode.

    """
    units = _units(index, together)
    for name, count in _counts(units).items():
        if count < len(SPLITS):
            raise DataError(
                f"{name}: {count} {together}{'s' * (count != 1)}, and the split needs at least {len(SPLITS)}: "
                f"one each to train, validate and test; {_remedy(together)} or leave out this sample type"
            )
    return _split_of_cases(units, _deal(units, {split: shares[split] for split in SPLITS}, seed))


def folds(index: pd.DataFrame, count: int, seed: int, together: str) -> dict[str, int]:
    """Assign every case to a fold of equal share; every fold gets every sample type.

    Args:
        index: rows with columns case_id and sample_type.
        count: number of folds.
        seed: of the order in which equal cases are assigned.
        together: the unit that is never divided: case or site; see `split_cases`.

    Returns:
        The fold of each case, 0 to count - 1.

    Raises:
        DataError: a sample type has fewer cases (or sites) than there are folds, or the unit is
            the site and a case_id is no barcode.

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
    return _split_of_cases(units, _deal(units, dict.fromkeys(range(count), 1 / count), seed))


def _split_of_cases(units: pd.DataFrame, split_of_unit: dict[str, Split]) -> dict[str, Split]:
    cases = units.groupby("case_id")["unit"].first()
    return {case: split_of_unit[unit] for case, unit in cases.items()}


def _remedy(together: str) -> str:
    return "add cases" if together == "case" else "set split.together: case or add cases of other sites"


def _units(index: pd.DataFrame, together: str) -> pd.DataFrame:
    """One row per case and sample type, with the unit that is assigned as a whole."""
    units = index[["case_id", "sample_type"]].drop_duplicates()
    if together == "case":
        return units.assign(unit=units["case_id"])
    sites = units["case_id"].map(site_of)
    if (missing := sites.isna()).any():
        raise DataError(
            f"split.together: site reads the site from TCGA barcodes (TCGA-XX-...), and case_id "
            f"{units['case_id'][missing].iloc[0]!r} is no barcode; set split.together: case"
        )
    return units.assign(unit=sites)


def _counts(units: pd.DataFrame) -> dict[str, int]:
    return {str(name): int(count) for name, count in units.groupby("sample_type")["unit"].nunique().items()}


def _deal(units: pd.DataFrame, shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Assign units to splits by iterative stratification, in numbers of cases.

    Sechidis, Tsoumakas and Vlahavas 2011, ECML PKDD, LNCS 6913:145-158, over the sample types
    that a unit has, so that a case with tumor and normal slides counts for both. The rarest
    type is assigned first, each unit to the split that lacks the largest share of its target.
    An empty split lacks the most: so every split gets each type, if there are enough units of it.
    """
    cases_of = [(unit, rows["sample_type"].value_counts().to_dict()) for unit, rows in units.groupby("unit")]
    left = dict(cases_of[i] for i in np.random.default_rng(seed).permutation(len(cases_of)))
    names = sorted(units["sample_type"].unique())
    targets = {name: _whole(sum(cases.get(name, 0) for cases in left.values()), shares) for name in names}
    lacking = {name: dict(target) for name, target in targets.items()}
    assigned: dict[str, Split] = {}

    def shares_lacking(split: Split, types: Iterable[str]) -> list[float]:
        # in proportion: by number alone, training would take all the first cases
        return [lacking[name][split] / targets[name][split] for name in types]

    while left:
        counts = {name: sum(name in cases for cases in left.values()) for name in names}
        rarest = min((name for name in names if counts[name]), key=lambda name: (counts[name], name))
        # units of several types first, and then large ones: they are the hardest to assign
        for unit in sorted((u for u in left if rarest in left[u]), key=lambda u: (-len(left[u]), -left[u][rarest])):
            cases = left.pop(unit)
            types = [rarest, *sorted(set(cases) - {rarest})]
            split = max(shares, key=partial(shares_lacking, types=types))
            assigned[unit] = split
            for name in types:
                lacking[name][split] -= cases[name]
    return assigned


def _whole(cases: int, shares: Mapping[Split, float]) -> dict[Split, int]:
    """Divide cases in whole numbers, at least one for each split (largest remainders)."""
    exact = {split: cases * share for split, share in shares.items()}
    whole = {split: max(1, int(number)) for split, number in exact.items()}
    splits = list(shares)
    while sum(whole.values()) != cases:
        step = 1 if sum(whole.values()) < cases else -1
        able = [split for split in splits if step > 0 or whole[split] > 1]
        whole[max(able, key=lambda split: (step * (exact[split] - whole[split]), -splits.index(split)))] += step
    return whole


def write_tables(
    folder: Path, store: PatchStore, split_of: Mapping[str, str], metadata: Mapping[str, Sequence[str]]
) -> None:
    """Write the table of each split, a patch a row, going through the store's index row by row.

    Args:
        folder: of the tables.
        store: the patches.
        split_of: the split of each slide.
        metadata: of each slide the nine columns of the metadata, as text.

    Raises:
        DataError: the metadata lack a slide.

    """
    with ExitStack() as whole:
        columns = (*SEED_COLUMNS, "shard", *POSITION_COLUMNS)
        writers = {
            name: whole.enter_context(table_writer(folder / f"{name}.csv", columns)).writerow for name in SPLITS
        }
        slides: dict[str, tuple[Callable[[Sequence[str]], object], Sequence[str]]] = {}
        for slide_id, name in split_of.items():
            if slide_id not in metadata:
                raise DataError(f"slide {slide_id!r} has patches and no metadata; run dvc repro patches")
            slides[slide_id] = writers[name], metadata[slide_id]
        for slide_id, *position in store.rows(("slide_id", "shard", *POSITION_COLUMNS)):
            write, slide = slides[slide_id]
            write((*slide, *position))


def with_metadata(index: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
    """Join the index of a store with the metadata of slides.

    Args:
        index: one row a patch, with slide_id.
        metadata: one row a slide, with `tables.SEED_COLUMNS`.

    Returns:
        One row a patch: the nine columns of the metadata first, then the others of the index.

    """
    own = [name for name in index.columns if name not in SEED_COLUMNS or name == "slide_id"]
    patches = index[own].merge(metadata[list(SEED_COLUMNS)], on="slide_id", how="left", validate="many_to_one")
    return patches[[*SEED_COLUMNS, *(name for name in own if name != "slide_id")]]


def check_apart(tables: dict[str, pd.DataFrame]) -> None:
    """Check that no case, slide or patch is in two splits.

    Args:
        tables: per split, rows with columns case_id, slide_id and shard, of slides or of patches.

    Raises:
        DataError: a case, slide or patch is in two splits.

    """
    for column in ("case_id", "slide_id", "shard"):
        split_of: dict[str, str] = {}
        for split, table in tables.items():
            for value in table[column].unique():
                if value in split_of:
                    raise DataError(f"{column} {value!r} is in {split_of[value]} and in {split}")
                split_of[value] = split


def summarize(tables: dict[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Count cases, slides and patches per split and sample type, with each type's share.

    Args:
        tables: per split, a row per slide, as `PatchStore.slides` returns them.

    Returns:
        Per split: cases, slides, patches, and per sample type the same with share_of_patches.

    """
    summary: dict[str, dict[str, Any]] = {}
    for split, table in tables.items():
        total = int(table["patches"].sum())
        by_type = {
            name: {**_counted(rows), "share_of_patches": round(int(rows["patches"].sum()) / total, 6)}
            for name, rows in table.groupby("sample_type")
        }
        summary[split] = {**_counted(table), "sample_types": by_type}
    return summary


def _counted(slides: pd.DataFrame) -> dict[str, int]:
    return {
        "cases": int(slides["case_id"].nunique()),
        "slides": int(slides["slide_id"].nunique()),
        "patches": int(slides["patches"].sum()),
    }


def summarize_sites(index: pd.DataFrame) -> dict[str, Any] | None:
    """Count tissue source sites per sample type, and the cases at sites that have both types.

    Where tumor and normal slides come from different sites, whatever distinguishes the sites
    distinguishes the tissues as well.

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
