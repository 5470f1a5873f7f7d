"""Figures of tumor against normal: curves, errors, pairs of reconstructions and heatmaps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from histocae.contrast.comparison import DATA, TRUE_SHARE, auroc_table
from histocae.contrast.heatmaps import HeatmapView, slide_view, tile_views
from histocae.contrast.metrics import PairMetrics
from histocae.contrast.pair import MODELS
from histocae.identifiers import COMPARED, TISSUE_COLORS
from histocae.patches.store import PatchStore
from histocae.progress import bar
from histocae.report.plots import residual_maps, save, show_residuals
from histocae.statistics.discrimination import Discrimination, auroc
from histocae.statistics.levels import LEVELS
from histocae.statistics.permutation import CHANCE

if TYPE_CHECKING:
    from histocae.networks.cae import CAE

TUMOR, NORMAL = COMPARED
# from the color of normal tissue to that of tumor, with a neutral middle
SCALE = ("#2c6fa6", "#9fc3dd", "#f4f1ea", "#e3a3a5", "#b2364a")


class Legend(NamedTuple):
    """What the colors of a heatmap mean.

    Attributes:
        title: of the values.
        colors: from the lowest to the highest value.
        ends: what the lowest value, the middle and the highest one are called; None: their numbers.

    """

    title: str
    colors: tuple[str, ...]
    ends: tuple[str, str, str] | None


TISSUES = Legend("score of its patches", SCALE, ("like normal", "threshold", "like tumor"))
ERRORS = Legend("mean squared error of its patches", ("#f4f1ea", "#d8a878", "#7a2f1d"), None)
# color and line of the regions that a pathologist drew
REGIONS = {"tumor": (TISSUE_COLORS[TUMOR], "-"), "normal": (TISSUE_COLORS[NORMAL], "-"), "exclude": ("black", ":")}
OUTLINES = "tumor red, normal blue"
UNITS = {"patch": "patches", "slide": "slides", "case": "cases x sample types"}
QUIET = "#777777"
PAIRS = 6
WIDEST_NAME = 42  # characters of a baseline beside its axis
DIFFERENCE = "AUROC of the pair less that of the baseline"


def write_figures(
    folder: Path, test: pd.DataFrame, bands: pd.DataFrame, metrics: PairMetrics, confidence: float
) -> None:
    """Write roc.png, baselines.png, matrix.png and errors.png.

    Args:
        folder: to write to.
        test: the result of `comparison.join`.
        bands: the result of `comparison.roc_curves`.
        metrics: the result of `comparison.study`.
        confidence: of all intervals, e.g. 0.95.

    """
    save(plot_roc(bands, metrics.levels, confidence), folder / "roc.png")
    save(plot_baselines(auroc_table(metrics), confidence), folder / "baselines.png")
    save(plot_matrix(metrics), folder / "matrix.png")
    save(plot_errors(test, metrics.decisions["patch"].threshold), folder / "errors.png")


def write_heatmaps(
    folder: Path,
    previews: Path,
    test: pd.DataFrame,
    slides: pd.DataFrame,
    *,
    pixels: int,
    threshold: float,
    tiles: bool,
    shares: NDArray[np.float64] | None,
    regions: Path,
) -> None:
    """Write a heatmap <shard>.png of each slide.

    Args:
        folder: to write to.
        previews: folder of the slides' thumbnails and truth masks; see `patches.previews`.
        test: the test patches, as `comparison.join` returns them.
        slides: slide_id, sample_type, score, called, width and height (level-0 pixels) and mpp (microns per
            level-0 pixel) of each slide; the last three are empty for tiles.
        pixels: side of a patch, in its own pixels.
        threshold: of the score per patch.
        tiles: the patches were extracted from pre-cut tiles.
        shares: float64, shape (patches,): share of each test patch that is truly tumor; None where unknown.
        regions: folder of the regions of slides, which are outlined; see `regions.stored`.

    """
    scale, by_id = score_scale(test["score"].to_numpy(), threshold), slides.set_index("slide_id")
    for shard, rows in bar(test.groupby("shard"), "heatmaps", "slides"):
        slide, scores = by_id.loc[rows["slide_id"].iloc[0]], rows["score"].to_numpy()
        if tiles:
            views = tile_views(previews, rows, scores, pixels)
        else:
            views = [slide_view(previews, rows, scores, pixels, slide, regions)]
        title = f"{slide.name}: {slide['sample_type']}, score {slide['score']:.3f}, called {slide['called']}"
        hidden = rows["file"].nunique() - len(views)
        title += f" ({hidden} more tiles not shown)" * (hidden > 0)
        of_truth = None if shares is None else _of_truth(shares[rows.index.to_numpy()] >= TRUE_SHARE, scores)
        save(plot_heatmap(views, scale, title, of_truth), folder / f"{shard}.png")


def _of_truth(tumor: NDArray[np.bool_], scores: NDArray[np.float64]) -> str:
    """Word the title of the truth."""
    if tumor.all() or not tumor.any():
        return f"truth: {'all patches are' if tumor.all() else 'no patch is'} tumor"
    return f"truth: tumor is red; AUROC of the patches {auroc(tumor.astype(int), scores):.2f}"


def write_pairs(folder: Path, models: Mapping[str, "CAE"], store: PatchStore, test: pd.DataFrame, seed: int) -> None:
    """Write pairs_tumor.png and pairs_normal.png: test patches of a tissue as each model reconstructs them.

    Args:
        folder: to write to.
        models: tumor and normal.
        store: the patches.
        test: the result of `comparison.join`.
        seed: of the choice of six patches.

    """
    from histocae.evaluation.samples import reconstruct  # keras takes seconds to load

    rng = np.random.default_rng(seed)
    for tissue, sample_type in zip(("tumor", "normal"), COMPARED, strict=True):
        rows = test[test["sample_type"] == sample_type]
        rows = rows.iloc[np.sort(rng.choice(len(rows), min(PAIRS, len(rows)), replace=False))]
        originals = store.select(rows).take(np.arange(len(rows)))
        reconstructions = {
            f"{name} model": (reconstruct(cae, originals), rows[f"error_{name}"].tolist())
            for name, cae in models.items()
        }
        title = f"{sample_type}: test patches and their reconstructions by both models (error; bold: the smaller)"
        save(plot_pairs(originals, reconstructions, title), folder / f"pairs_{tissue}.png")


def plot_roc(curves: pd.DataFrame, levels: Mapping[str, Discrimination], confidence: float) -> Figure:
    """Show the ROC curve of each level with its band, and the AUROC with its interval.

    Args:
        curves: level, fpr, tpr, low, high.
        levels: discrimination per level.
        confidence: of the bands and intervals, e.g. 0.95.

    Returns:
        The figure, with one axis per level.

    """
    figure = Figure(figsize=(11, 4.3), layout="constrained")
    for axis, level in zip(figure.subplots(1, 3, sharey=True), LEVELS, strict=True):
        curve, area, counts = curves[curves["level"] == level], levels[level].auroc, levels[level].counts
        axis.plot([0, 1], [0, 1], ":", color=QUIET, lw=1)
        axis.fill_between(curve["fpr"], curve["low"], curve["high"], color=TISSUE_COLORS[TUMOR], alpha=0.18, lw=0)
        axis.plot([0, *curve["fpr"]], [0, *curve["tpr"]], color=TISSUE_COLORS[TUMOR])
        axis.set_title(
            f"per {level}: AUROC {area.value:.2f} ({area.low:.2f} to {area.high:.2f})\n"
            f"{counts.positive:,} tumor, {counts.negative:,} normal {UNITS[level]}",
            fontsize=10,
        )
        axis.set(xlabel="false positive rate (1 - specificity)", aspect="equal")
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    figure.axes[0].set_ylabel("true positive rate (sensitivity)")
    title = f"Score of the pair on test cases; {100 * confidence:g}% bands and intervals by case"
    figure.suptitle(title, fontsize=11)
    return figure


def plot_baselines(table: pd.DataFrame, confidence: float) -> Figure:
    """Show the AUROC of each method at each level, and below by how much that of the pair is higher.

    Args:
        table: the result of `comparison.auroc_table`; the pair is the first method.
        confidence: of the intervals, e.g. 0.95.

    Returns:
        The figure, with two axes per level: AUROCs beside chance, and differences beside 0 (none where there is no
        baseline).

    """
    names = table.drop_duplicates("method").set_index("method")["about"].map(lambda name: fill(name, WIDEST_NAME))
    count = len(names)
    figure = Figure(figsize=(11, 2.4 + 0.36 * (2 * count - 1)), layout="constrained")
    colors = [TISSUE_COLORS[TUMOR], *["#444444"] * (count - 1)]
    heights = [count + 0.5, count - 0.5][:count]
    rows = figure.subplots(len(heights), 3, sharey="row", height_ratios=heights, squeeze=False)
    levels = [table[table["level"] == level].set_index("method").loc[names.index] for level in LEVELS]
    for axis, level, of_level in zip(rows[0], LEVELS, levels, strict=True):
        _dots(axis, of_level[["value", "low", "high"]], colors, CHANCE)
        axis.set(title=f"per {level}", xlim=(-0.02, 1.02))
    columns = ["difference", "difference_low", "difference_high"]
    reach = 1.05 * float(np.nanmax(np.abs(table[columns].to_numpy()), initial=0.1))
    for axis, of_level in zip(rows[1:].ravel(), levels, strict=False):
        _dots(axis, of_level[columns].iloc[1:], colors[1:], 0.0)
        axis.set_xlim(-reach, reach)
    # a label below each axis would run into its neighbors where names are long
    for row, first, label in zip(rows, (0, 1), ("AUROC (dotted: chance)", DIFFERENCE), strict=False):
        row[1].set_xlabel(label)
        row[0].set_yticks(np.arange(count - first)[::-1], names.iloc[first:])
    title = f"AUROC of the pair of models and of the baselines ({100 * confidence:g}% confidence intervals)"
    figure.suptitle(title, fontsize=11)
    return figure


def _dots(axis: Axes, rows: pd.DataFrame, colors: list[str], mark: float) -> None:
    """Draw the value, low and high of each row as a dot with its interval, from the top down, and a dotted line."""
    values, lows, highs = (rows.iloc[:, i] for i in range(3))
    heights = np.arange(len(rows))[::-1]
    axis.axvline(mark, color=QUIET, ls=":", lw=1)
    axis.hlines(heights, lows, highs, colors=colors, lw=2, alpha=0.6)
    axis.scatter(values, heights, c=colors, s=28, zorder=3)
    axis.set_ylim(-0.6, len(heights) - 0.4)
    axis.grid(axis="x", alpha=0.3)


def plot_matrix(metrics: PairMetrics) -> Figure:
    """Show the mean error of each model on each tissue with its interval, the smaller of two in bold."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axis = figure.subplots()
    values = np.array([[metrics.errors[data].means[model].value for model in MODELS] for data in DATA])
    axis.imshow(values, cmap="Greys", vmin=0, vmax=2.5 * values.max(), aspect="auto")
    for y, data in enumerate(DATA):
        for x, model in enumerate(MODELS):
            mean = metrics.errors[data].means[model]
            bounds = "one case" if mean.low is None else f"{mean.low:.5f} to {mean.high:.5f}"
            weight = "bold" if values[y, x] == values[y].min() else "normal"
            axis.text(x, y - 0.08, f"{values[y, x]:.5f}", ha="center", weight=weight, fontsize=13)
            axis.text(x, y + 0.2, bounds, ha="center", fontsize=9)
    axis.set_xticks(range(2), [name.replace("_", " ") for name in MODELS])
    axis.set_yticks(range(2), [name.replace("_data", " test patches") for name in DATA])
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_title("mean squared error (pixels in [0, 1]); bold: the smaller of the two", fontsize=10)
    return figure


