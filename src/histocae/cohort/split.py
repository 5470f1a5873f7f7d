"""Assign cases to training, validation and test, or to folds: stratified by sample type, seeded."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histocae.cohort.deal import COUNTED, TOLERANCE, Split, Units, deal
from histocae.errors import DataError
from histocae.files import table_writer
from histocae.identifiers import COMPARED, site_of
from histocae.patches.store import PATCH_COLUMNS, PatchStore
from histocae.sources.tables import SEED_COLUMNS

SPLITS = ("train", "validation", "test")
# which of two splits gets a case where both are equally entitled to it: test reports, and validation chooses only
PREFERRED = ("train", "test", "validation")


def split_cases(slides: pd.DataFrame, shares: dict[str, float], seed: int, together: str = "case") -> dict[str, str]:
    """Assign every case to a split; every split gets every sample type in its share of cases, slides and patches.

    Numbers of cases come first; see `deal.deal`.

    Args:
        slides: a row per slide with case_id, sample_type and patches (their number); in any order.
        shares: asked for per split, summing to 1.
        seed: of the order in which equal cases are assigned, and of the search.
        together: the unit that is never divided: case, or site (the tissue source site of a TCGA
            barcode; images reveal it: Howard et al. 2021, Nature Communications 12:4423).

    Returns:
        The split of each case.

    Raises:
        DataError: a sample type has fewer cases (or sites) than there are splits, or the unit is
            the site and a case_id is no barcode.

    """
    unit_of = units_of_cases(slides, together)
    units = _units(slides, unit_of)
    for name, count in _counts(units).items():
        if count < len(SPLITS):
            raise DataError(
                f"{name}: {count} {together}{'s' * (count != 1)}, and the split needs at least {len(SPLITS)}: "
                f"one each to train, validate and test; {_remedy(together)} or leave out this sample type"
            )
    return _split_of_cases(unit_of, deal(units, {split: shares[split] for split in PREFERRED}, seed))


def folds(slides: pd.DataFrame, count: int, seed: int, together: str) -> dict[str, int]:
    """Assign every case to a fold of equal share; every fold gets every sample type.

    Args:
        slides: a row per slide with case_id, sample_type and patches (their number); in any order.
        count: number of folds.
        seed: of the order in which equal cases are assigned, and of the search.
        together: the unit that is never divided: case or site; see `split_cases`.

    Returns:
        The fold of each case, 0 to count - 1.

    Raises:
        DataError: a sample type has fewer cases (or sites) than there are folds, or the unit is
            the site and a case_id is no barcode.

    """
    unit_of = units_of_cases(slides, together)
    units = _units(slides, unit_of)
    counts = _counts(units)
    name = min(counts, key=lambda name: (counts[name], name))
    if (most := counts[name]) < count:
        possible = f"set crossvalidation.folds to {most} or less" if most > 1 else "set crossvalidation.folds to null"
        raise DataError(
            f"{name}: {most} {together}{'s' * (most != 1)}, and each of {count} folds needs one; "
            f"{possible}, or {_remedy(together)}"
        )
    return _split_of_cases(unit_of, deal(units, dict.fromkeys(range(count), 1 / count), seed))


def count_patches(patches: pd.DataFrame) -> pd.DataFrame:
    """Count the patches of each slide.

    Args:
        patches: a row per patch with case_id, slide_id and sample_type.

    Returns:
        A row per slide with these columns and patches.

    """
    return patches.groupby(["case_id", "slide_id", "sample_type"]).size().reset_index(name="patches")


def _split_of_cases(unit_of: "pd.Series[str]", split_of_unit: dict[str, Split]) -> dict[str, Split]:
    return {str(case): split_of_unit[unit] for case, unit in unit_of.items()}


def _remedy(together: str) -> str:
    return "add cases" if together == "case" else "set split.together: case or add cases of other sites"


def units_of_cases(slides: pd.DataFrame, together: str) -> "pd.Series[str]":
    """Give each case the unit that is assigned as a whole: itself, or its site.

    Args:
        slides: rows with case_id.
        together: case or site.

    Returns:
        The unit of each case; the index has the cases, sorted.

    Raises:
        DataError: the unit is the site and a case_id is no barcode.

    """
    cases = pd.Series(sorted(slides["case_id"].unique()))
    cases.index = pd.Index(cases)
    if together == "case":
        return cases
    sites = cases.map(site_of)
    if (missing := sites.isna()).any():
        raise DataError(
            f"split.together: site reads the site from TCGA barcodes (TCGA-XX-...), and case_id "
            f"{cases[missing].iloc[0]!r} is no barcode; set split.together: case"
        )
    return sites


def _units(slides: pd.DataFrame, unit_of: "pd.Series[str]") -> Units:
    rows = slides.assign(unit=slides["case_id"].map(unit_of))
    counted = rows.groupby(["unit", "sample_type"]).agg(
        cases=("case_id", "nunique"), slides=("case_id", "size"), patches=("patches", "sum")
    )
    tables = [counted[name].unstack(fill_value=0).sort_index().sort_index(axis=1) for name in COUNTED]
    counts = np.stack([table.to_numpy(np.int64) for table in tables], axis=2)
    return Units(list(tables[0].index), list(tables[0].columns), counts)


def _counts(units: Units) -> dict[str, int]:
    return {name: int(count) for name, count in zip(units.sample_types, (units.cases > 0).sum(axis=0), strict=True)}


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
        columns = (*SEED_COLUMNS, "shard", *PATCH_COLUMNS)
        writers = {
            name: whole.enter_context(table_writer(folder / f"{name}.csv", columns)).writerow for name in SPLITS
        }
        slides: dict[str, tuple[Callable[[Sequence[str]], object], Sequence[str]]] = {}
        for slide_id, name in split_of.items():
            if slide_id not in metadata:
                raise DataError(f"slide {slide_id!r} has patches and no metadata; run dvc repro patches")
            slides[slide_id] = writers[name], metadata[slide_id]
        for slide_id, *position in store.rows(("slide_id", "shard", *PATCH_COLUMNS)):
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


def summarize(tables: dict[str, pd.DataFrame], shares: dict[str, float] | None) -> dict[str, dict[str, Any]]:
    """Count cases, slides and patches per split and sample type, with their shares.

    Args:
        tables: per split, a row per slide, as `PatchStore.slides` returns them.
        shares: asked for per split; None where the split is given.

    Returns:
        Per split: cases, slides, patches, and per sample type the same with two kinds of shares. share_of_patches is
        the type's share of the split's patches. share_of_type has the split's share of the type's cases, slides and
        patches, beside the share that was asked for (None where the split is given).

    """
    whole = {name: _counted(rows) for name, rows in pd.concat(tables.values()).groupby("sample_type")}
    summary: dict[str, dict[str, Any]] = {}
    for split, table in tables.items():
        total = _counted(table)
        by_type: dict[str, Any] = {}
        for name, rows in table.groupby("sample_type"):
            counts = _counted(rows)
            parts = {key: round(counts[key] / whole[name][key], 6) for key in COUNTED}
            by_type[str(name)] = {
                **counts,
                "share_of_patches": round(counts["patches"] / total["patches"], 6),
                "share_of_type": {"asked": None if shares is None else round(shares[split], 6), **parts},
            }
        summary[split] = {**total, "sample_types": by_type}
    return summary


def uneven(slides: pd.DataFrame, summary: dict[str, dict[str, Any]], together: str) -> list[str]:
    """Describe the sample types whose patches could not be divided by the shares asked for.

    Args:
        slides: a row per slide with case_id, sample_type and patches.
        summary: the result of `summarize`.
        together: the unit that is never divided: case or site.

    Returns:
        A sentence per sample type with a share that is off by more than `deal.TOLERANCE`; with the reason and the
        remedy.

    """
    unit_of = units_of_cases(slides, together)
    sentences = []
    for name, rows in slides.groupby("sample_type"):
        parts = {split: counts["sample_types"][name]["share_of_type"] for split, counts in summary.items()}
        off = [
            f"{split} has {part['patches']:.1%} of its patches ({part['asked']:.1%} asked for)"
            for split, part in parts.items()
            if round(abs(part["patches"] - part["asked"]), 6) > TOLERANCE
        ]
        if off:
            patches = rows.groupby(rows["case_id"].map(unit_of))["patches"].sum()
            sentences.append(
                f"{name}: {', '.join(off)}; {together} {patches.idxmax()!r}, the largest of {len(patches)}, has "
                f"{patches.max() / patches.sum():.1%} of them and stays whole; lower patches.max_per_slide, "
                f"{_remedy(together)}, or try another seed"
            )
    return sentences


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
