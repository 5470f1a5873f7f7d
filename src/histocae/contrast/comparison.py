"""Tumor against normal: scores of patches by a pair of models, one trained on each tissue.

The score of a patch is computed from the errors with which the models reconstruct it (tissue.score of the params);
a higher score means tumor. Baselines, simpler ways to distinguish the tissues,
are measured on the same split. Thresholds, calibrations and directions are fixed on training or
validation cases; test cases only report.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.contrast import pair
from histocae.contrast.baselines import Baseline
from histocae.contrast.metrics import (
    BaselineMetrics,
    Decision,
    PairMetrics,
    RegionMetrics,
    TissueErrors,
    TruthMetrics,
    UnflaggedMetrics,
)
from histocae.errors import DataError
from histocae.identifiers import COMPARED
from histocae.params import Tissue
from histocae.patches.flags import SEPARATOR
from histocae.patches.quality import FAULTS
from histocae.statistics import paired, thresholds
from histocae.statistics.discrimination import Discrimination, discriminate, roc_band
from histocae.statistics.intervals import ClusteredMean, Estimate, clustered_mean
from histocae.statistics.levels import LEVELS, average_scores

TUMOR, NORMAL = COMPARED
PATCH_KEY = ["shard", "position"]
KEPT_COLUMNS = ["slide_id", "case_id", "sample_type", *PATCH_KEY]
DATA = {"tumor_data": 1, "normal_data": 0}  # the label of the patches of either tissue
TRUE_SHARE = 0.5  # a patch is truly tumor where at least this share of its area is


def join(rows: pd.DataFrame, tumor: pd.DataFrame, normal: pd.DataFrame) -> pd.DataFrame:
    """Join both models' errors to the patches that they were measured on.

    Args:
        rows: patches of one split, one per row.
        tumor: shard, position and mse of the tumor model, in the same order.
        normal: likewise of the normal model.

    Returns:
        The rows with label (1 tumor, 0 normal), error_tumor, error_normal, log_ratio (`pair.score`) and score, which
        is the log ratio until `with_score` replaces it.

    Raises:
        DataError: the errors are of other patches.

    """
    for name, errors in (("tumor", tumor), ("normal", normal)):
        if len(errors) != len(rows) or (errors[PATCH_KEY].to_numpy() != rows[PATCH_KEY].to_numpy()).any():
            raise DataError(
                f"the errors of the {name} model are of other patches than the split's; run dvc repro evaluate"
            )
    joined = rows.reset_index(drop=True)
    joined["label"] = (joined["sample_type"] == TUMOR).astype(int)
    joined["error_tumor"], joined["error_normal"] = tumor["mse"].to_numpy(), normal["mse"].to_numpy()
    joined["log_ratio"] = pair.score(joined["error_tumor"].to_numpy(), joined["error_normal"].to_numpy())
    return joined.assign(score=joined["log_ratio"])


def with_score(
    kind: str, validation: pd.DataFrame, test: pd.DataFrame, baselines: Mapping[str, Baseline]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Baseline]]:
    """Give patches the score that the params choose.

    Args:
        kind: log_ratio | errors_by_scale, a value of tissue.score.
        validation: the result of `join` for validation patches.
        test: the result of `join` for test patches.
        baselines: by name; errors_by_scale is among them.

    Returns:
        The rows of validation and of test, and the baselines. With errors_by_scale, that baseline becomes the score
        of the pair, and the log ratio a baseline.

    """
    if kind == "log_ratio":
        return validation, test, dict(baselines)
    others = dict(baselines)
    chosen = others.pop("errors_by_scale")
    log_ratio = Baseline("log ratio of both models' mean errors", test["score"].to_numpy(), 1, "definition")
    scored = validation.assign(score=chosen.validation_scores), test.assign(score=chosen.scores)
    return *scored, {"log_ratio": log_ratio} | others


def another_pair(test: pd.DataFrame, tumor: pd.DataFrame, normal: pd.DataFrame, names: Sequence[str]) -> Baseline:
    """Score test patches by the log ratio of the errors of another pair of models.

    Args:
        test: the result of `join` for test patches.
        tumor: shard, position and mse of its tumor model, in the same order.
        normal: likewise of its normal model.
        names: of both models.

    Returns:
        The scores.

    Raises:
        DataError: the errors are of other patches.

    """
    scores = join(test, tumor, normal)["score"].to_numpy()
    return Baseline(f"log ratio of the errors of {' and '.join(names)}", scores, 1, "definition")


def by_level(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Average the scores of patches to each level, as `levels.at_level` does, and keep the names of units.

    Args:
        table: the result of `join`.

    Returns:
        patch: the table itself; slide: the mean of a slide's patches; case: the mean of the
        slides of a case and sample type. All have case_id, sample_type, label and score.

    """
    groups = ["slide_id", "case_id", "sample_type", "label"]
    slides = average_scores(table, groups).rename(columns={"number": "patches"})
    cases = average_scores(slides, groups[1:]).rename(columns={"number": "slides"})
    cases["patches"] = slides.groupby(groups[1:])["patches"].sum().to_numpy()
    return {
        "patch": table,
        "slide": slides[[*groups, "patches", "score"]],
        "case": cases[[*groups[1:], "slides", "patches", "score"]],
    }


