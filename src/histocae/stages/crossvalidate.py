"""Stage crossvalidate: the pair, trained and tested on folds of cases; without folds it does nothing."""

import itertools
import logging
import shutil
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae import paths
from histocae.cohort import balance, given
from histocae.cohort.split import SPLITS, with_metadata
from histocae.contrast import baselines, comparison, crossvalidation, outside
from histocae.files import replacing_folder, write_json, write_table
from histocae.networks import backend
from histocae.params import Params
from histocae.patches.store import PatchStore
from histocae.sources import given_split
from histocae.sources.tables import read_metadata
from histocae.stages.outside import open_features
from histocae.stages.train import train
from histocae.training import recipe

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write models/folds and reports/crossvalidation.

    Raises:
        DataError: there are folds and a given split, or a model can't be trained on a fold.

    """
    count, pair = params.crossvalidation.folds, params.pair
    given.check_folds(count, given_split.read(paths.GIVEN_SPLIT))
    current = {paths.fold(number).splits.parent for number in range(1, (count or 0) + 1)}
    for stale in set(paths.FOLDS.glob("fold-*")) - current:
        shutil.rmtree(stale)
    write_json({"folds": count}, paths.FOLDS / "folds.json")  # DVC would warn of an empty folder
    metrics: dict[str, Any] = {"folds": None}
    folds = None
    if count is not None and pair is not None:  # params.yaml with folds and no pair is refused
        divided = _divide(params, pair, count)
        folds = [_train_and_test(params, pair, number, tables) for number, tables in enumerate(divided, 1)]
        metrics = crossvalidation.pool(folds, params.tissue, params.seed).as_json()
        metrics["pair"] = dict(zip(("tumor", "normal"), pair, strict=True))
    with replacing_folder(paths.CROSSVALIDATION) as folder:
        if folds is not None:
            write_table(crossvalidation.scores(folds, params.tissue.score), folder / "scores.csv", separator=",")
        write_json(metrics, folder / "metrics.json")
    for sentence in metrics.get("sentences", ["crossvalidation.folds is null; nothing to do"]):
        log.info("%s", sentence)


def _divide(params: Params, pair: tuple[str, str], count: int) -> list[dict[str, pd.DataFrame]]:
    """Divide the cases, and check that both models can be trained on each fold."""
    patches = with_metadata(PatchStore(paths.PATCHES).index(), read_metadata(paths.METADATA))
    divided = crossvalidation.divide(patches, count, params.seed, params.split.together)
    for sentence in crossvalidation.uneven_folds(divided, params.split.together):
        log.warning("%s", sentence)
    # `sample` raises where a fold lacks cases; better now than after hours of training on earlier folds
    for tables, name, split in itertools.product(divided, pair, ("train", "validation")):
        own = params.model(name).training(params.training)
        balance.sample(
            tables[split], params.model(name).cohort, own.balance, own.min_percent_tumor_nuclei, params.seed
        )
    return divided


def _train_and_test(
    params: Params, pair: tuple[str, str], number: int, tables: dict[str, pd.DataFrame]
) -> crossvalidation.Fold:
    """Train the pair on a fold, unless it is trained already, and test it."""
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

    errors, training_rows, models = [], [], {}
    for name in pair:
        keras.backend.clear_session()
        description = recipe.describe(params, name, store, layout.splits, layout.trained)
        done = TrainingRecord(name, layout).is_of(description)
        cae = CAE(path=layout.trained / name, load=True) if done else train(params, name, layout, description)
        training_rows.append(balance.rows_for_model(tables["train"], description))
        models[name] = cae
        label = f"{name} on fold {number}"
        errors.append(
            {
                split: tables[split].assign(mse=reconstruction.measure_mse(cae, store.select(tables[split]), label))
                for split in ("validation", "test")
            }
        )
    validation, test = (
        comparison.join(tables[split], *(each[split] for each in errors)) for split in ("validation", "test")
    )
    tumor, normal = training_rows

    def errors_by_scale(rows: pd.DataFrame) -> NDArray[np.float32]:
        images, label = store.select(rows), f"errors by scale on fold {number}"
        return np.hstack([reconstruction.measure_by_scale(cae, images, label) for cae in models.values()])

    simpler, left_out = baselines.make(
        store,
        (tumor, normal),
        validation,
        test,
        errors_by_scale=errors_by_scale,
        encoded=None,
        seed=params.seed,
    )
    validation, test, simpler = comparison.with_score(params.tissue.score, validation, test, simpler)
    sampled = baselines.sample((tumor, normal), params.seed)
    parts = baselines.Parts(sampled, validation, test)
    compared, no_features = outside.compare(open_features(params, store), parts, params.seed)
    simpler, left_out = simpler | compared, left_out | no_features
    if params.tissue.baseline_pair is not None:
        left_out["baseline_pair"] = "only the pair of tissue is trained on folds"
    return crossvalidation.Fold(number, validation, test, simpler, left_out)
