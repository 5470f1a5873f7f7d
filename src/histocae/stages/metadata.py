"""Stage metadata: one typed, checked row per slide; slides of sample types that are not compared are set aside."""

import logging

from histocae import paths
from histocae.cohort.setaside import set_aside
from histocae.errors import DataError
from histocae.files import replacing_folder, write_table
from histocae.identifiers import COMPARED
from histocae.params import Params
from histocae.sources import slide_source

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write the table of slides and the table of those set aside.

    Raises:
        DataError: no slide is of a sample type that is compared.

    """
    cohort = slide_source.cohort(params.data, params.seed)
    slides = cohort.slides
    compared = slides["sample_type"].isin(COMPARED)
    ignored = slides[~compared]
    if len(ignored) == len(slides):
        raise DataError(f"no slide is of sample type {' or '.join(COMPARED)}; nothing is left to do")
    aside = [(slide_id, reason, 0) for slide_id, reason in cohort.aside] + [
        (row.slide_id, f"sample type {row.sample_type} is not compared", 0) for row in ignored.itertuples()
    ]
    with replacing_folder(paths.ASKED) as folder:
        cohort.write_query(folder)
    write_table(slides[compared], paths.METADATA)
    write_table(set_aside("metadata", aside), paths.METADATA_SET_ASIDE)
    kept = slides[compared]
    for name, rows in kept.groupby("sample_type"):
        log.info("%s: %d slides of %d cases", name, len(rows), rows["case_id"].nunique())
