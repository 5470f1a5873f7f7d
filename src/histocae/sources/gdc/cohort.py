"""The slides of the GDC for a run: queried, joined with their files, checked, and chosen."""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from histocae import identifiers
from histocae.errors import DataError, FetchError, shortened
from histocae.files import fingerprint, sha256
from histocae.params import Gdc
from histocae.sources import texts
from histocae.sources.gdc import portal, query
from histocae.sources.gdc.client import Client
from histocae.sources.gdc.query import ListedSlide
from histocae.sources.gdc.remote import Server
from histocae.sources.tables import COLUMNS, FILE_COLUMNS, MISSING, PERCENTS, TEXTS

NUMBER = r"-?\d+(\.\d*)?([eE][-+]?\d+)?"
UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
log = logging.getLogger(__name__)
Aside = list[tuple[str, str]]  # slide_id and reason


@dataclass(frozen=True)
class Selection:
    """The slides for a run.

    Attributes:
        slides: one row per slide, sorted by slide_id, with `tables.COLUMNS` and `tables.FILE_COLUMNS`.
        aside: slides that were left out, each with the reason.
        query: their origin: the query and the data release, or the files of the portal.

    """

    slides: pd.DataFrame
    aside: Aside
    query: dict[str, Any]


def find(params: Gdc, server: Server, seed: int) -> Selection:
    """Find the slides that params.yaml describes.

    Args:
        params: the section `data.gdc`.
        server: is queried unless files of the portal hold all that is needed.
        seed: of the choice, where there is a cap.

    Returns:
        The slides.

    Raises:
        FetchError: the server is unreachable.
        TableError: a file of the portal breaks a rule.
        DataError: there is no such slide.

    """
    slides, aside, origin = _gather(params, server)
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
        summary = "; ".join(f"{count} slides: {reason}" for reason, count in reasons.most_common(3))
        raise DataError(f"data.gdc: no slide is left of {listed}; {summary or 'there is no image of a slide at all'}")
    aside = [(texts.harmless(slide_id), reason) for slide_id, reason in sorted(aside)]
    return Selection(chosen.reset_index(drop=True), aside, origin)


def _gather(params: Gdc, server: Server) -> tuple[list[ListedSlide], Aside, dict[str, Any]]:
    """Return slides with their files, slides left out for lack of a file, and the origin of both."""
    origin: dict[str, Any] = {"experimental_strategy": params.strategy}
    if params.manifest is not None:
        files, skipped = portal.read_manifest(Path(params.manifest))
        if skipped:
            log.info("%s: %d files are no images of slides", params.manifest, skipped)
        origin["manifest"] = _named(params.manifest)
    else:
        files, request = _query(params, server, query.FIELDS if params.table is None else query.FILE_FIELDS)
        origin |= request
    aside: Aside = []
    if params.table is not None:
        listed = portal.read_slides(Path(params.table), params.project)
        origin |= {"table": _named(params.table), "project": params.project}
        files = _join(files, listed, aside)
    of_strategy = portal.of_strategy(files, params.strategy)
    kept = {id(slide) for slide in of_strategy}
    aside += [
        (slide.slide_id, f"is a {identifiers.strategy_of(slide.slide_id)}, not a {params.strategy}")
        for slide in files
        if id(slide) not in kept
    ]
    return of_strategy, aside, origin


def _query(params: Gdc, server: Server, fields: tuple[str, ...]) -> tuple[list[ListedSlide], dict[str, Any]]:
    """Query the server; return the slides, and the query with the data release."""
    client = Client(server)
    filters = query.filters(params.project, params.strategy, params.token_file is not None)
    hits = query.hits(client, filters, fields)
    release: str | None = None
    try:
        release = query.release(client)
    except FetchError as error:  # a mirror may not have it
        log.warning("the data release is not known: %s", error)
    log.info("%s: %d files of %s, %s", params.url, len(hits), params.project, release or "data release unknown")
    request = {
        "url": params.url,
        "endpoint": "files",
        "filters": filters,
        "fields": list(fields),
        "data_release": release,
        "project": params.project,
        "files": len(hits),
    }
    return [query.slide(hit) for hit in hits], request


def _named(path: str) -> dict[str, str]:
    return {"file": Path(path).name, "sha256": sha256(Path(path))}


def _join(files: list[ListedSlide], listed: list[ListedSlide], aside: Aside) -> list[ListedSlide]:
    """Join the portal's slides with files by their barcode."""
    by_barcode: dict[str, list[ListedSlide]] = {}
    for slide in files:
        by_barcode.setdefault(slide.slide_id, []).append(slide)
    joined = []
    for slide in listed:
        if slide.slide_id not in by_barcode:
            aside.append((slide.slide_id, "has no image among the files"))
        images = by_barcode.get(slide.slide_id, ())
        joined += [ListedSlide(slide.slide_id, image.file, slide.metadata) for image in images]
    if missing := len(set(by_barcode) - {slide.slide_id for slide in listed}):
        log.info("%d slides have a file and are not in data.gdc.table", missing)
    return joined


