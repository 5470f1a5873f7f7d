"""Cohorts: the patches of both tissues, of tumor or of normal tissue, and balanced samples of them.

The tissue of a patch is its label: that of the regions it lies in, or the sample type of a slide without regions. A
patch of a slide with regions that lies in none of them has no label. It is in cohort all only.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histocae.errors import DataError
from histocae.files import read_table
from histocae.identifiers import COHORTS, COMPARED, PRIMARY_TUMOR
from histocae.sources.tables import TEXTS


def read_split(path: Path) -> pd.DataFrame:
    """Read a table of data/splits, one row a patch."""
    needed = ("case_id", "slide_id", "sample_type", "shard", "patch_label")
    return read_table(path, (*TEXTS, "shard", "file", "patch_label", "flags"), needed=needed, numbers=("position",))


def read_rows_for_model(path: Path, description: dict[str, Any]) -> pd.DataFrame:
    """Read the rows of a table of training or validation that a model learns from, in little memory.

    Args:
        path: of the table, of any length.
        description: of the training; see `rows_for_model`, whose rows these are.

    Returns:
        One row a patch: patch_label and shard (categories) and position (int32), and for a model of one tissue
        case_id (category) and percent_tumor_nuclei.

    """
    columns = {"patch_label": "category", "shard": "category", "position": "int32"}
    if description["cohort"] != "all":
        columns |= {"case_id": "category", "percent_tumor_nuclei": "float64"}
    return rows_for_model(read_table(path, columns=columns), description)


def rows_for_model(table: pd.DataFrame, description: dict[str, Any]) -> pd.DataFrame:
    """Select the rows of a table of training or validation that a model learns from.

    Args:
        table: as `read_split` returns it.
        description: of the training, as `recipe.describe` returns it (training.json).

    Returns:
        The rows, one a patch.

    """
    training = description["params"]["training"]
    return sample(
        table,
        description["cohort"],
        training["balance"],
        training["min_percent_tumor_nuclei"],
        description["params"]["seed"],
    )


def select(table: pd.DataFrame, cohort: str) -> pd.DataFrame:
    """Select the rows of a cohort.

    Args:
        table: one row a patch, with patch_label.
        cohort: all | tumor | normal.

    Returns:
        The rows of the cohort.

    Raises:
        DataError: the cohort is tumor or normal, and has no rows.

    """
    if (missing := lacking(table, cohort, "none")) is not None:
        raise DataError(
            f"this part of the split has no patches of {missing}, of which models of cohort {cohort} are; add such "
            "slides or regions, or train models of cohort all only"
        )
    if cohort == "all":
        return table
    own = table["patch_label"].isin(COHORTS[cohort])
    return table if own.all() else table[own]  # a copy of all rows may not fit into memory


def lacking(table: pd.DataFrame, cohort: str, balance: str) -> str | None:
    """Find a label without which models of a cohort can't be trained.

    Args:
        table: rows with patch_label.
        cohort: all | tumor | normal.
        balance: patches | cases | none; without balance a model of one tissue does not need the other.

    Returns:
        A label that the table lacks; None where it lacks none.

    """
    if cohort == "all":
        return None
    needed = COHORTS[cohort] if balance == "none" else COMPARED
    present = set(table["patch_label"].unique())
    return next((name for name in needed if name not in present), None)


def sample(
    table: pd.DataFrame, cohort: str, balance: str, min_percent_tumor_nuclei: float | None, seed: int
) -> pd.DataFrame:
    """Select the rows that a model of a cohort learns from.

    For cohort all these are all rows. The two others get the same number, so that neither
    model of a pair sees more than the other: the number of patches of the rarer tissue. With balance
    `patches` they are drawn at random. With `cases` they are drawn from the same number of cases, and
    spread over these as evenly as their numbers of patches allow.

    Args:
        table: of training or of validation.
        cohort: all | tumor | normal.
        balance: patches | cases | none.
        min_percent_tumor_nuclei: tumor slides with less, or without a value, are left out.
        seed: of the draw.

    Returns:
        The rows, in the order of the table.

    Raises:
        DataError: no rows are left, or there are none of the tissue whose number the other is to match.

    """
    rows = select(table, cohort)
    if cohort == "all":
        return rows
    if (missing := lacking(table, cohort, balance)) is not None:
        raise DataError(
            f"models of cohort {cohort} learn from as many {balance} as those of the other tissue, and this part of "
            f"the split has no patches of {missing}; add such slides or regions, train models of cohort all only, or "
            "set training.balance: none"
        )
    (own,) = COHORTS[cohort]
    pools = {}
    for number, name in enumerate(COMPARED):
        if balance == "none" and name != own:
            continue  # the other tissue's number of patches does not matter
        pool = table[table["patch_label"] == name]
        if name == PRIMARY_TUMOR and min_percent_tumor_nuclei is not None:
            pool = pool[pool["percent_tumor_nuclei"] >= min_percent_tumor_nuclei]
            if pool.empty:
                raise DataError(
                    f"training.min_percent_tumor_nuclei: no tumor slide of this part of the split has "
                    f"{min_percent_tumor_nuclei:g} or more (slides without a value do not count); lower it, set it "
                    "to null, or try another seed"
                )
        pools[name] = (pool, np.random.default_rng([seed, number]))
    if balance == "none":
        return pools[own][0]
    if balance == "cases":
        cases = min(pool["case_id"].nunique() for pool, _ in pools.values())
        pools = {name: (_of_cases(pool, cases, rng), rng) for name, (pool, rng) in pools.items()}
    size = min(len(pool) for pool, _ in pools.values())
    pool, rng = pools[own]
    order = rng.permutation(len(pool))
    if balance == "cases":
        # round by round one patch of each case, until there are enough
        shuffled = pool["case_id"].iloc[order]
        turn = shuffled.groupby(shuffled, observed=True).cumcount().to_numpy()  # observed: it may be a category
        order = order[np.argsort(turn, kind="stable")]
    return pool.iloc[np.sort(order[:size])]


def _of_cases(pool: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    cases = np.sort(pool["case_id"].unique())
    return pool[pool["case_id"].isin(rng.choice(cases, count, replace=False))]
