"""Memory of patch extraction, which must not grow with the slide."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import slides
from harness import record
from patching import cores, cut_slide

SMALL, LARGE = (4096, 4096), (16384, 10240)  # width and height of two slides; the second has ten times the area
ROUNDS = 3


def peak(path: Path, folder: Path) -> tuple[float, int]:
    """Extract the patches of a slide in a new process; return its peak memory (anonymous, MiB) and their number."""
    child = subprocess.Popen([sys.executable, __file__, str(path), str(folder)], stdout=subprocess.PIPE, text=True)
    status, most = Path(f"/proc/{child.pid}/status"), 0
    while child.poll() is None:
        lines = status.read_text(encoding="utf-8").splitlines()
        most = max([most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.002)
    if child.returncode:
        sys.exit(f"the child failed with {child.returncode}")
    return most / 1024, int(child.stdout.read())


def main() -> None:
    """Measure both slides."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            slides.generic(Path(folder) / f"{width}.tif", slides.laid_out(width, height))
            for width, height in (SMALL, LARGE)
        ]
        found = []
        for path in paths:
            rounds = [peak(path, Path(folder) / "out") for _ in range(ROUNDS)]
            found.append(sorted(rounds)[ROUNDS // 2])
            print(f"{path.name}: {found[-1][1]} patches, at most {found[-1][0]:.0f} MiB of anonymous memory")
    (small, few), (large, many) = found
    record(
        "memory_patching",
        large / small,
        1.2,
        "lower",
        f"most anonymous memory of a process that patches {many} / {few} patches ({large:.0f} / {small:.0f} MiB)",
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(cut_slide(Path(sys.argv[1]), Path(sys.argv[2]), cores()).kept)
    else:
        main()
