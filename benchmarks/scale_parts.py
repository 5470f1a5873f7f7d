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
from patching import cores, cut_slide
from scale_fit import ROUNDS, Fit, Sample, in_turn, timed

from histocae import params_file
from histocae.files import sha256, write_json
from histocae.params import Network
from histocae.planning import model
from histocae.planning.networks import Size, size
from histocae.sources import demo
from histocae.training.batches import Batches

BATCH = 32
LEARNT, JUDGED = 384, 768  # patches per round
# measured architectures; the last is held out
NETWORKS = {
    "plain [8, 16, 32] / 512": {"filters": [8, 16, 32], "latent_features": 512},
    "plain [8, 16, 32, 64]": {"filters": [8, 16, 32, 64]},
    "plain [8] / 32": {"filters": [8], "latent_features": 32},
    "residual [32, 64] / 512": {"architecture": "residual", "filters": [32, 64], "latent_features": 512},
    "compact [16, 64] / 64": {"architecture": "compact", "latent_features": 64},
    "plain [16, 32] / 256": {"filters": [16, 32], "latent_features": 256},
}
COMPONENTS, COMPONENTS_OF = 512, 2048
SIDES = ((512, 512), (2048, 2048), (4096, 4096), (6144, 4096))  # of slides in pixels; the last is held out
COHORTS = ((300, 30_000), (300, 200_000), (2000, 200_000), (700, 400_000))  # slides, rows; the last is held out
# patches of train, and of validation and of test; the last is held out
STUDIED = ((400, 200), (2000, 1000), (3000, 1500))
PAIRS = ((400, 200), (1200, 400))  # the same, for the pair; none is held out
FILES, LARGE = (100, 4000), 512 * 2**20  # numbers of files for DVC; bytes of one large file

TRAINED = 0.6  # share of the patches that train
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
    fit.know("hash_byte", statistics.median(rounds), min(rounds), max(rounds))
    subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    for key, value in (("cache.type", "copy"), ("core.site_cache_dir", str(folder / "site"))):
        _dvc(folder, "config", key, value)
    samples, looks = [], []
    for count in FILES:
        (folder / f"few-{count}").mkdir()
        for one in range(count):
            (folder / f"few-{count}" / f"{one}.csv").write_text(f"{one}\n" * 100, encoding="utf-8")
        taken = _dvc_add(folder, f"few-{count}")
        samples.append(Sample(f"dvc add of {count} small files", model.hashing(count, 0), taken))
        looks.append(
            Sample(
                f"dvc status of {count} files",
                {"status_start": 1, "status_file": count},
                [timed(_dvc, folder, "status", "-q", f"few-{count}.dvc") for _ in range(ROUNDS)],
            )
        )
    samples.append(Sample("dvc add of a file of 0.5 GB", model.hashing(1, LARGE), _dvc_add(folder, "data")))
    fit.add(samples)
    fit.add(looks)


def _dvc(folder: Path, *command: str) -> None:
    subprocess.run(["dvc", *command], cwd=folder, check=True)


def _dvc_add(folder: Path, name: str) -> list[float]:
    taken = []
    for _ in range(ROUNDS):
        shutil.rmtree(folder / ".dvc" / "cache", ignore_errors=True)
        shutil.rmtree(folder / "site", ignore_errors=True)  # remembered hashes
        taken.append(timed(_dvc, folder, "add", "-q", name))
    return taken


def patches(fit: Fit, folder: Path) -> None:
    """Measure extracting patches, opening slides and drawing demo slides."""
    from histocae.slides.slide import Slide

    def look(path: Path) -> None:
        with Slide(path) as slide:
            slide.microns(None, None)

    made = [slides.generic(folder / f"{one[0]}-{one[1]}.tif", slides.laid_out(*one)) for one in SIDES]
    kept: dict[Path, int] = {}

    def cut(path: Path) -> float:
        out = folder / "cut" / path.stem
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        kept[path] = cut_slide(path, out, 1).kept
        return time.perf_counter() - start

    taken = in_turn([partial(cut, path) for path in made])
    fit.add(
        [
            Sample(
                f"a slide of {width} x {height} pixels, {kept[path]} patches, one thread",
                model.extracting(1, kept[path], model.PIXELS),
                seconds,
                path == made[-1],
            )
            for (width, height), path, seconds in zip(SIDES, made, taken, strict=True)
        ]
    )
    path = made[2]
    looks = [timed(look, path) for _ in range(ROUNDS)]
    fit.know("look_slide", statistics.median(looks), min(looks), max(looks))
    beside = [one for one in (folder / "cut" / path.stem).rglob("*") if one.suffix in (".png", ".jpg", ".json")]
    fit.know("picture_bytes", sum(one.stat().st_size for one in beside))
    spec = demo.DemoSpec(seed=1, cases=6, side_microns=512.0)
    names = list(demo.cohort(spec)["slide_id"])[:6]
    start = time.perf_counter()
    drawn = [demo.write_slide(spec, name, folder / "demo") for name in names]
    area = len(names) * (spec.side_microns / 1000) ** 2
    fit.know("demo_mm2", (time.perf_counter() - start) / area)
    fit.know("demo_mm2_bytes", sum(one.stat().st_size for one in drawn) / area)


