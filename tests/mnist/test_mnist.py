"""The MNIST pipeline: its images, params, studies, and the stages from end to end."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from histocae import CAE, checksums
from histocae.cli import MNIST
from histocae.errors import DataError, ParamsError
from histocae.files import read_table
from histocae.mnist import classes, images, params, study
from histocae.networks import backend
from histocae.params import Section
from histocae.params_file import load_as
from histocae.pipeline import lineage
from support.workspace import ROOT, Result, command

FOLDER = ROOT / "examples" / "mnist"
COMMITTED = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
STAGES = yaml.safe_load((FOLDER / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
MODELS = ("notebook", "own", "pca")
PERCEPTUAL = {
    "filters": [8],
    "latent_features": 3,
    "loss": "perceptual",
    "perceptual": {"network": "vgg.keras", "layers": ["a"]},
}


def small_params() -> dict:
    """Make params of a small trial on scikit-learn's digits."""
    values = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    values["data"] |= {"source": "digits", "train": 700}
    values["training"] |= {"epochs": 2, "patience": 2}
    values["models"] = {
        "notebook": {"filters": [4], "latent_features": 6, "epochs": 3},
        "own": {**values["models"]["own"], "filters": [8, 8], "latent_features": 6, "epochs": 3},
        "pca": {"architecture": "pca", "latent_features": 6},
    }
    values["study"] |= {"models": ["own"], "sample": 100, "clusters": 12, "perplexity": 10.0}
    values["classes"] = {"model": {"filters": [4], "latent_features": 3, "epochs": 1}, "components": [2, 8]}
    values["compare"] = {"notebook": ["notebook"], "own": "own", "pca": "pca"}
    return values


