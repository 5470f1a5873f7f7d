"""A server with the API of the Genomic Data Commons, as documented, on loopback; a seed determines its faults.

`python tests/support/gdc_server.py FOLDER` serves the slides in a folder until Ctrl-C, for trials by hand.
"""

import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

RELEASE = "Data Release 42.0 - January 30, 2025"
PROJECT = "TCGA-PAAD"
SAMPLE_TYPES = {"01": "Primary Tumor", "02": "Recurrent Tumor", "06": "Metastatic", "11": "Solid Tissue Normal"}
STATUSES = (500, 502, 503, 504, 429, 403)
BODY_FAULTS = (
    "reset",
    "truncated",
    "wrong bytes",
    "too long",
    "too short",
    "no length",
    "chunked",
    "ignored range",
    "drip",
)
LIST_FAULTS = ("garbage", "truncated", "reset", "shrunk")


@dataclass
class GdcSlide:
    """A slide of the GDC; `percents` are values of the API, such as percent_tumor_cells."""

    slide_id: str
    data: bytes
    strategy: str = "Tissue Slide"
    access: str = "open"
    project: str = PROJECT
    sample_type: str | None = ""
    percents: dict[str, Any] = field(default_factory=dict)
    file_name: str | None = None
    hit_changes: dict[str, Any] = field(default_factory=dict)  # values that replace those of its hit

    @property
    def case_id(self) -> str:
        return "-".join(self.slide_id.split("-")[:3])

    @property
    def sample_id(self) -> str:
        return "-".join(self.slide_id.split("-")[:4])

    @cached_property
    def file_id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self.slide_id + (self.file_name or "")))

    @property
    def name(self) -> str:
        return self.file_name or f"{self.slide_id}.{str(uuid.uuid5(uuid.NAMESPACE_DNS, self.slide_id)).upper()}.svs"

    @cached_property
    def md5(self) -> str:
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()

    def as_slide(self) -> dict[str, Any]:
        return {"submitter_id": self.slide_id, "section_location": "TOP", **self.percents}

    def as_hit(self, all_slides: Iterable["GdcSlide"]) -> dict[str, Any]:
        """Return the hit of the file, with its case, its sample and all slides of the sample."""
        sample_type = (
            SAMPLE_TYPES.get(self.sample_id.split("-")[3][:2]) if self.sample_type == "" else self.sample_type
        )
        slides = [slide.as_slide() for slide in all_slides if slide.sample_id == self.sample_id]
        portion = {"submitter_id": f"{self.sample_id}-01", "slides": slides}
        sample = {"submitter_id": self.sample_id, "sample_type": sample_type, "portions": [{"slides": []}, portion]}
        case = {
            "submitter_id": self.case_id,
            "disease_type": "Ductal and Lobular Neoplasms",
            "project": {"project_id": self.project},
            "samples": [sample],
        }
        entity = {"entity_submitter_id": self.slide_id, "entity_type": "slide"}
        return {
            "id": self.file_id,
            "file_id": self.file_id,
            "file_name": self.name,
            "md5sum": self.md5,
            "file_size": len(self.data),
            "state": "released",
            "access": self.access,
            "data_type": "Slide Image",
            "data_format": "SVS",
            "experimental_strategy": self.strategy,
            "associated_entities": [entity],
            "cases": [case],
        }


