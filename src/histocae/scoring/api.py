"""`histocae.score`: the scores of one slide as a table, without any file."""

import tempfile
from pathlib import Path

import pandas as pd

from histocae.errors import ParamsError, SlideError, TableError
from histocae.scanners import MPP_EXPECTED
from histocae.scoring import inputs, models, outputs, summary
from histocae.scoring.command import loaded
from histocae.scoring.scored import Settings
from histocae.scoring.slides import score as score_patches
from histocae.scoring.wording import in_words
from histocae.slides.slide import in_range
from histocae.slides.units import MicronsPerPixel
from histocae.workers.processes import count_cores

_FETCHED = tempfile.TemporaryDirectory(prefix="histocae-models-")  # for this process; a model is fetched once


def score(slide: str | Path, model: str = models.DEFAULT, *, mpp: float | None = None) -> pd.DataFrame:
    """Score the patches of a slide.

    Args:
        slide: a file that OpenSlide opens, a tile, or a folder with the tiles of one slide.
        model: models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID on the server that MLFLOW_TRACKING_URI names, or a
            folder under models/trained.
        mpp: microns per level-0 pixel of a slide that states none.

    Returns:
        A row per patch: slide_id; file (of tiles only); x, y and width in level-0 pixels; mpp, microns per pixel of
        the patch; tissue_share; the measures of quality and flags, the faults of the patch; color_distance, the
        distance of the mean color from that of the training patches. Patches that the model leaves out have no row. A
        pair adds error_tumor, error_normal, score, probability and class; a single model adds error.
        `attrs["summary"]` is the slide's row of slides.csv, with its warnings as a list.

    Raises:
        HistocaeError: the slide or the model is missing or can't be used; the message has the remedy.

    Example:
        >>> import histocae
        >>> table = histocae.score("slides/new.tif", model="models/trained/all")
        >>> list(table.columns)[:6]
        ['slide_id', 'x', 'y', 'width', 'mpp', 'tissue_share']
        >>> list(table.columns)[6:]
        ['pen_share', 'sharpness', 'saturation', 'debris_share', 'stain', 'flags', 'color_distance', 'error']
        >>> table.attrs["summary"]["patches"] == len(table)
        True

    """
    if mpp is not None and in_range(mpp) is None:
        raise ParamsError(f"mpp {mpp:g}: not {MPP_EXPECTED}")
    if Path(slide).suffix.lower() in inputs.TABLES:
        raise TableError(f"{slide}: is a table; give a slide, a tile or a folder of tiles, or run histocae score")
    found = inputs.find([Path(slide)])
    if len(found) != 1:
        raise TableError(f"{slide}: has {len(found)} slides; give one, or run histocae score")
    if found[0].trouble is not None:
        raise SlideError(f"{found[0].slide_id}: {found[0].trouble}")
    source = models.find(str(model), Path(_FETCHED.name) / outputs.MODELS)
    settings = Settings(mpp=None if mpp is None else MicronsPerPixel(mpp), threads=count_cores())
    in_memory = loaded(source, latents=False)
    try:
        scored = score_patches(found[0], in_memory, settings)
    except SlideError as error:
        raise SlideError(f"{slide}: {in_words(error, source.contract, python=True)}") from None
    table = summary.columns(scored)
    table.attrs["summary"] = summary.summarize(scored, in_memory)
    return table
