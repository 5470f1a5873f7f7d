"""Measure the training patches of a model or of a pair: quantiles of errors, scores and colors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histocae.contrast import pair
from histocae.contrast.contract import QualityRule
from histocae.contrast.distribution import ColorSpread, Distribution, distances, mean_colors
from histocae.errors import DataError
from histocae.evaluation import scales
from histocae.files import read_json
from histocae.patches.images import Images, batches
from histocae.patches.sampling import draw

LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
MOST = 10_000  # training patches whose mean colors are read
BATCH = 64  # patches in memory at once
# Eigenvalues of the covariance below this share of the largest are rounding: gray patches have one, not three.
LEAST_VARIANCE = 1e-9


def rules(summary: Path) -> dict[str, Any]:
    """Read the rules by which the tissue of the patches and their faults were found.

    Args:
        summary: reports/patching/summary.json.

    Returns:
        tissue_rule, and quality (`contract.QualityRule`, as in JSON); None where an earlier version extracted the
        patches, which did not state it.

    Raises:
        DataError: the file is missing or damaged.

    """
    remedy = "run dvc repro patches"
    content = read_json(summary, remedy)
    tissue_rule = content.get("tissue_rule") if isinstance(content, dict) else ""
    if tissue_rule is not None and not (isinstance(tissue_rule, str) and tissue_rule):
        raise DataError(f"{summary}: tissue_rule: expected a text, got {tissue_rule!r}; {remedy}")
    found = content.get("quality")
    if found is not None:
        found = QualityRule.from_json(found, f"{summary}: quality", remedy).as_json()
    return {"tissue_rule": tissue_rule, "quality": found}


def measure(values: Mapping[str, ArrayLike], patches: Images, seed: int) -> Distribution:
    """Describe training patches.

    Args:
        values: measured on the patches, by name, floats of shape (n,): errors, scores.
        patches: the n patches; the colors of at most 10,000 of them are read.
        seed: of the draw of these.

    Returns:
        The distribution of the values and of `color`.

    """
    which = draw(len(patches), MOST, seed)
    colors = np.concatenate([mean_colors(batch) for batch in batches(patches, BATCH, which)])
    mean = colors.mean(0)
    deviations = colors - mean
    covariance = deviations.T @ deviations / len(colors)
    inverse = np.linalg.pinv(covariance, rcond=LEAST_VARIANCE, hermitian=True)
    measured = {name: np.asarray(value, np.float64) for name, value in values.items()}
    measured["color"] = distances(colors, mean, inverse)
    return Distribution(
        patches=len(patches),
        levels=list(LEVELS),
        quantiles={name: np.quantile(value, LEVELS).tolist() for name, value in measured.items()},
        color=ColorSpread(mean=mean.tolist(), inverse=inverse.tolist()),
    )


def measure_pair(
    features: NDArray[np.float32], linear: pair.Linear | None, patches: Images, seed: int
) -> Distribution:
    """Describe training patches of both tissues, by a pair of models.

    Args:
        features: `scales.errors` of the tumor model and of the normal model side by side, float32, shape
            (n, features).
        linear: the score as a function of the features; None where it is the log ratio of the errors.
        patches: the n patches; see `measure`.
        seed: of the draw of patches.

    Returns:
        The distribution of the errors, their smaller one, the score and the color.

    """
    tumor, normal = (scales.mean_squares(each) for each in np.hsplit(features, 2))
    values = {
        "error_tumor": tumor,
        "error_normal": normal,
        "error_min": np.minimum(tumor, normal),
        "score": pair.score(tumor, normal) if linear is None else linear.score(features),
    }
    return measure(values, patches, seed)
