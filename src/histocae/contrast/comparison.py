"""Tumor against normal: what a pair of models, one trained on either tissue, tells about a patch.

The score of a patch is log E_normal - log E_tumor, the errors with which both models give it
back; a higher one means tumor. Beside it stand simpler ways to tell the tissues apart, on
the same split. Thresholds, calibrations and directions are fixed on training or validation
cases; test cases only report.
"""

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from histocae.contrast import pair
from histocae.contrast.baselines import Baseline
from histocae.errors import DataError
from histocae.identifiers import COMPARED
from histocae.params import Tissue
from histocae.statistics import discrimination

TUMOR, NORMAL = COMPARED
PLACE = ["shard", "position"]
KEPT = ["slide_id", "case_id", "sample_type", *PLACE]
DATA = {"tumor_data": 1, "normal_data": 0}
TRUE_SHARE = 0.5  # a patch is tumor by the truth from this share of its area on


def join(rows: pd.DataFrame, tumor: pd.DataFrame, normal: pd.DataFrame) -> pd.DataFrame:
    """Put both models' errors beside the patches they are of.

    Args:
        rows: of one split, one per patch.
        tumor: shard, position and mse of the tumor model, in the same order.
        normal: likewise of the normal model.

    Returns:
        The rows with label (1 tumor, 0 normal), error_tumor, error_normal and score.

    Raises:
        DataError: the errors are of other patches.

    """
    for name, errors in (("tumor", tumor), ("normal", normal)):
        if len(errors) != len(rows) or (errors[PLACE].to_numpy() != rows[PLACE].to_numpy()).any():
            raise DataError(
                f"the errors of the {name} model are of other patches than the split's; run dvc repro evaluate"
            )
    joined = rows.reset_index(drop=True)
    joined["label"] = (joined["sample_type"] == TUMOR).astype(int)
    joined["error_tumor"], joined["error_normal"] = tumor["mse"].to_numpy(), normal["mse"].to_numpy()
    joined["score"] = pair.score(joined["error_tumor"].to_numpy(), joined["error_normal"].to_numpy())
    return joined


