"""What a training on digits leaves for its MLflow run."""

import pandas as pd

from histocae.files import read_table, sha256
from histocae.mnist import paths as places
from histocae.mnist.images import ALL
from histocae.tracking.record import TrainingRecord


class DigitsRecord(TrainingRecord):
    """The training of a model of all digits, or of one."""

    publishes = "histocae mnist publish"
    view = "digits"

    @property
    def command(self) -> str:
        """The command that trains this model."""
        return "histocae mnist classes" if self.place == places.PLACE else f"histocae mnist train {self.name}"

    def patches(self, split: str) -> pd.DataFrame | None:
        """Give the images of a part that the model sees; None where the tables are others by now."""
        path = self.place.splits / f"{split}.csv"
        if not path.is_file() or sha256(path) != self.training["splits"][split]:
            return None
        table = read_table(path)
        digit = self.training["params"]["digit"]
        return table if digit == ALL else table[table["label"] == digit]

    @property
    def is_candidate(self) -> bool:
        """Models of one digit are no use by themselves."""
        return super().is_candidate and self.training["params"]["digit"] == ALL
