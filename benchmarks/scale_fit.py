"""Fit the coefficients of `histocae.planning.model` to measured configurations."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from histocae.planning import model

ROUNDS = 3
# each coefficient with its unit
ABOUT = {
    "metadata_slide": "s: a slide of the GDC's tables",
    "look_slide": "core-s: to open a slide",
    "hash_byte": "core-s: SHA-256 of a byte",
    "demo_mm2": "core-s: to draw a square millimeter of the demo",
    "cut_slide": "core-s: a slide's mask and pictures",
    "cut_patch": "core-s: to read and write a patch of 128 px",
    "index_slide": "s: to look at a finished shard",
    "index_row": "s: a row of the index",
    "split_slide": "s: a slide",
    "split_row": "s: a row of the split",
    "read_slide": "s: to look at a shard that a training reads of",
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
    "evaluate_start": "s: an evaluation of nothing",
    "report_row": "s: a row of an evaluation",
    "latent_start": "s: a study of latents of nothing",
    "latent_patch": "s: a patch of 512 latents in a study",
    "tissue_start": "s: tumor against normal, of nothing",
    "tissue_patch": "s: a patch in tumor against normal",
    "dvc_start": "s: `dvc add` of nothing",
    "dvc_file": "s: a file that DVC takes",
    "dvc_byte": "s: a byte that DVC hashes and copies",
    "status_start": "s: `dvc status` of nothing",
    "status_file": "s: a file that DVC looks at",
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
        what: description.
        terms: amount by which each coefficient is multiplied.
        taken: core-seconds of each round (seconds where the work uses one core).
        held_out: whether the fit leaves it out.

    """

    what: str
    terms: model.Terms
    taken: list[float]
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
        return {name: one["value"] for name, one in self.coefficients.items()}

    def know(self, name: str, value: float, low: float | None = None, high: float | None = None) -> None:
        """Add a coefficient that needs no fit."""
        told = {"value": value, "low": value if low is None else low, "high": value if high is None else high}
        self.coefficients[name] = {key: float(f"{one:.4g}") for key, one in told.items()} | {"of": ABOUT[name]}

    def add(self, samples: list[Sample]) -> None:
        """Fit the unknown coefficients of samples, and measure the error of those held out."""
        known = self.values
        names = sorted({name for one in samples for name in one.terms} - set(known))
        seen = [one for one in samples if not one.held_out]
        for name, value, low, high in _solved(names, seen, known) if names else ():
            self.know(name, value, low, high)
        for one in samples:
            measured, predicted = statistics.median(one.taken), model.total(self.values, one.terms)
            told = {"what": one.what, "measured": float(f"{measured:.4g}"), "predicted": float(f"{predicted:.4g}")}
            (self.held_out if one.held_out else self.samples).append(told)
            mark = "held out: " if one.held_out else ""
            ratio = predicted / measured
            print(f"  {mark}{one.what}: {measured:.4g}, predicted {predicted:.4g} ({ratio:.2f})", flush=True)


def _solved(names: list[str], seen: list[Sample], known: dict[str, float]) -> list[tuple[str, float, float, float]]:
    """Solve for coefficients; return the value of each, and the least and largest of single rounds."""
    from scipy.optimize import nnls

    rounds = min(len(one.taken) for one in seen)
    takes = [[statistics.median(one.taken) for one in seen]]
    takes += [[one.taken[at] for one in seen] for at in range(rounds)]
    found = []
    for taken in takes:
        rows, aims = [], []
        for one, seconds in zip(seen, taken, strict=True):
            rest = seconds - sum(amount * known[name] for name, amount in one.terms.items() if name in known)
            rows.append([one.terms.get(name, 0.0) / seconds for name in names])
            aims.append(max(rest, 0.0) / seconds)
        scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)  # columns differ by ten orders of magnitude
        found.append(nnls(np.array(rows) / scale, np.array(aims))[0] / scale)
    best, singles = found[0], np.array(found[1:])
    return [(name, best[i], singles[:, i].min(), singles[:, i].max()) for i, name in enumerate(names)]


def timed(function: Callable, *given: object) -> float:
    start = time.perf_counter()
    function(*given)
    return time.perf_counter() - start


def in_turn(ways: list[Callable], warm: int = 1) -> list[list[float]]:
    """Time ways in turn, round by round, so that other load on the machine affects all alike; return their seconds.

    A way that returns a float is taken to have measured its own seconds. The `warm` rounds before do not count.
    """
    taken: list[list[float]] = [[] for _ in ways]
    for turn in range(-warm, ROUNDS):
        for way, seconds in zip(ways, taken, strict=True):
            start = time.perf_counter()
            told = way()
            if turn >= 0:
                seconds.append(told if isinstance(told, float) else time.perf_counter() - start)
    return taken