def tables(fit: Fit, folder: Path) -> None:
    """Measure metadata, index, split and the reading of a training, on drawn cohorts with TCGA barcodes."""
    from histocae import paths
    from histocae.cohort.balance import read_rows_for_model
    from histocae.patches.store import PatchStore
    from histocae.stages import metadata, patches, split

    def within(at: Path, what: Callable) -> Callable:
        def run() -> float:
            with contextlib.chdir(at):
                return timed(what)

        return run

    def read() -> None:
        PatchStore(paths.PATCHES).select(read_rows_for_model(paths.SPLITS / "train.csv", COHORT_ALL))

    steps: dict[str, list[Callable]] = {"metadata": [], "index": [], "split": [], "rows to train on": []}
    counts = []
    for number, (count, rows) in enumerate(COHORTS):
        at = folder / str(number)
        at.mkdir()
        rng = np.random.default_rng(number)
        cohort_scale.draw_tables(at, count, rng)
        given = params_file.load(at / "params.yaml")
        for step in ("metadata", "slides"):
            cohort_scale.run(at, step, 0)
        counts.append((count, cohort_scale.draw_shards(at, rows, rng)))
        ways = [partial(one.run, given) for one in (metadata, patches, split)]
        for some, way in zip(steps.values(), [*ways, read], strict=True):
            some.append(within(at, way))
    terms = {
        "metadata": lambda slides, _: {"metadata_slide": slides},
        "index": model.indexing,
        "split": model.splitting,
        "rows to train on": lambda slides, rows: model.reading(slides * TRAINED, rows * TRAINED),
    }
    logging.disable(logging.WARNING)
    for name, ways in steps.items():
        fit.add(
            [
                Sample(
                    f"{name} of {one[0]:,} slides, {one[1]:,} patches", terms[name](*one), taken, one == counts[-1]
                )
                for one, taken in zip(counts, in_turn(ways), strict=True)
            ]
        )
    logging.disable(logging.NOTSET)
    _sizes(fit, folder / "1", *counts[1])


