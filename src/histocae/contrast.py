"""Tumor against normal: what a pair of models, one trained on either tissue, tells about a patch.

The score of a patch is log E_normal - log E_tumor, the errors with which both models give it
back; a higher one means tumor. Beside it stand simpler ways to tell the tissues apart, on
the same split. Thresholds, calibrations and directions are fixed on training or validation
cases; test cases only report.
"""

import logging
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from histocae import latents, linear, pair, statistics
from histocae.errors import DataError
from histocae.identifiers import COMPARED
from histocae.params import Tissue
from histocae.store import Patches, PatchStore

TUMOR, NORMAL = COMPARED
PLACE = ["shard", "position"]
KEPT = ["slide_id", "case_id", "sample_type", *PLACE]
DATA = {"tumor_data": 1, "normal_data": 0}
MODELS = {"tumor_model": "error_tumor", "normal_model": "error_normal"}
# a classifier of a few hundred features has learnt what it can from so many of each tissue
MOST_PER_TISSUE = 2000
BATCH = 64
TRUE_SHARE = 0.5  # a patch is tumor by the truth from this share of its area on
log = logging.getLogger(__name__)


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
    """Bring the scores of patches to each level, as `statistics.units` does, with names.

    Returns:
        patch: the table itself; slide: the mean of a slide's patches; case: the mean of the
        slides of a case and sample type. All with case_id, sample_type, label and score.

    """
    of = ["slide_id", "case_id", "sample_type", "label"]
    slides = table.groupby(of, as_index=False).agg(patches=("score", "size"), score=("score", "mean"))
    cases = slides.groupby(of[1:], as_index=False).agg(
        slides=("score", "size"), patches=("patches", "sum"), score=("score", "mean")
    )
    return {"patch": table, "slide": slides, "case": cases}


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
        tissue the share of patches on which the tumor model has the smaller error.

    """
    found: dict = {"mse": {}, "mse_interval": {}, "mse_difference": {}, "wins": {}}
    for data, label in DATA.items():
        rows = table[table["label"] == label]
        cases = rows["case_id"].to_numpy()
        means = {m: mean_by_case(rows[column].to_numpy(), cases, confidence) for m, column in MODELS.items()}
        found["mse"][data] = {model: one.pop("value") for model, one in means.items()}
        found["mse_interval"][data] = {
            model: {"low": one["low"] and max(0.0, one["low"]), "high": one["high"]} for model, one in means.items()
        }
        less = (rows["error_normal"] - rows["error_tumor"]).to_numpy()
        found["mse_difference"][data] = mean_by_case(less, cases, confidence)
        found["wins"][data] = {"tumor_model": float((less >= 0).mean())}
    return found


def discrimination(table: pd.DataFrame, settings: Tissue, seed: int) -> dict:
    """Tell how well the scores tell the tissues apart at each level.

    Returns:
        auroc_<level> and auprc_<level> (value, low, high), p_value_<level>, counts.<level>.

    """
    found: dict = {"counts": {}}
    for level in statistics.LEVELS:
        one = statistics.discriminate(
            table, level, seed, settings.bootstrap, settings.permutations, settings.confidence
        )
        found |= {f"{key}_{level}": one[key] for key in ("auroc", "auprc", "p_value")}
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
    for level in statistics.LEVELS:
        labels, scores = fitting[level]["label"].to_numpy(), fitting[level]["score"].to_numpy()
        bound = statistics.threshold(labels, scores)
        slope, intercept = statistics.calibrate(labels, scores)
        found["threshold"][level] = bound
        found["calibration"][level] = {"slope": slope, "intercept": intercept}
        labels, scores, cases = (judged[level][name].to_numpy() for name in ("label", "score", "case_id"))
        for name, one in (("at_threshold", bound), ("argmin", 0.0)):
            found[name][level] = statistics.at_threshold(labels, scores, one, confidence, cases)
    return found


def called(table: pd.DataFrame, level: str, decided: dict) -> pd.DataFrame:
    """Add the probability of tumor and the class that the threshold of a level gives."""
    scores = table["score"].to_numpy()
    return table.assign(
        probability=statistics.probability(scores, **decided["calibration"][level]),
        called=np.where(scores >= decided["threshold"][level], TUMOR, NORMAL),
    )


@dataclass(frozen=True)
class Baseline:
    """Another way to tell tumor from normal.

    Attributes:
        about: what it is, in words.
        scores: float64, one per test patch; a higher one means tumor.
        direction: 1, or -1 where the measured values were turned round.
        fixed_on: what decided on the direction: training, validation or definition.
        more: what else there is to know of it.

    """

    about: str
    scores: np.ndarray
    direction: int
    fixed_on: str
    more: dict = field(default_factory=dict)

    def measure(self, test: pd.DataFrame, settings: Tissue, seed: int) -> dict:
        """Give its AUROC at each level with interval and p-value, and how it was made."""
        found = discrimination(test.assign(score=self.scores), settings, seed)
        kept = {key: one for key, one in found.items() if key.startswith(("auroc", "p_value"))}
        return {"about": self.about, "direction": self.direction, "fixed_on": self.fixed_on, **self.more, **kept}


def _turned(
    about: str, values: np.ndarray, fixing: np.ndarray, labels: np.ndarray, fixed_on: str
) -> Baseline:
    """Turn a measure the way round in which `fixing`, values of other patches, is higher for tumor."""
    direction = 1 if statistics.auroc(labels, np.asarray(fixing)) >= 0.5 else -1
    return Baseline(about, direction * np.asarray(values, np.float64), direction, fixed_on)


def baselines(
    store: PatchStore,
    learnt: tuple[pd.DataFrame, pd.DataFrame],
    validation: pd.DataFrame,
    test: pd.DataFrame,
    components: int,
    encoded: dict[str, np.ndarray] | None,
    seed: int,
) -> dict[str, Baseline]:
    """Make all baselines, from what the pair learned from.

    Classifiers learn from at most 2,000 of these patches of either tissue, as many of each,
    and validation patches choose how strongly they are held back.

    Args:
        store: the patches.
        learnt: rows of the training split that the tumor and the normal model learned from.
        validation: what `join` gave.
        test: likewise.
        components: of the linear pair: as many as the pair has latent numbers.
        encoded: train, validation, test: latents of each row of the split, float32, rows x
            features; None leaves out the baseline that uses them.
        seed: of samples and fits.

    """
    pool = pd.concat(learnt)
    count = min(MOST_PER_TISSUE, *(len(rows) for rows in learnt))
    learners = pool.groupby("sample_type").sample(count, random_state=seed).sort_index()
    labels, held = (learners["sample_type"] == TUMOR).to_numpy(int), validation["label"].to_numpy()
    means, histograms = zip(*(_colors(store.select(rows)) for rows in (learners, validation, test)), strict=True)

    def classified(about: str, features: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Baseline:
        fitted = latents.fit_classifier(features[0], labels, features[1], held, seed)
        return Baseline(f"{about} + logistic regression", fitted.decision_function(features[2]), 1, "training")

    found = {
        f"error_{model}": _turned(
            f"error of the {model.replace('_', ' ')} alone", test[column], validation[column], held, "validation"
        )
        for model, column in MODELS.items()
    }
    found["mean_intensity"] = _turned("mean intensity", means[2], means[0], labels, "training")
    found["color_histogram"] = classified("color histogram", histograms)
    found["pca_pair"] = _of_pca(*(store.select(rows) for rows in (*learnt, test)), components, seed)
    if encoded is not None:
        at_learners = encoded["train"][learners.index.to_numpy()]
        found["latents"] = classified("latents", (at_learners, encoded["validation"], encoded["test"]))
    return found


def _of_pca(tumor: Patches, normal: Patches, test: Patches, components: int, seed: int) -> Baseline:
    """Judge by the linear counterparts of the pair, both of as many components as the smaller sample allows."""
    wanted = min(components, len(tumor) - 1, len(normal) - 1)
    fits = [linear.fit(patches, wanted, seed) for patches in (tumor, normal)]
    count = min(len(one.components) for one in fits)
    errors = [one.leading(count).errors(test) for one in fits]
    return Baseline(
        f"pair of linear models (PCA, {count:,} components)", pair.score(*errors), 1, "definition",
        {"components": count, "components_wanted": components},
    )  # fmt: skip


def _colors(patches: Patches) -> tuple[np.ndarray, np.ndarray]:
    """Measure the color of patches.

    Returns:
        The mean over pixels and channels, 0 to 255 (float64, n), and the share of pixels in
        each of 8 x 8 x 8 bins (float32, n x 512).

    """
    means, histograms = np.empty(len(patches)), np.empty((len(patches), 512), np.float32)
    place = np.array([64, 8, 1], np.float32)
    for start in range(0, len(patches), BATCH):
        which = np.arange(start, min(start + BATCH, len(patches)))
        for at, patch in zip(which, patches.take(which), strict=True):
            means[at] = patch.mean()
            bins = ((patch >> 5) @ place).astype(np.intp).ravel()
            histograms[at] = np.bincount(bins, minlength=512) / len(bins)
    return means, histograms


def study(
    validation: pd.DataFrame, test: pd.DataFrame, others: dict[str, Baseline], settings: Tissue, seed: int
) -> dict:
    """Put together `matrix`, `discrimination`, `decide` and, under `baselines`, each of the others."""
    found = matrix(test, settings.confidence) | discrimination(test, settings, seed)
    found |= decide(validation, test, settings.confidence)
    return found | {"baselines": {name: one.measure(test, settings, seed) for name, one in others.items()}}


def curves(test: pd.DataFrame, settings: Tissue, seed: int) -> pd.DataFrame:
    """Give the ROC curve of each level with its band: level, fpr, tpr, low, high."""
    bands = {
        level: statistics.roc_band(test, level, seed, settings.bootstrap, settings.confidence)
        for level in statistics.LEVELS
    }
    return pd.concat(bands, names=["level"]).reset_index(level="level").reset_index(drop=True)


def methods(metrics: dict) -> pd.DataFrame:
    """List the AUROCs of the pair and of each baseline: method, about, level, value, low, high."""
    named = {"pair": {"about": "the pair of models", **metrics}, **metrics["baselines"]}
    return pd.DataFrame(
        [
            {"method": name, "about": one["about"], "level": level, **one[f"auroc_{level}"]}
            for name, one in named.items()
            for level in statistics.LEVELS
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
        auroc_patch_pair and auroc_patch_<baseline> (value, low, high) of patches that are at
        least half tumor against all others; patches, tumor_patches.

    """
    truth = (shares >= TRUE_SHARE).astype(int)
    found = {"patches": len(truth), "tumor_patches": int(truth.sum())}
    for name, scores in {"pair": test["score"], **{name: one.scores for name, one in others.items()}}.items():
        found[f"auroc_patch_{name}"] = statistics.discriminate(
            test.assign(label=truth, score=scores), "patch", seed, settings.bootstrap, settings.permutations,
            settings.confidence,
        )["auroc"]
    return found


