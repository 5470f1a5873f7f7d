"""The task of extracting a slide's patches, and the record of its outcome.

A shard is complete when its record is there, has the fingerprint of its inputs, and the files made of the slide are
as they were written. A run after one that was killed resumes with the slides whose shards are not complete.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from histocae.errors import SlideError
from histocae.files import fingerprint, read_json_or_none, sha256, state, write_json
from histocae.params import Patches as PatchParams
from histocae.patches import integrity, previews
from histocae.patches.shard_file import shard_name
from histocae.slides.budget import Budget, exceeded
from histocae.slides.slide import Slide, in_range
from histocae.slides.units import MicronsPerPixel
from histocae.sources.slide_source import Source

log = logging.getLogger(__name__)
NO_TISSUE = "shows no tissue"


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A slide whose patches become a shard.

    Attributes:
        slide_id: of the slide.
        files: its files as its table names them: one slide, or many tiles.
        source: of the files.
        own_mpp: microns per level-0 pixel from the slide's table; None: as the slide states.
        default_mpp: microns per level-0 pixel where the slide states none. Both None for tiles.
        params: the section `patches` of params.yaml.
        seed: of the sample, where there is a cap.
        shards: folder of the shards.
        overviews: folder of the overview images.
        previews: folder of previews for later figures; see `patches.previews`.
        hashes: SHA-256 of each file as the stage slides read it, hex; none where only the GDC's MD5 is known.
        made_from: fingerprint of the slide's bytes and the code that reads them.
        by_default: the slide states nothing, so that default_mpp counts: known once it has been opened.
        threads: that decode; the shard does not depend on their number.

    """

    slide_id: str
    files: tuple[str, ...]
    source: Source
    own_mpp: MicronsPerPixel | None
    default_mpp: MicronsPerPixel | None
    params: PatchParams
    seed: int
    shards: Path
    overviews: Path
    previews: Path
    made_from: str
    hashes: Mapping[str, str]
    by_default: bool = False
    threads: int = 1

    @property
    def name(self) -> str:
        """The shard's name: a new one for other input, so that it never replaces the former shard."""
        return f"{shard_name(self.slide_id)}.{self.fingerprint[:8]}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the shard depends on."""
        params = self.params.model_dump(exclude={"bounds"})  # which decide whether there is a shard, not what it is
        mpp = [in_range(self.own_mpp), self.default_mpp if self.by_default else None]
        return fingerprint([self.slide_id, self.files, mpp, params, self.seed, self.made_from])

    @property
    def overview_file(self) -> Path:
        """The overview image."""
        return self.overviews / f"{self.name}.png"

    def settled(self) -> "ShardTask":
        """Find out whether default_mpp counts; a slide that can't be opened leaves the task as it is."""
        if self.default_mpp is None:
            return self
        try:
            path = self.source.fetch(self.slide_id, self.files[0])
            with Budget(self.params.bounds), Slide(path) as slide:  # which ends a worker that hangs
                _, origin = slide.microns(self.own_mpp, self.default_mpp)
        except SlideError:
            return self
        # the file was checked when it was fetched here; it is not read a second time for that
        return replace(self, by_default=origin == "data.mpp", source=replace(self.source, checked=True))

    @property
    def sample_seed(self) -> list[int]:
        """The seed of this slide's sample; it does not depend on the other slides."""
        return [self.seed, int(fingerprint(self.slide_id)[:8], 16)]


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The outcome of extracting a slide's patches.

    Attributes:
        slide_id: of the slide.
        shard: its name.
        reason: why the slide or a part of it was set aside; None where nothing was.
        failed: the reason is a failure of the slide: not that it shows no tissue, nor that
            some of its tiles are damaged.
        kept: patches in the shard.
        counts: cells by reason.
        level: that was read; None for tiles.
        mpp: microns per level-0 pixel; None for tiles.
        patch_mpp: microns per patch pixel; None for tiles.
        mpp_from: where mpp comes from: table, slide or data.mpp.
        width: level-0 pixels of the slide.
        height: level-0 pixels of the slide.
        failures: every failure; a slide has at most one, its tiles may have many.
        files: SHA-256 of each file made of the slide, hex; see `hashes_of_files`.
        bounds: `patches.bounds`, where the slide is over one of them.
        states: size and times of each of `files` before it was hashed; known after the extraction only, not written.
        taken: what of the bounds the slide takes; see `slides.budget.exceeded`. None in records of former versions.

    """

    slide_id: str
    shard: str
    reason: str | None
    failed: bool
    kept: int
    counts: dict[str, int]
    level: int | None = None
    mpp: MicronsPerPixel | None = None
    patch_mpp: MicronsPerPixel | None = None
    mpp_from: str | None = None
    width: int | None = None
    height: int | None = None
    failures: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, float] | None = None
    taken: dict[str, float] | None = None
    states: dict[str, list[int]] = field(default_factory=dict)


def finished(tasks: Iterable[ShardTask]) -> dict[str, ShardRecord]:
    """Return the records of shards that an earlier run completed from the same input.

    Args:
        tasks: of any number of slides; the files of all are compared together, which is much faster.

    Returns:
        The record by slide_id, for slides that have one.

    """
    # the slide may have been deleted; without opening it, the shard may be of either name
    either = ([task] if task.default_mpp is None else [task, replace(task, by_default=True)] for task in tasks)
    found = [(task, record) for named in either for task in named if (record := _completed(task)) is not None]
    hashes = [hashes_of_files(task, record) for task, record in found]
    differing = set(integrity.differing({path: digest for files in hashes for path, digest in files.items()}))
    records: dict[str, ShardRecord] = {}
    for (task, record), files in zip(found, hashes, strict=True):
        damaged = [path for path in files if path in differing]
        if not damaged:
            records.setdefault(task.slide_id, record)
        elif damaged[0].exists():
            log.warning("%s: %s; the slide's patches are extracted again", damaged[0], integrity.DIFFERS)
    return records


def _completed(task: ShardTask) -> ShardRecord | None:
    """Return the record of a shard from the same input, whatever became of its files; None if there is none."""
    record = _read_record(task)
    if record is None:
        return None
    if record.reason and record.reason != NO_TISSUE and task.source.keep:
        # the failure may have been the disk's: the slide is tried again, unless it had to be fetched again for that
        return None
    if record.bounds not in (None, task.params.bounds.model_dump()):
        return None  # the slide may be within the present bounds
    if record.bounds is None and exceeded(task.params.bounds, record.taken or {"patches": record.kept}):
        return None  # the slide was within the former bounds
    if (record.mpp_from == "data.mpp") != task.by_default:
        return None
    if record.width and record.mpp_from is None and in_range(task.default_mpp) is not None:
        return None  # the slide lacked microns per pixel, which data.mpp has now
    return record


def _read_record(task: ShardTask) -> ShardRecord | None:
    """Read the record of a shard; None where it is missing, damaged, or of other input."""
    values = read_json_or_none(task.shards / f"{task.name}.json")
    if not isinstance(values, dict) or values.pop("sha256", None) != fingerprint(values):
        return None
    if values.pop("fingerprint") != task.fingerprint:
        return None
    return ShardRecord(**values)


def _files(task: ShardTask, shard: str) -> dict[str, Path]:
    """Name all files that may be made of a slide, but for the record."""
    return {
        "shard": task.shards / f"{shard}.npy",
        "rows": task.shards / f"{shard}.csv",
        "overview": task.overviews / f"{shard}.png",
        **previews.files(task.previews, shard),
    }


def hash_files(task: ShardTask) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Hash the files that were made of a slide.

    Args:
        task: of the slide.

    Returns:
        SHA-256 (hex), and size and times before the file was hashed, both by what the file is.

    """
    files = {name: path for name, path in _files(task, task.name).items() if path.is_file()}
    states = {name: state(path) for name, path in files.items()}
    return {name: sha256(path) for name, path in files.items()}, states


def write_record(task: ShardTask, record: ShardRecord) -> None:
    """Write the record of a shard, the last of its files: with it, the shard is complete.

    Args:
        task: of the slide.
        record: of its shard.

    """
    values = {**vars(record), "fingerprint": task.fingerprint}
    del values["states"]
    write_json({**values, "sha256": fingerprint(values)}, task.shards / f"{task.name}.json")


def hashes_of_files(task: ShardTask, record: ShardRecord) -> dict[Path, str]:
    """Return the hash that each file made of a slide had when it was written.

    Args:
        task: of the slide.
        record: of its shard.

    Returns:
        SHA-256 (hex) by path.

    """
    return {path: record.files[name] for name, path in _files(task, record.shard).items() if name in record.files}


def states_of_files(task: ShardTask, record: ShardRecord) -> dict[Path, list[int]]:
    """Return size and times that each file made of a slide had when it was hashed.

    Args:
        task: of the slide.
        record: of its shard, as the extraction returns it.

    Returns:
        Size (bytes) and times (ns) by path.

    """
    return {path: record.states[name] for name, path in _files(task, record.shard).items() if name in record.states}
