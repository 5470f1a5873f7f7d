"""Slides of a project from the files endpoint of the GDC's API, read page by page and parsed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from histocae.errors import DataError
from histocae.identifiers import slide_of
from histocae.sources.gdc.client import Client, TransientError
from histocae.sources.tables import PERCENTS

PAGE = 1000  # hits per request; the server may return fewer
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


@dataclass(frozen=True)
class ListedSlide:
    """A slide as the API or a file of the portal lists it, unchecked; unknown values are None or absent.

    Attributes:
        slide_id: its barcode.
        file: file_id, file_name, md5, size, state and access of its image.
        metadata: case_id, sample_id, disease_type, sample_type and the percentages.

    """

    slide_id: str
    file: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def filters(project: str, strategy: str, controlled: bool) -> dict[str, Any]:
    """Return the API's filter for the slide images of a project.

    Args:
        project: such as TCGA-BRCA.
        strategy: experimental strategy: Tissue Slide (frozen) or Diagnostic Slide (FFPE).
        controlled: include controlled data.

    Returns:
        The filter, JSON-able.

    """
    values = {
        "cases.project.project_id": [project],
        "data_type": ["Slide Image"],
        "experimental_strategy": [strategy],
        "access": ["open", "controlled"] if controlled else ["open"],
    }
    content = [{"op": "in", "content": {"field": name, "value": value}} for name, value in values.items()]
    return {"op": "and", "content": content}


def release(client: Client) -> str:
    """Query which data release the server has.

    Raises:
        FetchError: no answer, or an answer without a release.

    """

    def attempt() -> str:
        name = client.json("status").get("data_release")
        if not isinstance(name, str) or not name:
            raise TransientError("named no data release")
        return name

    return client.again(attempt, f"{client.server.url}/status")


def hits(client: Client, query: dict[str, Any], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Query all files that match a filter, page by page.

    Args:
        client: connected to the server.
        query: a filter; see `filters`.
        fields: of each file.

    Returns:
        The files in the order of their ids.

    Raises:
        FetchError: the server is unreachable, or its list keeps changing.
        DataError: no file matches the filter.

    """
    files = client.again(lambda: _all_pages(client, query, fields), f"{client.server.url}/files")
    if not files:
        conditions = [condition["content"] for condition in query["content"]]
        words = ", ".join(f"{content['field']} {' or '.join(content['value'])}" for content in conditions)
        raise DataError(f"{client.server.url} has no file of {words}; see data.gdc in params.yaml")
    return files


def _all_pages(client: Client, query: dict[str, Any], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read all pages once; TransientError where they do not fit together, as during a data release."""
    files: dict[str, dict[str, Any]] = {}
    begin, total = 0, None
    while total is None or begin < total:
        page, now = client.again(partial(_page, client, query, fields, begin), f"{client.server.url}/files")
        if total is not None and now != total:
            raise TransientError(f"its files changed while they were listed, from {total} to {now}")
        total = now
        if not page and begin < total:
            raise TransientError(f"its list of {total} files ended after {begin}")
        # a file without an id does not stop the query: it is set aside later
        files |= {str(hit["file_id"]) if hit["file_id"] else f"~{begin + i}": hit for i, hit in enumerate(page)}
        begin += len(page)
        if len(files) != begin:
            raise TransientError(f"its list of {total} files has only {len(files)} different files in {begin}")
    return [files[key] for key in sorted(files)]


def _page(
    client: Client, query: dict[str, Any], fields: tuple[str, ...], begin: int
) -> tuple[list[dict[str, Any]], int]:
    body = {
        "filters": query,
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
    if not isinstance(page, list) or not all(isinstance(hit, dict) for hit in page) or not isinstance(total, int):
        raise TransientError("answered with something that is no list of files")
    for hit in page:
        hit.setdefault("file_id", hit.get("id"))
    return page, total


def is_controlled(client: Client, file_id: str) -> bool:
    """Query once whether a file is controlled data.

    Args:
        client: connected to the server.
        file_id: UUID of the file.

    Returns:
        True for controlled data.

    Raises:
        TransientError: no answer.
        FetchError: an answer that another try would not change.

    """
    data = client.json(f"files/{file_id}?fields=access").get("data")
    return isinstance(data, dict) and data.get("access") == "controlled"


def slide(hit: dict[str, Any]) -> ListedSlide:
    """Parse a hit: the slide of its file, without the further slides of its case."""
    name = _text(hit.get("file_name"))
    entities = [
        entity for entity in _dicts(hit, "associated_entities") if entity.get("entity_type") in (None, "slide")
    ]
    barcodes = [barcode for entity in entities if (barcode := _text(entity.get("entity_submitter_id")))]
    # with several barcodes, the slide is the one in the file's name
    slide_id = barcodes[0] if len(barcodes) == 1 else slide_of(name or "")
    file = {key: _text(hit.get(key)) for key in ("file_id", "file_name", "state", "access")}
    file |= {"md5": _text(hit.get("md5sum")), "size": hit.get("file_size")}
    return ListedSlide(slide_id, file, _metadata(hit, slide_id))


def _metadata(hit: dict[str, Any], slide_id: str) -> dict[str, Any]:
    """Return the slide's entry among the hit's cases; without an entry, its sample or case by the barcode."""
    cases = list(_dicts(hit, "cases"))
    for case, sample, entry in _slides(cases):
        if _text(entry.get("submitter_id")) == slide_id:
            return _of_case(case) | _of_sample(sample) | {key: entry.get(key) for key in PERCENTS}
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


def _slides(cases: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    for case in cases:
        for sample in _dicts(case, "samples"):
            for portion in _dicts(sample, "portions"):
                for entry in _dicts(portion, "slides"):
                    yield case, sample, entry


def _of_case(case: dict[str, Any]) -> dict[str, Any]:
    return {"case_id": _text(case.get("submitter_id")), "disease_type": _text(case.get("disease_type"))}


def _of_sample(sample: dict[str, Any]) -> dict[str, Any]:
    return {"sample_id": _text(sample.get("submitter_id")), "sample_type": _text(sample.get("sample_type"))}


def _dicts(holder: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    values = holder.get(key)
    yield from (value for value in values if isinstance(value, dict)) if isinstance(values, list) else ()


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
