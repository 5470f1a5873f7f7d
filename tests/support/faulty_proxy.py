"""A proxy in front of a server, which answers with errors, late, or not at all."""

import http.client
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


class FaultyProxy(ThreadingHTTPServer):
    """Forwards requests; a fault may replace or delay the answer.

    Attributes:
        status: of answers that come in place of the server's; None forwards requests.
        share: of the answers with that status; the other requests are forwarded.
        delay: of every answer, in seconds.
        cut: whether the connection is closed in the middle of each answer.

    """

    daemon_threads = True

    def __init__(self, server: str, seed: int = 0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(server).netloc
        self._choice = random.Random(seed)
        self.heal()

    @property
    def address(self) -> str:
        """The address of the proxy."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def heal(self) -> None:
        """Forward all requests from now on."""
        self.status, self.share, self.delay, self.cut = None, 1.0, 0.0, False

    def refuses(self) -> bool:
        """Whether the next request gets the status in place of an answer."""
        return self.status is not None and self._choice.random() < self.share

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that do not wait for the answer."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.server.delay)
        if self.server.refuses():
            status, headers, data = self.server.status, [("Content-Type", "text/plain")], b"a fault"
        else:
            connection = http.client.HTTPConnection(self.server.behind, timeout=60)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                status, headers, data = response.status, response.getheaders(), response.read()
            except (OSError, http.client.HTTPException):  # the server is down
                status, headers, data = 502, [], b""
            finally:
                connection.close()
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.server.cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815 (names of http.server)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def proxy(server: str) -> Iterator[FaultyProxy]:
    """Start a proxy in front of a server."""
    with FaultyProxy(server) as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield started
        finally:
            started.shutdown()
            thread.join()
