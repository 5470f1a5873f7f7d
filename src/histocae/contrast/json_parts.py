"""Parts of contract.json that other JSON files have, too, each checked key by key: scores and calibrations."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError

from histocae import params_file
from histocae.errors import DataError
from histocae.params import Positive, Section

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class Part(Section):
    """A part of contract.json or of another JSON file. Keys beyond these are ignored: later versions may add some."""

    model_config = ConfigDict(extra="ignore")

    def as_json(self) -> dict[str, Any]:
        """Give the JSON object."""
        return self.model_dump(mode="json")

    def conflicts(self) -> list[str]:
        """List what does not fit together; each text begins with the key."""
        return []

    @classmethod
    def from_json(cls, values: object, where: str, remedy: str) -> Self:
        """Check what `as_json` gave.

        Args:
            values: of the JSON file.
            where: the file or model that they are from, for the error.
            remedy: end of the error's line.

        Returns:
            The part.

        Raises:
            DataError: a key is missing, has another type or does not fit the others.

        """
        try:
            part = cls.model_validate(values)
        except ValidationError as error:
            raise DataError(f"{where}: {params_file.explain_all(error, cls)}; {remedy}") from None
        for conflict in part.conflicts():
            raise DataError(f"{where}: {conflict}; {remedy}")
        return part


class LinearScore(Part):
    """What `pair.Linear.as_json` gives: a number per feature in each list."""

    means: list[Number]
    deviations: list[Positive]
    weights: list[Number]
    intercept: Number

    def conflicts(self) -> list[str]:
        """List what does not fit together; each text begins with the key."""
        count, lists = len(self.means), {"deviations": self.deviations, "weights": self.weights}
        return [f"{key}: {len(each)} numbers for {count} means" for key, each in lists.items() if len(each) != count]


class Score(Part):
    """How a pair scores patches; `linear` is None where the score is the log ratio."""

    kind: Literal["errors_by_scale", "log_ratio"]
    linear: LinearScore | None

    def conflicts(self) -> list[str]:
        """List what does not fit together; each text begins with the key."""
        if (self.kind == "errors_by_scale") != (self.linear is not None):
            return [f"linear: does not fit kind {self.kind}"]
        return [] if self.linear is None else [f"linear.{conflict}" for conflict in self.linear.conflicts()]


class Curve(Part):
    """The calibration of a level; see `thresholds.Calibration`."""

    slope: Number
    intercept: Number