def plot_errors(table: pd.DataFrame, threshold: float) -> Figure:
    """Show histograms of both models' errors on each tissue, and of the score by tissue with the threshold.

    Args:
        table: label, sample_type, error_tumor, error_normal and score of each test patch.
        threshold: of the score per patch.

    Returns:
        The figure, with an axis per tissue and one for the score.

    """
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    edges = np.histogram_bin_edges(table[list(MODELS.values())], bins=40)
    for axis, (data, label) in zip(axes, DATA.items(), strict=False):
        rows = table[table["label"] == label]
        for (model, column), color in zip(MODELS.items(), TISSUE_COLORS.values(), strict=True):
            mean = f"{model.replace('_', ' ')} (mean {rows[column].mean():.5f})"
            axis.hist(rows[column], edges, histtype="stepfilled", color=color, alpha=0.25)
            axis.hist(rows[column], edges, histtype="step", color=color, label=mean)
        axis.set(title=data.replace("_data", " test patches"), xlabel="mean squared error of a patch")
    edges = np.histogram_bin_edges(table["score"], bins=40)
    for name, color in TISSUE_COLORS.items():
        axes[2].hist(table.loc[table["sample_type"] == name, "score"], edges, alpha=0.5, color=color, label=name)
    axes[2].axvline(threshold, color="black", lw=1, label="threshold (validation)")
    axes[2].set(title="score", xlabel="score of a patch (higher: tumor)")
    axes[0].set_ylabel("patches")
    for axis in axes:
        axis.set_ylim(top=axis.get_ylim()[1] * 1.3)  # room for the legend
        axis.legend(frameon=False, fontsize=8)
    return figure


