"""Figures of the study of MNIST: confusion, maps, clusters, galleries."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from numpy.typing import NDArray

from histocae.latent.plots import framed, lay_out
from histocae.mnist import study
from histocae.mnist.images import DIGITS

COLORS: tuple[ColorType, ...] = colormaps["tab10"].colors  # type: ignore[attr-defined]  # of a listed colormap
PER_CLUSTER = 12
FIXED = {"vmin": 0, "vmax": 1, "cmap": "Blues"}


def latent_figures(
    results: study.LatentStudy, images: NDArray[np.uint8], digits: study.Labels, seed: int, model: str
) -> Iterator[tuple[str, Figure]]:
    """Draw all figures of the study of a model's latents.

    Args:
        results: of the study.
        images: of the test images, uint8, shape (n, side, side, 1).
        digits: of these images.
        seed: of the draw.
        model: its name, for the titles.

    Yields:
        The name of a figure's file, without suffix, and the figure.

    """
    shown = digits[results.sample]
    first, second = (f"component {i + 1} ({results.explained[i]:.0%} of the variance)" for i in range(2))
    yield "components", plot_components(results.explained, f"{model}: principal components of the latents")
    yield "pca", plot_map(results.plane, shown, f"{model}: test images by their latents, PCA", (first, second))
    yield "tsne", plot_map(results.tsne, shown, f"{model}: t-SNE of the latents of {len(shown):,} test images")
    yield "clusters", plot_clusters(results.table, f"{model}: share of each digit in each cluster, test")
    yield "impurity", plot_impurity(results.table, results.scores, f"{model}: impurity of the clusters, test")
    yield "gallery", plot_gallery(results, images, digits, seed, f"{model}: clusters of the latents")


def plot_confusion(counts: NDArray[np.int64], title: str) -> Figure:
    """Plot the share of each digit among the images with each prediction.

    Args:
        counts: images by digit (rows) and prediction (columns).
        title: of the figure.

    Returns:
        The figure.

    """
    taken = counts.T / np.maximum(counts.T.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7.6, 7), layout="constrained")
    axis = figure.subplots()
    heat(axis, taken, "{:.2f}", FIXED)
    axis.set(xlabel="digit", ylabel="prediction", title=title, xticks=range(DIGITS), yticks=range(DIGITS))
    return figure


def plot_map(
    points: NDArray[np.float32], digits: study.Labels, title: str, labels: tuple[str, str] | None = None
) -> Figure:
    """Plot images on a plane in the color of their digit.

    Args:
        points: float32, shape (n, 2).
        digits: of the images.
        title: of the figure.
        labels: of the axes; None for a plane whose axes mean nothing.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    axis = figure.subplots()
    # in a random order, so that the last digit does not hide the others
    order = np.random.default_rng(0).permutation(len(points))
    x, y = points[order].T
    axis.scatter(x, y, s=np.clip(40_000 / len(points), 4, 30), lw=0, c=np.asarray(COLORS)[digits[order]])
    axis.set_aspect("equal", adjustable="datalim")
    for digit in range(DIGITS):
        axis.scatter([], [], s=40, color=COLORS[digit], label=str(digit))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False)
    axis.set_title(title)
    if labels is None:
        axis.set(xticks=[], yticks=[])
    else:
        axis.set(xlabel=labels[0], ylabel=labels[1])
    return figure


def plot_components(explained: NDArray[np.float64], title: str) -> Figure:
    """Plot the share of the variance of each principal component, and of all up to it.

    Args:
        explained: float64, the share of each component.
        title: of the figure.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    at = np.arange(1, len(explained) + 1)
    axis.bar(at, explained, color="#5b4a9c", label="of each")
    axis.plot(at, np.cumsum(explained), "o-", ms=4, color="0.3", label="of all up to it")
    axis.set(xlabel="principal component", ylabel="share of the variance", ylim=(0, 1.03), title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # of a MaxNLocator
    axis.legend(frameon=False)
    axis.grid(alpha=0.3, axis="y")
    return figure


def plot_clusters(table: pd.DataFrame, title: str) -> Figure:
    """Plot the share of each digit in each cluster.

    Args:
        table: one row per cluster.
        title: of the figure.

    Returns:
        The figure.

    """
    counts = table[[f"digit_{digit}" for digit in range(DIGITS)]].to_numpy()
    shares = counts.T / np.maximum(counts.sum(axis=1), 1)
    figure = Figure(figsize=(0.55 * len(table) + 1.5, 6.2), layout="constrained")
    axis = figure.subplots()
    heat(axis, shares, "{:.2f}", FIXED)
    for edge in range(1, len(table)):
        axis.axvline(edge - 0.5, color="white", lw=3)
    axis.set(xlabel="cluster", ylabel="digit", title=title, xticks=range(len(table)), yticks=range(DIGITS))
    return figure


def plot_impurity(table: pd.DataFrame, scores: study.LatentScores, title: str) -> Figure:
    """Plot the Gini impurity and the entropy of the digits in each cluster, and without clusters.

    Args:
        table: one row per cluster.
        scores: of all clusters together.
        title: of the figure.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    for axis, key, unit in zip(figure.subplots(2, sharex=True), ("gini", "entropy"), ("", " (bits)"), strict=True):
        mean, whole = getattr(scores, key), getattr(scores, f"{key}_without_clusters")
        axis.bar(table["cluster"], table[key], color="#5b4a9c")
        axis.axhline(whole, color="0.3", lw=0.8, ls="--", label="all images together")
        axis.axhline(mean, color="#b2364a", lw=1, label="mean over images")
        axis.set_ylabel(key.capitalize() + unit)
        axis.grid(alpha=0.3, axis="y")
        axis.set_axisbelow(True)
    axis.set(xlabel="cluster", xticks=table["cluster"])
    axis.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.22))
    figure.suptitle(title)
    return figure


def plot_gallery(
    results: study.LatentStudy, images: NDArray[np.uint8], digits: study.Labels, seed: int, title: str
) -> Figure:
    """Show some test images of each cluster, drawn at random, framed in the color of their digit.

    Args:
        results: of the study.
        images: of the test images, uint8, shape (n, side, side, 1).
        digits: of these images.
        seed: of the draw.
        title: of the figure.

    Returns:
        The figure.

    """
    rng = np.random.default_rng(seed)
    rows, texts = [], []
    for row in results.table.itertuples():
        members = np.flatnonzero(results.clusters == row.cluster)
        drawn = rng.permutation(members)[:PER_CLUSTER]
        rows.append([framed(images[i], COLORS[digits[i]]) for i in drawn])
        share = f"{row.images_of_digit / row.images:.0%} are {row.digit}" if row.images else "none in test"
        texts.append(f"cluster {row.cluster}\n{row.images} images\n{share}")
    return lay_out(rows, texts, {0: "test images of the cluster, drawn at random"}, title, [])


def heat(axis: Axes, values: NDArray[np.floating[Any]], form: str, options: dict[str, Any]) -> None:
    """Show a matrix with its numbers.

    Args:
        axis: to draw on.
        values: the matrix.
        form: format of a number.
        options: of imshow.

    """
    shown = axis.imshow(values, aspect="equal", interpolation="none", **options)
    for (row, column), value in np.ndenumerate(values):
        r, g, b, _ = shown.cmap(shown.norm(value))
        dark = 0.299 * r + 0.587 * g + 0.114 * b < 0.5
        axis.text(column, row, form.format(value), ha="center", va="center", fontsize=8, color="w" if dark else "k")
