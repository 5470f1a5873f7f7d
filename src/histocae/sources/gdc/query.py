"""What the GDC says of the slides of a project: its files endpoint, page by page, taken apart."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from histocae.errors import DataError
from histocae.identifiers import slide_of
from histocae.sources.gdc.client import Client, TransientError
from histocae.sources.tables import PERCENTS

PAGE = 1000  # hits asked for at once; the server may grant fewer
FILE_FIELDS = (
    "file_id",
    "file_name",
    "md5sum",
    "file_size",
    "state",
    "access",
    "associated_entities.entity_submitter_id",
    "associated_entities.entity_type",
)
SLIDE = "cases.samples.portions.slides"
FIELDS = (
    *FILE_FIELDS,
    "cases.submitter_id",
    "cases.disease_type",
    "cases.samples.submitter_id",
    "cases.samples.sample_type",
    f"{SLIDE}.submitter_id",
    *(f"{SLIDE}.{name}" for name in PERCENTS),
)


@dataclass
class Slide:
    """A slide as a source tells of it, before anything is checked; what is not told is None.

    Attributes:
        slide_id: its barcode.
        file: file_id, file_name, md5, size, state and access of its picture.
        about: case_id, sample_id, disease_type, sample_type and the percentages.

    """

    slide_id: str
    file: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def filters(project: str, strategy: str, controlled: bool) -> dict[str, Any]:
    """Make the filter for the slide images of a project."""
    wanted = {
        "cases.project.project_id": [project],
        "data_type": ["Slide Image"],
        "experimental_strategy": [strategy],
        "access": ["open", "controlled"] if controlled else ["open"],
    }
    content = [{"op": "in", "content": {"field": name, "value": value}} for name, value in wanted.items()]
    return {"op": "and", "content": content}


def release(client: Client) -> str:
    """Ask which data release the server has.

    Raises:
        FetchError: it does not say.

    """

    def one() -> str:
        found = client.json("status").get("data_release")
        if not isinstance(found, str) or not found:
            raise TransientError("named no data release")
        return found

    return client.again(one, f"{client.server.url}/status")


def hits(client: Client, wanted: dict[str, Any], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Ask for all files that a filter finds, whatever number of them the server grants at once.

    Raises:
        FetchError: the server does not answer, or what it has keeps changing.
        DataError: the filter finds nothing.

    """
    found = client.again(lambda: _all_pages(client, wanted, fields), f"{client.server.url}/files")
    if not found:
        asked = [one["content"] for one in wanted["content"]]
        told = ", ".join(f"{one['field']} {' or '.join(one['value'])}" for one in asked)
        raise DataError(f"{client.server.url} has no file of {told}; see data.gdc in params.yaml")
    return found


def _all_pages(client: Client, wanted: dict[str, Any], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """One pass over all pages; starts again where they do not fit together, as when a release comes between."""
    found: dict[str, dict[str, Any]] = {}
    begin, total = 0, None
    while total is None or begin < total:
        page, now = client.again(
            lambda begin=begin: _page(client, wanted, fields, begin), f"{client.server.url}/files"
        )
        if total is not None and now != total:
            raise TransientError(f"its files changed while they were listed, from {total} to {now}")
        total = now
        if not page and begin < total:
            raise TransientError(f"its list of {total} files ended after {begin}")
        # a file without an id is no reason to lose the others: it is set aside as it is
        found |= {str(one["file_id"]) if one["file_id"] else f"~{begin + i}": one for i, one in enumerate(page)}
        begin += len(page)
        if len(found) != begin:
            raise TransientError(f"its list of {total} files has only {len(found)} different ones in {begin}")
    return [found[key] for key in sorted(found)]


def _page(
    client: Client, wanted: dict[str, Any], fields: tuple[str, ...], begin: int
) -> tuple[list[dict[str, Any]], int]:
    body = {
        "filters": wanted,
        "fields": ",".join(fields),
        "format": "JSON",
        "size": PAGE,
        "from": begin,
        "sort": "file_id:asc",
    }
    data = client.json("files", body).get("data")
    data = data if isinstance(data, dict) else {}
    page, pagination = data.get("hits"), data.get("pagination")
    total = pagination.get("total") if isinstance(pagination, dict) else None
    right = isinstance(page, list) and all(isinstance(one, dict) for one in page)
    if not right or not isinstance(total, int):
        raise TransientError("answered with something that is no list of files")
    for one in page:
        one.setdefault("file_id", one.get("id"))
    return page, total


def is_controlled(client: Client, file_id: str) -> bool:
    """Ask once whether a file is controlled data.

    Raises:
        TransientError, FetchError: no answer.

    """
    data = client.json(f"files/{file_id}?fields=access").get("data")
    return isinstance(data, dict) and data.get("access") == "controlled"


def slide(hit: dict[str, Any]) -> Slide:
    """Take a hit apart: the slide that its file shows, and no other slide of the case."""
    name = _text(hit.get("file_name"))
    entities = [one for one in _dicts(hit, "associated_entities") if one.get("entity_type") in (None, "slide")]
    barcodes = [found for one in entities if (found := _text(one.get("entity_submitter_id")))]
    # where there are several, the file's name tells which
    slide_id = barcodes[0] if len(barcodes) == 1 else slide_of(name or "")
    file = {key: _text(hit.get(key)) for key in ("file_id", "file_name", "state", "access")}
    file |= {"md5": _text(hit.get("md5sum")), "size": hit.get("file_size")}
    return Slide(slide_id, file, _about(hit, slide_id))


def _about(hit: dict[str, Any], slide_id: str) -> dict[str, Any]:
    """Find the slide among those of the hit's cases; where it is not, its sample by the barcode."""
    cases = list(_dicts(hit, "cases"))
    for case, sample, one in _slides(cases):
        if _text(one.get("submitter_id")) == slide_id:
            return _of_case(case) | _of_sample(sample) | {key: one.get(key) for key in PERCENTS}
    for case in cases:
        for sample in _dicts(case, "samples"):
            barcode = _text(sample.get("submitter_id"))
            if barcode and slide_id.startswith(f"{barcode}-"):
                return _of_case(case) | _of_sample(sample)
    for case in cases:
        barcode = _text(case.get("submitter_id"))
        if barcode and slide_id.startswith(f"{barcode}-"):
            return _of_case(case)
    return {}


def _slides(cases: list[dict[str, Any]]) -> Iterator[tuple[dict, dict, dict]]:
    for case in cases:
        for sample in _dicts(case, "samples"):
            for portion in _dicts(sample, "portions"):
                for one in _dicts(portion, "slides"):
                    yield case, sample, one


def _of_case(case: dict[str, Any]) -> dict[str, Any]:
    return {"case_id": _text(case.get("submitter_id")), "disease_type": _text(case.get("disease_type"))}


def _of_sample(sample: dict[str, Any]) -> dict[str, Any]:
    return {"sample_id": _text(sample.get("submitter_id")), "sample_type": _text(sample.get("sample_type"))}


def _dicts(holder: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    values = holder.get(key)
    yield from (one for one in values if isinstance(one, dict)) if isinstance(values, list) else ()


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
