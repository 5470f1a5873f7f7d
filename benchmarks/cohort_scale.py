"""Run metadata, slides, patches, split, the start of a training, and plan on a simulated cohort of TCGA's size.

Barcodes, sizes and numbers of patches are drawn at random. There are no slides; shards are sparse files of the right
length, with the records of finished shards. So the stages run unchanged and extract nothing. Each step runs in its
own process. Where this script may create a cgroup (root on Linux), the cgroup limits the memory of the process; the
peak of its anonymous memory is reported in any case.

    python benchmarks/cohort_scale.py                                    # 30,000 slides, 10^8 patches, 2 GiB
    python benchmarks/cohort_scale.py --slides 300 --patches 100000 --out some.json

The full cohort takes 45 GB of disk in a folder below --folder; that folder is deleted at the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from harness import FOLDER, machine
from larger_than_memory import Memory
from memory_training import anonymous

from histocae import params_file, paths
from histocae.files import fingerprint, read_table, state, write_json
from histocae.patches import integrity
from histocae.patches.shard_record import ShardRecord, hashes_of_files
from histocae.patches.store import SHARD_COLUMNS, SHARDS
from histocae.sources import slide_source
from histocae.sources.tables import METADATA_TEXTS
from histocae.stages import patches as patching

ROOT = FOLDER.parent
SLIDES, PATCHES, GIB = 30_000, 100_000_000, 2.0
SLIDES_PER_CASE = 30_000 / 11_000
NORMAL = 0.15  # share of the slides
SITES = 700
SPREAD = 0.6  # of the logarithm of the patches of a slide
BYTES = 500e6  # of a slide
COLUMNS = 200  # of a slide's grid
MEASURED = "0.015625|9.125|0.4375|0.0|0.875"  # of each patch: a clean one
SECONDS = 0.05  # between two readings of the memory of a process
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# the stage train until it builds a model, and the first batch
READ = """
import sys
from pathlib import Path
from histocae import params_file, paths, stages
from histocae.stages import train
from histocae.patches.store import PatchStore
params = params_file.load(Path("params.yaml"))
from histocae.training import recipe
store = PatchStore(paths.PATCHES)
description = recipe.describe(params, "all", store, paths.SPLITS, paths.TRAINED)
patches = train.read(store, paths.SPLITS, description)
from histocae.training.batches import Batches
batch, _ = Batches(patches["train"], 32, 0, 1)[0]
print(len(patches["train"]), len(patches["validation"]), batch.shape)
"""


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = simulate(Path(folder), arguments.slides, arguments.patches, int(arguments.gib * 2**30))
    for step in results["steps"]:
        print("{step:10s} {seconds:8.1f} s {anonymous_mib:8.0f} MiB  {outcome}".format(**step))
    write_json(results, arguments.out)
    return sum(step["outcome"] != "done" for step in results["steps"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=SLIDES)
    parser.add_argument("--patches", type=int, default=PATCHES)
    parser.add_argument("--gib", type=float, default=GIB, help="limit of each process' memory in GiB; 0: no limit")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the cohort is written during the run")
    parser.add_argument("--out", type=Path, default=FOLDER / "cohort_scale.json")
    return parser.parse_args()


def simulate(folder: Path, slides: int, patches: int, limit: int) -> dict:
    """Run all steps on a drawn cohort.

    Args:
        folder: an empty folder.
        slides: number of slides.
        patches: approximate number of patches of all slides.
        limit: limit of each process' memory in bytes; 0 for no limit.

    Returns:
        JSON-able: the drawn cohort, and for each step its seconds, peak of anonymous memory in MiB and outcome.

    """
    rng = np.random.default_rng(1)
    cases = draw_tables(folder, slides, rng)
    steps = [run(folder, "metadata", limit), run(folder, "slides", limit)]
    start = time.perf_counter()
    rows = draw_shards(folder, patches, rng)
    print(f"{rows} rows of {slides} slides drawn in {time.perf_counter() - start:.0f} s", flush=True)
    steps.append(run(folder, "patches", limit))
    index_bytes, table_bytes = (folder / paths.PATCHES / "index.csv").stat().st_size, 0
    for file in (folder / paths.PATCHES / SHARDS).glob("*.csv"):
        table_bytes += file.stat().st_size
        file.unlink()  # frees disk for the next steps, which do not read these files
    steps += [run(folder, step, limit) for step in ("split", "read", "plan")]
    split_bytes = sum(file.stat().st_size for file in (folder / paths.SPLITS).glob("*.csv"))
    return {
        "slides": slides,
        "cases": cases,
        "patches": rows,
        "index_bytes": index_bytes,
        "shard_table_bytes": table_bytes,
        "split_bytes": split_bytes,
        "limit_bytes": limit,
        "machine": machine(),
        "steps": steps,
    }


def draw_tables(folder: Path, slides: int, rng: np.random.Generator) -> int:
    """Write params.yaml and the GDC portal's manifest and table of a drawn cohort; return the number of its cases."""
    letters = np.array(list(ALPHABET))
    sites = [f"{number // 36:d}"[-1] + ALPHABET[number % 36] for number in range(min(SITES, 360))]
    count = max(12, round(slides / SLIDES_PER_CASE))
    cases = [
        f"TCGA-{sites[number % len(sites)]}-{''.join(letters[rng.integers(36, size=3)])}{number % 10}"
        for number in range(count)
    ]
    cases = sorted(set(cases))
    case_of_slide = np.arange(slides) % len(cases)
    rows = []
    for number, case in enumerate(case_of_slide.tolist()):
        number_in_case, normal = number // len(cases), rng.random() < NORMAL
        section = f"{'TMB'[number_in_case % 3]}S{number_in_case // 3 + 1}"
        barcode = f"{cases[case]}-{'11' if normal else '01'}A-01-{section}"
        rows.append(
            {
                "slide_submitter_id": barcode,
                "case_submitter_id": cases[case],
                "sample_submitter_id": barcode[:16],
                "sample_type": "Solid Tissue Normal" if normal else "Primary Tumor",
                "disease_type": "Adenomas and Adenocarcinomas",
                "percent_normal_cells": 100.0 * normal,
                "percent_stromal_cells": float(rng.integers(40)),
                "percent_tumor_cells": 0.0 if normal else 80.0,
                "percent_tumor_nuclei": 0.0 if normal else float(rng.integers(50, 100)),
            }
        )
    pd.DataFrame(rows).to_csv(folder / "slide.tsv", sep="\t", index=False)
    ids = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in rows]
    names = [f"{row['slide_submitter_id']}.{file_id.upper()}.svs" for row, file_id in zip(rows, ids, strict=True)]
    sizes = np.maximum(1, rng.lognormal(-0.5 * SPREAD**2, SPREAD, slides) * BYTES).astype(np.int64)
    manifest = pd.DataFrame({"id": ids, "filename": names, "size": sizes, "state": "released"})
    manifest["md5"] = [rng.bytes(16).hex() for _ in rows]
    manifest.to_csv(folder / "manifest.txt", sep="\t", index=False)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["data"] |= {"source": "gdc", "keep_slides": False}
    params["data"]["gdc"] |= {"table": "slide.tsv", "manifest": "manifest.txt"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return len(cases)


def draw_shards(folder: Path, patches: int, rng: np.random.Generator) -> int:
    """Write an empty shard, its rows and its record for each slide that the stages named."""
    previous_folder = Path.cwd()
    os.chdir(folder)
    try:
        params = params_file.load(Path("params.yaml"))
        metadata = read_table(paths.METADATA, METADATA_TEXTS).set_index("slide_id", drop=False)
        files = read_table(paths.SLIDES, ("slide_id", "file", "sha256", "md5", "mpp_from", "vendor"))
        tasks = patching._tasks(
            params, files, metadata, slide_source.from_params(params.data, params.seed, paths.SLIDE_FILES)
        )
        sizes = rng.lognormal(0, SPREAD, len(tasks))
        counts = np.maximum(1, sizes * patches / sizes.sum()).astype(int)
        lines, ends = _lines(int(counts.max()))
        for output in (tasks[0].shards, tasks[0].overviews, tasks[0].previews):
            output.mkdir(parents=True)
        hashes = {}
        for task, count in zip(tasks, counts.tolist(), strict=True):
            hashes |= _draw_shard(task, count, lines[: ends[count]], params.patches.pixels)
        integrity.remember(hashes, {path: state(path) for path in hashes})
        return int(counts.sum())
    finally:
        os.chdir(previous_folder)


def _lines(count: int) -> tuple[bytes, list[int]]:
    """Return rows of a shard's table, FILE in place of the slide's file name, and the offset of each row's end."""
    text, ends = bytearray(), [0]
    for position in range(count):
        row, column = divmod(position, COLUMNS)
        tissue_share = 0.5 + position % 33 / 64
        text += (
            f"{position}|FILE|{row}|{column}|{column * 128}|{row * 128}|0.5|{tissue_share!r}|{MEASURED}\n".encode()
        )
        ends.append(len(text))
    return bytes(text), ends


def _draw_shard(task, count: int, lines: bytes, pixels: int) -> dict[Path, str]:
    header = f"{'|'.join(SHARD_COLUMNS)}\n".encode()
    (task.shards / f"{task.name}.csv").write_bytes(header + lines.replace(b"FILE", task.files[0].encode()))
    with open(task.shards / f"{task.name}.npy", "wb") as handle:
        shape = (count, pixels, pixels, 3)
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
        handle.truncate(handle.tell() + count * pixels**2 * 3)
    record = {
        "slide_id": task.slide_id,
        "shard": task.name,
        "reason": None,
        "failed": False,
        "kept": count,
        "counts": {"kept": count, "background": count},
        "level": 0,
        "mpp": 0.5,
        "patch_mpp": 0.5,
        "mpp_from": "slide",
        "width": COLUMNS * 128,
        "height": (count // COLUMNS + 1) * 128,
        "failures": [],
    }
    (task.overviews / f"{task.name}.png").touch()
    (task.previews / f"{task.name}.jpg").touch()
    # shards without data have terabytes of zeros: hashes that count as known are not computed
    record["files"] = dict.fromkeys(("shard", "rows", "overview", "thumbnail"), task.fingerprint)
    written = {**record, "fingerprint": task.fingerprint}
    written |= {"sha256": fingerprint(written)}
    (task.shards / f"{task.name}.json").write_text(json.dumps(written), encoding="utf-8")
    return hashes_of_files(task, ShardRecord(**record))


def run(folder: Path, step: str, limit: int) -> dict:
    """Run a step in a process of limited memory; return its seconds and the peak of its anonymous memory."""
    script = Path(sys.executable).with_name("histocae")
    command = [sys.executable, "-c", READ] if step == "read" else [str(script), step]
    memory = Memory() if limit else None
    start = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, preexec_fn=None if memory is None else memory.enter
    )
    if memory is not None:
        memory.limit(limit)
    peak = 0
    while child.poll() is None:
        peak = max(peak, anonymous(child.pid))
        time.sleep(SECONDS)
    seconds = time.perf_counter() - start
    if memory is not None:
        memory.end()
    outcome = "done" if child.returncode == 0 else f"ended with {child.returncode}"
    result = {
        "step": step,
        "seconds": round(seconds, 1),
        "anonymous_mib": round(peak / 2**20),
        "outcome": outcome,
        "limited": memory is not None and memory.limited,
    }
    print(result, flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