def write_params(folder: Path, values: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def run_stages(*commands: str) -> list[str]:
    """Run stages that must succeed; return their output lines."""
    done = command(*(f"mnist {stage}" for stage in commands))
    assert done.code == 0, done.lines
    return done.lines


def error_of(*commands: str) -> str:
    """Run stages of which the last fails; return its error, one line."""
    done: Result = command(*(f"mnist {stage}" for stage in commands))
    return done.error


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project in whose examples/mnist all stages have run."""
    home = tmp_path_factory.mktemp("project")
    (home / "MLproject").touch()
    folder = home / "examples" / "mnist"
    folder.mkdir(parents=True)
    write_params(folder, small_params())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run_stages("data", *(f"{stage} {name}" for name in MODELS for stage in ("train", "evaluate")))
        run_stages("latent own", "pixels", "classes", "compare", "publish")
    return folder


@pytest.fixture
def project_folder(project, monkeypatch) -> Path:
    """The project, as the working directory."""
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def empty_folder(tmp_path, monkeypatch) -> Path:
    """A folder with params.yaml alone, as the working directory."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, small_params())
    return tmp_path


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load_part(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the pixels, in [0, 1], and the digits of a part from its files."""
    labels = pd.read_csv(f"data/splits/{part}.csv", sep="|")["label"].to_numpy()
    return np.load(f"data/images/{part}.npy").astype(np.float32) / 255, labels


# -- reading --


@pytest.fixture(scope="module")
def mnist(shared) -> tuple[Path, tuple[np.ndarray, ...]]:
    return shared / "mnist", images.read("mnist", str(shared / "mnist" / "mnist.npz"))


def test_npz_and_idx_files_of_mnist_are_equal_and_divided_as_in_the_notebook(mnist):
    folder, arrays = mnist
    for from_npz, from_idx in zip(arrays, images.read("mnist", str(folder)), strict=True):
        np.testing.assert_array_equal(from_npz, from_idx)
    train, digits, test, test_digits = arrays
    parts = images.divide(train, digits, COMMITTED["data"]["train"], COMMITTED["data"]["validation"])
    pixels, labels, positions = zip(*parts.values(), strict=True)
    assert [len(array) for array in pixels] == [45_000, 5_000] and len(test) == len(test_digits) == 10_000
    np.testing.assert_array_equal(np.concatenate(positions), np.arange(50_000))
    counts = np.bincount(np.concatenate(labels))
    assert counts.tolist() == [4932, 5678, 4968, 5101, 4859, 4506, 4951, 5175, 4842, 4988]


def test_changed_pixels_are_refused_and_other_integer_types_of_labels_accepted(mnist, tmp_path):
    _, (train, digits, test, test_digits) = mnist
    path = tmp_path / "arrays.npz"
    arrays = {"x_train": train, "y_train": digits.astype(np.int64), "x_test": test[..., None], "y_test": test_digits}
    np.savez(path, **arrays)
    np.testing.assert_array_equal(images.read("mnist", str(path))[2], test)
    np.savez(path, **arrays | {"y_test": test_digits.astype(str)})
    with pytest.raises(DataError, match=r"arrays.npz: y_test is not that of mnist: <U3 \(10000,\), expected whole"):
        images.read("mnist", str(path))
    changed = test.copy()
    changed[17, 3, 3] ^= 1
    np.savez(path, **arrays | {"x_test": changed})
    with pytest.raises(DataError, match=r"arrays.npz: x_test is not that of mnist: .*set data.path"):
        images.read("mnist", str(path))


def test_files_that_are_not_mnist_are_refused(tmp_path):
    def read_error(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            images.read("mnist", str(path))
        return str(caught.value)

    assert "nowhere does not exist" in read_error(tmp_path / "nowhere")
    array = tmp_path / "a.npy"
    np.save(array, np.zeros(3))
    np.savez(tmp_path / "some.npz", x_train=np.zeros(3))
    (tmp_path / "text.npz").write_text("text")
    for name in ("a.npy", "some.npz", "text.npz"):
        assert f"{name}: not an .npz with x_train" in read_error(tmp_path / name)
    folder = tmp_path / "idx"
    folder.mkdir()
    assert f"{images.FILES[0]} does not exist" in read_error(folder)
    images_path = folder / images.FILES[0]
    contents = b"\0\0\x08\x03" + np.array([2, 2, 2], ">u4").tobytes() + bytes(8)
    for data in (
        b"",
        b"text",
        gzip.compress(contents)[:-4],
        gzip.compress(contents[:-1]),
        gzip.compress(b"\0\0\x08"),
    ):
        images_path.write_bytes(data)
        assert images.FILES[0] in read_error(folder) and "download it again" in read_error(folder)


def test_a_failed_download_is_reported_with_the_remedy(monkeypatch):
    backend.start()
    import keras

    def unreachable():
        try:
            raise urllib.error.URLError("no route")
        except urllib.error.URLError as error:
            raise Exception(f"URL fetch failure: {error.reason}")  # noqa: B904 (as Keras does)

    monkeypatch.setattr(keras.datasets.mnist, "load_data", unreachable)
    with pytest.raises(DataError, match=r"Keras could not download MNIST: .*no route; without network set data.path"):
        images.read("mnist", None)


def test_the_small_set_has_its_published_size_and_too_few_images_are_refused():
    train, digits, test, _ = images.read("digits", None)
    assert train.shape == (1437, 8, 8) and test.shape == (360, 8, 8) and train.max() == 255
    assert set(digits) == set(range(10))
    with pytest.raises(ParamsError, match=r"data.train: 1438 images, but the set has only 1437"):
        images.divide(train, digits, 1438, 0.1)
    with pytest.raises(ParamsError, match=r"data\.validation"):
        images.divide(train, digits, 1, 0.1)


# -- params --


def test_the_committed_params_are_valid():
    loaded_params = load_as(FOLDER / "params.yaml", params.Params)
    assert loaded_params.training.learning_rate == 0.002 and loaded_params.models["notebook"].latent_features == 20
    assert loaded_params.models[loaded_params.compare.own].latent_features == 20
    assert len(loaded_params.compare.notebook) == 3
    assert len({loaded_params.models[name].seed for name in loaded_params.compare.notebook}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "colour: unknown key"),  # codespell:ignore colour
        (
            {"data": {"source": "digits", "path": "x", "train": 9, "validation": 0.1}},
            "data.path: scikit-learn",
        ),
        (
            {"models": {**small_params()["models"], "own": {"filters": [8], "latent_feature": 3}}},
            "models.own.latent_feature: unknown key; did you mean latent_features?",
        ),
        ({"models": {**small_params()["models"], "own": {"filters": [8]}}}, "models.own.latent_features: missing"),
        (
            {"models": {**small_params()["models"], "own": {"filters": [8] * 4, "latent_features": 3}}},
            "models.own.filters: 4 layers",
        ),
        (
            {"models": {**small_params()["models"], "a b": {"filters": [8], "latent_features": 3}}},
            "models.a b: a model's name",
        ),
        (
            {"compare": {"notebook": ["notebook"], "own": "unknown", "pca": "pca"}},
            "compare.own: models has no entry 'unknown'",
        ),
        (
            {"compare": {"notebook": ["notebook"], "own": "own", "pca": "own"}},
            "compare.pca: own has a diff",
        ),
        ({"study": {**small_params()["study"], "models": ["x"]}}, "study.models: models has no entry 'x'"),
        ({"classes": {"model": {"filters": [8]}, "components": [2]}}, "classes.model.latent_features: missing"),
        (
            {"models": {**small_params()["models"], "digit-3": {"filters": [8], "latent_features": 3}}},
            "models.digit-3: this name",
        ),
        (
            {"models": {**small_params()["models"], "own": {"filters": [8], "latent_features": 1}}},
            "study.models: own has one",
        ),
        ({"study": {**small_params()["study"], "sample": 7}}, "study.sample: "),
        (
            {"data": {"source": "digits", "path": None, "train": 9, "validation": 0.1}},
            "data.train, data.validation: train has fewer than 2 images",
        ),
        (
            {"classes": {"model": {"architecture": "pca"}, "components": [2]}},
            "classes.model.latent_features: missing",
        ),
        (
            {"models": {**small_params()["models"], "own": PERCEPTUAL}},
            "models.own.loss: perceptual is for patches of slides, not for MNIST",
        ),
        (
            {"classes": {"model": PERCEPTUAL, "components": [2]}},
            "classes.model.loss: perceptual is for patches of slides, not for MNIST",
        ),
    ],
)
def test_errors_of_params_name_the_key(empty_folder, change, message):
    write_params(empty_folder, small_params() | change)
    assert message in error_of("data")
    assert [path.name for path in empty_folder.iterdir() if path.name != ".histocae"] == ["params.yaml"]


# -- studies --


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=60))
def test_clusters_are_numbered_by_digit_then_purity(pairs):
    clusters, digits = np.array(pairs).T
    clusters = pd.factorize(clusters)[0]
    order = study._by_digit(clusters, digits)
    assert sorted(order) == sorted(set(clusters))
    keys = []
    for cluster in order:
        counts = np.bincount(digits[clusters == cluster], minlength=10)
        keys.append((counts.argmax(), -counts.max() / counts.sum()))
    assert keys == sorted(keys)


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_confusion_counts_every_image_once(seed):
    rng = np.random.default_rng(seed)
    digits, predicted = rng.integers(0, 10, (2, 50))
    counts = study.confusion(digits, predicted)
    assert counts.sum() == 50 and np.trace(counts) == (digits == predicted).sum()
    assert counts[3, 7] == ((digits == 3) & (predicted == 7)).sum()


def test_components_of_each_digit_distinguish_digits_on_planes():
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(10, 2, 64))

    def draw(count: int) -> images.LabeledImages:
        labels = np.arange(10).repeat(count)
        values = np.einsum("nk,nkv->nv", rng.normal(size=(len(labels), 2)), planes[labels])
        return images.LabeledImages(np.clip(128 + 12 * values, 0, 255).astype(np.uint8).reshape(-1, 8, 8, 1), labels)

    parts = {"train": draw(60), "validation": draw(10), "test": draw(10)}
    table = classes.by_components(parts, [2, 1], 1)
    assert table["components"].tolist() == [1, 2]
    assert table["test_accuracy"].iloc[1] > 0.98 > table["test_accuracy"].iloc[0]


def test_a_digit_with_too_few_images_is_named():
    labels = np.arange(10).repeat(2)
    images.check({"train": labels, "validation": labels[::2]})
    with pytest.raises(ParamsError, match="validation has fewer than 1 images of 9; raise them"):
        images.check({"train": labels, "validation": labels[:-2]})
    with pytest.raises(ParamsError, match="train has fewer than 2 images of 9; raise them"):
        images.check({"train": labels[:-1], "validation": labels})


# -- stages --


def test_parts_keep_the_order_of_the_set(project_folder):
    train, digits, test, test_digits = images.read("digits", None)
    for part, rows in (("train", slice(0, 630)), ("validation", slice(630, 700))):
        table = pd.read_csv(f"data/splits/{part}.csv", sep="|")
        np.testing.assert_array_equal(np.load(f"data/images/{part}.npy")[..., 0], train[rows])
        np.testing.assert_array_equal(table["label"], digits[rows])
        np.testing.assert_array_equal(table["image"], np.arange(1437)[rows])
    np.testing.assert_array_equal(np.load("data/images/test.npy")[..., 0], test)
    np.testing.assert_array_equal(load_part("test")[1], test_digits)


@pytest.mark.parametrize("name", MODELS)
def test_errors_and_accuracies_are_those_of_the_saved_model(project_folder, name):
    folder = Path("reports/models") / name / "evaluation"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    cae = CAE(path=Path("models/trained") / name, load=True)
    pixels, digits = {}, {}
    for part in images.SPLITS:
        pixels[part], digits[part] = load_part(part)
        output = cae.model.predict_on_batch(pixels[part])
        assert metrics[f"{part}_mse"] == pytest.approx(np.square(output - pixels[part]).mean(), rel=1e-4)
    latents = {part: cae.encoder.predict_on_batch(inputs).astype(np.float64) for part, inputs in pixels.items()}
    mean, deviation = latents["train"].mean(0), latents["train"].std(0)
    scaled = {part: (values - mean) / np.where(deviation > 0, deviation, 1) for part, values in latents.items()}
    strength = json.loads((folder / "metrics.json").read_text())["strength"]
    fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=10_000)
    predicted = fitted.fit(scaled["train"], digits["train"]).predict(scaled["test"])
    assert metrics["test_accuracy"] == pytest.approx(accuracy_score(digits["test"], predicted), abs=0.006)
    assert metrics["test_accuracy_low"] < metrics["test_accuracy"] < metrics["test_accuracy_high"]
    table = pd.read_csv(folder / "per_image.csv")
    assert metrics["test_accuracy"] == (table["label"] == table["predicted"]).mean()
    assert metrics["dead_latents"] == (np.ptp(latents["train"], axis=0) < 1e-5).sum()
    report = pd.read_csv(folder / "classification.csv")
    assert set(report["part"]) == {"train", "test"} and len(report) == 24


def test_latents_are_mapped_and_clustered(project_folder):
    folder = Path("reports/models/own/latent")
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    table = pd.read_csv(folder / "clusters.csv")
    counts = table[[f"digit_{digit}" for digit in range(10)]].to_numpy()
    assert counts.sum() == table["images"].sum() == 360 and table["train_images"].sum() == 630
    full = counts.sum(axis=1) > 0
    shares = counts[full] / counts[full].sum(axis=1, keepdims=True)
    gini = (1 - np.square(shares).sum(axis=1)) @ table["images"][full] / 360
    assert metrics["latent_gini"] == pytest.approx(gini) and gini < metrics["latent_gini_without_clusters"]
    maps = pd.read_csv(folder / "maps.csv")
    assert len(maps) == 100 and maps.notna().all(axis=None)
    np.testing.assert_array_equal(maps["label"], load_part("test")[1][maps["image"]])
    for name in ("components", "pca", "tsne", "clusters", "impurity", "gallery"):
        with Image.open(folder / f"{name}.png") as figure:
            assert np.ptp(np.asarray(figure.convert("L"))) > 100


def test_the_prediction_is_the_digit_whose_model_errs_least(project_folder):
    table = pd.read_csv("reports/classes/errors.csv")
    pixels, digits = load_part("test")
    for digit in (0, 7):
        cae = CAE(path=Path(f"models/classes/trained/digit-{digit}"), load=True)
        errors = np.square(cae.model.predict_on_batch(pixels) - pixels).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(table[f"mse_{digit}"], errors, rtol=1e-3)
    errors = table[[f"mse_{digit}" for digit in range(10)]].to_numpy()
    np.testing.assert_array_equal(table["predicted"], errors.argmin(axis=1))
    metrics = json.loads(Path("reports/classes/metrics.json").read_text())["metrics"]
    assert metrics["test_accuracy"] == (table["predicted"] == digits).mean()
    # principal components of each digit are accurate, and their number is chosen without the test images
    linear = read_table(Path("reports/classes/pca.csv"), separator=",").set_index("components")
    assert metrics["pca_components"] == linear["validation_accuracy"].idxmax()
    assert metrics["pca_test_accuracy"] == linear.loc[metrics["pca_components"], "test_accuracy"] > 0.9


def test_the_metrics_of_the_comparison_are_in_one_file(project_folder):
    metrics = json.loads(Path("reports/metrics.json").read_text())

    def metrics_of(path: str) -> dict:
        return json.loads((Path("reports") / path / "metrics.json").read_text())["metrics"]

    notebook, own, pca = (metrics_of(f"models/{name}/evaluation") for name in MODELS)
    assert metrics["seed_test_mse"] == notebook["test_mse"]
    assert metrics["seed_accuracy"] == notebook["one_vs_rest_accuracy"]
    assert metrics["test_mse"] == own["test_mse"] and metrics["accuracy"] == own["test_accuracy"]
    assert metrics["pca_test_mse"] == pca["test_mse"]
    assert metrics["pixel_accuracy"] == metrics_of("pixels")["test_accuracy"]
    assert metrics["per_class_accuracy"] == metrics_of("classes")["test_accuracy"]
    assert metrics["seconds"] == json.loads(Path("models/runs/own.json").read_text())["seconds"]
    page = Path("reports/index.html").read_text()
    assert page.count("data:image/webp") == 20 and f"{own['test_mse']:.5f}" in page
    assert "{{" not in page


def test_all_runs_have_their_images_and_publishing_again_adds_none(project_folder):
    from mlflow import MlflowClient

    home = project_folder.parents[1]
    assert (home / "mlflow.db").is_file()
    assert not (project_folder / "mlflow.db").exists() and not (project_folder / "mlruns").exists()
    api = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = api.get_experiment_by_name("histocae-mnist").experiment_id

    def all_runs() -> dict:
        return {run.info.run_name: run for run in api.search_runs([experiment])}

    before = all_runs()
    digits = {f"digit-{digit}" for digit in range(10)}
    assert set(before) == {*MODELS, *digits, "one-per-digit", "pixels", "comparison"}
    own = before["own"]
    assert own.data.params["model.latent_features"] == "6" and own.data.params["data.source"] == "digits"
    assert own.data.metrics["test_accuracy"] > 0 and own.info.status == "FINISHED"
    assert len(api.get_metric_history(own.info.run_id, "validation_loss")) == 3
    files = {file.path for file in api.list_artifacts(own.info.run_id, "latent")}
    assert {"latent/tsne.png", "latent/gallery.png", "latent/clusters.png"} <= files
    image_files = [file.path for file in api.list_artifacts(own.info.run_id, "images") if file.path.endswith(".png")]
    assert len(image_files) == 4
    files = {file.path for file in api.list_artifacts(before["one-per-digit"].info.run_id, "classes")}
    assert {"classes/confusion.png", "classes/reconstructions.png"} <= files
    files = {file.path for file in api.list_artifacts(before["comparison"].info.run_id)}
    assert {"samples.png", "index.html", "comparison.csv", "figures"} <= files
    assert own.data.tags["mlflow.source.name"] == "histocae mnist train own"
    assert before["digit-4"].data.tags["mlflow.source.name"] == "histocae mnist classes"
    run_stages("publish")
    after = all_runs()
    assert {run.info.run_id for run in after.values()} == {run.info.run_id for run in before.values()}
    image_files_after = [
        file.path for file in api.list_artifacts(own.info.run_id, "images") if file.path.endswith(".png")
    ]
    assert sorted(image_files_after) == sorted(image_files)


def test_repeated_stages_write_the_same_bytes_and_train_no_digit_model_twice(project_folder):
    # durations of trainings differ; models/runs, models/classes/runs and files computed from them have durations
    def compared_outputs() -> dict[str, bytes]:
        files = outputs(project_folder)
        names = [name for name in files if name.startswith(("models/", "reports/")) and "/runs/" not in name]
        return {name: files[name] for name in names}

    before = compared_outputs()
    # as after a kill between the model's weights and its run's file: the model is trained again
    run = Path("models/classes/runs/digit-3.json")
    run.unlink()
    lines = run_stages("evaluate own", "latent own", "pixels", "classes", "publish")
    assert run.is_file() and sum("is trained already" in line for line in lines) == 9
    after = compared_outputs()
    assert [name for name in before if before[name] != after[name] and name != "models/published.json"] == []


def test_a_model_of_a_digit_that_is_trained_again_is_delivered_at_once(project, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    shutil.copytree(project.parents[1], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy" / "examples" / "mnist")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # as a training with other params left them: it was made from something else and had other weights
    folder, run = Path("models/classes/trained/digit-3"), Path("models/classes/runs/digit-3.json")
    former = {"weights": "0" * 64}
    for path, changes in ((folder / "training.json", former | {"made_from": "1" * 64}), (run, former)):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    checksums.write(folder)
    lines = run_stages("classes")
    assert sum("is trained already" in line for line in lines) == 9
    assert not [line for line in lines if "delivers it later" in line]
    api = MlflowClient(f"sqlite:///{tmp_path}/copy/mlflow.db")
    delivered = api.get_run(json.loads(run.read_text())["run_id"])
    weights = json.loads((folder / "training.json").read_text())["weights"]
    assert delivered.info.status == "FINISHED" and delivered.data.tags["histocae.weights"] == weights


def test_stages_without_their_inputs_name_the_stage_to_run_first(empty_folder):
    assert "data/splits/train.csv: not there yet" in error_of("train own")
    assert "run dvc repro" in error_of("evaluate own")
    assert "models has no entry 'x'" in error_of("train x")
    run_stages("data")
    assert "reports/pixels/metrics.json: not there yet; run dvc repro pixels" in error_of("compare")
    assert not Path("reports/metrics.json").exists()
    Path("data/images/train.npy").write_bytes(b"broken")
    assert "data/images/train.npy: can't be read" in error_of("pixels")


@pytest.mark.parametrize(
    ("command", "file", "keys", "message"),
    [
        ("compare", "reports/pixels/metrics.json", ["metrics"], "metrics: missing; run dvc repro pixels"),
        ("compare", "reports/pixels/metrics.json", ["metrics", "test_accuracy"], "metrics.test_accuracy: missing"),
        ("compare", "reports/pixels/metrics.json", ["metrics", "train_accuracy"], "metrics.train_accuracy: missing"),
        ("compare", "reports/classes/metrics.json", ["metrics", "test_accuracy"], "missing; run dvc repro classes"),
        ("compare", "reports/models/own/latent/metrics.json", ["metrics", "latent_ari"], "run dvc repro latent@own"),
        (
            "compare",
            "reports/models/own/evaluation/metrics.json",
            ["metrics", "test_accuracy_low"],
            "metrics.test_accuracy_low: missing; run dvc repro evaluate@own",
        ),
        ("publish", "reports/classes/metrics.json", ["metrics"], "metrics: missing; run dvc repro classes"),
        ("publish", "reports/pixels/metrics.json", ["metrics"], "metrics: missing; run dvc repro pixels"),
    ],
)
def test_reports_that_lack_a_key_are_named(project_folder, command, file, keys, message):
    path = project_folder / file
    whole = path.read_text()
    content = json.loads(whole)
    *outer, last = keys
    inner = content
    for key in outer:
        inner = inner[key]
    del inner[last]
    path.write_text(json.dumps(content))
    try:
        error = error_of(command)
    finally:
        path.write_text(whole)
        run_stages("compare")
    assert f"{file}: " in error and message in error


# -- the graph --

EXEMPT = (*lineage.EXEMPT, "mnist/params", "mnist/paths")
# changes of tracking do not retrain models
EXEMPT_IN = {stage: ("tracking", "mnist/record") for stage in ("train", "classes")}
# results are final before their delivery
EXEMPT_IN["publish"] = (
    "tracking/server",
    "networks/cae",
    "training/loop",
    "networks/backend",
    "patches/store",
    "sources/tables",
    "identifiers",
)
ALSO = {stage: ("evaluation/samples.py", "tracking/trainings.py", "params.py") for stage in ("train", "classes")}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_list_the_code_they_use(stage):
    body = STAGES[stage].get("do", STAGES[stage])
    listed = {dep.removeprefix("../../src/histocae/") for dep in body["deps"] if dep.endswith(".py")}
    start = {f"mnist/stages/{stage}.py", *ALSO.get(stage, ())}
    assert listed == lineage.reach(start, EXEMPT + EXEMPT_IN.get(stage, ("tracking/server",)))
    assert body["cmd"].split()[:3] == ["histocae", "mnist", stage]
    assert MNIST[stage].by_model == ("foreach" in STAGES[stage])


def test_outputs_do_not_overlap_and_dvc_tracks_every_key():
    outs = [
        out if isinstance(out, str) else next(iter(out))
        for stage in STAGES.values()
        for out in stage.get("do", stage)["outs"]
    ]
    assert len(outs) == len(set(outs))
    # otherwise `dvc pull` at the top would fail where MNIST was never run
    declared = [out for stage in STAGES.values() for out in stage.get("do", stage)["outs"]]
    assert all(next(iter(out.values()))["cache"] is False for out in declared)
    assert not [(inner, outer) for inner in outs for outer in outs if inner.startswith(f"{outer}/")]
    sections = [cls for cls in vars(params).values() if isinstance(cls, type) and issubclass(cls, Section)]
    assert not {"size", "nfiles"} & {key for section in sections for key in section.model_fields}


def test_dvc_runs_mnist_by_its_name_and_not_with_the_pipeline_of_slides(tmp_path):
    (tmp_path / "inventory").mkdir()
    for name in ("dvc.yaml", "inventory/dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "data", "models", "reports")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(FOLDER, tmp_path / "examples" / "mnist", ignore=ignore)
    write_params(tmp_path / "examples" / "mnist", small_params())
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"

    def dvc(*arguments: str) -> str:
        done = subprocess.run(
            ["dvc", *arguments],
            cwd=tmp_path,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc("init", "-q")
    assert "train@all" in dvc("stage", "list") and "pixels" not in dvc("stage", "list")
    dvc("repro", "examples/mnist/dvc.yaml:data")
    assert (tmp_path / "examples/mnist/data/images/train.npy").is_file()
