"""The registry: aliases, cards, the served models, and registering twice, which changes nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from histocae import CAE, checksums
from histocae.contrast import pair
from histocae.contrast.contract import Contract
from histocae.errors import TrackingError
from histocae.evaluation import scales
from histocae.patches import quality, tissue
from histocae.patches.conversion import convert
from histocae.patches.store import PatchStore
from histocae.tracking import contracts, live, python_models, runs
from histocae.tracking import server as tracking_server
from support import registered, services
from support.make_data import NORMAL, TUMOR

errors = st.floats(0, 1)
NAMES = ("all", "tumor", "normal", "pair")
OWN_QUALITY = {"rule": quality.RULE, "thresholds": quality.THRESHOLDS, "left_out": ["pen"]}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A project with registered models, which tests only read."""
    with pytest.MonkeyPatch.context() as patch:
        yield registered.make(tmp_path_factory.mktemp("registered") / "project", patch)


@pytest.fixture
def project(original, tmp_path, monkeypatch):
    """A copy of the registered project, which tests may change."""
    return registered.copy(original, tmp_path / "copy", monkeypatch)


def aliases(project, name: str) -> dict[str, str]:
    """Map each alias of a registered model to the name of its model in params."""
    versions = project.client.get_registered_model(name).aliases
    return {alias: project.client.get_model_version(name, str(v)).tags["model"] for alias, v in versions.items()}


