"""The rows of the index: the positions of each slide's patches, with their labels.

Labels are no part of a shard. So a change of regions changes the index, and no patch is extracted again.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from histocae.errors import DataError, counted, shortened
from histocae.files import read_cells, sha256
from histocae.identifiers import COMPARED
from histocae.params import Annotations
from histocae.patches.shard_record import ShardRecord
from histocae.patches.store import SHARD_COLUMNS
from histocae.progress import bar
from histocae.regions import files, reading
from histocae.regions.labels import NONE, Labels, label
from histocae.regions.reading import Drawn

OVERLAP = 0.01  # share of the tumor regions in normal regions from which on a warning tells of it
ALL_EXCLUDED = "all of its patches are in regions to exclude"
log = logging.getLogger(__name__)
NAMES = {NONE: "", **dict(enumerate(COMPARED))}  # sample types by the code of a label


@dataclass(frozen=True)
class Labeling:
    """The labels of a slide's patches, or why there are none.

    Attributes:
        drawn: the regions of the slide; None where it has no file of regions.
        labels: None where there is no file, or it has a fault.
        faults: a line for each fault of the file.
        counts: patches by label: tumor, normal, unlabeled, excluded; empty where the slide keeps its label.

    """

    drawn: Drawn | None = None
    labels: Labels | None = None
    faults: Sequence[str] = ()
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def by_regions(self) -> bool:
        """Whether patches have labels of their own; else they have the label of the slide."""
        return self.labels is not None and self.labels.labeled


def label_slides(
    folder: Path,
    listed: Mapping[str, str],
    records: Iterable[ShardRecord],
    classes: Annotations,
    pixels: int,
    shards: Path,
) -> dict[str, Labeling]:
    """Label the patches of all slides that have a file of regions, and log what the labels come from.

    Args:
        folder: of the files of regions.
        listed: SHA-256 (hex) of each file by its name, as the inventory has them.
        records: of the slides' shards.
        classes: the section `annotations` of params.yaml.
        pixels: side of a patch.
        shards: folder of the shards.

    Returns:
        By slide_id, for slides that have patches and a file.

    Raises:
        DataError: a file is not the one that the inventory lists.

    """
    found = files.find(folder)
    slides = {record.slide_id: record for record in records}
    labelings = {}
    for slide_id, path in bar([each for each in found.items() if each[0] in slides], "regions", "slides"):
        if not path.is_file() or listed.get(path.name) != sha256(path):
            raise DataError(f"{path}: changed since the stage inventory listed it; run dvc repro again")
        if slides[slide_id].kept:
            labelings[slide_id] = label_slide(path, slides[slide_id], classes, pixels, shards)
    _log(labelings, [record.slide_id for record in slides.values() if record.kept])
    if others := [path.name for slide_id, path in found.items() if slide_id not in slides]:
        log.warning("%s: files of no slide: %d (%s)", folder, len(others), shortened(others))
    return labelings


def _log(labelings: Mapping[str, Labeling], slides: Sequence[str]) -> None:
    by_regions = [slide_id for slide_id, labeling in labelings.items() if labeling.by_regions]
    faulty = [slide_id for slide_id, labeling in labelings.items() if labeling.faults]
    own = [slide_id for slide_id in slides if slide_id not in {*by_regions, *faulty}]
    log.info("regions give the labels of the patches of %s", counted(len(by_regions)))
    if own:
        log.warning("%s without regions keep the label of the slide: %s", counted(len(own)), shortened(own))
    for slide_id, labeling in labelings.items():
        if labeling.labels is not None and labeling.labels.overlap > OVERLAP:
            log.warning(
                "%s: %.0f%% of the tumor regions are also in normal regions; a patch there gets the label with the "
                "larger share, and none where both are equal: %d patches; draw holes instead",
                slide_id,
                100 * labeling.labels.overlap,
                labeling.labels.unclear,
            )


def label_slide(path: Path, record: ShardRecord, classes: Annotations, pixels: int, shards: Path) -> Labeling:
    """Label the patches of a slide by its regions.

    Args:
        path: of the file of regions.
        record: of the slide's shard.
        classes: the section `annotations` of params.yaml.
        pixels: side of a patch.
        shards: folder of the shards.

    Returns:
        Labels or faults.

    """
    drawn = reading.read(path, classes)
    if record.width is None or record.height is None or record.patch_mpp is None or record.mpp is None:
        return Labeling(drawn, faults=[f"{path}: its slide has no size; regions are of slides"])
    faults = [*drawn.faults, *reading.outside(drawn, record.width, record.height)]
    if faults:
        return Labeling(drawn, faults=faults)
    cells = np.array(list(read_cells(_rows(shards, record), ("row", "column"))), np.int64).reshape(-1, 2)
    side = pixels * record.patch_mpp / record.mpp
    labels = label(drawn.regions, cells[:, 0], cells[:, 1], side, classes.share)
    counts = Counter[str](excluded=int(labels.excluded.sum()))
    if labels.labeled:
        counts |= {kind: int((labels.codes == code).sum()) for code, kind in enumerate(("tumor", "normal"))}
        counts["unlabeled"] = int((labels.codes == NONE).sum())
    return Labeling(drawn, labels, counts=counts)


def usable(record: ShardRecord, labeling: Labeling | None) -> ShardRecord:
    """Give the record of a slide as the index has it: without patches in excluded regions, or set aside for a fault.

    Args:
        record: of the slide's shard.
        labeling: of the slide; None where it has no file of regions.

    Returns:
        The record; `kept` and `counts` are those of the index.

    """
    if labeling is None or not record.kept:
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
    excluded = labeling.counts["excluded"]
    kept = record.kept - excluded
    return replace(
        record,
        reason=record.reason or (None if kept else ALL_EXCLUDED),
        kept=kept,
        counts=record.counts | {"kept": kept, "excluded": excluded},
    )


def index_rows(record: ShardRecord, sample_type: str, labeling: Labeling, shards: Path) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a slide's patches, but for those in regions to exclude.

    Args:
        record: of the slide's shard.
        sample_type: of the slide, which is the label of its patches where no region gives them another.
        labeling: of the slide.
        shards: folder of the shards.

    Yields:
        The cells of `store.PATCH_COLUMNS`, as text.

    """
    rows = read_cells(_rows(shards, record), SHARD_COLUMNS)
    labels = labeling.labels
    if labels is None:
        for row in rows:
            yield (*row, sample_type, "")
        return
    for row, code, share, excluded in zip(
        rows, labels.codes.tolist(), labels.shares.tolist(), labels.excluded.tolist(), strict=True
    ):
        if not excluded:
            yield (*row, *((NAMES[code], repr(round(share, 6))) if labels.labeled else (sample_type, "")))


def _rows(shards: Path, record: ShardRecord) -> Path:
    return shards / f"{record.shard}.csv"
