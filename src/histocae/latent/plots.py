"""Figures of latents: components, maps, clusters, galleries, neighbors.

A patch is framed in the color of its slide's class, red for tumor and blue for normal.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from numpy.typing import NDArray
from PIL import Image

from histocae.identifiers import COMPARED, PRIMARY_TUMOR, SOLID_TISSUE_NORMAL, TISSUE_COLORS
from histocae.latent.study import EXPLAINED, FeatureStudy
from histocae.patches.store import PatchSelection

COLORS = {"latents": "#5b4a9c", "pixels": "#8d8d8d", "outside": "#2c8a68"}
NAMES = {"latents": "latents", "pixels": "pixels (PCA)", "outside": "outside features"}
METHODS = {"tsne": "t-SNE", "umap": "UMAP"}
# in pixels: a patch in a gallery, its frame, the gap between two and between groups, margins for text
TILE, FRAME, GAP, BREAK, LEFT, TOP = 80, 3, 4, 16, 110, 60
DPI = 100  # as in plots.save, so that a pixel of a gallery is one of the file
PER_CLUSTER = 8
SHOWN = 6  # neighbors of a patch
LEGEND = [(kind, TISSUE_COLORS[kind]) for kind in COMPARED]


def study_figures(
    studies: dict[str, FeatureStudy], patches: dict[str, PatchSelection], tables: dict[str, pd.DataFrame], model: str
) -> Iterator[tuple[str, Figure]]:
    """Draw all figures of the study of a model.

    Args:
        studies: of latents and pixels, and of outside features where there are any.
        patches: by split.
        tables: rows of the splits.
        model: its name, for the titles.

    Yields:
        The name of a figure's file, without suffix, and the figure.

    """
    yield "components", plot_components(studies, f"{model}: variance held by principal components")
    for method in next(iter(studies.values())).maps:
        if all(method in study.maps for study in studies.values()):
            yield method, plot_maps(studies, tables["test"], method, model)
    yield "clusters", plot_clusters(studies, f"{model}: KMeans clusters of the training patches, on test patches")
    for name, study in studies.items():
        title = f"{model}: test patches by clusters of {NAMES[name]}"
        yield f"gallery_{name}", plot_gallery(study, patches["test"], tables["test"], title)
    yield "neighbors", plot_neighbors(studies, patches, tables, f"{model}: nearest neighbors of test patches")


def plot_components(studies: dict[str, FeatureStudy], title: str) -> Figure:
    """Plot the share of the variance that the leading principal components hold together.

    Args:
        studies: by the name of their features.
        title: of the figure.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, study in studies.items():
        count = study.components.for_90_percent
        result = f"{count} of {len(study.explained)} hold 90 %" if count else f"all hold {study.components.held:.0%}"
        axis.plot(
            np.arange(1, len(study.explained) + 1),
            np.cumsum(study.explained),
            "." if len(study.explained) == 1 else "-",
            color=COLORS[name],
            label=f"{NAMES[name]}: {result}",
        )
    axis.axhline(EXPLAINED, color="0.6", lw=0.8, ls=":")
    axis.set(
        xlabel="leading principal components",
        ylabel="share of their variance",
        xscale="log",
        ylim=(0, 1.03),
        title=title,
    )
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.legend(frameon=False, loc="lower right")
    axis.grid(alpha=0.3)
    return figure


