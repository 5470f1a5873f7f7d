"""Which pair of autoencoders distinguishes tumor from normal best, and by which score?

    python benchmarks/decide.py ../shared/data

Every pair is trained on five folds of cases of each data set, once; the best on two more deals of the folds.
Everything is chosen on the validation cases of a fold, and measured on its test cases. The scores are kept in
.histocae/decide, so that a study that was interrupted goes on.

Writes benchmarks/decide.json, and the tables and the figure of docs/studies/pair.md.
"""

import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import decide_pairs
import numpy as np
import pandas as pd
from decide_pairs import BY_ERROR, DEALS, GRID, LATENTS, LOSSES, NOTEBOOK, Configuration, Scores, Task

from histocae.contrast import comparison
from histocae.files import write_json, write_text
from histocae.params import Tissue
from histocae.statistics import discrimination
from histocae.statistics.discrimination import Discrimination
from histocae.statistics.intervals import Estimate

RESULTS = Path(__file__).with_name("decide.json")
DOCUMENT = decide_pairs.ROOT / "docs" / "studies" / "pair.md"
SETTINGS = Tissue(
    tumor="tumor",
    normal="normal",
    score="log_ratio",
    baseline_pair=None,
    latents=None,
    bootstrap=2000,
    permutations=2000,
    confidence=0.95,
)
LEVELS = ("patch", "case")
OF_SLIDE = {"mean": "mean", "median": "median", "upper": "0.9 quantile"}
UNSUPERVISED = (*BY_ERROR, "mahalanobis", "neighbors")
SUPERVISED = ("latents", "errors by scale", "both")
ONE_CLASS = ("normal: error", "normal: relative error", "normal: mahalanobis", "normal: neighbors")
SAME_SCALE = (*UNSUPERVISED, "pca_pair")  # scores whose 0 means the same in every fold
BASELINES = {
    "mean_intensity": "mean intensity",
    "color_histogram": "color histogram",
    "texture": "texture",
    "texture_color": "texture and color",
    "pca_pair": "linear pair (PCA)",
    "pca_errors_by_scale": "errors of the linear pair by scale",
}


@dataclass(frozen=True)
class Choice:
    """A way to score a slide.

    Attributes:
        configuration: the pair; None for a baseline.
        score: name of the score.
        of_slide: mean | median | upper; see `decide_pairs.case_auroc`.

    """

    configuration: Configuration | None
    score: str
    of_slide: str = "mean"

    @property
    def name(self) -> str:
        """A name for tables."""
        pair = BASELINES[self.score] if self.configuration is None else f"{self.configuration.name}, {self.score}"
        return pair if self.of_slide == "mean" else f"{pair}, {self.of_slide}"


class Deal:
    """The scores of all folds of a deal of a data set."""

    def __init__(self, data: str, deal: int, configurations: list[Configuration]):
        """Read the scores.

        Args:
            data: a key of `decide_pairs.DATA`.
            deal: its number.
            configurations: the pairs that were trained.

        """
        self.folds = decide_pairs.divided(data, deal)
        self._scores: dict[Configuration | None, list[Scores]] = {
            each: [decide_pairs.scores_of(Task(data, deal, fold, each)) for fold in range(len(self.folds))]
            for each in (None, *configurations)
        }

    def pooled(self, choose: Callable[[int], Choice]) -> pd.DataFrame:
        """Join the test patches of all folds.

        Args:
            choose: from the number of a fold to the way to score its slides.

        Returns:
            Rows of the test patches with their score. Scores whose scale differs between folds are in standard
            deviations from the mean of the fold's validation patches.

        """
        choices = [choose(fold) for fold in range(len(self.folds))]
        raw = len({(each.configuration, each.score) for each in choices}) == 1 and choices[0].score in SAME_SCALE
        parts = []
        for fold, choice in enumerate(choices):
            validation, test = self._scores[choice.configuration][fold][choice.score]
            if not raw:
                test = (test - validation.mean()) / (validation.std() or 1.0)
            parts.append(decide_pairs.with_slides(self.folds[fold]["test"], test, choice.of_slide))
        return pd.concat(parts, ignore_index=True)

    def aurocs(self, choice: Choice) -> dict[str, float]:
        """Measure a way to score slides, over all folds."""
        return _aurocs(self.pooled(lambda _: choice))

    def choose(self, fold: int, pairs: list[Configuration], scores: tuple[str, ...]) -> Choice:
        """Choose the pair, the score and the statistic of slides with the highest AUROC on a fold's validation cases.

        Args:
            fold: its number.
            pairs: to choose from.
            scores: to choose from.

        Returns:
            The choice; of equals the first.

        """
        rows = self.folds[fold]["validation"]
        choices = [
            Choice(configuration, score, of_slide)
            for configuration in pairs
            for score in scores
            for of_slide in OF_SLIDE
        ]
        return max(
            choices,
            key=lambda each: decide_pairs.case_auroc(
                rows, self._scores[each.configuration][fold][each.score][0], each.of_slide
            ),
        )