class GdcServer:
    """Serves slides under `url` while it is open.

    Args:
        slides: the slides to serve.
        faults: share of requests with a fault.
        seed: seed of the faults.
        page_size: the largest number of hits in one answer.
        rate: bytes per second of one download; None: no limit.
        token: the token that controlled data require.
        redirect_url: address of another server, to which requests are redirected.
        body_faults: possible faults of a file's body; another possible fault is an HTTP status.

    """

    def __init__(
        self,
        slides: Iterable[GdcSlide],
        faults: float = 0.0,
        seed: int = 0,
        page_size: int = 10_000,
        rate: float | None = None,
        token: str | None = None,
        redirect_url: str | None = None,
        body_faults: tuple[str, ...] = BODY_FAULTS,
    ):
        self.slides = list(slides)
        self.faults, self.body_faults = faults, body_faults
        self.page_size, self.rate, self.token, self.redirect_url = page_size, rate, token, redirect_url
        self._random, self._lock = random.Random(seed), threading.Lock()
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self.bodies: list[dict[str, Any]] = []  # of POST requests
        self.fault_counts: Counter[str] = Counter()
        self.sent_bytes = 0  # in bodies of /data
        self.active = self.max_active = 0  # downloads at once
        self.fixed_statuses: dict[str, int] = {}  # by file_id: the status of each answer
        self.has_status = True  # whether /status exists
        self.on_request: Callable[[str], object] = lambda path: None
        self._server = _Http(("127.0.0.1", 0), _Handler)
        self._server.gdc = self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "GdcServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def draw_fault(self, faults: tuple[str, ...]) -> str | None:
        """Draw the fault of a request; None for no fault."""
        with self._lock:
            if self._random.random() >= self.faults:
                return None
            fault = self._random.choice((*faults, "status"))
            self.fault_counts[fault] += 1
            return fault

    def draw_number(self, limit: int) -> int:
        """Draw a number from 0 to below a limit."""
        with self._lock:
            return self._random.randrange(limit)

    def request_count(self, path: str) -> int:
        """Count the requests whose path starts with a text."""
        return sum(request_path.startswith(path) for _, request_path, _ in self.requests)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    gdc: GdcServer

    def handle_error(self, *_: object) -> None:
        """Ignore errors of connections: in some tests the client closes the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def gdc(self) -> GdcServer:
        return self.server.gdc

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self._record_request()
        if split.path == "/status" and self.gdc.has_status:
            self._send_json({"commit": "0" * 40, "data_release": RELEASE, "status": "OK", "tag": "5.0", "version": 1})
        elif split.path == "/files":
            query = dict(parse_qsl(split.query))
            if "filters" in query:
                query["filters"] = json.loads(query["filters"])
            self._send_hits(query)
        elif split.path.startswith("/files/"):
            slide = self._slide(split.path.removeprefix("/files/"))
            if slide is not None:
                self._send_json({"data": {"id": slide.file_id, "access": slide.access}, "warnings": {}})
            else:
                self._send_status(404)
        elif split.path.startswith("/data/"):
            self._send_file(split.path.removeprefix("/data/"))
        else:
            self._send_status(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._record_request()
        self.gdc.bodies.append(body)
        if self.path == "/files" and self.gdc.redirect_url:
            self._send_head(301, {"Location": self.gdc.redirect_url + self.path, "Content-Length": 0})
        elif self.path == "/files":
            self._send_hits(body)
        else:
            self._send_status(404)

    def _slide(self, file_id: str) -> GdcSlide | None:
        return next((slide for slide in self.gdc.slides if slide.file_id == file_id), None)

    def _record_request(self) -> None:
        self.gdc.requests.append((self.command, self.path, dict(self.headers)))
        self.gdc.on_request(self.path)

    def _send_hits(self, query: dict[str, Any]) -> None:
        hits = [(slide.as_hit(self.gdc.slides), slide.hit_changes) for slide in self.gdc.slides]
        hits = [hit | changes for hit, changes in hits if matches(hit, query.get("filters"))]
        key, _, direction = str(query.get("sort", "")).partition(":")
        if key:
            hits.sort(key=lambda hit: str(hit[key]), reverse=direction == "desc")
        begin, size = int(query.get("from", 0)), min(int(query.get("size", 10)), self.gdc.page_size)
        fields = query.get("fields")
        page = [select_fields(hit, fields.split(",")) if fields else hit for hit in hits[begin : begin + size]]
        pagination = {"count": len(page), "total": len(hits), "size": size, "from": begin}
        self._send_json({"data": {"hits": page, "pagination": pagination}, "warnings": {}})

    def _send_json(self, answer: dict[str, Any]) -> None:
        fault = self.gdc.draw_fault(LIST_FAULTS)
        if fault == "status":
            return self._send_status(STATUSES[self.gdc.draw_number(len(STATUSES))])
        if fault == "shrunk" and answer.get("data", {}).get("hits"):
            hits = answer["data"]["hits"]
            answer["data"]["hits"] = hits[: 1 + self.gdc.draw_number(len(hits))]
            answer["data"]["pagination"] |= {"count": len(answer["data"]["hits"])}
        body = json.dumps(answer).encode()
        if fault == "garbage":
            body = b"<html>" + body[: len(body) // 2]
        self._send_head(200, {"Content-Type": "application/json", "Content-Length": len(body)})
        if fault in ("truncated", "reset"):
            self.wfile.write(body[: len(body) // 2])
            return self._close(reset=fault == "reset")
        self.wfile.write(body)

    def _send_file(self, file_id: str) -> None:
        slide = self._slide(file_id)
        if slide is None:
            return self._send_status(404)
        if file_id in self.gdc.fixed_statuses:
            return self._send_status(self.gdc.fixed_statuses[file_id])
        if self.gdc.redirect_url:
            self._send_head(302, {"Location": self.gdc.redirect_url + self.path, "Content-Length": 0})
            return None
        if slide.access == "controlled" and self.headers.get("X-Auth-Token") != self.gdc.token:
            return self._send_status(403)
        self._count(1)
        try:
            self._send_body(slide, self.gdc.draw_fault(self.gdc.body_faults))
        finally:
            self._count(-self._counted)
        return None

    _counted = 0

    def _count(self, change: int) -> None:
        with self.gdc._lock:
            self._counted += change
            self.gdc.active += change
            self.gdc.max_active = max(self.gdc.max_active, self.gdc.active)

    def _send_body(self, slide: GdcSlide, fault: str | None) -> None:
        if fault == "status":
            return self._send_status(STATUSES[self.gdc.draw_number(len(STATUSES))])
        data, begin, status = slide.data, 0, 200
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f"attachment; filename={slide.name}",
        }
        requested = self.headers.get("Range", "")
        if requested.startswith("bytes=") and fault != "ignored range":
            begin = int(requested.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(data):
                return self._send_status(416)
            status = 206
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        else:
            headers["Content-MD5"] = slide.md5
        body = data[begin:]
        if fault == "wrong bytes":
            position = self.gdc.draw_number(len(body))
            body = body[:position] + bytes([body[position] ^ 0xFF]) + body[position + 1 :]
        elif fault == "too long":
            body += b"\0" * (1 + self.gdc.draw_number(1000))
        elif fault == "too short":
            body = body[: self.gdc.draw_number(len(body))]
        if fault == "chunked":
            self._send_head(status, headers | {"Transfer-Encoding": "chunked"})
            for i in range(0, len(body), 10_000):
                piece = body[i : i + 10_000]
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return None
        if fault == "no length" or (fault in ("too long", "too short") and self.gdc.draw_number(2)):
            self._send_head(status, headers | {"Connection": "close"})
            self._write(body)
            self.close_connection = True
            return None
        self._send_head(status, headers | {"Content-Length": len(body)})
        if fault in ("reset", "truncated"):
            self._write(body[: self.gdc.draw_number(len(body))])
            return self._close(reset=fault == "reset")
        if fault == "drip":
            for i in range(0, min(len(body), 4000), 50):
                self._write(body[i : i + 50])
                time.sleep(0.02)
            return self._close(reset=False)
        self._write(body)

    def _write(self, data: bytes) -> None:
        step = 1 << 16 if self.gdc.rate is None else max(1, int(self.gdc.rate / 50))
        with suppress(ConnectionError):
            for i in range(0, len(data), step):
                piece = data[i : i + step]
                if self.gdc.rate is not None:
                    time.sleep(1 / 50)
                if i + step >= len(data):  # the client may send its next request at once
                    self._count(-self._counted)
                self.gdc.sent_bytes += len(piece)
                self.wfile.write(piece)

    def _send_status(self, status: int) -> None:
        body = json.dumps({"message": f"status {status} for {self.path}", "headers": dict(self.headers)}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": len(body)}
        if status in (429, 503):
            headers["Retry-After"] = 0
        self._send_head(status, headers)
        self.wfile.write(body)

    def _send_head(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _close(self, reset: bool) -> None:
        """Close the connection before the end of an answer, with a reset or in the normal way."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()


