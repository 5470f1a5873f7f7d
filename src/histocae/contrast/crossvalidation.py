"""A pair of models tested on folds of cases: each case once, by models that have not seen it."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from histocae.cohort import split
from histocae.contrast import comparison, verdicts
from histocae.contrast.baselines import Baseline
from histocae.params import Tissue
from histocae.statistics import discrimination


@dataclass(frozen=True)
class Fold:
    """What the pair and the baselines say of one fold's cases.

    Attributes:
        number: from 1.
        validation: what `contrast.join` gave.
        test: likewise.
        others: baselines, with the scores of the test patches.
        left_out: baselines that can't be made, with the reason.

    """

    number: int
    validation: pd.DataFrame
    test: pd.DataFrame
    others: dict[str, Baseline]
    left_out: dict[str, str] = field(default_factory=dict)


def divide(patches: pd.DataFrame, count: int, seed: int, together: str) -> list[dict[str, pd.DataFrame]]:
    """Divide patches by case: each fold tests once, the next one validates, the others train.

    Args:
        patches: with case_id, slide_id, shard and sample_type.
        count: of folds.
        seed: of the deal.
        together: case or site; see `split.folds`, whose errors are raised.

    Returns:
        Per fold the rows of train, validation and test.

    """
    of_case = split.folds(patches, count, seed, together)
    numbers = patches["case_id"].map(of_case).to_numpy()
    divided = []
    for number in range(count):
        test, validation = numbers == number, numbers == (number + 1) % count
        parts = {"train": ~(test | validation), "validation": validation, "test": test}
        divided.append({name: patches[parts[name]] for name in split.SPLITS})
        split.check_apart(divided[-1])
    return divided


def scores(tested: list[Fold]) -> pd.DataFrame:
    """List all patches with fold, both errors and score."""
    kept = [*comparison.KEPT, "error_tumor", "error_normal", "score"]
    return pd.concat([fold.test[kept].assign(fold=fold.number) for fold in tested], ignore_index=True)


def pool(tested: list[Fold], settings: Tissue, seed: int) -> dict:
    """Judge the scores of all folds together.

    Scores of pairs are pooled as they are: the log ratio of two errors is 0 where both models
    do equally well, whatever the fold. Those of other baselines mean something else in each
    fold, and are pooled in standard deviations from the mean of the fold's validation patches.
    What the folds' models differ in otherwise lowers the pooled AUROC, so that each fold's own
    stands beside it. Decisions use the threshold that each fold's validation cases gave.

    Args:
        tested: the folds.
        settings: replicates and confidence.
        seed: of the replicates.

    Returns:
        JSON-able: folds, what `comparison.discriminate_levels` gives, at_threshold.<level>,
        baselines (those that every fold has; each with direction and AUROCs per fold), left_out,
        each (per fold its number, test cases and AUROCs) and sentences.

    """
    everything = pd.concat([fold.test for fold in tested], ignore_index=True)
    found: dict = {"folds": len(tested), **comparison.discriminate_levels(everything, settings, seed)}
    found["baselines"] = {
        name: _pooled(everything, [fold.others[name] for fold in tested], tested, settings, seed)
        for name in tested[0].others
        if all(name in fold.others for fold in tested)
    }
    found["left_out"] = {name: reason for fold in tested for name, reason in fold.left_out.items()}
    found["each"], shifted = [], {level: [] for level in discrimination.LEVELS}
    for fold in tested:
        judged, fitting = comparison.by_level(fold.test), comparison.by_level(fold.validation)
        one = {"fold": fold.number, "test_cases": int(fold.test["case_id"].nunique()), **_aurocs(fold.test)}
        for level, rows in judged.items():
            bound = discrimination.threshold(fitting[level]["label"].to_numpy(), fitting[level]["score"].to_numpy())
            shifted[level].append(rows.assign(score=rows["score"] - bound))
        found["each"].append(one)
    found["at_threshold"] = {}
    for level, parts in shifted.items():
        rows = pd.concat(parts)
        columns = (rows[name].to_numpy() for name in ("label", "score", "case_id"))
        labels, values, cases = columns
        found["at_threshold"][level] = discrimination.at_threshold(labels, values, 0.0, settings.confidence, cases)
    found["sentences"] = [
        f"Every case was tested once, by models that had not seen it: {found['counts']['case']['cases']} cases in "
        f"{len(tested)} folds.",
        *(verdicts.verdict(found, level, settings.confidence) for level in discrimination.LEVELS),
    ]
    return found


def _pooled(everything: pd.DataFrame, folds: list[Baseline], tested: list[Fold], settings: Tissue, seed: int) -> dict:
    """Judge one baseline over all folds."""
    values = np.concatenate([_comparable(one) for one in folds])
    kept = comparison.discriminate_levels(everything.assign(score=values), settings, seed, precision=False)
    del kept["counts"]
    each = [
        {"fold": fold.number, "direction": one.direction, **one.more, **_aurocs(fold.test.assign(score=one.scores))}
        for fold, one in zip(tested, folds, strict=True)
    ]
    abouts = {one.about for one in folds}
    # where folds differ in a detail, that stands in `each`
    about = folds[0].about if len(abouts) == 1 else folds[0].about.split(" (")[0]
    return {"about": about, "fixed_on": folds[0].fixed_on, **kept, "each": each}


def _comparable(one: Baseline) -> np.ndarray:
    if one.held is None:
        return one.scores
    spread = one.held.std()
    return (one.scores - one.held.mean()) / (spread if spread > 0 else 1.0)


def _aurocs(test: pd.DataFrame) -> dict[str, float]:
    return {
        f"auroc_{level}": discrimination.auroc(rows["label"].to_numpy(), rows["score"].to_numpy())
        for level, rows in comparison.by_level(test).items()
    }
