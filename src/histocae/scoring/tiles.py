"""The tiles of a new slide, made into patches as the training patches of the model, and their scores."""

import numpy as np
from numpy.typing import NDArray

from histocae.errors import SlideError, shortened
from histocae.params import Patches as PatchParams
from histocae.patches import color
from histocae.patches.shard_record import NO_TISSUE
from histocae.patches.tile_extraction import TileNotes, check_patches, read_tiles, tile_columns
from histocae.scoring.batches import Blocks, measure
from histocae.scoring.given import Given
from histocae.scoring.model import Model
from histocae.scoring.scored import Scored, Settings, patch_params
from histocae.scoring.wording import in_words
from histocae.slides.budget import Budget
from histocae.sources.slide_source import Source


def score_tiles(given: Given, model: Model, settings: Settings) -> Scored:
    """Extract the patches of a slide's tiles, and score them.

    Args:
        given: the tiles.
        model: that scores.
        settings: how they are read.

    Returns:
        The scores of their patches.

    Raises:
        SlideError: no tile can be used, or the tiles are over a bound.

    """
    params = patch_params(model.contract, settings.bounds, tiles=True)
    stains = _stains(given, params) if params.color == "macenko" else None
    notes = TileNotes()
    blocks = _blocks(given, params, notes)
    table, latents, left_out = measure(blocks, model, params.color, stains, None, notes.failures)
    table.insert(table.columns.get_loc("y") + 1, "width", np.nan)  # a tile has no position on a slide
    table.insert(0, "slide_id", given.slide_id)
    return Scored(
        given=given,
        patches=table,
        latents=latents,
        patches_left_out=left_out,
        tiles_left_out=tuple(in_words(reason, model.contract) for reason in notes.failures),
    )


def _blocks(given: Given, params: PatchParams, notes: TileNotes) -> Blocks:
    """Read the patches of the tiles; only the time of reading counts."""
    source, count = Source(given.folder, tiles=True), 0
    in_files = sum(path.stat().st_size for path in given.paths if path.is_file())
    with Budget(params.bounds) as budget:
        for file, _, tile in read_tiles(
            given.files, lambda file: source.fetch(given.slide_id, file), params, budget, notes
        ):
            count += len(tile.rows)
            check_patches(budget, count, params, in_files)
            with budget.paused():
                yield tile_columns(file, tile, params.pixels), tile.patches
    if notes.drop:
        raise SlideError(shortened(notes.failures))


def _stains(given: Given, params: PatchParams) -> NDArray[np.float64]:
    """Estimate the stains that the tiles of a slide share. All tiles are read two more times, and none is kept."""
    count = sum(len(patches) for _, patches in _blocks(given, params, TileNotes()))
    if not count:
        raise SlideError(NO_TISSUE)
    wanted, start, sample = color.sample(count), 0, []
    for _, patches in _blocks(given, params, TileNotes()):
        inside = wanted[(wanted >= start) & (wanted < start + len(patches))]
        sample.append(patches[inside - start])
        start += len(patches)
    return color.estimate(np.concatenate(sample))