def sentences(metrics: dict, confidence: float) -> list[str]:
    """Say in words what the numbers show and what they do not.

    Args:
        metrics: all that the other functions here give, as in metrics.json.
        confidence: of the intervals.

    """
    counts = metrics["counts"]["slide"]
    told = [
        f"Judged on {metrics['counts']['patch']['units']:,} test patches of {counts['positive']} tumor and "
        f"{counts['negative']} normal slides; they come from {counts['cases']} "
        f"case{'s' * (counts['cases'] != 1)}, {counts['paired_cases']} of which have both tissues."
    ]
    told += [verdict(metrics, level, confidence) for level in statistics.LEVELS]
    told.append(
        "Labels are per slide, not per patch: a patch of a tumor slide can show normal tissue and counts as tumor "
        "all the same, so the numbers per patch are about the labels of slides, not about what a patch shows."
    )
    told.append(_winners(metrics["wins"]))
    for data, models in metrics["mse_interval"].items():
        if models["tumor_model"]["low"] is None:
            told.append(f"The test {data.replace('_', ' ')} are of one case, so their mean errors have no interval.")
    rates = metrics["at_threshold"]["slide"]
    told.append(
        "At the threshold that was fixed on validation cases, "
        + ", ".join(f"{name} per slide is {_interval(rates[name])}" for name in ("sensitivity", "specificity"))
        + "."
    )
    told += _rivals(metrics, confidence)
    if "truth" in metrics:
        told.append(_truth(metrics["truth"]))
    return told


