"""The cost model: each kind of work is a sum of amounts, each times a coefficient that was measured.

Times are core-seconds: seconds x cores that were busy. What benchmarks/scale.py fits is what a plan adds up.
"""

import math
from collections.abc import Mapping

from histocae.planning.networks import Part, Size

Terms = dict[str, float]  # coefficient: how often it counts
PIXELS = 128  # of the patches that coefficients of a patch were measured on
MILLION = 1e6


def total(coefficients: Mapping[str, float], *terms: Terms) -> float:
    """Add up: the sum over all terms of amount x coefficient."""
    return sum(coefficients[name] * amount for some in terms for name, amount in some.items())


def cutting(slides: int, patches: int, pixels: int) -> Terms:
    """Slides into shards, one thread each, pixels read at the patches' own resolution."""
    return {"cut_slide": slides, "cut_patch": patches * (pixels / PIXELS) ** 2}


def indexing(slides: int, rows: int) -> Terms:
    """Look at finished shards and write the index of their rows."""
    return {"index_slide": slides, "index_row": rows}


def splitting(slides: int, rows: int) -> Terms:
    """Count slides in the index, deal cases, write the tables of the split."""
    return {"split_slide": slides, "split_row": rows}


def reading(slides: float, rows: float) -> Terms:
    """Read the rows that a training learns from, and look at their shards."""
    return {"read_slide": slides, "read_row": rows}


def learning(size: Size, patches: int, batch: int) -> Terms:
    """One epoch, without its validation."""
    return {
        # there and, twice as much, back
        "learn_multiplied": 3 * patches * size.multiplied / MILLION,
        "learn_value": patches * size.values / MILLION,
        "learn_weight": math.ceil(patches / batch) * size.trained / MILLION,
    }


def judging(parts: Size | Part, patches: int) -> Terms:
    """Read patches and send them through a model, or its encoder alone."""
    return {
        "judge_multiplied": patches * parts.multiplied / MILLION,
        "judge_value": patches * parts.values / MILLION,
        "judge_patch": patches,
    }


def measuring(size: Size, patches: int, pixels: int) -> Terms:
    """The same, and SSIM and the other measures of each reconstruction."""
    return judging(size, patches) | {"ssim_patch": patches * (pixels / PIXELS) ** 2}


def components(patches: int, pixels: int) -> Terms:
    """Principal components of whole patches, batch by batch; measured at 512 of them."""
    return {"pca_patch": patches * (pixels / PIXELS) ** 2}


def studying(patches: int, features: int) -> Terms:
    """The study of the latents of one model, its maps of all test patches; measured at 512 of them."""
    return {"latent_start": 1, "latent_patch": patches * features / 512}


def telling(patches: int) -> Terms:
    """Tumor against normal: baselines, intervals, pictures; `patches` of all parts of the split."""
    return {"tissue_start": 1, "tissue_patch": patches}


def hashing(files: int, size: float) -> Terms:
    """DVC takes an output: hashes each file and copies it into its cache; `size` in bytes."""
    return {"dvc_start": 1, "dvc_file": files, "dvc_byte": size}
