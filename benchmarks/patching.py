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
from histocae.patches.shard_record import ShardRecord, ShardTask
from histocae.patches.shards import make_shard

SIDE = 8192  # of the slide in pixels
ROUNDS = 5


@dataclass(frozen=True)
class LocalSource:
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


def extract_patches(path: Path, folder: Path, threads: int) -> ShardRecord:
    """Extract the patches of a slide as the stage does, with the section `patches` of params.yaml."""
    params = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))["patches"]
    task = ShardTask(
        slide_id=path.stem,
        files=(path.name,),
        source=LocalSource(path),
        own_mpp=None,
        default_mpp=None,
        params=Patches(**params),
        seed=1,
        shards=folder / "shards",
        overviews=folder / "overviews",
        previews=folder / "previews",
        hashes={},
        made_from="",
        threads=threads,
    )
    return make_shard(task)


def main() -> int:
    """Measure; the exit code is 0 if the two ways keep about the same number of patches."""
    with tempfile.TemporaryDirectory() as folder:
        path = slides.generic(Path(folder) / "slide.tif", slides.repeat_tissue(SIDE, SIDE))
        small = slides.generic(Path(folder) / "small.tif", slides.repeat_tissue(1024, 1024))
        kept: dict[str, int] = {}

        def notebooks(path: Path = path) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                start = time.perf_counter()
                kept["notebooks"] = seeds.extract_patches(path, Path(out))
                return time.perf_counter() - start

        def histocae(path: Path = path, threads: int = cores()) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                start = time.perf_counter()
                kept["histocae"] = extract_patches(path, Path(out), threads).kept
                return time.perf_counter() - start

        for way in (notebooks, histocae):
            way(small)  # imports the libraries and uses them for the first time
        ways = {
            "notebooks": notebooks,
            "histocae": histocae,
            "histocae, one thread": lambda: histocae(threads=1),
        }
        medians = in_turn(ways, ROUNDS, SIDE**2 / 128**2, "cells", warm=0)
    print(f"kept: {kept} of {SIDE**2 // 128**2} cells")
    record(
        "patching_vs_seeds",
        (medians["notebooks"] / kept["notebooks"]) / (medians["histocae"] / kept["histocae"]),
        20,
        "higher",
        "extracting the patches of a slide of 8,192 pixels a side in one process, time per patch kept: read_region "
        "of every cell, share of white pixels, PNG files / tissue mask, tiles decoded in threads, one array",
    )
    return int(not 0.8 < kept["notebooks"] / kept["histocae"] < 1.25)


if __name__ == "__main__":
    sys.exit(main())