def _sizes(fit: Fit, folder: Path, slides: int, rows: int) -> None:
    """Measure the bytes of rows, on the disk and in memory."""
    from histocae.cohort.balance import read_rows_for_model, read_split

    data = folder / "data"
    fit.know("metadata_slide_bytes", (data / "slides_metadata.csv").stat().st_size / slides)
    for name, place in (("index", "patches"), ("shard", "patches/shards"), ("split", "splits")):
        fit.know(f"{name}_row_bytes", sum(one.stat().st_size for one in (data / place).glob("*.csv")) / rows)
    path = data / "splits/train.csv"
    took = timed(read_split, path)
    whole, learnt = read_split(path), read_rows_for_model(path, COHORT_ALL)
    fit.know("table_row_memory", whole.memory_usage(deep=True).sum() / len(whole))
    # the table, whose columns `store.PatchSelection` keeps, and a position in the order of an epoch
    fit.know("read_row_memory", learnt.memory_usage(index=False).sum() / len(learnt) + 8)
    fit.know("table_row", took / len(whole))


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
    few, more = store.select(rows[:LEARNT]), store.select(rows[:JUDGED])
    entries = {name: Network(**about) for name, about in NETWORKS.items()}
    made = {name: _made(entry, few) for name, entry in entries.items()}
    learn = {name: one[1] for name, one in made.items()}
    fit.add(_samples(f"an epoch of {LEARNT} patches of", learn, lambda one: model.learning(one, LEARNT, BATCH)))
    judge, measure = (
        {name: partial(_second_half, way, one[0], more) for name, one in made.items()}
        for way in (reconstruction.measure_mse, reconstruction.measure)
    )
    fit.add(_samples(f"MSE of {JUDGED} patches by", judge, lambda one: model.judging(one, JUDGED), warm=0))
    some = {name: measure[name] for name in (*list(NETWORKS)[:2], list(NETWORKS)[-1])}
    every = f"all measures of {JUDGED} patches by"
    fit.add(_samples(every, some, lambda one: model.measuring(one, JUDGED, model.PIXELS), warm=0))
    # at half the side: at the full side this would take most of the time of the whole script
    small = InMemory(more.take(np.arange(COMPONENTS_OF) % JUDGED)[:, ::2, ::2])
    taken = [timed(linear._in_batches, small, COMPONENTS, 1) * cores()]
    what = f"{COMPONENTS} principal components of {COMPONENTS_OF} patches of 64 px"
    fit.add([Sample(what, model.components(COMPONENTS_OF, model.PIXELS // 2), taken)])


def _samples(
    what: str, ways: dict[str, Callable], terms: Callable[[Size], model.Terms], warm: int = 1
) -> list[Sample]:
    """Time ways that use all cores, one per architecture."""
    found = []
    for name, rounds in zip(ways, in_turn(list(ways.values()), warm), strict=True):
        counted = size(Network(**NETWORKS[name]), model.PIXELS)
        busy = [one * cores() for one in rounds]
        found.append(Sample(f"{what} {name}", terms(counted), busy, name == list(NETWORKS)[-1]))
    return found


def _made(entry: Network, patches) -> tuple:
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


def _second_half(way: Callable, cae, patches) -> float:
    """Measure the seconds of the second pass over patches within one call, whose first pass compiles."""
    whole = timed(way, cae, Twice(patches), "")
    return max(whole - timed(way, cae, patches, ""), 1e-3)


class Twice:
    """Return images, each of them twice."""

    def __init__(self, pictures):
        self._pictures, self.shape = pictures, pictures.shape

    def __len__(self) -> int:
        return 2 * len(self._pictures)

    def take(self, which: np.ndarray) -> np.ndarray:
        return self._pictures.take(which % len(self._pictures))


def studies(fit: Fit, folder: Path) -> None:
    """Measure whole stages at two sizes: training, evaluation, tumor against normal, and the study of latents."""
    trainings, evaluations, pairs, latents = [], [], [], []
    for train, other in PAIRS:
        at = _project(folder / f"pair-{train}", train, other)
        entry = size(Network(filters=[8, 16, 32, 64]), model.PIXELS)
        for name in ("tumor", "normal"):
            # half of the slides are tumor, half normal
            work = model.learning(entry, train // 2, BATCH), model.judging(entry, other // 2)
            trainings.append(_run(at, "train", name) - model.total(fit.values, *work) / cores())
            work = model.judging(entry, train // 2 + other), model.measuring(entry, other, model.PIXELS)
            evaluations.append(_run(at, "evaluate", name) - model.total(fit.values, *work) / cores())
        what = f"tumor against normal, {train + 2 * other} patches"
        pairs.append(Sample(what, model.comparing(train + 2 * other), [_run(at, "tissue") for _ in range(2)]))
        reports = at / "reports/models/tumor/evaluation"
        written = sum((reports / f"{one}.csv").stat().st_size for one in ("per_patch", "per_patch_validation"))
    fit.know("train_start", statistics.median(trainings), min(trainings), max(trainings))
    fit.know("evaluate_start", statistics.median(evaluations), min(evaluations), max(evaluations))
    fit.know("report_row_bytes", written / 2 / other)
    fit.know("report_row", _report_row(folder))
    fit.add(pairs)
    for train, other in STUDIED:
        at = _project(folder / f"latents-{train}", train, other)
        _draw_latents(at, train, other)
        what = f"a study of 512 latents of {train + 2 * other} patches"
        held_out = (train, other) == STUDIED[-1]
        taken = [_run(at, "latent", "all") for _ in range(2)]
        latents.append(Sample(what, model.studying(train + 2 * other, 512), taken, held_out))
    fit.add(latents)


def _project(folder: Path, train: int, other: int) -> Path:
    folder.mkdir()
    tracking.make_project(folder, {"train": train, "validation": other, "test": other}, 100, epochs=1)
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["data"]["source"], values["tissue"]["latents"] = "tiles", None
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return folder


def _draw_latents(folder: Path, train: int, other: int) -> None:
    at, rng = folder / "models/latents/all", np.random.default_rng(0)
    at.mkdir(parents=True)
    for part, count in (("train", train), ("validation", other), ("test", other)):
        np.save(at / f"{part}.npy", rng.normal(size=(count, 512)).astype(np.float32))
    write_json({"model": "all", "weights": "", "features": 512}, at / "latents.json")


def _run(folder: Path, *command: str) -> float:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    script = Path(sys.executable).with_name("histocae")
    how = {"cwd": folder, "check": True, "env": environment, "stderr": subprocess.DEVNULL}
    return timed(lambda: subprocess.run([script, *command], **how))


def _report_row(folder: Path) -> float:
    """Measure the seconds to write a row of an evaluation."""
    import pandas as pd

    from histocae.files import write_table

    count, rng = 20_000, np.random.default_rng(0)
    texts = ("slide_id", "case_id", "sample_type", "shard")
    table = pd.DataFrame({name: [f"{name}-0123456789"] * count for name in texts})
    table = table.assign(position=np.arange(count), **{f"m{i}": rng.random(count) for i in range(4)})
    return timed(write_table, table, folder / "rows.csv", ",") / count


ALL = (files, patches, tables, networks, studies)
