"""Stage metadata: one typed, checked row per slide; slides of sample types that are not compared are set aside."""

import logging

from histocae import paths
from histocae.cohort.setaside import set_aside
from histocae.errors import DataError
from histocae.files import replacing_folder, write_table
from histocae.identifiers import COMPARED
from histocae.params import Params
from histocae.sources import given_split, slide_source

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write the table of slides, the split that the user's table gives, and the table of slides set aside.

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
    kept = slides[compared]
    write_table(kept, paths.METADATA)
    given_split.write(cohort.part_of, kept["slide_id"], paths.GIVEN_SPLIT)
    write_table(set_aside("metadata", aside), paths.METADATA_SET_ASIDE)
    for name, rows in kept.groupby("sample_type"):
        log.info("%s: %d slides of %d cases", name, len(rows), rows["case_id"].nunique())
