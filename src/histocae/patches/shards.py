"""One slide or one slide's tiles into one shard, with a record of what was kept and what not.

A shard is complete when its record is there and says what it was made from; a run that
was killed goes on with the slides that are not.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from histocae.errors import DataError, SlideError, StoreError
from histocae.files import fingerprint, read_json_or_none, read_table, replacing, write_json, write_table
from histocae.params import Patches as PatchParams
from histocae.patches import color, previews
from histocae.patches.grid import (
    MASK_PIXELS,
    Grid,
    Overview,
    Plan,
    make_grid,
    plan_patches,
    read_overview,
    read_patches,
)
from histocae.patches.sampling import draw
from histocae.patches.store import ShardWriter, open_shard, shard_name
from histocae.patches.tiles import TilePatches, cut_tile, read_tile, reduce_tile
from histocae.patches.tissue import tissue_mask
from histocae.slides.slide import Slide, in_range
from histocae.slides.thumbnails import LONGEST, thumbnail
from histocae.sources.slide_source import Source

NO_TISSUE = "shows no tissue"
PICTURE_PIXELS = 1200  # longest side of an overview picture
# columns of the index (a value counts for all rows; `row` is an array) and the patches
Found = Iterator[tuple[dict[str, Any], np.ndarray]]


@dataclass(frozen=True)
class Task:
    """One slide to make a shard of.

    Attributes:
        slide_id: of the slide.
        files: its files as its table names them: one slide, or many tiles.
        source: where they come from.
        own_mpp: microns per level-0 pixel that the slide's table gives; None: what the slide says, or ...
        default_mpp: ... this, where it does not say. Both None for tiles.
        params: the section `patches` of params.yaml.
        seed: of the sample, where there is a cap.
        shards: folder of the shards.
        pictures: folder for the overview pictures.
        thumbnails: folder for what is kept for later figures; see `patches.previews`.
        made_from: fingerprint of the slide's bytes and the code that reads them.
        by_default: the slide does not say, so that default_mpp counts: known when it has been opened.
        threads: that decode; the shard does not depend on it.

    """

    slide_id: str
    files: tuple[str, ...]
    source: Source
    own_mpp: float | None
    default_mpp: float | None
    params: PatchParams
    seed: int
    shards: Path
    pictures: Path
    thumbnails: Path
    made_from: str
    by_default: bool = False
    threads: int = 1

    @property
    def name(self) -> str:
        """The shard's name: another for other input, so that it never takes the place of the former."""
        return f"{shard_name(self.slide_id)}.{self.fingerprint[:8]}"

    @cached_property
    def fingerprint(self) -> str:
        """What the shard depends on."""
        params = self.params.model_dump()
        mpp = [in_range(self.own_mpp), self.default_mpp if self.by_default else None]
        return fingerprint([self.slide_id, self.files, mpp, params, self.seed, self.made_from])

    def settled(self) -> "Task":
        """The same task, knowing whether default_mpp counts; a slide that can't be opened leaves it as it is."""
        if self.default_mpp is None:
            return self
        try:
            with Slide(self.source.fetch(self.slide_id, self.files[0])) as slide:
                _, origin = slide.microns(self.own_mpp, self.default_mpp)
        except SlideError:
            return self
        # what was fetched to know that is not read through a second time
        return replace(self, by_default=origin == "data.mpp", source=replace(self.source, checked=True))

    @property
    def sampling(self) -> list[int]:
        """The seed of this slide's sample; it does not depend on the other slides."""
        return [self.seed, int(fingerprint(self.slide_id)[:8], 16)]


@dataclass(frozen=True)
class Record:
    """What became of a slide.

    Attributes:
        slide_id: of the slide.
        shard: its name.
        reason: why the slide or a part of it was set aside; None where all went well.
        failed: the reason is a failure of the slide: not that it shows no tissue, nor that
            some of its tiles are bad.
        kept: patches in the shard.
        counts: cells by reason.
        level, mpp, patch_mpp: the level read, microns per pixel of slide and patch; None
            for tiles.
        mpp_from: who said so: table, slide or data.mpp.
        width, height: level-0 pixels of the slide.
        failures: every failure; a slide has at most one, its tiles may have many.

    """

    slide_id: str
    shard: str
    reason: str | None
    failed: bool
    kept: int
    counts: dict[str, int]
    level: int | None = None
    mpp: float | None = None
    patch_mpp: float | None = None
    mpp_from: str | None = None
    width: int | None = None
    height: int | None = None
    failures: tuple[str, ...] = ()


def finished(task: Task) -> Record | None:
    """Give the record of a shard that an earlier run completed from the same input, else None."""
    # without opening the slide, which may have been let go, either may be the one
    either = [_finished(task)] + [_finished(replace(task, by_default=True))] * (task.default_mpp is not None)
    return next((record for record in either if record is not None), None)


