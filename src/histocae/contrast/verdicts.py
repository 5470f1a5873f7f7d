"""Sentences on the numbers of tumor against normal, and on their limits."""

from collections.abc import Mapping

from histocae.contrast.metrics import BaselineMetrics, PairMetrics, TissueErrors, TruthMetrics
from histocae.statistics.discrimination import CHANCE, Discrimination
from histocae.statistics.intervals import Estimate
from histocae.statistics.levels import LEVELS


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
    lines += [verdict(level, metrics.levels[level], confidence) for level in LEVELS]
    lines.append(
        "Labels are per slide, not per patch: each patch of a tumor slide counts as tumor, even where it shows "
        "normal tissue. Numbers per patch therefore describe the labels of slides, not the content of patches."
    )
    lines.append(_winners(metrics.errors))
    for data, errors in metrics.errors.items():
        if errors.means["tumor_model"].low is None:
            lines.append(
                f"The test {data.replace('_', ' ')} come from one case, so their mean errors have no interval."
            )
    rates = metrics.decisions["slide"].at_threshold
    lines.append(
        f"At the threshold fixed on validation cases, sensitivity per slide is {_interval(rates.sensitivity)} and "
        f"specificity per slide is {_interval(rates.specificity)}."
    )
    lines += _against_baselines(metrics.levels["slide"], metrics.baselines, confidence)
    lines += [f"Left out, {name}: {reason}." for name, reason in metrics.left_out.items()]
    if metrics.truth is not None:
        lines.append(_truth(metrics.truth))
    return lines


def verdict(level: str, result: Discrimination, confidence: float) -> str:
    """Say whether the AUROC of a level is above chance.

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
        f"{area.low:.2f} to {area.high:.2f}"
    )
    if result.includes_chance:
        return (
            f"{start}. The interval includes chance (0.5), so these data do not show that the score distinguishes "
            "tumor from normal."
        )
    if area.high < CHANCE:
        return f"{start}, below chance (0.5): here the score points the wrong way."
    if result.p_value > 1 - confidence:
        return (
            f"{start}, above chance (0.5). Labels shuffled over the cases do as well with p = {result.p_value:.2f}, "
            "so chance is not ruled out with so few cases."
        )
    return f"{start}, above chance (0.5; p = {result.p_value:.2g})."


def _interval(estimate: Estimate) -> str:
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


def _truth(truth: TruthMetrics) -> str:
    start = (
        f"The content of each patch is known here: {truth.tumor_patches:,} of {truth.patches:,} patches are at least "
        "half tumor"
    )
    if "pair" not in truth.aurocs:
        return f"{start}. All patches are of one kind, so no AUROC can be computed against this truth."
    line = f"{start}. Against this truth, the AUROC per patch of the pair is {_interval(truth.aurocs['pair'])}"
    if "latents" in truth.aurocs:
        line += f", and that of latents + logistic regression is {_interval(truth.aurocs['latents'])}"
    return f"{line}."


def _against_baselines(
    pair: Discrimination, baselines: Mapping[str, BaselineMetrics], confidence: float
) -> list[str]:
    """Compare the baselines with the pair, per slide."""
    areas = [(baseline.description, baseline.levels["slide"]) for baseline in baselines.values()]
    as_good = [description for description, result in areas if result.auroc.value >= pair.auroc.value]
    chance = [description for description, result in areas if result.includes_chance]
    lines = []
    if as_good:
        lines.append(f"Per slide these baselines do as well as the pair or better: {'; '.join(as_good)}.")
    else:
        lines.append("Per slide no baseline does as well as the pair.")
    if chance:
        lines.append(
            f"Per slide the {100 * confidence:g}% confidence interval of these baselines includes chance (0.5): "
            f"{'; '.join(chance)}."
        )
    details = baselines["pca_pair"].details if "pca_pair" in baselines else {}
    if details and details["components"] < details["components_wanted"]:
        lines.append(
            f"The linear pair has {details['components']:,} components, not {details['components_wanted']:,} as the "
            "latents of the pair: its training patches allow no more."
        )
    return lines
