"""Cohorts: the patches of both tissues, of tumor or of normal ones."""

from pathlib import Path

import pandas as pd

from histocae.errors import DataError
from histocae.files import read_table
from histocae.identifiers import COHORTS, COMPARED
from histocae.tables import TEXTS


def read_split(path: Path) -> pd.DataFrame:
    """Read a table of data/splits."""
    return read_table(path, (*TEXTS, "shard", "file"))


def select(table: pd.DataFrame, cohort: str) -> pd.DataFrame:
    """Give the rows of a cohort.

    Raises:
        DataError: the cohort is one of a pair and the data have only one of the two.

    """
    if cohort != "all":
        present = set(table["sample_type"])
        for missing in (name for name in COMPARED if name not in present):
            raise DataError(
                f"cohort {cohort} is there to be compared with the other tissue, and the data have no "
                f"patches of {missing}; add such slides, or train models of cohort all only"
            )
    return table[table["sample_type"].isin(COHORTS[cohort])]
