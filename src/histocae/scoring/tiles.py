"""The tiles of a new slide, made into patches as the training patches of the model, and their scores."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocae.errors import SlideError, shortened
from histocae.patches import color
from histocae.patches.shard_record import NO_TISSUE, ShardTask
from histocae.patches.shards import Notes, extract_tiles
from histocae.scoring.batches import Blocks, measure
from histocae.scoring.given import Given
from histocae.scoring.model import Model
from histocae.scoring.scored import Scored, Settings, patch_params
from histocae.scoring.wording import in_words
from histocae.sources.slide_source import Source


def score_tiles(given: Given, model: Model, settings: Settings) -> Scored:
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
        table, latents = measure(blocks(notes), model, params.color, stains, notes.failures)
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
