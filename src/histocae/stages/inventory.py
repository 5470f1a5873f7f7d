"""Stage inventory: notice that one of the user's own files changed. Runs at every repro."""

from pathlib import Path

import pandas as pd

from histocae import paths, sources
from histocae.files import fingerprint, parts_of, write_json, write_table
from histocae.hashes import Hashes
from histocae.params import Params
from histocae.progress import bar

REMEMBERED = paths.SCRATCH / "hashes.json"


def run(params: Params) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """List name, bytes and hash of every file of the user's; one constant line where there is none.

    Returns:
        The files that it looked at, and what it wrote.

    """
    folder, inputs = sources.inputs(params.data)
    hashes = Hashes(REMEMBERED)
    rows = []
    try:
        for path in bar(inputs, "inventory", "files"):
            parts = [hashes.of(part) for part in parts_of(path)]
            digest = parts[0][1] if len(parts) == 1 else fingerprint(parts)
            rows.append((_name(path, folder), sum(size for size, _ in parts), digest))
    finally:
        # an interrupted first pass over a large cohort goes on where it was
        hashes.save(only_asked=len(rows) == len(inputs))
    if not rows:
        rows = [(params.data.source, 0, fingerprint(params.data.source))]
    write_table(pd.DataFrame(rows, columns=["file", "bytes", "sha256"]), paths.INVENTORY)
    _write_lineage(params)
    return inputs, (paths.INVENTORY, paths.LINEAGE)


def _name(path: Path, folder: Path) -> str:
    """Name a file as its table does; the table itself may lie elsewhere, and where does not matter."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"(table) {path.name}"


def _write_lineage(params: Params) -> None:
    """Write, per model, its own entry and training and those of the models it starts from, all values spelt out.

    DVC can't follow init_from, nor see the values that an entry leaves to the code.
    """
    wanted = {f"{name}.json" for name in params.models}
    for name in params.models:
        chain, at = {}, name
        while at is not None:
            model = params.models[at]
            chain[at] = model.model_dump() | model.training(params.training).model_dump()
            at = params.models[at].init_from
        write_json(chain, paths.LINEAGE / f"{name}.json")
    for stale in paths.LINEAGE.iterdir():
        if stale.name not in wanted:
            stale.unlink()
