"""The contract of a model: the distribution of its training patches, and one-line errors of a damaged contract."""

import copy
import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from histocae.contrast import pair, training_data
from histocae.contrast.contract import Contract, QualityRule, QualityThresholds
from histocae.contrast.distribution import Distribution, mean_colors
from histocae.errors import DataError
from histocae.evaluation import scales
from histocae.patches.conversion import convert
from histocae.patches.images import InMemory
from histocae.patches.quality import FAULTS, THRESHOLDS

REMEDY = "run the remedy"
QUALITY = {"rule": "quality-9", "thresholds": THRESHOLDS, "left_out": ["pen"]}
patch_arrays = stn.arrays(np.uint8, st.tuples(st.integers(2, 12), st.just(8), st.just(8), st.just(3)))


def random_patches(count: int, seed: int = 0) -> np.ndarray:
    """Draw patches whose mean colors differ: around a color of their own."""
    rng = np.random.default_rng(seed)
    own = rng.integers(40, 200, (count, 1, 1, 3))
    return (own + rng.integers(0, 40, (count, 8, 8, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def measured() -> Distribution:
    errors = np.random.default_rng(1).random(200)
    return training_data.measure({"error": errors}, InMemory(random_patches(200)), seed=1)


@pytest.fixture
def content(measured) -> dict:
    """The content of a contract.json of a single model, which tests may change."""
    values = {
        "version": 1,
        "kind": "single",
        "models": ["all"],
        "latent_features": [8],
        "weights": ["w"],
        "source": "demo",
        "patches": {
            "pixels": 8,
            "mpp": 0.5,
            "tissue_rule": "chroma-1",
            "tissue_share": 0.5,
            "tiles": "reduce",
            "color": "rgb",
            "quality": QUALITY,
        },
        **dict.fromkeys(("score", "score_text", "classes", "levels")),
        "training": measured.as_json(),
        "findings": [],
        "caveats": ["Not for diagnosis."],
    }
    return copy.deepcopy(values)


def as_pair(content: dict) -> dict:
    """Make the content of a pair's contract.json of that of a single model."""
    error = content["training"]["quantiles"]["error"]
    names = ("error_tumor", "error_normal", "error_min", "score")
    training = {
        **content["training"],
        "quantiles": {**content["training"]["quantiles"], **dict.fromkeys(names, error)},
    }
    decision = {"threshold": 0.0, "slope": 1.0, "intercept": 0.0}
    return content | {
        "kind": "pair",
        "models": ["tumor", "normal"],
        "latent_features": [8, None],
        "weights": ["v", "w"],
        "score": {"kind": "log_ratio", "linear": None},
        "score_text": "a score",
        "classes": ["Primary Tumor", "Solid Tissue Normal"],
        "levels": {level: decision for level in ("patch", "slide", "case")},
        "training": training,
    }


def linear_score(**lists: list) -> dict:
    """Make a score of errors by scale."""
    linear = {"means": [0.0, 0.0], "deviations": [1.0, 1.0], "weights": [1.0, 1.0], "intercept": 0.0}
    return {"kind": "errors_by_scale", "linear": linear | lists}


# --- the distribution of training patches ----------------------------------------------------------


@given(patch_arrays)
def test_mean_colors_are_those_of_numpy(patches):
    np.testing.assert_allclose(mean_colors(patches), patches.mean((1, 2)), rtol=1e-12)


@given(patch_arrays)
def test_color_distances_have_the_mean_square_of_their_dimensions(patches):
    """The mean of squared Mahalanobis distances over the data themselves is the rank of their covariance."""
    distribution = training_data.measure({}, InMemory(patches), seed=1)
    distances = distribution.color_distances(patches)
    assert distances.shape == (len(patches),) and distances.dtype == np.float64
    rank = np.trace(np.array(distribution.color.inverse) @ np.cov(mean_colors(patches).T, ddof=0))
    assert (distances**2).mean() == pytest.approx(rank, abs=1e-6)
    assert rank == pytest.approx(round(rank), abs=1e-6) and 0 <= round(rank) <= 3


def test_distances_do_not_depend_on_the_axes_of_colors():
    """Each channel in its own unit and order gives the same distances, as Mahalanobis' do."""
    patches, others = random_patches(50), random_patches(20, seed=9)
    distances = training_data.measure({}, InMemory(patches), seed=1).color_distances(others)
    mirrored = training_data.measure({}, InMemory((255 - patches)[..., ::-1]), seed=1)
    np.testing.assert_allclose(mirrored.color_distances((255 - others)[..., ::-1]), distances, rtol=1e-9)
    assert np.ptp(distances) > 0.1


def test_gray_patches_have_distances_along_gray_alone():
    gray = convert(random_patches(60), "grey")
    distribution = training_data.measure({}, InMemory(gray), seed=1)
    levels = mean_colors(gray)[:, 0]
    expected = np.abs(levels - levels.mean()) / levels.std()
    np.testing.assert_allclose(distribution.color_distances(gray), expected, rtol=1e-6)


def test_patches_that_are_all_the_same_have_no_distance():
    patches = np.full((3, 8, 8, 3), 7, np.uint8)
    assert training_data.measure({}, InMemory(patches), seed=1).color_distances(patches).tolist() == [0, 0, 0]


def test_quantiles_are_those_of_the_values_and_interpolated_between_levels(measured):
    errors = np.random.default_rng(1).random(200)
    assert measured.patches == 200 and set(measured.quantiles) == {"error", "color"}
    for level in training_data.LEVELS:
        assert measured.quantile("error", level) == np.quantile(errors, level)
    middle = (measured.quantile("error", 0.25) + measured.quantile("error", 0.5)) / 2
    assert measured.quantile("error", 0.375) == pytest.approx(middle)
    with pytest.raises(KeyError):
        measured.quantile("score", 0.5)


def test_the_colors_of_at_most_ten_thousand_patches_are_read(monkeypatch):
    class Counted(InMemory):
        taken = 0

        def take(self, which):
            self.taken += len(which)
            return super().take(which)

    images = Counted(random_patches(40))
    monkeypatch.setattr(training_data, "MOST", 30)
    first, second = (training_data.measure({}, images, seed=seed) for seed in (1, 1))
    assert images.taken == 60 and first == second and first.patches == 40
    assert training_data.measure({}, images, seed=2) != first


def test_a_pair_is_described_by_the_errors_at_the_scale_of_pixels():
    rng = np.random.default_rng(0)
    residuals = [rng.normal(0, spread, (30, 16, 16, 3)).astype(np.float32) for spread in (0.1, 0.2)]
    tumor, normal = (np.square(each).mean((1, 2, 3)) for each in residuals)
    features = np.hstack([scales.errors(each) for each in residuals])
    np.testing.assert_allclose(scales.mean_squares(features), tumor, rtol=1e-5)
    images = InMemory(random_patches(30))
    found = training_data.measure_pair(features, None, images, seed=1).quantiles
    values = {
        "error_tumor": tumor,
        "error_normal": normal,
        "error_min": np.minimum(tumor, normal),
        "score": pair.score(tumor, normal),
    }
    for name, expected in values.items():
        np.testing.assert_allclose(found[name], np.quantile(expected, training_data.LEVELS), rtol=1e-4)
    count = features.shape[1]
    linear = pair.Linear(np.zeros(count), np.ones(count), np.eye(count)[0], 0.5)
    found = training_data.measure_pair(features, linear, images, seed=1).quantiles
    assert found["score"][-1] == pytest.approx(features[:, 0].max() + 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps({"tissue_rule": "chroma-2", "quality": QUALITY}), ("chroma-2", QUALITY)),
        ('{"tissue_rule": "chroma-1"}', ("chroma-1", None)),
        ('{"slides": 1}', (None, None)),
        ('{"tissue_rule": null, "quality": null}', (None, None)),
    ],
)
def test_the_rules_are_those_of_the_extraction(tmp_path, text, expected):
    file = tmp_path / "summary.json"
    file.write_text(text)
    assert training_data.rules(file) == dict(zip(("tissue_rule", "quality"), expected, strict=True))


@pytest.mark.parametrize(
    "text",
    ["[]", '{"tissue_rule": 1}', '{"tissue_rule": ""}', '{"quality": 1}', '{"quality": {"rule": "quality-1"}}', "{"],
)
def test_a_damaged_summary_of_the_extraction_is_refused(tmp_path, text):
    file = tmp_path / "summary.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"summary\.json: .*; run dvc repro patches"):
        training_data.rules(file)


@given(patch_arrays)
def test_a_distribution_is_the_same_after_it_was_written_and_read(patches):
    distribution = training_data.measure({"error": np.arange(len(patches))}, InMemory(patches), seed=1)
    text = json.dumps(distribution.as_json(), allow_nan=False)
    assert Distribution.from_json(json.loads(text), "a file", REMEDY) == distribution


# --- contract.json ---------------------------------------------------------------------------------


def test_a_contract_is_the_same_after_it_was_written_and_read(content, tmp_path):
    file = tmp_path / "contract.json"
    for values in (content, as_pair(content), as_pair(content) | {"score": linear_score()}):
        file.write_text(json.dumps(values))
        contract = Contract.read(file, REMEDY)
        assert contract.as_json() == values
        assert contract.training == Distribution.from_json(values["training"], "a file", REMEDY)


def test_keys_of_a_later_package_are_ignored(content):
    contract = Contract.from_json(content | {"later": 1}, "a file", REMEDY)
    assert contract.as_json() == content


def test_a_contract_of_an_earlier_package_has_no_quality(content):
    content["patches"]["quality"] = None
    former = {key: value for key, value in content["patches"].items() if key != "quality"}
    contract = Contract.from_json(content | {"patches": former}, "a file", REMEDY)
    assert contract.patches.quality is None and contract.as_json() == content


def test_a_contract_has_a_threshold_for_each_fault():
    assert tuple(QualityThresholds.model_fields) == FAULTS
    assert get_args(get_args(QualityRule.model_fields["left_out"].annotation)[0]) == FAULTS


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 0, "version: expected one of 1, got 0; run the remedy"),
        ("version", 2, "a contract of version 2, this histocae reads 1; update histocae"),
        ("kind", "triple", "kind: expected one of 'pair' or 'single', got 'triple'"),
        ("models", ["a", "b"], "models: 2 entries for a single"),
        ("weights", "w", "weights: expected a list, got 'w'"),
        ("latent_features", [0.5], "latent_features.0: expected an integer, got 0.5"),
        ("patches.pixels", "64", "patches.pixels: expected an integer, got '64'"),
        ("patches.mpp", -1, "patches.mpp: input should be greater than 0, got -1"),
        ("patches.color", "sepia", "patches.color: expected one of 'rgb', 'grey' or 'macenko', got 'sepia'"),
        ("patches.quality", [], "patches.quality: expected keys with values, got []"),
        ("patches.quality.rule", "", "patches.quality.rule: string should have at least 1 character, got ''"),
        ("patches.quality.thresholds.pen", "0.2", "patches.quality.thresholds.pen: expected a number, got '0.2'"),
        (
            "patches.quality.thresholds.pen",
            0,
            "patches.quality.thresholds.pen: input should be greater than 0, got 0",
        ),
        ("patches.quality.thresholds.pen", 20, "patches.quality.thresholds.pen: input should be less than 1, got 20"),
        ("patches.quality.thresholds.bubble", 1.0, "patches.quality.thresholds.bubble: unknown key"),
        ("patches.quality.thresholds.pens", 1.0, "patches.quality.thresholds.pens: unknown key; did you mean pen?"),
        ("patches.quality.thresholds", {"pen": 0.2}, "patches.quality.thresholds.blur: missing"),
        (
            "patches.quality.left_out",
            ["bubble"],
            "patches.quality.left_out.0: expected one of 'pen', 'blur', 'fold', 'debris' or 'pale', got 'bubble'",
        ),
        ("patches.quality.left_out", None, "patches.quality.left_out: expected a list, got None"),
        ("training.levels", [0.0, 1.0], "training.quantiles.error: 9 numbers for 2 levels"),
        ("training.levels", [1.0, 0.0], "training.levels: are not in ascending order"),
        ("training.levels", [0.01, 1.0], "training.levels: run from 0.01 to 1, not from 0 to 1"),
        ("training.levels", [0.0, 0.99], "training.levels: run from 0 to 0.99, not from 0 to 1"),
        ("training.quantiles.error", [0.0] * 8 + [-1.0], "training.quantiles.error: are not in ascending order"),
        ("training.quantiles.error", [None] * 9, "training.quantiles.error.0: expected a number, got None"),
        ("training.color.mean", [1.0, 2.0], "training.color.mean: "),
        ("training.color.inverse", [[1.0] * 3] * 2, "training.color.inverse: "),
        ("training.color.mean", [1.0, 2.0, float("nan")], "training.color.mean.2: "),
    ],
)
def test_a_damaged_contract_is_refused_in_one_line(content, key, value, message):
    *sections, last = key.split(".")
    inner = content
    for section in sections:
        inner = inner[section]
    inner[last] = value
    with pytest.raises(DataError) as error:
        Contract.from_json(content, "contract.json", REMEDY)
    assert str(error.value).startswith(f"contract.json: {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("score", None, "score: missing in a pair"),
        ("levels", None, "levels: missing in a pair"),
        ("classes", ["one"], "classes: "),
        ("score", {"kind": "errors_by_scale", "linear": None}, "score.linear: does not fit kind errors_by_scale"),
        ("score", linear_score(deviations=[1.0]), "score.linear.deviations: 1 numbers for 2 means"),
        ("score", linear_score(weights=[1.0] * 3), "score.linear.weights: 3 numbers for 2 means"),
        ("score", linear_score(means=[]), "score.linear.deviations: 2 numbers for 0 means"),
        ("score", linear_score() | {"kind": "log_ratio"}, "score.linear: does not fit kind log_ratio"),
        ("models", ["tumor"], "models: 1 entries for a pair"),
    ],
)
def test_a_damaged_contract_of_a_pair_is_refused_in_one_line(content, key, value, message):
    with pytest.raises(DataError) as error:
        Contract.from_json(as_pair(content) | {key: value}, "contract.json", REMEDY)
    assert str(error.value).startswith(f"contract.json: {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[1]", "null", '{"version": 1}', "[" * 100_000])
def test_other_json_than_a_contract_is_refused_in_one_line(tmp_path, text):
    file = tmp_path / "contract.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"contract\.json: .*; run the remedy") as error:
        Contract.read(file, REMEDY)
    assert "\n" not in str(error.value)


def test_a_contract_without_the_quantiles_of_its_kind_is_refused(content):
    del content["training"]["quantiles"]["color"]
    with pytest.raises(DataError, match=r"training\.quantiles\.color: missing; run the remedy"):
        Contract.from_json(content, "contract.json", REMEDY)
