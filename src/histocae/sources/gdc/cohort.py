"""The slides of the GDC that a run is about: found, joined with their files, checked, and chosen."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from histocae import identifiers
from histocae.errors import DataError, FetchError, shortened
from histocae.files import fingerprint, sha256
from histocae.params import Gdc
from histocae.sources.gdc import portal, query
from histocae.sources.gdc.client import Client
from histocae.sources.gdc.query import Slide
from histocae.sources.gdc.remote import Server
from histocae.sources.tables import COLUMNS, MISSING, PERCENTS, TEXTS

FILE_COLUMNS = ("file_id", "md5", "size", "state", "access")
NUMBER = r"-?\d+(\.\d*)?([eE][-+]?\d+)?"
UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
log = logging.getLogger(__name__)
Aside = list[tuple[str, str]]  # slide_id and reason


@dataclass(frozen=True)
class Found:
    """The slides of a run.

    Attributes:
        slides: one row each, sorted by slide_id: `tables.COLUMNS` and `FILE_COLUMNS`.
        aside: slides that are not among them, each with the reason.
        asked: where they come from: the query and the data release, or the files of the portal.

    """

    slides: pd.DataFrame
    aside: Aside
    asked: dict[str, Any]


def find(params: Gdc, server: Server, seed: int) -> Found:
    """Find the slides that the section `data.gdc` of params.yaml asks for.

    Args:
        params: that section.
        server: to ask, where the portal's files do not tell all.
        seed: of the choice, where there is a cap.

    Raises:
        FetchError: the server does not answer.
        TableError: a file of the portal breaks a rule.
        DataError: there is no such slide.

    """
    slides, aside, asked = _gather(params, server)
    rows, listed = [], len(slides) + len(aside)
    for slide in slides:
        row = _row(slide)
        if reason := _fault(row):
            aside.append((slide.slide_id, reason))
        else:
            rows.append(row)
    rows = _one_each(sorted(rows, key=lambda row: (row["slide_id"], row["file_name"], row["file_id"])), aside)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *FILE_COLUMNS])
    table = table.astype(dict.fromkeys((*PERCENTS, "mpp"), float) | {"size": "int64"})
    chosen = _choose(table, params, seed, aside)
    if chosen.empty:
        reasons = Counter(reason for _, reason in aside)
        told = "; ".join(f"{count} slides: {reason}" for reason, count in reasons.most_common(3))
        raise DataError(f"data.gdc: no slide is left of {listed}; {told or 'there is no image of a slide at all'}")
    return Found(chosen.reset_index(drop=True), sorted(aside), asked)


def _gather(params: Gdc, server: Server) -> tuple[list[Slide], Aside, dict[str, Any]]:
    """Get the slides with their files, and what is left out for the lack of one."""
    asked: dict[str, Any] = {"experimental_strategy": params.strategy}
    if params.manifest is not None:
        files, others = portal.read_manifest(Path(params.manifest))
        if others:
            log.info("%s: %d files are no images of slides", params.manifest, others)
        asked["manifest"] = _named(params.manifest)
    else:
        files, query_asked = _ask(params, server, query.FIELDS if params.table is None else query.FILE_FIELDS)
        asked |= query_asked
    aside: Aside = []
    if params.table is not None:
        listed = portal.read_slides(Path(params.table), params.project)
        asked |= {"table": _named(params.table), "project": params.project}
        files = _join(files, listed, aside)
    of_strategy = portal.of_strategy(files, params.strategy)
    kept = {id(one) for one in of_strategy}
    aside += [
        (one.slide_id, f"is a {identifiers.strategy_of(one.slide_id)}, not a {params.strategy}")
        for one in files
        if id(one) not in kept
    ]
    return of_strategy, aside, asked


def _ask(params: Gdc, server: Server, fields: tuple[str, ...]) -> tuple[list[Slide], dict[str, Any]]:
    client = Client(server)
    wanted = query.filters(params.project, params.strategy, params.token_file is not None)
    hits = query.hits(client, wanted, fields)
    try:
        release = query.release(client)
    except FetchError as error:  # a mirror need not say it
        log.warning("the data release is not known: %s", error)
        release = None
    log.info("%s: %d files of %s, %s", params.url, len(hits), params.project, release or "data release unknown")
    asked = {
        "url": params.url,
        "endpoint": "files",
        "filters": wanted,
        "fields": list(fields),
        "data_release": release,
        "project": params.project,
        "files": len(hits),
    }
    return [query.slide(hit) for hit in hits], asked


def _named(path: str) -> dict[str, str]:
    return {"file": Path(path).name, "sha256": sha256(Path(path))}


def _join(files: list[Slide], listed: list[Slide], aside: Aside) -> list[Slide]:
    """Join the portal's slides with files by their barcode."""
    by_barcode: dict[str, list[Slide]] = {}
    for one in files:
        by_barcode.setdefault(one.slide_id, []).append(one)
    joined = []
    for one in listed:
        if one.slide_id not in by_barcode:
            aside.append((one.slide_id, "has no image among the files"))
        joined += [Slide(one.slide_id, found.file, one.about) for found in by_barcode.get(one.slide_id, ())]
    if missing := len(set(by_barcode) - {one.slide_id for one in listed}):
        log.info("%d slides have a file and do not stand in data.gdc.table", missing)
    return joined


