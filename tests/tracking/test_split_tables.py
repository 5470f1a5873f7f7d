"""Tables of the split: the summary of a table read in parts equals that of the whole table."""

import json
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from mlflow.data.pandas_dataset import from_pandas

from histocae import files
from histocae.cohort import balance
from histocae.files import sha256, write_json, write_table
from histocae.paths import MAIN
from histocae.tracking import delivery, split_tables
from histocae.tracking.record import TrainingRecord
from support.make_data import NORMAL, TUMOR


def write_tables(cohort: str, balanced: str) -> None:
    """Write a split's tables with every kind of column, and the description of a training on them."""
    rng = np.random.default_rng(0)
    for split, rows in (("train", 1000), ("validation", 300), ("test", 1)):
        slide = np.sort(rng.integers(20, size=rows))
        table = pd.DataFrame(
            {
                "case_id": [f"{number // 2:04d}" for number in slide],  # a text that looks like a number
                "slide_id": [f"{number:04d}" for number in slide],
                "disease_type": np.where(slide % 3 == 0, None, "Adenomas"),
                "sample_type": np.where(slide % 4 == 0, NORMAL, TUMOR),
                "percent_tumor_nuclei": np.where(slide == 19, np.nan, 50.0 + slide),
                "percent_stromal_cells": [str(number) if number < 18 else "7.5" for number in slide],
                "percent_normal_cells": np.nan,
                "shard": [f"{number}" for number in slide],
                "position": np.arange(rows),
                "file": "a.svs",
                "mpp": 0.5,
                # as where half of the slides have regions
                "patch_label": np.where(slide % 4 == 0, NORMAL, np.where(slide == 13, None, TUMOR)),
                "label_share": np.where(slide % 2 == 0, 0.75, np.nan),
            }
        )
        write_table(table, MAIN.splits / f"{split}.csv")
    settings = {
        "seed": 1,
        "data": {"source": "slides"},
        "model": {"name": "a"},
        "training": {"epochs": 1, "balance": balanced, "min_percent_tumor_nuclei": None},
    }
    splits = {split: sha256(MAIN.splits / f"{split}.csv") for split in ("train", "validation", "test")}
    training = {
        "cohort": cohort,
        "made_from": "a fingerprint",
        "weights": "a fingerprint",
        "model": {"architecture": "plain"},
        "params": settings,
        "splits": splits,
        "patches": {"train": 1000, "validation": 300},
        **dict.fromkeys(("epochs", "best_epoch", "parameters", "latent_features", "latent_size"), 1),
    }
    write_json(training, MAIN.trained / "a" / "training.json")


def select_rows(record: TrainingRecord, split: str) -> pd.DataFrame:
    """Select the rows that a model uses from the table read as a whole."""
    table = balance.read_split(MAIN.splits / f"{split}.csv")
    if split == "test" and record.training["cohort"] == "all":
        return table
    if split == "test":
        return table[table["patch_label"].isin(balance.COHORTS[record.training["cohort"]])]
    return balance.rows_for_model(table, record.training)


@pytest.mark.parametrize("balanced", ["patches", "cases", "none"])
@pytest.mark.parametrize("cohort", ["all", "tumor", "normal"])
def test_tables_read_in_parts_have_the_counts_and_the_dataset_of_whole_tables(
    cohort, balanced, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_tables(cohort, balanced)
    read_parts = files.read_table_parts
    monkeypatch.setattr(split_tables, "read_table_parts", partial(read_parts, rows=37))
    record = TrainingRecord("a")
    for split, summary in record.tables.items():
        rows = select_rows(record, split)
        assert summary.rows == len(rows)
        assert summary.distinct == {name: rows[name].nunique() for name in ("case_id", "slide_id")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source, digest = (MAIN.splits / f"{split}.csv").as_posix(), record.training["splits"][split][:16]
            expected = from_pandas(rows, source, name=f"{split}-a", digest=digest).to_dict()
        dataset = dict(delivery._dataset(record, split, summary))
        assert {key: dataset[key] for key in expected} == expected
        assert json.loads(dataset["profile"])["num_rows"] == len(rows)


def test_changed_and_missing_tables_are_not_summarized(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tables("all", "none")
    with open(MAIN.splits / "test.csv", "a") as handle:
        handle.write("\n")
    (MAIN.splits / "validation.csv").unlink()
    record = TrainingRecord("a")
    assert record.tables["train"].rows == 1000
    assert record.tables["validation"] is record.tables["test"] is None
