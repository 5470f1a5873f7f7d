"""The baseline of outside features: those of a pretrained encoder, which another program wrote."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from histocae.contrast.baselines import Baseline, Parts
from histocae.contrast.verdicts import OUTSIDE, OUTSIDE_SPLITS
from histocae.patches.outside import Folder, Joined

TISSUES = {1: "tumor", 0: "normal"}


def compare(folder: Folder | None, parts: Parts, seed: int) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Score patches by a logistic regression on outside features.

    Patches without features are left out of the fit, of the choice of the penalty and of the test.

    Args:
        folder: the files of features; None where the user names none.
        parts: rows of training, validation and test patches.
        seed: of the fit.

    Returns:
        The baseline by its name, or the reason why there is none by that name; neither without a folder.

    Raises:
        DataError: a file is damaged, or its features are not those of the same encoder.

    """
    if folder is None:
        return {}, {}
    joined = [folder.join(rows) for rows in parts.each]
    reason = _lacking(parts, joined)
    return ({}, {OUTSIDE: reason}) if reason else ({OUTSIDE: _classify(parts, joined, seed)}, {})


def _lacking(parts: Parts, joined: Sequence[Joined]) -> str | None:
    """Name the first tissue of a part that has no features."""
    for split, rows, part in zip(OUTSIDE_SPLITS, parts.each, joined, strict=True):
        if not part.matched.any():
            return f"no {split} patch has features in the folder that baselines.features names"
        for label, tissue in TISSUES.items():
            if not (rows["label"].to_numpy()[part.matched] == label).any():
                return f"no {split} patch of {tissue} tissue has features"
    return None


def _classify(parts: Parts, joined: Sequence[Joined], seed: int) -> Baseline:
    matched = Parts(*(rows[part.matched] for rows, part in zip(parts.each, joined, strict=True)))
    found = matched.classify("outside features", [part.features for part in joined], seed)
    covered = joined[2].matched
    scores = np.full(len(covered), np.nan)
    scores[covered] = found.scores
    without = int((~covered).sum())
    description = found.description
    if without:
        description += f" ({without:,} of {len(covered):,} test patches lack them)"
    details = {"features": joined[0].features.shape[1], "test_slides_without": joined[2].slides_without}
    for split, part in zip(OUTSIDE_SPLITS, joined, strict=True):
        details[f"{split}_patches"] = len(part.matched)
        details[f"{split}_patches_without"] = int((~part.matched).sum())
    return dataclasses.replace(
        found, description=description, scores=scores, covered=covered if without else None, details=details
    )
