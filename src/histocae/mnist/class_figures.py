"""Images of models of one digit: what they are taken for, their errors, all ten side by side."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from histocae.latent.plots import framed, lay_out
from histocae.mnist import classes, study
from histocae.mnist.figures import heat, plot_confusion
from histocae.mnist.images import DIGITS


def summary_figures(
    errors: np.ndarray, digits: np.ndarray, components: pd.DataFrame, reached: dict[str, float]
) -> Iterator[tuple[str, Figure]]:
    """Give the pictures of the models of one digit, with a name for the file of each.

    Args:
        errors: of the test images under each model, images x 10.
        digits: of the images.
        components: what `classes.by_components` gives.
        reached: what `classes.summarize` gives, and latents.

    """
    counts = study.confusion(digits, classes.predicted(errors))
    told = f"The digit whose model errs least, test ({reached['test_accuracy']:.3f} right)"
    yield "confusion", plot_confusion(counts, told)
    yield "errors", plot_errors_by_model(classes.mean_errors(errors, digits), "Mean squared error, test")
    yield "pca", plot_accuracies(components, reached, "One model per digit: autoencoders and principal components")


def plot_errors_by_model(means: np.ndarray, title: str) -> Figure:
    """Show the mean error of each digit's images under the model of each digit."""
    figure = Figure(figsize=(7.6, 7), layout="constrained")
    axis = figure.subplots()
    heat(axis, means, "{:.3f}", {"cmap": "viridis_r", "vmin": 0, "vmax": float(means.max())})
    axis.set(xlabel="model of digit", ylabel="images of digit", xticks=range(DIGITS), yticks=range(DIGITS))
    axis.set_title(title)
    return figure


def plot_reconstructions(
    originals: np.ndarray, given_back: np.ndarray, errors: np.ndarray, digits: np.ndarray, title: str
) -> Figure:
    """Show images and beside each what the models of all ten digits make of it; the best is framed.

    Args:
        originals: uint8, n x side x side x 1.
        given_back: uint8, n x 10 x side x side x 1.
        errors: MSE, n x 10.
        digits: of the images.
        title: of the whole.

    """
    rows, texts = [], []
    for original, ten, error, digit in zip(originals, given_back, errors, digits, strict=True):
        best = int(error.argmin())
        # green where the best model is that of the digit
        frame = "#2e8b57" if best == digit else "#b2364a"
        rows.append(
            [framed(original, "0.85"), *(framed(one, frame if i == best else "0.85") for i, one in enumerate(ten))]
        )
        texts.append(f"a {digit},\ntaken for {best}")
    heads = {0: "original"} | {i + 1: f"model of {i}" for i in range(DIGITS)}
    legend = [("least error, right", "#2e8b57"), ("least error, wrong", "#b2364a")]
    return lay_out(rows, texts, heads, title, legend)


def plot_accuracies(table: pd.DataFrame, reached: dict[str, float], title: str) -> Figure:
    """Show the accuracy of principal components per digit by their number, and of the autoencoders.

    Args:
        table: components, validation_accuracy, test_accuracy.
        reached: of the autoencoders: latents, validation_accuracy, test_accuracy.
        title: of the whole.

    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for key, line in (("test", "o-"), ("validation", "o--")):
        axis.plot(table["components"], table[f"{key}_accuracy"], line, ms=4, color="#555555", label=f"PCA, {key}")
    for name, filled in (("test", "#b2364a"), ("validation", "none")):
        at = reached["latents"], reached[f"{name}_accuracy"]
        axis.plot(*at, "D", ms=8, mfc=filled, mec="#b2364a", ls="none", label=f"autoencoders, {name}")
    axis.set(xlabel="components, or latents, of each digit's model", ylabel="accuracy", title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure
