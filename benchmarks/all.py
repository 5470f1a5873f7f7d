"""Runs every benchmark of this folder, one after the other, and puts the figures into the README."""

import subprocess
import sys
import time

import harness


def main() -> int:
    """Run them; the exit code is the number of those that broke."""
    broken = 0
    others = {"all.py", "harness.py", "seeds.py", "slides.py", "train_gpu.py"}
    for script in sorted(one for one in harness.FOLDER.glob("*.py") if one.name not in others):
        print(f"\n== {script.name}", flush=True)
        start = time.perf_counter()
        broken += subprocess.run([sys.executable, script]).returncode != 0
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    harness.quote()
    return broken


if __name__ == "__main__":
    sys.exit(main())
