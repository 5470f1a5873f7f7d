"""Patches of one slide, or of one slide's pre-cut tiles, as one shard, with a record of the cells kept and left out.

A shard is complete when its record is there and has the fingerprint of its inputs. A run after one that
was killed resumes with the slides whose shards are not complete.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from histocae.errors import SlideError
from histocae.files import fingerprint, read_json_or_none, replacing, sha256, write_json, write_table
from histocae.params import Patches as PatchParams
from histocae.patches import color, integrity, previews
from histocae.patches.grid import (
    MASK_PIXELS,
    Grid,
    Overview,
    PatchPlan,
    make_grid,
    plan_patches,
    read_overview,
    read_patches,
)
from histocae.patches.sampling import draw
from histocae.patches.shard_file import ShardWriter, open_shard, shard_name
from histocae.patches.tiles import TilePatches, UnusableTileError, divide_tile, read_tile, reduce_tile
from histocae.patches.tissue import tissue_mask
from histocae.slides.budget import Budget, OverBudgetError
from histocae.slides.parts import parts_of
from histocae.slides.slide import Slide, in_range
from histocae.slides.thumbnails import LONGEST, thumbnail
from histocae.slides.units import MicronsPerPixel
from histocae.sources.slide_source import Source

log = logging.getLogger(__name__)
NO_TISSUE = "shows no tissue"
CELL_BYTES = 1000  # of memory for each cell of a grid: its part of the overview, and the tissue mask's arrays
OVERVIEW_PIXELS = 1200  # longest side of an overview image
# columns of the index (a value counts for all rows; `row` is an array) and the patches
Extracted = Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A slide whose patches become a shard.

    Attributes:
        slide_id: of the slide.
        files: its files as its table names them: one slide, or many tiles.
        source: of the files.
        own_mpp: microns per level-0 pixel from the slide's table; None: as the slide states.
        default_mpp: microns per level-0 pixel where the slide states none. Both None for tiles.
        params: the section `patches` of params.yaml.
        seed: of the sample, where there is a cap.
        shards: folder of the shards.
        overviews: folder of the overview images.
        previews: folder of previews for later figures; see `patches.previews`.
        made_from: fingerprint of the slide's bytes and the code that reads them.
        by_default: the slide states nothing, so that default_mpp counts: known once it has been opened.
        threads: that decode; the shard does not depend on their number.

    """

    slide_id: str
    files: tuple[str, ...]
    source: Source
    own_mpp: MicronsPerPixel | None
    default_mpp: MicronsPerPixel | None
    params: PatchParams
    seed: int
    shards: Path
    overviews: Path
    previews: Path
    made_from: str
    by_default: bool = False
    threads: int = 1

    @property
    def name(self) -> str:
        """The shard's name: a new one for other input, so that it never replaces the former shard."""
        return f"{shard_name(self.slide_id)}.{self.fingerprint[:8]}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the shard depends on."""
        params = self.params.model_dump(exclude={"bounds"})  # which decide whether there is a shard, not what it is
        mpp = [in_range(self.own_mpp), self.default_mpp if self.by_default else None]
        return fingerprint([self.slide_id, self.files, mpp, params, self.seed, self.made_from])

    @property
    def overview_file(self) -> Path:
        """The overview image."""
        return self.overviews / f"{self.name}.png"

    def settled(self) -> "ShardTask":
        """Find out whether default_mpp counts; a slide that can't be opened leaves the task as it is."""
        if self.default_mpp is None:
            return self
        try:
            with Slide(self.source.fetch(self.slide_id, self.files[0])) as slide:
                _, origin = slide.microns(self.own_mpp, self.default_mpp)
        except SlideError:
            return self
        # the file was checked when it was fetched here; it is not read a second time for that
        return replace(self, by_default=origin == "data.mpp", source=replace(self.source, checked=True))

    @property
    def sample_seed(self) -> list[int]:
        """The seed of this slide's sample; it does not depend on the other slides."""
        return [self.seed, int(fingerprint(self.slide_id)[:8], 16)]


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The outcome of extracting a slide's patches.

    Attributes:
        slide_id: of the slide.
        shard: its name.
        reason: why the slide or a part of it was set aside; None where nothing was.
        failed: the reason is a failure of the slide: not that it shows no tissue, nor that
            some of its tiles are damaged.
        kept: patches in the shard.
        counts: cells by reason.
        level: that was read; None for tiles.
        mpp: microns per level-0 pixel; None for tiles.
        patch_mpp: microns per patch pixel; None for tiles.
        mpp_from: where mpp comes from: table, slide or data.mpp.
        width: level-0 pixels of the slide.
        height: level-0 pixels of the slide.
        failures: every failure; a slide has at most one, its tiles may have many.
        files: SHA-256 of each file made of the slide, hex; see `hashes_of_files`.
        bounds: `patches.bounds`, where the slide is over one of them.

    """

    slide_id: str
    shard: str
    reason: str | None
    failed: bool
    kept: int
    counts: dict[str, int]
    level: int | None = None
    mpp: MicronsPerPixel | None = None
    patch_mpp: MicronsPerPixel | None = None
    mpp_from: str | None = None
    width: int | None = None
    height: int | None = None
    failures: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, float] | None = None


@dataclass
class _Notes:
    """Notes for the record, taken while patches are extracted; the last fields are those of `ShardRecord`."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    drop: bool = False  # reading failed, and no patch of the slide is kept
    over: bool = False  # a bound of `patches.bounds`; no patch is kept
    level: int | None = None
    mpp: MicronsPerPixel | None = None
    patch_mpp: MicronsPerPixel | None = None
    mpp_from: str | None = None
    width: int | None = None
    height: int | None = None


