"""Means of groups, with the same rounding whatever the version of pandas."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def group_means(
    table: pd.DataFrame, groups: Sequence[Hashable] | NDArray[Any], columns: Sequence[Hashable]
) -> pd.DataFrame:
    """Average columns in groups.

    Since version 3.1, pandas sums groups whose rows are in the order of the groups by `np.add.reduceat`. Before, it
    summed all groups with a correction of the rounding. The sums may differ in their last bit. This function does as
    pandas 3.1 does.

    Args:
        table: with the columns.
        groups: names of columns whose values make a group, or the group of each row; no value is missing.
        columns: floats to average; missing values are left out.

    Returns:
        float64, one row per group, sorted; the index has the groups.

    """
    grouped = table.groupby(groups)
    means = grouped[list(columns)].mean()
    numbers = grouped.ngroup().to_numpy()
    in_order = len(numbers) > 0 and bool((np.diff(numbers) >= 0).all())
    if in_order and not table[list(columns)].isna().any(axis=None):
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        sizes = np.diff(starts, append=len(numbers))
        for column in columns:
            means[column] = np.add.reduceat(table[column].to_numpy(np.float64), starts) / sizes
    return means
