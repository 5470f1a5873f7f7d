"""Scores of patches, slides and cases: which are valid, and how those of patches are averaged.

A label is 1 for tumor and 0 for normal; a higher score means tumor.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from histocae.errors import DataError
from histocae.statistics.group_means import group_means

LEVELS = ("patch", "slide", "case")


def check_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Convert labels and scores to arrays and check that they allow a comparison.

    Args:
        labels: 1 tumor, 0 normal; shape (n,), of any numeric dtype.
        scores: finite numbers, shape (n,).

    Returns:
        The labels as int8 and the scores as float64, shape (n,) each.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite numbers")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels are 1 (tumor) or 0 (normal), and some have another value")
    labels = labels.astype(np.int8)
    if len(labels) == 0 or labels.min() == labels.max():
        present = "neither" if len(labels) == 0 else ("normal", "tumor")[labels[0]] + " only"
        raise DataError(
            f"there are scores of {present}, and a comparison needs both tissues: add cases of the missing one"
        )
    return labels, scores


def average_scores(table: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """Average scores in groups so that ties stay ties: the mean of equal scores is that score, to the bit.

    A plain mean is rounded, and the rounding depends on the size of the group. Equal scores
    would then be ranked by the sizes of their groups.

    Args:
        table: the columns named by `groups`, and score.
        groups: columns whose values make a group.

    Returns:
        One row per group, sorted: the columns of `groups`, score, and number (rows of the group).

    """
    columns = list(groups)
    first = table.groupby(columns)["score"].transform("first")
    differences = table[columns].assign(first=first, beyond=table["score"] - first)
    means = differences.groupby(columns).agg(number=("beyond", "size"), first=("first", "first"))
    means = means.join(group_means(differences, columns, ["beyond"])).reset_index()
    return means[columns].assign(score=means["first"] + means["beyond"], number=means["number"])


def at_level(table: pd.DataFrame, level: str) -> pd.DataFrame:
    """Average the scores of patches to the units of a level.

    Args:
        table: one row per patch: case_id, slide_id, label (1 tumor, 0 normal), score.
        level: patch; slide: mean of its patches; case: mean of its slides, for each label that
            the case has. A case with both tissues is therefore two units.

    Returns:
        One row per unit: case_id, label, score.

    Raises:
        DataError: only one class is present, a score is not finite, or a label is neither 0 nor 1.

    """
    labels, scores = check_scores(table["label"].to_numpy(), table["score"].to_numpy())
    units = pd.DataFrame(
        {
            "case_id": table["case_id"].to_numpy(),
            "slide_id": table["slide_id"].to_numpy(),
            "label": labels,
            "score": scores,
        }
    )
    if level != "patch":
        units = average_scores(units, ["case_id", "slide_id", "label"])
    if level == "case":
        units = average_scores(units, ["case_id", "label"])
    return units[["case_id", "label", "score"]]
