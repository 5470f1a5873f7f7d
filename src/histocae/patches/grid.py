"""From one slide to its patches: the grid in microns, what is tissue, and reading it fast.

A slide is read block by block, and of a block only what its patches touch, so that each of its
compressed tiles is decoded about once, and only where its tissue mask has patches.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from histocae.errors import SlideError
from histocae.patches.sampling import draw
from histocae.patches.tissue import cell_shares, tissue_mask
from histocae.slides.slide import Reading, Slide, choose_level, reduce_box

MASK_PIXELS = 8  # mask pixels along a patch's side: 8 microns each at the default 64 microns
BLOCK_PIXELS = 2048  # side of what is read at once, in pixels of the level: 12 MiB
AHEAD = 2  # blocks that are being read while one is used
SLIVER = 1e-6  # of a pixel: so much over the border is rounding, not another pixel


@dataclass(frozen=True)
class Grid:
    """Where the patches of a slide can lie: whole cells from the top left corner.

    Attributes:
        rows, columns: of whole cells.
        partial: cells that the right and lower border cut through; never patches.
        level: of the slide that is read.
        cell: side of a cell in pixels of that level; a fraction where it is reduced.
        downsample: level-0 pixels per pixel of that level.
        mpp: microns per pixel that the patches have.

    """

    rows: int
    columns: int
    partial: int
    level: int
    cell: float
    downsample: float
    mpp: float

    def corners(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give x and y of cells' top left corners, in level-0 pixels."""
        step = self.cell * self.downsample
        return np.rint(columns * step).astype(np.int64), np.rint(rows * step).astype(np.int64)


def make_grid(slide: Slide, mpp: float, pixels: int, target: float) -> Grid:
    """Lay the grid for patches of `pixels` a side at `target` microns per pixel.

    Raises:
        SlideError: the slide is too coarse or smaller than one patch.

    """
    level, step = choose_level(slide.levels, mpp, target)
    size = slide.levels[level]
    cell = pixels * step
    # a cell may miss its last sliver of a pixel: downsamples come rounded
    rows, columns = int(size.height / cell + 1e-6), int(size.width / cell + 1e-6)
    if rows == 0 or columns == 0:
        raise SlideError(f"is smaller than one patch of {pixels} pixels at {target:g} microns per pixel")
    whole = rows * columns
    all_cells = int(np.ceil(size.height / cell - 1e-6) * np.ceil(size.width / cell - 1e-6))
    return Grid(rows, columns, all_cells - whole, level, cell, size.downsample, mpp * size.downsample * step)


@dataclass
class Overview:
    """A small picture of the grid's area, and where it could not be read.

    Attributes:
        picture: uint8, (rows * 8) x (columns * 8) x 3.
        unread: bool, rows x columns: cells that this picture does not show.

    """

    picture: np.ndarray
    unread: np.ndarray


def read_overview(slide: Slide, grid: Grid) -> Overview:
    """Read the grid's area at eight pixels a cell, block by block; a bad block is left white."""
    cell0 = grid.cell * grid.downsample
    level = slide.level_for(cell0 / MASK_PIXELS)
    cell = cell0 / slide.levels[level].downsample
    picture = np.full((grid.rows * MASK_PIXELS, grid.columns * MASK_PIXELS, 3), 255, np.uint8)
    unread = np.zeros((grid.rows, grid.columns), bool)
    per_block = max(1, int(BLOCK_PIXELS / cell))
    for top, bottom in _spans(grid.rows, per_block):
        for left, right in _spans(grid.columns, per_block):
            box = (left * cell, top * cell, right * cell, bottom * cell)
            area = np.s_[top * MASK_PIXELS : bottom * MASK_PIXELS, left * MASK_PIXELS : right * MASK_PIXELS]
            try:
                picture[area] = slide.read_scaled(
                    level, box, (right - left) * MASK_PIXELS, (bottom - top) * MASK_PIXELS
                )
            except SlideError:
                # not lost: these cells are judged by their own pixels when they are read,
                # and if those fail too the slide is set aside with the reason
                unread[top:bottom, left:right] = True
    return Overview(picture, unread)


def _spans(length: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, length)) for start in range(0, length, step)]


@dataclass
class Plan:
    """Which cells of a slide become patches, and why the others do not.

    Attributes:
        rows, columns: int64, the chosen cells in reading order.
        shares: float64, the tissue share of each.
        unsure: bool, cells whose share is not known before they are read.
        counts: cells by reason: kept, background, border, capped.

    """

    rows: np.ndarray
    columns: np.ndarray
    shares: np.ndarray
    unsure: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)