def _aurocs(rows: pd.DataFrame) -> dict[str, float]:
    levels = comparison.by_level(rows)
    return {
        level: discrimination.auroc(levels[level]["label"].to_numpy(), levels[level]["score"].to_numpy())
        for level in LEVELS
    }


def _discriminate(rows: pd.DataFrame) -> dict[str, Discrimination]:
    return comparison.discriminate_levels(rows, SETTINGS, 1, with_auprc=False)


def measure(data: str, finalists: list[Configuration]) -> dict[str, Any]:
    """Measure all scores of a data set.

    Args:
        data: a key of `decide_pairs.DATA`.
        finalists: the pairs that were trained on all deals.

    Returns:
        JSON-able; see the tables.

    """
    first = Deal(data, 0, GRID)
    rows = pd.concat([tables["test"] for tables in first.folds])
    scores = (*UNSUPERVISED, *SUPERVISED, *ONE_CLASS)
    found: dict[str, Any] = {
        "patches": len(rows),
        "slides": int(rows["slide_id"].nunique()),
        "cases": int(rows["case_id"].nunique()),
        "paired": int((rows.groupby("case_id")["label"].nunique() == 2).sum()),
        "first": {
            each.name: {score: {of: first.aurocs(Choice(each, score, of)) for of in OF_SLIDE} for score in scores}
            for each in GRID
        },
        "finalists": [each.name for each in finalists],
        "deals": [],
    }
    for number in range(DEALS):
        deal = first if number == 0 else Deal(data, number, [*finalists, NOTEBOOK])
        found["deals"].append(_measure_deal(deal, [*finalists, NOTEBOOK], scores))
    return found


def _measure_losses(data: str) -> dict[str, Any]:
    """Measure pairs that differ in their loss, over the folds of the first deal."""
    pairs = [Configuration(LOSSES[0].architecture, LOSSES[0].latents), *LOSSES]
    deal = Deal(data, 0, pairs)
    scores = (*UNSUPERVISED, *SUPERVISED)
    return {pair.loss: {score: deal.aurocs(Choice(pair, score)) for score in scores} for pair in pairs}


def _measure_deal(deal: Deal, pairs: list[Configuration], scores: tuple[str, ...]) -> dict[str, Any]:
    chosen = {
        name: [deal.choose(fold, pairs, of) for fold in range(len(deal.folds))]
        for name, of in (("by error", BY_ERROR), ("any score", (*UNSUPERVISED, *SUPERVISED)))
    }
    methods: dict[str, Callable[[int], Choice]] = {
        name: (lambda fold, choices=choices: choices[fold]) for name, choices in chosen.items()
    }
    measured = {name: _discriminate(deal.pooled(choose)) for name, choose in methods.items()}
    against = {name: _discriminate(deal.pooled(lambda _, name=name: Choice(None, name))) for name in BASELINES}
    return {
        "chosen": {name: [each.name for each in choices] for name, choices in chosen.items()},
        "methods": {name: _as_json(levels) for name, levels in (measured | against).items()},
        "differences": {
            name: {
                other: {level: levels[level].less(against[other][level]).as_json() for level in LEVELS}
                for other in BASELINES
            }
            for name, levels in measured.items()
        },
        "pairs": {
            each.name: {score: {of: deal.aurocs(Choice(each, score, of)) for of in OF_SLIDE} for score in scores}
            for each in pairs
        },
    }