def verdict(metrics: dict, level: str, confidence: float) -> str:
    """Say whether the AUROC of a level, as `discrimination` gives it, is more than chance."""
    area, p = metrics[f"auroc_{level}"], metrics[f"p_value_{level}"]
    told = (
        f"Per {level} the AUROC is {area['value']:.2f}, its {confidence:.0%} interval {area['low']:.2f} to "
        f"{area['high']:.2f}"
    )
    if area["low"] <= 0.5 <= area["high"]:
        return f"{told}: it includes chance (0.5), so these data do not show that the score tells tumor from normal."
    if area["high"] < 0.5:
        return f"{told}, below chance (0.5): here the score points the wrong way."
    if p > 1 - confidence:
        return (
            f"{told}, above chance (0.5), but labels shuffled over the cases do as well with p = {p:.2f}: "
            "chance is not ruled out with so few cases."
        )
    return f"{told}, above chance (0.5; p = {p:.2g})."


def _interval(one: dict) -> str:
    return f"{one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})"


def _winners(wins: dict) -> str:
    tumor, normal = (wins[data]["tumor_model"] for data in DATA)
    told = f"The tumor model has the smaller error on {tumor:.0%} of tumor patches and {normal:.0%} of normal ones"
    if (tumor >= 0.5) == (normal >= 0.5):
        always = "tumor" if tumor >= 0.5 else "normal"
        return f"{told}: the rule that the smaller error decides would mostly say {always}, whatever is shown."
    return f"{told}."