def _one_each(rows: Sequence[dict[str, Any]], aside: Aside) -> list[dict[str, Any]]:
    """Keep the first file of a slide and the first slide of a file name."""
    seen: dict[str, str] = {}
    kept = []
    for row in rows:
        slide_id, name = row["slide_id"], row["file_name"]
        # some file systems do not tell a from A
        if (first := seen.get(slide_id) or seen.get(name.lower())) is not None:
            aside.append((slide_id, f"{name}: the slide, or a file of this name, is there already: {first}"))
            continue
        seen[slide_id] = seen[name.lower()] = name
        kept.append(row)
    return kept


def _row(slide: Slide) -> dict[str, Any]:
    """Make a row of the table; what is not told and the barcode says is taken from there."""
    row: dict[str, Any] = dict.fromkeys((*COLUMNS, *FILE_COLUMNS)) | slide.about | slide.file
    row["slide_id"] = slide.slide_id
    row |= {name: _told(row[name]) for name in TEXTS}
    row["case_id"] = row["case_id"] or identifiers.case_of(slide.slide_id)
    row["sample_id"] = row["sample_id"] or identifiers.sample_of(slide.slide_id)
    told = row["sample_type"]
    row["sample_type"] = identifiers.sample_type(told) or told if told else identifiers.sample_type_of(slide.slide_id)
    for name in PERCENTS:
        row[name] = _number(row[name])
    if isinstance(row["md5"], str):
        row["md5"] = row["md5"].lower()
    return row


def _told(value: object) -> object:
    """What the GDC gave; None where that is one of its words for nothing."""
    if isinstance(value, str):
        value = value.strip()
        return None if value.lower() in MISSING or value.lower() in ("not reported", "unknown") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: object) -> object:
    """A number where what the GDC gave is one, whatever its type."""
    told = _told(value)
    return float(told) if isinstance(told, str) and re.fullmatch(NUMBER, told) else told


def _fault(row: dict[str, Any]) -> str | None:
    """Say why a slide can't be used; None where it can."""
    name, size = row["file_name"], row["size"]
    if not row["slide_id"] or any(sign in row["slide_id"] for sign in '|\n\r"'):
        return "has no name that can stand in a table"
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.()+ -]*", name):
        return f"its file name is {name!r}, which is no plain name"
    if not isinstance(row["file_id"], str) or not re.fullmatch(UUID, row["file_id"]):
        return f"its file id is {row['file_id']!r}, which is no UUID"
    if not isinstance(row["md5"], str) or not re.fullmatch(r"[0-9a-f]{32}", row["md5"]):
        return f"its md5 is {row['md5']!r}: what arrives could not be checked"
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < 2**63:
        return f"its size is {size!r}: what arrives could not be checked"
    if not row["case_id"]:
        return "nothing tells its case"
    if not row["sample_type"]:
        return "nothing tells its sample type"
    for key in PERCENTS:
        if row[key] is not None and not (isinstance(row[key], int | float) and 0 <= row[key] <= 100):
            return f"{key} is {row[key]!r}, not 0 to 100"
    return None


def _choose(table: pd.DataFrame, params: Gdc, seed: int, aside: Aside) -> pd.DataFrame:
    """Take the slides that params ask for; the others are set aside."""
    if unknown := _unknown(params.slides or (), table, aside):
        raise DataError(f"data.gdc.slides: no such slide was found: {shortened(unknown)}")
    if unknown := _unknown(params.without, table, aside):
        log.warning("data.gdc.without: no such slide was found: %s", shortened(unknown))
    table = _keep(
        table,
        table["sample_type"].isin(params.sample_types),
        aside,
        lambda row: (
            f"sample type {row.sample_type} is not compared"
            if row.sample_type not in identifiers.COMPARED
            else f"sample type {row.sample_type} is not among data.gdc.sample_types"
        ),
    )
    if params.slides is not None:
        table = _keep(table, table["slide_id"].isin(params.slides), aside, lambda _: "is not among data.gdc.slides")
    table = _keep(table, ~table["slide_id"].isin(params.without), aside, lambda _: "stands in data.gdc.without")
    # by lot, and so that a slide's place does not depend on the others
    lots = table["slide_id"].map(lambda slide_id: fingerprint([seed, slide_id]))
    if params.per_case is not None:
        # the types in turn, the rarer one first
        counts = table["sample_type"].map(table["sample_type"].value_counts())
        turn = _turns(table.assign(lot=lots), ["case_id", "sample_type"])
        order = table.assign(turn=turn, count=counts, lot=lots)
        kept = _turns(order, ["case_id"], ["turn", "count", "lot"]) < params.per_case
        table = _keep(table, kept, aside, lambda _: f"data.gdc.per_case takes {params.per_case} of its case")
    if params.per_class is not None:
        # one slide of each case before a second of any
        order = table.assign(lot=lots)
        order = order.assign(turn=_turns(order, ["case_id", "sample_type"]))
        kept = _turns(order, ["sample_type"], ["turn", "lot"]) < params.per_class
        table = _keep(table, kept, aside, lambda _: f"data.gdc.per_class takes {params.per_class} of its sample type")
    return table


def _turns(table: pd.DataFrame, groups: list[str], by: Iterable[str] = ("lot",)) -> pd.Series:
    """Number the rows of each group from 0, in the order of some columns."""
    return table.sort_values(list(by)).groupby(groups).cumcount().reindex(table.index)


def _keep(table: pd.DataFrame, kept: pd.Series, aside: Aside, reason: Any) -> pd.DataFrame:
    aside += [(row.slide_id, reason(row)) for row in table[~kept].itertuples()]
    return table[kept]


def _unknown(wanted: Sequence[str], table: pd.DataFrame, aside: Aside) -> list[str]:
    known = {*table["slide_id"], *(slide_id for slide_id, _ in aside)}
    return [one for one in wanted if one not in known]
