"""A pair of models tested on folds of cases: each case once, by models that were not trained on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.cohort import split
from histocae.contrast import comparison, verdicts
from histocae.contrast.baselines import Baseline
from histocae.contrast.metrics import RegionMetrics, differences_as_json
from histocae.params import Tissue
from histocae.statistics import paired, thresholds
from histocae.statistics.discrimination import Discrimination, auroc, levels_as_json
from histocae.statistics.intervals import Estimate
from histocae.statistics.levels import LEVELS
from histocae.statistics.paired import PairedCases
from histocae.statistics.thresholds import Rates


@dataclass(frozen=True)
class Fold:
    """Scores of the pair and of the baselines on one fold's cases.

    Attributes:
        number: from 1.
        validation: the result of `comparison.join` for validation patches.
        test: the result of `comparison.join` for test patches.
        baselines: by name, with the scores of the test patches.
        left_out: reason per baseline that could not be computed.

    """

    number: int
    validation: pd.DataFrame
    test: pd.DataFrame
    baselines: dict[str, Baseline]
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FoldMetrics:
    """AUROCs of the pair on one fold alone.

    Attributes:
        fold: its number, from 1.
        test_cases: number of cases that it tests.
        aurocs: AUROC per level.

    """

    fold: int
    test_cases: int
    aurocs: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: fold, test_cases, auroc_<level>."""
        return {"fold": self.fold, "test_cases": self.test_cases, **_flat(self.aurocs)}


@dataclass(frozen=True)
class BaselineFold:
    """AUROCs of a baseline on one fold alone.

    Attributes:
        fold: its number, from 1.
        direction: 1, or -1 where a low measure means tumor.
        details: further numbers of the baseline.
        aurocs: AUROC per level.

    """

    fold: int
    direction: int
    details: dict[str, int]
    aurocs: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: fold, direction, the details, auroc_<level>."""
        return {"fold": self.fold, "direction": self.direction, **self.details, **_flat(self.aurocs)}


@dataclass(frozen=True)
class PooledBaseline:
    """How well a baseline distinguishes the tissues over all folds.

    Attributes:
        description: of the baseline, for readers.
        fixed_on: split that fixed its direction, or definition.
        levels: discrimination per level, without AUPRC.
        differences: AUROC of the pair less that of the baseline, per level.
        folds: each fold alone.

    """

    description: str
    fixed_on: str
    levels: dict[str, Discrimination]
    differences: dict[str, Estimate]
    folds: list[BaselineFold]

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: about, fixed_on, what the levels have (flat), each."""
        return {
            "about": self.description,
            "fixed_on": self.fixed_on,
            **levels_as_json(self.levels, with_counts=False),
            **differences_as_json(self.differences),
            "each": [fold.as_json() for fold in self.folds],
        }


