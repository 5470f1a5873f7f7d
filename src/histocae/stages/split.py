"""Stage split: assign every patch to training, validation or test, by case or site, or as the user's table says."""

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd

from histocae import paths
from histocae.cohort.balance import lacking
from histocae.cohort.given import as_given, check_folds
from histocae.cohort.split import SPLITS, check_apart, split_cases, summarize, summarize_sites, uneven, write_tables
from histocae.files import read_cells, write_json
from histocae.params import Params
from histocae.patches.store import PatchStore
from histocae.sources import given_split
from histocae.sources.tables import SEED_COLUMNS

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write one table per split: nine columns of the slide's metadata, and the patch's position and label."""
    store = PatchStore(paths.PATCHES)
    slides = store.slides()
    given = given_split.read(paths.GIVEN_SPLIT)
    check_folds(params.crossvalidation.folds, given)  # better now than after all trainings
    shares = None
    if given:
        splits = as_given(slides, given, params.split.together)
    else:
        shares = {"validation": params.split.validation, "test": params.split.test}
        shares["train"] = 1 - sum(shares.values())
        splits = slides["case_id"].map(split_cases(slides, shares, params.seed, params.split.together))
    tables = {split: slides[splits == split] for split in SPLITS}
    check_apart(tables)
    metadata = {row[2]: row for row in read_cells(paths.METADATA, SEED_COLUMNS)}
    write_tables(paths.SPLITS, store, dict(zip(slides["slide_id"], splits, strict=True)), metadata)
    labels = store.labels()
    of_split = {split: labels[labels["slide_id"].isin(table["slide_id"])] for split, table in tables.items()}
    _warn_of_refusals(params, of_split)
    summary = summarize(tables, shares)
    sites = summarize_sites(slides)
    write_json({**summary, "given": shares is None, "sites": sites}, paths.SPLIT_REPORT)
    _log_counts(summary, shares)
    for sentence in [] if shares is None else uneven(slides, summary, params.split.together):
        log.warning("%s", sentence)
    if sites is not None:
        log.info(
            "tissue source sites: %s; %d have both, with %.1f%% of the cases",
            ", ".join(f"{name} {count}" for name, count in sites["sample_types"].items()),
            sites["in_both"],
            100 * sites["share_of_cases_in_both"],
        )


def _warn_of_refusals(params: Params, labels: Mapping[str, pd.DataFrame]) -> None:
    """Warn now of models that can't be trained: a model may be refused hours later."""
    refused: dict[tuple[str, str], list[str]] = {}
    for name, model in params.models.items():
        for part in ("train", "validation"):
            missing = lacking(labels[part], model.cohort, model.training(params.training).balance)
            if missing is not None:
                refused.setdefault((part, missing), []).append(name)
                break
    for (part, missing), names in refused.items():
        log.warning("%s has no patches of %s: these models will be refused: %s", part, missing, ", ".join(names))


def _log_counts(summary: Mapping[str, dict[str, Any]], shares: Mapping[str, float] | None) -> None:
    for split, counts in summary.items():
        log.info(
            "%s: %d cases, %d slides, %d patches (%s); of all patches of %s (%s)",
            split,
            counts["cases"],
            counts["slides"],
            counts["patches"],
            ", ".join(f"{name} {n['share_of_patches']:.1%}" for name, n in counts["sample_types"].items()),
            ", ".join(f"{name} {n['share_of_type']['patches']:.1%}" for name, n in counts["sample_types"].items()),
            "as given" if shares is None else f"{100 * shares[split]:.3g}% asked for",
        )