def _finished(task: Task) -> Record | None:
    record = read_json_or_none(task.shards / f"{task.name}.json")
    if record is None or record.pop("fingerprint") != task.fingerprint:
        return None
    record = Record(**record)
    if record.reason and record.reason != NO_TISSUE and task.source.keep:
        # what failed may have been the disk: it is tried again, unless all of the slide would have to come again
        return None
    if (record.mpp_from == "data.mpp") != task.by_default:
        return None
    if record.width and record.mpp_from is None and in_range(task.default_mpp) is not None:
        return None  # it was opened, and lacked what is there now
    try:
        if record.kept:
            shard = open_shard(task.shards / f"{task.name}.npy", task.params.pixels)
            if len(shard) != record.kept or len(read_rows(task.shards, record)) != record.kept:
                return None
    except (StoreError, DataError):
        return None
    return record if _all_kept(task, record) else None


def _all_kept(task: Task, record: Record) -> bool:
    """Check that what figures need of a slide is there: overview, thumbnails and the demo's truth mask."""
    if task.source.tiles:
        needed = record.kept and task.params.tiles == "cut"
        return not needed or previews.read_tiles(task.thumbnails, task.name) is not None
    if record.level is None:
        return True
    images = [task.pictures / f"{task.name}.png", previews.thumbnail_file(task.thumbnails, task.name)]
    if task.source.demo_spec is not None:
        images.append(previews.truth_file(task.thumbnails, task.name))
    return all(image.is_file() for image in images)


def read_rows(shards: Path, record: Record) -> pd.DataFrame:
    """Read the index rows of one shard."""
    return read_table(shards / f"{record.shard}.csv", ("file",))


def make_shard(task: Task) -> Record:
    """Write one slide's shard, index rows, overview picture and, last, its record.

    A slide that fails midway keeps the patches read before or none, as
    `patches.on_read_error` says; one whose stains can't be estimated, where that is asked
    for, keeps none. The error is in the record; none is raised.
    """
    task = task.settled()
    (task.shards / f"{task.name}.json").unlink(missing_ok=True)
    counts: Counter[str] = Counter()
    about: dict[str, float | int | str] = {}
    failure: list[str] = []
    read = _read_tiles if task.source.tiles else _read_slide
    # stains are the slide's: they are known when all its patches are
    first = "rgb" if task.params.color == "macenko" else task.params.color
    with ShardWriter(task.shards / f"{task.name}.npy", task.params.pixels) as shard:
        rows = []
        for found, patches in read(task, counts, about, failure.append):
            rows.append(found)
            shard.append(color.apply(patches, first))
    kept = shard.count
    dropped = bool(failure) and task.params.on_read_error == "drop"
    if kept and not dropped and task.params.color == "macenko":
        try:
            _normalize(task.shards / f"{task.name}.npy", task.params.pixels)
        except SlideError as error:
            failure.append(str(error))
            dropped = True
    if dropped:
        counts["dropped"] = kept
        kept = 0
    if not kept:
        (task.shards / f"{task.name}.npy").unlink()
        (task.shards / f"{task.name}.csv").unlink(missing_ok=True)
        previews.remove_tiles(task.thumbnails, task.name)
    else:
        write_table(_table(rows), task.shards / f"{task.name}.csv")
    counts["kept"] = kept
    reason = None if kept else NO_TISSUE
    if failure:
        more = f" (and {len(failure) - 1} more, in reports/patching/failures.csv)" if len(failure) > 1 else ""
        reason = failure[0] + more
    record = Record(
        task.slide_id,
        task.name,
        reason,
        bool(failure) and not (task.source.tiles and kept),
        kept,
        {name: n for name, n in sorted(counts.items()) if n},
        **about,
        failures=tuple(failure),
    )
    write_json({**vars(record), "fingerprint": task.fingerprint}, task.shards / f"{task.name}.json")
    return record


