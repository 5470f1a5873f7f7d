"""A cohort of patches to train on, extracted from demo slides: as a patch store and as PNG files of the notebooks."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from histocae.identifiers import PRIMARY_TUMOR
from histocae.patches.shard_file import ShardWriter
from histocae.patches.store import PatchStore, write_index
from histocae.slides.slide import Slide
from histocae.sources import demo

PIXELS = 128
SPEC = demo.DemoSpec(seed=1, cases=6, side_microns=1024.0)
MPP = 0.5


def draw(folder: Path, slides: int) -> list[np.ndarray]:
    """Draw slides and extract the patches of each; uint8, shape (n, 128, 128, 3)."""
    table = demo.cohort(SPEC)
    patches_by_slide = []
    for slide_id in table.loc[table["mpp"] == MPP, "slide_id"][:slides]:
        with Slide(demo.write_slide(SPEC, slide_id, folder)) as slide:
            cells = slide.levels[0].width // PIXELS  # along a side of the slide
            image = slide.read(0, 0, 0, cells * PIXELS, cells * PIXELS)
        image = image.reshape(cells, PIXELS, cells, PIXELS, 3)
        patches_by_slide.append(image.swapaxes(1, 2).reshape(-1, PIXELS, PIXELS, 3))
    return patches_by_slide


def store(folder: Path, patches_by_slide: list[np.ndarray], times: int = 1) -> PatchStore:
    """Write a patch store that has the patches of each slide `times` times."""
    tables = []
    for i, patches in enumerate(patches_by_slide * times):
        with ShardWriter(folder / "shards" / f"slide-{i}.npy", PIXELS) as shard:
            shard.append(patches)
        slide_columns = {
            "slide_id": f"slide-{i}",
            "case_id": f"case-{i}",
            "sample_type": PRIMARY_TUMOR,
            "shard": f"slide-{i}",
        }
        cell_columns = {"file": "", "row": 0, "column": 0, "x": 0, "y": 0, "mpp": MPP, "tissue_share": 1.0}
        tables.append(pd.DataFrame({**slide_columns, "position": np.arange(len(patches)), **cell_columns}))
    write_index(folder, pd.concat(tables, ignore_index=True), PIXELS, MPP)
    return PatchStore(folder)


def files(folder: Path, patches_by_slide: list[np.ndarray]) -> list[Path]:
    """Write every patch as a PNG file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, patches in enumerate(patches_by_slide):
        for j, patch in enumerate(patches):
            paths.append(folder / f"slide-{i}_{j}.png")
            Image.fromarray(patch).save(paths[-1])
    return paths
