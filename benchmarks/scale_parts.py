"""The measurements of scale.py: each function takes a `Fit` and an empty folder and adds coefficients."""

import contextlib
import logging
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cohort
import cohort_scale
import numpy as np
import slides
import tracking
import yaml
from patching import cores, extract_patches
from scale_fit import ROUNDS, Fit, Sample, in_turn, timed

from histocae import params_file
from histocae.files import sha256, write_json
from histocae.networks.sizes import Size
from histocae.params import Network
from histocae.planning import model
from histocae.planning.networks import size
from histocae.sources import demo
from histocae.training.batches import Batches

BATCH = 32
LEARNED, EVALUATED = 384, 768  # patches per round
# measured architectures; the last is held out
NETWORKS = {
    "plain [8, 16, 32] / 512": {"filters": [8, 16, 32], "latent_features": 512},
    "plain [8, 16, 32, 64]": {"filters": [8, 16, 32, 64]},
    "plain [8] / 32": {"filters": [8], "latent_features": 32},
    "residual [32, 64] / 512": {"architecture": "residual", "filters": [32, 64], "latent_features": 512},
    "compact [16, 64] / 64": {"architecture": "compact", "latent_features": 64},
    "plain [16, 32] / 256": {"filters": [16, 32], "latent_features": 256},
}
COMPONENTS, COMPONENT_PATCHES = 512, 2048  # principal components; patches from which they are computed
SIDES = ((512, 512), (2048, 2048), (4096, 4096), (6144, 4096))  # of slides in pixels; the last is held out
COHORTS = ((300, 30_000), (300, 200_000), (2000, 200_000), (700, 400_000))  # slides, patches; the last is held out
# patches of train, and of each of validation and test; the last is held out
STUDIED = ((400, 200), (2000, 1000), (3000, 1500))
PAIRS = ((400, 200), (1200, 400))  # the same, for the pair; none is held out
FILES, LARGE = (100, 4000), 512 * 2**20  # numbers of files for DVC; bytes of one large file

TRAINING_SHARE = 0.6  # share of the patches that are in train
# as in the record of a training
COHORT_ALL = {
    "cohort": "all",
    "params": {"seed": 1, "training": {"balance": "none", "min_percent_tumor_nuclei": None}},
}


