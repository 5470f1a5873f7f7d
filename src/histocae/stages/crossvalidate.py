"""Stage crossvalidate: the pair, trained and tested on folds of cases; nothing unless folds are asked for."""

import itertools
import logging
import shutil
from typing import Any

import pandas as pd

from histocae import paths
from histocae.cohort import balance
from histocae.cohort.split import SPLITS, with_metadata
from histocae.contrast import baselines, comparison, crossvalidation
from histocae.files import read_table, replacing_folder, write_json, write_table
from histocae.networks import backend
from histocae.params import Params
from histocae.patches.store import PatchStore
from histocae.sources.tables import TEXTS
from histocae.stages.train import train
from histocae.training import recipe

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write models/folds and reports/crossvalidation."""
    count = params.crossvalidation.folds
    wanted = {paths.fold(number).splits.parent for number in range(1, (count or 0) + 1)}
    for stale in set(paths.FOLDS.glob("fold-*")) - wanted:
        shutil.rmtree(stale)
    write_json({"folds": count}, paths.FOLDS / "folds.json")  # DVC would warn of an empty folder
    metrics: dict[str, Any] = {"folds": None}
    tested = None
    if count is not None:
        tested = [_fold(params, number, tables) for number, tables in enumerate(_divided(params, count), 1)]
        metrics = crossvalidation.pool(tested, params.tissue, params.seed).as_json()
        metrics["pair"] = dict(zip(("tumor", "normal"), params.pair, strict=True))
    with replacing_folder(paths.CROSSVALIDATION) as folder:
        if tested is not None:
            write_table(crossvalidation.scores(tested), folder / "scores.csv", separator=",")
        write_json(metrics, folder / "metrics.json")
    for sentence in metrics.get("sentences", ["crossvalidation.folds is null; nothing to do"]):
        log.info("%s", sentence)


def _divided(params: Params, count: int) -> list[dict[str, pd.DataFrame]]:
    """Give the tables of each fold, from all of which the pair can learn."""
    patches = with_metadata(PatchStore(paths.PATCHES).index(), read_table(paths.METADATA, TEXTS))
    divided = crossvalidation.divide(patches, count, params.seed, params.split.together)
    # what the last fold lacks is better told before the first one is trained
    for tables, name, split in itertools.product(divided, params.pair, ("train", "validation")):
        own = params.model(name).training(params.training)
        balance.sample(
            tables[split], params.model(name).cohort, own.balance, own.min_percent_tumor_nuclei, params.seed
        )
    return divided


def _fold(params: Params, number: int, tables: dict[str, pd.DataFrame]) -> crossvalidation.Fold:
    """Train the pair on a fold, unless that is done, and test it."""
    layout = paths.fold(number)
    for split, table in tables.items():
        write_table(table, layout.splits / f"{split}.csv")
    tables = {split: balance.read_split(layout.splits / f"{split}.csv") for split in SPLITS}
    store = PatchStore(paths.PATCHES)
    backend.start()
    backend.repeatable(params.seed)
    import keras

    from histocae.evaluation import reconstruction
    from histocae.networks.cae import CAE
    from histocae.tracking.record import TrainingRecord

    errors, learnt, size = [], [], 0
    for name in params.pair:
        keras.backend.clear_session()
        description = recipe.describe(params, name, store, layout.splits, layout.trained)
        done = TrainingRecord(name, layout).is_of(description)
        cae = CAE(path=layout.trained / name, load=True) if done else train(params, name, layout, description)
        learnt.append(balance.rows_for_model(tables["train"], description))
        size = TrainingRecord(name, layout).training["latent_size"]
        label = f"{name} on fold {number}"
        errors.append(
            {
                split: tables[split].assign(mse=reconstruction.measure_mse(cae, store.select(tables[split]), label))
                for split in ("validation", "test")
            }
        )
    validation, test = (
        comparison.join(tables[one], *(each[one] for each in errors)) for one in ("validation", "test")
    )
    others, left_out = baselines.make(
        store, tuple(learnt), validation, test, components=size, encoded=None, seed=params.seed
    )
    return crossvalidation.Fold(number, validation, test, others, left_out)