def patches(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


@given(errors, errors)
def test_the_score_is_positive_where_the_tumor_model_is_better_and_antisymmetric(tumor_error, normal_error):
    score = pair.score([tumor_error], [normal_error])
    assert score.dtype == np.float64 and np.isfinite(score).all()
    assert score == -pair.score([normal_error], [tumor_error])
    assert (score > 0) == (max(normal_error, 1e-10) > max(tumor_error, 1e-10))


@given(st.floats(1e-6, 0.1), st.floats(1e-6, 0.1), st.floats(0.1, 10))
def test_the_score_depends_only_on_the_ratio_of_the_errors(tumor_error, normal_error, factor):
    assert pair.score([factor * tumor_error], [factor * normal_error]) == pytest.approx(
        pair.score([tumor_error], [normal_error]), abs=1e-9
    )


def test_each_registered_model_has_a_champion_and_linear_maps_are_not_registered(original):
    entries = original.json("models/registered.json")
    assert set(entries) == {"histocae-all", "histocae-tumor", "histocae-normal", "histocae-pair"}
    validation_mse = {
        name: original.json(f"reports/models/{name}/evaluation/metrics.json")["metrics"]["validation_mse"]
        for name in registered.MODELS
    }
    # otherwise this test checks nothing
    assert validation_mse["linear"] < min(validation_mse["all"], validation_mse["other"])
    champion, challenger = sorted(("all", "other"), key=validation_mse.get)
    assert aliases(original, "histocae-all") == {"champion": champion, "challenger": challenger}
    assert {alias: entry["model"] for alias, entry in entries["histocae-all"].items()} == aliases(
        original, "histocae-all"
    )
    assert aliases(original, "histocae-tumor") == {"champion": "tumor"}
    model_names = {version.tags.get("model") for version in original.client.search_model_versions()}
    assert model_names == {"all", "other", "tumor", "normal", None}
    run_names = {run.info.run_name for run in original.client.search_runs([original.experiment])}
    assert run_names == {*registered.MODELS, "pair"}
    # the linear map has no logged model: its file would be large
    assert len(original.client.search_logged_models([original.experiment])) == 5


def test_a_version_has_tags_and_a_card(original):
    version = original.client.get_model_version_by_alias("histocae-all", "champion")
    name = version.tags["model"]
    metrics = original.json(f"reports/models/{name}/evaluation/metrics.json")["metrics"]
    assert version.tags["architecture"] == "plain" and version.tags["filters"] == "4"
    assert version.tags["latent_features"] == str(registered.MODELS[name]["latent_features"])
    for key in ("validation_mse", "test_mse", "test_psnr"):
        assert float(version.tags[key]) == pytest.approx(metrics[key], rel=1e-5)
    card = version.description
    assert card.startswith(f"{name}, an autoencoder of patches of tumor and normal tissue: architecture plain")
    assert f"{metrics['test_mse']:.5f}" in card
    assert re.search(r"linear \(16 components\): validation MSE 0\.\d+, \*\*better than this model\*\*", card)
    train = pd.read_csv(original.folder / "data/splits/train.csv", sep="|")
    counts = (train["case_id"].nunique(), train["slide_id"].nunique(), len(train))
    assert "| train | " + " | ".join(f"&emsp;{n}" for n in counts) + " |" in card
    training = Contract.read(artifacts(original, "histocae-all") / "contract.json", "").training
    shown = [f"{training.quantile('error', level):.4g}" for level in (0.01, 0.05, 0.5, 0.95, 0.99)]
    assert "| error | " + " | ".join(f"&emsp;{number}" for number in shown) + " |" in card and len(card) <= 5000
    assert "histocae score SLIDE --model models:/histocae-all@champion" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    namespace: dict = {"patches": patches(2)}
    mlflow.set_tracking_uri(original.uri)
    exec(code, namespace)  # noqa: S102 (the code of the card)
    assert namespace["images"].shape == (2, 32, 32, 3)


def test_validation_errors_decide_the_champion_and_test_errors_do_not(project):
    before = aliases(project, "histocae-all")
    path = f"reports/models/{before['challenger']}/evaluation/metrics.json"
    project.change(path, test_mse=1e-9, all_test_mse=1e-9)
    project.make("register")
    assert aliases(project, "histocae-all") == before
    project.change(path, validation_mse=1e-9)
    project.make("register")
    assert aliases(project, "histocae-all") == {"champion": before["challenger"], "challenger": before["champion"]}
    version = project.client.get_model_version_by_alias("histocae-all", "champion")
    assert version.tags["validation_mse"] == "1e-09" and "0.00000" in version.description
    assert len(project.client.search_model_versions("name = 'histocae-all'")) == 2


def test_a_challenger_that_is_no_longer_in_params_loses_its_alias(project):
    challenger = aliases(project, "histocae-all")["challenger"]
    project.params(models={name: model for name, model in registered.MODELS.items() if name != challenger})
    output = project.run("register")
    assert output.code == 0 and any("histocae-all has no challenger any more" in line for line in output.lines)
    assert set(aliases(project, "histocae-all")) == {"champion"}
    assert set(project.json("models/registered.json")["histocae-all"]) == {"champion"}


def test_models_no_longer_in_params_lose_aliases_but_other_projects_keep_theirs(project):
    client = project.client
    other_run_id = client.create_run(client.create_experiment("another-project")).info.run_id
    version = client.create_model_version("histocae-normal", f"runs:/{other_run_id}/model", other_run_id).version
    client.set_registered_model_alias("histocae-normal", "champion", version)
    # registered by hand, without a run
    manual_version = client.create_model_version("histocae-tumor", "s3://bucket/model").version
    client.set_registered_model_alias("histocae-tumor", "challenger", manual_version)
    project.params(models={"all": registered.MODELS["all"]}, tissue__latents=None)
    project.compare(pair=None, reason="models has neither of them")
    output = project.run("register")
    assert output.code == 0 and any("histocae-pair has no champion any more" in line for line in output.lines)
    assert set(project.json("models/registered.json")) == {"histocae-all"}
    assert client.get_registered_model("histocae-pair").aliases == {}
    assert client.get_registered_model("histocae-tumor").aliases == {"challenger": manual_version}
    assert client.get_registered_model("histocae-normal").aliases == {"champion": version}


def test_a_linear_pair_is_not_registered(project):
    for name in ("tumor", "normal"):
        training = project.json(f"models/trained/{name}/training.json")
        training["model"]["architecture"] = "pca"
        (project.folder / f"models/trained/{name}/training.json").write_text(json.dumps(training))
        (project.folder / f"models/trained/{name}/SHA256SUMS").unlink()
    output = project.run("register")
    assert output.code == 0 and any("the pair is linear" in line for line in output.lines)
    assert set(project.json("models/registered.json")) == {"histocae-all"}


def test_the_pair_returns_the_scores_of_its_two_models(original):
    mlflow.set_tracking_uri(original.uri)
    served_pair = mlflow.pyfunc.load_model("models:/histocae-pair@champion")
    data = patches(70)  # more than a batch
    table = served_pair.predict(data)
    assert list(table.columns) == ["score", "error_tumor", "error_normal", "class"]
    scaled = data.astype(np.float32) / 255
    for name in ("tumor", "normal"):
        output = CAE(path=original.folder / "models/trained" / name, load=True).model.predict(scaled, verbose=0)
        np.testing.assert_allclose(table[f"error_{name}"], ((output - scaled) ** 2).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(table["score"], pair.score(table["error_tumor"], table["error_normal"]))
    assert table["class"].tolist() == np.where(table["score"] >= 0, TUMOR, NORMAL).tolist()
    pd.testing.assert_frame_equal(served_pair.predict(data.astype(np.int64)), table)
    pd.testing.assert_frame_equal(served_pair.predict(data.tolist()), table)
    assert served_pair.predict(data[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (patches(1) / 255, "got float64"),
        (patches(1).astype(np.float32), "got float32"),
        (patches(1) > 9, "got bool"),
        (patches(1).astype(str), "got <U"),
        (patches(1)[0], "got 32 x 32 x 3"),
        (patches(1)[..., :1], "got 1 x 32 x 32 x 1"),
        (patches(1)[:, :16], "got 1 x 16 x 32 x 3"),
        (patches(1).astype(int) + 255, "got numbers from 2"),
        (patches(1).astype(int) - 256, "got numbers from -2"),
        ([[1, 2], [3]], "lists of different lengths"),
        (pd.DataFrame({"a": [1]}), "got DataFrame"),
        ({"patches": patches(1)}, "got dict"),
    ],
)
def test_the_pair_refuses_data_other_than_patches_in_one_line(original, data, message):
    mlflow.set_tracking_uri(original.uri)
    served_pair = mlflow.pyfunc.load_model("models:/histocae-pair@champion")
    with pytest.raises(MlflowException, match=re.escape(message)) as error:
        served_pair.predict(data)
    assert "whole numbers from 0 to 255 (uint8), N x 32 x 32 x 3" in error.value.message
    assert error.value.get_http_status_code() == 400 and "\n" not in error.value.message


def artifacts(project, name: str) -> Path:
    """Return the folder artifacts/histocae of a registered model's champion."""
    mlflow.set_tracking_uri(project.uri)
    return Path(mlflow.artifacts.download_artifacts(f"models:/{name}@champion")) / "artifacts/histocae"


@pytest.mark.parametrize(("name", "kind"), [("histocae-all", "single"), ("histocae-pair", "pair")])
def test_a_registered_model_has_its_contract(original, name, kind):
    folder = artifacts(original, name)
    contract = Contract.read(folder / "contract.json", "")
    assert contract.version == 1 and contract.kind == kind and contract.source == "slides"
    names = ["tumor", "normal"] if kind == "pair" else [aliases(original, name)["champion"]]
    trainings = [original.json(f"models/trained/{each}/training.json") for each in names]
    assert contract.models == names
    assert contract.weights == [training["weights"] for training in trainings]
    assert contract.latent_features == [training["latent_features"] for training in trainings]
    settings = trainings[0]["params"]["patches"]
    patches = contract.patches.as_json()
    assert patches.pop("tissue_rule") == tissue.RULE
    assert patches.pop("quality") == OWN_QUALITY
    assert patches == {key: settings[key] for key in patches}
    assert contract.patches.pixels == 32 and contract.patches.color == "rgb"
    assert any("Not for diagnosis" in sentence for sentence in contract.caveats)
    assert not any("synthetic" in sentence for sentence in contract.caveats)
    assert any("Labels are per slide" in sentence for sentence in contract.caveats) == (kind == "pair")
    assert any("without their labels" in sentence for sentence in contract.caveats) == (kind == "single")
    if kind == "pair":
        assert contract.classes == [TUMOR, NORMAL]
        assert contract.levels.slide.as_json() == {"threshold": 0.0, "slope": 2.0, "intercept": -1.0}
        assert contract.score_text == "an invented one" and contract.findings == ["The pair was invented."]
        assert any(
            "mean intensity" in sentence and "not shown to do worse" in sentence for sentence in contract.caveats
        )
    else:
        assert contract.score is contract.levels is contract.classes is None and contract.findings == []
    description = mlflow.models.get_model_info(f"models:/{name}@champion").metadata["histocae"]
    assert description["patches"] == contract.patches.as_json()
    assert description["kind"] == kind and description["version"] == 1
    listed = {Path(line.split("  ")[1]) for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()} - {Path("SHA256SUMS")}
    assert set(checksums.compare(folder, "").values()) == {None}


def test_the_contract_describes_the_training_patches(original):
    name = aliases(original, "histocae-all")["champion"]
    training = Contract.read(artifacts(original, "histocae-all") / "contract.json", "").training
    rows = pd.read_csv(original.folder / "data/splits/train.csv", sep="|", dtype={"shard": str})
    data = PatchStore(original.folder / "data/patches").select(rows).take(np.arange(len(rows)))
    scaled = data.astype(np.float32) / 255
    output = CAE(path=original.folder / "models/trained" / name, load=True).model.predict(scaled, verbose=0)
    errors = ((output - scaled) ** 2).mean((1, 2, 3))
    assert training.patches == len(rows)
    np.testing.assert_allclose(training.quantiles["error"], np.quantile(errors, training.levels), rtol=1e-4)
    distances = training.color_distances(data)
    np.testing.assert_allclose(training.quantiles["color"], np.quantile(distances, training.levels))
    assert training.color_distances(np.zeros_like(data[:1])) > training.quantile("color", 1)


NETWORKS = """
import sys
sys.modules["keras"] = sys.modules["histocae"] = None  # neither can be imported
import numpy as np, tensorflow as tf
networks = tf.saved_model.load(sys.argv[1])
patches = np.load(sys.argv[2])
results = networks.differences(patches)
latents = networks.latents(patches) if hasattr(networks, "latents") else []
np.savez(sys.argv[3], *(each.numpy() for each in (*results, *latents)))
"""


@pytest.mark.parametrize("name", ["histocae-all", "histocae-pair"])
def test_the_networks_need_nothing_but_tensorflow(original, serving_options, name, tmp_path):
    folder = artifacts(original, name)
    contract, data = Contract.read(folder / "contract.json", ""), patches(5)
    np.save(tmp_path / "patches.npy", data)
    paths = [str(folder / "networks"), str(tmp_path / "patches.npy"), str(tmp_path / "results.npz")]
    subprocess.run([sys.executable, "-c", NETWORKS, *paths], check=True, **serving_options)
    results = list(np.load(paths[2]).values())
    scaled, count = data.astype(np.float32) / 255, len(contract.models)
    caes = [CAE(path=original.folder / "models/trained" / model, load=True) for model in contract.models]
    for cae, residual, mse in zip(caes, results[:count], results[count : 2 * count], strict=True):
        expected = scaled - cae.model.predict(scaled, verbose=0)
        np.testing.assert_allclose(residual, expected, atol=1e-5)
        np.testing.assert_allclose(mse, np.square(expected).mean((1, 2, 3)), atol=1e-6)
    with_latents = [cae for cae in caes if cae.params["latent_features"] is not None]
    assert [cae in with_latents for cae in caes] == [number is not None for number in contract.latent_features]
    for cae, latents in zip(with_latents, results[2 * count :], strict=True):
        np.testing.assert_allclose(latents, cae.encoder.predict(scaled, verbose=0), atol=1e-5)


def test_a_single_model_returns_reconstructions(original):
    name = aliases(original, "histocae-all")["champion"]
    served = mlflow.pyfunc.load_model("models:/histocae-all@champion")
    data = patches(70)  # more than a batch
    expected = CAE(path=original.folder / "models/trained" / name, load=True).model.predict(data / 255, verbose=0)
    images = served.predict(data)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_array_equal(served.predict(data.tolist()), images)
    assert served.predict(data[:0]).shape == (0, 32, 32, 3)
    assert served.metadata.signature.outputs.inputs[0].shape == (-1, 32, 32, 3)
    with pytest.raises(MlflowException, match="got float64"):
        served.predict(data / 255)


def recolor(project, to: str) -> None:
    """Have the records of trainings say that the patches had another color, and register the models again."""
    for name in registered.MODELS:
        folder = project.folder / "models/trained" / name
        training = project.json(f"models/trained/{name}/training.json")
        training["params"]["patches"]["color"] = to
        (folder / "training.json").write_text(json.dumps(training))
        (folder / "SHA256SUMS").unlink()
    project.make("register")


def test_a_model_of_gray_patches_converts_them_itself(project):
    former = mlflow.pyfunc.load_model("models:/histocae-pair/1")
    recolor(project, "grey")
    data = patches(3)
    gray = convert(data, "grey")
    served = mlflow.pyfunc.load_model("models:/histocae-pair@champion")
    pd.testing.assert_frame_equal(served.predict(data), former.predict(gray))
    pd.testing.assert_frame_equal(served.predict(gray), former.predict(gray))
    assert not served.predict(data)["error_tumor"].equals(former.predict(data)["error_tumor"])
    single = mlflow.pyfunc.load_model("models:/histocae-all@champion")
    np.testing.assert_array_equal(single.predict(data), single.predict(gray))
    assert (
        mlflow.models.get_model_info("models:/histocae-pair@champion").metadata["histocae"]["patches"]["color"]
        == "grey"
    )
    card = project.client.get_model_version_by_alias("histocae-pair", "champion").description
    assert "The model converts patches to gray itself." in card
    with pytest.raises(MlflowException, match="stains are of no use to this model"):
        served.predict({"patches": data, "stains": np.eye(3)})


STAINS = [[0.9, 0.1, 0.05], [0.0, 1.1, 0.02], [-0.1, 0.2, 0.7]]
STAINS_LACK = "stains belong to a whole slide"
STAINS_WRONG = "expected stains to be 3 x 3 finite numbers"


def test_a_model_of_normalized_stains_takes_the_stains_of_a_slide(project, serving_options, tmp_path):
    former = mlflow.pyfunc.load_model("models:/histocae-pair/1")
    recolor(project, "macenko")
    data = patches(3)
    normalized = convert(data, "macenko", np.array(STAINS))
    served = mlflow.pyfunc.load_model("models:/histocae-pair@champion")
    for stains in (STAINS, np.array(STAINS)):
        pd.testing.assert_frame_equal(served.predict({"patches": data, "stains": stains}), former.predict(normalized))
    single = mlflow.pyfunc.load_model("models:/histocae-all@champion")
    assert single.predict({"patches": data, "stains": STAINS}).shape == (3, 32, 32, 3)
    extreme = {"patches": data, "stains": (np.ones((3, 3)) * -1e6).tolist()}
    assert np.isfinite(served.predict(extreme)["score"]).all()
    for request, message in (
        (data, STAINS_LACK),
        (data.tolist(), STAINS_LACK),
        ({"patches": data}, STAINS_LACK),
        ({"stains": STAINS}, STAINS_LACK),
        ({"patches": data, "stains": STAINS, "more": 1}, STAINS_LACK),
        ({"patches": data, "stains": STAINS[:2]}, STAINS_WRONG),
        ({"patches": data, "stains": [[1.0], [2.0, 3.0]]}, STAINS_WRONG),
        ({"patches": data, "stains": None}, STAINS_WRONG),
        ({"patches": data, "stains": [[np.nan] * 3] * 3}, STAINS_WRONG),
        ({"patches": data, "stains": [[1e300] * 3] * 3}, STAINS_WRONG),
        ({"patches": data, "stains": [["1"] * 3] * 3}, STAINS_WRONG),
        ({"patches": data, "stains": [[-(2**63)] * 3] * 3}, STAINS_WRONG),
        ({"patches": data / 255, "stains": STAINS}, "got float64"),
    ):
        with pytest.raises(MlflowException, match=re.escape(message)) as error:
            served.predict(request)
        assert error.value.get_http_status_code() == 400 and "\n" not in error.value.message
    card = project.client.get_model_version_by_alias("histocae-pair", "champion").description
    assert 'model.predict({"patches": patches, "stains": stains})' in card
    # the same from another process, as JSON
    (tmp_path / "input.json").write_text(json.dumps({"inputs": {"patches": data.tolist(), "stains": STAINS}}))
    options = serving_options | {"env": serving_options["env"] | {"MLFLOW_TRACKING_URI": project.uri}}
    model = ["-m", "models:/histocae-pair@champion", "--env-manager", "local"]
    files = ["-i", tmp_path / "input.json", "-o", tmp_path / "output.json"]
    subprocess.run(["mlflow", "models", "predict", *model, *files], check=True, capture_output=True, **options)
    table = pd.DataFrame(json.loads((tmp_path / "output.json").read_text())["predictions"])
    pd.testing.assert_frame_equal(table, former.predict(normalized), rtol=1e-5)


def test_models_registered_without_a_contract_get_new_versions_once(project):
    """Earlier versions of this package registered the weights alone."""
    for model in project.client.search_logged_models([project.experiment]):
        project.client.set_logged_model_tags(model.model_id, {"weights": "a fingerprint of the weights alone"})
    names = ("histocae-all", "histocae-pair", "histocae-tumor", "histocae-normal")
    before = {name: len(project.client.search_model_versions(f"name = '{name}'")) for name in names}
    project.make("register")
    after = {name: len(project.client.search_model_versions(f"name = '{name}'")) for name in names}
    assert after == {name: 2 * count for name, count in before.items()}
    champion = project.client.get_model_version_by_alias("histocae-pair", "champion")
    assert int(champion.version) == 2
    contents = server_contents(project)
    project.make("register")
    assert server_contents(project) == contents


def test_other_code_of_served_models_makes_new_versions(project, tmp_path, monkeypatch):
    def versions() -> list[int]:
        project.make("register")
        found = project.client.search_model_versions("name = 'histocae-pair'")
        return sorted(int(version.version) for version in found)

    def changed(file: str) -> Path:
        path = tmp_path / Path(file).name
        path.write_text(f"{Path(file).read_text()}# corrected\n")
        return path

    assert versions() == [1]
    monkeypatch.setattr(python_models, "SERVED", changed(python_models.SERVED))
    assert versions() == versions() == [1, 2]
    module = SimpleNamespace(__file__=str(changed(scales.__file__)))
    monkeypatch.setitem(python_models.COPIES, "histocae_scales.py", module)
    assert versions() == versions() == [1, 2, 3]
    folder = Path(mlflow.artifacts.download_artifacts("models:/histocae-pair@champion"))
    assert (folder / "served_model.py").read_text().endswith("# corrected\n")
    assert (folder / "code/histocae_scales.py").read_text().endswith("# corrected\n")


def test_contracts_name_the_rules_with_which_the_patches_were_extracted(project, monkeypatch):
    """Not those of the package: a later one may find tissue or faults otherwise."""
    files = [f"reports/models/{name}/evaluation/distribution.json" for name in registered.MODELS]
    files.append("reports/tissue/score.json")
    for file in (*files, "reports/patching/summary.json"):
        content = project.json(file)
        assert (content["tissue_rule"], content["quality"]["rule"]) == (tissue.RULE, quality.RULE)

    def rules(tissue_rule: str | None, quality_rule: str | None) -> set[tuple[str, str | None]]:
        for file in files:
            content = project.json(file)
            of_quality = None if quality_rule is None else OWN_QUALITY | {"rule": quality_rule}
            content |= {"tissue_rule": tissue_rule, "quality": of_quality}
            (project.folder / file).write_text(json.dumps(content))
        project.make("register")
        of_project = contracts.read_trained(Path("models/trained/all"))
        registry = [Contract.read(artifacts(project, f"histocae-{name}") / "contract.json", "") for name in NAMES]
        settings = [contract.patches for contract in (of_project, *registry)]
        return {(each.tissue_rule, each.quality.rule if each.quality else None) for each in settings}

    assert rules("another", "third") == {("another", "third")}
    monkeypatch.setattr(tissue, "RULE", "later")
    monkeypatch.setattr(quality, "RULE", "later")
    assert rules(None, None) == {("chroma-1", None)}  # the only one of versions that did not state it


def test_contracts_follow_a_change_of_quality_that_changes_no_patch(project):
    """Models are not trained again for it: the evaluation reads what became of flagged patches."""
    project.params(**registered.PARAMS | {"quality__pen": None, "quality__fold": 9.0})
    project.make("patches", *(f"evaluate {name}" for name in registered.MODELS))
    project.compare()
    project.make("register")
    expected = OWN_QUALITY | {"thresholds": quality.THRESHOLDS | {"fold": 9.0}, "left_out": ["fold"]}
    for name in NAMES:
        contract = Contract.read(artifacts(project, f"histocae-{name}") / "contract.json", "")
        assert contract.patches.quality.as_json() == expected


def test_contracts_have_no_quality_where_an_earlier_version_measured_none(project):
    evaluation = project.folder / "reports/models/all/evaluation/distribution.json"
    content = project.json("reports/models/all/evaluation/distribution.json")
    evaluation.write_text(json.dumps({key: value for key, value in content.items() if key != "quality"}))
    assert contracts.read_trained(Path("models/trained/all")).patches.quality is None


def test_models_whose_training_data_are_not_measured_are_not_registered(project):
    """Earlier versions of this package evaluated models without that."""
    distribution = project.folder / "reports/models/other/evaluation/distribution.json"
    distribution.unlink()
    line = "models/trained/other: not evaluated, so the contract's statistics of its training patches are missing"
    remedy = "run dvc repro evaluate@other"
    assert f"{line}; {remedy}" in project.run("register").error
    output = project.run("publish")
    assert output.code == 0 and any("the registry stays as it is" in entry for entry in output.lines)
    distribution.write_text("{")
    assert remedy in project.run("register").error


def test_the_contract_of_a_trained_model_is_read_from_any_folder(original, tmp_path, monkeypatch):
    name = aliases(original, "histocae-all")["champion"]
    expected = Contract.read(artifacts(original, "histocae-all") / "contract.json", "")
    assert contracts.read_trained(Path("models/trained") / name) == expected
    monkeypatch.chdir(tmp_path)
    assert contracts.read_trained(original.folder / "models/trained" / name) == expected
    with pytest.raises(TrackingError, match=r"training\.json: no such file"):
        contracts.read_trained(tmp_path / "models/trained/all")


def test_a_trained_model_that_is_not_evaluated_has_no_contract(project):
    (project.folder / "reports/models/all/evaluation/distribution.json").unlink()
    message = (
        "models/trained/all: not evaluated, so the contract's statistics of its training patches are missing; "
        "run dvc repro evaluate@all"
    )
    with pytest.raises(TrackingError, match=re.escape(message)):
        contracts.read_trained(Path("models/trained/all"))


def test_the_pair_has_its_own_run_with_the_results(original):
    (run,) = original.client.search_runs([original.experiment], "attributes.run_name = 'pair'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["auroc_slide"] == 0.75 and run.data.metrics["auroc_slide_low"] == 0.25
    assert run.data.metrics["accuracy_slide"] == 0.75 and run.data.metrics["mse_tumor_data_normal_model"] == 0.01
    assert run.data.metrics["baseline/mean_intensity_auroc_slide"] == 0.75
    for name in ("tumor", "normal"):
        assert run.data.tags[f"{name}.run_id"] == original.json(f"models/runs/{name}.json")["run_id"]
    assert [file.path for file in original.client.list_artifacts(run.info.run_id, "tissue")] == [
        "tissue/metrics.json",
        "tissue/score.json",
    ]
    card = original.client.get_model_version_by_alias("histocae-pair", "champion").description
    assert "## Other slides" in card and "histocae score SLIDE --model models:/histocae-pair@champion" in card
    assert "color rgb. Patches under ink are left out." in card
    assert "Thresholds, fixed on validation cases: 0.0000 per patch, 0.0000 per slide, 0.0000 per case." in card
    assert all(f"| {name} | &emsp;" in card for name in ("error_min", "score", "color")) and len(card) <= 5000
    assert "0.750 (0.250 to 0.875)" in card and "- The interval per slide includes chance." in card


def test_the_pair_returns_the_score_of_errors_by_scale(project):
    data, residuals = patches(70), []
    for name in ("tumor", "normal"):
        scaled = data.astype(np.float32) / 255
        cae = CAE(path=project.folder / "models/trained" / name, load=True)
        residuals.append(scaled - cae.model.predict(scaled, verbose=0))
    features = np.hstack([scales.errors(each) for each in residuals])
    rng = np.random.default_rng(1)
    linear = pair.Linear(features.mean(0), features.std(0) + 0.1, rng.normal(size=features.shape[1]), 0.25)
    project.compare(linear=linear, threshold=0.5)
    project.make("register")
    mlflow.set_tracking_uri(project.uri)
    table = mlflow.pyfunc.load_model("models:/histocae-pair@champion").predict(data)
    np.testing.assert_allclose(table["score"], linear.score(features), rtol=1e-3, atol=1e-3)
    assert table["score"].std() > 0.1
    assert table["class"].tolist() == np.where(table["score"] >= 0.5, TUMOR, NORMAL).tolist()


def test_a_changed_threshold_makes_a_new_version_with_other_classes(project):
    project.compare(threshold=1e9)
    project.make("register")
    versions = project.client.search_model_versions("name = 'histocae-pair'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    mlflow.set_tracking_uri(project.uri)
    former, current = (mlflow.pyfunc.load_model(f"models:/histocae-pair/{i}").predict(patches(9)) for i in (1, 2))
    assert int(project.client.get_model_version_by_alias("histocae-pair", "champion").version) == 2
    pd.testing.assert_frame_equal(former.drop(columns="class"), current.drop(columns="class"))
    assert set(current["class"]) == {NORMAL}


def test_without_a_pair_in_params_no_pair_is_registered(project):
    project.compare(pair=None, reason="models has neither of them")
    output = project.run("register")
    assert output.code == 0 and any("no pair to deliver: models has neither" in line for line in output.lines)
    assert set(project.json("models/registered.json")) == {"histocae-all", "histocae-tumor", "histocae-normal"}
    (project.folder / "reports/tissue/metrics.json").unlink()
    output = project.run("publish")
    assert output.code == 0 and any("metrics.json: not there; no pair to deliver" in line for line in output.lines)


def test_a_comparison_of_other_models_is_refused(project):
    weights = project.json("reports/tissue/metrics.json")["weights"]
    project.compare(weights=weights | {"normal": "other weights"})
    assert "reports/tissue/metrics.json is of another normal; run dvc repro tissue" in project.run("register").error


def server_contents(project, uri: str | None = None) -> list:
    """Collect a project's runs with points, files and times, its models and their versions from a server."""
    client = mlflow.MlflowClient(uri or project.uri)
    experiment = client.get_experiment_by_name("histocae")
    entries = [experiment.tags]
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"]):
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        files = [
            file.path
            for folder in ("", "images", "tissue", "evaluation")
            for file in client.list_artifacts(run.info.run_id, folder)
        ]
        series = {key: [dict(point) for point in history] for key, history in points.items()}
        entries.append((run.to_dictionary(), series, files))
    entries += [model.to_dictionary() for model in client.search_logged_models([experiment.experiment_id])]
    entries += sorted((dict(version) for version in client.search_model_versions()), key=str)
    return entries + sorted((dict(model) for model in client.search_registered_models()), key=str)


def test_register_and_publish_again_change_nothing(original):
    before, files = server_contents(original), original.outputs("models/registered.json")
    original.make("register", "publish")
    assert server_contents(original) == before
    assert original.outputs("models/registered.json") == files


def test_publish_fills_an_empty_server_with_trainings_and_the_pair(project, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    project.params(models={name: registered.MODELS[name] for name in ("tumor", "normal")}, tissue__latents=None)
    output = project.run("publish")
    assert output.code == 0 and any("3 runs are complete in experiment histocae" in line for line in output.lines)
    before = server_contents(project, uri)
    project.make("publish")
    assert server_contents(project, uri) == before
    client = mlflow.MlflowClient(uri)
    experiment_id = client.get_experiment_by_name("histocae").experiment_id
    (run,) = client.search_runs([experiment_id], "attributes.run_name = 'pair'")
    assert run.data.metrics["auroc_slide"] == 0.75
    assert len(client.search_logged_models([experiment_id])) == 3
    # the stage register had run, so that the registry is there again too
    assert {model.name for model in client.search_registered_models()} == {
        "histocae-tumor",
        "histocae-normal",
        "histocae-pair",
    }
    assert client.get_model_version_by_alias("histocae-pair", "champion").run_id == run.info.run_id


@pytest.mark.long
def test_publish_fills_an_empty_server_that_requires_a_password(project, tmp_path, monkeypatch):
    with services.tracking_with_users(tmp_path / "server") as (address, password):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert "tracking server: " in project.run("publish").error and "401" in project.run("publish").error
        (tmp_path / ".mlflow").mkdir()
        (tmp_path / ".mlflow/credentials").write_text(
            f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {password}\n"
        )
        count = len(registered.MODELS) + 1
        output = project.run("publish")
        assert any(f"{count} runs are complete in experiment histocae" in line for line in output.lines), output.lines
        client = mlflow.MlflowClient(address)
        experiment = client.get_experiment_by_name("histocae")
        # artifacts go through the server, so that only it needs the keys of its storage
        assert experiment.artifact_location.startswith("mlflow-artifacts:")
        delivered_runs = client.search_runs([experiment.experiment_id])
        assert len(delivered_runs) == count and {run.info.status for run in delivered_runs} == {"FINISHED"}
        (run,) = (run for run in delivered_runs if run.info.run_name == "all")
        files = {file.path for file in client.list_artifacts(run.info.run_id, "cae")}
        assert {"cae/encoder.weights.h5", "cae/decoder.weights.h5"} <= files
        project.make("register")
        assert client.get_model_version_by_alias("histocae-pair", "champion").tags["cohort"] == "pair"


def test_metrics_of_latents_are_delivered_when_first_written_and_when_changed(project):
    run_id = project.json("models/runs/all.json")["run_id"]
    weights = project.json("models/trained/all/training.json")["weights"]
    folder = project.folder / "reports/models/all/latent"
    folder.mkdir()
    for value in (0.625, 0.875):
        metrics = {"latent_auroc_patch": value, "pixel_auroc_patch": 0.5}
        (folder / "metrics.json").write_text(json.dumps({"weights": weights, "metrics": metrics}))
        project.make("register")
        assert project.client.get_run(run_id).data.metrics["latent_auroc_patch"] == value
        versions = project.client.search_model_versions("name = 'histocae-all'")
        (version,) = (version for version in versions if version.tags["model"] == "all")
        assert version.tags["latent_auroc_patch"] == str(value)
        assert f"| auroc_patch | &emsp;{value} | &emsp;0.5 |" in version.description
    assert "latent/metrics.json" in {file.path for file in project.client.list_artifacts(run_id, "latent")}


def test_each_training_has_the_numbers_of_every_chart_of_the_saved_view(original):
    view = json.loads(original.client.get_experiment(original.experiment).tags["mlflow.sharedViewState.histocae"])
    state = json.loads(view["state"])
    sections = {section["uuid"] for section in state["compareRunSections"]}
    for run in original.client.search_runs([original.experiment], "attributes.run_name != 'pair'"):
        images = {
            re.match(r"images/(\w+)\+step", file.path).group(1)
            for file in original.client.list_artifacts(run.info.run_id, "images")
        }
        for chart in state["compareRunCharts"]:
            assert chart["metricSectionId"] in sections
            metrics = {chart[key] for key in ("metricKey",) if key in chart} | set(chart.get("selectedMetrics", ()))
            metrics |= {chart[axis]["key"] for axis in ("xaxis", "yaxis") if axis in chart}
            assert metrics <= set(run.data.metrics), run.info.run_name
            assert set(chart.get("selectedParams", ())) <= set(run.data.params)
            assert set(chart.get("imageKeys", ())) <= images
        for column in state["selectedColumns"]:
            kind, key = re.fullmatch(r"(\w+)\.`(.+)`", column).groups()
            assert kind == "attributes" or key in getattr(run.data, kind)


def invoke(port: int, body: object, kind: str = "application/json") -> tuple[int, dict]:
    """Send a request to a model's server; return the status and the response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"http://127.0.0.1:{port}/invocations"
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def serving_options(original, tmp_path_factory):
    """Folder and environment of a process that serves a model and can't import this package."""
    folder = tmp_path_factory.mktemp("serving")
    (folder / "shadow").mkdir()
    (folder / "shadow/histocae.py").write_text("raise ImportError('the model must not import histocae')")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTHON"))}
    env |= {"MLFLOW_TRACKING_URI": original.uri, "PYTHONPATH": str(folder / "shadow")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return {"cwd": folder, "env": env}


def test_a_real_server_scores_patches_and_answers_other_requests_with_status_400(original, serving_options, tmp_path):
    data = patches(2).tolist()
    (tmp_path / "input.json").write_text(json.dumps({"inputs": data}))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    model = ["-m", "models:/histocae-pair@champion", "--env-manager", "local"]
    log = (tmp_path / "server.log").open("w+")
    server = subprocess.Popen(
        ["mlflow", "models", "serve", *model, "--port", str(port)],
        stdout=log,
        stderr=log,
        start_new_session=True,
        **serving_options,
    )
    try:
        # `mlflow models predict` computes the same scores while the server starts
        predicted = subprocess.run(
            ["mlflow", "models", "predict", *model, "-i", tmp_path / "input.json", "-o", tmp_path / "output.json"],
            capture_output=True,
            text=True,
            **serving_options,
        )
        assert predicted.returncode == 0, predicted.stderr
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.seek(0) or log.read()
            time.sleep(0.1)
        mlflow.set_tracking_uri(original.uri)
        expected = mlflow.pyfunc.load_model("models:/histocae-pair@champion").predict(patches(2))
        for key in ("inputs", "instances"):
            status, response = invoke(port, {key: data})
            table = pd.DataFrame(response["predictions"])
            assert status == 200
            pd.testing.assert_frame_equal(table, expected, rtol=1e-5)
        assert json.loads((tmp_path / "output.json").read_text()) == response
        fractions, incomplete, with_text = (patches(2) / 255).tolist(), patches(2).tolist(), patches(2).tolist()
        incomplete[0] = incomplete[0][:3]
        with_text[0][0][0][0] = "a lot"
        expected_form = "expected whole numbers from 0 to 255 (uint8), N x 32 x 32 x 3; got "
        for body, message in (
            ({"inputs": fractions}, f"{expected_form}float64"),
            ({"instances": fractions}, f"{expected_form}float64"),
            ({"inputs": (patches(2) + 0.0).tolist()}, f"{expected_form}float64"),
            ({"inputs": (patches(2).astype(int) * 2).tolist()}, f"{expected_form}numbers from "),
            ({"inputs": patches(2)[..., :1].tolist()}, f"{expected_form}2 x 32 x 32 x 1"),
            ({"inputs": patches(2)[:, :16].tolist()}, f"{expected_form}2 x 16 x 32 x 3"),
            ({"inputs": data[0]}, f"{expected_form}32 x 32 x 3"),
            ({"inputs": with_text}, f"{expected_form}<U"),
            ({"inputs": []}, f"{expected_form}0"),
            ({"inputs": None}, f"{expected_form}a single value"),
            ({"inputs": incomplete}, "inhomogeneous shape"),
            ({"inputs": {"patches": data}}, "got dict"),
            ({"dataframe_split": {"columns": ["a"], "data": [[1]]}}, "got DataFrame"),
            ({"patches": data}, "exactly one of the input fields"),
            (b"no JSON", "valid JSON"),
        ):
            status, response = invoke(port, body)
            assert status == 400, (message, response)
            assert message in response["message"] and "Traceback" not in response["message"], response
        assert invoke(port, b"a,b\n1,2", "text/csv")[0] == 400
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def test_a_server_that_hangs_does_not_delay_a_training(monkeypatch, caplog):
    monkeypatch.setattr(live, "SERVER_SECONDS", 1)
    former = mlflow.get_tracking_uri()
    with socket.create_server(("127.0.0.1", 0)) as silent_server:  # it accepts connections and never responds
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_server.getsockname()[1]}")
        start = time.perf_counter()
        live_run = live.LiveRun("any", "all", training_id="id", start=0, tags={}, params={"a": 1})
        for epoch in range(1, 6):
            live_run.epoch({"epoch": epoch, "loss": 1.0, "validation_loss": 1.0}, epoch)
        assert time.perf_counter() - start < 0.5
        live_run.stop("FAILED")
        assert time.perf_counter() - start < 3
    mlflow.set_tracking_uri(former)
    assert live_run.run_id is None
    messages = [entry.message for entry in caplog.records if entry.name == live.__name__]
    assert len(messages) == 1 and "the training continues" in messages[0]


class Stub:
    """The API of a server that can't be reached in one call."""

    def __init__(self):
        self.calls, self.unreachable = [], True

    def log(self, name):
        def call(*_, **__):
            if name == "log_metrics" and self.unreachable:
                self.unreachable = False
                raise MlflowException("unreachable")
            self.calls.append(name)
            return None

        return call


def test_a_killed_run_is_ended_although_the_server_was_unreachable_before(monkeypatch):
    stub = Stub()
    run = SimpleNamespace(info=SimpleNamespace(run_id="1"))
    api = SimpleNamespace(set_terminated=lambda _, status: stub.calls.append(status))
    monkeypatch.setattr(live, "_load_delivery", lambda: None)
    monkeypatch.setattr(tracking_server, "client", lambda: api)
    monkeypatch.setattr(tracking_server, "experiment", lambda *_: "0")
    monkeypatch.setattr(runs, "find", lambda *_: None)
    monkeypatch.setattr(runs, "create", lambda *_, **__: run)
    monkeypatch.setattr(runs, "log_params", stub.log("log_params"))
    monkeypatch.setattr(runs, "log_metrics", stub.log("log_metrics"))
    monkeypatch.setattr(live.LiveRun, "_last_sample", lambda _: stub.calls.append("last sample"))
    monkeypatch.setattr("mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor.start", lambda _: None)
    live_run = live.LiveRun("e", "n", training_id="t", start=0, tags={}, params={})
    for epoch in (1, 2):
        live_run.epoch({"epoch": epoch, "loss": 1.0, "validation_loss": 1.0}, 0)
    deadline = time.monotonic() + 10
    while "log_metrics" not in stub.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    live_run.stop("KILLED")
    assert stub.calls == ["log_params", "log_metrics", "last sample", "KILLED"]
