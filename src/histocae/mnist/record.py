"""The record of a training on MNIST, from which its MLflow run is made."""

from pathlib import Path

from histocae.mnist import paths as mnist_paths
from histocae.mnist.images import ALL
from histocae.tracking import documents
from histocae.tracking.record import TrainingRecord
from histocae.tracking.split_tables import TableSummary, summarize


def read_metrics(folder: Path, stage: str) -> dict[str, float]:
    """Read the metrics in metrics.json of a study.

    Args:
        folder: of the study.
        stage: that writes it.

    Returns:
        The metrics; to ask for one that is missing raises a TrackingError.

    Raises:
        TrackingError: the file is missing or damaged.

    """
    content = documents.read(folder / "metrics.json", documents.Metrics, f"run dvc repro {stage}")
    metrics: dict[str, float] = content["metrics"]
    return metrics


class MnistRecord(TrainingRecord):
    """The training of a model, on all digits or on one."""

    publishes = "histocae mnist publish"
    view = "mnist"
    has_contract = False

    @property
    def command(self) -> str:
        """The command that trains this model."""
        return (
            "histocae mnist classes"
            if self.layout == mnist_paths.CLASSES_LAYOUT
            else f"histocae mnist train {self.name}"
        )

    @property
    def remedy(self) -> str:
        """What to do about a damaged file of this training."""
        stage = "classes" if self.layout == mnist_paths.CLASSES_LAYOUT else f"train@{self.name}"
        return f"run dvc repro {stage}"

    def summarize(self, path: Path, split: str) -> TableSummary:
        """Summarize the images of a part that the model is trained or tested on.

        Args:
            path: of the part's table.
            split: train | validation | test.

        Returns:
            The summary of their rows.

        """
        digit = self.training["params"]["digit"]
        return summarize(path, lambda part: part if digit == ALL else part[part["label"] == digit])

    @property
    def is_candidate(self) -> bool:
        """Whether the model may be registered. A model of one digit is of use only with the other nine."""
        return super().is_candidate and self.training["params"]["digit"] == ALL
