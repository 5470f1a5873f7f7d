"""The cost model: each kind of work is a sum of terms, amount x measured coefficient.

Times are core-seconds: seconds x busy cores. benchmarks/scale.py fits the coefficients; a plan adds up the terms.
"""

import math
from collections.abc import Mapping

from histocae.networks.sizes import LayerSums, Size

Terms = dict[str, float]  # coefficient: amount
PIXELS = 128  # side of the patches on which coefficients were measured
MILLION = 1e6


def total(coefficients: Mapping[str, float], *terms: Terms) -> float:
    """Return the sum of amount x coefficient.

    Args:
        coefficients: by name.
        *terms: amounts by the names of coefficients.

    Returns:
        Core-seconds.

    """
    return sum(coefficients[name] * amount for group in terms for name, amount in group.items())


def extracting(slides: int, patches: int, pixels: int) -> Terms:
    """Return the terms of extracting patches into shards, one thread per slide.

    Args:
        slides: their number.
        patches: their number.
        pixels: side of a patch, read at the patches' own resolution.

    Returns:
        The terms.

    """
    return {"cut_slide": slides, "cut_patch": patches * (pixels / PIXELS) ** 2}


def indexing(slides: int, rows: int) -> Terms:
    """Return the terms of checking finished shards and writing the index.

    Args:
        slides: number of shards.
        rows: of the index, one per patch.

    Returns:
        The terms.

    """
    return {"index_slide": slides, "index_row": rows}


def splitting(slides: int, rows: int) -> Terms:
    """Return the terms of the split: counting slides, assigning cases, writing tables.

    Args:
        slides: their number.
        rows: of the index, one per patch.

    Returns:
        The terms.

    """
    return {"split_slide": slides, "split_row": rows}


def reading(slides: float, rows: float) -> Terms:
    """Return the terms of reading the rows that a training learns from, and opening their shards.

    Args:
        slides: of these rows.
        rows: of training and validation.

    Returns:
        The terms.

    """
    return {"read_slide": slides, "read_row": rows}


def learning(size: Size, patches: int, batch: int) -> Terms:
    """Return the terms of one epoch of training, without its validation.

    Args:
        size: of the autoencoder.
        patches: of training.
        batch: patches per batch.

    Returns:
        The terms.

    """
    return {
        # one pass forward, and backward twice its work
        "learn_multiplied": 3 * patches * size.multiplied / MILLION,
        "learn_value": patches * size.values / MILLION,
        "learn_weight": math.ceil(patches / batch) * size.trained / MILLION,
    }


def evaluating(parts: Size | LayerSums, patches: int) -> Terms:
    """Return the terms of reading patches and passing them forward.

    Args:
        parts: an autoencoder, or its encoder alone.
        patches: their number.

    Returns:
        The terms.

    """
    return {
        "judge_multiplied": patches * parts.multiplied / MILLION,
        "judge_value": patches * parts.values / MILLION,
        "judge_patch": patches,
    }


def measuring(size: Size, patches: int, pixels: int) -> Terms:
    """Return the terms of reconstructing patches and computing SSIM and the other measures.

    Args:
        size: of the autoencoder.
        patches: their number.
        pixels: side of a patch.

    Returns:
        The terms.

    """
    return evaluating(size, patches) | {"ssim_patch": patches * (pixels / PIXELS) ** 2}


def components(patches: int, pixels: int) -> Terms:
    """Return the terms of principal components of whole patches, batch by batch; measured at 512 components.

    Args:
        patches: their number.
        pixels: side of a patch.

    Returns:
        The terms.

    """
    return {"pca_patch": patches * (pixels / PIXELS) ** 2}


def studying(patches: int, features: int) -> Terms:
    """Return the terms of the study of a model's latents; measured at 512 latents.

    Args:
        patches: of all parts of the split.
        features: number of latents.

    Returns:
        The terms.

    """
    return {"latent_start": 1, "latent_patch": patches * features / 512}


def comparing(patches: int) -> Terms:
    """Return the terms of the comparison of tumor and normal over patches of all parts of the split."""
    return {"tissue_start": 1, "tissue_patch": patches}


def hashing(files: float, size: float) -> Terms:
    """Return the terms of DVC's work on outputs: hashing each file and copying it into the cache.

    Args:
        files: their number.
        size: bytes of all files.

    Returns:
        The terms.

    """
    return {"dvc_start": 1, "dvc_file": files, "dvc_byte": size}
