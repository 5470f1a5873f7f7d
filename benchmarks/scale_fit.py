"""Fit the coefficients of `histocae.planning.model` to measured configurations."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from histocae.planning import model

ROUNDS = 3
# each coefficient: its unit, and the work that it counts
DESCRIPTIONS = {
    "metadata_slide": "s: a slide of the GDC's tables",
    "look_slide": "core-s: to open a slide",
    "hash_byte": "core-s: SHA-256 of a byte",
    "demo_mm2": "core-s: to draw a square millimeter of the demo",
    "cut_slide": "core-s: a slide's tissue mask, overview and thumbnail",
    "cut_patch": "core-s: to read and write a patch of 128 px",
    "index_slide": "s: to check a finished shard",
    "index_row": "s: a row of the index",
    "split_slide": "s: a slide",
    "split_row": "s: a row of the split",
    "read_slide": "s: to open a shard for a training",
    "read_row": "s: a row that a training reads",
    "table_row": "s: a row of the split read with all its columns",
    "learn_multiplied": "core-s: 10^6 multiplications in training",
    "learn_value": "core-s: 10^6 values of layers in training",
    "learn_weight": "core-s: 10^6 weights in a step",
    "judge_multiplied": "core-s: 10^6 multiplications forward",
    "judge_value": "core-s: 10^6 values of layers forward",
    "judge_patch": "core-s: a patch read and measured",
    "ssim_patch": "core-s: SSIM of a patch of 128 px",
    "pca_patch": "core-s: a patch of 128 px in batches of principal components",
    "train_start": "s: a training before its first epoch and after its last",
    "evaluate_start": "s: to start an evaluation",
    "report_row": "s: a row of an evaluation",
    "latent_start": "s: to start a study of latents",
    "latent_patch": "s: a patch of 512 latents in a study",
    "tissue_start": "s: to start the comparison of tumor and normal",
    "tissue_patch": "s: a patch in tumor against normal",
    "dvc_start": "s: to start `dvc add`",
    "dvc_file": "s: a file that DVC takes",
    "dvc_byte": "s: a byte that DVC hashes and copies",
    "status_start": "s: to start `dvc status`",
    "status_file": "s: a file that DVC checks",
    "demo_mm2_bytes": "bytes of a square millimeter of the demo",
    "metadata_slide_bytes": "bytes of a slide in the table of slides",
    "index_row_bytes": "bytes of a row of the index, TCGA's names",
    "shard_row_bytes": "bytes of a row of a shard's own table, TCGA's names",
    "split_row_bytes": "bytes of a row of the split, TCGA's names",
    "picture_bytes": "bytes of a slide's overview, thumbnail and record",
    "report_row_bytes": "bytes of a row of an evaluation",
    "read_row_memory": "bytes that a training holds of a row it learns from",
    "table_row_memory": "bytes of a row of the split with all its columns",
}


@dataclass
class Sample:
    """One measured configuration.

    Attributes:
        description: in a few words, such as "an epoch of 384 patches".
        terms: amount by which each coefficient is multiplied.
        seconds: core-seconds of each round (seconds where the work uses one core).
        held_out: whether the fit leaves the configuration out.

    """

    description: str
    terms: model.Terms
    seconds: list[float]
    held_out: bool = False


class Fit:
    """Coefficients, with the samples that they were fitted to."""

    def __init__(self) -> None:
        """Start without coefficients."""
        self.coefficients: dict[str, dict] = {}
        self.held_out: list[dict] = []
        self.samples: list[dict] = []

    @property
    def values(self) -> dict[str, float]:
        """Values of the coefficients."""
        return {name: estimate["value"] for name, estimate in self.coefficients.items()}

    def set_coefficient(self, name: str, value: float, low: float | None = None, high: float | None = None) -> None:
        """Set a coefficient, with the least and largest value of single rounds."""
        estimate = {"value": value, "low": value if low is None else low, "high": value if high is None else high}
        rounded = {key: float(f"{number:.4g}") for key, number in estimate.items()}
        self.coefficients[name] = rounded | {"of": DESCRIPTIONS[name]}

    def add(self, samples: list[Sample]) -> None:
        """Fit the unknown coefficients of samples, and measure the error of the fit on samples held out."""
        known = self.values
        names = sorted({name for sample in samples for name in sample.terms} - set(known))
        fitted = [sample for sample in samples if not sample.held_out]
        for name, value, low, high in _solve(names, fitted, known) if names else ():
            self.set_coefficient(name, value, low, high)
        for sample in samples:
            measured, predicted = statistics.median(sample.seconds), model.total(self.values, sample.terms)
            row = {
                "what": sample.description,
                "measured": float(f"{measured:.4g}"),
                "predicted": float(f"{predicted:.4g}"),
            }
            (self.held_out if sample.held_out else self.samples).append(row)
            mark = "held out: " if sample.held_out else ""
            ratio = predicted / measured
            name = f"{mark}{sample.description}"
            print(f"  {name}: {measured:.4g}, predicted {predicted:.4g} ({ratio:.2f})", flush=True)


def _solve(names: list[str], samples: list[Sample], known: dict[str, float]) -> list[tuple[str, float, float, float]]:
    """Solve for coefficients; return the name and value of each, and the least and largest value of single rounds."""
    from scipy.optimize import nnls

    rounds = min(len(sample.seconds) for sample in samples)
    measurements = [[statistics.median(sample.seconds) for sample in samples]]
    measurements += [[sample.seconds[number] for sample in samples] for number in range(rounds)]
    solutions = []
    for measurement in measurements:
        rows, targets = [], []
        for sample, seconds in zip(samples, measurement, strict=True):
            unexplained = seconds - sum(
                amount * known[name] for name, amount in sample.terms.items() if name in known
            )
            rows.append([sample.terms.get(name, 0.0) / seconds for name in names])
            targets.append(max(unexplained, 0.0) / seconds)
        scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)  # columns differ by ten orders of magnitude
        solutions.append(nnls(np.array(rows) / scale, np.array(targets))[0] / scale)
    best, single_rounds = solutions[0], np.array(solutions[1:])
    return [(name, best[i], single_rounds[:, i].min(), single_rounds[:, i].max()) for i, name in enumerate(names)]


def timed(function: Callable, *arguments: object) -> float:
    """Call a function; return the seconds that it took."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def in_turn(ways: list[Callable], warm: int = 1) -> list[list[float]]:
    """Time ways in turn, round by round, so that other load on the machine affects all alike; return their seconds.

    A way that returns a float is taken to have measured its own seconds. The `warm` rounds before do not count.
    """
    seconds: list[list[float]] = [[] for _ in ways]
    for number in range(-warm, ROUNDS):
        for way, rounds in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            result = way()
            if number >= 0:
                rounds.append(result if isinstance(result, float) else time.perf_counter() - start)
    return seconds
