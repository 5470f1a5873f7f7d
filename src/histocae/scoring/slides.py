"""The patches of a new slide, extracted as the training patches of the model, and their scores."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.contrast.contract import Contract
from histocae.contrast.truth import patch_side
from histocae.errors import SlideError, shortened
from histocae.params import Bounds
from histocae.params import Patches as PatchParams
from histocae.patches import color
from histocae.patches.extraction import plan_slide, read_planned, unchanged
from histocae.patches.grid import MASK_PIXELS, Grid, PatchPlan, make_grid, read_patches, reading_order
from histocae.patches.shard_record import NO_TISSUE, ShardTask
from histocae.patches.shards import Notes, extract_tiles
from histocae.scoring.given import Given
from histocae.scoring.model import BATCH, Model
from histocae.slides.budget import Budget
from histocae.slides.slide import Slide
from histocae.slides.thumbnails import thumbnail
from histocae.slides.units import Level0Pixels, MicronsPerPixel
from histocae.sources.slide_source import Source

# those of params.yaml, where there is none
BOUNDS = Bounds(seconds=3600.0, gigabytes=4.0, patches=1_000_000, expansion=1000.0)
Blocks = Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]
# words of the pipeline's messages about slides, and words in their place where there is no params.yaml
WORDS = {
    "give it in the table's column mpp, or set data.mpp": "give --mpp, or a table with a column mpp",
    "the {mpp:g} of patches.mpp": "the {mpp:g} of the model's patches",
    "patches.bounds.": "--bound ",
    "; set patches.max_per_slide to draw a sample": "",
    "scan it in color, or set patches.tissue_share to 0 to keep all of it": "scan it in color",
    "use tiles in color, or set patches.tissue_share to 0": "use tiles in color",
    "; patches.color rgb or grey keeps this slide": "; a model with patches.color rgb or grey takes it",
    "run dvc repro again": "score it again",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How slides are read.

    Attributes:
        mpp: microns per level-0 pixel of slides that state none; None: those are set aside.
        bounds: limits on the reading of a slide.
        threads: number of threads that decode.
        latents: whether to keep the latents.

    """

    mpp: MicronsPerPixel | None = None
    bounds: Bounds = BOUNDS
    threads: int = 1
    latents: bool = False


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A slide's patches with their scores.

    Attributes:
        given: the slide.
        patches: slide_id, file (tiles only), row, column, x, y and width (level-0 pixels; of a tile its own pixels,
            and no width), mpp (microns per patch pixel; missing for tiles), tissue_share, and what `Model.measure`
            adds.
        latents: float32, shape (patches, features); None if they were not requested, or the model has none.
        mpp: microns per level-0 pixel; None for tiles.
        mpp_from: source of mpp: table, slide or data.mpp; None for tiles.
        size: width and height in level-0 pixels; None for tiles.
        image: uint8, shape (height, width, 3): thumbnail of the slide; None for tiles.
        mask: bool, shape (rows * 8, columns * 8), True where tissue; None for tiles.
        left_out: reasons why tiles were left out.

    """

    given: Given
    patches: pd.DataFrame
    latents: NDArray[np.float32] | None
    mpp: MicronsPerPixel | None = None
    mpp_from: str | None = None
    size: tuple[int, int] | None = None
    image: NDArray[np.uint8] | None = None
    mask: NDArray[np.bool_] | None = None
    left_out: tuple[str, ...] = ()

    @property
    def mask_pixel(self) -> Level0Pixels:
        """Side of a pixel of the mask."""
        return Level0Pixels(float(self.patches["width"].iloc[0]) / MASK_PIXELS)


def score(given: Given, model: Model, settings: Settings) -> Scored:
    """Extract the patches of a slide, or of its tiles, and score them.

    Args:
        given: the slide.
        model: that scores.
        settings: how it is read.

    Returns:
        The scores of its patches.

    Raises:
        SlideError: the slide can't be read or used; the message has the reason and the remedy.

    """
    return (_score_tiles if given.tiles else _score_slide)(given, model, settings)


def patch_params(contract: Contract, bounds: Bounds, tiles: bool = False) -> PatchParams:
    """Return the section `patches` of params.yaml with which a model's patches were extracted.

    Args:
        contract: of the model.
        bounds: limits on the reading of a slide.
        tiles: whether the patches are of tiles. A model of slides takes the patches of a tile at its own resolution.

    Returns:
        The section; all patches of a slide are taken. A slide that fails midway is left out, as is a tile.

    """
    patches = contract.patches
    return PatchParams(
        pixels=patches.pixels,
        mpp=patches.mpp or 1.0,
        tissue_share=patches.tissue_share,
        max_per_slide=None,
        tiles=patches.tiles if not tiles or contract.source == "tiles" else "cut",
        on_read_error="keep" if tiles else "drop",  # a damaged tile does no harm to other files
        color=patches.color,
        bounds=bounds,
    )


def _score_slide(given: Given, model: Model, settings: Settings) -> Scored:
    params, (path,) = patch_params(model.contract, settings.bounds), given.paths
    if (target := model.contract.patches.mpp) is None:
        raise SlideError("the model learned from tiles without a known resolution; give tiles, or another model")
    counts = Counter[str]()
    with (
        unchanged(path, None),
        Budget(params.bounds) as budget,
        Slide(path, settings.threads, budget) as slide,
    ):
        mpp, mpp_from = slide.microns(given.own_mpp, settings.mpp)
        grid = make_grid(slide, mpp, params.pixels, MicronsPerPixel(target))
        _, plan = plan_slide(slide, grid, params, (0,), budget, counts)
        image = thumbnail(slide)
        stains = _stains(slide, grid, plan, params) if params.color == "macenko" else None
        blocks = read_planned(slide, grid, plan, params, counts)
        table, latents = _measured(blocks, model, params.color, stains)
        size = slide.levels[0].width, slide.levels[0].height
    table.insert(3, "width", float(patch_side(table, params.pixels, mpp)))
    table.insert(0, "slide_id", given.slide_id)
    return Scored(
        given=given,
        patches=table,
        latents=latents,
        mpp=mpp,
        mpp_from=mpp_from,
        size=size,
        image=image,
        mask=plan.mask,
    )


def _stains(slide: Slide, grid: Grid, plan: PatchPlan, params: PatchParams) -> NDArray[np.float64]:
    """Estimate the stains of a slide from the same patches as the pipeline: a sample, spread evenly."""
    order = reading_order(grid, plan)
    order = order[~plan.unsure[order]]
    if not len(order):
        raise SlideError(NO_TISSUE)
    chosen = order[color.sample(len(order))]
    some = PatchPlan(plan.rows[chosen], plan.columns[chosen], plan.shares[chosen], plan.unsure[chosen], plan.mask)
    parts = [patches.copy() for _, patches in read_patches(slide, grid, some, params.pixels)]
    return color.estimate(np.concatenate(parts))


def _score_tiles(given: Given, model: Model, settings: Settings) -> Scored:
    params = patch_params(model.contract, settings.bounds, tiles=True)
    with TemporaryDirectory() as folder:

        def blocks(notes: Notes) -> Blocks:
            here = Path(folder)
            task = ShardTask(
                slide_id=given.slide_id,
                files=given.files,
                source=Source(given.folder, tiles=True),
                own_mpp=None,
                default_mpp=None,
                params=params,
                seed=0,
                shards=here,
                overviews=here,
                previews=here,
                made_from="",
                hashes={},
            )
            yield from extract_tiles(task, notes)
            if notes.drop or notes.over:
                raise SlideError(shortened(notes.failures))

        stains = _stains_of_tiles(blocks) if params.color == "macenko" else None
        notes = Notes()
        table, latents = _measured(blocks(notes), model, params.color, stains, notes.failures)
    table.insert(table.columns.get_loc("y") + 1, "width", np.nan)  # a tile has no position on a slide
    table.insert(0, "slide_id", given.slide_id)
    left_out = tuple(in_words(reason, model.contract) for reason in notes.failures)
    return Scored(given=given, patches=table, latents=latents, left_out=left_out)


def _stains_of_tiles(blocks: Any) -> NDArray[np.float64]:
    """Estimate the stains that the tiles of a slide share. All tiles are read two more times, and none is kept."""
    count = sum(len(patches) for _, patches in blocks(Notes()))
    if not count:
        raise SlideError(NO_TISSUE)
    wanted, start, sample = color.sample(count), 0, []
    for _, patches in blocks(Notes()):
        inside = wanted[(wanted >= start) & (wanted < start + len(patches))]
        sample.append(patches[inside - start])
        start += len(patches)
    return color.estimate(np.concatenate(sample))


def _measured(
    blocks: Blocks, model: Model, kind: str, stains: NDArray[np.float64] | None, reasons: Sequence[str] = ()
) -> tuple[pd.DataFrame, NDArray[np.float32] | None]:
    """Measure all patches, and join the columns and the latents of the batches."""
    parts, latents = [], []
    converted = ((columns, color.apply(patches, kind, stains)) for columns, patches in blocks)
    for columns, features in model.measure(batches(converted, BATCH)):
        parts.append(columns)
        if features is not None:
            latents.append(features)
    if not parts:
        raise SlideError(shortened(reasons) if reasons else NO_TISSUE)
    table = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return table, np.concatenate(latents) if latents else None


def batches(blocks: Blocks, size: int) -> Blocks:
    """Divide blocks of patches into batches.

    Args:
        blocks: columns (arrays of shape (n,), or a value for all) and patches (uint8, shape (n, height, width, 3)).
        size: of a batch; the last one may be smaller.

    Yields:
        Columns (arrays of shape (n,)) and patches, n at most `size`. The patches are overwritten when the next are
        requested.

    Example:
        >>> blocks = (({"x": np.full(n, n)}, np.zeros((n, 8, 8, 3), np.uint8)) for n in (3, 4))
        >>> [(columns["x"].tolist(), len(patches)) for columns, patches in batches(blocks, 5)]
        [([3, 3, 3, 4, 4], 5), ([4, 4], 2)]

    """
    buffer, held, filled = None, list[dict[str, Any]](), 0

    def joined() -> dict[str, Any]:
        return {name: np.concatenate([part[name] for part in held]) for name in held[0]}

    for columns, patches in blocks:
        if buffer is None:
            buffer = np.empty((size, *patches.shape[1:]), np.uint8)
        spread = {name: np.broadcast_to(value, len(patches)) for name, value in columns.items()}
        start = 0
        while start < len(patches):
            end = min(len(patches), start + size - filled)
            buffer[filled : filled + end - start] = patches[start:end]
            held.append({name: value[start:end] for name, value in spread.items()})
            filled += end - start
            start = end
            if filled == size:
                yield joined(), buffer
                held, filled = [], 0
    if buffer is not None and filled:
        yield joined(), buffer[:filled]


def in_words(error: SlideError | str, contract: Contract) -> str:
    """Give the reason why a slide can't be scored, without the names of params that only a project has.

    Args:
        error: about the slide, or its text.
        contract: of the model.

    Returns:
        The reason.

    """
    smaller = f"smaller than a patch of {contract.patches.pixels} pixels"
    reason = re.sub(r"smaller than a patch; set patches\.pixels to \d+ or less", smaller, str(error))
    for name, word in WORDS.items():
        mpp = contract.patches.mpp or 0
        reason = reason.replace(name.format(mpp=mpp), word.format(mpp=mpp))
    return reason
