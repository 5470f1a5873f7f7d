"""The numbers of a pair of models on one split: errors, discrimination, decisions and baselines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from histocae.statistics.discrimination import Discrimination, levels_as_json
from histocae.statistics.intervals import ClusteredMean, Estimate
from histocae.statistics.paired import PairedCases
from histocae.statistics.thresholds import Calibration, Rates


@dataclass(frozen=True)
class TissueErrors:
    """Errors of both models on the patches of one tissue.

    Attributes:
        means: mean squared error per model (tumor_model, normal_model).
        difference: mean of the normal model's error less the tumor model's, patch by patch.
        tumor_wins: share of patches on which the tumor model has the smaller error; equal errors count half.

    """

    means: dict[str, ClusteredMean]
    difference: ClusteredMean
    tumor_wins: float


@dataclass(frozen=True)
class Decision:
    """A threshold and a calibration fixed on validation units of one level, and their rates on test units.

    Attributes:
        threshold: a unit is called tumor where its score is at least that.
        calibration: of the score to a probability.
        at_threshold: rates on test units at the threshold.
        argmin: rates on test units where the model with the smaller error decides (log ratio at threshold 0).

    """

    threshold: float
    calibration: Calibration
    at_threshold: Rates
    argmin: Rates


def differences_as_json(differences: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """Give the JSON object of the differences between the pair and a baseline: difference_<level>."""
    return {f"difference_{level}": difference.as_json() for level, difference in differences.items()}


@dataclass(frozen=True)
class BaselineMetrics:
    """How well a baseline distinguishes the tissues on test cases.

    Attributes:
        description: of the baseline, for readers.
        direction: 1, or -1 where a low measure means tumor.
        fixed_on: split that fixed the direction, or definition.
        details: further numbers of the baseline.
        levels: discrimination per level, without AUPRC.
        differences: AUROC of the pair less that of the baseline, per level, both on the patches that the baseline has
            scores of.

    """

    description: str
    direction: int
    fixed_on: str
    details: dict[str, int]
    levels: dict[str, Discrimination]
    differences: dict[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: about, direction, fixed_on, the details, and what the levels have (flat)."""
        return {
            "about": self.description,
            "direction": self.direction,
            "fixed_on": self.fixed_on,
            **self.details,
            **levels_as_json(self.levels, with_counts=False),
            **differences_as_json(self.differences),
        }


@dataclass(frozen=True)
class TruthMetrics:
    """How well scores of patches agree with the true content of the patches.

    Attributes:
        patches: number of test patches.
        tumor_patches: those with at least half of their area tumor.
        aurocs: AUROC per patch of the pair and of each baseline against this truth; empty where
            all patches are of one kind.

    """

    patches: int
    tumor_patches: int
    aurocs: dict[str, Estimate] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: patches, tumor_patches, auroc_patch_pair, auroc_patch_<baseline>."""
        areas = {f"auroc_patch_{name}": area.as_json() for name, area in self.aurocs.items()}
        return {"patches": self.patches, "tumor_patches": self.tumor_patches, **areas}


@dataclass(frozen=True, kw_only=True)
class RegionMetrics:
    """How well scores of patches agree with the regions that a pathologist drew.

    Attributes:
        slides: number of test slides that have regions.
        tumor_patches: test patches in tumor regions.
        normal_patches: test patches in normal regions.
        patches_of_normal_slides: test patches of normal slides without regions, which count as normal.
        left_out: test patches of slides with regions that are in none of them, and those of tumor slides without
            regions.
        aurocs: AUROC per patch of the pair and of each baseline; empty where all patches are of one kind.

    """

    slides: int
    tumor_patches: int
    normal_patches: int
    patches_of_normal_slides: int
    left_out: int
    aurocs: dict[str, Estimate] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: the counts, auroc_patch_pair, auroc_patch_<baseline>."""
        counts = {name: value for name, value in vars(self).items() if name != "aurocs"}
        return counts | {f"auroc_patch_{name}": area.as_json() for name, area in self.aurocs.items()}


@dataclass(frozen=True)
class UnflaggedMetrics:
    """How well the pair distinguishes the tissues without patches that are flagged: ink, blur and other faults.

    Attributes:
        flagged: number of test patches with each fault; one may have several.
        patches: number of test patches without any.
        aurocs: AUROC of the pair per level on these; empty where none is flagged, or one tissue is left.

    """

    flagged: dict[str, int]
    patches: int
    aurocs: dict[str, Estimate] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object: flagged, patches, auroc_<level>."""
        areas = {f"auroc_{level}": area.as_json() for level, area in self.aurocs.items()}
        return {"flagged": self.flagged, "patches": self.patches, **areas}


@dataclass(frozen=True)
class PairMetrics:
    """All numbers of a pair on one split, beside its baselines.

    Attributes:
        errors: per tissue (tumor_data, normal_data) the errors of both models.
        levels: discrimination per level.
        paired: how often a case's tumor scores above its own normal tissue; None where no case has both.
        decisions: threshold, calibration and rates per level.
        baselines: by name.
        left_out: reason per baseline that could not be computed.
        truth: agreement with the true content of patches; None where that is unknown.
        regions: agreement with regions that a pathologist drew; None where there are none.
        unflagged: the pair on patches without faults; None where it was not measured.

    """

    errors: dict[str, TissueErrors]
    levels: dict[str, Discrimination]
    paired: PairedCases | None
    decisions: dict[str, Decision]
    baselines: dict[str, BaselineMetrics]
    left_out: dict[str, str]
    truth: TruthMetrics | None = None
    regions: RegionMetrics | None = None
    unflagged: UnflaggedMetrics | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object of reports/tissue/metrics.json, as far as numbers go."""
        errors, decisions = self.errors.items(), self.decisions.items()
        return {
            "mse": {data: {model: mean.value for model, mean in each.means.items()} for data, each in errors},
            "mse_interval": {
                data: {model: {"low": mean.low, "high": mean.high} for model, mean in each.means.items()}
                for data, each in errors
            },
            "mse_difference": {data: each.difference.as_json() for data, each in errors},
            "wins": {data: {"tumor_model": each.tumor_wins} for data, each in errors},
            **levels_as_json(self.levels),
            "paired": None if self.paired is None else self.paired.as_json(),
            "threshold": {level: decision.threshold for level, decision in decisions},
            "calibration": {level: decision.calibration.as_json() for level, decision in decisions},
            "at_threshold": {level: decision.at_threshold.as_json() for level, decision in decisions},
            "argmin": {level: decision.argmin.as_json() for level, decision in decisions},
            "baselines": {name: baseline.as_json() for name, baseline in self.baselines.items()},
            "left_out": self.left_out,
            **({} if self.truth is None else {"truth": self.truth.as_json()}),
            **({} if self.regions is None else {"regions": self.regions.as_json()}),
            **({} if self.unflagged is None else {"unflagged": self.unflagged.as_json()}),
        }