@dataclass(frozen=True)
class PooledMetrics:
    """All numbers of a cross-validation.

    Attributes:
        levels: discrimination per level, over all folds.
        paired: how often a case's tumor scores above its own normal tissue; None where no case has both.
        rates: per level, at the threshold of each fold's validation cases.
        baselines: those that every fold has, by name.
        left_out: reason per baseline that some fold could not compute.
        folds: each fold alone.
        regions: agreement with regions that a pathologist drew; None where there are none.
        sentences: the result in words.

    """

    levels: dict[str, Discrimination]
    paired: PairedCases | None
    rates: dict[str, Rates]
    baselines: dict[str, PooledBaseline]
    left_out: dict[str, str]
    folds: list[FoldMetrics]
    regions: RegionMetrics | None
    sentences: list[str]

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object of reports/crossvalidation/metrics.json, all but the names of the pair."""
        return {
            "folds": len(self.folds),
            **levels_as_json(self.levels),
            "paired": None if self.paired is None else self.paired.as_json(),
            "at_threshold": {level: rates.as_json() for level, rates in self.rates.items()},
            "baselines": {name: baseline.as_json() for name, baseline in self.baselines.items()},
            "left_out": self.left_out,
            "each": [fold.as_json() for fold in self.folds],
            **({} if self.regions is None else {"regions": self.regions.as_json()}),
            "sentences": self.sentences,
        }


def divide(patches: pd.DataFrame, count: int, seed: int, together: str) -> list[dict[str, pd.DataFrame]]:
    """Divide patches by case: each fold tests once, the next fold validates, the others train.

    Args:
        patches: with case_id, slide_id, shard and sample_type.
        count: number of folds.
        seed: of the assignment of cases to folds, whose shares of patches and slides are similar.
        together: case or site; see `split.folds`.

    Returns:
        Per fold the rows of train, validation and test.

    Raises:
        DataError: a sample type has fewer cases (or sites) than there are folds.

    """
    fold_of_case = split.folds(split.count_patches(patches), count, seed, together)
    numbers = patches["case_id"].map(fold_of_case).to_numpy()
    divided = []
    for number in range(count):
        test, validation = numbers == number, numbers == (number + 1) % count
        parts = {"train": ~(test | validation), "validation": validation, "test": test}
        divided.append({name: patches[parts[name]] for name in split.SPLITS})
        split.check_apart(divided[-1])
    return divided


def uneven_folds(divided: Sequence[dict[str, pd.DataFrame]], together: str) -> list[str]:
    """Describe the sample types whose patches could not be divided evenly among the folds.

    Args:
        divided: the result of `divide`.
        together: case or site, as in `divide`.

    Returns:
        A sentence per sample type; see `split.uneven`.

    """
    tables = {f"fold {number}": split.count_patches(each["test"]) for number, each in enumerate(divided, 1)}
    summary = split.summarize(tables, dict.fromkeys(tables, 1 / len(tables)))
    return split.uneven(pd.concat(tables.values()), summary, together)


def scores(folds: Sequence[Fold], kind: str) -> pd.DataFrame:
    """List the test patches of all folds with fold, both errors, their log ratio, and score.

    Args:
        folds: the tested folds.
        kind: of the score, a value of tissue.score.

    Returns:
        The table. Scores are those that `pool` measures.

    """
    columns = [*comparison.KEPT_COLUMNS, "error_tumor", "error_normal", "log_ratio", "score"]
    parts = [_on_one_scale(fold, kind)[columns].assign(fold=fold.number) for fold in folds]
    return pd.concat(parts, ignore_index=True)


def pool(folds: Sequence[Fold], settings: Tissue, seed: int) -> PooledMetrics:
    """Measure the scores of all folds together.

    The log ratio of two errors is pooled as it is: it is 0 where both models do equally well,
    whatever the fold. Other scores, of the pair and of baselines, have another scale in each fold.
    They are pooled in standard deviations from the mean of the fold's validation patches.
    Differences between the folds' models lower the pooled AUROC, so each fold's own AUROC is
    reported beside it. Classes are called at the threshold of each fold's validation cases.

    Args:
        folds: the tested folds.
        settings: numbers of draws and permutations, confidence.
        seed: of draws and permutations.

    Returns:
        The numbers over all folds and of each fold.

    """
    everything = pd.concat([_on_one_scale(fold, settings.score) for fold in folds], ignore_index=True)
    levels = comparison.discriminate_levels(everything, settings, seed)
    within = paired.within_cases(everything, settings.confidence)
    baselines = {
        name: _pool_baseline(everything, name, folds, settings, seed, levels)
        for name in folds[0].baselines
        if all(name in fold.baselines for fold in folds)
    }
    pooled = {name: _pooled(folds, name) for name in baselines}
    regions = comparison.against_regions(everything, pooled, settings, seed)
    return PooledMetrics(
        levels=levels,
        paired=within,
        rates=_rates(folds, settings.confidence),
        baselines=baselines,
        left_out={name: reason for fold in folds for name, reason in fold.left_out.items()},
        folds=[FoldMetrics(fold.number, int(fold.test["case_id"].nunique()), _aurocs(fold.test)) for fold in folds],
        regions=regions,
        sentences=[
            f"Each case was tested once, by models that were not trained on it: {levels['case'].counts.cases} cases "
            f"in {len(folds)} folds.",
            *verdicts.on_levels(levels, within, settings.confidence),
            "Folds share training cases, so their scores are not independent. If the tissues did not differ, "
            "p <= 0.05 would come out in more than 5% of studies; docs/statistics.md has simulations of this.",
            *verdicts.against_baselines(
                {baseline.description: baseline.differences["slide"] for baseline in baselines.values()}
            ),
            *([] if regions is None else verdicts.on_regions(regions)),
            *verdicts.without_outside(
                [fold.baselines[verdicts.OUTSIDE].details for fold in folds] if verdicts.OUTSIDE in baselines else []
            ),
        ],
    )


def _on_one_scale(fold: Fold, kind: str) -> pd.DataFrame:
    """Return a fold's test patches with scores that mean the same in every fold."""
    if kind == "log_ratio":
        return fold.test
    validation = fold.validation["score"].to_numpy()
    return fold.test.assign(score=_standardized(fold.test["score"].to_numpy(), validation))


