"""Stage inventory: notice changes in the user's own files and in the code of stages. Runs at every repro."""

import os
from pathlib import Path

import pandas as pd

from histocae import paths
from histocae.errors import DataError
from histocae.files import fingerprint, write_table
from histocae.params import Params
from histocae.pipeline import lineage
from histocae.progress import bar
from histocae.sources import slide_source
from histocae.sources.hashes import Hashes

FILES, ELSEWHERE = "HISTOCAE_FILES", "elsewhere"


def run(params: Params) -> tuple[tuple[Path, ...], tuple[Path, ...]] | None:
    """List the user's files with bytes and hash (or one constant line without any), the code and the models.

    With HISTOCAE_FILES=elsewhere the list of the user's files stays as it is: the files are on another machine.

    Returns:
        The files that were read, and the outputs; None where one of the files is on another machine.

    Raises:
        DataError: the files are on another machine, and there is no list of them; or the network of a perceptual
            loss is missing, and its hash is not known.

    """
    elsewhere = os.environ.get(FILES) == ELSEWHERE and params.data.source in ("slides", "tiles")
    if elsewhere and not paths.INVENTORY.is_file():
        raise DataError(f"{FILES} is {ELSEWHERE}, and {paths.INVENTORY} is not there; dvc pull {paths.INVENTORY}")
    inputs = None if elsewhere else _list(params)
    lineage.write_code(paths.CODE)
    lineage.write_models(params, paths.LINEAGE)
    networks = lineage.networks(params)
    if inputs is None or not all(path.exists() for path in networks):
        return None
    return (*inputs, *networks), (paths.INVENTORY, paths.CODE, paths.LINEAGE)


def _list(params: Params) -> tuple[Path, ...]:
    """Write the inventory; return the files that it lists."""
    folder, inputs = slide_source.inputs(params.data)
    hashes = Hashes(paths.HASHES)
    rows = []
    try:
        for path in bar(inputs, "inventory", "files"):
            size, digest = hashes.of_slide(path)
            rows.append((_name(path, folder), size, digest))
    finally:
        # so that an interrupted first pass over a large cohort resumes from there
        hashes.save(only_used=len(rows) == len(inputs))
    if not rows:
        rows = [(params.data.source, 0, fingerprint(params.data.source))]
    write_table(pd.DataFrame(rows, columns=["file", "bytes", "sha256"]), paths.INVENTORY)
    return inputs


def _name(path: Path, folder: Path) -> str:
    """Name a file as its table does; the table itself may be in any folder, which does not matter."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"(table) {path.name}"
