"""Stage crossvalidate: the pair, trained and tested on folds of cases; nothing unless folds are asked for."""

import json
import logging
import shutil

import pandas as pd

from histocae import backend, baselines, cohorts, contrast, crossvalidation, paths, recipe
from histocae.files import read_table, replacing_folder, write_json, write_table
from histocae.params import Params
from histocae.split import SPLITS, check_apart, folds, with_metadata
from histocae.stages.train import train
from histocae.store import PatchStore
from histocae.tables import TEXTS

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write models/folds and reports/crossvalidation."""
    count = params.crossvalidation.folds
    wanted = {paths.fold(number).splits.parent for number in range(1, (count or 0) + 1)}
    for stale in set(paths.FOLDS.glob("fold-*")) - wanted:
        shutil.rmtree(stale)
    write_json({"folds": count}, paths.FOLDS / "folds.json")  # DVC would warn of an empty folder
    metrics: dict = {"folds": None}
    tested = None
    if count is not None:
        tested = [_fold(params, number, tables) for number, tables in enumerate(_divided(params, count), 1)]
        metrics = crossvalidation.pool(tested, params.tissue, params.seed)
        metrics["pair"] = dict(zip(("tumor", "normal"), params.pair, strict=True))
    with replacing_folder(paths.CROSSVALIDATION) as folder:
        if tested is not None:
            write_table(crossvalidation.scores(tested), folder / "scores.csv", separator=",")
        write_json(metrics, folder / "metrics.json")
    for sentence in metrics.get("sentences", ["crossvalidation.folds is null; nothing to do"]):
        log.info("%s", sentence)


def _divided(params: Params, count: int) -> list[dict[str, pd.DataFrame]]:
    """Give the tables of each fold: it tests, the next one validates, the others train."""
    index = PatchStore(paths.PATCHES).index()
    of_case = folds(index, count, params.seed, params.split.together)
    numbers = index["case_id"].map(of_case).to_numpy()
    patches = with_metadata(index, read_table(paths.METADATA, TEXTS))
    divided = []
    for number in range(count):
        test, validation = numbers == number, numbers == (number + 1) % count
        parts = {"train": ~(test | validation), "validation": validation, "test": test}
        divided.append({split: patches[parts[split]] for split in SPLITS})
        check_apart(divided[-1])
    return divided


def _fold(params: Params, number: int, tables: dict[str, pd.DataFrame]) -> crossvalidation.Fold:
    """Train the pair on a fold, unless that is done, and test it."""
    place = paths.fold(number)
    for split, table in tables.items():
        write_table(table, place.splits / f"{split}.csv")
    tables = {split: cohorts.read_split(place.splits / f"{split}.csv") for split in SPLITS}
    store = PatchStore(paths.PATCHES)
    backend.start()
    import keras

    from histocae import reconstruction
    from histocae.model import CAE

    errors, learnt, size = [], [], 0
    for name in params.pair:
        keras.backend.clear_session()
        about = recipe.describe(params, name, store, place.splits)
        file = place.trained / name / recipe.FILE
        former = json.loads(file.read_text(encoding="utf-8"))["made_from"] if file.is_file() else None
        done = former == about["made_from"] and (place.runs / f"{name}.json").is_file()
        cae = CAE(path=place.trained / name, load=True) if done else train(params, name, place)
        learnt.append(cohorts.learnt_from(tables["train"], about))
        size = json.loads(file.read_text(encoding="utf-8"))["latent_size"]
        label = f"{name} on fold {number}"
        errors.append(
            {
                split: tables[split].assign(mse=reconstruction.measure_mse(cae, store.select(tables[split]), label))
                for split in ("validation", "test")
            }
        )
    validation, test = (contrast.join(tables[one], *(each[one] for each in errors)) for one in ("validation", "test"))
    others = baselines.make(store, tuple(learnt), validation, test, size, None, params.seed)
    return crossvalidation.Fold(number, validation, test, others)
