"""From one slide to its patches: the grid in microns, which cells show tissue, and reading them fast.

A slide is read block by block, and of a block only the cells that become patches. So each of the slide's compressed
tiles is decoded about once, and only where the tissue mask has patches.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from histocae.errors import SlideError
from histocae.patches.sampling import draw
from histocae.patches.tissue import GRAY, cell_shares, is_gray, tissue_mask
from histocae.slides.area_means import SLIVER, reduce_image
from histocae.slides.budget import OverBudgetError
from histocae.slides.reading import Reading
from histocae.slides.slide import Slide, choose_level
from histocae.slides.units import Level0Pixels, LevelPixels, MicronsPerPixel, to_level0

MASK_PIXELS = 8  # mask pixels along a patch's side: 8 microns each at the default 64 microns
BLOCK_PIXELS = 2048  # side of a block that is read at once, in pixels of the level: 12 MiB
AHEAD = 2  # blocks that are being read while another is used


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The cells of a slide that can become patches: whole cells, counted from the top left corner.

    Attributes:
        rows: of whole cells.
        columns: of whole cells.
        partial: cells that the right and lower border divide; never patches.
        level: of the slide that is read.
        cell: side of a cell in pixels of that level; a fraction where it is reduced.
        downsample: level-0 pixels per pixel of that level.
        mpp: microns per pixel of a patch.

    """

    rows: int
    columns: int
    partial: int
    level: int
    cell: LevelPixels
    downsample: float
    mpp: MicronsPerPixel

    @property
    def side(self) -> Level0Pixels:
        """Side of a cell on the finest level."""
        return to_level0(self.cell, self.downsample)

    def corners(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Compute the top left corners of cells.

        Args:
            rows: int64, shape (n,), of the cells.
            columns: int64, shape (n,), of the cells.

        Returns:
            x and y in level-0 pixels, both int64, shape (n,).

        """
        return np.rint(columns * self.side).astype(np.int64), np.rint(rows * self.side).astype(np.int64)


def make_grid(slide: Slide, mpp: MicronsPerPixel, pixels: int, target: MicronsPerPixel) -> Grid:
    """Lay the grid of a slide's patches.

    Args:
        slide: an open slide.
        mpp: microns per level-0 pixel.
        pixels: side of a patch.
        target: microns per pixel that patches should have.

    Returns:
        The grid on the level that patches are read from.

    Raises:
        SlideError: the slide is too coarse or smaller than one patch.

    """
    level, step = choose_level(slide.levels, mpp, target)
    size = slide.levels[level]
    cell = pixels * step
    # a cell may lack its last sliver of a pixel: downsamples are rounded in the file
    rows, columns = int(size.height / cell + 1e-6), int(size.width / cell + 1e-6)
    if rows == 0 or columns == 0:
        raise SlideError(f"is smaller than one patch of {pixels} pixels at {target:g} microns per pixel")
    whole = rows * columns
    all_cells = int(np.ceil(size.height / cell - 1e-6) * np.ceil(size.width / cell - 1e-6))
    return Grid(
        rows=rows,
        columns=columns,
        partial=all_cells - whole,
        level=level,
        cell=LevelPixels(cell),
        downsample=size.downsample,
        mpp=MicronsPerPixel(mpp * size.downsample * step),
    )


@dataclass
class Overview:
    """A small image of the grid's area, and where it could not be read.

    Attributes:
        image: uint8, shape (rows * 8, columns * 8, 3).
        unread: bool, shape (rows, columns): cells that the image does not show.
        empty: bool, shape (rows, columns): cells of which the file has no pixel.

    """

    image: NDArray[np.uint8]
    unread: NDArray[np.bool_]
    empty: NDArray[np.bool_]


def read_overview(slide: Slide, grid: Grid) -> Overview:
    """Read the grid's area at eight pixels a cell, block by block; a block that can't be read is left white.

    Args:
        slide: an open slide.
        grid: of its patches.

    Returns:
        The overview, with the cells that could not be read.

    Raises:
        OverBudgetError: the slide takes too long.

    """
    level = slide.level_for(grid.side / MASK_PIXELS)
    cell = grid.side / slide.levels[level].downsample
    image = np.full((grid.rows * MASK_PIXELS, grid.columns * MASK_PIXELS, 3), 255, np.uint8)
    unread, empty = (np.zeros((grid.rows, grid.columns), bool) for _ in range(2))
    per_block = max(1, int(BLOCK_PIXELS / cell))
    for top, bottom in _spans(grid.rows, per_block):
        for left, right in _spans(grid.columns, per_block):
            edges = left * cell, top * cell, right * cell, bottom * cell
            box = LevelPixels(edges[0]), LevelPixels(edges[1]), LevelPixels(edges[2]), LevelPixels(edges[3])
            area = np.s_[top * MASK_PIXELS : bottom * MASK_PIXELS, left * MASK_PIXELS : right * MASK_PIXELS]
            width, height = (right - left) * MASK_PIXELS, (bottom - top) * MASK_PIXELS
            try:
                image[area], opacity = slide.read_scaled(level, box, width, height)
                if opacity is not None:
                    empty[top:bottom, left:right] = cell_shares(opacity > 0, bottom - top, right - left) == 0
            except OverBudgetError:
                raise
            except SlideError:
                # the tissue of these cells is measured on their own pixels when they are read,
                # and if those fail too the slide is set aside with the reason
                unread[top:bottom, left:right] = True
    return Overview(image, unread, empty)


def _spans(length: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, length)) for start in range(0, length, step)]


@dataclass
class PatchPlan:
    """The cells of a slide that become patches, and why the others do not.

    Attributes:
        rows: int64, shape (n,), of the chosen cells, in reading order.
        columns: int64, shape (n,), of the chosen cells.
        shares: float64, shape (n,), the tissue share of each.
        unsure: bool, shape (n,), cells whose share is unknown until they are read.
        mask: bool, shape of the overview's image: the tissue that the shares were measured on.
        counts: cells by reason: kept, background, border, capped; unread: those of which the file has no pixel.

    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shares: NDArray[np.float64]
    unsure: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    counts: dict[str, int] = field(default_factory=dict)


def plan_patches(
    grid: Grid, overview: Overview, tissue_share: float, cap: int | None, seed: Sequence[int]
) -> PatchPlan:
    """Choose the cells with enough tissue, and of those a seeded sample of limited size.

    Args:
        grid: of the slide.
        overview: of the grid's area.
        tissue_share: least share of a cell's area that is tissue.
        cap: most patches of the slide; None: no limit.
        seed: of the sample.

    Returns:
        The chosen cells, with the number of those left out for each reason.

    Raises:
        SlideError: there are none, because the file has no pixels, or none that have a color.

    """
    mask = tissue_mask(overview.image)
    shares = cell_shares(mask, grid.rows, grid.columns)
    enough = (shares >= tissue_share) | overview.unread
    rows, columns = np.nonzero(enough)
    if overview.empty.all() and not len(rows):
        raise SlideError("has no pixels: the file lacks all tiles that its header states; is it complete?")
    if not len(rows) and is_gray(overview.image):
        raise SlideError(f"{GRAY}; scan it in color, or set patches.tissue_share to 0 to keep all of it")
    unread = int((overview.empty & ~enough).sum())
    chosen = draw(len(rows), cap, seed)
    counts = {
        "background": int(enough.size - len(rows)) - unread,
        "unread": unread,
        "border": grid.partial,
        "capped": len(rows) - len(chosen),
        "kept": len(chosen),
    }
    rows, columns = rows[chosen], columns[chosen]
    return PatchPlan(rows, columns, shares[rows, columns], overview.unread[rows, columns], mask, counts)


def read_patches(
    slide: Slide, grid: Grid, plan: PatchPlan, pixels: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Read the planned patches, block by block; the next blocks are decoded while one is used.

    Args:
        slide: an open slide.
        grid: of its patches.
        plan: the cells to read.
        pixels: side of a patch.

    Yields:
        Positions in the plan (int64, shape (n,)) and their patches (uint8, shape (n, pixels, pixels, 3)). The
        array is overwritten when the next one is requested.

    Raises:
        SlideError: a patch can't be read; all patches before it were yielded.

    """
    blocks, order = _blocks(grid, plan), reading_order(grid, plan)
    todo = iter(np.split(order, np.nonzero(np.diff(blocks[order]))[0] + 1) if len(order) else [])
    # buffers are used again: new memory is cleared by the system first, which takes a tenth of the time of reading
    spare = [np.empty((_per_block(grid) ** 2, *_box(grid, pixels), 3), np.uint8) for _ in range(AHEAD + 1)]

    def begin(cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8], Reading]:
        buffer = spare.pop()
        return cells, buffer, _begin(slide, grid, plan, cells, pixels, buffer)

    begun = deque(begin(cells) for cells in islice(todo, AHEAD))
    while begun:
        begun.extend(begin(cells) for cells in islice(todo, 1))
        cells, buffer, reading = begun.popleft()
        try:
            patches = _finish(slide, grid, plan, cells, pixels, reading)
        except SlideError:
            # One bad tile fails the whole block: read it patch by patch up to there. Readings in progress end
            # first, so that their failures do not bring the reader into error meanwhile.
            for _, _, later in begun:
                later.wait()
            for cell in cells:
                single = np.array([cell])
                again = _begin(slide, grid, plan, single, pixels, reading.boxes)
                yield single, _finish(slide, grid, plan, single, pixels, again)
        else:
            yield cells, patches
        spare.append(buffer)


def reading_order(grid: Grid, plan: PatchPlan) -> NDArray[np.int64]:
    """Give the order in which `read_patches` yields the planned cells.

    Args:
        grid: of the slide's patches.
        plan: the cells to read.

    Returns:
        Positions in the plan, int64, shape (n,).

    """
    order: NDArray[np.int64] = np.argsort(_blocks(grid, plan), kind="stable")
    return order


def _blocks(grid: Grid, plan: PatchPlan) -> NDArray[np.int64]:
    """Number the block of each planned cell."""
    per_block = _per_block(grid)
    blocks: NDArray[np.int64] = (plan.rows // per_block) * (grid.columns // per_block + 1) + plan.columns // per_block
    return blocks


def _per_block(grid: Grid) -> int:
    """Cells along a block's side."""
    return max(1, int(BLOCK_PIXELS / grid.cell))


def _box(grid: Grid, pixels: int) -> tuple[int, int]:
    """Compute height and width of the box of whole pixels around any cell."""
    side = pixels if grid.cell == LevelPixels(pixels) else math.ceil(grid.cell) + 1
    return side, side


def _begin(
    slide: Slide, grid: Grid, plan: PatchPlan, cells: NDArray[np.int64], pixels: int, into: NDArray[np.uint8]
) -> Reading:
    """Begin to read the pixels that some cells of the plan overlap."""
    x, y = (np.floor(edges + SLIVER).astype(np.int64) for edges in _corners(grid, plan, cells))
    per_block = _per_block(grid)
    last_column = (plan.columns[cells[0]] // per_block + 1) * per_block
    last_row = (plan.rows[cells[0]] // per_block + 1) * per_block
    end = LevelPixels(last_column * grid.cell), LevelPixels(last_row * grid.cell)
    return slide.start(grid.level, x, y, *_box(grid, pixels), into=into, end=end)


def _finish(
    slide: Slide, grid: Grid, plan: PatchPlan, cells: NDArray[np.int64], pixels: int, reading: Reading
) -> NDArray[np.uint8]:
    """Wait for the pixels of some cells, and reduce each cell to the size of a patch."""
    boxes = reading.result()
    if grid.cell == LevelPixels(pixels):
        return boxes
    x, y = _corners(grid, plan, cells)
    size = slide.levels[grid.level]
    patches = np.empty((len(cells), pixels, pixels, 3), np.uint8)

    def reduce(i: int) -> None:
        left, top = math.floor(x[i] + SLIVER), math.floor(y[i] + SLIVER)
        image = boxes[i, : max(size.height, top + 1) - top, : max(size.width, left + 1) - left]
        begin_x, begin_y = x[i] - left, y[i] - top
        patches[i] = reduce_image(image, pixels, pixels, (begin_x, begin_y, begin_x + grid.cell, begin_y + grid.cell))

    for _ in slide.pool.map(reduce, range(len(cells))):
        pass  # which raises what a thread has raised
    return patches


def _corners(
    grid: Grid, plan: PatchPlan, cells: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute x and y of cells' top left corners, in pixels of the level."""
    rows, columns = plan.rows[cells].astype(np.float64), plan.columns[cells].astype(np.float64)
    return columns * grid.cell, rows * grid.cell