def _one_each(rows: Sequence[dict[str, Any]], aside: Aside) -> list[dict[str, Any]]:
    """Keep the first file of each slide, and the first slide of each file name and of equal bytes."""
    taken: dict[str, str] = {}
    kept = []
    for row in rows:
        slide_id, name = row["slide_id"], row["file_name"]
        # lower case: some file systems do not distinguish it
        if (first := taken.get(slide_id) or taken.get(name.lower())) is not None:
            aside.append((slide_id, f"{name}: the slide, or a file of this name, is there already: {first}"))
            continue
        if (first := taken.get(row["md5"])) is not None:
            aside.append((slide_id, f"{name}: has the same bytes (md5) as {first}; one slide can't be two"))
            continue
        taken[slide_id] = taken[name.lower()] = taken[row["md5"]] = name
        kept.append(row)
    return kept


def _row(slide: ListedSlide) -> dict[str, Any]:
    """Make a row of the table; the barcode fills in missing case, sample and sample type."""
    row: dict[str, Any] = dict.fromkeys((*COLUMNS, *FILE_COLUMNS)) | slide.metadata | slide.file
    row["slide_id"] = slide.slide_id
    row |= {name: _value(row[name]) for name in TEXTS}
    row["case_id"] = row["case_id"] or identifiers.case_of(slide.slide_id)
    row["sample_id"] = row["sample_id"] or identifiers.sample_of(slide.slide_id)
    word = row["sample_type"]
    row["sample_type"] = identifiers.sample_type(word) or word if word else identifiers.sample_type_of(slide.slide_id)
    for name in PERCENTS:
        row[name] = _number(row[name])
    if isinstance(row["md5"], str):
        row["md5"] = row["md5"].lower()
    return row


def _value(value: object) -> object:
    """Return a value of the GDC; None where it is one of the GDC's words for a missing value."""
    if isinstance(value, str):
        value = value.strip()
        return None if value.lower() in MISSING or value.lower() in ("not reported", "unknown") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: object) -> object:
    """Return a value of the GDC, as a number where its text is one."""
    value = _value(value)
    return float(value) if isinstance(value, str) and re.fullmatch(NUMBER, value) else value


def _fault(row: dict[str, Any]) -> str | None:
    """Return why a slide can't be used; None where it can."""
    name, size = row["file_name"], row["size"]
    if not row["slide_id"] or any(sign in row["slide_id"] for sign in '|\n\r"'):
        return "has no name, or a name that a table can't hold"
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.()+ -]*", name):
        return f"its file name is {name!r}, which is no plain name"
    if not isinstance(row["file_id"], str) or not re.fullmatch(UUID, row["file_id"]):
        return f"its file id is {row['file_id']!r}, which is no UUID"
    if not isinstance(row["md5"], str) or not re.fullmatch(r"[0-9a-f]{32}", row["md5"]):
        return f"its md5 is {row['md5']!r}: a download could not be checked"
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < 2**63:
        return f"its size is {size!r}: a download could not be checked"
    for key in TEXTS:
        if isinstance(row[key], str) and (problem := texts.problem(row[key])) is not None:
            return f"its {key} {texts.quoted(row[key])} {problem}"
    if not row["case_id"]:
        return "its case is unknown"
    if not row["sample_type"]:
        return "its sample type is unknown"
    for key in PERCENTS:
        if row[key] is not None and not (isinstance(row[key], int | float) and 0 <= row[key] <= 100):
            return f"{key} is {row[key]!r}, not 0 to 100"
    return None


def _choose(table: pd.DataFrame, params: Gdc, seed: int, aside: Aside) -> pd.DataFrame:
    """Choose slides by params; all others are set aside."""
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
    table = _keep(table, ~table["slide_id"].isin(params.without), aside, lambda _: "is listed in data.gdc.without")
    # a slide's lot does not depend on other slides, so a new slide does not change the order of the former ones
    lots = table["slide_id"].map(lambda slide_id: fingerprint([seed, slide_id]))
    if params.per_case is not None:
        # sample types in turn, the rarer type first
        counts = table["sample_type"].map(table["sample_type"].value_counts())
        turn = _turns(table.assign(lot=lots), ["case_id", "sample_type"])
        order = table.assign(turn=turn, count=counts, lot=lots)
        kept = _turns(order, ["case_id"], ["turn", "count", "lot"]) < params.per_case
        table = _keep(table, kept, aside, lambda _: f"data.gdc.per_case takes {params.per_case} of its case")
    if params.per_class is not None:
        # a slide of each case before a second slide of any case
        order = table.assign(lot=lots)
        order = order.assign(turn=_turns(order, ["case_id", "sample_type"]))
        kept = _turns(order, ["sample_type"], ["turn", "lot"]) < params.per_class
        table = _keep(table, kept, aside, lambda _: f"data.gdc.per_class takes {params.per_class} of its sample type")
    return table


def _turns(table: pd.DataFrame, groups: list[str], by: Iterable[str] = ("lot",)) -> pd.Series:
    """Number the rows of each group from 0, in the order of some columns."""
    return table.sort_values(list(by)).groupby(groups).cumcount().reindex(table.index)


def _keep(table: pd.DataFrame, kept: pd.Series, aside: Aside, reason: Callable[[Any], str]) -> pd.DataFrame:
    """Keep some rows; the others are set aside with a reason, made from the row."""
    aside += [(row.slide_id, reason(row)) for row in table[~kept].itertuples()]
    return table[kept]


def _unknown(slide_ids: Sequence[str], table: pd.DataFrame, aside: Aside) -> list[str]:
    known = {*table["slide_id"], *(slide_id for slide_id, _ in aside)}
    return [slide_id for slide_id in slide_ids if slide_id not in known]
