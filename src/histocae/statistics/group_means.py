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

    `DataFrame.groupby(...).mean()` of pandas 3.1 adds in another order than that of earlier versions, so that means
    may differ in their last bit. Here the rows of a group are added one after another.

    Args:
        table: with the columns.
        groups: names of columns whose values make a group, or the group of each row; no value is missing.
        columns: floats to average; missing values are left out.

    Returns:
        float64, one row per group, sorted; the index has the groups.

    """
    grouped = table.groupby(groups)
    numbers = grouped.ngroup().to_numpy()
    index = grouped.size().index
    means = dict[Hashable, NDArray[np.float64]]()
    for column in columns:
        known = table[column].notna().to_numpy()
        sums = np.bincount(numbers[known], table[column].to_numpy(np.float64)[known], len(index))
        counts = np.bincount(numbers[known], minlength=len(index))
        means[column] = np.divide(sums, counts, out=np.full(len(index), np.nan), where=counts > 0)
    return pd.DataFrame(means, index=index)  # at once: columns added one by one make pandas warn from 100 on
