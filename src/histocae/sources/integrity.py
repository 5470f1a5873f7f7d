"""Whether the user's files have the right bytes: those that the table's hashes name, and no other slide's."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from histocae.errors import DataError, SlideError, TableError, raise_if_machine
from histocae.files import state
from histocae.slides.parts import parts_of
from histocae.sources.hashes import Hashes, digest
from histocae.sources.texts import quoted

SHOWN = 12  # digits of a hash in messages
_OTHER = "it is damaged or another file; restore it, or correct the table"


class ExpectedHashes(NamedTuple):
    """What the user's table says of the bytes of a file; None where it says nothing."""

    sha256: str | None = None
    md5: str | None = None


def check_bytes(path: Path, expected: ExpectedHashes, sha256: str | None = None) -> None:
    """Check a file against the hashes of its table.

    Args:
        path: of the file.
        expected: from the table.
        sha256: of the file, where it is known; of a slide of several files it is that of all together, and not used.

    Raises:
        SlideError: the file has another hash.

    """
    known = {"sha256": sha256 if len(parts_of(path)) == 1 else None}
    for name, wanted in expected._asdict().items():
        if wanted is None:
            continue
        found = known.get(name) or digest(path, name)
        if found != wanted:
            raise SlideError(f"its {name} is {found[:SHOWN]}… and in the table {wanted[:SHOWN]}…: {_OTHER}")


class ChangedFileError(SlideError):
    """A file is not the one that the stage slides read."""


def check_unchanged(path: Path, sha256: str | None, memory: Path | None = None) -> list[list[int]]:
    """Check that a file still is the one that the stage slides read.

    Args:
        path: of the file.
        sha256: that it had then, hex; None where it is not known.
        memory: remembered hashes: a file whose size and times are as in it is not read. None for none.

    Returns:
        Sizes and times of the slide's files, which show whether they change from now on.

    Raises:
        ChangedFileError: it has other bytes.
        SlideError: it can't be read.
        OSError: no file can be read now: this is no fault of the slide.

    """
    try:
        states = [state(part) for part in parts_of(path)]
        changed = sha256 is not None and _hashes(memory).of_slide(path)[1] != sha256
    except (OSError, DataError) as error:
        raise_if_machine(error)
        raise SlideError(f"{path.name}: can't be read: {error}") from None
    if changed:
        raise ChangedFileError(f"{path.name}: changed since the stage slides read it; run dvc repro again")
    return states


@lru_cache(maxsize=2)
def _hashes(memory: Path | None) -> Hashes:
    return Hashes(memory)


def check_copies(files: pd.DataFrame, table: Path) -> None:
    """Check that no two slides have the same bytes: as two cases, they could be in two parts of the split.

    Args:
        files: a row per slide, with slide_id, file and sha256; its index is the line number in the table.
        table: for messages.

    Raises:
        TableError: two slides have the same bytes.

    """
    known = files[files["sha256"].notna()]
    copies = known[known["sha256"].duplicated()]
    for line, copy in copies[:1].iterrows():
        first = known[known["sha256"] == copy["sha256"]]
        rest = f" ({len(copies)} slides are copies)" if len(copies) > 1 else ""
        raise TableError(
            f"{table}: rows {first.index[0]} and {line}: {quoted(first['file'].iloc[0])} and {quoted(copy['file'])} "
            f"have the same bytes{rest}: one slide can't be two; delete one of the rows, or replace the wrong file"
        )


def shared_tiles(files: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
    """List tiles whose bytes occur under several cases or sample types: blank tiles, or copies.

    Args:
        files: a row per tile, with slide_id, file and sha256.
        metadata: of the slides, with case_id and sample_type; its index is slide_id.

    Returns:
        sha256, slide_id, case_id, sample_type and file of each of these tiles; equal ones one below the other.

    """
    tiles = files.loc[files["sha256"].duplicated(keep=False), ["sha256", "slide_id", "file"]]
    tiles = tiles.join(metadata[["case_id", "sample_type"]], on="slide_id")
    groups = tiles.groupby("sha256")[["case_id", "sample_type"]].nunique().gt(1).any(axis=1)
    shared = tiles[tiles["sha256"].isin(groups.index[groups])]
    return shared[["sha256", "slide_id", "case_id", "sample_type", "file"]].sort_values(["sha256", "file"])
