"""A split that the user's table gives, in place of one that `split.split_cases` computes."""

from collections.abc import Mapping

import pandas as pd

from histocae.cohort.split import SPLITS, units_of_cases
from histocae.errors import DataError


def as_given(slides: pd.DataFrame, part_of: Mapping[str, str], together: str) -> "pd.Series[str]":
    """Take the split of each slide as it is given.

    No sample type has to be in every split: benchmarks of anomaly detection train on normal tissue only.

    Args:
        slides: a row per slide with slide_id and case_id, of those that have patches.
        part_of: the given split of each slide; other slides may be among them.
        together: the unit that must not be divided: case or site.

    Returns:
        The split of each row.

    Raises:
        DataError: a slide has no given split, a split has no slides, or `together` is the site and a site is in two
            splits or a case_id is no barcode.

    """
    parts = slides["slide_id"].map(part_of)
    for slide_id in slides["slide_id"][parts.isna()][:1]:
        raise DataError(f"slide {slide_id!r} has patches and no given split; run dvc repro patches")
    for split in SPLITS:
        if not (parts == split).any():
            raise DataError(
                f"no slide to which your table gives split {split!r} has patches (reports/set_aside.csv has the "
                f"reasons); give other cases to {split}"
            )
    if together == "site":
        sites = slides["case_id"].map(units_of_cases(slides, together))
        first = parts.groupby(sites).transform("first")
        for row in slides.index[parts != first][:1]:
            raise DataError(
                f"split.together: site: your table gives site {sites[row]!r} to {first[row]} and, with case "
                f"{slides.at[row, 'case_id']!r}, to {parts[row]}; set split.together: case, or change column split"
            )
    return parts


def check_folds(folds: int | None, part_of: Mapping[str, str]) -> None:
    """Check that a given split is not divided anew.

    Args:
        folds: their number; None for no folds.
        part_of: the given split of each slide; empty for none.

    Raises:
        DataError: there are folds and a given split.

    """
    if folds is not None and part_of:
        raise DataError(
            "crossvalidation.folds: folds would assign the cases anew, and column split of your table assigns them; "
            "set crossvalidation.folds: null, or remove the column"
        )