def finished(task: ShardTask) -> ShardRecord | None:
    """Return the record of a shard that an earlier run completed from the same input; None if there is none."""
    # the slide may have been deleted; without opening it, the shard may be of either name
    either = [_finished(task)] + [_finished(replace(task, by_default=True))] * (task.default_mpp is not None)
    return next((record for record in either if record is not None), None)


def _finished(task: ShardTask) -> ShardRecord | None:
    record = _read_record(task)
    if record is None:
        return None
    if record.reason and record.reason != NO_TISSUE and task.source.keep:
        # the failure may have been the disk's: the slide is tried again, unless it had to be fetched again for that
        return None
    if record.bounds not in (None, task.params.bounds.model_dump()):
        return None  # the slide may be within the present bounds
    if (record.mpp_from == "data.mpp") != task.by_default:
        return None
    if record.width and record.mpp_from is None and in_range(task.default_mpp) is not None:
        return None  # the slide lacked microns per pixel, which data.mpp has now
    for path in integrity.differing(hashes_of_files(task, record)):
        if path.exists():
            log.warning("%s: %s; the slide's patches are extracted again", path, integrity.DIFFERS)
        return None
    return record


def _read_record(task: ShardTask) -> ShardRecord | None:
    """Read the record of a shard; None where it is missing, damaged, or of other input."""
    values = read_json_or_none(task.shards / f"{task.name}.json")
    if not isinstance(values, dict) or values.pop("sha256", None) != fingerprint(values):
        return None
    if values.pop("fingerprint") != task.fingerprint:
        return None
    return ShardRecord(**values)


def _files(task: ShardTask, shard: str) -> dict[str, Path]:
    """Name all files that may be made of a slide, but for the record."""
    return {
        "shard": task.shards / f"{shard}.npy",
        "rows": task.shards / f"{shard}.csv",
        "overview": task.overviews / f"{shard}.png",
        **previews.files(task.previews, shard),
    }


def hashes_of_files(task: ShardTask, record: ShardRecord) -> dict[Path, str]:
    """Return the SHA-256 (hex) that each file made of a slide had when it was written."""
    return {path: record.files[name] for name, path in _files(task, record.shard).items() if name in record.files}


def make_shard(task: ShardTask) -> ShardRecord:
    """Write one slide's shard, index rows, overview, previews and, last, its record.

    A slide that fails midway keeps the patches read before or none, as
    `patches.on_read_error` says. A slide over a bound of `patches.bounds` keeps none, nor does one whose stains
    can't be estimated, where normalized stains are requested. The error is in the record; none is raised.
    """
    task = task.settled()
    path = task.shards / f"{task.name}.npy"
    path.with_name(f"{task.name}.json").unlink(missing_ok=True)
    notes = _Notes()
    extract = _extract_tiles if task.source.tiles else _extract_slide
    # stains belong to the slide: they are known when all its patches are
    first = "rgb" if task.params.color == "macenko" else task.params.color
    with ShardWriter(path, task.params.pixels) as shard:
        rows = []
        for columns, patches in extract(task, notes):
            rows.append(columns)
            shard.append(color.apply(patches, first))
    kept = shard.count
    dropped = notes.drop or notes.over
    if kept and not dropped and task.params.color == "macenko":
        try:
            _normalize(path, kept, task.params.pixels)
        except SlideError as error:
            notes.failures.append(str(error))
            dropped = True
    if dropped:
        notes.counts["dropped"] = kept
        kept = 0
    if not kept:
        path.unlink()
        path.with_name(f"{task.name}.csv").unlink(missing_ok=True)
        previews.remove_tiles(task.previews, task.name)
    else:
        write_table(_table(rows), path.with_name(f"{task.name}.csv"))
    notes.counts["kept"] = kept
    record = ShardRecord(
        slide_id=task.slide_id,
        shard=task.name,
        reason=_reason(notes.failures) or (None if kept else NO_TISSUE),
        failed=bool(notes.failures) and not (task.source.tiles and kept),
        kept=kept,
        counts={name: n for name, n in sorted(notes.counts.items()) if n},
        level=notes.level,
        mpp=notes.mpp,
        patch_mpp=notes.patch_mpp,
        mpp_from=notes.mpp_from,
        width=notes.width,
        height=notes.height,
        failures=tuple(notes.failures),
        files={name: sha256(path) for name, path in _files(task, task.name).items() if path.is_file()},
        bounds=task.params.bounds.model_dump() if notes.over else None,
    )
    values = {**vars(record), "fingerprint": task.fingerprint}
    write_json({**values, "sha256": fingerprint(values)}, task.shards / f"{task.name}.json")
    return record


