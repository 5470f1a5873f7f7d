"""Figures: grids of images, originals beside reconstructions, loss curves and histograms.

Every function returns a matplotlib figure and displays nothing; `save` writes the same bytes each time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from histocae.files import replacing
from histocae.identifiers import TISSUE_COLORS

ARCHITECTURES = {
    "plain": ("#2c6fa6", "o", ""),
    "residual": ("#b2364a", "D", ""),
    "compact": ("#2e8b57", "^", ""),
    "pca": ("#555555", "s", "--"),
}


def read_images(filenames: Sequence[str], directory: str | Path) -> NDArray[np.float32]:
    """Read image files of one size.

    Args:
        filenames: of the images.
        directory: in which they lie.

    Returns:
        float32 in [0, 1], shape (n, height, width, channels).

    """
    from PIL import Image

    images = np.stack([np.asarray(Image.open(Path(directory) / name)) for name in filenames])
    return images.astype(np.float32) / np.float32(255)


def plot_sample_imgs(
    images: NDArray[Any],
    n_rows: int = 2,
    n_cols: int = 6,
    *,
    size: float = 2.0,
    color: bool = True,
    shuffle: bool = True,
    labels: Sequence[object] | None = None,
    seed: int = 0,
    title: str | None = None,
) -> Figure:
    """Show a grid of images.

    Args:
        images: uint8 or floats in [0, 1], shape (n, height, width, channels).
        n_rows: number of rows of the grid.
        n_cols: number of columns of the grid.
        size: of one image, in inches.
        color: RGB; False shows the first channel in gray.
        shuffle: choose at random (seeded) instead of the first ones.
        labels: a title for each image.
        seed: of the choice.
        title: of the figure.

    Returns:
        The figure.

    """
    chosen = _choose(len(images), n_rows * n_cols, shuffle, seed)
    figure = Figure(figsize=(n_cols * size, n_rows * size + (0.4 if title else 0)), layout="constrained")
    axes = figure.subplots(n_rows, n_cols, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, i in zip(axes, chosen, strict=False):
        _show(axis, images[i], color)
        if labels is not None:
            axis.set_title(str(labels[i]), fontsize=9, parse_math=False)
    if title:
        figure.suptitle(title, parse_math=False)  # a name with dollar signs is no formula
    return figure


def plot_paired_imgs(
    X: NDArray[Any],  # noqa: N803 (the names in the notebooks with which the project began)
    Y: NDArray[Any],  # noqa: N803
    N: int = 6,  # noqa: N803
    *,
    orient: str = "v",
    size: float = 2.0,
    color: bool = True,
    shuffle: bool = True,
    seed: int = 0,
    title: str | None = None,
    names: tuple[str, str] = ("original", "reconstruction"),
    residuals: bool = False,
) -> Figure:
    """Show originals beside their reconstructions.

    Args:
        X: originals, uint8 or floats in [0, 1], shape (n, height, width, channels).
        Y: reconstructions, of the same shape.
        N: number of pairs.
        orient: "v": each original above its reconstruction; "h": beside it.
        size: of one image, in inches.
        color: RGB; False shows the first channel in gray.
        shuffle: choose at random (seeded) instead of the first ones.
        seed: of the choice.
        title: of the figure.
        names: of originals and reconstructions.
        residuals: show as well where they differ; see `residual_maps`.

    Returns:
        The figure.

    Raises:
        ValueError: orient is neither "v" nor "h".

    """
    if orient not in ("h", "v"):
        raise ValueError(f"orient is 'h' or 'v', not {orient!r}")
    chosen = _choose(len(X), N, shuffle, seed)
    shown = (*names, "absolute error") if residuals else names
    shape = (len(shown), max(1, len(chosen)))
    if orient == "h":
        shape = shape[::-1]
    figure = Figure(figsize=(shape[1] * size + 0.3, shape[0] * size + (0.4 if title else 0)), layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    rows = axes if orient == "v" else axes.T  # originals, reconstructions, and where they differ
    for position, i in enumerate(chosen):
        for row, images in zip(rows, (X, Y), strict=False):
            _show(row[position], images[i], color)
    if residuals:
        show_residuals(figure, [(rows[2], residual_maps(X[chosen], Y[chosen]))])
    for side, name in enumerate(shown):
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


def residual_maps(originals: NDArray[Any], reconstructions: NDArray[Any]) -> NDArray[np.float32]:
    """Compute where reconstructions differ from their originals.

    Args:
        originals: uint8 or floats in [0, 1], shape (n, height, width, channels).
        reconstructions: of the same shape.

    Returns:
        The absolute difference of pixels in [0, 1], its mean over the channels; float32, shape (n, height, width).

    """
    first, second = (
        images.astype(np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)
        for images in (originals, reconstructions)
    )
    maps: NDArray[np.float32] = np.abs(first - second).mean(3)
    return maps


def show_residuals(figure: Figure, rows: Sequence[tuple[NDArray[Any], NDArray[np.float32]]]) -> None:
    """Show residual maps on one scale, black where there is no error, with a bar that explains the colors.

    Args:
        figure: that the axes are part of.
        rows: axes, and the result of `residual_maps` for them; there may be more axes than maps.

    """
    everything = np.concatenate([maps.ravel() for _, maps in rows])
    if not everything.size:
        return
    top = float(np.quantile(everything, 0.99)) or 1.0  # few pixels, as of dust, would make all others black
    for axes, maps in rows:
        for axis, values in zip(axes, maps, strict=False):
            shown = axis.imshow(values, cmap="inferno", vmin=0, vmax=top)
    figure.colorbar(shown, ax=[axis for axes, _ in rows for axis in axes], fraction=0.03, pad=0.01, extend="max")


def plot_curves(histories: Mapping[str, pd.DataFrame], colors: Mapping[str, str]) -> Figure:
    """Show each model's training loss (dashed) and validation loss over epochs, on a log axis.

    Args:
        histories: by model; columns epoch, loss, validation_loss.
        colors: by model.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, history in histories.items():
        axis.plot(history["epoch"], history["validation_loss"], "o-", ms=4, color=colors[name], label=name)
        axis.plot(history["epoch"], history["loss"], "--", lw=1, color=colors[name])
    axis.set(xlabel="epoch", ylabel="loss (pixels in [0, 1])", yscale="log")
    plain_numbers(axis.yaxis)
    whole_epochs = AutoLocator()
    whole_epochs.set_params(integer=True)
    axis.xaxis.set_major_locator(whole_epochs)
    title = "validation\n(dashed: training)"
    figure.legend(*axis.get_legend_handles_labels(), title=title, frameon=False, loc="outside right center")
    axis.grid(alpha=0.3, which="both")
    return figure


