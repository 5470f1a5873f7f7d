"""Draw the error of each model of cohort all against the seconds of its training.

    python examples/curves.py FIGURE.png

It reads the outputs of the pipeline in this folder. The times depend on the machine and on its other work at that
time; therefore the pipeline's own page has none.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from histocae import paths
from histocae.params_file import load
from histocae.report import plots
from histocae.tracking.record import TrainingRecord


def main(path: Path) -> None:
    """Draw the validation MSE, by which the best epoch is chosen; a linear map is a horizontal line."""
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
        # all epochs take about the same time, and the seconds are those of the epochs alone
        seconds = record.run["seconds"] * np.arange(1, len(losses) + 1) / len(losses)
        axis.plot(seconds, np.minimum.accumulate(losses), color=colors[record.name], label=label)
    axis.set(xlabel="seconds of training", ylabel="best validation MSE so far", xscale="log", yscale="log")
    for side in (axis.xaxis, axis.yaxis):
        plots.plain_numbers(side)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plots.save(figure, path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
