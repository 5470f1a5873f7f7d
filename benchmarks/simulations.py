"""Simulate cohorts with a known AUROC, and count how often intervals and tests are right.

Writes simulations.json (a list of cells) and simulations_more.json (pooled folds, and differences of two scores), and
their tables in docs/statistics.md. Takes less than 30 minutes on two cores (`make simulate`).
"""

import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from histocae.files import write_json, write_text
from histocae.statistics import permutation
from histocae.statistics.discrimination import agreeing, auroc_with_interval
from histocae.statistics.levels import LEVELS, at_level
from histocae.statistics.paired import difference
from histocae.statistics.resampling import CaseUnits

FOLDER = Path(__file__).parent
CELLS, MORE = FOLDER / "simulations.json", FOLDER / "simulations_more.json"
DOCUMENT = FOLDER.parent / "docs" / "statistics.md"
DRAWS = 1000
CONFIDENCE = 0.95
PERMUTATIONS = 300
SLIDES, PATCHES = 2, 10  # of each tissue of a case, and of each slide
# tumor only, normal only and paired cases
COHORTS = {
    "8 tumor + 8 normal": (8, 8, 0),
    "8 paired": (0, 0, 8),
    "6 tumor + 6 normal + 6 paired": (6, 6, 6),
    "24 tumor + 4 normal": (24, 4, 0),
}
CORRELATIONS = (0.1, 0.7)
SPREADS = (1 / 3, 1.0, 3.0)
AUROCS = (0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Cell:
    """A cohort and the distribution of its scores.

    Attributes:
        cohort: of COHORTS.
        correlation: share of the variance of a patch's score that all patches of its case have in common.
        spread: standard deviation of normal scores, as a multiple of that of tumor scores.
        auroc: the true one, of a tumor unit against a normal unit of another case.
        level: patch, slide or case: of what units.

    """

    cohort: str
    correlation: float
    spread: float
    auroc: float
    level: str

    def variances(self) -> tuple[float, float, float]:
        """Variance of what a case, a slide and a patch add to a tumor score."""
        rest = 1 - self.correlation
        return self.correlation, 0.3 * rest, 0.7 * rest

    def gap(self) -> float:
        """By how much tumor scores are higher on average."""
        case, slide, patch = self.variances()
        of_unit = {
            "patch": case + slide + patch,
            "slide": case + slide + patch / PATCHES,
            "case": case + slide / SLIDES + patch / PATCHES / SLIDES,
        }[self.level]
        return float(ndtri(self.auroc) * np.sqrt(of_unit * (1 + self.spread**2)))

    def units(self, rng: np.random.Generator) -> pd.DataFrame:
        """Draw the scores of all units of the level: case_id, label, score."""
        tumor, normal, paired = COHORTS[self.cohort]
        kinds = [(1,)] * tumor + [(0,)] * normal + [(0, 1)] * paired
        cases = np.repeat(np.arange(len(kinds)), [len(kind) for kind in kinds])
        labels = np.concatenate(kinds)
        of_case, of_slide, of_patch = np.sqrt(self.variances())
        scores = of_slide * rng.normal(size=(len(cases), SLIDES, 1))
        scores = scores + of_patch * rng.normal(size=(len(cases), SLIDES, PATCHES))
        scores += of_case * rng.normal(size=len(kinds))[cases, None, None]
        scores *= np.where(labels == 1, 1.0, self.spread)[:, None, None]
        means = {"patch": scores, "slide": scores.mean(axis=2), "case": scores.mean(axis=(1, 2))}[self.level]
        means = means.reshape(len(cases), -1) + self.gap() * labels[:, None]
        each = means.shape[1]
        return pd.DataFrame(
            {"case_id": np.repeat(cases, each), "label": np.repeat(labels, each), "score": means.ravel()}
        )


def cells() -> list[Cell]:
    """List all cells of the table."""
    return [Cell(*each) for each in itertools.product(COHORTS, CORRELATIONS, SPREADS, AUROCS, LEVELS)]


def simulate(cell: Cell, draws: int) -> dict[str, Any]:
    """Draw a cell's cohort many times.

    Args:
        cell: to draw.
        draws: how often.

    Returns:
        The cell's attributes, and: coverage (share of the intervals that include the true AUROC), type1 (where that
        is 0.5, the share of p <= 0.05), power (elsewhere, the share of draws where interval and test say that the
        AUROC is above chance), power_of_test (p <= 0.05 alone), width (mean of the intervals), draws.

    """
    rng = np.random.default_rng([cells().index(cell), draws])
    low, high, p_values = np.empty(draws), np.empty(draws), np.empty(draws)
    for i in range(draws):
        clustered = CaseUnits.from_table(cell.units(rng))
        area = auroc_with_interval(clustered, _auroc(clustered), CONFIDENCE)
        p_values[i] = permutation.against_chance(clustered, PERMUTATIONS, rng).p_value
        area = agreeing(area, p_values[i], CONFIDENCE)
        low[i], high[i] = area.low, area.high
    significant = p_values <= 1 - CONFIDENCE
    null = cell.auroc == permutation.CHANCE
    return {
        **asdict(cell),
        "coverage": float(((low <= cell.auroc) & (cell.auroc <= high)).mean()),
        "type1": float(significant.mean()) if null else None,
        "power": None if null else float((significant & (low > permutation.CHANCE)).mean()),
        "power_of_test": None if null else float(significant.mean()),
        "width": float((high - low).mean()),
        "draws": draws,
    }


def _auroc(units: CaseUnits) -> float:
    return float(units.aurocs(np.ones((1, len(units.has)), np.int64))[0])


FOLDS, CASES, FEATURES, COMPONENTS = 5, 10, 16, 4


def pool_folds(paired: bool, level: str, draws: int) -> dict[str, Any]:
    """Test pooled folds where tumor and normal do not differ.

    Patches are vectors of 16 numbers. A pair of linear models (4 principal components, one model for each tissue) is
    trained on 4 of 5 folds and scores the fifth, as the stage crossvalidate does with its pair.

    Args:
        paired: 10 cases with both tissues instead of 10 cases of each.
        level: patch, slide or case.
        draws: how often.

    Returns:
        cohort, level, type1 (share of p <= 0.05), draws.

    """
    rng = np.random.default_rng([int(paired), LEVELS.index(level), draws])
    significant = 0
    for _ in range(draws):
        labels = np.tile((0, 1), CASES)
        cases = np.repeat(np.arange(CASES), 2) if paired else np.arange(2 * CASES)
        fold = (cases if paired else cases // 2) % FOLDS
        effects = rng.normal(size=(cases.max() + 1, 1, FEATURES))[cases]
        scales = np.exp(0.3 * rng.normal(size=(cases.max() + 1, 1, FEATURES)))[cases]
        images = effects + scales * rng.normal(size=(2 * CASES, SLIDES * PATCHES, FEATURES))
        scores = np.empty(images.shape[:2])
        for number in range(FOLDS):
            test = images[fold == number]
            errors = [_errors(images[(fold != number) & (labels == label)], test) for label in (0, 1)]
            scores[fold == number] = np.log(errors[0]) - np.log(errors[1])
        each = np.repeat(np.arange(2 * CASES), SLIDES * PATCHES)
        table = pd.DataFrame(
            {
                "case_id": cases[each],
                "slide_id": np.arange(scores.size) // PATCHES,
                "label": labels[each],
                "score": scores.ravel(),
            }
        )
        units = CaseUnits.from_table(at_level(table, level))
        significant += permutation.against_chance(units, PERMUTATIONS, rng).p_value <= 1 - CONFIDENCE
    cohort = f"{CASES} paired" if paired else f"{CASES} tumor + {CASES} normal"
    return {"cohort": cohort, "level": level, "type1": significant / draws, "draws": draws}


def _errors(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Reconstruct patches by the principal components of others, and measure the mean squared errors."""
    mean = train.reshape(-1, FEATURES).mean(axis=0)
    basis = np.linalg.svd(train.reshape(-1, FEATURES) - mean, full_matrices=False)[2][:COMPONENTS]
    centered = test - mean
    return np.square(centered - centered @ basis.T @ basis).mean(axis=-1)


def subtract(cohort: str, second: float, level: str, draws: int) -> dict[str, Any]:
    """Subtract the AUROCs of two scores of the same units; the true one of the first is 0.8.

    Args:
        cohort: of COHORTS.
        second: the true AUROC of the second score; its noise has a correlation of 0.5 with that of the first.
        level: patch, slide or case.
        draws: how often.

    Returns:
        cohort, first, second, level, coverage of the difference's interval, excludes_0 (share of intervals), draws.

    """
    pair = [Cell(cohort, 0.5, 1.0, area, level) for area in (0.8, second)]
    rng = np.random.default_rng([list(COHORTS).index(cohort), int(100 * second), LEVELS.index(level), draws])
    covered = excluded = 0
    for _ in range(draws):
        noise = [Cell(cohort, 0.5, 1.0, 0.5, level).units(rng) for _ in range(3)]
        areas, drawn = [], []
        for cell, own in zip(pair, noise[1:], strict=True):
            score = np.sqrt(0.5) * (noise[0]["score"] + own["score"]) + cell.gap() * own["label"]
            clustered = CaseUnits.from_table(own.assign(score=score))
            areas.append(auroc_with_interval(clustered, _auroc(clustered), CONFIDENCE))
            drawn.append(clustered.aurocs(clustered.draw(PERMUTATIONS, np.random.default_rng(1))))
        estimate = difference(*areas, tuple(drawn))
        covered += estimate.includes(0.8 - second)
        excluded += not estimate.includes(0.0)
    return {
        "cohort": cohort,
        "first": 0.8,
        "second": second,
        "level": level,
        "coverage": covered / draws,
        "excludes_0": excluded / draws,
        "draws": draws,
    }


def _subtract(arguments: tuple[str, float, str], draws: int) -> dict[str, Any]:
    return subtract(*arguments, draws)


def _pool_folds(arguments: tuple[bool, str], draws: int) -> dict[str, Any]:
    return pool_folds(*arguments, draws)


def tables() -> Iterator[tuple[str, str]]:
    """Format the tables of docs/statistics.md from the files: name and text of each."""
    found = json.loads(CELLS.read_text(encoding="utf-8"))
    by = {tuple(cell[key] for key in ("cohort", "correlation", "spread", "level", "auroc")): cell for cell in found}
    lines = [
        "| cohort | correlation | spread | units | coverage at 0.5 | at 0.7 | at 0.9 "
        "| p <= 0.05 at 0.5 | at 0.7 | at 0.9 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in itertools.product(COHORTS, CORRELATIONS, SPREADS, LEVELS):
        group = [by[(*row, area)] for area in AUROCS]
        cohort, correlation, spread, level = row
        shares = [cell["coverage"] for cell in group] + [group[0]["type1"], *(cell["power"] for cell in group[1:])]
        numbers = " | ".join(f"{share:.3f}" for share in shares)
        lines.append(f"| {cohort} | {correlation:g} | {spread:.2g} | {level} | {numbers} |")
    yield "cells", "\n".join(lines)
    yield "summary", _summary(found)
    more = json.loads(MORE.read_text(encoding="utf-8"))
    lines = ["| cohort | units | p <= 0.05 | draws |", "|---|---|---|---|"]
    lines += [f"| {row['cohort']} | {row['level']} | {row['type1']:.3f} | {row['draws']} |" for row in more["folds"]]
    yield "folds", "\n".join(lines)
    lines = ["| cohort | AUROCs | units | coverage | excludes 0 | draws |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['cohort']} | {row['first']} and {row['second']} | {row['level']} | {row['coverage']:.3f} | "
        f"{row['excludes_0']:.3f} | {row['draws']} |"
        for row in more["differences"]
    ]
    yield "differences", "\n".join(lines)


def _summary(found: list[dict[str, Any]]) -> str:
    """Count the cells whose coverage and false alarms are near 95 % and 5 %, and name the others."""
    low, high = 0.93, 0.98
    outside = [cell for cell in found if not low <= cell["coverage"] <= high]
    nulls = [cell for cell in found if cell["type1"] is not None]
    alarms = [cell["type1"] for cell in nulls]
    odd = [cell for cell in nulls if not 0.03 <= cell["type1"] <= 0.07]
    powers = [cell["power"] / cell["power_of_test"] for cell in found if cell["power_of_test"]]
    coverages = [cell["coverage"] for cell in found]

    def names(cells: list[dict[str, Any]], key: str) -> str:
        return "; ".join(
            f"{cell['cohort']}, correlation {cell['correlation']:g}, spread {cell['spread']:.2g}, "
            f"AUROC {cell['auroc']:g}, per {cell['level']} ({cell[key]:.3f})"
            for cell in sorted(cells, key=lambda cell: cell[key])
        )

    return "\n\n".join(
        textwrap.fill(paragraph, 118)
        for paragraph in (
            f"Coverage is {low} to {high} in {len(found) - len(outside)} of {len(found)} cells, and "
            f"{min(coverages):.3f} to {max(coverages):.3f} in all. Outside: {names(outside, 'coverage')}.",
            f"False alarms are 0.03 to 0.07 in {len(nulls) - len(odd)} of {len(nulls)} cells, and {min(alarms):.3f} "
            f"to {max(alarms):.3f} in all. Outside: {names(odd, 'type1')}.",
            f"The report says so in at least {min(powers):.1%} of the draws in which the test does. In the others "
            "the test finds an AUROC below 0.5.",
        )
    )


def quote() -> None:
    """Write the tables into docs/statistics.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in tables():
        between = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- end of {name} -->)", re.DOTALL)
        text = between.sub(lambda _, table=table: table, text)
    write_text(text, DOCUMENT)


def main(draws: int) -> None:
    """Simulate everything in one process for each core, and write the files."""
    folds = list(itertools.product((False, True), LEVELS))
    pairs = list(itertools.product(COHORTS, (0.8, 0.65), LEVELS))
    with ProcessPoolExecutor() as pool:
        done = list(pool.map(partial(simulate, draws=draws), cells()))
        write_json(done, CELLS)
        more = {
            "folds": list(pool.map(partial(_pool_folds, draws=draws), folds)),
            "differences": list(pool.map(partial(_subtract, draws=draws // 4), pairs)),
        }
        write_json(more, MORE)
    quote()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else DRAWS)
