"""Command verify: read all outputs and slides, and compare them with the hashes that were kept of them."""

import itertools
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from histocae import checksums, paths
from histocae.errors import DataError, HistocaeError, StoreError, shortened
from histocae.files import read_table
from histocae.networks import saved
from histocae.params import Params
from histocae.patches import integrity
from histocae.patches.store import MANIFEST, PatchStore
from histocae.pipeline import dvc_state
from histocae.progress import bar
from histocae.sources import slide_source
from histocae.sources.hashes import Hashes, digest

log = logging.getLogger(__name__)
OUTPUTS = (Path("data"), Path("models"), Path("reports"))
REMEDY = (
    "if an output is damaged, delete it, and dvc checkout restores it from DVC's cache, or dvc repro makes it again; "
    "restore your own slides from where they came"
)
_RESTORE = "restore it (dvc checkout)"


def run(params: Params) -> None:
    """Log a line for each file that is not as it was written, and one for the files that could not be compared.

    Raises:
        DataError: there are files that are not as they were written, or nothing could be compared.

    """
    problem: DataError | None = None
    reasons: dict[Path, str] = {}
    try:
        reasons = dvc_state.differing()
    except DataError as error:
        problem = error
    compared: set[Path] = set()
    own = itertools.chain(_store(compared), _saved(reasons, compared, problem is None), _slides(params, compared))
    reasons = dict(own) | reasons
    for path, reason in sorted(reasons.items()):
        log.warning("%s: %s", path, reason)
    others = [] if problem is None else _others(compared)
    if others:
        folders = sorted({Path(*path.parts[:2]).as_posix() for path in others})
        log.warning("%s; so %d of the files were not compared, in %s", problem, len(others), ", ".join(folders))
    if reasons:
        raise DataError(f"not as written: {shortened(sorted(map(str, reasons)))}; {REMEDY}")
    if problem is not None and not compared:
        raise DataError(f"nothing was compared: {problem}")
    log.info("all %sfiles are as they were written", "other " if others else "")


def _others(compared: set[Path]) -> list[Path]:
    """List the outputs that only DVC could have compared."""
    files = (path for folder in OUTPUTS for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path not in compared and not path.name.startswith(".")]


def _store(compared: set[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the files of the patch store that are not those that were written; none where there is no store yet."""
    if not paths.PATCHES.exists():
        return
    try:
        hashes = PatchStore(paths.PATCHES).hashes()
    except StoreError as error:
        manifest = paths.PATCHES / MANIFEST
        yield manifest, str(error).removeprefix(f"{manifest}: ").removeprefix(f"{paths.PATCHES}: ")
        return
    compared.update(hashes)
    yield from dict.fromkeys(integrity.read_again(hashes), integrity.DIFFERS).items()


def _saved(known: Collection[Path], compared: set[Path], has_dvc: bool) -> Iterator[tuple[Path, str]]:
    """Yield the files of trained models and of latents that are not those that were saved."""
    for folder in sorted({*paths.TRAINED.glob("*/"), *paths.FOLDS.glob("*/trained/*/"), *paths.LATENTS.glob("*/")}):
        try:
            files = checksums.compare(folder, _RESTORE)
        except DataError as error:
            yield folder / checksums.FILE, str(error).removeprefix(f"{folder / checksums.FILE}: ")
            continue
        compared.update(files)
        differing = {path: reason for path, reason in files.items() if reason is not None}
        yield from differing.items()
        if folder.parent == paths.LATENTS or differing or any(path.is_relative_to(folder) for path in known):
            continue
        if not (files or has_dvc or (folder / saved.RECORD_FILE).exists()):
            yield folder, f"has no {checksums.FILE} and no {saved.RECORD_FILE}, so that it can't be compared"
            continue
        try:
            saved.check(folder)  # that the weights are those of the training
        except HistocaeError as error:
            yield folder, str(error)


def _slides(params: Params, compared: set[Path]) -> Iterator[tuple[Path, str]]:
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
        compared.add(path)
        if not path.is_file():
            if params.data.source in ("slides", "tiles"):
                yield path, "is missing"
        elif isinstance(sha256, str):
            if hashes.of_slide(path)[1] != sha256:
                yield path, "is not the slide that was read (its SHA-256 differs)"
        elif digest(path, "md5") != md5:
            yield path, "is not the slide that the GDC describes (its MD5 differs)"
