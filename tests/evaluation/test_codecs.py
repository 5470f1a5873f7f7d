"""Image codecs with budgets of bytes, latents of 8 bits, their comparison, and the stage."""

import io
import json
import math
import struct

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from histocae.networks import backend

backend.start()

from histocae import CAE  # noqa: E402
from histocae.cohort.balance import read_split  # noqa: E402
from histocae.errors import DataError  # noqa: E402
from histocae.evaluation import codecs, compression, plots, reconstruction  # noqa: E402
from histocae.evaluation.quantized import Rounding  # noqa: E402
from histocae.params import Executor  # noqa: E402
from histocae.patches.images import InMemory  # noqa: E402
from histocae.patches.store import PatchStore  # noqa: E402
from histocae.report.plots import save  # noqa: E402
from histocae.workers.processes import WorkerDiedError  # noqa: E402
from support import make_data  # noqa: E402

ALL = list(codecs.CODECS)
BUDGETS = [64, 100, 128, 256, 512, 1024, 2048]
EXECUTOR = Executor(kind="processes", workers=1, devices=1, scheduler=None, slurm=None)


def smooth_patches(count: int, side: int = 48, seed: int = 0) -> np.ndarray:
    """Draw smooth colored noise, uint8 RGB."""
    noise = np.random.default_rng(seed).normal(128, 200, (count, side, side, 3))
    return gaussian_filter(noise, (0, 3, 3, 0)).clip(0, 255).astype(np.uint8)


def noise_patch(side: int = 48) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (side, side, 3), np.uint8)


def squared_error(data: bytes, patch: np.ndarray) -> float:
    decoded = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)
    return np.square(decoded - patch).mean()


# -- a second parser of the three formats


def jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split a JPEG file into its segments (marker and content) and its scan."""
    file, segments = io.BytesIO(data[2:]), []
    while True:
        _, marker, length = struct.unpack(">BBH", file.read(4))
        segments.append((marker, file.read(length - 2)))
        if marker == 0xDA:
            rest = file.read()
            assert rest.endswith(b"\xff\xd9")
            return segments, rest[:-2]


def standard_tables() -> set[bytes]:
    """Return the Huffman tables of a file that another library wrote."""
    segments, _ = jpeg_segments(imagecodecs.jpeg_encode(noise_patch(16), level=75, optimize=False))
    return {content for marker, content in segments if marker == 0xC4}


def own_tables(data: bytes) -> list[bytes]:
    tables = [content for marker, content in jpeg_segments(data)[0] if marker == 0xC4]
    return [table for table in tables if table not in standard_tables()]


def counted(data: bytes, codec: str) -> int:
    """Count the bytes of a file as the docs say."""
    if codec == "JPEG":
        return 2 + sum(len(table) - 1 for table in own_tables(data)) + len(jpeg_segments(data)[1])
    if codec == "JPEG 2000":
        return len(data) - data.index(b"\xff\x93") - 4  # markers: start of the data, end of the file
    assert data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 "
    return int.from_bytes(data[16:20], "little") - 7


# -- codecs


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("side", [16, 48])
def test_files_keep_to_their_budgets_and_get_better_with_larger_ones(codec, side):
    for patch in smooth_patches(2, side):
        encoded = codecs.encode(patch, codec, BUDGETS)
        assert {512, 1024, 2048} <= set(encoded)
        for budget, (data, count) in encoded.items():
            assert count == counted(data, codec) <= budget
            assert codecs.decode(data).shape == patch.shape and codecs.decode(data).dtype == np.uint8
        errors = [squared_error(encoded[budget].data, patch) for budget in sorted(encoded)]
        assert errors == sorted(errors, reverse=True) and errors[0] > 2 * errors[-1]


@pytest.mark.parametrize("codec", ["JPEG", "WebP"])
def test_no_higher_quality_would_fit(codec):
    """Encodes the patch again, at every quality."""
    (patch,) = smooth_patches(1)
    data, _ = codecs.encode(patch, codec, [300])[300]
    best, image = math.inf, Image.fromarray(patch)
    variants = (
        [{"subsampling": sampling, "optimize": own} for sampling in ("4:4:4", "4:2:0") for own in (False, True)]
        if codec == "JPEG"
        else [{}]
    )
    for variant in variants:
        for quality in range(101):
            image.save(file := io.BytesIO(), codec, quality=quality, **variant)
            if counted(file.getvalue(), codec) <= 300:
                best = min(best, squared_error(file.getvalue(), patch))
    assert squared_error(data, patch) == best


def test_jpeg_2000_uses_almost_all_of_its_budget():
    for patch in smooth_patches(3):
        for budget, (_, count) in codecs.encode(patch, "JPEG 2000", [256, 1024]).items():
            assert 0.9 * budget < count <= budget


def test_bytes_that_do_not_count_are_the_same_for_all_patches():
    """A decoder that knows them decodes a patch from the bytes that count: they are taken from another patch here."""
    patch, other = smooth_patches(2)
    data, head = (codecs.encode(each, "JPEG 2000", [512])[512].data for each in (patch, other))
    start = data.index(b"\xff\x93") + 2
    length = head.index(b"\xff\x90") + 6  # of the tile-part
    known = head[:length] + struct.pack(">I", len(data) - 2 - (length - 6)) + head[length + 4 : start]
    assert squared_error(known + data[start:], patch) == squared_error(data, patch)

    data, head = (codecs.encode(each, "WebP", [512])[512].data for each in (patch, other))
    body = data[20:23] + head[23:30] + data[30:]
    sizes = struct.pack("<I", len(data) - 8), data[16:20]
    known = head[:4] + sizes[0] + head[8:16] + sizes[1]
    assert squared_error(known + body, patch) == squared_error(data, patch)

    heads = []
    for sampling in ("4:4:4", "4:2:0"):
        for quality in range(101):
            Image.fromarray(other).save(file := io.BytesIO(), "JPEG", quality=quality, subsampling=sampling)
            heads.append([part for part in jpeg_segments(file.getvalue())[0] if part[0] != 0xC4])
    for budget in (256, 1500):
        data = codecs.encode(patch, "JPEG", [budget])[budget].data
        assert [part for part in jpeg_segments(data)[0] if part[0] != 0xC4] in heads


@pytest.mark.parametrize("codec", ALL)
def test_a_budget_below_the_lowest_quality_is_left_out(codec):
    assert list(codecs.encode(noise_patch(), codec, [2, 6000])) == [6000]
    assert codecs.encode(noise_patch(), codec, [1]) == {}


@pytest.mark.parametrize(
    ("patch", "codec", "budgets", "problem"),
    [
        (np.zeros((8, 8), np.uint8), "WebP", [64], "shape"),
        (np.zeros((8, 8, 1), np.uint8), "WebP", [64], "shape"),
        (np.zeros((8, 8, 3), np.float32), "WebP", [64], "float32"),
        (np.zeros((8, 8, 3), np.uint8), "GIF", [64], "codec is one of JPEG, JPEG 2000, WebP, not 'GIF'"),
        (np.zeros((8, 8, 3), np.uint8), "JPEG", [64, 0], "at least 1"),
        (np.zeros((8, 8, 3), np.uint8), "JPEG", [], "at least one"),
    ],
)
def test_encode_refuses_other_input(patch, codec, budgets, problem):
    with pytest.raises(ValueError, match=problem):
        codecs.encode(patch, codec, budgets)


# -- latents of 8 bits


def test_latents_are_rounded_to_the_nearest_of_256_values():
    rng = np.random.default_rng(3)
    training = rng.normal(size=(50, 4)).astype(np.float32) * [1, 100, 0, 1e-6] + np.float32(7)
    latents = np.concatenate([training[:10], rng.normal(7, 300, (10, 4))]).astype(np.float32)
    rounding = Rounding.of(training)
    levels = rounding.levels(latents)
    values = np.linspace(training.min(0), training.max(0), 256)  # of each latent
    nearest = np.abs(latents[None].astype(np.float64) - values[:, None]).argmin(0)
    assert levels.dtype == np.uint8 and levels.tolist() == nearest.tolist()
    restored = rounding.latents(levels)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, np.take_along_axis(values, nearest, 0), rtol=1e-6)
    assert (restored[:, 2] == 7).all()  # a latent that is constant on training patches


def test_feature_maps_are_rounded_value_by_value():
    training = np.random.default_rng(0).normal(size=(5, 2, 2, 3)).astype(np.float32)
    rounding = Rounding.of(training)
    levels = rounding.levels(training)
    assert levels.shape == training.shape and (levels.min(0) == 0).all() and (levels.max(0) == 255).all()


@pytest.mark.parametrize("latents", [np.zeros((0, 3), np.float32), np.array([[1, np.nan]]), np.array([[np.inf, 1]])])
def test_a_range_needs_finite_latents(latents):
    with pytest.raises(ValueError, match="range of latents"):
        Rounding.of(latents)


@pytest.mark.parametrize(
    ("latent_features", "architecture", "filters", "count"), [(6, "plain", [4], 6), (None, "plain", [4, 2], 128)]
)
def test_models_are_measured_with_latents_of_8_bits(latent_features, architecture, filters, count):
    backend.repeatable(1)
    cae = CAE((32, 32, 3), latent_features, filters, architecture=architecture)
    training, patches = smooth_patches(30, 32), smooth_patches(70, 32, seed=1)
    errors = compression.measure_model(cae, training, patches)
    assert errors.latents == count
    expected = reconstruction.measure(cae, InMemory(patches), None).mean()
    assert errors.exact == pytest.approx(expected[["mse", "psnr", "ssim"]].to_dict(), rel=1e-4)
    known, latents = (cae.encoder.predict(each / np.float32(255), verbose=0) for each in (training, patches))
    low, high = known.min(0), known.max(0)
    step = np.where(high > low, (high - low) / 255, 1)
    rounded = low + np.round((latents.clip(low, high) - low) / step) * step
    output = cae.decoder.predict(rounded, verbose=0)
    assert errors.rounded["mse"] == pytest.approx(np.square(output - patches / 255).mean(), rel=1e-3)


def test_reconstructions_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="reconstructions have shape"):
        reconstruction.measure_images(np.zeros((1, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 3), np.uint8))


# -- the comparison


def test_budgets_include_the_sizes_of_models_and_end_below_the_pixels():
    assert compression.budgets_for([100, 512, 5000], 3 * 32**2) == [64, 100, 128, 256, 512, 1024, 2048]


def test_codecs_are_measured_as_models_are(in_process):
    patches = np.concatenate([smooth_patches(20), noise_patch()[None]])
    errors = compression.measure_codecs(patches, [96, 6000], EXECUTOR)
    assert errors.left_out["WebP"][96] >= 1 and errors.left_out["JPEG"][96] >= 1
    assert all(6000 not in counts for counts in errors.left_out.values())
    for row in errors.table.to_dict("records"):
        encoded = [codecs.encode(patch, row["method"], [96, 6000])[row["bytes"]] for patch in patches]
        each = [squared_error(data, patch) for (data, _), patch in zip(encoded, patches, strict=True)]
        assert row["mse"] == pytest.approx(np.mean(each) / 255**2, rel=1e-4)
        assert row["mean_bytes"] == np.mean([count for _, count in encoded]) <= row["bytes"]
        assert row["kind"] == "codec" and 0 < row["ssim"] <= 1
    assert {(row["method"], row["bytes"]) for row in errors.table.to_dict("records")} == {
        (codec, budget) for codec in ALL for budget in (96, 6000) if budget not in errors.left_out[codec]
    }


def test_a_dead_worker_is_reported(monkeypatch):
    monkeypatch.setattr(compression, "spread", lambda *_: iter([(0, WorkerDiedError("it died"))]))
    with pytest.raises(DataError, match="workers died at 1 of 1 parts"):
        compression.measure_codecs(smooth_patches(2), [64], EXECUTOR)


def codec_errors(*rows: tuple[str, int, float, float], **left_out: dict[int, int]) -> compression.CodecErrors:
    table = pd.DataFrame(rows, columns=["method", "bytes", "mse", "ssim"])
    table = table.assign(kind="codec", mean_bytes=table["bytes"].astype(float), psnr=1.0)[compression.COLUMNS]
    return compression.CodecErrors(table=table, left_out=left_out)


def model_errors(latents: int, mse: float, exact: float, **more: float) -> compression.ModelErrors:
    return compression.ModelErrors(
        latents=latents, rounded={"mse": mse, "psnr": 1, **more}, exact={"mse": exact, "psnr": 1, **more}
    )


def test_sentences_say_who_wins_at_the_size_of_a_model():
    errors = codec_errors(
        ("JPEG", 512, 0.004, 0.9), ("WebP", 512, 0.003, 0.8), ("WebP", 64, 0.1, 0.2), JPEG={64: 1, 128: 3, 256: 1}
    )
    models = {
        "small": model_errors(64, 0.05, 0.04, ssim=0.1),
        "large": model_errors(512, 0.0035, 0.0035, ssim=0.95),
        "odd": model_errors(1100, 0.002, 0.0021, ssim=0.5),
    }
    assert compression.sentences(errors, models) == [
        "With 64 latents of 8 bits each (64 bytes), small has a test MSE of 0.05000; WebP, the best codec at that "
        "size, has 0.10000: the model wins. Its SSIM is 0.100, that of WebP 0.200: the codec wins. "
        "Rounding the latents to 8 bits raises its MSE from 0.04 to 0.05.",
        "With 512 latents of 8 bits each (512 bytes), large has a test MSE of 0.00350; WebP, the best codec at that "
        "size, has 0.00300: the codec wins. Its SSIM is 0.950, that of JPEG 0.900: the model wins. "
        "Rounding the latents to 8 bits leaves its MSE at 0.0035.",
        "With 1,100 latents of 8 bits each (1,100 bytes), odd has a test MSE of 0.00200; no codec was compared at "
        "that size. Rounding the latents to 8 bits lowers its MSE from 0.0021 to 0.002.",
        "JPEG is left out at 64, 128 and 256 bytes, since even its lowest quality takes more for some patches.",
    ]


def test_the_figure_has_an_axis_per_measure_and_a_label_per_model(tmp_path):
    errors = codec_errors(("JPEG", 512, 0.004, 0.9), ("JPEG", 1024, 0.003, 0.95))
    table = compression.joined(errors, {"a $ b $": model_errors(300, 0.05, 0.04, ssim=0.1)})
    figure = plots.plot_compression(table)
    save(figure, tmp_path / "figure.png")
    assert len(figure.axes) == 3
    for axis in figure.axes:
        assert [text.get_text() for text in axis.texts] == ["a $ b $"]
        assert [label.get_text() for label in axis.get_xticklabels()] == ["512", "1024"]
    models = {f"m$^{number}$": model_errors(300, 0.05, 0.04, ssim=0.1) for number in range(7)}
    figure = plots.plot_compression(compression.joined(errors, models))
    save(figure, tmp_path / "many.png")
    assert not figure.axes[0].texts and len(figure.legends[0].get_texts()) == 1 + 7  # labels would overlap
    small = compression.joined(codec_errors(("JPEG", 64, 0.004, math.nan)), {"all": model_errors(64, 0.05, 0.04)})
    assert len(plots.plot_compression(small).axes) == 2  # patches smaller than the window have no SSIM


# -- the stage

MODELS = {
    "all": {"cohort": "all", "filters": [4], "latent_features": 6},
    "wide": {"cohort": "all", "filters": [2], "latent_features": None},
    "tumor": {"cohort": "tumor", "filters": [4], "latent_features": 6},
}


@pytest.fixture
def trained(project):
    """A project with untrained models in place of trained ones."""
    project.slides(*(f"s{number}" for number in range(12)))
    project.params(models=MODELS, patches__max_per_slide=8, tissue__latents=None)
    project.make()
    for number, (name, model) in enumerate(MODELS.items()):
        backend.repeatable(number)
        cae = CAE((32, 32, 3), model["latent_features"], model["filters"])
        folder = project.folder / "models/trained" / name
        cae.save(folder)
        make_data.training_record(
            folder,
            name,
            cohort=model["cohort"],
            latent_features=model["latent_features"],
            latent_size=math.prod(cae.encoder.output_shape[1:]),
        )
    return project


def test_the_stage_writes_a_table_a_figure_and_sentences(trained):
    result = trained.run("codecs")
    assert not result.code, result.lines
    folder = trained.folder / "reports/codecs"
    assert {path.name for path in folder.iterdir()} == {"codecs.csv", "codecs.png", "metrics.json"}
    table, metrics = trained.read("reports/codecs/codecs.csv"), json.loads((folder / "metrics.json").read_text())
    assert list(table) == compression.COLUMNS
    assert set(table.loc[table["kind"] == "codec", "method"]) == set(ALL)
    models = table[table["kind"] == "model"].set_index("method")
    assert dict(models["bytes"]) == {"all": 6, "wide": 512}  # models of one tissue are tested on other patches
    rows = read_split(trained.folder / "data/splits/test.csv")
    assert metrics["patches"] == metrics["of"] == len(rows) <= 128
    patches = PatchStore(trained.folder / "data/patches").select(rows)
    for name, errors in metrics["models"].items():
        cae = CAE(path=trained.folder / "models/trained" / name, load=True)
        expected = reconstruction.measure(cae, patches, None)["mse"].mean()
        assert errors["exact"]["mse"] == pytest.approx(expected, rel=1e-4)
        assert errors["rounded"]["mse"] == models.loc[name, "mse"]
    assert metrics["budgets"] == [6, 64, 128, 256, 512, 1024, 2048]
    assert metrics["left_out"]["WebP"]["6"] == len(rows)
    assert all(any(sentence in line for line in result.lines) for sentence in metrics["sentences"])
    outputs = trained.outputs("reports/codecs")
    assert not trained.run("codecs").code
    assert trained.outputs("reports/codecs") == outputs and not trained.leftovers()


def test_the_stage_compares_codecs_alone_if_no_model_is_of_all_tissue(trained):
    trained.params(models={"tumor": MODELS["tumor"]}, patches__max_per_slide=8, tissue__latents=None)
    assert not (result := trained.run("codecs")).code, result.lines
    table = trained.read("reports/codecs/codecs.csv")
    assert set(table["kind"]) == {"codec"}


def test_the_stage_names_what_is_missing(trained):
    (trained.folder / "models/trained/wide/training.json").unlink()
    assert "models/trained/wide/training.json: no such file; run dvc repro" in trained.run("codecs").error
    (trained.folder / "data/splits/test.csv").unlink()
    assert "data/splits/test.csv" in trained.run("codecs").error
    assert not (trained.folder / "reports/codecs").exists()
