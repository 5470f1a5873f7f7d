"""The results of a slide on disk: a folder that appears whole or not at all, and records what it was made from."""

import errno
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from histocae import __version__
from histocae.contrast.contract import Contract
from histocae.errors import DataError, SlideError, raise_if_machine
from histocae.exports import geojson
from histocae.exports.columns import About
from histocae.exports.tables import write_parquet
from histocae.files import (
    code_fingerprint,
    fingerprint,
    read_json_or_none,
    replacing_folder,
    sha256,
    state,
    write_json,
)
from histocae.patches.shard_file import shard_name
from histocae.scoring.given import RECORD, Given
from histocae.scoring.model import Model, Source
from histocae.scoring.scored import Scored, Settings
from histocae.scoring.summary import columns, in_order, summarize
from histocae.slides.parts import parts_of
from histocae.sources.hashes import Hashes, digest

PATCHES, HEATMAP, THUMBNAIL = "patches.parquet", "heatmap.png", "thumbnail.jpg"
GEOJSON = "patches.geojson"
FILES = (PATCHES, HEATMAP, THUMBNAIL, GEOJSON, RECORD)
CODE = (
    "contrast/pair",
    "evaluation/scales",
    "exports/geojson",
    "patches/color",
    "patches/extraction",
    "patches/grid",
    "patches/shards",
    "patches/tiles",
    "patches/tissue",
    "scoring/batches",
    "scoring/heatmaps",
    "scoring/model",
    "scoring/remarks",
    "scoring/results",
    "scoring/scored",
    "scoring/slides",
    "scoring/summary",
    "scoring/tiles",
    "slides/area_means",
    "slides/slide",
    "slides/tiled",
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """The results of a slide.

    Attributes:
        folder: of its files.
        summary: the slide's row of slides.csv, in the order of its columns, with its warnings as a list.
        size: width and height of the slide in level-0 pixels; None for tiles.
        earlier: an earlier call wrote them.

    """

    folder: Path
    summary: dict[str, Any]
    size: tuple[int, int] | None
    earlier: bool = False


def folder_of(out: Path, slide_id: str) -> Path:
    """Name the folder of a slide's results.

    Args:
        out: folder of all results.
        slide_id: of the slide.

    Returns:
        The folder, whether it is there or not.

    """
    return out / shard_name(slide_id)


def about(contract: Contract) -> About:
    """Describe the model for exported files."""
    return About(
        model=" and ".join(contract.models),
        weights=" and ".join(contract.weights),
        pixels=contract.patches.pixels,
        mpp=contract.patches.mpp,
        version=__version__,
        parts=tuple(zip(contract.models, contract.latent_features, strict=True)),
    )


def key(given: Given, source: Source) -> str:
    """Return a fingerprint of what a slide's scores depend on, besides the bytes of its files.

    Args:
        given: the slide.
        source: of the model.

    Returns:
        Hex.

    """
    return fingerprint([given.slide_id, given.files, given.own_mpp, given.metadata, source.state, _code()])


@cache
def _code() -> str:
    return code_fingerprint(*CODE)


class Identity(NamedTuple):
    """The files of a slide, as they were before it was read.

    Attributes:
        states: size and times of each file, by its path.
        sha256: of all files together.

    """

    states: dict[str, list[int]]
    sha256: str


def identify(given: Given, out: Path) -> Identity:
    """Hash the files of a slide; files whose size and times an earlier call recorded are not read again.

    Args:
        given: the slide.
        out: folder of all results.

    Returns:
        States and hash.

    Raises:
        SlideError: a file can't be read, or is not the one that a table describes.
        OSError: the folder of results can't be read.

    """
    record = _read(folder_of(out, given.slide_id))
    files = list(given.paths) if given.tiles else parts_of(given.paths[0])
    try:
        states = {str(path.resolve()): state(path) for path in files}
        if record is not None and record["states"] == states and not given.hashes:
            return Identity(states, record["sha256"])
        hashes = [digest(path, "sha256") for path in files]
        described = [Hashes(None, kind).of_slide(given.folder / file)[1] for file, kind, _ in given.hashes]
    except (OSError, DataError) as error:
        raise_if_machine(error)
        raise SlideError(f"can't be read: {error}") from None
    for (file, kind, expected), found in zip(given.hashes, described, strict=True):
        if found != expected:
            raise SlideError(f"{file}: its {kind} is not that in the table; the file is another one, or damaged")
    return Identity(states, fingerprint(hashes))


def finished(given: Given, source: Source, settings: Settings, identity: Identity, out: Path) -> Result | None:
    """Return the results of an earlier call, if they are undamaged, and of the same model and bytes.

    Args:
        given: the slide.
        source: of the model.
        settings: how the slide is read.
        identity: of the slide's files.
        out: folder of all results.

    Returns:
        The results; None where the slide has to be scored.

    """
    folder = folder_of(out, given.slide_id)
    record = _read(folder)
    if record is None or record["key"] != key(given, source) or record["sha256"] != identity.sha256:
        return None
    if record["default_mpp"] not in (None, settings.mpp) or (settings.latents and not record["latents"]):
        return None
    return _whole(folder, record)


def read(folder: Path) -> Result | None:
    """Read the results of a slide; None if they are incomplete or damaged."""
    record = _read(folder)
    return None if record is None else _whole(folder, record)


def state_of(folder: Path) -> str | None:
    """Return the fingerprint of the model that made the results of a slide; None if there are no results."""
    record = _read(folder)
    return None if record is None else str(record["model"])


def _read(folder: Path) -> dict[str, Any] | None:
    record = read_json_or_none(folder / RECORD)
    if not isinstance(record, dict) or record.pop("sha256_of_record", None) != fingerprint(record):
        return None
    return record


def _whole(folder: Path, record: dict[str, Any]) -> Result | None:
    """Compare the files of a folder with their hashes."""
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            log.warning("%s: is not as it was written; the slide is scored again", path)
            return None
    size, summary = record["size"], in_order(record["summary"])  # JSON has it sorted
    return Result(folder, summary, None if size is None else (size[0], size[1]), earlier=True)


def write(scored: Scored, model: Model, settings: Settings, identity: Identity, out: Path) -> Result:
    """Write the results of a slide.

    Args:
        scored: the slide.
        model: that scored it.
        settings: how the slide was read.
        identity: of the slide's files before they were read.
        out: folder of all results.

    Returns:
        The results.

    Raises:
        SlideError: a file changed meanwhile, or another command writes other results of the slide.

    """
    given = scored.given
    try:
        unchanged = all(state(Path(path)) == former for path, former in identity.states.items())
    except OSError as error:
        raise_if_machine(error)
        unchanged = False
    if not unchanged:
        raise SlideError("changed while it was read; score it again")
    summary = summarize(scored, model)
    folder = folder_of(out, given.slide_id)
    try:
        _write(folder, scored, model, settings, identity, summary)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # another command made the folder between the two renames
        found = finished(given, model.source, settings, identity, out)
        if found is None:
            raise SlideError("another command writes its results at the same time; score it again") from None
        return found
    return Result(folder, summary, scored.size)


def _write(
    folder: Path, scored: Scored, model: Model, settings: Settings, identity: Identity, summary: dict[str, Any]
) -> None:
    from histocae.scoring import heatmaps  # matplotlib

    given, contract, table = scored.given, model.contract, columns(scored)
    with replacing_folder(folder) as aside:
        write_parquet(aside / PATCHES, table, scored.latents, about(contract))
        heatmaps.write(aside / HEATMAP, scored, summary, contract)
        Image.fromarray(heatmaps.small(scored)).save(aside / THUMBNAIL, "JPEG", quality=85)
        if scored.mask is not None:
            geojson.write_slide(aside / GEOJSON, table, scored.mask, scored.mask_pixel)
        names = [path.name for path in sorted(aside.iterdir())]
        record = {
            "key": key(given, model.source),
            "model": model.source.state,
            "default_mpp": settings.mpp if scored.mpp_from == "data.mpp" else None,
            "latents": scored.latents is not None or not model.source.with_latents,
            "sha256": identity.sha256,
            "states": identity.states,
            "size": scored.size,
            "files": {name: sha256(aside / name) for name in names},
            "summary": summary,
        }
        write_json({**record, "sha256_of_record": fingerprint(record)}, aside / RECORD)
