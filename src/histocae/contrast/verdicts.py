"""Sentences on the numbers of tumor against normal, and on their limits."""

from collections.abc import Mapping, Sequence

from histocae.contrast.metrics import (
    BaselineMetrics,
    PairMetrics,
    RegionMetrics,
    TissueErrors,
    TruthMetrics,
    UnflaggedMetrics,
)
from histocae.errors import counted
from histocae.statistics.discrimination import Discrimination
from histocae.statistics.intervals import Estimate
from histocae.statistics.levels import LEVELS
from histocae.statistics.paired import PairedCases
from histocae.statistics.permutation import CHANCE, is_significant

# what the score of a patch is, by tissue.score
SCORES = {
    "log_ratio": "log(error_normal) - log(error_tumor), with the mean squared errors of both models",
    "errors_by_scale": (
        "the log odds of tumor, by a logistic regression on statistics of both models' errors at scales of 1 to 16 "
        "pixels. It was fitted on training patches"
    ),
}

OUTSIDE = "outside"  # the baseline of features that another program wrote
OUTSIDE_SPLITS = ("training", "validation", "test")


def summary(metrics: PairMetrics, confidence: float) -> list[str]:
    """Say in a few sentences what was found: the pair, the best of the simpler ways, and the truth where it is known.

    Args:
        metrics: the numbers of a pair and its baselines.
        confidence: of the intervals, e.g. 0.95.

    Returns:
        Two or three sentences.

    """
    level, counts = metrics.levels["slide"], metrics.levels["slide"].counts
    shown = "do not show that the pair distinguishes" if level.includes_chance else "show that the pair distinguishes"
    if level.auroc.high < CHANCE:
        shown = "show that the score of the pair points the wrong way for"
    lines = [
        f"These data {shown} tumor from normal slides: AUROC {interval(level.auroc)} on {counts.units} test slides "
        f"of {counts.cases} cases ({100 * confidence:g}% confidence interval; 0.5 is chance, 1 is perfect)."
    ]
    if metrics.baselines:
        kind = "other" if OUTSIDE in metrics.baselines else "simpler"  # a pretrained encoder is not simpler
        best = max(metrics.baselines.values(), key=lambda each: each.levels["slide"].auroc.value)
        less = best.differences["slide"]
        verdict = (
            "lower than the pair"
            if less.low > 0
            else f"higher than the pair: this {kind} way wins"
            if less.high < 0
            else "not shown to differ from the pair"
        )
        lines.append(
            f"Of {len(metrics.baselines)} {kind} ways to tell them apart, the best is {best.description}, with "
            f"{interval(best.levels['slide'].auroc)}; it is {verdict}."
        )
    if metrics.truth is not None and "pair" in metrics.truth.aurocs:
        lines.append(
            "Within the slides the true tumor regions are known: the score separates tumor patches from the others "
            f"with an AUROC of {interval(metrics.truth.aurocs['pair'])}."
        )
    if metrics.regions is not None and "pair" in metrics.regions.aurocs:
        lines.append(
            "Against the regions that a pathologist drew, the score of the pair has an AUROC per patch of "
            f"{interval(metrics.regions.aurocs['pair'])}."
        )
    return lines


def sentences(metrics: PairMetrics, confidence: float) -> list[str]:
    """Describe in words what the numbers show, and where they show nothing.

    Args:
        metrics: the numbers of a pair and its baselines.
        confidence: of the intervals, e.g. 0.95.

    Returns:
        Sentences for the log, the report and the model card.

    """
    counts = metrics.levels["slide"].counts
    cases = f"{counts.cases} case{'s' * (counts.cases != 1)}"
    lines = [
        f"The test set has {metrics.levels['patch'].counts.units:,} patches of {counts.positive} tumor and "
        f"{counts.negative} normal slides, from {cases}; {counts.paired_cases} of these have both tissues."
    ]
    lines += on_levels(metrics.levels, metrics.paired, confidence)
    lines.append(
        f"{'Labels' if metrics.regions is None else 'In these numbers, labels'} are per slide, not per patch: each "
        "patch of a tumor slide counts as tumor, even where it shows normal tissue. Numbers per patch therefore "
        "describe the labels of slides, not the content of patches."
    )
    lines.append(_winners(metrics.errors))
    for data, errors in metrics.errors.items():
        if errors.means["tumor_model"].low is None:
            lines.append(
                f"The test {data.replace('_', ' ')} come from one case, so their mean errors have no interval."
            )
    rates = metrics.decisions["slide"].at_threshold
    lines.append(
        f"At the threshold fixed on validation cases, sensitivity per slide is {interval(rates.sensitivity)} and "
        f"specificity per slide is {interval(rates.specificity)}."
    )
    lines += against_baselines(
        {baseline.description: baseline.differences["slide"] for baseline in metrics.baselines.values()}
    )
    lines += _at_chance(metrics.baselines, confidence)
    lines += without_outside([metrics.baselines[OUTSIDE].details] if OUTSIDE in metrics.baselines else [])
    lines += [f"Left out, {name}: {reason}." for name, reason in metrics.left_out.items()]
    if metrics.truth is not None:
        lines.append(_truth(metrics.truth, metrics.baselines))
    if metrics.regions is not None:
        lines += on_regions(metrics.regions)
    if metrics.unflagged is not None and metrics.unflagged.aurocs:
        lines.append(_unflagged(metrics.unflagged, metrics.levels))
    return lines