def _table(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Join index rows; one table of all is made a hundred times faster than one of each block."""
    lengths = [len(one["row"]) for one in found]
    columns = {
        name: np.concatenate([np.broadcast_to(one[name], n) for one, n in zip(found, lengths, strict=True)])
        for name in found[0]
    }
    return pd.DataFrame({"position": np.arange(sum(lengths)), **columns})


def _normalize(path: Path, pixels: int) -> None:
    """Put a shard with normalized stains in the place of one as it was read."""
    patches = open_shard(path, pixels)
    stains, step = color.estimate(patches), color.per_chunk(pixels)
    with ShardWriter(path, pixels) as shard:
        for start in range(0, len(patches), step):
            shard.append(color.apply(patches[start : start + step], "macenko", stains))


def _read_slide(task: Task, counts: Counter, about: dict, fail: Callable[[str], None]) -> Found:
    try:
        path = task.source.fetch(task.slide_id, task.files[0])
        with Slide(path, task.threads) as slide:
            size = slide.levels[0]
            about |= {"width": size.width, "height": size.height}
            mpp, origin = slide.microns(task.own_mpp, task.default_mpp)
            about |= {"mpp": mpp, "mpp_from": origin}
            grid = make_grid(slide, mpp, task.params.pixels, task.params.mpp)
            about |= {"level": grid.level, "patch_mpp": grid.mpp}
            overview = read_overview(slide, grid)
            plan = plan_patches(grid, overview, task.params.tissue_share, task.params.max_per_slide, task.sampling)
            counts.update(plan.counts)
            _draw(overview, plan, task.pictures / f"{task.name}.png")
            with replacing(previews.thumbnail_file(task.thumbnails, task.name)) as handle:
                Image.fromarray(thumbnail(slide)).save(handle, "JPEG", quality=90)
            if task.source.demo_spec is not None:
                _keep_truth(path, task)
            yield from _planned(task, slide, grid, plan, counts)
    except SlideError as error:
        counts["unread"] = counts["kept"] - counts["read"]
        fail(str(error))
    finally:
        counts.pop("read", None)


def _keep_truth(slide: Path, task: Task) -> None:
    """Keep the truth mask that the demo wrote beside a slide."""
    truth = slide.with_suffix(".truth.png")
    if not truth.is_file():
        raise SlideError(f"its truth mask {truth} is missing; delete the slide, and the demo writes both")
    previews.write_truth(truth, task.thumbnails, task.name)


def _planned(task: Task, slide: Slide, grid: Grid, plan: Plan, counts: Counter) -> Found:
    for which, patches in read_patches(slide, grid, plan, task.params.pixels):
        shares = plan.shares[which]
        for one in np.nonzero(plan.unsure[which])[0]:
            small = Image.fromarray(patches[one]).resize((MASK_PIXELS,) * 2, Image.Resampling.BOX)
            shares[one] = tissue_mask(np.asarray(small)).mean()
        enough = (shares >= task.params.tissue_share) | ~plan.unsure[which]
        counts["read"] += len(which)
        counts["background"] += int((~enough).sum())
        if not enough.all():
            which, shares, patches = which[enough], shares[enough], patches[enough]
        x, y = grid.corners(plan.rows[which], plan.columns[which])
        yield (
            {
                "file": task.files[0],
                "row": plan.rows[which],
                "column": plan.columns[which],
                "x": x,
                "y": y,
                "mpp": grid.mpp,
                "tissue_share": shares,
            },
            patches,
        )


def _read_tiles(task: Task, counts: Counter, about: dict, fail: Callable[[str], None]) -> Found:
    params = task.params
    chosen = None
    if params.tiles == "cut" and params.max_per_slide is not None:
        # the sample is of all the slide's patches, so they are counted first
        total = sum(len(one.rows) for _, _, one in _each_tile(task, Counter(), lambda _: None))
        chosen = set(draw(total, params.max_per_slide, task.sampling))
    previews.remove_tiles(task.thumbnails, task.name)
    shown: list[previews.TilePreview] = []
    at = 0
    for file, picture, tile in _each_tile(task, counts, fail):
        counts.update(tile.counts)
        take = np.ones(len(tile.rows), bool)
        if chosen is not None:
            take = np.array([at + i in chosen for i in range(len(tile.rows))], bool)
            counts["capped"] += int((~take).sum())
        at += len(tile.rows)
        if not take.any():
            continue
        if params.tiles == "cut" and len(shown) < previews.MOST_TILES:  # a tile that is one patch needs no heatmap
            shown.append(previews.TilePreview(file, picture.width, picture.height))
            picture.thumbnail((LONGEST, LONGEST))
            previews.write_tile(task.thumbnails, task.name, len(shown), picture)
        row, column = tile.rows[take], tile.columns[take]
        yield (
            {
                "file": file,
                "row": row,
                "column": column,
                "x": column * params.pixels,
                "y": row * params.pixels,
                "mpp": np.nan,
                "tissue_share": tile.shares[take],
            },
            tile.patches[take],
        )
    if shown:
        previews.write_tiles(task.thumbnails, task.name, shown)


def _each_tile(
    task: Task, counts: Counter, fail: Callable[[str], None]
) -> Iterator[tuple[str, Image.Image, TilePatches]]:
    for file in task.files:
        try:
            picture = read_tile(task.source.fetch(task.slide_id, file))
            if task.params.tiles == "reduce":
                yield file, picture, reduce_tile(picture, file, task.params.pixels)
            else:
                yield file, picture, cut_tile(picture, file, task.params.pixels, task.params.tissue_share)
        except SlideError as error:
            fail(str(error))
            counts["unread"] += 1  # a tile that can't be read has an unknown number of cells
            if task.params.on_read_error == "drop":
                return


def _draw(overview: Overview, plan: Plan, path: Path) -> None:
    """Draw the overview with the chosen cells outlined."""
    height, width = overview.picture.shape[:2]
    scale = min(PICTURE_PIXELS / max(height, width), 6.0)
    picture = Image.fromarray(overview.picture)
    picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    side = MASK_PIXELS * scale
    for row, column in zip(plan.rows.tolist(), plan.columns.tolist(), strict=True):
        x, y = column * side, row * side
        canvas.rectangle((x, y, x + side - 1, y + side - 1), outline=(0, 120, 60))
    with replacing(path) as handle:
        picture.save(handle, "PNG", compress_level=1)
