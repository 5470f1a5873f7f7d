"""The patches of a new slide, extracted as the training patches of the model, and their scores."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from histocae.contrast.truth import patch_side
from histocae.errors import SlideError
from histocae.params import Patches as PatchParams
from histocae.patches import color
from histocae.patches.extraction import plan_slide, read_planned, unchanged
from histocae.patches.grid import Grid, PatchPlan, make_grid, read_patches, reading_order
from histocae.patches.shard_record import NO_TISSUE
from histocae.scoring.batches import Blocks, measure
from histocae.scoring.given import Given
from histocae.scoring.model import Model
from histocae.scoring.scored import Scored, Settings, patch_params
from histocae.scoring.tiles import score_tiles
from histocae.slides.budget import Budget
from histocae.slides.slide import Slide
from histocae.slides.thumbnails import thumbnail
from histocae.slides.units import MicronsPerPixel


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
    return (score_tiles if given.tiles else _score_slide)(given, model, settings)


def _score_slide(given: Given, model: Model, settings: Settings) -> Scored:
    params, (path,) = patch_params(model.contract, settings.bounds), given.paths
    if (target := model.contract.patches.mpp) is None:
        raise SlideError("the model was trained on tiles without a known resolution; give tiles, or another model")
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
        blocks = _outside(budget, read_planned(slide, grid, plan, params, counts))
        table, latents, left_out = measure(blocks, model, params.color, stains, grid.mpp)
        size = slide.levels[0].width, slide.levels[0].height
    table.insert(3, "width", float(patch_side(table, params.pixels, mpp)))
    table.insert(0, "slide_id", given.slide_id)
    return Scored(
        given=given,
        patches=table,
        latents=latents,
        patches_left_out=left_out,
        mpp=mpp,
        mpp_from=mpp_from,
        size=size,
        image=image,
        mask=plan.mask,
    )


def _outside(budget: Budget, blocks: Blocks) -> Blocks:
    """Count only the time of reading."""
    for block in blocks:
        with budget.paused():
            yield block


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
