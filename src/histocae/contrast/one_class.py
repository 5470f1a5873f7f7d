"""Anomaly detection: does a model of normal tissue alone notice tumor?

No tumor has any part in it but in the test: the model learns from normal patches, and the threshold is fixed on
validation patches of normal tissue.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.contrast import comparison, pair
from histocae.contrast.verdicts import interval
from histocae.identifiers import COMPARED
from histocae.latent import distances
from histocae.params import Tissue
from histocae.patches.images import Images, batches
from histocae.statistics import thresholds
from histocae.statistics.discrimination import Discrimination, levels_as_json
from histocae.statistics.levels import LEVELS
from histocae.statistics.permutation import CHANCE
from histocae.statistics.thresholds import Rates

FALSE_ALARMS = 0.05  # share of normal validation units at or above the threshold
MOST_NEIGHBORS = 10_000  # training patches whose latents are kept
BATCH = 64
ABOUT = {
    "error": "mean squared error",
    "relative_error": "error / variance of the patch",
    "mahalanobis": "Mahalanobis distance of the latents",
    "neighbors": "distance of the latents from the five nearest training patches",
}


@dataclass(frozen=True)
class Anomaly:
    """How well a score of the normal model distinguishes the tissues on test cases.

    Attributes:
        about: what the score is.
        levels: discrimination per level, without AUPRC.
        thresholds: per level, the 0.95 quantile of normal validation units.
        rates: on test units at the threshold, per level.

    """

    about: str
    levels: dict[str, Discrimination]
    thresholds: dict[str, float]
    rates: dict[str, Rates]

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: about, threshold, at_threshold, and what the levels have (flat)."""
        return {
            "about": self.about,
            "threshold": self.thresholds,
            "at_threshold": {level: rates.as_json() for level, rates in self.rates.items()},
            **levels_as_json(self.levels, with_counts=False),
        }


@dataclass(frozen=True)
class Latents:
    """Latents of the normal model, float32, shape (n, latents) each.

    Attributes:
        training: of the patches that it was trained on.
        validation: of validation patches.
        test: of test patches.

    """

    training: NDArray[np.float32]
    validation: NDArray[np.float32]
    test: NDArray[np.float32]


def scores(
    errors: tuple[NDArray[np.float64], NDArray[np.float64]], images: tuple[Images, Images], latents: Latents | None
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Score validation and test patches in every way; a higher score means less like normal tissue.

    Args:
        errors: mean squared error of each validation and each test patch.
        images: the validation and the test patches.
        latents: of the same patches; None where the model has no latent layer.

    Returns:
        By name the scores of validation and test patches, float64.

    """
    found = {
        "error": errors,
        "relative_error": (errors[0] / _variances(images[0]), errors[1] / _variances(images[1])),
    }
    if latents is not None:
        of_tissue = distances.fit(latents.training)
        parts = latents.validation, latents.test
        found["mahalanobis"] = (of_tissue.mahalanobis(parts[0]), of_tissue.mahalanobis(parts[1]))
        found["neighbors"] = (of_tissue.nearest(parts[0]), of_tissue.nearest(parts[1]))
    return found


def labeled(rows: pd.DataFrame) -> pd.DataFrame:
    """Number rows of patches from 0, and add their label: 1 tumor, 0 normal."""
    return rows.reset_index(drop=True).assign(label=(rows["sample_type"] == COMPARED[0]).astype(int).to_numpy())


def _variances(images: Images) -> NDArray[np.float64]:
    """Compute the variance of each patch: the error of its mean color."""
    parts = [(batch / np.float32(255)).var((1, 2), dtype=np.float64).mean(1) for batch in batches(images, BATCH)]
    return np.concatenate(parts) + pair.LEAST_ERROR


def study(
    validation: pd.DataFrame,
    test: pd.DataFrame,
    scored: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    settings: Tissue,
    seed: int,
) -> dict[str, Anomaly]:
    """Measure the scores of the normal model on test cases.

    Args:
        validation: normal validation patches with slide_id, case_id, sample_type and label.
        test: test patches of both tissues, likewise.
        scored: by name the scores of these patches.
        settings: numbers of draws and permutations, confidence.
        seed: of draws and permutations.

    Returns:
        The result of each score. Scores are in standard deviations from the mean of normal validation patches.

    Raises:
        DataError: the test patches are of one tissue.

    """
    return {name: _measure(validation, test, name, *both, settings, seed) for name, both in scored.items()}


def _measure(
    validation: pd.DataFrame,
    test: pd.DataFrame,
    name: str,
    of_validation: NDArray[np.float64],
    of_test: NDArray[np.float64],
    settings: Tissue,
    seed: int,
) -> Anomaly:
    mean, spread = of_validation.mean(), of_validation.std() or 1.0
    validation, test = (
        rows.assign(score=(values - mean) / spread) for rows, values in ((validation, of_validation), (test, of_test))
    )
    fixing, reported = comparison.by_level(validation), comparison.by_level(test)
    bounds = {level: float(np.quantile(fixing[level]["score"], 1 - FALSE_ALARMS)) for level in LEVELS}
    rates = {}
    for level, units in reported.items():
        labels, values, cases = (units[column].to_numpy() for column in ("label", "score", "case_id"))
        rates[level] = thresholds.rates_at_threshold(labels, values, bounds[level], settings.confidence, cases)
    levels = comparison.discriminate_levels(test, settings, seed, with_auprc=False)
    return Anomaly(ABOUT[name], levels, bounds, rates)


def sentences(results: Mapping[str, Anomaly], model: str) -> list[str]:
    """Describe in words whether a model of normal tissue alone notices tumor.

    Args:
        results: the result of `study`.
        model: name of the normal model.

    Returns:
        Sentences.

    """
    slides = {name: each.levels["slide"] for name, each in results.items()}
    listed = "; ".join(f"{results[name].about} {interval(slide.auroc)}" for name, slide in slides.items())
    lines = [f"AUROC per slide of {model} alone, without any tumor in training or in choosing a threshold: {listed}."]
    shown = {name: slide.auroc.value for name, slide in slides.items() if not slide.includes_chance}
    for which, said in (
        ([name for name, area in shown.items() if area > CHANCE], "Shown to be higher for tumor"),
        ([name for name, area in shown.items() if area < CHANCE], "Shown to be lower for tumor, the wrong way"),
    ):
        if which:
            lines.append(f"{said}: {'; '.join(results[name].about for name in which)}.")
    if not shown:
        lines.append("These data do not show that the normal model alone notices tumor.")
    return lines
