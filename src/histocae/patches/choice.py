"""Which of a slide's patches are in the index, with their labels and flags.

These are no part of a shard. So a change of regions or of `quality` changes the index, and extracts no patch again.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocae.files import read_cells, read_table
from histocae.identifiers import COMPARED
from histocae.params import Quality
from histocae.patches import quality
from histocae.patches.flags import TEXTS, as_bits, none_left
from histocae.patches.labeling import Labeling
from histocae.patches.quality import FAULTS
from histocae.patches.shard_record import ShardRecord
from histocae.patches.store import MEASURES, SHARD_COLUMNS
from histocae.regions.labels import NONE

EXCLUDED = "excluded"
REASONS = (EXCLUDED, *FAULTS)  # why a patch of a shard is not in the index; the first that holds
KEPT = -1
LABELS = {"tumor": 0, "normal": 1, "unlabeled": NONE}  # codes of the labels in the index
NAMES = {NONE: "", **dict(enumerate(COMPARED))}  # sample types by the code of a label


@dataclass(frozen=True)
class Choice:
    """The patches of a slide that are in the index.

    Attributes:
        labeling: by the regions of the slide.
        flags: uint8, shape (n,), of each patch of the shard: bit i is set where it has fault i of `FAULTS`.
        reasons: int8, shape (n,): position in `REASONS` of why a patch is left out, `KEPT` where it is in the index.

    """

    labeling: Labeling = field(default_factory=Labeling)
    flags: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    reasons: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))

    @property
    def counts(self) -> dict[str, int]:
        """The number of patches by the reason why they are left out."""
        return {name: int((self.reasons == code).sum()) for code, name in enumerate(REASONS)}

    @property
    def labels(self) -> dict[str, int]:
        """The number of patches in the index by label: tumor, normal, unlabeled; empty without regions."""
        found = self.labeling.labels
        if found is None or not found.labeled:
            return {}
        codes = found.codes[self.reasons == KEPT]
        return {name: int((codes == code).sum()) for name, code in LABELS.items()}

    @property
    def flagged(self) -> dict[str, int]:
        """The number of patches with each fault, whether they are left out or not."""
        return {fault: int((self.flags >> bit & 1).sum()) for bit, fault in enumerate(FAULTS)}


def choose(record: ShardRecord, labeling: Labeling, settings: Quality, shards: Path) -> Choice:
    """Choose the patches of a slide.

    Args:
        record: of the slide's shard.
        labeling: by the regions of the slide.
        settings: the section `quality` of params.yaml.
        shards: folder of the shards.

    Returns:
        The choice; empty for a slide without patches.

    """
    if not record.kept:
        return Choice(labeling)
    rows = read_table(_rows(shards, record), columns=dict.fromkeys(MEASURES, "float32"))
    found = quality.flag({name: rows[name].to_numpy() for name in MEASURES}, quality.thresholds(settings))
    reasons = np.full(record.kept, KEPT, np.int8)
    for fault in reversed(quality.left_out(settings)):
        reasons[found[fault]] = REASONS.index(fault)
    if labeling.labels is not None:
        reasons[labeling.labels.excluded] = REASONS.index(EXCLUDED)
    return Choice(labeling, as_bits(found), reasons)


def as_indexed(record: ShardRecord, choice: Choice) -> ShardRecord:
    """Give the record of a slide as the index has it: without patches that are left out, or set aside for a fault.

    Args:
        record: of the slide's shard.
        choice: of its patches.

    Returns:
        The record; `kept` and `counts` are those of the index.

    """
    labeling = choice.labeling
    if not record.kept:
        return record
    if labeling.faults:
        more = f" (and {len(labeling.faults) - 1} more, in reports/patching/failures.csv)"
        return replace(
            record,
            reason=labeling.faults[0] + more * (len(labeling.faults) > 1),
            failed=True,
            kept=0,
            counts=record.counts | {"kept": 0, "dropped": record.kept},
            failures=(*record.failures, *labeling.faults),
        )
    counts = Counter(choice.counts)
    kept = record.kept - counts.total()
    sections = dict.fromkeys("annotations" if name == EXCLUDED else "quality" for name, n in counts.items() if n)
    return replace(
        record,
        reason=record.reason or (None if kept else f"{none_left(counts)} (params.yaml: {', '.join(sections)})"),
        kept=kept,
        counts=record.counts | {"kept": kept, **counts},
    )


def index_rows(record: ShardRecord, sample_type: str, choice: Choice, shards: Path) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the patches of a slide that are in the index.

    Args:
        record: of the slide's shard.
        sample_type: of the slide, which is the label of its patches where no region gives them another.
        choice: of its patches.
        shards: folder of the shards.

    Yields:
        The cells of `store.PATCH_COLUMNS`, as text.

    """
    rows = read_cells(_rows(shards, record), SHARD_COLUMNS)
    labels = choice.labeling.labels
    own: Iterator[Any]
    if labels is not None and labels.labeled:
        own = ((NAMES.get(code, ""), repr(round(share, 6))) for code, share in _each(labels.codes, labels.shares))
    else:
        own = iter([(sample_type, "")] * len(choice.flags))
    for row, (label, share), flags, reason in zip(
        rows, own, choice.flags.tolist(), choice.reasons.tolist(), strict=True
    ):
        if reason == KEPT:
            yield (*row, label, share, TEXTS[flags])


def _each(codes: NDArray[np.int8], shares: NDArray[np.float64]) -> Iterator[tuple[int, float]]:
    return zip(codes.tolist(), shares.tolist(), strict=True)


def _rows(shards: Path, record: ShardRecord) -> Path:
    return shards / f"{record.shard}.csv"
