"""Run every benchmark of this folder, one after the other, and write the figures into the README."""

import json
import subprocess
import sys
import time

import harness

from histocae.files import write_json


def main() -> int:
    """Run the benchmarks; the exit code is the number of failures."""
    failures = 0
    if harness.RESULTS.is_file():  # drops figures without a script; figures of GPUs are measured elsewhere
        figures = json.loads(harness.RESULTS.read_text(encoding="utf-8"))["figures"]
        gpu_figures = {name: figure for name, figure in figures.items() if name.startswith("gpu_")}
        write_json({"figures": gpu_figures}, harness.RESULTS)
    excluded = {  # modules that benchmarks import, and benchmarks that `make bench` leaves out
        "all",
        "cohort",
        "cohort_scale",
        "decide",
        "decide_measures",
        "decide_pairs",
        "decide_tables",
        "harness",
        "quality",
        "scale",
        "scale_fit",
        "scale_parts",
        "score_warnings",
        "seeds",
        "seeds_training",
        "simulations",
        "slides",
        "split_tables",
        "train_gpu",
    }
    for script in sorted(path for path in harness.FOLDER.glob("*.py") if path.stem not in excluded):
        print(f"\n== {script.name}", flush=True)
        start = time.perf_counter()
        failures += subprocess.run([sys.executable, script]).returncode != 0
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    harness.quote()
    return failures


if __name__ == "__main__":
    sys.exit(main())
