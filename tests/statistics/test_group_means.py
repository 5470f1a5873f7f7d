"""Means of groups: the same to the last bit whatever the version of pandas."""

import math

import numpy as np
import pandas as pd
import pytest

from histocae.statistics.group_means import group_means
from histocae.statistics.levels import at_level

# each number of this table is a division, so it is the same on every machine
NUMBERS = np.arange(600)
TABLE = pd.DataFrame(
    {
        "case_id": [f"case-{number % 2}" for number in NUMBERS // 100],
        "slide_id": [f"slide-{number}" for number in NUMBERS // 100],
        "label": NUMBERS // 100 % 2,
        "score": NUMBERS * 7919 % 1009 / 1009 - 0.3,
    }
)
# the means of slides, and of the cases of these
OF_SLIDES = [
    "0x1.a1e6cf9f0f5adp-3",
    "0x1.9aacfe7ce3b1fp-3",
    "0x1.93732d5ab8092p-3",
    "0x1.a0b43d803a74cp-3",
    "0x1.84ff8b1660b77p-3",
    "0x1.a6bb7c839137ap-3",
]
OF_CASES = ["0x1.93732d5ab8093p-3", "0x1.a0b43d803a74ep-3"]


def test_means_are_the_same_to_the_last_bit_on_every_machine():
    means = group_means(TABLE, ["slide_id"], ["score"])
    assert list(means.index) == [f"slide-{number}" for number in range(6)]
    assert [mean.hex() for mean in means["score"]] == OF_SLIDES
    for number, mean in enumerate(means["score"]):
        exact = math.fsum(TABLE["score"][number * 100 : number * 100 + 100]) / 100
        assert mean == pytest.approx(exact, rel=1e-14)
    assert [score.hex() for score in at_level(TABLE, "case")["score"]] == OF_CASES


def test_the_order_of_the_rows_hardly_matters():
    mixed = group_means(TABLE.iloc[NUMBERS * 7 % 600], ["slide_id"], ["score"])
    pd.testing.assert_frame_equal(mixed, group_means(TABLE, ["slide_id"], ["score"]), rtol=1e-14)


def test_missing_values_are_left_out():
    table = pd.DataFrame({"group": ["a", "a", "b", "b"], "one": [1.0, np.nan, 2.0, 4.0], "none": np.nan})
    means = group_means(table, ["group"], ["one", "none"])
    assert list(means["one"]) == [1, 3] and means["none"].isna().all()


def test_groups_may_be_an_array_and_the_table_empty():
    table = pd.DataFrame({0: [1.0, 3.0, 8.0], 1: [0.0, 1.0, 2.0]})
    assert group_means(table, np.array(["b", "a", "b"]), [0, 1]).to_numpy().tolist() == [[3, 1], [4.5, 1]]
    assert group_means(table[:0], np.array([], str), [0, 1]).empty


def test_any_number_of_columns_is_averaged_without_a_warning():
    table = pd.DataFrame(np.arange(600.0).reshape(2, 300))
    pd.testing.assert_frame_equal(group_means(table, np.array(["a", "b"]), list(table)).reset_index(drop=True), table)