def files(fit: Fit, folder: Path) -> None:
    """Measure hashing, and DVC's handling of files."""
    data = folder / "data"
    data.mkdir()
    large = data / "large"
    large.write_bytes(np.random.default_rng(0).bytes(2**20) * (LARGE // 2**20))
    rounds = [timed(sha256, large) / LARGE for _ in range(ROUNDS)]
    fit.set_coefficient("hash_byte", statistics.median(rounds), min(rounds), max(rounds))
    subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    for key, value in (("cache.type", "copy"), ("core.site_cache_dir", str(folder / "site"))):
        _dvc(folder, "config", key, value)
    add_samples, status_samples = [], []
    for count in FILES:
        (folder / f"few-{count}").mkdir()
        for number in range(count):
            (folder / f"few-{count}" / f"{number}.csv").write_text(f"{number}\n" * 100, encoding="utf-8")
        seconds = _dvc_add(folder, f"few-{count}")
        add_samples.append(Sample(f"dvc add of {count} small files", model.hashing(count, 0), seconds))
        status_samples.append(
            Sample(
                f"dvc status of {count} files",
                {"status_start": 1, "status_file": count},
                [timed(_dvc, folder, "status", "-q", f"few-{count}.dvc") for _ in range(ROUNDS)],
            )
        )
    add_samples.append(Sample("dvc add of a file of 0.5 GB", model.hashing(1, LARGE), _dvc_add(folder, "data")))
    fit.add(add_samples)
    fit.add(status_samples)


def _dvc(folder: Path, *command: str) -> None:
    subprocess.run(["dvc", *command], cwd=folder, check=True)


def _dvc_add(folder: Path, name: str) -> list[float]:
    """Time `dvc add` without cache and without the hashes that DVC remembers, once per round."""
    seconds = []
    for _ in range(ROUNDS):
        shutil.rmtree(folder / ".dvc" / "cache", ignore_errors=True)
        shutil.rmtree(folder / "site", ignore_errors=True)  # remembered hashes
        seconds.append(timed(_dvc, folder, "add", "-q", name))
    return seconds


def patches(fit: Fit, folder: Path) -> None:
    """Measure patch extraction, opening slides and drawing demo slides."""
    from histocae.slides.slide import Slide

    def open_slide(path: Path) -> None:
        with Slide(path) as slide:
            slide.microns(None, None)

    drawn = [
        slides.generic(folder / f"{width}-{height}.tif", slides.repeat_tissue(width, height))
        for width, height in SIDES
    ]
    kept: dict[Path, int] = {}

    def extract(path: Path) -> float:
        out = folder / "extracted" / path.stem
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        kept[path] = extract_patches(path, out, 1).kept
        return time.perf_counter() - start

    rounds = in_turn([partial(extract, path) for path in drawn])
    fit.add(
        [
            Sample(
                f"a slide of {width} x {height} pixels, {kept[path]} patches, one thread",
                model.extracting(1, kept[path], model.PIXELS),
                seconds,
                path == drawn[-1],
            )
            for (width, height), path, seconds in zip(SIDES, drawn, rounds, strict=True)
        ]
    )
    path = drawn[2]
    seconds = [timed(open_slide, path) for _ in range(ROUNDS)]
    fit.set_coefficient("look_slide", statistics.median(seconds), min(seconds), max(seconds))
    outputs = (folder / "extracted" / path.stem).rglob("*")
    images = [file for file in outputs if file.suffix in (".png", ".jpg", ".json")]  # and the record
    fit.set_coefficient("picture_bytes", sum(file.stat().st_size for file in images))
    spec = demo.DemoSpec(seed=1, cases=6, side_microns=512.0)
    names = list(demo.cohort(spec)["slide_id"])[:6]
    start = time.perf_counter()
    demo_slides = [demo.write_slide(spec, name, folder / "demo") for name in names]
    area = len(names) * (spec.side_microns / 1000) ** 2
    fit.set_coefficient("demo_mm2", (time.perf_counter() - start) / area)
    fit.set_coefficient("demo_mm2_bytes", sum(file.stat().st_size for file in demo_slides) / area)


def tables(fit: Fit, folder: Path) -> None:
    """Measure metadata, index, split and the reading of a training, on drawn cohorts with TCGA barcodes."""
    from histocae import paths
    from histocae.cohort.balance import read_rows_for_model
    from histocae.patches.store import PatchStore
    from histocae.stages import metadata, patches, split

    def within(project: Path, step: Callable) -> Callable:
        def run() -> float:
            with contextlib.chdir(project):
                return timed(step)

        return run

    def read() -> None:
        PatchStore(paths.PATCHES).select(read_rows_for_model(paths.SPLITS / "train.csv", COHORT_ALL))

    steps_by_name: dict[str, list[Callable]] = {"metadata": [], "index": [], "split": [], "rows to train on": []}
    counts = []
    for number, (count, rows) in enumerate(COHORTS):
        project = folder / str(number)
        project.mkdir()
        rng = np.random.default_rng(number)
        cohort_scale.draw_tables(project, count, rng)
        params = params_file.load(project / "params.yaml")
        for name in ("metadata", "slides"):
            cohort_scale.run(project, name, 0)
        counts.append((count, cohort_scale.draw_shards(project, rows, rng)))
        stages = [partial(stage.run, params) for stage in (metadata, patches, split)]
        for steps, step in zip(steps_by_name.values(), [*stages, read], strict=True):
            steps.append(within(project, step))
    terms = {
        "metadata": lambda slides, _: {"metadata_slide": slides},
        "index": model.indexing,
        "split": model.splitting,
        "rows to train on": lambda slides, rows: model.reading(slides * TRAINING_SHARE, rows * TRAINING_SHARE),
    }
    logging.disable(logging.WARNING)
    for name, steps in steps_by_name.items():
        fit.add(
            [
                Sample(
                    f"{name} of {slides:,} slides, {rows:,} patches",
                    terms[name](slides, rows),
                    seconds,
                    (slides, rows) == counts[-1],
                )
                for (slides, rows), seconds in zip(counts, in_turn(steps), strict=True)
            ]
        )
    logging.disable(logging.NOTSET)
    _sizes(fit, folder / "1", *counts[1])


def _sizes(fit: Fit, folder: Path, slides: int, rows: int) -> None:
    """Measure the bytes of rows, on the disk and in memory."""
    from histocae.cohort.balance import read_rows_for_model, read_split

    data = folder / "data"
    fit.set_coefficient("metadata_slide_bytes", (data / "slides_metadata.csv").stat().st_size / slides)
    for name, subfolder in (("index", "patches"), ("shard", "patches/shards"), ("split", "splits")):
        size = sum(file.stat().st_size for file in (data / subfolder).glob("*.csv"))
        fit.set_coefficient(f"{name}_row_bytes", size / rows)
    path = data / "splits/train.csv"
    seconds = timed(read_split, path)
    table, model_rows = read_split(path), read_rows_for_model(path, COHORT_ALL)
    fit.set_coefficient("table_row_memory", table.memory_usage(deep=True).sum() / len(table))
    # the table, whose columns `store.PatchSelection` keeps, and a position in the order of an epoch
    fit.set_coefficient("read_row_memory", model_rows.memory_usage(index=False).sum() / len(model_rows) + 8)
    fit.set_coefficient("table_row", seconds / len(table))


def networks(fit: Fit, folder: Path) -> None:
    """Measure epochs, evaluations and latents of several architectures."""
    from histocae.networks import backend

    backend.start()
    backend.repeatable(1)
    from histocae.evaluation import reconstruction
    from histocae.networks import linear
    from histocae.patches.images import InMemory

    store = cohort.store(folder / "store", cohort.draw(folder, 3))
    rows = store.index()
    few, many = store.select(rows[:LEARNED]), store.select(rows[:EVALUATED])
    entries = {name: Network(**params) for name, params in NETWORKS.items()}
    built = {name: _build(entry, few) for name, entry in entries.items()}
    learn = {name: epoch for name, (_, epoch) in built.items()}
    description = f"an epoch of {LEARNED} patches of"
    fit.add(_samples(description, learn, lambda network: model.learning(network, LEARNED, BATCH)))
    evaluate, measure = (
        {name: partial(_second_half, function, cae, many) for name, (cae, _) in built.items()}
        for function in (reconstruction.measure_mse, reconstruction.measure)
    )
    description = f"MSE of {EVALUATED} patches by"
    fit.add(_samples(description, evaluate, lambda network: model.evaluating(network, EVALUATED), warm=0))
    measured = {name: measure[name] for name in (*list(NETWORKS)[:2], list(NETWORKS)[-1])}
    description = f"all measures of {EVALUATED} patches by"
    terms = partial(model.measuring, patches=EVALUATED, pixels=model.PIXELS)
    fit.add(_samples(description, measured, terms, warm=0))
    # at half the side: at the full side this would take most of the time of the whole script
    small = InMemory(many.take(np.arange(COMPONENT_PATCHES) % EVALUATED)[:, ::2, ::2])
    seconds = [timed(linear._in_batches, small, COMPONENTS, 1) * cores()]
    description = f"{COMPONENTS} principal components of {COMPONENT_PATCHES} patches of 64 px"
    fit.add([Sample(description, model.components(COMPONENT_PATCHES, model.PIXELS // 2), seconds)])


def _samples(
    description: str, ways: dict[str, Callable], terms: Callable[[Size], model.Terms], warm: int = 1
) -> list[Sample]:
    """Time ways that use all cores, one per architecture."""
    samples = []
    for name, rounds in zip(ways, in_turn(list(ways.values()), warm), strict=True):
        network = size(Network(**NETWORKS[name]), model.PIXELS)
        core_seconds = [seconds * cores() for seconds in rounds]
        samples.append(Sample(f"{description} {name}", terms(network), core_seconds, name == list(NETWORKS)[-1]))
    return samples


def _build(entry: Network, patches) -> tuple:
    """Build a CAE, and a function that trains it for an epoch."""
    from histocae import CAE
    from histocae.networks import fused
    from histocae.training import loop, steps

    cae = CAE(patches.shape, entry.latent_features, entry.filters, architecture=entry.architecture)
    network = fused.fused_on_bytes(cae)
    optimizer = steps.optimizer("adamax", {"learning_rate": 1e-4})
    optimizer.build(network.trainable_variables)
    engine = steps.make(network, optimizer, "mse")

    def learn() -> None:
        loop.learn(engine, Batches(patches, BATCH, 0, 1), 1, False, lambda _: None)

    return cae, learn


def _second_half(measure: Callable, cae, patches) -> float:
    """Measure the seconds of a second pass over patches within one call; the first pass also compiles."""
    both_passes = timed(measure, cae, Twice(patches), "")
    return max(both_passes - timed(measure, cae, patches, ""), 1e-3)


class Twice:
    """Return images, each of them twice."""

    def __init__(self, images):
        self._images, self.shape = images, images.shape

    def __len__(self) -> int:
        return 2 * len(self._images)

    def take(self, positions: np.ndarray) -> np.ndarray:
        return self._images.take(positions % len(self._images))


def studies(fit: Fit, folder: Path) -> None:
    """Measure whole stages at two sizes: training, evaluation, tumor against normal, and the study of latents."""
    trainings, evaluations, pairs, latents = [], [], [], []
    for train, other in PAIRS:
        project = _project(folder / f"pair-{train}", train, other)
        network = size(Network(filters=[8, 16, 32, 64]), model.PIXELS)
        for name in ("tumor", "normal"):
            # half of the slides are tumor, half normal
            work = model.learning(network, train // 2, BATCH), model.evaluating(network, other // 2)
            trainings.append(_run(project, "train", name) - model.total(fit.values, *work) / cores())
            work = model.evaluating(network, train // 2 + other), model.measuring(network, other, model.PIXELS)
            evaluations.append(_run(project, "evaluate", name) - model.total(fit.values, *work) / cores())
        description = f"tumor against normal, {train + 2 * other} patches"
        seconds = [_run(project, "tissue") for _ in range(2)]
        pairs.append(Sample(description, model.comparing(train + 2 * other), seconds))
        reports = project / "reports/models/tumor/evaluation"
        written = ("per_patch.csv", "per_patch_validation.csv")
        report_bytes = sum((reports / name).stat().st_size for name in written)
    fit.set_coefficient("train_start", statistics.median(trainings), min(trainings), max(trainings))
    fit.set_coefficient("evaluate_start", statistics.median(evaluations), min(evaluations), max(evaluations))
    fit.set_coefficient("report_row_bytes", report_bytes / 2 / other)
    fit.set_coefficient("report_row", _report_row(folder))
    fit.add(pairs)
    for train, other in STUDIED:
        project = _project(folder / f"latents-{train}", train, other)
        _draw_latents(project, train, other)
        description = f"a study of 512 latents of {train + 2 * other} patches"
        held_out = (train, other) == STUDIED[-1]
        seconds = [_run(project, "latent", "all") for _ in range(2)]
        latents.append(Sample(description, model.studying(train + 2 * other, 512), seconds, held_out))
    fit.add(latents)


def _project(folder: Path, train: int, other: int) -> Path:
    folder.mkdir()
    tracking.make_project(folder, {"train": train, "validation": other, "test": other}, 100, epochs=1)
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["data"]["source"], params["tissue"]["latents"] = "tiles", None
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return folder


def _draw_latents(project: Path, train: int, other: int) -> None:
    folder, rng = project / "models/latents/all", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("validation", other), ("test", other)):
        np.save(folder / f"{part}.npy", rng.normal(size=(count, 512)).astype(np.float32))
    write_json({"model": "all", "weights": "", "features": 512}, folder / "latents.json")


def _run(folder: Path, *command: str) -> float:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    script = Path(sys.executable).with_name("histocae")
    options = {"cwd": folder, "check": True, "env": environment, "stderr": subprocess.DEVNULL}
    return timed(lambda: subprocess.run([script, *command], **options))


def _report_row(folder: Path) -> float:
    """Measure the seconds to write a row of an evaluation."""
    import pandas as pd

    from histocae.files import write_table

    count, rng = 20_000, np.random.default_rng(0)
    text_columns = ("slide_id", "case_id", "sample_type", "shard")
    table = pd.DataFrame({name: [f"{name}-0123456789"] * count for name in text_columns})
    table = table.assign(position=np.arange(count), **{f"m{i}": rng.random(count) for i in range(4)})
    return timed(write_table, table, folder / "rows.csv", ",") / count


ALL = (files, patches, tables, networks, studies)