def matrix(table: pd.DataFrame, confidence: float) -> dict[str, TissueErrors]:
    """Compare the mean errors of both models on both tissues.

    Args:
        table: the result of `join`.
        confidence: of the intervals, e.g. 0.95.

    Returns:
        The errors per tissue: tumor_data, normal_data. Lower bounds of mean errors are at least 0.

    """
    errors = {}
    for data, label in DATA.items():
        rows = table[table["label"] == label]
        cases = rows["case_id"].to_numpy()
        means = {}
        for model, column in pair.MODELS.items():
            mean = clustered_mean(rows[column].to_numpy(), cases, confidence)
            means[model] = ClusteredMean(mean.value, None if mean.low is None else max(0.0, mean.low), mean.high)
        less = (rows["error_normal"] - rows["error_tumor"]).to_numpy()
        wins = float(((less > 0) + 0.5 * (less == 0)).mean())
        errors[data] = TissueErrors(means, clustered_mean(less, cases, confidence), wins)
    return errors


def discriminate_levels(
    table: pd.DataFrame, settings: Tissue, seed: int, with_auprc: bool = True
) -> dict[str, Discrimination]:
    """Measure how well the scores distinguish the tissues at each level.

    Args:
        table: one row per patch: case_id, slide_id, label, score.
        settings: numbers of draws and permutations, confidence.
        seed: of draws and permutations; each level starts with it.
        with_auprc: whether to measure the AUPRC as well.

    Returns:
        A discrimination per level.

    """
    return {level: _discriminate(table, level, settings, seed, with_auprc) for level in LEVELS}


def _discriminate(table: pd.DataFrame, level: str, settings: Tissue, seed: int, with_auprc: bool) -> Discrimination:
    return discriminate(
        table,
        level,
        seed=seed,
        bootstrap=settings.bootstrap,
        permutations=settings.permutations,
        confidence=settings.confidence,
        with_auprc=with_auprc,
    )


def decide(validation: pd.DataFrame, test: pd.DataFrame, confidence: float) -> dict[str, Decision]:
    """Fix a threshold and a calibration per level on validation cases, and measure them on test cases.

    Args:
        validation: validation patches with their label and score.
        test: test patches with label, score and log_ratio.
        confidence: of the intervals, e.g. 0.95.

    Returns:
        A decision per level.

    """
    decisions = {}
    fixing, reported = by_level(validation), by_level(test)
    of_errors = by_level(test.assign(score=test["log_ratio"]))
    for level in LEVELS:
        labels, scores = fixing[level]["label"].to_numpy(), fixing[level]["score"].to_numpy()
        threshold, calibration = thresholds.choose_threshold(labels, scores), thresholds.calibrate(labels, scores)
        at_threshold, argmin = (
            thresholds.rates_at_threshold(
                rows["label"].to_numpy(), rows["score"].to_numpy(), bound, confidence, rows["case_id"].to_numpy()
            )
            for rows, bound in ((reported[level], threshold), (of_errors[level], 0.0))
        )
        decisions[level] = Decision(threshold, calibration, at_threshold, argmin)
    return decisions


