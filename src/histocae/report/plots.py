"""Images: sample grids, originals beside reconstructions, curves and histograms.

Every function gives a matplotlib figure and shows nothing by itself; `save` writes it the
same to the byte each time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from histocae.files import replacing

ARCHITECTURES = {
    "plain": ("#2c6fa6", "o", ""),
    "residual": ("#b2364a", "D", ""),
    "compact": ("#2e8b57", "^", ""),
    "pca": ("#555555", "s", "--"),
}
TISSUE_COLORS = {"Primary Tumor": "#b2364a", "Solid Tissue Normal": "#2c6fa6"}


def read_images(filenames: Sequence[str], directory: str | Path) -> np.ndarray:
    """Read picture files of one size.

    Returns:
        float32 in [0, 1], n x height x width x channels.

    """
    from PIL import Image

    return np.stack([np.asarray(Image.open(Path(directory) / name)) for name in filenames]).astype(
        np.float32
    ) / np.float32(255)


def plot_sample_imgs(
    images: np.ndarray,
    n_rows: int = 2,
    n_cols: int = 6,
    size: float = 2.0,
    color: bool = True,
    shuffle: bool = True,
    labels: Sequence | None = None,
    seed: int = 0,
    title: str | None = None,
) -> Figure:
    """Show a grid of images.

    Args:
        images: n x height x width x channels, uint8 or floats in [0, 1].
        n_rows: of the grid.
        n_cols: of the grid.
        size: of one image, in inches.
        color: RGB; False shows the first channel in grey.
        shuffle: choose at random (seeded) instead of the first ones.
        labels: a title for each image.
        seed: of the choice.
        title: of the whole.

    """
    chosen = _choose(len(images), n_rows * n_cols, shuffle, seed)
    figure = Figure(figsize=(n_cols * size, n_rows * size + (0.4 if title else 0)), layout="constrained")
    axes = figure.subplots(n_rows, n_cols, squeeze=False).ravel()
    for axis, at in zip(axes, [*chosen, *[None] * (len(axes) - len(chosen))], strict=True):
        axis.axis("off")
        if at is not None:
            _show(axis, images[at], color)
            if labels is not None:
                axis.set_title(str(labels[at]), fontsize=9, parse_math=False)
    if title:
        figure.suptitle(title, parse_math=False)  # a name with dollar signs is no formula
    return figure


def plot_paired_imgs(
    X: np.ndarray,  # noqa: N803 (the seeds' names)
    Y: np.ndarray,  # noqa: N803
    N: int = 6,  # noqa: N803
    orient: str = "v",
    size: float = 2.0,
    color: bool = True,
    shuffle: bool = True,
    seed: int = 0,
    title: str | None = None,
    names: tuple[str, str] = ("original", "reconstruction"),
) -> Figure:
    """Show originals beside their reconstructions.

    Args:
        X: originals, n x height x width x channels, uint8 or floats in [0, 1].
        Y: reconstructions, of the same shape.
        N: how many pairs.
        orient: "v": each original above its reconstruction; "h": beside it.
        size: of one image, in inches.
        color: RGB; False shows the first channel in grey.
        shuffle: choose at random (seeded) instead of the first ones.
        seed: of the choice.
        title: of the whole.
        names: what the two are called.

    """
    if orient not in ("h", "v"):
        raise ValueError(f"orient is 'h' or 'v', not {orient!r}")
    chosen = _choose(len(X), N, shuffle, seed)
    count = max(1, len(chosen))
    shape = (2, count) if orient == "v" else (count, 2)
    figure = Figure(figsize=(shape[1] * size + 0.3, shape[0] * size + (0.4 if title else 0)), layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    for place, at in enumerate(chosen):
        for side, images in enumerate((X, Y)):
            axis = axes[side, place] if orient == "v" else axes[place, side]
            _show(axis, images[at], color)
    for side, name in enumerate(names):
        if orient == "v":
            axes[side, 0].set_ylabel(name)
        else:
            axes[0, side].set_title(name, fontsize=10)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    if title:
        figure.suptitle(title, parse_math=False)  # a name with dollar signs is no formula
    return figure


def plot_curves(histories: Mapping[str, pd.DataFrame], colors: Mapping[str, str]) -> Figure:
    """Show each model's training loss (dashed) and validation loss over epochs, on a log axis."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, history in histories.items():
        axis.plot(history["epoch"], history["validation_loss"], "o-", ms=4, color=colors[name], label=name)
        axis.plot(history["epoch"], history["loss"], "--", lw=1, color=colors[name])
    axis.set(xlabel="epoch", ylabel="loss (pixels in [0, 1])", yscale="log")
    plain_numbers(axis.yaxis)
    axis.xaxis.get_major_locator().set_params(integer=True)
    title = "validation\n(dashed: training)"
    figure.legend(*axis.get_legend_handles_labels(), title=title, frameon=False, loc="outside right center")
    axis.grid(alpha=0.3, which="both")
    return figure


