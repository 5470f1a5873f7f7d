"""The autoencoder as the notebooks use it, its reconstruction errors and its figures."""

import numpy as np
import pandas as pd
import pytest
import yaml

from histocae import CAE
from histocae.errors import HistocaeError
from histocae.networks import backend

backend.start()

import keras  # noqa: E402 (after the backend suppresses its log messages)
import tensorflow as tf  # noqa: E402

from histocae.evaluation import reconstruction, samples, scales  # noqa: E402
from histocae.patches.images import InMemory  # noqa: E402
from histocae.report import plots  # noqa: E402


@pytest.fixture
def digit_images():
    """Images of scikit-learn's digits, 32 x 32 x 1 in [0, 1]."""
    from sklearn.datasets import load_digits

    images = load_digits().images[:64] / 16
    return np.kron(images, np.ones((1, 4, 4)))[..., None].astype(np.float32)


def test_plain_has_the_layers_and_the_number_of_weights_of_the_notebooks():
    cae = CAE(input_shape=(128, 128, 3), latent_features=512, filters=[8, 16, 32])
    assert [layer.__class__.__name__ for layer in cae.encoder.layers] == [
        "InputLayer",
        *["Conv2D", "MaxPooling2D"] * 3,
        "Flatten",
        "Dense",
    ]
    assert cae.encoder.output_shape == (None, 512)
    assert cae.decoder.output_shape == (None, 128, 128, 3)
    assert cae.decoder.layers[-1].activation is keras.activations.sigmoid
    # 3x3 convolutions 3-8-16-32, dense 8192-512 and back, 3x3 convolutions 32-32-16-8-3
    convolutions = sum(9 * a * b + b for a, b in [(3, 8), (8, 16), (16, 32), (32, 32), (32, 16), (16, 8), (8, 3)])
    assert cae.model.count_params() == convolutions + 8192 * 512 + 512 + 512 * 8192 + 8192


def test_without_latent_features_there_is_no_dense_layer():
    cae = CAE((32, 32, 3), None, [4, 8])
    assert cae.encoder.output_shape == (None, 8, 8, 8)
    assert not any(isinstance(layer, keras.layers.Dense) for layer in [*cae.encoder.layers, *cae.decoder.layers])


@pytest.mark.slow
def test_a_cae_learns_is_saved_and_loads_from_its_path_alone(tmp_path, digit_images):
    path = tmp_path / "model"
    cae = CAE(input_shape=digit_images[0].shape, latent_features=20, filters=[8, 16], path=path)
    before = cae.model.evaluate(digit_images, digit_images, verbose=0)
    cae.model.fit(digit_images, digit_images, epochs=3, verbose=0)
    assert cae.model.evaluate(digit_images, digit_images, verbose=0) < before
    cae.save()
    assert sorted(p.name for p in path.iterdir()) == [
        "SHA256SUMS",
        "decoder.weights.h5",
        "encoder.weights.h5",
        "params.yaml",
    ]
    assert yaml.safe_load((path / "params.yaml").read_text())["filters"] == [8, 16]
    loaded = CAE(path=path, load=True, filters=[99], latent_features=1)  # load ignores other arguments
    assert loaded.params == cae.params
    latents = loaded.encoder.predict(digit_images, verbose=0)
    assert latents.shape == (64, 20)
    np.testing.assert_array_equal(latents, cae.encoder.predict(digit_images, verbose=0))
    np.testing.assert_allclose(
        loaded.decoder.predict(latents, verbose=0), cae.model.predict(digit_images, verbose=0), atol=1e-6
    )
    loaded.model.fit(digit_images, digit_images, epochs=1, verbose=0)  # training continues, as in the notebooks