def _reason(failures: list[str]) -> str | None:
    """Shorten failures to one line."""
    if len(failures) > 1:
        return f"{failures[0]} (and {len(failures) - 1} more, in reports/patching/failures.csv)"
    return failures[0] if failures else None


def _table(parts: list[dict[str, Any]]) -> pd.DataFrame:
    """Join index rows: one table of all rows is made a hundred times faster than a table of each block."""
    lengths = [len(part["row"]) for part in parts]
    columns = {
        name: np.concatenate([np.broadcast_to(part[name], n) for part, n in zip(parts, lengths, strict=True)])
        for name in parts[0]
    }
    return pd.DataFrame({"position": np.arange(sum(lengths)), **columns})


def _normalize(path: Path, count: int, pixels: int) -> None:
    """Replace a shard by one with normalized stains."""
    patches = open_shard(path, count, pixels)
    stains, step = color.estimate(patches), color.per_chunk(pixels)
    with ShardWriter(path, pixels) as shard:
        for start in range(0, len(patches), step):
            shard.append(color.apply(patches[start : start + step], "macenko", stains))


def _extract_slide(task: ShardTask, notes: _Notes) -> Extracted:
    counts = notes.counts
    try:
        path = task.source.fetch(task.slide_id, task.files[0])
        with Budget(task.params.bounds) as budget, Slide(path, task.threads, budget) as slide:
            notes.width, notes.height = slide.levels[0].width, slide.levels[0].height
            notes.mpp, notes.mpp_from = slide.microns(task.own_mpp, task.default_mpp)
            grid = make_grid(slide, notes.mpp, task.params.pixels, MicronsPerPixel(task.params.mpp))
            notes.level, notes.patch_mpp = grid.level, grid.mpp
            budget.check_memory(grid.rows * grid.columns * CELL_BYTES, f"a grid of {grid.rows * grid.columns} cells")
            overview = read_overview(slide, grid)
            plan = plan_patches(grid, overview, task.params.tissue_share, task.params.max_per_slide, task.sample_seed)
            counts.update(plan.counts)
            budget.check_patches(len(plan.rows))
            in_files = sum(part.stat().st_size for part in parts_of(path))
            budget.check_expansion(len(plan.rows) * 3 * task.params.pixels**2, in_files)
            _draw(overview, plan, task.overview_file)
            with replacing(previews.thumbnail_file(task.previews, task.name)) as handle:
                Image.fromarray(thumbnail(slide)).save(handle, "JPEG", quality=90)
            if task.source.demo_spec is not None:
                _keep_truth(path, task)
            yield from _planned(task, slide, grid, plan, counts)
    except SlideError as error:
        counts["unread"] += counts["kept"] - counts["read"]
        notes.failures.append(str(error))
        notes.drop = task.params.on_read_error == "drop"
        notes.over = isinstance(error, OverBudgetError)
    finally:
        counts.pop("read", None)


def _keep_truth(slide: Path, task: ShardTask) -> None:
    """Keep the truth mask that the demo wrote beside a slide."""
    truth = slide.with_suffix(".truth.png")
    if not truth.is_file():
        raise SlideError(f"its truth mask {truth} is missing; delete the slide, and the demo writes both")
    previews.write_truth(truth, task.previews, task.name)