def by_level(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Bring the scores of patches to each level, as `discrimination.units` does, with names.

    Returns:
        patch: the table itself; slide: the mean of a slide's patches; case: the mean of the
        slides of a case and sample type. All with case_id, sample_type, label and score.

    """
    of = ["slide_id", "case_id", "sample_type", "label"]
    slides = discrimination.averaged(table, of).rename(columns={"number": "patches"})
    cases = discrimination.averaged(slides, of[1:]).rename(columns={"number": "slides"})
    cases["patches"] = slides.groupby(of[1:])["patches"].sum().to_numpy()
    return {
        "patch": table,
        "slide": slides[[*of, "patches", "score"]],
        "case": cases[[*of[1:], "slides", "patches", "score"]],
    }


def mean_by_case(values: np.ndarray, cases: np.ndarray, confidence: float) -> dict:
    """Average over patches, with an interval that counts cases.

    The ratio estimator of cluster sampling (Cochran 1977, Sampling Techniques, ch. 6) with
    Student's t of one degree of freedom less than there are cases: of few cases a bootstrap
    of the mean says too little.

    Returns:
        value, low, high; the last two None where all values are of one case.

    """
    codes = pd.factorize(cases)[0]
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    value, number = float(values.mean()), len(counts)
    if number < 2:
        return {"value": value, "low": None, "high": None}
    error = np.sqrt(number / (number - 1) * np.square(sums - value * counts).sum()) / len(values)
    half = float(stdtrit(number - 1, 0.5 + confidence / 2) * error)
    return {"value": value, "low": value - half, "high": value + half}


def matrix(table: pd.DataFrame, confidence: float) -> dict:
    """Compare the mean errors of both models on both tissues.

    Returns:
        mse: tissue x model; mse_interval: likewise low and high; mse_difference: per tissue
        that of the normal model less that of the tumor model, patch by patch; wins: per
        tissue the share of patches on which the tumor model has the smaller error, equal errors
        counting half.

    """
    found: dict = {"mse": {}, "mse_interval": {}, "mse_difference": {}, "wins": {}}
    for data, label in DATA.items():
        rows = table[table["label"] == label]
        cases = rows["case_id"].to_numpy()
        means = {m: mean_by_case(rows[column].to_numpy(), cases, confidence) for m, column in pair.MODELS.items()}
        found["mse"][data] = {model: one.pop("value") for model, one in means.items()}
        found["mse_interval"][data] = {
            model: {"low": one["low"] and max(0.0, one["low"]), "high": one["high"]} for model, one in means.items()
        }
        less = (rows["error_normal"] - rows["error_tumor"]).to_numpy()
        found["mse_difference"][data] = mean_by_case(less, cases, confidence)
        found["wins"][data] = {"tumor_model": float(((less > 0) + 0.5 * (less == 0)).mean())}
    return found


def discriminate_levels(table: pd.DataFrame, settings: Tissue, seed: int, precision: bool = True) -> dict:
    """Tell how well the scores tell the tissues apart at each level.

    Returns:
        auroc_<level> and, with `precision`, auprc_<level> (value, low, high), p_value_<level>,
        counts.<level>.

    """
    found: dict = {"counts": {}}
    for level in discrimination.LEVELS:
        one = discrimination.discriminate(
            table, level, seed, settings.bootstrap, settings.permutations, settings.confidence, precision
        )
        found |= {f"{key}_{level}": one[key] for key in ("auroc", "auprc", "p_value") if key in one}
        found["counts"][level] = one["counts"]
    return found


def decide(validation: pd.DataFrame, test: pd.DataFrame, confidence: float) -> dict:
    """Fix a threshold and a calibration per level on validation cases, and tell what they do on test cases.

    Returns:
        threshold.<level>, calibration.<level> (slope, intercept), at_threshold.<level>, and
        argmin.<level>: the same rates where the smaller error decides (the threshold is 0).

    """
    found: dict = {"threshold": {}, "calibration": {}, "at_threshold": {}, "argmin": {}}
    fitting, judged = by_level(validation), by_level(test)
    for level in discrimination.LEVELS:
        labels, scores = fitting[level]["label"].to_numpy(), fitting[level]["score"].to_numpy()
        bound = discrimination.threshold(labels, scores)
        slope, intercept = discrimination.calibrate(labels, scores)
        found["threshold"][level] = bound
        found["calibration"][level] = {"slope": slope, "intercept": intercept}
        labels, scores, cases = (judged[level][name].to_numpy() for name in ("label", "score", "case_id"))
        for name, one in (("at_threshold", bound), ("argmin", 0.0)):
            found[name][level] = discrimination.at_threshold(labels, scores, one, confidence, cases)
    return found


def called(table: pd.DataFrame, level: str, decided: dict) -> pd.DataFrame:
    """Add the probability of tumor and the class that the threshold of a level gives."""
    scores = table["score"].to_numpy()
    return table.assign(
        probability=discrimination.probability(scores, **decided["calibration"][level]),
        called=np.where(scores >= decided["threshold"][level], TUMOR, NORMAL),
    )


def _measured(other: Baseline, test: pd.DataFrame, settings: Tissue, seed: int) -> dict:
    """Give a baseline's AUROC at each level with interval and p-value, and how it was made."""
    kept = discriminate_levels(test.assign(score=other.scores), settings, seed, precision=False)
    del kept["counts"]
    about = {"about": other.about, "direction": other.direction, "fixed_on": other.fixed_on}
    return about | other.more | kept


def study(
    validation: pd.DataFrame, test: pd.DataFrame, others: dict[str, Baseline], settings: Tissue, seed: int
) -> dict:
    """Put together `matrix`, `discriminate_levels`, `decide` and, under `baselines`, each of the others."""
    found = matrix(test, settings.confidence) | discriminate_levels(test, settings, seed)
    found |= decide(validation, test, settings.confidence)
    return found | {"baselines": {name: _measured(one, test, settings, seed) for name, one in others.items()}}


def curves(test: pd.DataFrame, settings: Tissue, seed: int) -> pd.DataFrame:
    """Give the ROC curve of each level with its band: level, fpr, tpr, low, high."""
    bands = {
        level: discrimination.roc_band(test, level, seed, settings.bootstrap, settings.confidence)
        for level in discrimination.LEVELS
    }
    return pd.concat(bands, names=["level"]).reset_index(level="level").reset_index(drop=True)


def methods(metrics: dict) -> pd.DataFrame:
    """List the AUROCs of the pair and of each baseline: method, about, level, value, low, high."""
    named = {"pair": {"about": "the pair of models", **metrics}, **metrics["baselines"]}
    return pd.DataFrame(
        [
            {"method": name, "about": one["about"], "level": level, **one[f"auroc_{level}"]}
            for name, one in named.items()
            for level in discrimination.LEVELS
        ]
    )


def against_truth(
    test: pd.DataFrame, shares: np.ndarray, others: dict[str, Baseline], settings: Tissue, seed: int
) -> dict:
    """Judge the scores of patches by what is truly in them, not by the label of their slide.

    Args:
        test: what `join` gave.
        shares: of each patch's area that is tumor.
        others: the baselines.
        settings: how sure one wants to be.
        seed: of the draws of cases.

    Returns:
        patches, tumor_patches; auroc_patch_pair and auroc_patch_<baseline> (value, low, high) of
        patches that are at least half tumor against all others, where there are both.

    """
    truth = (shares >= TRUE_SHARE).astype(int)
    found: dict = {"patches": len(truth), "tumor_patches": int(truth.sum())}
    if truth.min() == truth.max():
        return found
    for name, scores in {"pair": test["score"], **{name: one.scores for name, one in others.items()}}.items():
        found[f"auroc_patch_{name}"] = discrimination.discriminate(
            test.assign(label=truth, score=scores),
            "patch",
            seed,
            settings.bootstrap,
            settings.permutations,
            settings.confidence,
            precision=False,
        )["auroc"]
    return found