def test_saving_writes_the_same_bytes_each_time_and_leaves_no_temporary_files(tmp_path, digit_images):
    cae = CAE((32, 32, 1), 8, [4])
    cae.save(tmp_path / "a")
    cae.save(tmp_path / "b")
    cae.save(tmp_path / "b")
    for name in ("params.yaml", "encoder.weights.h5", "decoder.weights.h5"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_loading_a_folder_without_a_valid_cae_is_an_error(tmp_path):
    with pytest.raises(HistocaeError, match=r"no saved CAE here"):
        CAE(path=tmp_path, load=True)
    CAE((32, 32, 1), 8, [4]).save(tmp_path / "whole")
    (tmp_path / "whole/SHA256SUMS").unlink()  # as versions saved that wrote no hashes
    (tmp_path / "whole/decoder.weights.h5").write_bytes(b"not weights")
    with pytest.raises(HistocaeError, match=r"decoder\.weights\.h5: not the weights"):
        CAE(path=tmp_path / "whole", load=True)
    CAE((32, 32, 1), 8, [4]).save(tmp_path / "other")
    (tmp_path / "other/SHA256SUMS").unlink()
    params_file = tmp_path / "other/params.yaml"
    params_file.write_text(params_file.read_text().replace("latent_features: 8", "latent_features: 9"))
    with pytest.raises(HistocaeError, match=r"not the weights"):
        CAE(path=tmp_path / "other", load=True)
    (tmp_path / "whole/params.yaml").write_text("filters: [4]\n")
    with pytest.raises(HistocaeError, match=r"input_shape.* missing"):
        CAE(path=tmp_path / "whole", load=True)


@pytest.mark.parametrize("options", [{"input_shape": None}, {"input_shape": (30, 30, 1), "filters": [4, 4]}])
def test_invalid_options_raise_a_value_error(options):
    with pytest.raises(ValueError, match=r"input_shape|multiples"):
        CAE(**options)


def test_strides_and_oblong_pools_reconstruct_the_shape_of_the_input():
    cae = CAE((32, 48, 3), 5, [4, 4], kernel=(5, 3), stride=2, pool=(1, 2))
    assert cae.model.output_shape == (None, 32, 48, 3)


def test_measures_equal_their_definitions(digit_images):
    rgb_images = np.repeat((digit_images * 255).astype(np.uint8), 3, axis=-1)
    cae = CAE((32, 32, 3), 8, [4])
    output = samples.reconstruct(cae, rgb_images)
    measured = reconstruction.measure(cae, InMemory(rgb_images), "test")
    squared = (output - rgb_images / 255.0) ** 2
    np.testing.assert_allclose(measured["mse"], squared.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(measured["psnr"], 10 * np.log10(1 / measured["mse"]), rtol=1e-6)
    variance = (rgb_images / 255.0).var(axis=(1, 2)).mean(axis=1)
    np.testing.assert_allclose(measured["mean_color_mse"], variance, rtol=1e-4)
    np.testing.assert_allclose(
        reconstruction.measure_mse(cae, InMemory(rgb_images), "test"), measured["mse"], rtol=1e-5
    )
    residuals = rgb_images.astype(np.float32) / 255 - cae.model.predict(rgb_images / 255, verbose=0)
    by_scale = reconstruction.measure_by_scale(cae, InMemory(rgb_images), "test")
    np.testing.assert_allclose(by_scale, scales.errors(residuals), rtol=1e-3, atol=1e-3)
    assert measured["ssim"].between(-1, 1).all()


def test_a_perfect_reconstruction_has_finite_measures(monkeypatch):
    # a network that returns its input, rescaled
    monkeypatch.setattr(reconstruction, "fused_on_bytes", lambda _: lambda x, training: tf.cast(x, tf.float32) / 255)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    measured = reconstruction.measure(None, InMemory(images), "test")
    assert (measured["mse"] == 0).all()
    np.testing.assert_allclose(measured["psnr"], 100, rtol=1e-6)
    np.testing.assert_allclose(measured["ssim"], 1, atol=1e-6)


def test_patches_smaller_than_the_ssim_window_have_the_other_measures():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    summary = reconstruction.summarize(reconstruction.measure(CAE((8, 8, 3), 4, [4]), InMemory(images), "test"))
    assert set(summary) == {"mse", "psnr", "mean_color_mse", "patches"} and summary["patches"] == 3


def test_figures_are_the_same_to_the_byte_and_show_each_pair_in_a_column(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    pair = samples.mosaic(images[:2], images[:2] / 255.0)
    assert pair.shape == (34, 34, 3)
    np.testing.assert_array_equal(pair[:16, 18:], images[1])
    np.testing.assert_array_equal(pair[18:, :16], images[0])
    for name in ("a.png", "b.png"):
        plots.save(plots.plot_sample_imgs(images, n_rows=2, n_cols=6, labels=list("abcdefgh")), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    figure = plots.plot_paired_imgs(images, images, N=3, orient="h", size=1.0, color=False)
    assert len(figure.axes) == 6
    with pytest.raises(ValueError, match="orient"):
        plots.plot_paired_imgs(images, images, orient="x")
    loaded = plots.read_images(["a.png", "b.png"], tmp_path)
    assert loaded.dtype == np.float32 and loaded.min() >= 0 and loaded.max() <= 1 and len(loaded) == 2


@pytest.mark.parametrize("orient", ["v", "h"])
def test_residual_maps_show_the_absolute_error_of_each_pixel_on_one_scale(orient):
    originals = np.zeros((2, 16, 16, 3), np.uint8)
    reconstructions = np.zeros((2, 16, 16, 3), np.float32)
    reconstructions[0, 2, 3], reconstructions[1, 4] = (0.3, 0.0, 0.6), 0.5
    maps = plots.residual_maps(originals, reconstructions)
    assert (
        maps[0, 2, 3] == pytest.approx(0.3) and maps[1, 4] == pytest.approx(np.full(16, 0.5)) and maps[0].sum() < 0.4
    )
    figure = plots.plot_paired_imgs(originals, reconstructions, orient=orient, shuffle=False, residuals=True)
    *axes, _ = figure.axes
    columns = np.array(axes).reshape((3, 2) if orient == "v" else (2, 3))
    last = columns[2] if orient == "v" else columns[:, 2]
    for axis, values in zip(last, maps, strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), values)
        assert axis.images[0].get_clim() == last[0].images[0].get_clim()
    same = plots.plot_paired_imgs(originals, originals, shuffle=False, residuals=True)
    assert len(same.axes) == 7  # no error anywhere still has a scale


def test_curves_and_histograms_name_their_axes():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.2, 0.1], "validation_loss": [0.3, 0.2]})
    axis = plots.plot_curves({"all": history}, plots.model_colors(["all"])).axes[0]
    assert axis.get_xlabel() == "epoch" and "pixels in [0, 1]" in axis.get_ylabel()
    measured = pd.DataFrame({"mse": [0.1, 0.2], "sample_type": ["Primary Tumor", "Solid Tissue Normal"]})
    axis = plots.plot_errors(measured, "errors").axes[0]
    assert "mean squared error" in axis.get_xlabel() and axis.get_ylabel() == "patches"
