"""The patches of one open slide: which cells of its grid they are, and reading them, within the slide's bounds."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocae.errors import SlideError
from histocae.params import Patches as PatchParams
from histocae.patches.grid import MASK_PIXELS, Grid, Overview, PatchPlan, plan_patches, read_overview, read_patches
from histocae.patches.tissue import tissue_mask
from histocae.slides.area_means import reduce_image
from histocae.slides.budget import Budget
from histocae.slides.parts import parts_of
from histocae.slides.slide import Slide
from histocae.sources.integrity import ChangedFileError, check_unchanged

CELL_BYTES = 1000  # of memory for each cell of a grid: its part of the overview, and the tissue mask's arrays


def plan_slide(
    slide: Slide, grid: Grid, params: PatchParams, seed: Sequence[int], budget: Budget, counts: Counter[str]
) -> tuple[Overview, PatchPlan]:
    """Find the cells of a slide that become patches.

    Args:
        slide: an open slide.
        grid: of its patches.
        params: the section `patches` of params.yaml.
        seed: of the sample, where there is a cap.
        budget: of the slide.
        counts: of cells; those of the plan are added, also where the slide is over a bound.

    Returns:
        The overview, and the cells to read.

    Raises:
        SlideError: the slide has no pixels, or none that have a color.
        OverBudgetError: it takes more than its bounds allow.

    """
    budget.check_memory(grid.rows * grid.columns * CELL_BYTES, f"a grid of {grid.rows * grid.columns} cells")
    overview = read_overview(slide, grid)
    plan = plan_patches(grid, overview, params.tissue_share, params.max_per_slide, seed)
    counts.update(plan.counts)
    budget.check_patches(len(plan.rows))
    in_files = sum(part.stat().st_size for part in parts_of(slide.path))
    budget.check_expansion(len(plan.rows) * 3 * params.pixels**2, in_files)
    return overview, plan


def read_planned(
    slide: Slide, grid: Grid, plan: PatchPlan, params: PatchParams, counts: Counter[str]
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Read the planned patches; those of unsure cells are kept only if their own pixels show tissue.

    Args:
        slide: an open slide.
        grid: of its patches.
        plan: the cells to read.
        params: the section `patches` of params.yaml.
        counts: of cells; `read` and `background` are added to.

    Yields:
        Columns of the index (row, column, x, y, mpp, tissue_share; arrays of shape (n,), mpp a number) and their
        patches (uint8, shape (n, pixels, pixels, 3)). The patches are overwritten when the next are requested.

    Raises:
        SlideError: a patch can't be read; all patches before it were yielded.

    """
    for cells, patches in read_patches(slide, grid, plan, params.pixels):
        shares = plan.shares[cells]
        for i in np.nonzero(plan.unsure[cells])[0]:
            shares[i] = tissue_mask(reduce_image(patches[i], MASK_PIXELS, MASK_PIXELS)).mean()
        enough = (shares >= params.tissue_share) | ~plan.unsure[cells]
        counts["read"] += len(cells)
        counts["background"] += int((~enough).sum())
        if not enough.all():
            cells, shares, patches = cells[enough], shares[enough], patches[enough]
        rows, columns = plan.rows[cells], plan.columns[cells]
        x, y = grid.corners(rows, columns)
        found = {"row": rows, "column": columns, "x": x, "y": y, "mpp": grid.mpp, "tissue_share": shares}
        yield found, patches


@contextmanager
def unchanged(path: Path, sha256: str | None, memory: Path | None = None) -> Iterator[None]:
    """Check a file before the block reads it, as `check_unchanged` does, and afterwards that it did not change.

    Args:
        path: of the file.
        sha256: that it must have, hex; None: any.
        memory: file with hashes remembered by path and state; None: none.

    Yields:
        Nothing.

    Raises:
        ChangedFileError: it has other bytes, or changed; also where the block met a SlideError.

    """
    before = check_unchanged(path, sha256, memory)
    failure = None
    try:
        yield
    except SlideError as error:
        failure = error
    if check_unchanged(path, None) != before:
        raise ChangedFileError(f"{path.name}: changed while it was read; run dvc repro again")
    if failure is not None:
        raise failure
