"""Stages with a perceptual loss: the network in records, which changes retrain, and which files are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histocae import params_file, paths
from histocae.errors import DataError
from histocae.files import sha256
from histocae.networks import perceptual
from histocae.networks.cae import CAE
from histocae.patches.store import PatchStore
from histocae.pipeline import watch
from histocae.tracking import cards
from histocae.tracking.record import TrainingRecord
from histocae.training import recipe
from support import registered, small_network
from support.registered import Registered
from support.small_network import LAYERS
from support.workspace import ALL_STAGES

FILE = "networks/small.keras"
LOSS = {"loss": "perceptual", "perceptual": {"network": FILE, "layers": LAYERS, "weight": 0.5}}
MODELS = {
    "all": {"filters": [4], "latent_features": 8, **LOSS},
    "tumor": {"cohort": "tumor", "filters": [2], **LOSS},
    "normal": {"cohort": "normal", "filters": [2], **LOSS},
}
KEY = "models.all.perceptual"


def set_params(project: Registered, models: dict = MODELS, **changes: object) -> None:
    small = {
        "patches.max_per_slide": 6,
        "training.epochs": 3,
        "training.picture_every": 3,
        "tissue.latents": None,
        "tissue.bootstrap": 100,
        "tissue.permutations": 100,
    }
    project.params(models=models, **small | changes)


def other_settings(**changes: object) -> dict:
    """Return the models, with other settings of the loss of all of them."""
    return {name: model | {"perceptual": LOSS["perceptual"] | changes} for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Registered:
    """A project up to its split, and a network."""
    with pytest.MonkeyPatch.context() as patch:
        project = Registered(tmp_path_factory.mktemp("perceptual") / "project")
        registered.enter(project, patch)
        patch.setattr("histocae.workers.processes._pool", lambda workers: registered.ThreadPoolExecutor(1))
        project.slides(*(f"s{i}" for i in range(12)))
        small_network.save(project.folder / FILE)
        set_params(project)
        return project.make(*ALL_STAGES)


@pytest.fixture
def project(split, tmp_path, monkeypatch, in_process) -> Registered:
    return registered.copy(split, tmp_path / "copy", monkeypatch)


def lineage(name: str) -> dict:
    return json.loads((paths.LINEAGE / f"{name}.json").read_text())[name]["perceptual"]


def made_from(name: str) -> str:
    loaded = params_file.load(Path("params.yaml"))
    store = PatchStore(paths.PATCHES)
    return recipe.describe(loaded, name, store, paths.SPLITS, paths.TRAINED)["made_from"]


def test_a_training_reduces_the_loss_and_records_the_network(project):
    digest = sha256(Path(FILE))
    assert lineage("all") == LOSS["perceptual"] | {"sha256": digest}
    project.make("train all", "evaluate all")
    losses = pd.read_csv("models/trained/all/history.csv", sep="|")["validation_loss"]
    assert losses.iloc[-1] < 0.95 * losses.iloc[0]
    record = TrainingRecord("all")
    for model in (record.training["model"], record.training["params"]["model"]):
        assert model["loss"] == "perceptual" and model["perceptual"] == LOSS["perceptual"] | {"sha256": digest}
    # the loss is more than the error of pixels that is reported
    assert {"test_mse", "test_psnr", "test_ssim"} <= record.metrics.keys()
    assert record.training["validation_loss"] > 1.2 * record.metrics["validation_mse"]
    card = cards.of_model(record, "histocae-all", [record], [])
    assert f"+ 0.5 × distance of the features of edges, parts of small.keras, SHA-256 {digest}" in card
    run = project.client.search_runs([project.experiment])[0]
    assert run.data.params["model.perceptual.sha256"] == digest
    # nobody needs the file to use the model
    Path(FILE).unlink()
    project.make("inventory", "evaluate all")
    assert lineage("all")["sha256"] == digest
    assert {path.name for path in record.folder.glob("*.h5")} == {"encoder.weights.h5", "decoder.weights.h5"}
    assert CAE(path=record.folder, load=True).model.count_params() == record.training["parameters"]


def test_another_network_or_weight_is_another_training(project, monkeypatch):
    before, fingerprint = lineage("tumor"), made_from("tumor")
    small_network.save(Path(FILE), seed=1)
    project.make("inventory")
    assert lineage("tumor") == before | {"sha256": sha256(Path(FILE))} != before
    changed = made_from("tumor")
    assert changed != fingerprint
    set_params(project, other_settings(weight=0.25))
    assert made_from("tumor") not in (changed, fingerprint)
    set_params(project, other_settings(layers=LAYERS[:1]))
    assert made_from("tumor") not in (changed, fingerprint)


def test_a_checkpoint_of_another_network_is_not_resumed(project, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("histocae.tracking.trainings.shutil.copytree", killed)
        assert project.run("train all").code
    assert (paths.MAIN.checkpoints / "all" / "state.json").exists()
    checkpoint = shutil.copytree(paths.MAIN.checkpoints / "all", "kept")
    assert any("resuming after epoch 3" in line for line in project.run("train all").lines)
    shutil.copytree(checkpoint, paths.MAIN.checkpoints / "all")
    small_network.save(Path(FILE), seed=1)
    result = project.run("train all")
    assert result.code == 0 and not any("resuming" in line for line in result.lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Path(FILE).unlink(), f"{KEY}.network: {FILE}: no such file; put the file there, or correct the key"),
        (lambda: Path(FILE).write_bytes(b"no zip"), f"{KEY}.network: {FILE}: no Keras model file (.keras); save"),
        (
            lambda: small_network.save(Path(FILE), side=64),
            f"{KEY}.network: {FILE}: takes images of 64 x 64 x 3, but ",
        ),
        ({"layers": ["block1"]}, f"{KEY}.layers: {FILE} has no layer 'block1'; it has images; rescale; edges"),
        ({"network": "networks"}, "params.yaml: models.all.perceptual.network: expected a file of Keras, NAME.keras"),
        ({"network": "networks/no.keras"}, f"{KEY}.network: networks/no.keras: no such file; "),
        ({"network": "own.keras"}, f"{KEY}.network: own.keras: can't be read: Is a directory; "),
    ],
)
def test_a_wrong_file_is_reported_before_anything_is_written(project, change, message):
    Path("own.keras").mkdir()
    if callable(change):
        change()
    else:
        set_params(project, other_settings(**change))
    before = project.outputs()
    assert message in project.run("train all").error
    assert project.outputs() == before and not project.leftovers()


def test_the_inventory_reports_a_missing_network_and_notices_a_changed_one(project, monkeypatch):
    monkeypatch.setattr(watch, "SETTLED_SECONDS", -3600)
    project.make("inventory")
    assert "nothing changed" in project.run("inventory").lines[-1]
    small_network.save(Path(FILE), seed=1)
    project.make("inventory")
    assert lineage("all")["sha256"] == sha256(Path(FILE))
    # recorded, so that a trained model that was pulled needs no file; the next inventory looks for it again
    Path(FILE).unlink()
    before = project.outputs()
    project.make("inventory")
    assert project.outputs() == before
    small_network.save(Path(FILE), seed=2)
    project.make("inventory")
    assert lineage("all")["sha256"] == sha256(Path(FILE))
    before = project.outputs()
    set_params(project, other_settings(network="networks/other.keras"))
    assert f"{KEY}.network: networks/other.keras: no such file; put" in project.run("inventory").error
    assert project.outputs("models") == {name: data for name, data in before.items() if name.startswith("models")}


@pytest.mark.parametrize("stage", ["train all", "crossvalidate"])
def test_a_network_that_changed_after_the_inventory_is_refused(project, monkeypatch, stage):
    """Otherwise DVC would cache a model of the other network under the hash of the recorded one."""
    set_params(project, **{"crossvalidation.folds": 3})
    project.make("inventory")
    monkeypatch.setenv("DVC_STAGE", stage.replace(" ", "@"))
    small_network.save(Path(FILE), seed=1)
    assert (
        f"perceptual.network: {FILE} changed since this repro began; run dvc repro again" in project.run(stage).error
    )
    Path(FILE).unlink()
    assert f"perceptual.network: {FILE}: no such file; " in project.run(stage).error


def test_the_folds_of_a_cross_validation_are_trained_with_the_network(project, monkeypatch):
    set_params(project, **{"crossvalidation.folds": 3})
    project.make("inventory")
    patches = np.zeros((1, 32, 32, 3), np.float32)

    def stopped(
        cae: CAE, description: dict, *_: object, loss: Callable, record: TrainingRecord, **__: object
    ) -> None:
        assert record.label == "tumor fold 1"
        assert description["model"]["perceptual"]["sha256"] == sha256(Path(FILE))
        raise DataError(f"loss {float(loss(patches, 1 - patches)[0]):.4f}")

    monkeypatch.setattr("histocae.tracking.trainings.fit_and_keep", stopped)
    expected = perceptual.load(Path(FILE), LAYERS, 0.5, shape=(32, 32, 3), key="")(patches, 1 - patches)
    assert f"loss {float(expected[0]):.4f}" in project.run("crossvalidate").error