def plot_maps(studies: dict[str, FeatureStudy], test: pd.DataFrame, method: str, title: str) -> Figure:
    """Plot test patches on their maps by class, cluster and case, a row per set of features.

    Args:
        studies: each with a map by this method.
        test: rows of the split.
        method: tsne or umap.
        title: of the figure.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(11, 3.8 * len(studies)), layout="constrained")
    axes = figure.subplots(len(studies), 3, squeeze=False)
    count = len(next(iter(studies.values())).sample)
    case = pd.factorize(test["case_id"], sort=True)[0]
    tissue = np.array([to_rgb(TISSUE_COLORS[kind]) for kind in test["sample_type"]])
    for row, (name, study) in zip(axes, studies.items(), strict=True):
        # in a random order, so that the last class does not hide the others
        order = np.random.default_rng(0).permutation(len(study.sample))
        rows, plane = study.sample[order], study.maps[method][order]
        for axis, color in zip(row, (tissue, _palette(study.clusters), _palette(case)), strict=True):
            axis.scatter(*plane.T, s=np.clip(8000 / len(rows), 3, 14), c=color[rows], lw=0)
            axis.set(xticks=[], yticks=[])
            axis.set_aspect("equal", adjustable="datalim")
        row[0].set_ylabel(NAMES[name] + (f", {len(rows)} of them" if len(rows) < count else ""), fontsize=12)
    titles = ("class of the slide", "cluster", f"case ({case.max() + 1} of them)")
    for axis, text in zip(axes[0], titles, strict=True):
        axis.set_title(text)
    for kind in COMPARED:
        axes[0, 0].scatter([], [], s=25, color=TISSUE_COLORS[kind], label=kind)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{title}: {METHODS[method]} of {count} test patches")
    return figure


def _palette(codes: NDArray[np.integer[Any]]) -> NDArray[np.floating[Any]]:
    """Color each code by the shortest palette with enough colors, else along the spectrum."""
    count = codes.max() + 1
    for name in ("tab10", "tab20"):
        palette = colormaps[name]
        if isinstance(palette, ListedColormap) and count <= palette.N:
            listed: NDArray[np.floating[Any]] = np.asarray(palette.colors)[codes]
            return listed
    colors: NDArray[np.floating[Any]] = colormaps["turbo"](codes / (count - 1))[:, :3]
    return colors


def plot_clusters(studies: dict[str, FeatureStudy], title: str) -> Figure:
    """Plot the number of test patches of both classes in each cluster, and its Gini impurity.

    Args:
        studies: by the name of their features.
        title: of the figure.

    Returns:
        The figure.

    """
    figure = Figure(figsize=(5.5 * len(studies), 5), layout="constrained")
    axes = figure.subplots(2, len(studies), squeeze=False, sharex="col", sharey="row", height_ratios=(2, 1))
    for (above, below), (name, study) in zip(axes.T, studies.items(), strict=True):
        table, scores = study.table, study.cluster_scores
        at, under = np.arange(len(table)), np.zeros(len(table))
        for kind, counts in ((PRIMARY_TUMOR, table["tumor"]), (SOLID_TISSUE_NORMAL, table["normal"])):
            above.bar(at, counts, bottom=under, color=TISSUE_COLORS[kind], label=kind)
            under = under + counts
        # points and not bars, so that a cluster of Gini 0 differs from an empty one
        below.plot(at, table["gini"], "o", color=COLORS[name])
        below.axhline(scores.gini_without_clusters, color="0.3", lw=0.8, ls="--", label="all patches together")
        results = [f"Gini {scores.gini:.2f} ({scores.gini_without_clusters:.2f} without clusters)"]
        if scores.ari is not None:
            results.append(f"ARI {scores.ari:.2f}, NMI {scores.nmi:.2f}")
        above.set_title(f"{NAMES[name]}\n{', '.join(results)}", fontsize=10)
        below.set(xlabel="cluster", xticks=at, ylim=(-0.04, 0.7))
    axes[0, 0].set_ylabel("test patches")
    axes[1, 0].set_ylabel("Gini impurity")
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[1, 0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(title)
    return figure


def plot_gallery(study: FeatureStudy, patches: PatchSelection, test: pd.DataFrame, title: str) -> Figure:
    """Show the test patches nearest to the center of each cluster, one row per cluster.

    Args:
        study: the results.
        patches: of the test split.
        test: rows of the split.
        title: of the figure.

    Returns:
        The figure.

    """
    rows, texts = [], []
    for members, row in zip(study.typical, study.table.itertuples(), strict=True):
        rows.append(_tiles(patches, test, members[:PER_CLUSTER]))
        count = row.patches
        content = f"{count} patches\n{row.tumor / count:.0%} tumor" if count else "none in test"
        texts.append(f"cluster {row.cluster}\n{content}")
    return lay_out(rows, texts, {0: "nearest to the center of the cluster first"}, title, LEGEND)


def plot_neighbors(
    studies: dict[str, FeatureStudy], patches: dict[str, PatchSelection], tables: dict[str, pd.DataFrame], title: str
) -> Figure:
    """Show test patches beside the training patches nearest to each, by each set of features.

    Args:
        studies: by the name of their features.
        patches: of train and test.
        tables: rows of train and test.
        title: of the figure.

    Returns:
        The figure.

    """
    queries = next(iter(studies.values())).queries
    rows = [[tile] for tile in _tiles(patches["test"], tables["test"], queries)]
    heads = {0: "test patch"}
    for name, study in studies.items():
        heads[len(rows[0])] = f"nearest training patches by {NAMES[name]}"
        of_query = dict(zip(study.queries.tolist(), study.neighbors, strict=True))
        for row, query in zip(rows, queries.tolist(), strict=True):
            if query in of_query:
                row += _tiles(patches["train"], tables["train"], of_query[query][:SHOWN])
    cases = tables["test"]["case_id"].iloc[queries]
    # ids may be long: they differ at their ends, and the margin is narrow
    return lay_out(rows, [case if len(case) <= 15 else f"…{case[-14:]}" for case in cases], heads, title, LEGEND)


def _tiles(patches: PatchSelection, table: pd.DataFrame, positions: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
    """Frame patches in the color of their class."""
    kinds = table["sample_type"].iloc[positions]
    return [framed(patch, TISSUE_COLORS[kind]) for patch, kind in zip(patches.take(positions), kinds, strict=True)]


def framed(image: NDArray[np.uint8], color: ColorType) -> NDArray[np.uint8]:
    """Resize an image to a tile of a gallery and frame it.

    Args:
        image: uint8, shape (height, width, 1 or 3).
        color: of the frame.

    Returns:
        uint8, shape (`TILE` + 2 `FRAME`, `TILE` + 2 `FRAME`, 3).

    """
    tile = np.empty((TILE + 2 * FRAME, TILE + 2 * FRAME, 3), np.uint8)
    tile[:] = np.rint(np.multiply(to_rgb(color), 255))
    inner = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
    tile[FRAME:-FRAME, FRAME:-FRAME] = np.asarray(inner.resize((TILE, TILE), Image.Resampling.LANCZOS))
    return tile


def lay_out(
    rows: list[list[NDArray[np.uint8]]],
    texts: list[str],
    heads: dict[int, str],
    title: str,
    legend: Sequence[tuple[str, ColorType]],
) -> Figure:
    """Lay out tiles pixel for pixel, each row with its text; a wider gap precedes a column with a head.

    Args:
        rows: tiles from `framed`.
        texts: to the left of the rows.
        heads: texts above columns, by the number of the column.
        title: of the figure.
        legend: meaning and color of the frames.

    Returns:
        The figure.

    """
    step = TILE + 2 * FRAME + GAP
    columns = max(len(row) for row in rows)
    starts = [step * i + BREAK * sum(0 < head <= i for head in heads) for i in range(columns)]
    canvas = np.full((step * len(rows), starts[-1] + step, 3), 255, np.uint8)
    for at, row in enumerate(rows):
        for start, tile in zip(starts, row, strict=False):
            canvas[at * step : at * step + len(tile), start : start + len(tile)] = tile
    height, width = canvas.shape[:2]
    whole_width, whole_height = LEFT + width, TOP + height
    figure = Figure(figsize=(whole_width / DPI, whole_height / DPI), dpi=DPI)
    axis = figure.add_axes((LEFT / whole_width, 0, width / whole_width, height / whole_height))
    axis.imshow(canvas, aspect="auto", interpolation="none")
    axis.axis("off")
    for at, text in enumerate(texts):
        axis.text(-8, step * (at + 0.5), text, ha="right", va="center", fontsize=8, parse_math=False)
    for column, text in heads.items():
        axis.text(starts[column], -6, text, ha="left", va="bottom", fontsize=9)
    figure.text(8 / whole_width, 1 - 10 / whole_height, title, ha="left", va="top", fontsize=12)
    for at, (text, color) in enumerate(reversed(legend)):
        figure.text(
            1 - (8 + 165 * at) / whole_width,
            1 - 12 / whole_height,
            f"■ {text}",
            color=color,
            ha="right",
            va="top",
            fontsize=9,
        )
    return figure
