"""Draw the error of each trained model of cohort all against the seconds that its training took so far.

    python examples/curves.py PICTURE.png

It reads what the pipeline left in this folder. Times are those of this machine and of what else it did
then, which is why the page of the pipeline has none.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from histocae import paths
from histocae.params_file import load
from histocae.report import plots
from histocae.tracking.record import TrainingRecord


def main(picture: Path) -> None:
    """Validation MSE by epoch, since that is what the epochs were chosen by; linear maps as levels."""
    records = [TrainingRecord(name) for name, model in load(paths.PARAMS).models.items() if model.cohort == "all"]
    colors = plots.model_colors([record.name for record in records])
    figure = Figure(figsize=(10, 6), layout="constrained")
    axis = figure.subplots()
    for record in records:
        losses = record.history["validation_loss"].to_numpy()
        label = f"{record.name} (test {record.metrics['test_mse']:.4f})"
        if record.is_linear:
            axis.axhline(losses[0], ls=":", color=colors[record.name], label=label)
            continue
        # epochs are alike; evaluations and pictures between them are no training
        seconds = record.run["seconds"] * np.arange(1, len(losses) + 1) / len(losses)
        axis.plot(seconds, np.minimum.accumulate(losses), color=colors[record.name], label=label)
    axis.set(xlabel="seconds of training", ylabel="best validation MSE so far", xscale="log", yscale="log")
    for one in (axis.xaxis, axis.yaxis):
        plots.plain_numbers(one)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plots.save(figure, picture)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
