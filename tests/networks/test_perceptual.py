"""The perceptual loss: as defined, with the user's network unchanged, and clear about files that do not fit."""

import json
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from histocae import CAE
from histocae.errors import TrainingError
from histocae.networks import perceptual
from histocae.patches.images import InMemory
from histocae.training import loop
from histocae.training.checkpoint import State
from support import small_network
from support.small_network import LAYERS

SHAPE = (16, 16, 3)
KEY = "models.x.perceptual"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return small_network.save(tmp_path_factory.mktemp("network") / "small.keras")


def load(file: Path, layers=LAYERS, weight=0.1, shape=SHAPE):
    return perceptual.load(file, layers, weight, shape=shape, key=KEY)


def convolved(images: np.ndarray, layer: keras.layers.Conv2D) -> np.ndarray:
    """Convolve images with zeros around them, and set negative values to 0."""
    kernel, bias = (np.asarray(weight, np.float64) for weight in layer.get_weights())
    side = images.shape[1]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(row, column) for row in range(3) for column in range(3)]
    summed = sum(padded[:, row : row + side, column : column + side] @ kernel[row, column] for row, column in taps)
    return np.maximum(summed + bias, 0)


def features(images: np.ndarray, network: keras.Model) -> list[np.ndarray]:
    """Compute the outputs of LAYERS without Keras; dropout does nothing."""
    edges = convolved(2 * images - 1, network.get_layer("edges"))
    count, side, _, channels = edges.shape
    pooled = edges.reshape(count, side // 2, 2, side // 2, 2, channels).max((2, 4))
    layer = network.get_layer("normalize")
    gamma, beta, mean, variance = layer.get_weights()
    normalized = (pooled - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
    return [edges, convolved(normalized, network.get_layer("parts"))]


def expected_loss(
    targets: np.ndarray, outputs: np.ndarray, network: keras.Model, weight: float, layers: list[str]
) -> np.ndarray:
    distances = []
    for name, *both in zip(LAYERS, features(targets, network), features(outputs, network), strict=True):
        if name not in layers:
            continue
        lengths = [np.linalg.norm(each, axis=-1, keepdims=True) for each in both]
        first, second = (each / np.where(length > 0, length, 1) for each, length in zip(both, lengths, strict=True))
        distances.append(((first - second) ** 2).sum(-1).mean((1, 2)))
    return ((targets - outputs) ** 2).mean((1, 2, 3)) + weight * np.mean(distances, axis=0)


@pytest.mark.parametrize(("weight", "layers"), [(0.1, LAYERS), (3.0, LAYERS[::-1]), (0.5, LAYERS[1:])])
def test_the_loss_is_as_defined_for_each_patch(file, weight, layers):
    rng = np.random.default_rng(1)
    targets = rng.random((3, *SHAPE)).astype(np.float32)
    outputs = (targets + rng.normal(0, [[[[0.01]]], [[[0.1]]], [[[0.5]]]], targets.shape)).astype(np.float32)
    loss = load(file, layers, weight)
    found = keras.ops.convert_to_numpy(loss(targets, outputs))
    network = keras.saving.load_model(file, compile=False)
    np.testing.assert_allclose(found, expected_loss(targets, outputs, network, weight, layers), rtol=1e-4)
    assert found[0] < found[1] < found[2]
    np.testing.assert_allclose(loss(targets, targets), 0, atol=1e-9)


@pytest.mark.slow
def test_training_reduces_the_loss_and_leaves_the_network_and_the_file_alone(file, monkeypatch):
    # the gradient has the features too: a training for squared error alone ends elsewhere
    rng = np.random.default_rng(0)
    patches = InMemory(rng.integers(0, 256, (24, 4, 4, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2))
    before, networks, read = file.read_bytes(), [], perceptual._read

    def kept(*arguments):
        networks.append(read(*arguments))
        return networks[-1]

    monkeypatch.setattr(perceptual, "_read", kept)
    loss = load(file, weight=1.0)
    (network,) = networks
    weights = network.get_weights()
    found = {}
    for name, of_patches in (("mse", None), ("perceptual", loss)):
        keras.utils.set_random_seed(3)
        cae = CAE(SHAPE, 12, architecture="compact", lossfn=name)
        options = loop.Options(
            epochs=15, batch_size=8, patience=15, optimizer="adamw", learning_rate=0.003, seed=1, loss=of_patches
        )
        state = loop.train(cae, patches, patches, options, state=State(""), folder=None, fingerprint="")
        assert state.rows[-1]["validation_loss"] < 0.8 * state.rows[0]["validation_loss"]
        scaled = patches.take(np.arange(24)) / np.float32(255)
        found[name] = float(np.mean(loss(scaled, cae.model.predict_on_batch(scaled))))
        if of_patches is not None:  # of the best epoch, in the evaluation's way
            assert state.best == pytest.approx(found[name], rel=1e-4)
    assert found["perceptual"] < 0.95 * found["mse"]
    assert not network.trainable_variables and file.read_bytes() == before
    for now, former in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, former)


def test_a_saved_cae_loads_without_the_network(file, tmp_path):
    cae = CAE(SHAPE, 4, [4], lossfn="perceptual")
    cae.save(tmp_path / "model")
    loaded = CAE(path=tmp_path / "model", load=True)
    assert loaded.params["lossfn"] == "perceptual" and loaded.model.count_params() == cae.model.count_params()
    patches = InMemory(np.zeros((2, *SHAPE), np.uint8))
    options = loop.Options(epochs=1, batch_size=2, patience=1, optimizer="sgd", learning_rate=0.1, seed=1)
    with pytest.raises(ValueError, match="perceptual"):  # not silently for another loss
        loop.train(loaded, patches, patches, options, state=State(""), folder=None, fingerprint="")


def rewritten(file: Path, path: Path, **members: bytes) -> Path:
    """Copy a .keras file with other members (`_` is a dot); those that are None are left out."""
    changed = {name.replace("_", "."): content for name, content in members.items()}
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = changed.get(name, source.read(name))
            if content is not None:
                target.writestr(name, content)
    return path


def damaged(file: Path, path: Path) -> Path:
    """Copy a .keras file with one bit of its weights changed."""
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        data[archive.getinfo("model.weights.h5").header_offset + 5000] ^= 1
    path.write_bytes(data)
    return path


def of_layers(path: Path, *layers: keras.layers.Layer) -> Path:
    keras.Sequential([keras.Input(SHAPE), *layers]).save(path)
    return path


def with_nan(file: Path, path: Path) -> Path:
    network = keras.saving.load_model(file, compile=False)
    network.set_weights([np.full_like(weight, np.nan) for weight in network.get_weights()])
    network.save(path)
    return path


def config_of(file: Path) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read("config.json")


@pytest.mark.parametrize(
    ("make", "layers", "message"),
    [
        (lambda file, path: path.write_bytes(b"weights") and path, LAYERS, ": no Keras model file"),
        (lambda file, path: path.write_bytes(file.read_bytes()[:-200]) and path, LAYERS, ": no Keras model file"),
        (
            lambda file, path: rewritten(file, path, config_json=None),
            LAYERS,
            ": no whole Keras model: no config.json",
        ),
        (damaged, LAYERS, ": no whole Keras model: model.weights.h5 in it is damaged"),
        (lambda file, path: rewritten(file, path, config_json=b"{"), LAYERS, ": can't be loaded: "),
        (lambda file, path: rewritten(file, path, config_json=b"{}"), LAYERS, ": can't be loaded: "),
        (
            lambda file, path: rewritten(file, path, config_json=config_of(file).replace(b"Conv2D", b"Conv9D")),
            LAYERS,
            ": can't be loaded: ",
        ),
        (
            lambda file, path: rewritten(
                file, path, config_json=config_of(file).replace(b'"filters": 6', b'"filters": 7')
            ),
            LAYERS,
            ": can't be loaded: ",
        ),
        (lambda file, path: of_layers(path, keras.layers.Lambda(lambda x: x, name="edges")), ["edges"], "Lambda"),
        (with_nan, LAYERS, "edges/kernel has numbers that are not finite"),
        (
            lambda file, path: small_network.save(path, side=32),
            LAYERS,
            ": takes images of 32 x 32 x 3, but patches are",
        ),
        (lambda file, path: small_network.save(path, channels=1), LAYERS, ": takes images of any x any x 1, but"),
        (lambda file, path: small_network.save(path, dtype="uint8"), LAYERS, ": takes uint8; build it for floats"),
        (
            lambda file, path: of_layers(path, keras.layers.Flatten(name="edges")),
            ["edges"],
            "edges has no features of",
        ),
        (shutil.copy, ["edges", "block5"], "has no layer 'block5'; it has images; rescale; edges; pool; "),
        (shutil.copy, ["mean"], ": mean has no features of shape (height, width, channels)"),
        (shutil.copy, ["large"], ": patches of 16 pixels don't pass large: "),
    ],
)
def test_a_file_that_does_not_fit_is_reported_in_one_line_with_its_key(file, tmp_path, make, layers, message):
    path = tmp_path / "other.keras"
    make(file, path)
    with pytest.raises(TrainingError) as error:
        load(path, layers)
    line = str(error.value)
    assert message in line and str(path) in line and line.isprintable()
    assert line.startswith((f"{KEY}.network: ", f"{KEY}.layers: ")) and "; " in line


def test_a_custom_layer_is_refused(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    try:
        path = of_layers(tmp_path / "own.keras", Own(name="edges"))
    finally:  # else models that later tests log would contain it
        keras.saving.get_custom_objects().pop("tests>Own")
    with pytest.raises(TrainingError, match=r"own\.keras: can't be loaded: .*of Keras' own layers"):
        load(path, ["edges"])


def test_the_recipe_of_the_readme_makes_a_network_that_fits(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (recipe,) = [block.split("```")[0] for block in text.split("```python\n")[1:] if "VGG16" in block]
    vgg = keras.applications.VGG16
    # its weights would be downloaded
    monkeypatch.setattr(keras.applications, "VGG16", lambda weights, **options: vgg(weights=None, **options))
    monkeypatch.chdir(tmp_path)
    exec(recipe, {})  # noqa: S102 (our own text)
    (path,) = tmp_path.rglob("*.keras")
    loss = load(path, ["block1_conv2", "block2_conv2", "block3_conv3"], shape=(32, 32, 3))
    images = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    assert float(loss(images, 1 - images)[0]) > 0
    network = keras.saving.load_model(path, compile=False)
    converted = keras.Model(network.inputs[0], network.get_layer("block1_conv1").input)(images)
    np.testing.assert_allclose(converted, keras.applications.vgg16.preprocess_input(255 * images), atol=2e-3)
    assert json.loads(config_of(path))["registered_name"] == "Functional"