def matches(hit: dict[str, Any], condition: dict[str, Any] | None) -> bool:
    """Return whether a hit matches a filter of the GDC's API."""
    if condition is None:
        return True
    if condition["op"] in ("and", "or"):
        results = [matches(hit, part) for part in condition["content"]]
        return all(results) if condition["op"] == "and" else any(results)
    allowed = condition["content"]["value"]
    allowed = allowed if isinstance(allowed, list) else [allowed]
    return bool(set(values(hit, condition["content"]["field"].split("."))) & set(allowed))


def values(node: Any, path: list[str]) -> list[Any]:
    """List all values at a path of keys; a list on the path is searched item by item."""
    if isinstance(node, list):
        return [value for item in node for value in values(item, path)]
    if not path:
        return [node]
    return values(node[path[0]], path[1:]) if isinstance(node, dict) and path[0] in node else []


def select_fields(hit: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """Reduce a hit to its id and some fields."""
    return {"id": hit["id"], **_select(hit, [name.split(".") for name in fields])}


def _select(node: Any, paths: list[list[str]]) -> Any:
    if not isinstance(node, dict):
        return node
    selected = {}
    for key, value in node.items():
        subpaths = [path[1:] for path in paths if path[0] == key]
        if [] in subpaths:
            selected[key] = value
        elif subpaths and isinstance(value, list):
            selected[key] = [_select(item, subpaths) for item in value]
        elif subpaths and isinstance(value, dict):
            selected[key] = _select(value, subpaths)
    return selected


if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).iterdir())
    suffixes = ("01A-01-TS1", "11A-01-TS1")
    slides = [GdcSlide(f"TCGA-AA-{i:04d}-{suffixes[i % 2]}", path.read_bytes()) for i, path in enumerate(paths)]
    with GdcServer(slides) as server:
        print(server.url, flush=True)
        threading.Event().wait()
