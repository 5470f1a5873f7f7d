"""Stage split: assign every patch to training, validation or test, by case or by site."""

import logging

from histocae import paths
from histocae.cohort.split import SPLITS, check_apart, split_cases, summarize, summarize_sites, uneven, write_tables
from histocae.files import read_cells, write_json
from histocae.params import Params
from histocae.patches.store import PatchStore
from histocae.sources.tables import SEED_COLUMNS

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write one table per split: nine columns of the slide's metadata and the patch's position in the store."""
    store = PatchStore(paths.PATCHES)
    slides = store.slides()
    shares = {"validation": params.split.validation, "test": params.split.test}
    shares["train"] = 1 - sum(shares.values())
    splits = slides["case_id"].map(split_cases(slides, shares, params.seed, params.split.together))
    tables = {split: slides[splits == split] for split in SPLITS}
    check_apart(tables)
    metadata = {row[2]: row for row in read_cells(paths.METADATA, SEED_COLUMNS)}
    write_tables(paths.SPLITS, store, dict(zip(slides["slide_id"], splits, strict=True)), metadata)
    types, pair = set(slides["sample_type"]), [name for name, model in params.models.items() if model.cohort != "all"]
    if len(types) == 1 and pair:
        log.warning(
            "the data have %s only: models of cohort tumor or normal (%s) will be refused",
            *types,
            ", ".join(pair),
        )
    summary = summarize(tables, shares)
    sites = summarize_sites(slides)
    write_json({**summary, "sites": sites}, paths.SPLIT_REPORT)
    for split, counts in summary.items():
        log.info(
            "%s: %d cases, %d slides, %d patches (%s); of all patches of %s (%.3g%% asked for)",
            split,
            counts["cases"],
            counts["slides"],
            counts["patches"],
            ", ".join(f"{name} {n['share_of_patches']:.1%}" for name, n in counts["sample_types"].items()),
            ", ".join(f"{name} {n['share_of_type']['patches']:.1%}" for name, n in counts["sample_types"].items()),
            100 * shares[split],
        )
    for sentence in uneven(slides, summary, params.split.together):
        log.warning("%s", sentence)
    if sites is not None:
        log.info(
            "tissue source sites: %s; %d have both, with %.1f%% of the cases",
            ", ".join(f"{name} {count}" for name, count in sites["sample_types"].items()),
            sites["in_both"],
            100 * sites["share_of_cases_in_both"],
        )
