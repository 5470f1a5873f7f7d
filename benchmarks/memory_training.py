"""Memory of a training on ten times as many patches, compared with the memory of a small training."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import record
from tracking import MODEL, make_project

GOAL = 1.2
FEW, TIMES = 1000, 10
PER_SLIDE = 250
VALIDATION = 500
SECONDS = 0.05  # between two readings of the memory
MB = 1e6
KB = 1024


def main() -> None:
    peaks = {count: peak(count) for count in (FEW, FEW * TIMES)}
    for count, peak_bytes in peaks.items():
        print(f"{count:6d} patches: at most {peak_bytes / MB:.0f} MB of anonymous memory")
    few, many = peaks.values()
    record(
        "memory_training_10x",
        many / few,
        GOAL,
        "lower",
        f"peak anonymous memory of `histocae train` on {FEW * TIMES} patches of 128 px, one epoch, against {FEW} "
        f"({few / MB:.0f} MB)",
    )


def peak(count: int) -> float:
    """Train for an epoch on `count` patches; return the peak of anonymous memory in bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {"train": count, "validation": VALIDATION, "test": PER_SLIDE}
        make_project(folder, parts, PER_SLIDE, epochs=1)
        script = Path(sys.executable).with_name("histocae")
        process = subprocess.Popen([script, "train", MODEL], cwd=folder)
        peak_bytes = 0
        while process.poll() is None:
            peak_bytes = max(peak_bytes, anonymous(process.pid))
            time.sleep(SECONDS)
        if process.returncode:
            sys.exit("the training failed")
        return peak_bytes


def anonymous(process: int) -> int:
    """Read the anonymous memory of a process in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * KB for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
