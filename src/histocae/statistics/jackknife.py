"""How certain an AUROC is whose units are clustered in cases: what it would be without each case in turn.

A case with both tissues is one cluster: its tumor and its normal units are alike, which makes the
AUROC of paired cases more certain than that of as many single ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Areas:
    """AUROCs with their variances.

    Attributes:
        value: float64, shape (...).
        variance: float64, shape (...).
        degrees: of freedom of the variance, float64, shape (...), at least 1.

    """

    value: Floats
    variance: Floats
    degrees: Floats


def areas(won: Floats, pairs: Floats, tumors: Floats, normals: Floats) -> Areas:
    """Compute AUROCs, their variances by leaving out each case, and the degrees of freedom of these.

    Each kind of case (tumor only, normal only, both) has one degree of freedom less than it has
    cases; a kind that contributes most of the variance decides.

    Args:
        won: float64, shape (..., cases + 1): of how many pairs of a tumor and a normal unit that a case is part of
            the tumor unit scores higher (ties count half); in the last column that of all pairs.
        pairs: likewise the number of pairs.
        tumors: float64, shape (..., cases): tumor units of each case.
        normals: likewise normal units.

    Returns:
        The AUROCs. Where a tissue has one case only, the variance has no meaning.

    References:
        Arvesen 1969, Annals of Mathematical Statistics 40:2076-2100 (jackknife of such statistics). For single cases
        it is the variance of Obuchowski 1997, Biometrics 53:567-578, and with one unit a case that of DeLong, DeLong
        and Clarke-Pearson 1988, Biometrics 44:837-845.
        Satterthwaite 1946, Biometrics Bulletin 2:110-114; for the AUROC Brunner and Munzel 2000, Biometrical
        Journal 42:17-25 (degrees of freedom).

    """
    value = won[..., -1] / pairs[..., -1]
    left = pairs[..., -1:] - pairs[..., :-1]
    without = np.divide(won[..., -1:] - won[..., :-1], left, out=value[..., None] + 0 * left, where=left > 0)
    squares = (without - value[..., None]) ** 2
    has_tumor, has_normal = tumors > 0, normals > 0
    variance, parts = np.zeros(value.shape), np.zeros(value.shape)
    for kind, alike in (
        (has_tumor & ~has_normal, has_tumor),
        (has_normal & ~has_tumor, has_normal),
        (has_tumor & has_normal, has_tumor | has_normal),
    ):
        cases = alike.sum(axis=-1)
        share = (squares * kind).sum(axis=-1) * (cases - 1) / np.maximum(cases, 1)
        variance, parts = variance + share, parts + share**2 / np.maximum(kind.sum(axis=-1) - 1, 1)
    # where the variance is 0 the degrees of freedom are as many as the cases allow
    most = (has_tumor | has_normal).sum(axis=-1) - 1.0
    degrees = np.where(parts > 0, variance**2 / np.where(parts > 0, parts, 1.0), most)
    return Areas(value, variance, np.maximum(degrees, 1.0))


def interactions(won: Floats, pairs: Floats) -> float:
    """Estimate by how much `areas` overstates the variance of an AUROC of few cases.

    Leaving out each case counts twice what two cases contribute only together, beyond what each contributes alone.

    Args:
        won: float64, shape (cases, cases): of how many pairs of a tumor unit of one case (row) and a normal unit of
            another (column) the tumor unit scores higher (ties count half); 0 on the diagonal.
        pairs: likewise the number of pairs; at least two rows and two columns have some.

    Returns:
        What to subtract from the variance.

    References:
        Efron and Stein 1981, Annals of Statistics 9:586-596.

    """
    in_row, in_column = pairs.sum(axis=1), pairs.sum(axis=0)
    rows, columns = in_row > 0, in_column > 0
    surplus = won - won.sum() / pairs.sum() * pairs
    of_tumors = np.divide(surplus.sum(axis=1), in_row, out=np.zeros(len(won)), where=rows)
    of_normals = np.divide(surplus.sum(axis=0), in_column, out=np.zeros(len(won)), where=columns)
    beyond = surplus - pairs * (of_tumors[:, None] + of_normals)
    together = beyond + beyond.T  # two paired cases have pairs of either order
    # degrees of freedom of what is beyond the means of rows and columns
    factor = float(np.prod([count / (count - 1) for count in (rows.sum(), columns.sum())]))
    return float(np.square(together).sum() / 2 * factor / pairs.sum() ** 2)
