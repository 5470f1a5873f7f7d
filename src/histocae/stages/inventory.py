"""Stage inventory: notice that one of the user's own files changed. Runs at every repro."""

import json
import os
from pathlib import Path

import pandas as pd

from histocae import paths, sources
from histocae.errors import DataError
from histocae.files import fingerprint, sha256, write_json, write_table
from histocae.params import Params
from histocae.progress import bar

REMEMBERED = paths.SCRATCH / "hashes.json"


def run(params: Params) -> None:
    """List name, bytes and hash of every file of the user's; one constant line for demo.

    A hash is remembered by path, bytes and times, so that a cohort is not read at
    every repro.
    """
    source = sources.load(params.data, params.seed, paths.SLIDE_FILES)
    former, known = _remembered(), {}
    rows = []
    try:
        for path in bar(source.inputs, "inventory", "files"):
            parts = [_hashed(part, former, known) for part in sources.parts_of(path)]
            digest = parts[0][1] if len(parts) == 1 else fingerprint(parts)
            rows.append((_name(path, source.folder), sum(size for size, _ in parts), digest))
    finally:
        # an interrupted first pass over a large cohort goes on where it was
        write_json(known if len(rows) == len(source.inputs) else former | known, REMEMBERED)
    if not rows:
        rows = [(params.data.source, 0, fingerprint(params.data.source))]
    write_table(pd.DataFrame(rows, columns=["file", "bytes", "sha256"]), paths.INVENTORY)
    _write_lineage(params)


def _hashed(path: Path, former: dict[str, list], known: dict[str, list]) -> tuple[int, str]:
    """Give a file's bytes and hash, from memory if nothing about it changed."""
    try:
        stat = path.stat()
        # the time of the last change of the inode too: a copy that keeps the old time is noticed
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        key = os.path.abspath(path)
        seen = former.get(key)
        known[key] = seen if seen and seen[:-1] == state else [*state, sha256(path)]
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from None
    return stat.st_size, known[key][-1]


def _name(path: Path, folder: Path) -> str:
    """Name a file as its table does; the table itself may lie elsewhere, and where does not matter."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"(table) {path.name}"


def _remembered() -> dict[str, list]:
    try:
        return json.loads(REMEMBERED.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


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