def _rates(folds: Sequence[Fold], confidence: float) -> dict[str, Rates]:
    """Measure the rates over all folds, with each fold's scores relative to its own threshold."""
    shifted: dict[str, list[pd.DataFrame]] = {level: [] for level in LEVELS}
    for fold in folds:
        reported, fixing = comparison.by_level(fold.test), comparison.by_level(fold.validation)
        for level, rows in reported.items():
            threshold = thresholds.choose_threshold(
                fixing[level]["label"].to_numpy(), fixing[level]["score"].to_numpy()
            )
            shifted[level].append(rows.assign(score=rows["score"] - threshold))
    rates = {}
    for level, parts in shifted.items():
        rows = pd.concat(parts)
        labels, values, cases = (rows[name].to_numpy() for name in ("label", "score", "case_id"))
        rates[level] = thresholds.rates_at_threshold(labels, values, 0.0, confidence, cases)
    return rates


def _pool_baseline(
    everything: pd.DataFrame,
    name: str,
    folds: Sequence[Fold],
    settings: Tissue,
    seed: int,
    pair: dict[str, Discrimination],
) -> PooledBaseline:
    """Measure one baseline over all folds."""
    baselines = [fold.baselines[name] for fold in folds]
    pooled = _pooled(folds, name)
    each = [
        BaselineFold(fold.number, baseline.direction, baseline.details, _aurocs(baseline.on(fold.test)))
        for fold, baseline in zip(folds, baselines, strict=True)
    ]
    # where folds differ in a detail of the description, `each` has that detail
    description = baselines[0].description
    if any(baseline.description != description for baseline in baselines):
        description = description.split(" (")[0]
    if pooled.covered is not None:
        pair = comparison.discriminate_levels(everything[pooled.covered], settings, seed, with_auprc=False)
    levels = comparison.discriminate_levels(pooled.on(everything), settings, seed, with_auprc=False)
    return PooledBaseline(description, baselines[0].fixed_on, levels, comparison.differences(pair, levels), each)


def _pooled(folds: Sequence[Fold], name: str) -> Baseline:
    """Join the scores of a baseline on the test patches of all folds, on one scale."""
    baselines = [fold.baselines[name] for fold in folds]
    first = baselines[0]
    scores = np.concatenate([_comparable(baseline) for baseline in baselines])
    covered = np.isfinite(scores) if any(baseline.covered is not None for baseline in baselines) else None
    return Baseline(first.description, scores, first.direction, first.fixed_on, covered=covered)


def _comparable(baseline: Baseline) -> NDArray[np.float64]:
    """Give scores that mean the same in every fold."""
    if baseline.validation_scores is None:
        return baseline.scores
    return _standardized(baseline.scores, baseline.validation_scores)


def _standardized(scores: NDArray[np.float64], validation: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, spread = validation.mean(), validation.std()
    standardized: NDArray[np.float64] = (scores - mean) / (spread if spread > 0 else 1.0)
    return standardized


def _aurocs(test: pd.DataFrame) -> dict[str, float]:
    return {
        level: auroc(rows["label"].to_numpy(), rows["score"].to_numpy())
        for level, rows in comparison.by_level(test).items()
    }


def _flat(aurocs: dict[str, float]) -> dict[str, float]:
    return {f"auroc_{level}": area for level, area in aurocs.items()}
