"""Warnings about a scored slide: it is unlike the training slides, or its score rests on few patches."""

import pandas as pd
from scipy.special import bdtrc

from histocae.contrast.contract import PAIR, Contract
from histocae.patches import quality
from histocae.patches.flags import WORDS
from histocae.patches.tissue import RULE
from histocae.scoring.flagging import FLAGS, count
from histocae.scoring.scored import Scored

BEYOND = 0.99  # quantile of the training patches
# A slide is called unlike the training slides where more than this share of its patches is beyond the quantile, and
# chance does not explain so many: of few patches, one is often beyond it.
MANY, CHANCE = 0.10, 0.001
FEW = 10  # patches
FLAGGED = 0.05  # share of a slide's patches; fewer are usual, or are left out anyway
RESOLUTION = 0.05  # relative difference of microns per pixel


def remarks(scored: Scored, contract: Contract) -> list[str]:
    """List the warnings about a slide.

    Args:
        scored: the slide.
        contract: of the model.

    Returns:
        Sentences without their full stops; none for a slide like those of the training.

    """
    table = scored.patches
    rule = contract.patches.tissue_rule
    return [
        *_unlike(table, contract),
        *_resolution(scored, contract),
        *([f"tissue detection differs: {RULE} here, {rule} in training"] if rule != RULE else []),
        *_faults(scored, contract),
        *([f"few patches: {len(table)}"] if len(table) < FEW else []),
        *([f"tiles left out: {len(tiles)}, the first: {tiles[0]}"] if (tiles := scored.tiles_left_out) else []),
    ]


def _faults(scored: Scored, contract: Contract) -> list[str]:
    """Warn where patches are left out, where many are flagged, and where the training flagged otherwise."""
    flags, rule, found = scored.patches[FLAGS], contract.patches.quality, list[str]()
    if scored.patches_left_out:
        counts = [f"{number} {WORDS[fault]}" for fault, number in scored.patches_left_out.items()]
        found.append(f"patches left out: {', '.join(counts)}")
    if (share := float((flags != "").mean())) > FLAGGED:
        shares = {fault: number / len(flags) for fault, number in count(flags).items()}
        shown = [f"{fault} {part:.0%}" for fault, part in shares.items() if part >= 0.005]  # else it reads 0%
        found.append(f"{share:.0%} of the patches are flagged: {', '.join(shown)}")
    if rule is None and (flags != "").any():
        found.append("no patch is left out: the model was trained before faults were measured")
    if rule is not None and rule.rule != quality.RULE:
        found.append(f"faults are measured differently: {quality.RULE} here, {rule.rule} in training")
    return found


def _unlike(table: pd.DataFrame, contract: Contract) -> list[str]:
    """Warn where errors or colors are larger than those of nearly all training patches."""
    if contract.kind == PAIR:
        error, errors = "error_min", table[["error_tumor", "error_normal"]].min(axis=1)
        subject = "both models reconstruct"
    else:
        error, errors = "error", table["error"]
        subject = "the model reconstructs"
    limit, color_limit = (contract.training.quantile(name, BEYOND) for name in (error, "color"))
    usual = f"{BEYOND:.0%} of the training patches"
    own = "{share:.0%} of the slide's patches"
    beyond = {
        f"{subject} {own} worse than {usual}": int((errors > limit).sum()),
        f"the colors of {own} are further from the training mean than those of {usual}": int(
            (table["color_distance"] > color_limit).sum()
        ),
    }
    return [
        f"unlike the training slides: {sentence.format(share=number / len(table))}"
        for sentence, number in beyond.items()
        if number > MANY * len(table) and bdtrc(number - 1, len(table), 1 - BEYOND) < CHANCE
    ]


def _resolution(scored: Scored, contract: Contract) -> list[str]:
    target = contract.patches.mpp
    if scored.given.tiles:
        given = scored.given.own_mpp
        unused = [] if given is None else [f"the table's {given:g} microns per pixel are not used for tiles"]
        if target is None:
            return unused
        return [
            f"the resolution may differ: tiles state none, and the training patches have {target:g} microns per "
            "pixel",
            *unused,
        ]
    found = []
    own = float(scored.patches["mpp"].iloc[0])
    if target is not None and abs(own / target - 1) > RESOLUTION:
        found.append(f"another resolution: {own:.3g} microns per pixel, and {target:g} in training")
    if scored.mpp_from == "data.mpp":
        found.append(f"the slide states no microns per pixel: {scored.mpp:g} was given")
    return found
