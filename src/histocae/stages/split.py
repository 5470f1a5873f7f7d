"""Stage split: every patch into train, validation or test, by case."""

import logging

from histocae import paths
from histocae.files import read_table, write_json, write_table
from histocae.params import Params
from histocae.split import SPLITS, check_apart, split_cases, summarise
from histocae.store import PatchStore
from histocae.tables import SEED_COLUMNS, TEXTS

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write one table per split: the seeds' nine columns and each patch's place in the store."""
    index = PatchStore(paths.PATCHES).index()
    metadata = read_table(paths.METADATA, TEXTS)[list(SEED_COLUMNS)]
    shares = {"validation": params.split.validation, "test": params.split.test}
    shares["train"] = 1 - sum(shares.values())
    splits = index["case_id"].map(split_cases(index, shares, params.seed))
    place = [name for name in index.columns if name not in SEED_COLUMNS or name == "slide_id"]
    patches = index[place].merge(metadata, on="slide_id", how="left", validate="many_to_one")
    patches = patches[[*SEED_COLUMNS, *(name for name in place if name != "slide_id")]]
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
    write_json(summary, paths.SPLIT_REPORT)
    for split, one in summary.items():
        log.info(
            "%s: %d cases, %d slides, %d patches (%s)",
            split, one["cases"], one["slides"], one["patches"],
            ", ".join(f"{name} {n['share_of_patches']:.1%}" for name, n in one["sample_types"].items()),
        )  # fmt: skip
