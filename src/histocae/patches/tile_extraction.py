"""The patches of a slide that consists of pre-cut tiles, within the slide's bounds."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histocae.errors import SlideError
from histocae.params import Patches as PatchParams
from histocae.patches.extraction import unchanged
from histocae.patches.tiles import TilePatches, UnusableTileError, divide_tile, read_tile, reduce_tile
from histocae.slides.budget import Budget
from histocae.sources.integrity import ChangedFileError


@dataclass
class TileNotes:
    """Notes that are taken while tiles are read.

    Attributes:
        counts: cells by what became of them.
        failures: reasons why tiles, or the rest of a slide, could not be read.
        drop: no patch of the slide is kept.

    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    drop: bool = False


def read_tiles(
    files: Sequence[str],
    fetch: Callable[[str], Path],
    params: PatchParams,
    budget: Budget,
    notes: TileNotes,
    hashes: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Image.Image, TilePatches]]:
    """Read the tiles of a slide. A tile that can't be used is noted, and left out; `params` say if others are kept.

    Args:
        files: of the tiles.
        fetch: gives the path of a file.
        params: the section `patches` of params.yaml.
        budget: of the slide.
        notes: failures and `drop` are noted.
        hashes: SHA-256 (hex) that files must have.

    Yields:
        File, tile, and patches of the tile.

    Raises:
        OverBudgetError: the slide's time is over.

    """
    for file in files:
        budget.check_time()
        try:
            path = fetch(file)
            with unchanged(path, (hashes or {}).get(file)):
                tile = read_tile(path)
            if params.tiles == "reduce":
                yield file, tile, reduce_tile(tile, file, params.pixels)
            else:
                yield file, tile, divide_tile(tile, file, params.pixels, params.tissue_share)
        except SlideError as error:
            notes.failures.append(str(error))
            notes.counts["unread"] += 1  # a tile that can't be read has an unknown number of cells
            dropped = params.on_read_error == "drop" and not isinstance(error, UnusableTileError)
            if dropped or isinstance(error, ChangedFileError):
                notes.drop = True
                return


def tile_columns(
    file: str, patches: TilePatches, pixels: int, take: NDArray[np.bool_] | slice = slice(None)
) -> dict[str, Any]:
    """Give the columns of the index for patches of a tile.

    Args:
        file: of the tile.
        patches: of the tile.
        pixels: side of a patch.
        take: which of them, bool, shape (n,), or all.

    Returns:
        file, row, column, x, y (pixels of the tile), mpp (missing) and tissue_share.

    """
    row, column = patches.rows[take], patches.columns[take]
    return {
        "file": file,
        "row": row,
        "column": column,
        "x": column * pixels,
        "y": row * pixels,
        "mpp": np.nan,
        "tissue_share": patches.shares[take],
    }


def check_patches(budget: Budget, count: int, params: PatchParams, bytes_of_files: int) -> None:
    """Refuse too many patches of a slide's tiles.

    Args:
        budget: of the slide.
        count: of its patches so far.
        params: the section `patches` of params.yaml.
        bytes_of_files: size of all tiles.

    Raises:
        OverBudgetError: there are too many, or too many for files of that size.

    """
    budget.check_patches(count)
    if params.tiles == "cut":  # else a tile is one patch, however small its file
        budget.check_expansion(count * 3 * params.pixels**2, bytes_of_files, "are the files tiles?")