def _planned(task: ShardTask, slide: Slide, grid: Grid, plan: PatchPlan, counts: Counter[str]) -> Extracted:
    """Read the planned patches; those of unsure cells are kept only if their own pixels show tissue."""
    for cells, patches in read_patches(slide, grid, plan, task.params.pixels):
        shares = plan.shares[cells]
        for i in np.nonzero(plan.unsure[cells])[0]:
            small = Image.fromarray(patches[i]).resize((MASK_PIXELS,) * 2, Image.Resampling.BOX)
            shares[i] = tissue_mask(np.asarray(small)).mean()
        enough = (shares >= task.params.tissue_share) | ~plan.unsure[cells]
        counts["read"] += len(cells)
        counts["background"] += int((~enough).sum())
        if not enough.all():
            cells, shares, patches = cells[enough], shares[enough], patches[enough]
        x, y = grid.corners(plan.rows[cells], plan.columns[cells])
        yield (
            {
                "file": task.files[0],
                "row": plan.rows[cells],
                "column": plan.columns[cells],
                "x": x,
                "y": y,
                "mpp": grid.mpp,
                "tissue_share": shares,
            },
            patches,
        )


def _extract_tiles(task: ShardTask, notes: _Notes) -> Extracted:
    try:
        with Budget(task.params.bounds) as budget:
            for columns, patches in _planned_tiles(task, notes, budget):
                budget.check_patches(notes.counts["kept"] - notes.counts["capped"])
                yield columns, patches
    except OverBudgetError as error:
        notes.failures.append(str(error))
        notes.over = True


def _planned_tiles(task: ShardTask, notes: _Notes, budget: Budget) -> Extracted:
    params = task.params
    chosen = None
    if params.tiles == "cut" and params.max_per_slide is not None:
        # the sample is of all the slide's patches, so they are counted first
        total = sum(len(patches.rows) for _, _, patches in _each_tile(task, _Notes(), budget))
        chosen = set(draw(total, params.max_per_slide, task.sample_seed))
    previews.remove_tiles(task.previews, task.name)
    shown: list[previews.TilePreview] = []
    number = 0  # of the tile's first patch among all of the slide's
    for file, tile, patches in _each_tile(task, notes, budget):
        notes.counts.update(patches.counts)
        take = np.ones(len(patches.rows), bool)
        if chosen is not None:
            take = np.array([number + i in chosen for i in range(len(patches.rows))], bool)
            notes.counts["capped"] += int((~take).sum())
        number += len(patches.rows)
        if not take.any():
            continue
        if params.tiles == "cut" and len(shown) < previews.MOST_TILES:  # a tile that is one patch needs no heatmap
            shown.append(previews.TilePreview(file, tile.width, tile.height))
            tile.thumbnail((LONGEST, LONGEST))
            previews.write_tile(task.previews, task.name, len(shown), tile)
        row, column = patches.rows[take], patches.columns[take]
        yield (
            {
                "file": file,
                "row": row,
                "column": column,
                "x": column * params.pixels,
                "y": row * params.pixels,
                "mpp": np.nan,
                "tissue_share": patches.shares[take],
            },
            patches.patches[take],
        )
    if shown:
        previews.write_tiles(task.previews, task.name, shown)


def _each_tile(task: ShardTask, notes: _Notes, budget: Budget) -> Iterator[tuple[str, Image.Image, TilePatches]]:
    """Yield each tile's file, the tile and its patches; failures are noted."""
    params = task.params
    for file in task.files:
        budget.check_time()
        try:
            tile = read_tile(task.source.fetch(task.slide_id, file))
            if params.tiles == "reduce":
                yield file, tile, reduce_tile(tile, file, params.pixels)
            else:
                yield file, tile, divide_tile(tile, file, params.pixels, params.tissue_share)
        except SlideError as error:
            notes.failures.append(str(error))
            notes.counts["unread"] += 1  # a tile that can't be read has an unknown number of cells
            if params.on_read_error == "drop" and not isinstance(error, UnusableTileError):
                notes.drop = True
                return


def _draw(overview: Overview, plan: PatchPlan, path: Path) -> None:
    """Draw the overview with the chosen cells outlined."""
    height, width = overview.image.shape[:2]
    scale = min(OVERVIEW_PIXELS / max(height, width), 6.0)
    image = Image.fromarray(overview.image)
    image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(image)
    side = MASK_PIXELS * scale
    inner = max(0.0, side - 1)  # a cell may be smaller than a pixel
    for row, column in zip(plan.rows.tolist(), plan.columns.tolist(), strict=True):
        x, y = column * side, row * side
        canvas.rectangle((x, y, x + inner, y + inner), outline=(0, 120, 60))
    with replacing(path) as handle:
        image.save(handle, "PNG", compress_level=1)
