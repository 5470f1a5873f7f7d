"""`histocae score` on a slide of 10,000 patches, against reading it and computing its errors alone."""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import slides
from harness import in_turn, record

from histocae.contrast.contract import CONTRACT, NETWORKS, Contract
from histocae.networks import backend
from histocae.patches.extraction import plan_slide, read_planned
from histocae.patches.grid import make_grid
from histocae.patches.tissue import RULE
from histocae.scoring.batches import batches
from histocae.scoring.model import BATCH, Model, Source
from histocae.scoring.scored import BOUNDS, patch_params
from histocae.slides.budget import Budget
from histocae.slides.slide import Slide
from histocae.workers.processes import count_cores

PIXELS, LATENTS, FILTERS = 128, 8, [32, 64]  # the default pair
SIDE = 100 * PIXELS
# scores of a model that has learned nothing take as long
SCORE = {"means": 0.0, "deviations": 1.0, "weights": 0.0}


def make_pair(folder: Path) -> Source:
    """Write a pair as the registry has it, with untrained networks."""
    backend.start()
    from histocae import CAE, checksums
    from histocae.evaluation import scales
    from histocae.files import write_json
    from histocae.networks import exported

    shape = (PIXELS, PIXELS, 3)
    pair = [CAE(shape, LATENTS, FILTERS, architecture="residual") for _ in range(2)]
    exported.export(pair, folder / NETWORKS)
    count = 2 * scales.errors(np.zeros((1, *shape), np.float32)).shape[1]
    decision = {"threshold": 0.0, "slope": 1.0, "intercept": 0.0}
    names = ("error_tumor", "error_normal", "error_min", "score", "color")
    contract = {
        "version": 1,
        "kind": "pair",
        "models": ["tumor", "normal"],
        "latent_features": [LATENTS, LATENTS],
        "weights": ["untrained", "untrained"],
        "source": "slides",
        "patches": {
            "pixels": PIXELS,
            "mpp": slides.MPP,
            "tissue_rule": RULE,
            "tissue_share": 0.0,
            "tiles": "reduce",
            "color": "rgb",
        },
        "score": {
            "kind": "errors_by_scale",
            "linear": {**{key: [value] * count for key, value in SCORE.items()}, "intercept": 0.0},
        },
        "score_text": "a score of nothing",
        "classes": ["Primary Tumor", "Solid Tissue Normal"],
        "levels": dict.fromkeys(("patch", "slide", "case"), decision),
        "training": {
            "patches": 1,
            "levels": [0.0, 1.0],
            "quantiles": {name: [-1.0, 1.0] for name in names},
            "color": {"mean": [200.0, 150.0, 190.0], "inverse": np.eye(3).tolist()},
        },
        "findings": [],
        "caveats": [],
    }
    write_json(contract, folder / CONTRACT)
    checksums.write(folder)
    return Source(folder, "a benchmark", Contract.from_json(contract, "benchmark", "repair it"))


def command(slide: Path, pair: Path, out: Path) -> float:
    """Run the whole command in a process of its own; return its seconds."""
    # the registry is left out: the pair lies in a folder
    code = (
        "import sys; from pathlib import Path; from histocae import cli; from histocae.scoring import models\n"
        "from histocae.scoring.model import of_folder\n"
        f"models.find = lambda name, cache: of_folder(Path({str(pair)!r}), name)\n"
        f"sys.exit(cli.main(['score', {str(slide)!r}, '--out', {str(out)!r}]))"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = slides.generic(folder / "large.tif", slides.repeat_tissue(SIDE, SIDE))
        small = slides.generic(folder / "small.tif", slides.repeat_tissue(PIXELS, PIXELS))
        source = make_pair(folder / "pair")
        params, model = patch_params(source.contract, BOUNDS), Model(source)

        def blocks(slide: Slide):
            grid = make_grid(slide, slides.MPP, PIXELS, slides.MPP)
            with Budget(BOUNDS) as budget:
                _, plan = plan_slide(slide, grid, params, (0,), budget, Counter())
                yield from read_planned(slide, grid, plan, params, Counter())

        def reading() -> int:
            with Slide(large, count_cores()) as slide:
                return sum(len(patches) for _, patches in blocks(slide))

        count = reading()
        with Slide(large, count_cores()) as slide:
            some = next(patches.copy() for _, patches in batches(blocks(slide), 16 * BATCH))
        columns = {"x": np.arange(len(some))}

        def networks() -> None:
            for start in range(0, count, BATCH):
                first = start % (len(some) - BATCH)
                model.reconstruct(some[first : first + BATCH])

        def measures() -> None:
            for _ in range(-(-count // len(some))):
                for _ in model.measure(batches(iter([(columns, some)]), BATCH)):
                    pass

        number = iter(range(1000))
        medians = in_turn(
            {
                "reading alone": reading,
                "both networks alone": networks,
                "networks and the score's statistics": measures,
                "the command, one patch": lambda: command(small, folder / "pair", folder / f"s{next(number)}"),
                "the command": lambda: command(large, folder / "pair", folder / f"l{next(number)}"),
            },
            3,
            count,
            "patches",
        )
        read, passed, measured, start, whole = medians.values()
        print(json.dumps({"seconds": {key: round(value, 2) for key, value in medians.items()}}))
        record(
            "scoring_of_parts",
            (whole - start) / (read + measured),
            1.25,
            "lower",
            f"`histocae score` on a slide of {count} patches, less its time for one patch / reading the patches, "
            "plus both networks and the statistics of the score, each alone",
            reason="the table, figures and GeoJSON take the rest",
        )
        record(
            "scoring_of_networks",
            (whole - start) / (read + passed),
            1.25,
            "lower",
            "the same / reading the patches, plus both networks alone, without the statistics of errors by scale",
            reason=f"the statistics of the default score take {(measured - passed) / passed:.2f} times as long as "
            "both networks, and use the same cores",
        )
        record(
            "scoring_first_patch", start, 15, "lower", "`histocae score` on a slide of one patch, whole", "seconds"
        )


if __name__ == "__main__":
    main()
