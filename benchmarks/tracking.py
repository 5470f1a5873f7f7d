"""A training that MLflow tracks on sqlite, compared with the same training without MLflow, as whole processes."""

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from harness import in_turn, record

from histocae.cohort.split import SPLITS
from histocae.identifiers import COMPARED
from histocae.patches.shard_file import ShardWriter
from histocae.patches.store import INDEX_COLUMNS, SHARDS, write_index
from histocae.sources.tables import SEED_COLUMNS

GOAL = 1.03
ROUNDS = 3
ROOT = Path(__file__).parents[1]
MODEL = "all"
PATCHES = {"train": 2000, "validation": 500, "test": 500}
EPOCHS = 15  # most of the time of tracking is spent once; these epochs take as long as one epoch of a few slides
PIXELS, MPP = 128, 0.5
GRAIN = 8  # pixels of one color, so that images of patches compress about as well as those of tissue
# the stage train without MLflow
UNTRACKED = """
import shutil, sys, time
from pathlib import Path
import pandas as pd
from histocae import params_file, paths
from histocae.cohort.balance import rows_for_model, read_split
from histocae.files import fingerprint, replacing_folder, sha256, write_json, write_table
from histocae.networks import backend
from histocae.patches.store import PatchStore
from histocae.training import recipe

params, name = params_file.load(Path("params.yaml")), sys.argv[1]
backend.start()
fit, store = params.model(name).training(params.training), PatchStore(paths.PATCHES)
description, patches = recipe.describe(params, name, store, paths.SPLITS, paths.TRAINED), {}
for split in ("train", "validation"):
    patches[split] = store.select(rows_for_model(read_split(paths.SPLITS / f"{split}.csv"), description))
backend.repeatable(params.seed)
from histocae.evaluation.samples import write_sample
from histocae.training.checkpoint import State
from histocae.training.loop import Callbacks, Options, train

cae = recipe.build(params, name, patches["train"], paths.TRAINED)
options = Options(
    epochs=fit.epochs, batch_size=fit.batch_size, patience=fit.patience, optimizer=fit.optimizer,
    learning_rate=fit.learning_rate, seed=params.seed, schedule=fit.schedule, clip_norm=fit.clip_norm,
    augment=fit.augment, denoise=fit.denoise, picture_every=fit.picture_every, precision=fit.precision,
)
checkpoint = paths.MAIN.checkpoints / name

def write_images(state):
    epoch = len(state.rows)
    if options.shows(epoch):
        write_sample(cae, patches["validation"], checkpoint / "samples" / f"epoch_{epoch:03d}.png")

state = State(training_id=name, start=int(time.time() * 1000))
state = train(
    cae, patches["train"], patches["validation"], options, state=state, folder=checkpoint,
    fingerprint=description["made_from"], callbacks=Callbacks(on_epoch=write_images),
)
with replacing_folder(paths.TRAINED / name) as folder:
    cae.save_into(folder)
    write_table(pd.DataFrame(state.rows), folder / "history.csv")
    (checkpoint / "samples").rename(folder / "samples")
    weights = fingerprint([sha256(file) for file in sorted(folder.glob("*.weights.h5"))])
    write_json({**description, "epochs": len(state.rows), "weights": weights}, folder / recipe.FILE)
shutil.rmtree(checkpoint)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder, PATCHES, epochs=EPOCHS, patience=EPOCHS)
        (folder / "untracked.py").write_text(UNTRACKED, encoding="utf-8")
        script = Path(sys.executable).with_name("histocae")
        cores: dict[str, list[float]] = {"untracked": [], "tracked": []}
        medians = in_turn(
            {
                "untracked": training(folder, cores["untracked"], sys.executable, "untracked.py", MODEL),
                "tracked": training(folder, cores["tracked"], script, "train", MODEL),
            },
            ROUNDS,
            unit="trainings",
            warm=0,
        )
        if not (folder / "mlflow.db").is_file():
            sys.exit("nothing was tracked")
    untracked, tracked = medians["untracked"], medians["tracked"]
    core_seconds = {name: statistics.median(seconds) for name, seconds in cores.items()}
    record(
        "training_with_mlflow",
        tracked / untracked,
        GOAL,
        "lower",
        "a training with MLflow on a new sqlite database against a training without MLflow, whole processes of "
        f"{untracked:.0f} s",
        reason=f"{tracked - untracked:.1f} s more: loading MLflow, making its database, logging and delivery take "
        f"{core_seconds['tracked'] - core_seconds['untracked']:.1f} core-seconds, while the training uses "
        f"{core_seconds['untracked'] / untracked:.1f} cores throughout",
    )


def training(folder: Path, cores: list[float], *command: str | Path) -> Callable[[], float]:
    """Make a function that trains from scratch in a project and returns seconds; core-seconds go into `cores`."""

    def run() -> float:
        for output in ("models", "mlruns", ".histocae"):
            shutil.rmtree(folder / output, ignore_errors=True)
        for file in folder.glob("mlflow.db*"):
            file.unlink()
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, check=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cores.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return seconds

    return run


def make_project(folder: Path, patches: dict[str, int], per_slide: int = 250, **training_params: object) -> None:
    """Make a project that is ready to train: params, a store of patches drawn at random, and a split.

    Args:
        folder: an existing folder.
        patches: number of patches of each part of the split, a multiple of `per_slide`.
        per_slide: patches of a slide.
        training_params: values of `training` in params.yaml that replace its own.

    """
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["training"] |= training_params
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    rng, rows, number = np.random.default_rng(0), [], 0
    for part, count in patches.items():
        for _ in range(count // per_slide):
            number += 1
            name = f"slide-{number:03d}"
            write_shard(folder / "data/patches" / SHARDS / f"{name}.npy", per_slide, rng)
            rows += [slide_rows(name, number, per_slide).assign(part=part)]
    index = pd.concat(rows, ignore_index=True)
    write_index(folder / "data/patches", index, PIXELS, MPP)
    for part in SPLITS:
        table = (
            index[index["part"] == part]
            .drop(columns="part")
            .reindex(columns=[*SEED_COLUMNS, *(name for name in INDEX_COLUMNS if name not in SEED_COLUMNS)])
        )
        (folder / "data/splits").mkdir(exist_ok=True)
        table.to_csv(folder / "data/splits" / f"{part}.csv", sep="|", index=False)


def write_shard(path: Path, count: int, rng: np.random.Generator) -> None:
    """Write patches of random colors in squares of GRAIN pixels."""
    with ShardWriter(path, PIXELS) as shard:
        small = rng.integers(0, 256, (count, PIXELS // GRAIN, PIXELS // GRAIN, 3), np.uint8)
        shard.append(small.repeat(GRAIN, axis=1).repeat(GRAIN, axis=2))


def slide_rows(name: str, number: int, count: int) -> pd.DataFrame:
    """Return the rows of a slide's patches, with the columns of an index."""
    position = np.arange(count)
    return pd.DataFrame(
        {
            "slide_id": name,
            "case_id": f"case-{number:03d}",
            "sample_type": COMPARED[number % 2],
            "shard": name,
            "position": position,
            "file": f"{name}.tif",
            "row": 0,
            "column": position,
            "x": position * PIXELS,
            "y": 0,
            "mpp": MPP,
            "tissue_share": 1.0,
            "patch_label": COMPARED[number % 2],
        }
    )


if __name__ == "__main__":
    main()
