"""A pair of models tested on folds of cases: each case once, by models that have not seen it."""

from dataclasses import dataclass

import pandas as pd

from histocae import contrast, statistics, verdicts
from histocae.baselines import Baseline
from histocae.params import Tissue


@dataclass(frozen=True)
class Fold:
    """What the pair and the baselines say of one fold's cases.

    Attributes:
        number: from 1.
        validation: what `contrast.join` gave.
        test: likewise.
        others: baselines, with the scores of the test patches.

    """

    number: int
    validation: pd.DataFrame
    test: pd.DataFrame
    others: dict[str, Baseline]


def scores(tested: list[Fold]) -> pd.DataFrame:
    """List all patches with fold, both errors and score."""
    kept = [*contrast.KEPT, "error_tumor", "error_normal", "score"]
    return pd.concat([fold.test[kept].assign(fold=fold.number) for fold in tested], ignore_index=True)


def pool(tested: list[Fold], settings: Tissue, seed: int) -> dict:
    """Judge the scores of all folds together.

    Scores are pooled as they are: the log ratio of two errors is 0 where both models do
    equally well, whatever the fold. What the folds' models differ in otherwise lowers the
    pooled AUROC, so that each fold's own stands beside it. Decisions use the threshold
    that each fold's validation cases gave.

    Args:
        tested: the folds.
        settings: replicates and confidence.
        seed: of the replicates.

    Returns:
        JSON-able: folds, what `contrast.discrimination` gives, at_threshold.<level>,
        baselines, each (per fold its number, test cases and AUROCs) and sentences.

    """
    everything = pd.concat([fold.test for fold in tested], ignore_index=True)
    found: dict = {"folds": len(tested), **contrast.discrimination(everything, settings, seed)}
    found["baselines"] = {}
    for name, first in tested[0].others.items():
        values = pd.concat([pd.Series(fold.others[name].scores) for fold in tested], ignore_index=True)
        measured = contrast.discrimination(everything.assign(score=values), settings, seed)
        kept = {key: one for key, one in measured.items() if key.startswith(("auroc", "p_value"))}
        found["baselines"][name] = {"about": first.about, "fixed_on": first.fixed_on, **kept}
    found["each"], shifted = [], {level: [] for level in statistics.LEVELS}
    for fold in tested:
        judged, fitting = contrast.by_level(fold.test), contrast.by_level(fold.validation)
        one: dict = {"fold": fold.number, "test_cases": int(fold.test["case_id"].nunique())}
        for level, rows in judged.items():
            one[f"auroc_{level}"] = statistics.auroc(rows["label"].to_numpy(), rows["score"].to_numpy())
            bound = statistics.threshold(fitting[level]["label"].to_numpy(), fitting[level]["score"].to_numpy())
            shifted[level].append(rows.assign(score=rows["score"] - bound))
        found["each"].append(one)
    found["at_threshold"] = {}
    for level, parts in shifted.items():
        rows = pd.concat(parts)
        columns = (rows[name].to_numpy() for name in ("label", "score", "case_id"))
        labels, values, cases = columns
        found["at_threshold"][level] = statistics.at_threshold(labels, values, 0.0, settings.confidence, cases)
    found["sentences"] = [
        f"Every case was tested once, by models that had not seen it: {found['counts']['case']['cases']} cases in "
        f"{len(tested)} folds.",
        *(verdicts.verdict(found, level, settings.confidence) for level in statistics.LEVELS),
    ]
    return found
