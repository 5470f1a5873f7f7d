"""Figures of one model per digit: predictions, errors, reconstructions by all ten models."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from histocae.latent.plots import framed, lay_out
from histocae.mnist import classes, study
from histocae.mnist.figures import heat, plot_confusion
from histocae.mnist.images import DIGITS


def summary_figures(
    errors: NDArray[np.float64],
    digits: study.Labels,
    components: pd.DataFrame,
    scores: classes.ClassScores,
    latents: int | None,
) -> Iterator[tuple[str, Figure]]:
    """Draw the figures of one model per digit.

    Args:
        errors: MSE of the test images under each model, shape (images, 10).
        digits: of the images.
        components: the table of `classes.by_components`.
        scores: the result of `classes.summarize`.
        latents: per model.

    Yields:
        The name of a figure's file, without suffix, and the figure.

    """
    counts = study.confusion(digits, classes.predicted(errors))
    title = f"The digit whose model errs least, test ({scores.test_accuracy:.3f} right)"
    yield "confusion", plot_confusion(counts, title)
    yield "errors", plot_errors_by_model(classes.mean_errors(errors, digits), "Mean squared error, test")
    title = "One model per digit: autoencoders and principal components"
    yield "pca", plot_accuracies(components, scores, latents, title)


def plot_errors_by_model(means: NDArray[np.float64], title: str) -> Figure:
    """Plot the mean error of each digit's images under the model of each digit.

    Args:
        means: float64, shape (10, 10): digits in rows, models in columns.
        title: of the figure.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(7.6, 7), layout="constrained")
    axis = figure.subplots()
    heat(axis, means, "{:.3f}", {"cmap": "viridis_r", "vmin": 0, "vmax": float(means.max())})
    axis.set(xlabel="model of digit", ylabel="images of digit", xticks=range(DIGITS), yticks=range(DIGITS))
    axis.set_title(title)
    return figure


def plot_reconstructions(
    originals: NDArray[np.uint8],
    reconstructions: NDArray[np.uint8],
    errors: NDArray[np.float64],
    digits: study.Labels,
    title: str,
) -> Figure:
    """Show images beside their reconstructions by the models of all ten digits; the best is framed.

    Args:
        originals: uint8, shape (n, side, side, 1).
        reconstructions: uint8, shape (n, 10, side, side, 1).
        errors: MSE, shape (n, 10).
        digits: of the images.
        title: of the figure.

    Returns:
        The figure.

    """
    rows, texts = [], []
    for original, ten, error, digit in zip(originals, reconstructions, errors, digits, strict=True):
        best = int(error.argmin())
        # green where the best model is that of the digit
        frame = "#2e8b57" if best == digit else "#b2364a"
        rows.append(
            [
                framed(original, "0.85"),
                *(framed(image, frame if i == best else "0.85") for i, image in enumerate(ten)),
            ]
        )
        texts.append(f"a {digit},\ntaken for {best}")
    heads = {0: "original"} | {i + 1: f"model of {i}" for i in range(DIGITS)}
    legend = [("least error, right", "#2e8b57"), ("least error, wrong", "#b2364a")]
    return lay_out(rows, texts, heads, title, legend)


def plot_accuracies(table: pd.DataFrame, scores: classes.ClassScores, latents: int | None, title: str) -> Figure:
    """Plot the accuracy of principal components per digit by their number, and of the autoencoders.

    Args:
        table: components, validation_accuracy, test_accuracy.
        scores: of the autoencoders.
        latents: per autoencoder; they are not shown where it is None.
        title: of the figure.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for key, line in (("test", "o-"), ("validation", "o--")):
        axis.plot(table["components"], table[f"{key}_accuracy"], line, ms=4, color="#555555", label=f"PCA, {key}")
    accuracies = (("test", scores.test_accuracy, "#b2364a"), ("validation", scores.validation_accuracy, "none"))
    if latents is not None:
        for name, accuracy, filled in accuracies:
            label = f"autoencoders, {name}"
            axis.plot(latents, accuracy, "D", ms=8, mfc=filled, mec="#b2364a", ls="none", label=label)
    axis.set(xlabel="components, or latents, of each digit's model", ylabel="accuracy", title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # of a MaxNLocator
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure
