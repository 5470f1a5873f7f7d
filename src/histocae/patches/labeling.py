"""The labels of each slide's patches by the regions that a pathologist drew."""

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histocae.errors import DataError, counted, shortened
from histocae.files import read_cells, sha256
from histocae.params import Annotations
from histocae.patches.shard_file import shard_name
from histocae.patches.shard_record import ShardRecord
from histocae.progress import bar
from histocae.regions import files, reading
from histocae.regions.labels import Labels, label
from histocae.regions.reading import Drawn

OVERLAP = 0.01  # share of the tumor regions in normal regions from which on a warning tells of it
CHANGED = "changed since the stage inventory listed it; run dvc repro again"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labeling:
    """The labels of a slide's patches, or why there are none.

    Attributes:
        drawn: the regions of the slide; None where it has no file of regions.
        labels: None where there is no file, or it has a fault.
        faults: a line for each fault of the file.

    """

    drawn: Drawn | None = None
    labels: Labels | None = None
    faults: Sequence[str] = ()

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
    aside: Iterable[str] = (),
) -> dict[str, Labeling]:
    """Label the patches of all slides that have a file of regions, and log what the labels come from.

    Args:
        folder: of the files of regions.
        listed: SHA-256 (hex) of each file by its name, as the inventory has them.
        records: of the slides' shards.
        classes: the section `annotations` of params.yaml.
        pixels: side of a patch.
        shards: folder of the shards.
        aside: slides that earlier stages set aside.

    Returns:
        By slide_id, for slides that have patches and a file.

    Raises:
        DataError: a file is not the one that the inventory lists.

    """
    found = files.find(folder)
    if missing := [name for name in listed if not (folder / name).is_file()]:
        raise DataError(f"{folder / missing[0]}: {CHANGED}")
    slides = {record.slide_id: record for record in records}
    of_slide = _by_slide(found, [*slides, *aside])
    labelings = {}
    for slide_id, path in bar([each for each in of_slide.items() if each[0] in slides], "regions", "slides"):
        if listed.get(path.name) != sha256(path):
            raise DataError(f"{path}: {CHANGED}")
        if slides[slide_id].kept:
            labelings[slide_id] = label_slide(path, slides[slide_id], classes, pixels, shards)
    _log(labelings, [record.slide_id for record in slides.values() if record.kept])
    used = set(of_slide.values())
    if others := [path.name for path in found.values() if path not in used]:
        log.warning("%s: files of no slide: %d (%s)", folder, len(others), shortened(others))
    if unused := [of_slide[slide_id].name for slide_id in aside if slide_id in of_slide]:
        log.warning("%s: files of slides that are set aside: %d (%s)", folder, len(unused), shortened(unused))
    return labelings


def _by_slide(found: Mapping[str, Path], slide_ids: Iterable[str]) -> dict[str, Path]:
    """Find the file of each slide: its name is the slide_id or the safe form of it, in any Unicode form."""
    of_slide = {}
    for slide_id in slide_ids:
        names = {unicodedata.normalize("NFC", name) for name in (slide_id, shard_name(slide_id))}
        paths = [found[name] for name in sorted(names) if name in found]
        if len(paths) > 1:
            raise DataError(f"{paths[0]}: {paths[1].name} is of the same slide; delete either")
        if paths:
            of_slide[slide_id] = paths[0]
    return of_slide


def _log(labelings: Mapping[str, Labeling], slides: Sequence[str]) -> None:
    by_regions = [slide_id for slide_id, labeling in labelings.items() if labeling.by_regions]
    faulty = [slide_id for slide_id, labeling in labelings.items() if labeling.faults]
    own = [slide_id for slide_id in slides if slide_id not in {*by_regions, *faulty}]
    log.info("regions give the labels of the patches of %s", counted(len(by_regions)))
    if own:
        log.warning(
            "%s without tumor or normal regions keep the label of the slide: %s", counted(len(own)), shortened(own)
        )
    empty = [
        f"{slide_id} ({labeling.drawn.other} other objects)"
        for slide_id, labeling in labelings.items()
        if labeling.drawn is not None and labeling.drawn.other and not labeling.drawn.regions and not labeling.faults
    ]
    if empty:
        log.warning("files without an annotation of QuPath: %d (%s)", len(empty), shortened(empty))
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
    cells = np.array(list(read_cells(shards / f"{record.shard}.csv", ("row", "column"))), np.int64).reshape(-1, 2)
    side = pixels * record.patch_mpp / record.mpp
    labels = label(drawn.regions, cells[:, 0], cells[:, 1], side, classes.share)
    return Labeling(drawn, labels)