def _unflagged(unflagged: UnflaggedMetrics, levels: Mapping[str, Discrimination]) -> str:
    total = levels["patch"].counts.units
    faults = ", ".join(f"{fault} {count:,}" for fault, count in unflagged.flagged.items() if count)
    return (
        f"{total - unflagged.patches:,} of {total:,} test patches are flagged ({faults}). Without these the AUROC is "
        + ", ".join(f"{interval(unflagged.aurocs[level])} per {level}" for level in LEVELS)
        + "; with them it is "
        + ", ".join(f"{levels[level].auroc.value:.2f}" for level in LEVELS)
        + "."
    )


def on_levels(levels: Mapping[str, Discrimination], within: PairedCases | None, confidence: float) -> list[str]:
    """Say for each level what the data show, what they could show, and how paired cases compare.

    Args:
        levels: discrimination per level.
        within: comparison of each case's tumor with its own normal tissue; None where no case has both.
        confidence: of the intervals, e.g. 0.95.

    Returns:
        A sentence per level, and those on all levels.

    """
    lines = [verdict(level, levels[level], confidence) for level in LEVELS]
    lines.append(_what_is_possible(levels["case"], confidence))
    if within is not None:
        ties = f" (and as high in {within.equal})" if within.equal else ""
        lines.append(
            f"In {within.above} of {within.cases} cases with both tissues, the tumor scores above the normal tissue "
            f"of the same case{ties}: a share of {interval(within.share)}. The sign test gives "
            f"p = {within.p_value:.2g}; the smallest possible is {within.smallest_p:.2g}."
        )
    return lines


def verdict(level: str, result: Discrimination, confidence: float) -> str:
    """Say whether the AUROC of a level is above chance.

    It is where the p-value is at most 1 - confidence and the interval excludes 0.5; both always agree
    (see `discrimination.discriminate`).

    Args:
        level: patch, slide or case.
        result: the discrimination at that level.
        confidence: of its interval, e.g. 0.95.

    Returns:
        One sentence.

    """
    area = result.auroc
    start = (
        f"Per {level} the AUROC is {area.value:.2f} with a {100 * confidence:g}% confidence interval of "
        f"{area.low:.2f} to {area.high:.2f} and p = {result.p_value:.2g}"
    )
    if result.includes_chance:
        return f"{start}: these data do not show that the score distinguishes tumor from normal (chance is 0.5)."
    if area.high < CHANCE:
        return f"{start}, below chance (0.5): here the score points the wrong way."
    return f"{start}, above chance (0.5)."


def _what_is_possible(result: Discrimination, confidence: float) -> str:
    """Name the smallest p-value that the cases allow."""
    cases = f"{result.counts.cases} test case{'s' * (result.counts.cases != 1)}"
    start = f"With {cases} the smallest possible p is {result.smallest_p:.2g}"
    if not is_significant(result.smallest_p, confidence):
        return (
            f"{start}: no score could be significant here. More cases would help, or crossvalidation.folds, which "
            "tests every case once."
        )
    return f"{start}."


def interval(estimate: Estimate) -> str:
    """Word an estimate with its interval: 0.75 (0.50 to 0.90)."""
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _winners(errors: Mapping[str, TissueErrors]) -> str:
    tumor, normal = (errors[data].tumor_wins for data in ("tumor_data", "normal_data"))
    start = (
        f"The tumor model has the smaller error on {tumor:.0%} of tumor patches and {normal:.0%} of normal patches"
    )
    if (tumor >= 0.5) == (normal >= 0.5):
        tissue = "tumor" if tumor >= 0.5 else "normal"
        return (
            f"{start}. The rule that the smaller error decides would call most patches {tissue}, whatever they show."
        )
    return f"{start}."


