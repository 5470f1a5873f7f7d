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
from histocae.regions import files
from histocae.sources import slide_source
from histocae.sources.hashes import Hashes

FILES, ELSEWHERE = "HISTOCAE_FILES", "elsewhere"


def run(params: Params) -> tuple[tuple[Path, ...], tuple[Path, ...]] | None:
    """List the user's files with bytes and hash (or one constant line without any), the code and the models.

    With HISTOCAE_FILES=elsewhere the lists of the user's files stay as they are: the files are on another machine.

    Returns:
        The files that were read, and the outputs; None where one of the files is on another machine.

    Raises:
        DataError: the files are on another machine, and there is no list of them; or the network of a perceptual
            loss is missing, and its hash is not known.

    """
    elsewhere = os.environ.get(FILES) == ELSEWHERE and params.data.source in ("slides", "tiles")
    for path in (paths.INVENTORY, paths.ANNOTATIONS) if elsewhere else ():
        if not path.is_file():
            raise DataError(f"{FILES} is {ELSEWHERE}, and {path} is not there; dvc pull {path}")
    inputs = None if elsewhere else _list(params)
    lineage.write_code(paths.CODE)
    lineage.write_models(params, paths.LINEAGE)
    networks = lineage.networks(params)
    if inputs is None or not all(path.exists() for path in networks):
        return None
    return (*inputs, *networks), (paths.INVENTORY, paths.ANNOTATIONS, paths.CODE, paths.LINEAGE)


def _list(params: Params) -> tuple[Path, ...]:
    """Write the inventory and the list of regions; return the files that they list."""
    folder, inputs = slide_source.inputs(params.data)
    regions = _regions(params)
    hashes = Hashes(paths.HASHES)
    rows = []
    try:
        for path in bar(inputs, "inventory", "files"):
            size, digest = hashes.of_slide(path)
            rows.append((_name(path, folder), size, digest))
        of_regions = [(path.name, *hashes.of(path)) for path in regions]
    finally:
        # so that an interrupted first pass over a large cohort resumes from there
        hashes.save(only_used=len(rows) == len(inputs))
    if not rows:
        rows = [(params.data.source, 0, fingerprint(params.data.source))]
    for listed, path in ((rows, paths.INVENTORY), (of_regions, paths.ANNOTATIONS)):
        write_table(pd.DataFrame(listed, columns=["file", "bytes", "sha256"]), path)
    folders = [] if params.data.annotations is None else [Path(params.data.annotations)]
    return (*inputs, *regions, *folders)  # folders change where a file is added


def _regions(params: Params) -> list[Path]:
    """List the files of regions; those of the demo cohort are written where they are missing."""
    if params.data.annotations is None:
        return []
    folder = Path(params.data.annotations)
    if params.data.source == "demo":
        from histocae.sources import demo_regions  # the drawing of the demo, which other sources do not need

        demo_regions.write(slide_source.demo_spec(params.data, params.seed), folder)
    return list(files.find(folder).values())


def _name(path: Path, folder: Path) -> str:
    """Name a file as its table does; the table itself may be in any folder, which does not matter."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"(table) {path.name}"
