"""Stage split: every patch into train, validation or test, by case or by site."""

import logging

from histocae import paths
from histocae.files import read_table, write_json, write_table
from histocae.params import Params
from histocae.split import SPLITS, check_apart, split_cases, summarise, summarise_sites, with_metadata
from histocae.store import PatchStore
from histocae.tables import TEXTS

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write one table per split: the seeds' nine columns and each patch's place in the store."""
    index = PatchStore(paths.PATCHES).index()
    shares = {"validation": params.split.validation, "test": params.split.test}
    shares["train"] = 1 - sum(shares.values())
    splits = index["case_id"].map(split_cases(index, shares, params.seed, params.split.together))
    patches = with_metadata(index, read_table(paths.METADATA, TEXTS))
    tables = {split: patches[(splits == split).to_numpy()] for split in SPLITS}
    check_apart(tables)
    for split, table in tables.items():
        write_table(table, paths.SPLITS / f"{split}.csv")
    types, pair = set(index["sample_type"]), [n for n, m in params.models.items() if m.cohort != "all"]
    if len(types) == 1 and pair:
        log.warning(
            "the data have %s only: models of cohort tumor or normal (%s) will be refused",
            *types, ", ".join(pair),
        )  # fmt: skip
    summary = summarise(tables)
    sites = summarise_sites(index)
    write_json({**summary, "sites": sites}, paths.SPLIT_REPORT)
    for split, one in summary.items():
        log.info(
            "%s: %d cases, %d slides, %d patches (%s)",
            split, one["cases"], one["slides"], one["patches"],
            ", ".join(f"{name} {n['share_of_patches']:.1%}" for name, n in one["sample_types"].items()),
        )  # fmt: skip
    if sites is not None:
        log.info(
            "tissue-source sites: %s; %d have both, with %.1f%% of the cases",
            ", ".join(f"{name} {count}" for name, count in sites["sample_types"].items()),
            sites["in_both"], 100 * sites["share_of_cases_in_both"],
        )  # fmt: skip
