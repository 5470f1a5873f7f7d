"""Stage metadata: one typed, checked row per slide; sample types that are not compared set aside."""

import logging

from histocae import paths, sources
from histocae.errors import DataError
from histocae.files import write_table
from histocae.identifiers import COMPARED
from histocae.params import Params
from histocae.setaside import set_aside
from histocae.tables import COLUMNS

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write the table of slides and the table of those set aside."""
    slides = sources.cohort(params.data, params.seed)
    compared = slides["sample_type"].isin(COMPARED)
    others = slides[~compared]
    if others.shape[0] == len(slides):
        raise DataError(f"no slide is of sample type {' or '.join(COMPARED)}; nothing is left to do")
    aside = [
        (row.slide_id, f"sample type {row.sample_type} is not compared", 0)
        for row in others.itertuples()
    ]
    write_table(slides.loc[compared, list(COLUMNS)], paths.METADATA)
    write_table(set_aside("metadata", aside), paths.METADATA_SET_ASIDE)
    kept = slides[compared]
    for name, rows in kept.groupby("sample_type"):
        log.info("%s: %d slides of %d cases", name, len(rows), rows["case_id"].nunique())
