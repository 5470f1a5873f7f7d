"""Memory of patch extraction, which must not grow with the slide."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import slides
from harness import record
from patching import cores, extract_patches

SMALL, LARGE = (4096, 4096), (16384, 10240)  # width and height of two slides; the second has ten times the area
ROUNDS = 3  # of which the median counts


def peak(path: Path, folder: Path) -> tuple[float, int]:
    """Extract the patches of a slide in a new process; return its peak memory (anonymous, MiB) and their number."""
    child = subprocess.Popen([sys.executable, __file__, str(path), str(folder)], stdout=subprocess.PIPE, text=True)
    status, peak_kib = Path(f"/proc/{child.pid}/status"), 0
    while child.poll() is None:
        lines = status.read_text(encoding="utf-8").splitlines()
        peak_kib = max([peak_kib, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.002)
    if child.returncode:
        sys.exit(f"the child process failed with {child.returncode}")
    return peak_kib / 1024, int(child.stdout.read())


def main() -> None:
    """Measure both slides."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            slides.generic(Path(folder) / f"{width}.tif", slides.repeat_tissue(width, height))
            for width, height in (SMALL, LARGE)
        ]
        medians = []
        for path in paths:
            rounds = [peak(path, Path(folder) / "out") for _ in range(ROUNDS)]
            mib, count = sorted(rounds)[ROUNDS // 2]
            medians.append((mib, count))
            print(f"{path.name}: {count} patches, at most {mib:.0f} MiB of anonymous memory")
    (small, few), (large, many) = medians
    record(
        "memory_patching",
        large / small,
        1.2,
        "lower",
        f"peak anonymous memory of a process that extracts {many} / {few} patches ({large:.0f} / {small:.0f} MiB)",
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(extract_patches(Path(sys.argv[1]), Path(sys.argv[2]), cores()).kept)
    else:
        main()
