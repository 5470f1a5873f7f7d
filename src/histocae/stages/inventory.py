"""Stage inventory: notice changes in the user's own files and in the code of stages. Runs at every repro."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from histocae import paths
from histocae.errors import DataError
from histocae.files import fingerprint, write_table
from histocae.params import Params
from histocae.patches import outside
from histocae.pipeline import lineage, user_files
from histocae.progress import bar
from histocae.regions import files
from histocae.sources import slide_source
from histocae.sources.hashes import Hashes

FILES, ELSEWHERE = "HISTOCAE_FILES", "elsewhere"


def run(params: Params) -> tuple[tuple[Path, ...], tuple[Path, ...]] | None:
    """List the user's files with bytes and hash (slides or tiles, regions, features), the code and the models.

    Each kind of file has a list of its own, so that a change repeats only the stages that use the file. The list of
    slides has one constant line for sources without files of the user. With HISTOCAE_FILES=elsewhere, lists of the
    user's files stay as they are: the files are on another machine.

    Returns:
        The files and folders that were read, and the outputs; None where some of them are on another machine.

    Raises:
        DataError: the files are on another machine, and there is no list of them; or the network of a perceptual
            loss is missing, and its hash is not known.

    """
    of_user = user_files.lists(params)
    elsewhere = [path for path, own in of_user.items() if own and os.environ.get(FILES) == ELSEWHERE]
    for path in elsewhere:
        if not path.is_file():
            raise DataError(f"{FILES} is {ELSEWHERE}, and {path} is not there; dvc pull {path}")
    inputs = _list(params, [path for path in of_user if path not in elsewhere])
    lineage.write_code(paths.CODE)
    lineage.write_models(params, paths.LINEAGE)
    networks = lineage.networks(params)
    if elsewhere or not all(path.exists() for path in networks):
        return None
    return (*inputs, *networks), (*of_user, paths.CODE, paths.LINEAGE)


def _list(params: Params, lists: Sequence[Path]) -> list[Path]:
    """Write some of the lists; return the files and folders that were read."""
    listed = {paths.INVENTORY: _slides, paths.ANNOTATIONS: _regions, paths.FEATURES: _features}
    found = {path: listed[path](params) for path in lists}  # a wrong folder is reported before a file is read
    hashes, done = Hashes(paths.HASHES), False
    try:
        for path, (folder, inputs) in found.items():
            hash_of = hashes.of_slide if path == paths.INVENTORY else hashes.of
            rows = [(_name(each, folder), *hash_of(each)) for each in bar(inputs, "inventory", "files")]
            if path == paths.INVENTORY and not rows:
                rows = [(params.data.source, 0, fingerprint(params.data.source))]
            write_table(pd.DataFrame(rows, columns=["file", "bytes", "sha256"]), path)
        done = len(found) == len(listed)
    finally:
        # so that an interrupted first pass over a large cohort resumes from there
        hashes.save(only_used=done)
    folders = {name for name in (params.data.annotations, params.baselines.features) if name is not None}
    files = [path for _, inputs in found.values() for path in inputs]
    # a folder changes with each new name in it
    return [*files, *sorted({*map(Path, folders), *(path.parent for path in found.get(paths.FEATURES, ("", ()))[1])})]


def _slides(params: Params) -> tuple[Path, Sequence[Path]]:
    return slide_source.inputs(params.data)


def _regions(params: Params) -> tuple[Path, Sequence[Path]]:
    """List the files of regions; those of the demo cohort are written where they are missing."""
    folder = Path(params.data.annotations or "")
    if params.data.annotations is None:
        return folder, ()
    if params.data.source == "demo":
        from histocae.sources import demo_regions  # the drawing of the demo, which other sources do not need

        demo_regions.write(slide_source.demo_spec(params.data, params.seed), folder)
    return folder, list(files.find(folder).values())


def _features(params: Params) -> tuple[Path, Sequence[Path]]:
    """List the files of features that another program wrote."""
    named = params.baselines.features
    return Path(named or ""), [] if named is None else outside.list_files(Path(named))


def _name(path: Path, folder: Path) -> str:
    """Name a file as its table does; the table itself may be in any folder, which does not matter."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"(table) {path.name}"