def plot_sizes(table: pd.DataFrame) -> Figure:
    """Show test MSE against the number of latents; linear models of growing size are joined by a line.

    Args:
        table: columns model, architecture, latent_features, test_mse; models without latent_features are left out.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    rows = table[table["latent_features"].notna()].sort_values("latent_features")
    for name, group in rows.groupby("architecture", sort=True):
        latents = group["latent_features"].astype(float)
        color, marker, line = ARCHITECTURES[name]
        axis.plot(latents, group["test_mse"], marker, ls=line, ms=7, color=color, label=name)
    # among models of one size, every second name is written to the left: their errors may be close
    turn = rows.sort_values("test_mse").groupby("latent_features").cumcount() % 2
    for i, row in rows.iterrows():
        offset, align = ((-7, -3), "right") if turn[i] else ((7, -3), "left")
        point = (float(row["latent_features"]), row["test_mse"])
        axis.annotate(row["model"], point, xytext=offset, ha=align, textcoords="offset points", fontsize=8)
    axis.set(xlabel="latents", ylabel="test MSE (pixels in [0, 1])", xscale="log", yscale="log")
    ticks: list[int] = []
    for latents in sorted(set(rows["latent_features"].astype(int)), reverse=True):
        if not ticks or latents * 1.2 < ticks[-1]:  # closer labels would overlap
            ticks.append(latents)
    axis.minorticks_off()
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    plain_numbers(axis.yaxis)
    axis.margins(x=0.2, y=0.15)
    axis.grid(alpha=0.3)
    if len(rows):
        axis.legend(frameon=False)
    return figure


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with 0.002, 0.005, 0.01 ...: there may be no power of ten in its range."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def plot_errors(measured: pd.DataFrame, title: str) -> Figure:
    """Show histograms of the patches' MSE by sample type.

    Args:
        measured: a row per patch; columns mse, sample_type.
        title: of the figure.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    edges = np.histogram_bin_edges(measured["mse"], bins=40).tolist()
    for name, rows in measured.groupby("sample_type"):
        label = f"{name} ({len(rows)} patches, mean {rows['mse'].mean():.5f})"
        axis.hist(rows["mse"], edges, alpha=0.55, color=TISSUE_COLORS[name], label=label)
    axis.set(xlabel="mean squared error of a patch (pixels in [0, 1])", ylabel="patches", title=title)
    axis.legend(frameon=False, loc="upper right")  # finding the best location takes long
    return figure


def model_colors(names: Sequence[str]) -> dict[str, str]:
    """Choose a color for each model, as #rrggbb."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = [colormaps[name](i) for name, count in (("tab10", 10), ("tab20b", 20)) for i in range(count)]
    return {name: to_hex(palette[i % len(palette)]) for i, name in enumerate(names)}


def save(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a figure as PNG, without the time of day.

    Args:
        figure: to write.
        path: of the file, which appears only when it is complete.
        dpi: pixels per inch.

    """
    FigureCanvasAgg(figure)
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=dpi, metadata={"Software": None})


def _choose(count: int, limit: int, shuffle: bool, seed: int) -> list[int]:
    limit = min(count, limit)
    if not shuffle:
        return list(range(limit))
    chosen: list[int] = np.random.default_rng(seed).choice(count, limit, replace=False).tolist()
    return chosen


def _show(axis: Axes, image: NDArray[Any], color: bool) -> None:
    if color:
        axis.imshow(image)
    else:
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
