"""The tables and the figure of docs/studies/pair.md."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import decide_pairs
import numpy as np
from decide_measures import LEVELS, OF_SLIDE, ONE_CLASS, OTHERS, SCORES, SIMPLE
from decide_pairs import LATENTS

from histocae.files import write_text
from histocae.statistics.intervals import Estimate

DOCUMENT = decide_pairs.ROOT / "docs" / "studies" / "pair.md"


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _header(*cells: object) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def tables(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Make the tables of the document.

    Args:
        results: `measure` of each data set.

    Yields:
        The name of a table, and its text.

    """
    lines = _header("data", "patches", "slides", "cases", "with both tissues")
    for data, found in results.items():
        lines.append(_row(data, *(f"{found[key]:,}" for key in ("patches", "slides", "cases", "paired"))))
    yield "data", "\n".join(lines)
    for data, found in results.items():
        yield f"answer {data}", "\n".join(_answer(found["deals"]))
        scores = SCORES
        lines = _header("pair", *scores)
        for pair, by_score in found["first"].items():
            lines.append(_row(pair, *(f"{by_score[score]['mean']['case']:.2f}" for score in scores)))
        yield f"first {data}", "\n".join(lines)
        lines = _header("pair", "statistic of a slide", *scores)
        for pair, of in itertools.product(sorted(found["deals"][0]["pairs"]), OF_SLIDE):
            cells = [np.mean([deal["pairs"][pair][score][of]["case"] for deal in found["deals"]]) for score in scores]
            lines.append(_row(pair, OF_SLIDE[of], *(f"{cell:.3f}" for cell in cells)))
        yield f"finalists {data}", "\n".join(lines)
        lines = _header("normal model alone", *(score.removeprefix("normal: ") for score in ONE_CLASS))
        for pair, by_score in found["first"].items():
            lines.append(_row(pair, *(f"{by_score[score]['mean']['case']:.2f}" for score in ONE_CLASS)))
        yield f"one-class {data}", "\n".join(lines)
    yield "overall", "\n".join(_overall(results))
    losses = next(iter(results.values()))["losses"]
    lines = _header("loss", *next(iter(losses.values())))
    for loss, by_score in losses.items():
        lines.append(_row(loss, *(f"{areas['patch']:.2f} / {areas['case']:.2f}" for areas in by_score.values())))
    yield "losses", "\n".join(lines)
    lines = _header("statistic of a slide's patches", *results)
    for of in OF_SLIDE:
        cells = []
        for found in results.values():
            values = [by_score[score][of]["case"] for by_score in found["first"].values() for score in SCORES]
            cells.append(f"{np.mean(values):.3f}")
        lines.append(_row(OF_SLIDE[of], *cells))
    yield "statistics", "\n".join(lines)


def _overall(results: dict[str, Any]) -> Iterator[str]:
    """List the AUROC per case of each pair on the folds of all pairs, as the mean over the data sets."""
    scores = ("log ratio", "errors by scale")
    yield from _header("pair", *scores)
    for pair in next(iter(results.values()))["first"]:
        means = [
            np.mean([found["first"][pair][score]["mean"]["case"] for found in results.values()]) for score in scores
        ]
        yield _row(pair, *(f"{mean:.3f}" for mean in means))


def _answer(deals: list[dict[str, Any]]) -> Iterator[str]:
    """List the chosen scores and the others, as means over the deals, with differences from the best score."""
    yield from _header("score", *LEVELS, *(f"best − this, {level}" for level in LEVELS))
    names = {"any score": "**best pair, any score**", "by error": "**best pair, by error**", **OTHERS}
    for method, name in names.items():
        means = [np.mean([deal["methods"][method][level]["value"] for deal in deals]) for level in LEVELS]
        differences = [_less(deals, method, level) if method in OTHERS else "" for level in LEVELS]
        yield _row(name, *(f"{mean:.3f}" for mean in means), *differences)


def _less(deals: list[dict[str, Any]], other: str, level: str) -> str:
    """Summarize by how much the pair's best score exceeds another, over the deals."""
    less = [Estimate(**deal["differences"]["any score"][other][level]) for deal in deals]
    above, below = sum(each.low > 0 for each in less), sum(each.high < 0 for each in less)
    counts = [f"{count} {sign}" for count, sign in ((above, "above"), (below, "below")) if count]
    return f"{np.mean([each.value for each in less]):+.3f}" + (f" ({', '.join(counts)})" if counts else "")


def plot(results: dict[str, Any], file: Path) -> None:
    """Draw the AUROC per case over the number of latents, on the folds on which all pairs are trained.

    Args:
        results: `measure` of each data set.
        file: to write.

    """
    from matplotlib.figure import Figure

    shown = {"log ratio": "by error (log ratio)", "errors by scale": "errors by scale + logistic regression"}
    figure = Figure(figsize=(3.1 * len(results), 5.6), layout="constrained")
    axes = figure.subplots(len(shown), len(results), sharex=True, sharey=True, squeeze=False)
    colors = dict(zip(decide_pairs.FILTERS, ("#4C72B0", "#C44E52", "#55A868"), strict=True))
    for row, (score, title) in zip(axes, shown.items(), strict=True):
        for axis, (data, found) in zip(row, results.items(), strict=True):
            for architecture, color in colors.items():
                first = found["first"]
                areas = [first[f"{architecture}-{count}"][score]["mean"]["case"] for count in LATENTS]
                axis.plot(LATENTS, areas, "o-", color=color, label=architecture, markersize=4)
            for baseline, style in zip(SIMPLE, ("-", "--"), strict=True):
                axis.axhline(
                    found["simple"][baseline]["case"],
                    color="#555555",
                    linestyle=style,
                    linewidth=1,
                    label=OTHERS[baseline],
                )
            axis.set_xscale("log", base=2)
            axis.set_xticks(LATENTS, [str(count) for count in LATENTS])
            axis.set_title(data, fontsize=10)
        row[0].set_ylabel(f"AUROC per case\n{title}", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("latents")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    figure.savefig(file, dpi=110)


def quote(results: dict[str, Any]) -> None:
    """Write the tables between their marks in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in tables(results):
        between = re.compile(rf"(?<=<!-- {name} -->\n\n).*?(?=\n\n<!-- end of {name} -->)", re.DOTALL)
        text, count = between.subn(lambda _, table=table: table, text)
        if count != 1:
            raise SystemExit(f"{DOCUMENT}: {count} places for the table {name!r}")
    write_text(text, DOCUMENT)
