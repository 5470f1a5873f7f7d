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

from histocae.contrast.contract import CONTRACT, MEASURES, NETWORKS, PAIR, SINGLE, Contract
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


def make_model(folder: Path, kind: str) -> Source:
    """Write a model as the registry has it, with untrained networks: a pair, or a single model."""
    backend.start()
    from histocae import CAE, checksums
    from histocae.evaluation import scales
    from histocae.files import write_json
    from histocae.networks import exported

    shape = (PIXELS, PIXELS, 3)
    names = ["tumor", "normal"] if kind == PAIR else ["all"]
    networks = [CAE(shape, LATENTS, FILTERS, architecture="residual") for _ in names]
    exported.export(networks, folder / NETWORKS)
    count = 2 * scales.errors(np.zeros((1, *shape), np.float32)).shape[1]
    decision = {"threshold": 0.0, "slope": 1.0, "intercept": 0.0}
    contract = {
        "version": 1,
        "kind": kind,
        "models": names,
        "latent_features": [LATENTS for _ in names],
        "weights": ["untrained" for _ in names],
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
            "quantiles": {name: [-1.0, 1.0] for name in MEASURES[kind]},
            "color": {"mean": [200.0, 150.0, 190.0], "inverse": np.eye(3).tolist()},
        },
        "findings": [],
        "caveats": [],
    }
    if kind == SINGLE:
        contract |= dict.fromkeys(("score", "score_text", "classes", "levels"))
    write_json(contract, folder / CONTRACT)
    checksums.write(folder)
    return Source(folder, "a benchmark", Contract.from_json(contract, "benchmark", "repair it"))


def command(slide: Path, model: Path, out: Path) -> float:
    """Run the whole command in a process of its own; return its seconds."""
    # the registry is left out: the model lies in a folder
    code = (
        "import sys; from pathlib import Path; from histocae import cli; from histocae.scoring import models\n"
        "from histocae.scoring.model import of_folder\n"
        f"models.find = lambda name, cache: of_folder(Path({str(model)!r}), name, '')\n"
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
        source = make_model(folder / "pair", PAIR)
        params, model = patch_params(source.contract, BOUNDS), Model(source)
        single = Model(make_model(folder / "single", SINGLE))

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

        def networks(model: Model) -> None:
            for start in range(0, count, BATCH):
                first = start % (len(some) - BATCH)
                model.reconstruct(some[first : first + BATCH])

        def measures() -> None:
            for _ in range(-(-count // len(some))):
                for _ in model.measure(batches(iter([(columns, some)]), BATCH)):
                    pass

        number = iter(range(1000))

        def whole(slide: Path, model: str) -> None:
            command(slide, folder / model, folder / f"scores_{next(number)}")

        medians = in_turn(
            {
                "reading alone": reading,
                "one network alone": lambda: networks(single),
                "both networks alone": lambda: networks(model),
                "networks and the score's statistics": measures,
                "the command, one patch": lambda: whole(small, "pair"),
                "the command": lambda: whole(large, "pair"),
                "a single model, one patch": lambda: whole(small, "single"),
                "a single model": lambda: whole(large, "single"),
            },
            3,
            count,
            "patches",
        )
        read, one, both, measured, start, pair, start_of_single, of_single = medians.values()
        print(json.dumps({"seconds": {key: round(value, 2) for key, value in medians.items()}}))
        text = f"`histocae score` on a slide of {count} patches, less its time for one patch / reading the patches, "
        record(
            "scoring_of_single",
            (of_single - start_of_single) / (read + one),
            1.25,
            "lower",
            f"a single model: {text}plus the network, each alone",
            reason="the table, figures and GeoJSON take the rest",
        )
        record(
            "scoring_of_parts",
            (pair - start) / (read + measured),
            1.25,
            "lower",
            f"a pair: {text}plus both networks and the statistics of the score, each alone",
            reason="the table, figures and GeoJSON take the rest",
        )
        record(
            "scoring_of_networks",
            (pair - start) / (read + both),
            1.25,
            "lower",
            "a pair: the same / reading the patches, plus both networks alone, without the statistics of errors by "
            "scale",
            reason=f"the statistics of the default score take {(measured - both) / both:.2f} times as long as both "
            "networks, and use the same cores",
        )
        record(
            "scoring_first_patch", start, 15, "lower", "`histocae score` on a slide of one patch, whole", "seconds"
        )


if __name__ == "__main__":
    main()
