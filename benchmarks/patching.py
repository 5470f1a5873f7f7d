"""Extracting the patches of a whole slide: tissue mask, reading, storing."""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import seeds
import slides
import yaml
from harness import in_turn, record

from histocae.params import Patches
from histocae.patches.shards import ShardRecord, ShardTask, make_shard

SIDE = 8192  # of the slide in pixels
ROUNDS = 2


@dataclass(frozen=True)
class Here:
    """A source with one slide, which is on the disk."""

    path: Path
    tiles: bool = False
    keep: bool = True
    demo_spec: None = None

    def fetch(self, slide_id: str, file: str) -> Path:
        """Return the slide."""
        return self.path


def cores() -> int:
    """Count the cores that a process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cut_slide(path: Path, folder: Path, threads: int) -> ShardRecord:
    """Extract patches as the stage does, with the section `patches` of params.yaml."""
    params = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))["patches"]
    task = ShardTask(
        slide_id=path.stem,
        files=(path.name,),
        source=Here(path),
        own_mpp=None,
        default_mpp=None,
        params=Patches(**params),
        seed=1,
        shards=folder / "shards",
        overviews=folder / "overviews",
        previews=folder / "previews",
        made_from="",
        threads=threads,
    )
    return make_shard(task)


def main() -> int:
    """Measure; the exit code is 0 if the two ways keep about the same patches."""
    with tempfile.TemporaryDirectory() as folder:
        path = slides.generic(Path(folder) / "slide.tif", slides.laid_out(SIDE, SIDE))
        small = slides.generic(Path(folder) / "small.tif", slides.laid_out(1024, 1024))
        kept: dict[str, int] = {}

        def notebooks(path: Path = path) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                start = time.perf_counter()
                kept["notebooks"] = seeds.cut_slide(path, Path(out))
                return time.perf_counter() - start

        def ours(path: Path = path, threads: int = cores()) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                start = time.perf_counter()
                kept["ours"] = cut_slide(path, Path(out), threads).kept
                return time.perf_counter() - start

        for way in (notebooks, ours):
            way(small)  # imports the libraries and uses them for the first time
        ways = {"notebooks": notebooks, "ours": ours, "ours, one thread": lambda: ours(threads=1)}
        taken = in_turn(ways, ROUNDS, SIDE**2 / 128**2, "cells", warm=0)
    print(f"kept: {kept} of {SIDE**2 // 128**2} cells")
    record(
        "patching_vs_seeds",
        (taken["notebooks"] / kept["notebooks"]) / (taken["ours"] / kept["ours"]),
        20,
        "higher",
        "a slide of 8,192 pixels a side into patches, one process: read_region of every cell, white share of its "
        "pixels, PNG files / mask, tiles decoded in threads, one array; per patch kept",
    )
    return int(not 0.8 < kept["notebooks"] / kept["ours"] < 1.25)


if __name__ == "__main__":
    sys.exit(main())
