"""Command verify: read all outputs and slides, and compare them with the hashes that were kept of them."""

import logging
from collections.abc import Iterator
from pathlib import Path

from histocae import paths
from histocae.errors import DataError, HistocaeError, StoreError, shortened
from histocae.files import read_table
from histocae.networks import saved
from histocae.params import Params
from histocae.patches import integrity
from histocae.patches.store import PatchStore
from histocae.pipeline import dvc_state
from histocae.progress import bar
from histocae.sources import slide_source
from histocae.sources.hashes import Hashes, digest

log = logging.getLogger(__name__)
REMEDY = (
    "if an output is damaged, delete it, and dvc checkout restores it from DVC's cache, or dvc repro makes it again; "
    "restore your own slides from where they came"
)


def run(params: Params) -> None:
    """Log a line for each file that is not as it was written.

    Raises:
        DataError: there are such files.

    """
    try:
        reasons = dvc_state.differing()
    except DataError as error:
        log.warning("%s; without it, only the patch store, the models and the slides are compared", error)
        reasons = {}
    reasons |= dict.fromkeys(integrity.read_again(_store()), integrity.DIFFERS)
    reasons |= dict(_models(reasons)) | dict(_slides(params))
    for path, reason in sorted(reasons.items()):
        log.warning("%s: %s", path, reason)
    if reasons:
        raise DataError(f"not as written: {shortened(sorted(map(str, reasons)))}; {REMEDY}")
    log.info("all files are as they were written")


def _store() -> dict[Path, str]:
    """Return the hashes of the patch store's files; none where there is no store yet."""
    if not paths.PATCHES.is_dir():
        return {}
    try:
        return PatchStore(paths.PATCHES).hashes()
    except StoreError as error:
        log.warning("%s", error)
        return {}


def _models(known: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    """Yield the trained models that are not those that were saved, but for files that differ from dvc.lock anyway."""
    for folder in sorted({*paths.TRAINED.glob("*"), *paths.FOLDS.glob("*/trained/*")}):
        if any(path.is_relative_to(folder) for path in known):
            continue
        try:
            saved.check(folder)
        except HistocaeError as error:
            yield folder, str(error)


def _slides(params: Params) -> Iterator[tuple[Path, str]]:
    """Yield the slides, or tiles, that are not those that were read; deleted ones are made or fetched again."""
    if not paths.SLIDES.is_file():
        return
    try:
        table = read_table(paths.SLIDES, (names := ("slide_id", "file", "sha256", "md5")), needed=names)
    except DataError as error:
        yield paths.SLIDES, str(error)
        return
    folder = slide_source.from_params(params.data, params.seed, paths.SLIDE_FILES).folder
    hashes = Hashes(paths.SCRATCH / "nothing is remembered")
    expected = [(folder / file, sha256, md5) for file, sha256, md5 in table[["file", "sha256", "md5"]].to_numpy()]
    for path, sha256, md5 in bar(expected, "checking", "slides"):
        if not path.is_file():
            if params.data.source in ("slides", "tiles"):
                yield path, "is missing"
        elif isinstance(sha256, str):
            if hashes.of_slide(path)[1] != sha256:
                yield path, "is not the slide that was read (its SHA-256 differs)"
        elif digest(path, "md5") != md5:
            yield path, "is not the slide that the GDC describes (its MD5 differs)"