def plot_pairs(
    originals: NDArray[np.uint8],
    reconstructions: Mapping[str, tuple[NDArray[np.float32], Sequence[float]]],
    title: str,
) -> Figure:
    """Show patches above their reconstructions by each model, with the error of each patch and of each pixel.

    Args:
        originals: uint8, shape (n, side, side, 3), RGB.
        reconstructions: per model its reconstructions, float32 in [0, 1], of the same shape, and
            their n errors. The smallest error of a patch is in bold.
        title: of the figure.

    Returns:
        The figure: originals in the first row, then two rows per model.

    """
    count, rows = len(originals), 1 + 2 * len(reconstructions)
    figure = Figure(figsize=(1.7 * count + 0.5, 1.95 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for axis, image in zip(axes[0], originals, strict=True):
        axis.imshow(image)
    axes[0, 0].set_ylabel("original")
    least = np.min([errors for _, errors in reconstructions.values()], axis=0)
    maps = [
        (row, residual_maps(originals, images))
        for row, (images, _) in zip(axes[2::2], reconstructions.values(), strict=True)
    ]
    show_residuals(figure, maps)
    for row, _ in maps:
        row[0].set_ylabel("absolute error")
    for row, (name, (images, errors)) in zip(axes[1::2], reconstructions.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, image, error, smallest in zip(row, images, errors, least, strict=True):
            axis.imshow(image)
            weight = "bold" if error == smallest else "normal"
            axis.set_xlabel(f"{error:.5f}", fontsize=8, weight=weight, labelpad=2)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(title, fontsize=11, parse_math=False)  # a slide's name may have dollar signs
    return figure


def score_scale(scores: NDArray[np.float64], threshold: float) -> Normalize:
    """Make the common scale of all heatmaps: even on both sides of the threshold, covering 98 % of the scores.

    Args:
        scores: float64, shape (patches,).
        threshold: of the score per patch.

    Returns:
        The scale of the colors.

    """
    reach = float(np.quantile(np.abs(scores - threshold), 0.98)) or 1.0
    return Normalize(threshold - reach, threshold + reach)


def plot_heatmap(
    views: Sequence[HeatmapView],
    scale: Normalize,
    title: str,
    of_truth: str | None = None,
    legend: Legend = TISSUES,
) -> Figure:
    """Show a slide, or some of its tiles, beside the scores of their patches and, where known, the truth.

    Args:
        views: a row of the figure for each.
        scale: of the scores.
        title: of the figure.
        of_truth: title of the truth; None where it is unknown.
        legend: what the colors mean.

    Returns:
        The figure.

    """
    colors = LinearSegmentedColormap.from_list("values", legend.colors)
    count = 2 + (of_truth is not None)
    height, width = views[0].image.shape[:2]
    size = (3.6 * count + 1.2, min(7.0, 3.6 * height / width) * len(views) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(views), count, squeeze=False)
    for row, view in zip(axes, views, strict=True):
        gray = np.repeat(view.image.mean(axis=2, keepdims=True), 3, axis=2) / 255
        faint = 1 - 0.35 * (1 - gray)
        for axis, image in zip(row, (view.image, faint, faint), strict=False):
            axis.imshow(image, extent=view.image_extent)
            axis.set_xticks([])
            axis.set_yticks([])
        _draw_regions(row[:2], view)
        shown = row[1].imshow(
            view.scores, cmap=colors, norm=scale, extent=view.scores_extent, interpolation="nearest"
        )
        if view.truth is not None:
            tint = np.zeros((*view.truth.shape, 4))
            tint[view.truth] = (0.70, 0.21, 0.29, 0.75)
            row[2].imshow(tint, extent=view.image_extent, interpolation="nearest")
            _outline(row[2], view)
        for axis in row:  # an image laid over another sets the limits to its own
            left, right, bottom, top = view.image_extent
            axis.set(xlim=(left, right), ylim=(bottom, top))
    image = f"image; regions: {OUTLINES}" if any(view.regions for view in views) else "image"
    for axis, name in zip(axes[0], (image, legend.title, of_truth), strict=False):
        axis.set_title(name, fontsize=10)
    colorbar = figure.colorbar(shown, ax=axes[:, 1:].ravel().tolist(), shrink=0.85, extend="both")
    low, high = scale.vmin or 0.0, scale.vmax or 0.0
    colorbar.set_ticks([low, (low + high) / 2, high])
    if legend.ends is not None:
        colorbar.set_ticklabels(legend.ends)
    figure.suptitle(title, fontsize=11, parse_math=False)  # a slide's name may have dollar signs
    return figure


def _draw_regions(axes: Sequence[Axes], view: HeatmapView) -> None:
    """Outline the regions that a pathologist drew."""
    for axis in axes:
        for kind, ring in view.regions:
            color, style = REGIONS[kind]
            axis.plot(*ring.T, color="white", lw=2.4, alpha=0.7, solid_joinstyle="round")
            axis.plot(*ring.T, color=color, lw=1.2, ls=style, solid_joinstyle="round")


def _outline(axis: Axes, view: HeatmapView) -> None:
    """Draw the border of each patch."""
    side = view.scores_extent[1] / view.scores.shape[1]
    cells = np.argwhere(~np.isnan(view.scores))
    borders = PatchCollection([Rectangle((column * side, row * side), side, side) for row, column in cells])
    borders.set(facecolor="none", edgecolor="#00000055", linewidth=0.5)
    axis.add_collection(borders)
