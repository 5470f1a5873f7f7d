"""Command verify: read all outputs and slides, and compare them with the hashes that were kept of them."""

import errno
import itertools
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from histocae import checksums, paths
from histocae.errors import DataError, HistocaeError, StoreError, blames_machine, shortened
from histocae.files import read_table
from histocae.networks import saved
from histocae.params import Params
from histocae.patches import integrity
from histocae.patches.store import MANIFEST, PatchStore
from histocae.pipeline import dvc_state
from histocae.progress import bar
from histocae.sources import slide_source
from histocae.sources.hashes import Hashes, digest
from histocae.stages.inventory import ELSEWHERE, FILES

log = logging.getLogger(__name__)
OUTPUTS = (Path("data"), Path("models"), Path("reports"))
REMEDY = (
    "if an output is damaged, delete it, and dvc checkout restores it from DVC's cache, or dvc repro makes it again; "
    "restore your own slides from where they came"
)
_COLUMNS = ("file", "sha256", "md5")  # of the table of slides
_RESTORE = "restore it (dvc checkout)"


def run(params: Params) -> None:
    """Log a line for each file that is not as it was written, and one for the files that could not be compared.

    Raises:
        DataError: there are files that are not as they were written, or nothing could be compared.

    """
    problem: DataError | None = None
    of_dvc = dvc_state.Comparison({}, set())
    try:
        of_dvc = dvc_state.compare()
    except DataError as error:
        problem = error
    compared = of_dvc.compared
    own = itertools.chain(
        _store(compared), _saved(of_dvc.differing, compared, problem is None), _slides(params, compared)
    )
    reasons = dict(own) | of_dvc.differing
    for path, reason in sorted(reasons.items()):
        log.warning("%s: %s", path, reason)
    others = _others(compared)
    if others:
        folders = ", ".join(sorted({Path(*path.parts[:2]).as_posix() for path in others}))
        why = "these are no outputs in dvc.lock" if problem is None else str(problem)
        log.warning("%d of the files have no hash and were not compared, in %s: %s", len(others), folders, why)
    if reasons:
        raise DataError(f"not as written: {shortened(sorted(map(str, reasons)))}; {REMEDY}")
    if not compared:
        raise DataError(f"nothing was compared: {problem or 'there are no outputs; run dvc repro'}")
    log.info("all %sfiles are as they were written", "other " if others else "")


def _others(compared: set[Path]) -> list[Path]:
    """List the files among the outputs that were not compared."""
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
    is_own = params.data.source in ("slides", "tiles")
    if is_own and os.environ.get(FILES) == ELSEWHERE:
        log.warning("the slides are on another machine (%s is %s); they were not compared", FILES, ELSEWHERE)
        return
    try:
        table = read_table(paths.SLIDES, _COLUMNS, needed=_COLUMNS)
    except DataError as error:
        yield paths.SLIDES, str(error).removeprefix(f"{paths.SLIDES}: ")
        return
    folder = slide_source.from_params(params.data, params.seed, paths.SLIDE_FILES).folder
    hashes = Hashes(None)
    faults: list[str] = []
    rows = list(table[list(_COLUMNS)].itertuples(index=False, name=None))
    for number, (file, sha256, md5) in enumerate(bar(rows, "checking", "slides"), 2):
        if not isinstance(file, str):
            faults.append(f"line {number} names no file")
        elif not isinstance(sha256, str) and not isinstance(md5, str):
            faults.append(f"line {number} has no hash of {file}")
        else:
            compared.add(folder / file)
            if reason := _differs(folder / file, sha256, md5, hashes, is_own):
                yield folder / file, reason
    if faults:
        yield paths.SLIDES, shortened(faults)


def _differs(path: Path, sha256: object, md5: object, hashes: Hashes, is_own: bool) -> str | None:
    """Return why a slide is not the one that was read; None if it is."""
    try:
        if not path.is_file():
            return "is missing" if is_own else None
        if isinstance(sha256, str):
            same = hashes.of_slide(path)[1] == sha256
            return None if same else "is not the slide that was read (its SHA-256 differs)"
        same = digest(path, "md5") == md5
        return None if same else "is not the slide that the GDC describes (its MD5 differs)"
    except HistocaeError as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        # a damaged disk or a drive that is away concerns some files, and the others are read
        if blames_machine(error) and error.errno not in (errno.EIO, errno.ESTALE, errno.ENOTCONN):
            raise
        return f"can't be read: {error.strerror}"