def _as_json(levels: dict[str, Discrimination]) -> dict[str, Any]:
    return {level: levels[level].auroc.as_json() for level in LEVELS}


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
    yield "answer", "\n".join(_answer(results))
    for data, found in results.items():
        scores = (*UNSUPERVISED, *SUPERVISED)
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
    losses = next(iter(results.values()))["losses"]
    lines = _header("loss", *next(iter(losses.values())))
    for loss, by_score in losses.items():
        lines.append(_row(loss, *(f"{areas['patch']:.2f} / {areas['case']:.2f}" for areas in by_score.values())))
    yield "losses", "\n".join(lines)
    lines = _header("statistic of a slide's patches", *results)
    for of in OF_SLIDE:
        cells = []
        for found in results.values():
            values = [
                by_score[score][of]["case"]
                for by_score in found["first"].values()
                for score in (*UNSUPERVISED, *SUPERVISED)
            ]
            cells.append(f"{np.mean(values):.3f}")
        lines.append(_row(OF_SLIDE[of], *cells))
    yield "statistics", "\n".join(lines)


def _answer(results: dict[str, Any]) -> Iterator[str]:
    """List the chosen scores and the baselines, as means over the deals, with differences from the best score."""
    yield from _header("score", *(f"{data}: patch / case" for data in results))
    names = {"by error": "**pair, by error**", "any score": "**pair, any score**", **BASELINES}
    for method, name in names.items():
        cells = []
        for found in results.values():
            means = [
                np.mean([deal["methods"][method][level]["value"] for deal in found["deals"]]) for level in LEVELS
            ]
            cell = " / ".join(f"{mean:.2f}" for mean in means)
            if method in BASELINES:
                cell += f" ({_less(found['deals'], method)})"
            cells.append(cell)
        yield _row(name, *cells)


def _less(deals: list[dict[str, Any]], baseline: str) -> str:
    """Summarize by how much the pair's best score exceeds a baseline per case, over the deals."""
    less = [Estimate(**deal["differences"]["any score"][baseline]["case"]) for deal in deals]
    above, below = sum(each.low > 0 for each in less), sum(each.high < 0 for each in less)
    sign = f", above in {above}" if above else f", below in {below}" if below else ""
    return f"{np.mean([each.value for each in less]):+.2f}{sign}"


def plot(results: dict[str, Any], file: Path) -> None:
    """Draw the AUROC per case of the first deal over the number of latents.

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
            for baseline, style in (("texture", "-"), ("pca_pair", "--")):
                area = found["deals"][0]["methods"][baseline]["case"]["value"]
                axis.axhline(area, color="#555555", linestyle=style, linewidth=1, label=BASELINES[baseline])
            axis.set_xscale("log", base=2)
            axis.set_xticks(LATENTS, [str(count) for count in LATENTS])
            axis.set_title(data, fontsize=10)
        row[0].set_ylabel(f"AUROC per case\n{title}", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("latents")
    axes[0, 0].legend(fontsize=7)
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


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def main(source: Path, data: list[str]) -> None:
    """Train, measure, and write the results, the tables and the figure."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    for each in data:
        decide_pairs.prepare(each, source)
    first = [*decide_pairs.tasks(data, range(1), GRID), *decide_pairs.tasks(data[:1], range(1), LOSSES)]
    decide_pairs.run(first, "first deal")
    chosen = {each: decide_pairs.finalists(each) for each in data}
    more = [task for each in data for task in decide_pairs.tasks([each], range(1, DEALS), [*chosen[each], NOTEBOOK])]
    decide_pairs.run(more, "finalists")
    results = _rounded({each: measure(each, chosen[each]) for each in data})
    results[data[0]]["losses"] = _rounded(_measure_losses(data[0]))
    write_json(results, RESULTS)
    quote(results)
    plot(results, DOCUMENT.with_suffix(".png"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), list(decide_pairs.DATA))