def _truth(truth: TruthMetrics, baselines: Mapping[str, BaselineMetrics]) -> str:
    start = (
        f"The content of each patch is known here: {truth.tumor_patches:,} of {truth.patches:,} patches are at least "
        "half tumor"
    )
    if "pair" not in truth.aurocs:
        return f"{start}. All patches are of one kind, so no AUROC can be computed against this truth."
    areas = [f"the AUROC per patch of the pair is {interval(truth.aurocs['pair'])}"]
    areas += [
        f"that of {baselines[name].description} is {interval(truth.aurocs[name])}"
        for name in ("latents", OUTSIDE)
        if name in truth.aurocs and name in baselines
    ]
    *others, last = areas
    return f"{start}. Against this truth, {', '.join(others)}{', and ' if others else ''}{last}."


def on_regions(regions: RegionMetrics) -> list[str]:
    """Say how the scores of patches agree with the regions that a pathologist drew.

    Args:
        regions: the numbers.

    Returns:
        Two or three sentences.

    """
    lines = [
        f"{counted(regions.slides).capitalize()} of the test set {'have' if regions.slides != 1 else 'has'} regions: "
        f"{regions.tumor_patches:,} patches are in tumor regions and {regions.normal_patches:,} in normal regions. "
        f"{regions.patches_of_normal_slides:,} patches of normal slides without regions count as normal; "
        f"{regions.left_out:,} patches have no label and are left out."
    ]
    if "pair" not in regions.aurocs:
        return [*lines, "All labeled patches are of one tissue, so no AUROC can be computed against the regions."]
    others = {name: area for name, area in regions.aurocs.items() if name != "pair"}
    line = f"Against the regions, the AUROC per patch of the pair is {interval(regions.aurocs['pair'])}"
    if others:
        best = max(others, key=lambda name: others[name].value)
        line += f", and that of the best baseline ({best.replace('_', ' ')}) is {interval(others[best])}"
    return [*lines, f"{line}."]


def against_baselines(differences: Mapping[str, Estimate]) -> list[str]:
    """Compare the pair with its baselines per slide, by the difference of the AUROCs and not by their rank.

    Args:
        differences: AUROC of the pair less that of each baseline, by the baseline's description.

    Returns:
        A sentence for each outcome that some baseline has, with the differences in brackets.

    """
    groups: dict[str, list[str]] = {"worse": [], "better": [], "unclear": []}
    for description, less in differences.items():
        outcome = "better" if less.low > 0 else "worse" if less.high < 0 else "unclear"
        groups[outcome].append(f"{description} ({less.value:+.2f})")
    sentences = {
        "worse": "lower than that of",
        "better": "higher than that of",
        "unclear": "not shown to differ from that of",
    }
    return [
        f"Per slide, the AUROC of the pair is {sentences[outcome]}: {'; '.join(names)}."
        for outcome, names in groups.items()
        if names
    ]


def _at_chance(baselines: Mapping[str, BaselineMetrics], confidence: float) -> list[str]:
    """Name the baselines that are not shown to be above chance."""
    chance = [each.description for each in baselines.values() if each.levels["slide"].includes_chance]
    if not chance:
        return []
    return [
        f"Per slide, the {100 * confidence:g}% confidence interval includes chance (0.5) for: {'; '.join(chance)}."
    ]


def without_outside(details: Sequence[Mapping[str, int]]) -> list[str]:
    """Say how many patches have no outside features, and what that means for the comparison.

    Args:
        details: of the baseline of outside features, of the split or of each fold; see `outside.compare`.

    Returns:
        One sentence; none without the baseline, or where each patch has features.

    """
    lacking = []
    for split in OUTSIDE_SPLITS:
        without, patches = (sum(each[f"{split}_{key}"] for each in details) for key in ("patches_without", "patches"))
        if without:
            lacking.append(f"{without:,} of {patches:,} {split} patches")
    if not lacking:
        return []
    slides = sum(each["test_slides_without"] for each in details)
    files = f"; {counted(slides)} of the test set {'has' if slides == 1 else 'have'} no file" if slides else ""
    return [
        f"Without outside features: {', '.join(lacking)}{files}. That baseline leaves them out, and the pair is "
        "compared with it on the other test patches."
    ]
