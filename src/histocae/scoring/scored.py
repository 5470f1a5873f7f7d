"""A slide's patches with their scores, and how they are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.contrast.contract import Contract
from histocae.params import Bounds
from histocae.params import Patches as PatchParams
from histocae.patches.grid import MASK_PIXELS
from histocae.scoring.given import Given
from histocae.slides.units import Level0Pixels, MicronsPerPixel

# those of params.yaml, where there is none
BOUNDS = Bounds(seconds=3600.0, gigabytes=4.0, patches=1_000_000, expansion=1000.0)


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
            and no width), mpp (microns per patch pixel; missing for tiles), tissue_share, the columns of
            `quality.MEASURES`, flags, and what `Model.measure` adds. Patches that are left out have no row.
        latents: float32, shape (patches, features); None if they were not requested, or the model has none.
        mpp: microns per level-0 pixel; None for tiles.
        mpp_from: source of mpp: table, slide or data.mpp; None for tiles.
        size: width and height in level-0 pixels; None for tiles.
        image: uint8, shape (height, width, 3): thumbnail of the slide; None for tiles.
        mask: bool, shape (rows * 8, columns * 8), True where tissue; None for tiles.
        patches_left_out: number of patches that were left out, by fault.
        tiles_left_out: reasons why tiles were left out.

    """

    given: Given
    patches: pd.DataFrame
    latents: NDArray[np.float32] | None
    mpp: MicronsPerPixel | None = None
    mpp_from: str | None = None
    size: tuple[int, int] | None = None
    image: NDArray[np.uint8] | None = None
    mask: NDArray[np.bool_] | None = None
    patches_left_out: Mapping[str, int] = field(default_factory=dict)
    tiles_left_out: tuple[str, ...] = ()

    @property
    def mask_pixel(self) -> Level0Pixels:
        """Side of a pixel of the mask."""
        return Level0Pixels(float(self.patches["width"].iloc[0]) / MASK_PIXELS)


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