def plot_sizes(table: pd.DataFrame) -> Figure:
    """Show test MSE against the number of latents; linear models of growing size are joined by a line.

    Args:
        table: columns model, architecture, latent_features (missing: no latent layer, left out), test_mse.

    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    rows = table[table["latent_features"].notna()].sort_values("latent_features")
    for name, some in rows.groupby("architecture", sort=True):
        latents = some["latent_features"].astype(float)
        color, marker, line = ARCHITECTURES[name]
        axis.plot(latents, some["test_mse"], marker, ls=line, ms=7, color=color, label=name)
    # of models of one size every second one's name stands to the left: errors may be close
    turn = rows.sort_values("test_mse").groupby("latent_features").cumcount() % 2
    for i, row in rows.iterrows():
        place = {"xytext": (-7, -3), "ha": "right"} if turn[i] else {"xytext": (7, -3), "ha": "left"}
        at = (float(row["latent_features"]), row["test_mse"])
        axis.annotate(row["model"], at, textcoords="offset points", fontsize=8, **place)
    axis.set(xlabel="latents", ylabel="test MSE (pixels in [0, 1])", xscale="log", yscale="log")
    ticks: list[int] = []
    for one in sorted(set(rows["latent_features"].astype(int)), reverse=True):
        if not ticks or one * 1.2 < ticks[-1]:  # closer ones would be written over one another
            ticks.append(one)
    axis.minorticks_off()
    axis.set_xticks(ticks, [str(one) for one in ticks])
    plain_numbers(axis.yaxis)
    axis.margins(x=0.2, y=0.15)
    axis.grid(alpha=0.3)
    if len(rows):
        axis.legend(frameon=False)
    return figure


def plain_numbers(axis: Axis) -> None:
    """Write 0.002, 0.005, 0.01 beside a logarithmic axis in place of powers of ten, of which it may have none."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def plot_errors(measured: pd.DataFrame, title: str) -> Figure:
    """Show histograms of the patches' MSE by sample type."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    edges = np.histogram_bin_edges(measured["mse"], bins=40)
    for name, rows in measured.groupby("sample_type"):
        label = f"{name} ({len(rows)} patches, mean {rows['mse'].mean():.5f})"
        axis.hist(rows["mse"], edges, alpha=0.55, color=TISSUE_COLORS[name], label=label)
    axis.set(xlabel="mean squared error of a patch (pixels in [0, 1])", ylabel="patches", title=title)
    axis.legend(frameon=False, loc="upper right")  # to look for the best place takes long
    return figure


def model_colors(names: Sequence[str]) -> dict[str, str]:
    """Give each model a colour of its own."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = [*colormaps["tab10"].colors, *colormaps["tab20b"].colors]
    return {name: to_hex(palette[i % len(palette)]) for i, name in enumerate(names)}


def save(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a figure as PNG, whole and without the time of day."""
    FigureCanvasAgg(figure)
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=dpi, metadata={"Software": None})


def _choose(count: int, wanted: int, shuffle: bool, seed: int) -> list[int]:
    wanted = min(count, wanted)
    if not shuffle:
        return list(range(wanted))
    return np.random.default_rng(seed).choice(count, wanted, replace=False).tolist()


def _show(axis, image: np.ndarray, color: bool) -> None:
    if color:
        axis.imshow(image)
    else:
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
