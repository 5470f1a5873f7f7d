"""Patches of one slide, or of its pre-cut tiles, as one shard, with a record of the cells kept and left out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from histocae.errors import SlideError
from histocae.files import replacing, write_table
from histocae.patches import color, previews, quality
from histocae.patches.conversion import convert
from histocae.patches.extraction import plan_slide, read_planned, unchanged
from histocae.patches.grid import MASK_PIXELS, Overview, PatchPlan, make_grid
from histocae.patches.sampling import draw
from histocae.patches.shard_file import ShardWriter, open_shard
from histocae.patches.shard_record import NO_TISSUE, ShardRecord, ShardTask, hash_files, write_record
from histocae.patches.tile_extraction import TileNotes, check_patches, read_tiles, tile_columns
from histocae.patches.tiles import TilePatches
from histocae.paths import HASHES
from histocae.slides.budget import Budget, OverBudgetError
from histocae.slides.slide import Slide
from histocae.slides.thumbnails import LONGEST, thumbnail
from histocae.slides.units import MicronsPerPixel
from histocae.sources.integrity import ChangedFileError

OVERVIEW_PIXELS = 1200  # longest side of an overview image
# columns of the index (a value counts for all rows; `row` is an array) and the patches
Extracted = Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]


@dataclass
class Notes(TileNotes):
    """Notes for the record, taken while patches are extracted; the last fields are those of `ShardRecord`."""

    over: bool = False  # a bound of `patches.bounds`; no patch is kept
    taken: dict[str, float] | None = None
    level: int | None = None
    mpp: MicronsPerPixel | None = None
    patch_mpp: MicronsPerPixel | None = None
    mpp_from: str | None = None
    width: int | None = None
    height: int | None = None


def make_shard(task: ShardTask) -> ShardRecord:
    """Write one slide's shard, index rows, overview, previews and, last, its record.

    A slide that fails midway keeps the patches read before or none, as
    `patches.on_read_error` says. A slide over a bound of `patches.bounds` keeps none, nor does one whose stains
    can't be estimated, where normalized stains are requested. The error is in the record; none is raised.
    """
    task = task.settled()
    path = task.shards / f"{task.name}.npy"
    path.with_name(f"{task.name}.json").unlink(missing_ok=True)
    notes = Notes()
    extract = _extract_tiles if task.source.tiles else _extract_slide
    # stains belong to the slide: they are known when all its patches are
    first = "rgb" if task.params.color == "macenko" else task.params.color
    with ShardWriter(path, task.params.pixels) as shard:
        rows = []
        for columns, patches in extract(task, notes):
            rows.append(columns | quality.measure(patches, notes.patch_mpp))
            shard.append(convert(patches, first))
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
    hashes, states = hash_files(task)
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
        files=hashes,
        states=states,
        bounds=task.params.bounds.model_dump() if notes.over else None,
        taken=notes.taken,
    )
    write_record(task, record)
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
            shard.append(convert(patches[start : start + step], "macenko", stains))


def _extract_slide(task: ShardTask, notes: Notes) -> Extracted:
    counts = notes.counts
    try:
        path = task.source.fetch(task.slide_id, task.files[0])
        with (
            unchanged(path, task.hashes.get(task.files[0]), HASHES.absolute()),
            Budget(task.params.bounds) as budget,
            Slide(path, task.threads, budget) as slide,
        ):
            notes.taken = budget.taken
            notes.width, notes.height = slide.levels[0].width, slide.levels[0].height
            notes.mpp, notes.mpp_from = slide.microns(task.own_mpp, task.default_mpp)
            grid = make_grid(slide, notes.mpp, task.params.pixels, MicronsPerPixel(task.params.mpp))
            notes.level, notes.patch_mpp = grid.level, grid.mpp
            overview, plan = plan_slide(slide, grid, task.params, task.sample_seed, budget, counts)
            _draw(overview, plan, task.overview_file)
            with replacing(previews.thumbnail_file(task.previews, task.name)) as handle:
                Image.fromarray(thumbnail(slide)).save(handle, "JPEG", quality=90)
            previews.write_tissue(plan.mask, task.previews, task.name)
            if task.source.demo_spec is not None:
                _keep_truth(path, task)
            for columns, patches in read_planned(slide, grid, plan, task.params, counts):
                yield {"file": task.files[0], **columns}, patches
    except SlideError as error:
        counts["unread"] += counts["kept"] - counts["read"]
        notes.failures.append(str(error))
        notes.drop = task.params.on_read_error == "drop" or isinstance(error, ChangedFileError)
        notes.over = isinstance(error, OverBudgetError)
    finally:
        counts.pop("read", None)


def _keep_truth(slide: Path, task: ShardTask) -> None:
    """Keep the truth mask that the demo wrote beside a slide."""
    truth = slide.with_suffix(".truth.png")
    if not truth.is_file():
        raise SlideError(f"its truth mask {truth} is missing; delete the slide, and the demo writes both")
    previews.write_truth(truth, task.previews, task.name)


def _extract_tiles(task: ShardTask, notes: Notes) -> Extracted:
    """Extract the patches of a slide that consists of tiles; failures are noted, and none is raised."""
    files = [task.source.folder / file for file in task.files]
    in_files = sum(file.stat().st_size for file in files if file.is_file())
    try:
        with Budget(task.params.bounds) as budget:
            notes.taken = budget.taken
            for columns, patches in _planned_tiles(task, notes, budget):
                check_patches(budget, notes.counts["kept"] - notes.counts["capped"], task.params, in_files)
                yield columns, patches
    except OverBudgetError as error:
        notes.failures.append(str(error))
        notes.over = True


def _tiles(task: ShardTask, notes: TileNotes, budget: Budget) -> Iterator[tuple[str, Image.Image, TilePatches]]:
    def fetch(file: str) -> Path:
        return task.source.fetch(task.slide_id, file)

    return read_tiles(task.files, fetch, task.params, budget, notes, task.hashes)


def _planned_tiles(task: ShardTask, notes: Notes, budget: Budget) -> Extracted:
    params = task.params
    chosen = None
    most = params.max_per_slide
    if most is not None and (params.tiles == "cut" or len(task.files) > most):
        # the sample is of all the slide's patches, so they are counted first
        total = sum(len(patches.rows) for _, _, patches in _tiles(task, TileNotes(), budget))
        chosen = set(draw(total, most, task.sample_seed))
    previews.remove_tiles(task.previews, task.name)
    shown: list[previews.TilePreview] = []
    number = 0  # of the tile's first patch among all of the slide's
    for file, tile, patches in _tiles(task, notes, budget):
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
        yield tile_columns(file, patches, params.pixels, take), patches.patches[take]
    if shown:
        previews.write_tiles(task.previews, task.name, shown)


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
