"""A model of normal tissue alone: scores, thresholds from normal validation patches, and sentences."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from histocae.contrast import one_class
from histocae.errors import DataError
from histocae.patches.images import InMemory
from histocae.statistics.discrimination import auroc
from support.cohorts import tissue_settings
from support.make_data import NORMAL, TUMOR

SETTINGS = tissue_settings()


def rows(kinds, patches=4):
    """List the patches of one slide for each case."""
    return one_class.labeled(
        pd.DataFrame(
            [
                {"slide_id": f"s{i}", "case_id": f"c{i}", "sample_type": kind, "shard": f"s{i}", "position": j}
                for i, kind in enumerate(kinds)
                for j in range(patches)
            ]
        )
    )


def test_scores_are_errors_relative_errors_and_distances_from_normal_latents():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (9, 8, 8, 3), np.uint8)
    mixing = rng.normal(size=(3, 3))
    latents = one_class.Latents(*((rng.normal(size=(n, 3)) @ mixing).astype(np.float32) for n in (4000, 4, 5)))
    errors = rng.random(4), rng.random(5)
    found = one_class.scores(errors, (InMemory(images[:4]), InMemory(images[4:])), latents)
    np.testing.assert_array_equal(found["error"][1], errors[1])
    variances = (images / 255).var((1, 2)).mean(1)
    np.testing.assert_allclose(found["relative_error"][1], errors[1] / variances[4:], rtol=1e-5)
    spread = latents.training.astype(float).std(0)
    nearest = np.sort(cdist(latents.test / spread, latents.training / spread), axis=1)[:, :5].mean(1)
    np.testing.assert_allclose(found["neighbors"][1], nearest, rtol=1e-5)
    # of so many patches the covariance is hardly shrunk
    centered, inverse = latents.test - latents.training.mean(0), np.linalg.inv(np.cov(latents.training.T))
    np.testing.assert_allclose(
        found["mahalanobis"][1], np.sqrt(np.einsum("ij,jk,ik->i", centered, inverse, centered)), rtol=0.05
    )
    assert set(one_class.scores(errors, (InMemory(images[:4]), InMemory(images[4:])), None)) == {
        "error",
        "relative_error",
    }


def test_the_threshold_is_a_quantile_of_normal_validation_units_and_tumor_has_no_part_in_it():
    rng = np.random.default_rng(2)
    validation, test = rows([NORMAL] * 30), rows([TUMOR, NORMAL] * 10)
    of_validation = rng.normal(5, 2, len(validation))
    of_test = rng.normal(5, 2, len(test)) + 3 * test["label"].to_numpy()
    (found,) = one_class.study(validation, test, {"error": (of_validation, of_test)}, SETTINGS, 1).values()
    standardized = (of_validation - of_validation.mean()) / of_validation.std()
    assert found.thresholds["patch"] == pytest.approx(np.quantile(standardized, 0.95))
    slides = standardized.reshape(30, 4).mean(1)
    assert found.thresholds["slide"] == pytest.approx(np.quantile(slides, 0.95))
    means = ((of_test - of_validation.mean()) / of_validation.std()).reshape(20, 4).mean(1)
    called = means >= found.thresholds["slide"]
    assert found.rates["slide"].sensitivity.value == called[::2].mean()
    assert found.rates["slide"].specificity.value == 1 - called[1::2].mean()
    assert found.levels["patch"].auroc.value == pytest.approx(auroc(test["label"].to_numpy(), of_test))
    other = np.where(test["label"] == 1, of_test + 50, of_test)
    (shifted,) = one_class.study(validation, test, {"error": (of_validation, other)}, SETTINGS, 1).values()
    assert shifted.thresholds == found.thresholds
    assert json.dumps(found.as_json(), allow_nan=False)


def test_constant_scores_of_validation_patches_are_no_fault():
    validation, test = rows([NORMAL] * 3), rows([TUMOR, NORMAL] * 3)
    values = np.arange(len(test), dtype=float)
    (found,) = one_class.study(validation, test, {"error": (np.ones(len(validation)), values)}, SETTINGS, 1).values()
    assert found.thresholds["patch"] == 0


def test_test_patches_of_one_tissue_are_refused():
    validation = rows([NORMAL] * 3)
    values = np.arange(len(validation), dtype=float)
    with pytest.raises(DataError, match="needs both tissues"):
        one_class.study(validation, validation, {"error": (values, values)}, SETTINGS, 1)


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (9, "Shown to be higher for tumor: mean"),
        (-9, "the wrong way: mean"),
        (0, "do not show that the normal model"),
    ],
)
def test_sentences_say_where_the_normal_model_notices_tumor(shift, said):
    rng = np.random.default_rng(3)
    validation, test = rows([NORMAL] * 9), rows([TUMOR, NORMAL] * 9)
    values = rng.normal(size=len(test)) + shift * test["label"].to_numpy()
    found = one_class.study(validation, test, {"error": (rng.normal(size=36), values)}, SETTINGS, 1)
    lines = one_class.sentences(found, "normal")
    assert lines[0].startswith("AUROC per slide of normal alone") and any(said in line for line in lines)
