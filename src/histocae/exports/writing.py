"""Patches of slides in the chosen forms: files with all slides, and folders with a file per slide."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from histocae.errors import DataError, counted, shortened
from histocae.exports import existing, features, tables
from histocae.exports.columns import About, SlidePatches
from histocae.exports.forms import FOLDERS, name_of
from histocae.files import replacing_folder
from histocae.progress import bar

log = logging.getLogger(__name__)


def write(folder: Path, forms: Collection[str], slides: Sequence[SlidePatches], about: About) -> None:
    """Write patches of slides. What histocae did not write is not replaced.

    A file per slide has positions, which tiles lack: slides given as tiles are left out there, and named in the log.

    Args:
        folder: that the files and folders are written to.
        forms: of `forms.FORMS`.
        slides: at least one; their patches are read as they are written.
        about: the model and its patches.

    Raises:
        DataError: there are no slides, something would be replaced, a slide has no patches, or a form needs positions
            and all slides are tiles.

    """
    if not slides:
        raise DataError(f"{folder}: there are no slides to write; choose slides that show tissue")
    existing.check(folder, forms)
    if "h5ad" in forms:
        tables.write_h5ad_of_slides(folder / name_of("h5ad"), slides, about)
    if "parquet" in forms:
        tables.write_parquet_of_slides(folder / name_of("parquet"), slides, about)
    for form in (form for form in FOLDERS if form in forms):
        _write_folder(folder / name_of(form), form, slides, about)


def _write_folder(path: Path, form: str, slides: Sequence[SlidePatches], about: About) -> None:
    """Write a file for each slide; only one slide is in memory."""
    placed = [slide for slide in slides if not slide.tiles]
    if not placed:
        raise DataError(f"{path}: tiles have no position on a slide; write .h5ad or Parquet")
    if tiles := [slide.slide_id for slide in slides if slide.tiles]:
        count = counted(len(tiles))
        log.warning("%s lacks %s: tiles have no position on a slide: %s", path.name, count, shortened(tiles))
    with replacing_folder(path) as aside:
        for slide in bar(placed, path.name, "slides"):
            features.write_features_h5(
                aside / f"{slide.stem}.h5",
                slide.table(),
                slide.latents(),
                about,
                reader=FOLDERS[form][1],
                size=slide.size,
            )
