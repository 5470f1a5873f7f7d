"""What the numbers of tumor against normal show and what they do not, in words."""

from histocae.statistics import discrimination


def sentences(metrics: dict, confidence: float) -> list[str]:
    """Say in words what the numbers show and what they do not.

    Args:
        metrics: all that `contrast` gives, as in metrics.json.
        confidence: of the intervals.

    """
    counts = metrics["counts"]["slide"]
    told = [
        f"Judged on {metrics['counts']['patch']['units']:,} test patches of {counts['positive']} tumor and "
        f"{counts['negative']} normal slides; they come from {counts['cases']} "
        f"case{'s' * (counts['cases'] != 1)}, {counts['paired_cases']} of which have both tissues."
    ]
    told += [verdict(metrics, level, confidence) for level in discrimination.LEVELS]
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
    """Say whether the AUROC of a level, as `comparison.discriminate_levels` gives it, is more than chance."""
    area, p = metrics[f"auroc_{level}"], metrics[f"p_value_{level}"]
    told = (
        f"Per {level} the AUROC is {area['value']:.2f}, its {100 * confidence:g}% interval {area['low']:.2f} to "
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
    tumor, normal = (wins[data]["tumor_model"] for data in ("tumor_data", "normal_data"))
    told = f"The tumor model has the smaller error on {tumor:.0%} of tumor patches and {normal:.0%} of normal ones"
    if (tumor >= 0.5) == (normal >= 0.5):
        always = "tumor" if tumor >= 0.5 else "normal"
        return f"{told}: the rule that the smaller error decides would mostly say {always}, whatever is shown."
    return f"{told}."


def _truth(truth: dict) -> str:
    told = (
        f"What each patch shows is known here: {truth['tumor_patches']:,} of {truth['patches']:,} are at least half "
        "tumor"
    )
    if "auroc_patch_pair" not in truth:
        return f"{told}, so that nothing can be judged against it."
    told += f". Against that, the AUROC per patch of the pair is {_interval(truth['auroc_patch_pair'])}"
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
        told.append(
            f"The {100 * confidence:g}% interval per slide of these includes chance (0.5): {'; '.join(chance)}."
        )
    pca = found.get("pca_pair")
    if pca is not None and pca["components"] < pca["components_wanted"]:
        told.append(
            f"The linear pair has {pca['components']:,} components instead of the {pca['components_wanted']:,} "
            "numbers of the pair's latents: the patches that it was computed from allow no more."
        )
    told += [f"Left out, {name}: {reason}." for name, reason in metrics["left_out"].items()]
    return told
