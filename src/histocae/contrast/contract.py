"""The contract of a registered model: how its patches were extracted; statistics of its training patches.

Whoever scores another slide needs both. The patches have to be extracted in the same way, and patches unlike those
that a model was trained on have scores that say little. `as_json` gives contract.json, which lies inside the model.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field

from histocae.contrast.distribution import Distribution
from histocae.contrast.json_parts import Curve, Number, Part, Score, Text
from histocae.errors import DataError
from histocae.files import fingerprint, read_json
from histocae.params import Count, Fraction, Positive, Share

VERSION = 1
CONTRACT, NETWORKS = "contract.json", "networks"  # in the folder of a registered model
SINGLE, PAIR = "single", "pair"
# the quantiles that `training` has at least
MEASURES = {
    SINGLE: ("error", "color"),
    PAIR: ("error_tumor", "error_normal", "error_min", "score", "color"),
}


class QualityThresholds(Part):
    """The threshold of each fault; see `patches.quality.THRESHOLDS`."""

    # a fault that this package does not know can't be flagged
    model_config = ConfigDict(extra="forbid")

    pen: Fraction
    blur: Positive
    fold: Positive
    debris: Fraction
    pale: Positive


class QualityRule(Part):
    """How faults of patches were found, and what became of these patches.

    Attributes:
        rule: by which patches were measured and flagged; see `patches.quality.RULE`.
        thresholds: from which on they were flagged.
        left_out: faults whose patches were left out.

    """

    rule: Text
    thresholds: QualityThresholds
    left_out: list[Literal["pen", "blur", "fold", "debris", "pale"]]


class PatchSettings(Part):
    """How patches were extracted.

    Attributes:
        pixels: side of a patch.
        mpp: microns per pixel; None where the slides are tiles, which keep a resolution of their own.
        tissue_rule: by which tissue was found; see `patches.tissue.RULE`.
        tissue_share: smallest share of tissue in a patch.
        tiles: how patches were made of tiles.
        color: of the patches.
        quality: how their faults were found; None where an earlier version, which did not measure any, made the
            patches.

    """

    pixels: Count
    mpp: Positive | None
    tissue_rule: Text
    tissue_share: Share
    tiles: Literal["reduce", "cut"]
    color: Literal["rgb", "grey", "macenko"]
    quality: QualityRule | None = None


class Decision(Curve):
    """The threshold and the calibration of a level."""

    threshold: Number


class Decisions(Part):
    """A decision per level."""

    patch: Decision
    slide: Decision
    case: Decision


class Contract(Part):
    """How the patches of a registered model were extracted, how it decides, and statistics of its training patches.

    Attributes:
        version: of this layout.
        kind: pair | single.
        models: names, tumor first.
        latent_features: per model; None without a latent layer.
        weights: fingerprint per model.
        source: of the slides (data.source).
        patches: how they were extracted.
        score: of a pair.
        score_text: what the score is, for readers.
        classes: of a pair: what a unit is called from the threshold on, and below it.
        levels: threshold and calibration of a pair per level.
        training: statistics of the training patches.
        findings: sentences on how well a pair distinguishes the tissues.
        caveats: sentences on what a model is not for.

    """

    version: Literal[1]
    kind: Literal["pair", "single"]
    models: Annotated[list[Text], Field(min_length=1, max_length=2)]
    latent_features: list[Count | None]
    weights: list[Text]
    source: Text
    patches: PatchSettings
    score: Score | None
    score_text: Text | None
    classes: Annotated[list[Text], Field(min_length=2, max_length=2)] | None
    levels: Decisions | None
    training: Distribution
    findings: list[str]
    caveats: list[str]

    @property
    def state(self) -> str:
        """A fingerprint of all of it, and so of the weights."""
        return fingerprint(self.as_json())

    def conflicts(self) -> list[str]:
        """List what does not fit together; each text begins with the key."""
        count = 2 if self.kind == PAIR else 1
        lists: dict[str, list[Any]] = {
            "models": self.models,
            "latent_features": self.latent_features,
            "weights": self.weights,
        }
        found = [
            f"{key}: {len(values)} entries for a {self.kind}" for key, values in lists.items() if len(values) != count
        ]
        if self.kind == PAIR:
            needed = {"score": self.score, "score_text": self.score_text, "classes": self.classes}
            found += [
                f"{key}: missing in a pair" for key, value in {**needed, "levels": self.levels}.items() if not value
            ]
        if self.score is not None:
            found += [f"score.{conflict}" for conflict in self.score.conflicts()]
        missing = [name for name in MEASURES[self.kind] if name not in self.training.quantiles]
        found += [f"training.quantiles.{name}: missing" for name in missing]
        return found + [f"training.{conflict}" for conflict in self.training.conflicts()]

    @classmethod
    def from_json(cls, values: object, where: str, remedy: str) -> Self:
        """Check the content of a contract.json.

        Args:
            values: of the JSON file.
            where: the file or model that they are from, for the error.
            remedy: end of the error's line.

        Returns:
            The contract.

        Raises:
            DataError: it is of another version, or a key is missing, has another type or does not fit the others.

        """
        version = values.get("version") if isinstance(values, dict) else None
        if isinstance(version, int) and version > VERSION:
            raise DataError(
                f"{where}: a contract of version {version}, this histocae reads {VERSION}; update histocae"
            )
        return super().from_json(values, where, remedy)

    @classmethod
    def read(cls, path: Path, remedy: str) -> Self:
        """Read contract.json; see `from_json`.

        Args:
            path: of the file.
            remedy: end of the error's line.

        Returns:
            The contract.

        Raises:
            DataError: the file is missing or damaged; or see `from_json`.

        """
        return cls.from_json(read_json(path, remedy), str(path), remedy)
