"""Cases into training, validation and test: whole cases, stratified by sample type, seeded."""

import numpy as np
import pandas as pd

from histocae.errors import DataError

SPLITS = ("train", "validation", "test")


def split_cases(index: pd.DataFrame, shares: dict[str, float], seed: int) -> dict[str, str]:
    """Assign every case to a split.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, ECML PKDD, LNCS
    6913:145-158) over the sample types that a case has, so that a case with tumor and
    normal slides counts for both: the rarest type is dealt out first, each case to the
    split that lacks the largest part of its share. Every split gets a case of every type.

    Args:
        index: rows with columns case_id and sample_type.
        shares: share of the cases per split, summing to 1.
        seed: of the order in which equal cases are dealt.

    Returns:
        The split of each case.

    Raises:
        DataError: a sample type has fewer cases than there are splits.

    """
    types = index.groupby("case_id")["sample_type"].agg(lambda one: frozenset(one))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(types))
    left = {case: types.iloc[i] for i, case in zip(order, types.index[order], strict=True)}
    names = sorted(set().union(*left.values()))
    wanted = {
        name: _whole(sum(name in one for one in left.values()), shares, name) for name in names
    }
    lacking = {name: dict(one) for name, one in wanted.items()}
    assigned: dict[str, str] = {}
    while left:
        counts = {name: sum(name in one for one in left.values()) for name in names}
        rarest = min((name for name in names if counts[name]), key=lambda name: (counts[name], name))
        # cases of several types first: they are the hardest to place
        for case in sorted((c for c in left if rarest in left[c]), key=lambda c: -len(left[c])):
            types = [rarest, *(left.pop(case) - {rarest})]
            split = max(
                SPLITS,
                # in proportion: by number alone, training would take all the first cases
                key=lambda s, types=types: [lacking[name][s] / wanted[name][s] for name in types],
            )
            assigned[case] = split
            for name in types:
                lacking[name][split] -= 1
    return assigned


def _whole(cases: int, shares: dict[str, float], name: str) -> dict[str, int]:
    """Share out cases in whole numbers, at least one to each split (largest remainders)."""
    if cases < len(SPLITS):
        raise DataError(
            f"{name}: {cases} case{'s' * (cases != 1)}, and the split needs at least {len(SPLITS)}: "
            "one each to train, validate and test; add cases or leave out this sample type"
        )
    exact = {split: cases * shares[split] for split in SPLITS}
    whole = {split: max(1, int(exact[split])) for split in SPLITS}
    while sum(whole.values()) != cases:
        step = 1 if sum(whole.values()) < cases else -1
        able = [s for s in SPLITS if step > 0 or whole[s] > 1]
        whole[max(able, key=lambda s: (step * (exact[s] - whole[s]), -SPLITS.index(s)))] += step
    return whole


def check_apart(tables: dict[str, pd.DataFrame]) -> None:
    """Check that no case, slide or patch stands in two splits.

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
    """Count cases, slides and patches per split and sample type, with each type's share."""
    summary: dict[str, dict] = {}
    for split, table in tables.items():
        by_type = {
            name: {
                "cases": int(rows["case_id"].nunique()),
                "slides": int(rows["slide_id"].nunique()),
                "patches": len(rows),
                "share_of_patches": round(len(rows) / len(table), 6),
            }
            for name, rows in table.groupby("sample_type")
        }
        summary[split] = {
            "cases": int(table["case_id"].nunique()),
            "slides": int(table["slide_id"].nunique()),
            "patches": len(table),
            "sample_types": by_type,
        }
    return summary