def classify(table: pd.DataFrame, decision: Decision) -> pd.DataFrame:
    """Add the probability of tumor and the called class of each unit.

    Args:
        table: units of one level with their score.
        decision: threshold and calibration of that level.

    Returns:
        The table with the columns probability and called (a sample type).

    """
    scores = table["score"].to_numpy()
    return table.assign(
        probability=decision.calibration.probability(scores),
        called=np.where(scores >= decision.threshold, TUMOR, NORMAL),
    )


def study(
    validation: pd.DataFrame,
    test: pd.DataFrame,
    baselines: Mapping[str, Baseline],
    left_out: Mapping[str, str],
    settings: Tissue,
    seed: int,
) -> PairMetrics:
    """Measure a pair and its baselines on one split.

    Args:
        validation: the result of `join` for validation patches, which fix thresholds and calibrations.
        test: the result of `join` for test patches.
        baselines: by name, with the scores of the test patches.
        left_out: reason per baseline that could not be computed.
        settings: numbers of draws and permutations, confidence.
        seed: of draws and permutations.

    Returns:
        All numbers but the agreement with the truth; see `against_truth`.

    """
    levels = discriminate_levels(test, settings, seed)
    compared = {}
    for name, baseline in baselines.items():
        of_baseline = discriminate_levels(baseline.on(test), settings, seed, with_auprc=False)
        of_pair = levels
        if baseline.covered is not None:  # a difference is of the same patches
            of_pair = discriminate_levels(test[baseline.covered], settings, seed, with_auprc=False)
        compared[name] = BaselineMetrics(
            baseline.description,
            baseline.direction,
            baseline.fixed_on,
            baseline.details,
            of_baseline,
            differences(of_pair, of_baseline),
        )
    return PairMetrics(
        errors=matrix(test, settings.confidence),
        levels=levels,
        paired=paired.within_cases(test, settings.confidence),
        decisions=decide(validation, test, settings.confidence),
        baselines=compared,
        left_out=dict(left_out),
    )


def differences(pair: Mapping[str, Discrimination], baseline: Mapping[str, Discrimination]) -> dict[str, Estimate]:
    """Subtract the AUROC of a baseline from that of the pair, at each level.

    Args:
        pair: discrimination per level.
        baseline: likewise, measured with the same seed and number of draws.

    Returns:
        The differences with their intervals.

    """
    return {level: pair[level].less(baseline[level]) for level in LEVELS}


def roc_curves(test: pd.DataFrame, settings: Tissue, seed: int) -> pd.DataFrame:
    """Compute the ROC curve of each level with its band.

    Args:
        test: the result of `join`.
        settings: number of draws, confidence.
        seed: of the draws.

    Returns:
        level, fpr, tpr, low, high.

    """
    bands = {level: roc_band(test, level, seed, settings.bootstrap, settings.confidence) for level in LEVELS}
    return pd.concat(bands, names=["level"]).reset_index(level="level").reset_index(drop=True)


def auroc_table(metrics: PairMetrics) -> pd.DataFrame:
    """List the AUROCs of the pair and of each baseline, and how much higher that of the pair is.

    Args:
        metrics: the result of `study`.

    Returns:
        method, about, level, value, low, high, p_value, and difference, difference_low, difference_high (NaN for the
        pair itself).

    """
    rows = []
    unknown = Estimate(np.nan, np.nan, np.nan)
    methods = {"pair": ("the pair of models", metrics.levels, dict.fromkeys(LEVELS, unknown))}
    methods |= {name: (each.description, each.levels, each.differences) for name, each in metrics.baselines.items()}
    for name, (description, levels, less) in methods.items():
        for level in LEVELS:
            row = {"method": name, "about": description, "level": level, **levels[level].auroc.as_json()}
            row |= {"p_value": levels[level].p_value, "difference": less[level].value}
            rows.append(row | {"difference_low": less[level].low, "difference_high": less[level].high})
    return pd.DataFrame(rows)


def against_truth(
    test: pd.DataFrame, shares: NDArray[np.float64], baselines: Mapping[str, Baseline], settings: Tissue, seed: int
) -> TruthMetrics:
    """Compare the scores of patches with their true content instead of the label of their slide.

    Args:
        test: the result of `join`.
        shares: tumor share of each patch's area, float64, shape (patches,).
        baselines: by name, with the scores of the test patches.
        settings: numbers of draws and permutations, confidence.
        seed: of draws and permutations.

    Returns:
        The AUROCs of patches that are at least half tumor against all other patches.

    """
    truth = (shares >= TRUE_SHARE).astype(int)
    return TruthMetrics(len(truth), int(truth.sum()), _aurocs(test, truth, baselines, settings, seed))


