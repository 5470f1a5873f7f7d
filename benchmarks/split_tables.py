"""Seconds and peak memory of reading the tables of a split, as the end of a training and `register` do.

    python benchmarks/split_tables.py                  # 10^7 rows of training, a third of it of each other part
    python benchmarks/split_tables.py --rows 100000

The tables are drawn, with TCGA's barcodes; there are no patches. Each reading runs in its own process. Its
memory is its peak resident set (VmHWM), MLflow and pandas included. The tables of 10^7 rows take 4 GB below --folder
and are deleted at the end.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import FOLDER

from histocae import paths
from histocae.cohort.split import SPLITS
from histocae.files import SEPARATOR, sha256, write_json
from histocae.patches.store import PATCH_COLUMNS
from histocae.sources.tables import SEED_COLUMNS

ROWS = 10_000_000
PATCHES = 3333  # of a slide, on average
SPREAD = 0.6  # of the logarithm of the patches of a slide
NORMAL = 0.15  # share of the slides
WIDTH = 200  # of a slide's grid, in patches
MODELS = ("all", "tumor")  # all rows, and a balanced sample of the rows of one tissue
MEASURED = (0.015625, 9.125, 0.4375, 0.0, 0.875)  # of each patch: a clean one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="number of rows of training")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables are written during the run")
    parser.add_argument("--model", choices=MODELS, help=argparse.SUPPRESS)  # in the child process
    options = parser.parse_args()
    if options.model:
        read(options.model)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        draw(Path(folder), options.rows)
        for model in MODELS:
            command = [sys.executable, str(Path(__file__).resolve()), "--model", model]
            subprocess.run(command, cwd=folder, check=True)


def read(model: str) -> None:
    """Read the tables as the end of a training does, in this process; print rows, seconds and MiB."""
    from histocae.tracking import delivery
    from histocae.tracking.record import TrainingRecord

    class Server:
        """A server that discards what it receives."""

        def log_inputs(self, run_id: str, inputs: list) -> None:
            print(f"{len(inputs)} tables of model {model}")

    record = TrainingRecord(model)
    start = time.perf_counter()
    delivery._inputs(Server(), "run", record)  # the record keeps its tables for the model card
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    rows = sum(table.rows for table in record.tables.values())
    print(f"{model:6s} {rows:12,} rows {seconds:8.1f} s {peak:8.0f} MiB", flush=True)


def draw(folder: Path, rows: int) -> None:
    """Write tables of a split, and the record of a training of each model on them."""
    rng = np.random.default_rng(1)
    slides = 0
    for split in SPLITS:
        path = folder / paths.SPLITS / f"{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        remaining = rows if split == "train" else rows // 3
        with open(path, "w", encoding="utf-8") as handle:
            handle.write(SEPARATOR.join((*SEED_COLUMNS, "shard", *PATCH_COLUMNS)) + "\n")
            while remaining:
                count = min(remaining, int(rng.lognormal(0, SPREAD) * min(PATCHES, max(1, rows // 300))) + 1)
                handle.writelines(_lines(slides, count, rng))
                remaining -= count
                slides += 1
    training_params = {"epochs": 1, "balance": "patches", "min_percent_tumor_nuclei": None}
    settings = {"seed": 1, "data": {"source": "slides"}, "training": training_params}
    splits = {split: sha256(folder / paths.SPLITS / f"{split}.csv") for split in SPLITS}
    for model in MODELS:
        training = {
            "cohort": model,
            "made_from": "a fingerprint",
            "weights": "a fingerprint",
            "model": {"architecture": "plain"},
            "params": {**settings, "model": {"name": model}},
            "splits": splits,
            "patches": {"train": 1, "validation": 1},
            **dict.fromkeys(("epochs", "best_epoch", "parameters", "latent_features", "latent_size"), 1),
        }
        write_json(training, folder / paths.TRAINED / model / "training.json")


def _lines(slide: int, count: int, rng: np.random.Generator) -> list[str]:
    normal = rng.random() < NORMAL
    case = f"TCGA-{slide // 36 % 10}{'ABCDEFGHIJ'[slide % 10]}-{slide // 2:04d}"
    sample = f"{case}-{'11' if normal else '01'}A"
    name = f"{sample}-01-TS{slide % 9}"
    suffix = hashlib.sha256(name.encode()).hexdigest()[:8]
    nuclei = "" if slide % 50 == 0 else str(0.0 if normal else float(rng.integers(50, 100)))
    sample_type = "Solid Tissue Normal" if normal else "Primary Tumor"
    percents = (100.0 * normal, float(rng.integers(40)), 0.0 if normal else 80.0, nuclei)
    cells = (case, sample, name, "Adenomas and Adenocarcinomas", sample_type, *percents, f"{name}.{suffix}")
    slide_cells = SEPARATOR.join(str(cell) for cell in cells)
    lines = []
    for i in range(count):
        row, column = divmod(i, WIDTH)
        position = (i, f"{name}.{suffix}.svs", row, column, column * 128, row * 128, 0.5, 0.5 + i % 33 / 64)
        cells = (*position, *MEASURED, sample_type, "", "")
        lines.append(SEPARATOR.join((slide_cells, *map(str, cells))) + "\n")
    return lines


if __name__ == "__main__":
    main()
