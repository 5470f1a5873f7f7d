"""The results of a slide on disk: a folder that appears whole or not at all, and records what it was made from."""

import errno
import logging
from collections.abc import Collection, Sequence
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
from histocae.pipeline import lineage
from histocae.scoring.given import RECORD, Given
from histocae.scoring.model import Model, Source
from histocae.scoring.scored import Scored, Settings
from histocae.scoring.summary import columns, in_order, summarize
from histocae.slides.parts import parts_of
from histocae.sources.hashes import Hashes, digest

PATCHES, HEATMAP, THUMBNAIL = "patches.parquet", "heatmap.png", "thumbnail.jpg"
GEOJSON = "patches.geojson"
FILES = (PATCHES, HEATMAP, THUMBNAIL, GEOJSON, RECORD)
# modules that the results don't depend on
EXEMPT = (*lineage.EXEMPT, "sources", "scoring/given")
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


def maker(source: Source) -> str:
    """Return a fingerprint, in hex, of what makes results: the model, and the code of this package."""
    return fingerprint([source.state, _code()])


def key(given: Given, source: Source) -> str:
    """Return a fingerprint of what a slide's scores depend on, besides the bytes of its files.

    Args:
        given: the slide.
        source: of the model.

    Returns:
        Hex.

    """
    return fingerprint([given.slide_id, given.files, given.own_mpp, given.metadata, maker(source)])


@cache
def _code() -> str:
    files = lineage.reach({"scoring/results.py", "scoring/slides.py"}, EXEMPT)
    return code_fingerprint(*(file.removesuffix(".py") for file in files))


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
        SlideError: a file can't be read, or is not the one that a table describes, or the results of another slide
            of this name are there.
        OSError: the folder of results can't be read.

    """
    folder = folder_of(out, given.slide_id)
    record = _read(folder)
    files = list(given.paths) if given.tiles else parts_of(given.paths[0])
    try:
        states = {str(path.resolve()): state(path) for path in files}
        if record is not None and record["states"] == states and record["hashes"] == _hashes(given):
            return Identity(states, record["sha256"])
        found = _sha256(files)
        described = [Hashes(None, kind).of_slide(given.folder / file)[1] for file, kind, _ in given.hashes]
    except (OSError, DataError) as error:
        raise_if_machine(error)
        raise SlideError(f"can't be read: {error}") from None
    for (file, kind, expected), actual in zip(given.hashes, described, strict=True):
        if actual != expected:
            raise SlideError(f"{file}: its {kind} differs from that in the table: another file, or damaged")
    if record is not None and record["sha256"] != found and not set(record["states"]) & set(states):
        raise SlideError(
            f"{folder} has the results of another slide of this name, {next(iter(record['states']))}; choose another "
            "folder by --out, or name the slides in a table with the columns slide_id and file_name"
        )
    return Identity(states, found)


def _sha256(files: Sequence[Path]) -> str:
    return fingerprint([digest(path, "sha256") for path in files])


def _hashes(given: Given) -> list[list[str]]:
    return [list(each) for each in given.hashes]


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
    if (damaged := _damaged(folder, record)) is not None:
        log.warning("%s: was changed or damaged after it was written; the slide is scored again", damaged)
        return None
    return _result(folder, record)


def earlier(folder: Path, source: Source, given: Collection[str]) -> Result | str | None:
    """Read the results of a slide that an earlier call scored.

    Args:
        folder: of the slide.
        source: of the model.
        given: paths of the files of this call's slides.

    Returns:
        The results; None if there are none, or another model or version made them; or the reason why they do not
        hold any more.

    """
    record = _read(folder)
    if record is None or record["maker"] != maker(source):
        return None
    if set(record["states"]) & set(given):
        return "the slide has another name now"
    files = [Path(path) for path in record["states"]]
    try:
        if [state(path) for path in files] != [*record["states"].values()] and _sha256(files) != record["sha256"]:
            return f"{files[0]} was changed after it was scored"
    except OSError:  # the slide may lie elsewhere now
        pass
    damaged = _damaged(folder, record)
    return _result(folder, record) if damaged is None else f"{damaged} was changed or damaged after it was written"


def _read(folder: Path) -> dict[str, Any] | None:
    record = read_json_or_none(folder / RECORD)
    if not isinstance(record, dict) or record.pop("sha256_of_record", None) != fingerprint(record):
        return None
    return record if "maker" in record else None  # an earlier version's has none


def _damaged(folder: Path, record: dict[str, Any]) -> Path | None:
    """Compare the files of a folder with their hashes; return the first that differs."""
    for name, expected in record["files"].items():
        path: Path = folder / name
        if not path.is_file() or sha256(path) != expected:
            return path
    return None


def _result(folder: Path, record: dict[str, Any]) -> Result:
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
            "maker": maker(model.source),
            "hashes": _hashes(given),
            "default_mpp": settings.mpp if scored.mpp_from == "data.mpp" else None,
            "latents": scored.latents is not None or not model.source.with_latents,
            "sha256": identity.sha256,
            "states": identity.states,
            "size": scored.size,
            "files": {name: sha256(aside / name) for name in names},
            "summary": summary,
        }
        write_json({**record, "sha256_of_record": fingerprint(record)}, aside / RECORD)
