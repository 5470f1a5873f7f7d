"""What the scores of pairs say: the choice of a pair on validation cases, and AUROCs on test cases."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import decide_pairs
import numpy as np
import pandas as pd
from decide_pairs import GRID, LOSSES, NOTEBOOK, Configuration, Scores, Task
from numpy.typing import NDArray

from histocae.statistics import discrimination
from histocae.statistics.discrimination import Discrimination

DEALS = 3  # of the cases to folds
DRAWS = 2000  # of the bootstrap and of permutations
LEVELS = ("patch", "case")
OF_SLIDE = {"mean": "mean", "median": "median", "upper": "0.9 quantile"}  # of the scores of its patches
BY_ERROR = ("log ratio", "relative")
UNSUPERVISED = (*BY_ERROR, "mahalanobis", "neighbors")
SCORES = (*UNSUPERVISED, "latents", "errors by scale", "errors and latents", "errors and texture")
FINALISTS = {BY_ERROR: 2, SCORES: 1}  # how many pairs are trained on all deals, by the scores they are best by
ONE_CLASS = ("normal: error", "normal: relative error", "normal: mahalanobis", "normal: neighbors")
SAME_SCALE = (*UNSUPERVISED, "pca_pair")  # scores whose 0 means the same in every fold
OVERALL = Configuration("residual", 8)  # the best by error over all data sets together
ALWAYS = (OVERALL, NOTEBOOK)  # trained on all deals, beside the finalists
SIMPLE = ("texture", "pca_pair")  # baselines that are measured on the folds of all pairs, too
OTHERS = {  # with which the best pair is compared
    "overall": f"{OVERALL.name}, errors by scale",
    "mean_intensity": "mean intensity",
    "color_histogram": "color histogram",
    "texture": "texture",
    "texture_color": "texture and color",
    "pca_pair": "linear pair (PCA)",
    "pca_errors_by_scale": "errors of the linear pair by scale",
    "notebook": "pair of the notebooks, by error",
}


@dataclass(frozen=True)
class Choice:
    """A way to score a slide.

    Attributes:
        configuration: the pair; None for a baseline.
        score: name of the score.
        of_slide: mean | median | upper; see `case_auroc`.

    """

    configuration: Configuration | None
    score: str
    of_slide: str = "mean"

    @property
    def name(self) -> str:
        """A name for tables."""
        pair = OTHERS[self.score] if self.configuration is None else f"{self.configuration.name}, {self.score}"
        return pair if self.of_slide == "mean" else f"{pair}, {self.of_slide}"


class Deal:
    """The scores of folds of a deal of a data set."""

    def __init__(self, data: str, deal: int, configurations: list[Configuration], folds: int | None = None):
        """Read the scores.

        Args:
            data: a key of `decide_pairs.DATA`.
            deal: its number.
            configurations: the pairs that were trained.
            folds: how many folds they were trained on, from the first; None for all.

        """
        self.folds = decide_pairs.divided(data, deal)[:folds]
        self._scores: dict[Configuration | None, list[Scores]] = {
            each: [decide_pairs.scores_of(Task(data, deal, fold, each)) for fold in range(len(self.folds))]
            for each in (None, *configurations)
        }

    def pooled(self, choose: Callable[[int], Choice]) -> pd.DataFrame:
        """Join the test patches of all folds.

        Args:
            choose: from the number of a fold to the way to score its slides.

        Returns:
            Rows of the test patches with their `score` and that of their slide, `slide_score`. Scores whose scale
            differs between folds are in standard deviations from the mean of the fold's validation patches.

        """
        choices = [choose(fold) for fold in range(len(self.folds))]
        raw = len(set(choices)) == 1 and choices[0].score in SAME_SCALE
        parts = []
        for fold, choice in enumerate(choices):
            validation, test = (
                with_slides(self.folds[fold][part], scores, choice.of_slide)
                for part, scores in zip(
                    ("validation", "test"), self._scores[choice.configuration][fold][choice.score], strict=True
                )
            )
            for column in () if raw else ("score", "slide_score"):
                test[column] = (test[column] - validation[column].mean()) / (validation[column].std(ddof=0) or 1.0)
            parts.append(test)
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
            key=lambda each: case_auroc(rows, self._scores[each.configuration][fold][each.score][0], each.of_slide),
        )


def case_auroc(rows: pd.DataFrame, scores: NDArray[np.float64], of_slide: str = "mean") -> float:
    """Measure the AUROC per case: the mean of its slides, each the mean, the median or an upper quantile of patches.

    Args:
        rows: of the patches.
        scores: of the patches.
        of_slide: mean | median | upper (the 0.9 quantile).

    Returns:
        The AUROC.

    """
    return _aurocs(with_slides(rows, scores, of_slide))["case"]


def with_slides(rows: pd.DataFrame, scores: NDArray[np.float64], of_slide: str) -> pd.DataFrame:
    """Add the scores of patches, `score`, and those of their slides, `slide_score`; see `case_auroc`."""
    scored = rows.assign(score=scores)
    quantile = {"mean": None, "median": 0.5, "upper": 0.9}[of_slide]
    of_slides = scored.groupby("slide_id")["score"]
    slides = of_slides.transform("mean") if quantile is None else of_slides.transform("quantile", quantile)
    return scored.assign(slide_score=slides)


def finalists(data: str) -> list[Configuration]:
    """Choose the pairs with the highest AUROC per case on validation cases: the best by error, and by any score.

    Only the folds on which all pairs are trained have a say.

    Args:
        data: a key of DATA.

    Returns:
        The pairs, as many as FINALISTS says, or fewer where one is best by both. The AUROC of a pair is the mean
        over the folds, of the score that suits it best.

    """
    best: dict[tuple[str, ...], dict[Configuration, float]] = {scores: {} for scores in FINALISTS}
    for configuration in [each for each in GRID if each != NOTEBOOK]:  # which is a baseline
        means: dict[str, list[float]] = {}
        for fold, tables in enumerate(decide_pairs.divided(data, 0)[: decide_pairs.COARSE]):
            found = decide_pairs.scores_of(Task(data, 0, fold, configuration))
            for name in SCORES:
                means.setdefault(name, []).append(case_auroc(tables["validation"], found[name][0]))
        for scores, areas in best.items():
            areas[configuration] = max(float(np.mean(means[score])) for score in scores)
    chosen = [sorted(areas, key=lambda each: -areas[each])[: FINALISTS[scores]] for scores, areas in best.items()]
    return list(dict.fromkeys(itertools.chain(*chosen)))


def _at(rows: pd.DataFrame, level: str) -> pd.DataFrame:
    """Return patches whose `score` is that of the level: the mean of slides and cases is then that of slides."""
    return rows if level == "patch" else rows.assign(score=rows["slide_score"])


def _aurocs(rows: pd.DataFrame) -> dict[str, float]:
    """Measure patches and cases; faster than `comparison.by_level`, since this is called thousands of times."""
    cases = rows.drop_duplicates("slide_id").groupby(["case_id", "label"])["slide_score"].mean()
    return {
        "patch": discrimination.auroc(rows["label"].to_numpy(), rows["score"].to_numpy()),
        "case": discrimination.auroc(cases.index.get_level_values("label").to_numpy(), cases.to_numpy()),
    }


def _discriminate(rows: pd.DataFrame) -> dict[str, Discrimination]:
    return {
        level: discrimination.discriminate(
            _at(rows, level), level, seed=1, bootstrap=DRAWS, permutations=DRAWS, confidence=0.95, with_auprc=False
        )
        for level in LEVELS
    }


def with_always(finalists: list[Configuration]) -> list[Configuration]:
    """Return the pairs to train on all deals."""
    return list(dict.fromkeys((*finalists, *ALWAYS)))


def measure(data: str, finalists: list[Configuration]) -> dict[str, Any]:
    """Measure all scores of a data set.

    Args:
        data: a key of `decide_pairs.DATA`.
        finalists: the pairs that were trained on all deals.

    Returns:
        JSON-able; see the tables.

    """
    first = Deal(data, 0, GRID, decide_pairs.COARSE)
    rows = pd.concat([tables["test"] for tables in decide_pairs.divided(data, 0)])
    scores = (*SCORES, *ONE_CLASS)
    found: dict[str, Any] = {
        "patches": len(rows),
        "slides": int(rows["slide_id"].nunique()),
        "cases": int(rows["case_id"].nunique()),
        "paired": int((rows.groupby("case_id")["label"].nunique() == 2).sum()),
        "first": {
            each.name: {score: {of: first.aurocs(Choice(each, score, of)) for of in OF_SLIDE} for score in scores}
            for each in GRID
        },
        "simple": {name: first.aurocs(Choice(None, name)) for name in SIMPLE},
        "finalists": [each.name for each in finalists],
        "deals": [],
    }
    for number in range(DEALS):
        deal = Deal(data, number, with_always(finalists))
        found["deals"].append(_measure_deal(deal, finalists, scores))
    return found


def measure_losses(data: str) -> dict[str, Any]:
    """Measure pairs that differ in their loss, over the folds on which all pairs are trained."""
    pairs = [Configuration(LOSSES[0].architecture, LOSSES[0].latents), *LOSSES]
    deal = Deal(data, 0, pairs, decide_pairs.COARSE)
    return {pair.loss: {score: deal.aurocs(Choice(pair, score)) for score in SCORES} for pair in pairs}


def _measure_deal(deal: Deal, finalists: list[Configuration], scores: tuple[str, ...]) -> dict[str, Any]:
    chosen = {
        name: [deal.choose(fold, finalists, of) for fold in range(len(deal.folds))]
        for name, of in (("by error", BY_ERROR), ("any score", SCORES))
    }
    methods: dict[str, Callable[[int], Choice]] = {
        name: (lambda fold, choices=choices: choices[fold]) for name, choices in chosen.items()
    }
    measured = {name: _discriminate(deal.pooled(choose)) for name, choose in methods.items()}
    fixed = {name: Choice(None, name) for name in OTHERS}
    fixed |= {"overall": Choice(OVERALL, "errors by scale"), "notebook": Choice(NOTEBOOK, "log ratio")}
    against = {name: _discriminate(deal.pooled(lambda _, name=name: fixed[name])) for name in OTHERS}
    return {
        "chosen": {name: [each.name for each in choices] for name, choices in chosen.items()},
        "methods": {name: _as_json(levels) for name, levels in (measured | against).items()},
        "differences": {
            name: {
                other: {level: levels[level].less(against[other][level]).as_json() for level in LEVELS}
                for other in OTHERS
            }
            for name, levels in measured.items()
        },
        "pairs": {
            each.name: {score: {of: deal.aurocs(Choice(each, score, of)) for of in OF_SLIDE} for score in scores}
            for each in with_always(finalists)
        },
    }


def _as_json(levels: dict[str, Discrimination]) -> dict[str, Any]:
    return {level: levels[level].auroc.as_json() for level in LEVELS}