def plan_patches(grid: Grid, overview: Overview, tissue_share: float, cap: int | None, seed: list[int]) -> Plan:
    """Choose the cells with enough tissue, and of those a seeded sample of at most `cap`."""
    shares = cell_shares(tissue_mask(overview.picture), grid.rows, grid.columns)
    wanted = (shares >= tissue_share) | overview.unread
    rows, columns = np.nonzero(wanted)
    chosen = draw(len(rows), cap, seed)
    counts = {
        "background": int(wanted.size - len(rows)),
        "border": grid.partial,
        "capped": len(rows) - len(chosen),
        "kept": len(chosen),
    }
    rows, columns = rows[chosen], columns[chosen]
    return Plan(rows, columns, shares[rows, columns], overview.unread[rows, columns], counts)


def read_patches(slide: Slide, grid: Grid, plan: Plan, pixels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the planned patches, block by block; the next blocks are decoded while one is used.

    Yields:
        Positions in the plan (int64, n) and the patches (uint8, n x pixels x pixels x 3). The array is
        written over when the next one is asked for.

    Raises:
        SlideError: a patch can't be read; all that could be read before it were yielded.

    """
    per_block = _per_block(grid)
    blocks = (plan.rows // per_block) * (grid.columns // per_block + 1) + plan.columns // per_block
    order = np.argsort(blocks, kind="stable")
    todo = iter(np.split(order, np.nonzero(np.diff(blocks[order]))[0] + 1) if len(order) else [])
    # memory that was just used is at hand; what the system gives anew it clears first, which takes a tenth of reading
    spare = [np.empty((per_block**2, *_box(grid, pixels), 3), np.uint8) for _ in range(AHEAD + 1)]
    begun = deque((which, _begin(slide, grid, plan, which, pixels, spare.pop())) for which in islice(todo, AHEAD))
    while begun:
        begun.extend((one, _begin(slide, grid, plan, one, pixels, spare.pop())) for one in islice(todo, 1))
        which, reading = begun.popleft()
        try:
            patches = _finish(slide, grid, plan, which, pixels, reading)
        except SlideError:
            # one bad tile spoils the whole block: go through it patch by patch up to there, and let nothing
            # else that is read meanwhile bring the reader into error
            for _, other in begun:
                other.wait()
            for one in which:
                single = np.array([one])
                again = _begin(slide, grid, plan, single, pixels, reading.boxes)
                yield single, _finish(slide, grid, plan, single, pixels, again)
        else:
            yield which, patches
        spare.append(reading.boxes.base)


def _per_block(grid: Grid) -> int:
    """Cells along a block's side."""
    return max(1, int(BLOCK_PIXELS / grid.cell))


def _box(grid: Grid, pixels: int) -> tuple[int, int]:
    """Give the sides of the box of whole pixels around any cell."""
    side = pixels if grid.cell == pixels else math.ceil(grid.cell) + 1
    return side, side


def _begin(slide: Slide, grid: Grid, plan: Plan, which: np.ndarray, pixels: int, into: np.ndarray) -> Reading:
    """Begin to read the pixels that some cells touch."""
    x, y = (np.floor(one + SLIVER).astype(np.int64) for one in _corners(grid, plan, which))
    per_block = _per_block(grid)
    end = ((plan.columns[which[0]] // per_block + 1) * per_block, (plan.rows[which[0]] // per_block + 1) * per_block)
    return slide.start(grid.level, x, y, *_box(grid, pixels), into, tuple(one * grid.cell for one in end))


def _finish(slide: Slide, grid: Grid, plan: Plan, which: np.ndarray, pixels: int, reading: Reading) -> np.ndarray:
    """Wait for the pixels of some cells, and reduce each cell to a patch where it is not one yet."""
    boxes = reading.result()
    if grid.cell == pixels:
        return boxes
    x, y = _corners(grid, plan, which)
    size = slide.levels[grid.level]

    def reduce(i: int) -> np.ndarray:
        left, top = math.floor(x[i] + SLIVER), math.floor(y[i] + SLIVER)
        picture = boxes[i, : max(size.height, top + 1) - top, : max(size.width, left + 1) - left]
        return reduce_box(picture, (x[i] - left, y[i] - top), grid.cell, pixels)

    return np.stack(list(slide.pool.map(reduce, range(len(which)))))


def _corners(grid: Grid, plan: Plan, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give x and y of cells' top left corners, in pixels of the level."""
    return plan.columns[which] * grid.cell, plan.rows[which] * grid.cell