def _truth(truth: dict) -> str:
    told = (
        f"What each patch shows is known here: {truth['tumor_patches']:,} of {truth['patches']:,} are at least half "
        f"tumor. Against that, the AUROC per patch of the pair is {_interval(truth['auroc_patch_pair'])}"
    )
    if "auroc_patch_latents" in truth:
        told += f", that of latents + logistic regression {_interval(truth['auroc_patch_latents'])}"
    return f"{told}."


def _rivals(metrics: dict, confidence: float) -> list[str]:
    own, found = metrics["auroc_slide"]["value"], metrics["baselines"]
    areas = [(one["about"], one["auroc_slide"]) for one in found.values()]
    as_good = [about for about, area in areas if area["value"] >= own]
    chance = [about for about, area in areas if area["low"] <= 0.5 <= area["high"]]
    told = []
    if as_good:
        told.append(f"Per slide these do as well as the pair or better on the same split: {'; '.join(as_good)}.")
    else:
        told.append("Per slide none of the baselines does as well as the pair on the same split.")
    if chance:
        told.append(f"The {confidence:.0%} interval per slide of these includes chance (0.5): {'; '.join(chance)}.")
    pca = found["pca_pair"]
    if pca["components"] < pca["components_wanted"]:
        told.append(
            f"The linear pair has {pca['components']:,} components instead of the {pca['components_wanted']:,} "
            "numbers of the pair's latents: its training patches allow no more."
        )
    told += [f"Left out, {name}: {reason}." for name, reason in metrics["left_out"].items()]
    return told
