"""How well scores tell tumor from normal, and how sure one can be with so few cases.

Patches of a slide and slides of a case are alike, so cases are what is drawn, swapped and
counted here, whatever the level of the score. A label is 1 for tumor and 0 for normal;
a higher score means tumor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from histocae.errors import DataError
from histocae.statistics.intervals import effective, newcombe, wilson

LEVELS = ("patch", "slide", "case")
MOST_POINTS = 500  # of a ROC curve that is kept
GRID = np.linspace(0, 1, 101)  # false positive rates at which a band is given
_CHUNK = 200_000  # numbers at once where every draw weighs every unit: what a cache holds


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a tumor scores above a normal, ties counting half.

    Args:
        labels: 1 tumor, 0 normal; n.
        scores: finite; n.

    Raises:
        DataError: only one class is there, or a score is not finite. Nothing else is raised.

    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_checked(labels, scores)))


def auprc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Average precision, the area under the precision-recall curve's steps; equal scores are one step.

    Chance is the share of tumors. Arguments and errors are those of `auroc`.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_checked(labels, scores)))


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite numbers")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels are 1 (tumor) and 0 (normal), and there are others")
    labels = labels.astype(np.int8)
    if len(labels) == 0 or labels.min() == labels.max():
        there = "neither" if len(labels) == 0 else ("normal", "tumor")[labels[0]] + " only"
        raise DataError(f"tumor can't be told from normal where there is {there}: this needs both")
    return labels, scores


def units(table: pd.DataFrame, level: str) -> pd.DataFrame:
    """Bring patch scores to a level.

    Args:
        table: one row per patch: case_id, slide_id, label (1 tumor, 0 normal), score.
        level: patch; slide: mean of its patches; case: mean of its slides, for each of the
            labels that the case has (a case may have both tissues, and is two units then).

    Returns:
        case_id, label, score: one row per unit.

    Raises:
        DataError: only one class is there, a score is not finite, or a label neither 0 nor 1.

    """
    labels, scores = _checked(table["label"].to_numpy(), table["score"].to_numpy())
    found = pd.DataFrame(
        {
            "case_id": table["case_id"].to_numpy(),
            "slide_id": table["slide_id"].to_numpy(),
            "label": labels,
            "score": scores,
        }
    )
    if level != "patch":
        found = averaged(found, ["case_id", "slide_id", "label"])
    if level == "case":
        found = averaged(found, ["case_id", "label"])
    return found[["case_id", "label", "score"]]


def averaged(table: pd.DataFrame, of: list[str]) -> pd.DataFrame:
    """Average scores in groups so that ties stay ties: the mean of equal scores is that score, to the bit.

    A plain mean is rounded, and for groups of different sizes differently: scores that are all
    the same would then be ranked by the sizes of their groups.

    Args:
        table: the columns named by `of`, and score.
        of: what makes a group.

    Returns:
        One row per group, sorted: the columns of `of`, score, and number, that of the group's rows.

    """
    first = table.groupby(of)["score"].transform("first")
    apart = table[of].assign(first=first, beyond=table["score"] - first)
    found = apart.groupby(of, as_index=False).agg(
        number=("beyond", "size"), first=("first", "first"), beyond=("beyond", "mean")
    )
    return found[of].assign(score=found["first"] + found["beyond"], number=found["number"])


@dataclass(frozen=True)
class _Units:
    """Units sorted from the highest score to the lowest, and what of them belongs together.

    Attributes:
        scores: float64, units.
        labels: int8, units.
        cases: int64, units: the number of each unit's case.
        has: bool, cases x 2: whether a case has normal (0) and tumor (1).

    """

    scores: np.ndarray
    labels: np.ndarray
    cases: np.ndarray
    has: np.ndarray

    @classmethod
    def of(cls, found: pd.DataFrame) -> "_Units":
        order = np.argsort(-found["score"].to_numpy(), kind="stable")
        codes, names = pd.factorize(found["case_id"], sort=True)
        labels = found["label"].to_numpy()
        has = np.zeros((len(names), 2), bool)
        has[codes, labels] = True
        return cls(found["score"].to_numpy()[order], labels[order], codes[order], has)

    @property
    def paired(self) -> np.ndarray:
        return self.has.all(axis=1)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Units per case and label, cases x 2."""
        return np.bincount(2 * self.cases + self.labels, minlength=2 * len(self.has)).reshape(-1, 2).astype(float)

    @cached_property
    def blocks(self) -> np.ndarray:
        """The blocks that there are, 2 * case + label: two of a paired case, one of the others."""
        return np.flatnonzero(self.has.ravel())

    @cached_property
    def wins(self) -> np.ndarray:
        """How often a unit of one block beats one of another, ties half; a block is a case's units of a label.

        Returns:
            float64, blocks x blocks, in the order of `blocks`; sums of these are AUROCs.

        """
        total = len(self.blocks)
        place = np.full(2 * len(self.has), -1)
        place[self.blocks] = np.arange(total)
        wins = np.zeros((total, total))
        upward, blocks = self.scores[::-1], place[2 * self.cases + self.labels][::-1]
        for one in range(total):
            beaten = upward[blocks == one]
            below = np.searchsorted(beaten, upward, "left") + np.searchsorted(beaten, upward, "right")
            wins[:, one] = np.bincount(blocks, below / 2, minlength=total)
        return wins

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw whole cases with replacement, as many of each kind as there are.

        The kinds are tumor only, normal only and both, so that no draw lacks a class.

        Returns:
            int64, count x cases: how often each case was drawn.

        """
        drawn = np.zeros((count, len(self.has)), np.int64)
        kind = self.has @ (1, 2)
        for one in (1, 2, 3):
            members = np.flatnonzero(kind == one)
            if len(members):
                drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), count)
        return drawn

    def aurocs(self, drawn: np.ndarray) -> np.ndarray:
        """AUROC of each draw of cases."""
        cases, labels = np.divmod(self.blocks, 2)
        tumors, normals = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        of_tumor, of_normal = drawn[:, cases[tumors]], drawn[:, cases[normals]]
        won = ((of_tumor @ self.wins[np.ix_(tumors, normals)]) * of_normal).sum(axis=1)
        return won / ((drawn @ self.sizes[:, 0]) * (drawn @ self.sizes[:, 1]))

    def permuted(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """AUROCs where labels mean nothing: swapped within paired cases, shuffled among the others."""
        tumor = np.zeros((count, len(self.has), 2))
        paired, single = np.flatnonzero(self.paired), np.flatnonzero(~self.paired)
        swap = rng.random((count, len(paired))) < 0.5
        tumor[:, paired, 0], tumor[:, paired, 1] = swap, ~swap
        own = self.has[single, 1]
        shuffled = rng.permuted(np.tile(own, (count, 1)), axis=1)
        # a case has one block, under its own label; it is called tumor where the shuffle says so
        tumor[:, single, own.astype(int)] = shuffled
        tumor = tumor.reshape(count, -1)[:, self.blocks]
        normal = 1 - tumor
        sizes = self.sizes.ravel()[self.blocks]
        return ((tumor @ self.wins) * normal).sum(axis=1) / ((tumor @ sizes) * (normal @ sizes))

    def curves(self, drawn: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tumors and normals among the units down to each distinct score, weighed by the draws.

        Yields:
            Two float64 arrays, draws x distinct scores, for a chunk of draws at a time.

        """
        ends = np.flatnonzero(np.r_[np.diff(self.scores) != 0, True])
        step = max(1, _CHUNK // len(self.scores))
        for start in range(0, len(drawn), step):
            weights = drawn[start : start + step][:, self.cases].astype(np.float64)
            tumors = np.cumsum(weights * self.labels, axis=1)[:, ends]
            yield tumors, np.cumsum(weights, axis=1)[:, ends] - tumors

    def auprcs(self, drawn: np.ndarray) -> np.ndarray:
        """Average precision of each draw of cases."""
        found = []
        for tumors, normals in self.curves(drawn):
            # nothing drawn yet: no precision, and no step either
            precision = tumors / np.maximum(tumors + normals, 1)
            steps = np.diff(tumors, axis=1, prepend=0)
            found.append((steps * precision).sum(axis=1) / tumors[:, -1])
        return np.concatenate(found)


def discriminate(
    table: pd.DataFrame,
    level: str,
    seed: int,
    bootstrap: int,
    permutations: int,
    confidence: float,
    precision: bool = True,
) -> dict:
    """AUROC and AUPRC at a level, with intervals by case and a permutation test.

    Intervals are percentiles over draws of whole cases (each kind of case, tumor only, normal
    only and both, by itself), widened to hold a score interval: of the AUROC Newcombe's, of the
    AUPRC Wilson's (the binomial of Boyd, Eng and Page 2013, ECML PKDD, LNCS 8190:451-466, as a
    score interval), for as many independent units as there are cases (`effective`, since the
    cases have unequal numbers of units). Percentiles alone are too narrow for few cases and
    shrink to a point at 1; the score interval alone is too narrow where cases differ
    more than its model has it. Simulated, nominally 95 %, 5+5 to 30+10 cases, alone or paired,
    20 patches each or very unequal numbers, correlated from 0 to 0.9 within a case, AUROC 0.5 to
    0.999: the percentiles hold the truth in 2 to 95 %, the union in 93 to 100 %. Its price:
    where the units of a case are hardly alike, it is several times wider than it need be.

    The permutation test swaps a paired case's tumor and normal units and deals the labels of
    the other cases anew among them; a case moves with all its units.

    Args:
        table: one row per patch: case_id, slide_id, label (1 tumor, 0 normal), score.
        level: patch, slide or case; see `units`.
        seed: of the draws.
        bootstrap: draws of cases.
        permutations: of labels.
        confidence: of the intervals, e.g. 0.95.
        precision: whether the AUPRC is wanted; its draws take most of the time.

    Returns:
        auroc (value, low, high), auprc (value, low, high, chance; if wanted), p_value (of the AUROC,
        two-sided), includes_chance (whether the AUROC's interval holds 0.5) and counts
        (units, positive, negative, cases, paired_cases, slides). All finite.

    Raises:
        DataError: only one class is there, a score is not finite, or a label neither 0 nor 1.

    """
    found = units(table, level)
    one = _Units.of(found)
    rng = np.random.default_rng(seed)
    drawn = one.draw(bootstrap, rng)
    labels, scores = found["label"].to_numpy(), found["score"].to_numpy()
    area = auroc(labels, scores)
    normals, tumors = (effective(one.sizes[:, label]) for label in (0, 1))
    low, high = _joined(one.aurocs(drawn), confidence, newcombe(area, tumors, normals, confidence))
    far = np.abs(one.permuted(permutations, rng) - 0.5) >= abs(area - 0.5) - 1e-9
    of_precision = {}
    if precision:
        value = auprc(labels, scores)
        ends = _joined(one.auprcs(drawn), confidence, wilson(value, tumors, confidence))
        of_precision["auprc"] = {"value": value, "low": ends[0], "high": ends[1], "chance": float(labels.mean())}
    return {
        "auroc": {"value": area, "low": low, "high": high},
        **of_precision,
        "p_value": (1 + int(far.sum())) / (1 + permutations),
        "includes_chance": low <= 0.5 <= high,
        "counts": {
            "units": len(found),
            "positive": int(labels.sum()),
            "negative": int((1 - labels).sum()),
            "cases": len(one.has),
            "paired_cases": int(one.paired.sum()),
            "slides": int(table["slide_id"].nunique()),
        },
    }


def _joined(replicates: np.ndarray, confidence: float, score: tuple[float, float]) -> tuple[float, float]:
    """Percentiles of the replicates, widened to the score interval."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, (tail, 1 - tail))
    return float(min(low, score[0])), float(max(high, score[1]))


def threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Score from which on a unit is called tumor: where sensitivity + specificity is largest.

    It lies midway between two neighboring scores, or at the lowest (all are called tumor)
    where the scores tell nothing or the wrong way round. Of equally good ones it is that with
    sensitivity and specificity closest to each other, and of those the lowest.

    Arguments and errors are those of `auroc`.

    References:
        Youden 1950, Cancer 3:32-35.

    """
    labels, scores = _checked(labels, scores)
    values, place = np.unique(scores, return_inverse=True)
    tumors = np.bincount(place, labels, len(values))
    normals = np.bincount(place, 1 - labels, len(values))
    # whole numbers until the end: equally good ones must come out equal
    missed = np.r_[0, np.cumsum(tumors)[:-1]]
    spared = np.r_[0, np.cumsum(normals)[:-1]]
    hit = (tumors.sum() - missed) * normals.sum()
    right = spared * tumors.sum()
    best = np.lexsort((values, np.abs(hit - right), -(hit + right)))[0]
    if best == 0:
        return float(values[0])
    between = values[best - 1] / 2 + values[best] / 2
    # two neighboring floats have nothing between them
    return float(between if between > values[best - 1] else values[best])


def calibrate(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Fit P(tumor) = 1 / (1 + exp(-(slope * score + intercept))).

    Platt's targets, (n1 + 1) / (n1 + 2) for tumor and 1 / (n0 + 2) for normal instead of 1
    and 0, keep the slope finite where the scores part the classes. Classes of unequal size
    give an intercept that holds for their share among these units.

    Arguments and errors are those of `auroc`.

    References:
        Platt 1999, Probabilistic outputs for support vector machines, in: Advances in Large
        Margin Classifiers, MIT Press, 61-74.

    """
    from sklearn.linear_model import LogisticRegression

    labels, scores = _checked(labels, scores)
    tumors, normals = int(labels.sum()), int((1 - labels).sum())
    targets = np.where(labels == 1, (tumors + 1) / (tumors + 2), 1 / (normals + 2))
    mean, spread = scores.mean(), scores.std()
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return 0.0, float(logit(targets.mean()))
    scaled = ((scores - mean) / spread)[:, None]
    # a soft target is a unit of both classes, weighed
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(
        np.r_[scaled, scaled], np.repeat((1, 0), len(scores)), sample_weight=np.r_[targets, 1 - targets]
    )
    slope = float(fitted.coef_[0, 0]) / spread
    return float(slope), float(fitted.intercept_[0] - slope * mean)


def probability(scores: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Give P(tumor) of scores by a calibration; float64, n."""
    return expit(slope * np.asarray(scores, np.float64) + intercept)


def at_threshold(
    labels: np.ndarray, scores: np.ndarray, threshold: float, confidence: float, cases: np.ndarray | None = None
) -> dict:
    """Accuracy, sensitivity, specificity and their balance where `scores >= threshold` is called tumor.

    Intervals are Wilson's; that of the balanced accuracy joins those of sensitivity and
    specificity (the MOVER of Zou and Donner 2008, Statistics in Medicine 27:1693-1702).
    Wilson's counts what is independent. Patches of a slide and slides of a case are not, so
    give `cases` wherever a case may have several units: the intervals are then those of so
    many cases (`effective`), as if all units of a case erred together, which errs on the wide side.

    Args:
        labels: 1 tumor, 0 normal; n.
        scores: finite; n.
        threshold: fitted on other cases.
        confidence: of the intervals, e.g. 0.95.
        cases: the case of each unit; n. None: every unit is a case of its own.

    Returns:
        accuracy, sensitivity, specificity, balanced_accuracy (each value, low, high), and the
        counts of units: true_positive, false_negative, true_negative, false_positive.

    Raises:
        DataError: only one class is there, or a score is not finite.

    """
    labels, scores = _checked(labels, scores)
    called = scores >= threshold
    cases = np.arange(len(labels)) if cases is None else np.asarray(cases)
    tumor = labels == 1

    def rate(which: np.ndarray) -> dict:
        share = float((called == tumor)[which].mean())
        low, high = wilson(share, effective(pd.Series(cases[which]).value_counts()), confidence)
        return {"value": share, "low": low, "high": high}

    rates = {"accuracy": rate(np.ones(len(labels), bool)), "sensitivity": rate(tumor), "specificity": rate(~tumor)}
    two = (rates["sensitivity"], rates["specificity"])
    value = sum(one["value"] for one in two) / 2
    rates["balanced_accuracy"] = {
        "value": value,
        "low": value - float(np.hypot(*(one["value"] - one["low"] for one in two))) / 2,
        "high": value + float(np.hypot(*(one["high"] - one["value"] for one in two))) / 2,
    }
    return rates | {
        "true_positive": int((called & tumor).sum()),
        "false_negative": int((~called & tumor).sum()),
        "true_negative": int((~called & ~tumor).sum()),
        "false_positive": int((called & ~tumor).sum()),
    }


def roc(labels: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """ROC curve: its corners, or where there are more than 500, such as lie evenly along it, with both ends.

    Arguments and errors are those of `auroc`.

    Returns:
        fpr, tpr, threshold: rising rates of what scores at the threshold or above. The first
        threshold lies just above the highest score.

    """
    from sklearn.metrics import roc_curve

    labels, scores = _checked(labels, scores)
    fpr, tpr, thresholds = roc_curve(labels, scores)
    thresholds[0] = np.nextafter(scores.max(), np.inf)
    if len(fpr) > MOST_POINTS:
        keep = np.searchsorted(fpr + tpr, np.linspace(0, 2, MOST_POINTS))
        keep = np.unique(keep.clip(max=len(fpr) - 1))
        fpr, tpr, thresholds = fpr[keep], tpr[keep], thresholds[keep]
    return pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": thresholds})


def roc_band(table: pd.DataFrame, level: str, seed: int, bootstrap: int, confidence: float) -> pd.DataFrame:
    """ROC curve with a pointwise band, by drawing whole cases.

    Where the classes part, the band shrinks to the curve; it shows how the curve moves with
    the cases that were drawn, and the interval of the AUROC is the one to quote.

    Arguments and errors are those of `discriminate`.

    Returns:
        fpr (0, 0.01, ..., 1), tpr, low, high.

    """
    one = _Units.of(units(table, level))
    observed = np.ones((1, len(one.has)), np.int64)
    drawn = np.concatenate([observed, one.draw(bootstrap, np.random.default_rng(seed))])
    found = [
        np.interp(GRID, np.r_[0, normal] / normal[-1], np.r_[0, tumor] / tumor[-1])
        for tumors, normals in one.curves(drawn)
        for tumor, normal in zip(tumors, normals, strict=True)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(found[1:], (tail, 1 - tail), axis=0)
    low, high = np.minimum(low, found[0]), np.maximum(high, found[0])
    return pd.DataFrame({"fpr": GRID, "tpr": found[0], "low": low, "high": high})