def against_regions(
    test: pd.DataFrame, baselines: Mapping[str, Baseline], settings: Tissue, seed: int
) -> RegionMetrics | None:
    """Compare the scores of patches with the regions that a pathologist drew, instead of the label of their slide.

    Args:
        test: the result of `join`.
        baselines: by name, with the scores of the test patches.
        settings: numbers of draws and permutations, confidence.
        seed: of draws and permutations.

    Returns:
        The AUROCs of patches in tumor regions against those in normal regions, and of normal slides without regions;
        None where no test slide has regions.

    """
    by_regions = test["label_share"].notna()
    if not by_regions.any():
        return None
    tumor, normal = (by_regions & (test["patch_label"] == name) for name in COMPARED)
    of_slides = ~by_regions & (test["sample_type"] == NORMAL)
    known = (tumor | normal | of_slides).to_numpy()
    label = tumor.to_numpy().astype(int)
    return RegionMetrics(
        slides=int(test.loc[by_regions, "slide_id"].nunique()),
        tumor_patches=int(tumor.sum()),
        normal_patches=int(normal.sum()),
        patches_of_normal_slides=int(of_slides.sum()),
        left_out=int((~known).sum()),
        aurocs=_aurocs(test, label, baselines, settings, seed, known),
    )


def without_flagged(test: pd.DataFrame, settings: Tissue, seed: int) -> UnflaggedMetrics:
    """Measure the pair on the test patches that are not flagged for ink, blur or other faults.

    Args:
        test: the result of `join`, with the faults of each patch in `flags`.
        settings: numbers of draws and permutations, confidence.
        seed: of draws and permutations.

    Returns:
        The AUROCs; none where no patch is flagged, or the others are of one tissue.

    """
    faults = test["flags"].fillna("").str.get_dummies(SEPARATOR).sum()
    rows = test[test["flags"].isna()]
    flagged = {fault: int(faults.get(fault, 0)) for fault in FAULTS}
    if len(rows) == len(test) or rows["label"].nunique() < 2:
        return UnflaggedMetrics(flagged, len(rows))
    levels = discriminate_levels(rows, settings, seed, with_auprc=False)
    return UnflaggedMetrics(flagged, len(rows), {level: each.auroc for level, each in levels.items()})


def _aurocs(
    test: pd.DataFrame,
    label: NDArray[np.int64],
    baselines: Mapping[str, Baseline],
    settings: Tissue,
    seed: int,
    known: NDArray[np.bool_] | slice = slice(None),
) -> dict[str, Estimate]:
    """Measure the AUROC per patch of the pair and of each baseline against a label of patches, where it is known."""
    if len(np.unique(label[known])) < 2:
        return {}
    # all of the same patches: what has scores of some patches only is left out
    complete = {name: baseline.scores for name, baseline in baselines.items() if baseline.covered is None}
    return {
        name: _discriminate(
            test.assign(label=label, score=values)[known], "patch", settings, seed, with_auprc=False
        ).auroc
        for name, values in {"pair": test["score"], **complete}.items()
    }


def example(slides: pd.DataFrame, test: pd.DataFrame, shares: NDArray[np.float64] | None) -> str:
    """Choose the slide that is shown first; how well its score fits has no influence.

    Args:
        slides: the slides of `by_level`.
        test: the result of `join`.
        shares: tumor share of each test patch's area, float64, shape (patches,); None where unknown.

    Returns:
        The shard of the tumor slide that has most nearly equal parts of tumor and of other patches; where the truth
        is unknown, of the tumor slide with the median score.

    """
    tumor = slides[slides["label"] == 1].set_index("slide_id")
    if shares is None:
        chosen = tumor["score"].sort_values(kind="stable").index[(len(tumor) - 1) // 2]
    else:
        balance = (pd.Series(shares >= TRUE_SHARE).groupby(test["slide_id"].to_numpy()).mean() - 0.5).abs()
        chosen = balance[tumor.index].idxmin()
    return str(test.loc[test["slide_id"] == chosen, "shard"].iloc[0])
