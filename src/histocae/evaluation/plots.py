"""The figure of models and image codecs at equal bytes."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histocae.report.plots import model_colors, plain_numbers

AXES = {
    "mse": "MSE (pixels in [0, 1]; lower is better)",
    "psnr": "PSNR in dB (higher is better)",
    "ssim": "SSIM (higher is better)",
}
CODECS = {"JPEG": ("#2c6fa6", "o"), "JPEG 2000": ("#2e8b57", "s"), "WebP": ("#b8860b", "^")}


MOST_LABELS = 6  # of models; more would overlap, and are named in the legend instead


def plot_compression(table: pd.DataFrame) -> Figure:
    """Show errors over bytes: a line per codec, a dot per model with its name.

    Args:
        table: columns method, kind (codec or model), bytes, mse, psnr, ssim; a measure without values is left out.

    Returns:
        The figure.

    """
    shown = [name for name in AXES if table[name].notna().any()] or ["mse"]
    figure = Figure(figsize=(4.6 * len(shown), 4.8), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw(axis, table, name)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), frameon=False)
    return figure


def _draw(axis: Axes, table: pd.DataFrame, name: str) -> None:
    codecs, models = (table[table["kind"] == kind] for kind in ("codec", "model"))
    for codec, (color, marker) in CODECS.items():
        rows = codecs[codecs["method"] == codec].sort_values("bytes")
        if len(rows):
            axis.plot(rows["bytes"], rows[name], marker=marker, ms=4, color=color, label=codec)
    if len(models) > MOST_LABELS:
        colors = model_colors(list(models["method"]))
        for _, model in models.iterrows():
            _dots(axis, [model["bytes"]], [model[name]], colors[model["method"]], model["method"])
    elif len(models):
        _dots(axis, models["bytes"], models[name], "#b2364a", "models, latents of 8 bits")
        _label(axis, models.sort_values(name), name)
    axis.set(xscale="log", xlabel="bytes per patch", title=AXES[name])
    # labels of sizes between powers of two would overlap
    ticks = [size for size in sorted(set(table["bytes"])) if size.bit_count() == 1]
    axis.minorticks_off()
    axis.set_xticks(ticks, [str(size) for size in ticks])
    if name == "mse":
        axis.set_yscale("log")
        plain_numbers(axis.yaxis)
    axis.margins(x=0.2)  # space for names on the left
    axis.grid(alpha=0.3)


def _dots(axis: Axes, sizes: Sequence[int], errors: Sequence[float], color: str, label: str) -> None:
    # above the labels
    axis.plot(sizes, errors, "D", ms=7, color=color, mec="white", mew=0.5, zorder=5, label=label.replace("$", r"\$"))


def _label(axis: Axes, models: pd.DataFrame, name: str) -> None:
    """Write the names of models, sorted by error, beside their dots."""
    # among models of one size, every second name is written to the left: their errors may be close
    turn = models.groupby("bytes").cumcount() % 2
    for i, model in models.iterrows():
        offset, align = ((-8, -3), "right") if turn[i] else ((8, -3), "left")
        point = (float(model["bytes"]), model[name])
        label = axis.annotate(model["method"], point, xytext=offset, ha=align, textcoords="offset points", fontsize=9)
        label.set(parse_math=False, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1})
