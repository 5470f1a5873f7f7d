"""HTTP as the GDC needs it: tried again with patience, slow answers given up, the token kept from strangers."""

import json
import logging
import re
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import tenacity
from requests import Response
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from histocae.address import is_loopback
from histocae.errors import FetchError, StuckError
from histocae.sources.gdc.remote import Server

CHUNK = 1 << 16
TOLD_FROM = 3  # the try that failed from which on the log tells of each: the first ones are nothing special
log = logging.getLogger(__name__)
AGAIN = (403, 408, 425, 429)  # and all from 500: seen around releases, gone after a while
Answer = TypeVar("Answer")


class TransientError(Exception):
    """A try that failed and may go well the next time.

    `after`: seconds that the server asked to wait; `status`: its answer, 0 where there was none; `own`: the fault
    is of what was asked for, and not of the network or the server.
    """

    def __init__(self, told: str, after: float = 0.0, status: int = 0, own: bool = False):
        super().__init__(told)
        self.after, self.status, self.own = after, status, own


class StoppedError(Exception):
    """Somebody wants the work to stop."""


class _LoopbackOnly(HTTPAdapter):
    """Plain HTTP on this machine; elsewhere a listener could read, and change, what is sent."""

    def send(self, request: requests.PreparedRequest, *args: Any, **how: Any) -> Response:
        host = urlsplit(request.url).hostname or ""
        if not is_loopback(host):
            raise FetchError(f"http://{host}: plain http is refused but for this machine itself; use https")
        return super().send(request, *args, **how | {"proxies": {}})


class _Session(requests.Session):
    """A session that sends the token to nobody but the server it was meant for."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: Response) -> None:
        super().rebuild_auth(prepared_request, response)
        # not requests' own rule, which also trusts the way from http to https and back
        former, following = (urlsplit(url) for url in (response.request.url, prepared_request.url))
        if (former.scheme, former.hostname, former.port) != (following.scheme, following.hostname, following.port):
            prepared_request.headers.pop("X-Auth-Token", None)


class Client:
    """One connection to a server, for one thread.

    Args:
        server: which one.
        stop: set by another thread where the work is to end.

    """

    def __init__(self, server: Server, stop: threading.Event | None = None):
        self.server, self._patience = server, server.patience
        self._stop = stop or threading.Event()
        self._session = _Session()
        self._session.mount("http://", _LoopbackOnly())
        # what arrives is what is stored and hashed
        self._session.headers.update({"Accept-Encoding": "identity", "User-Agent": "histocae"})

    def again(self, one: Callable[[], Answer], what: str) -> Answer:
        """Try until it goes well, with pauses that grow and differ.

        Raises:
            FetchError: it did not in as many tries as there are; StuckError where that is the network's fault or
                the server's.
            StoppedError: it is to stop.

        """
        tries, patience = self.server.tries, self._patience
        waiting = tenacity.wait_random_exponential(patience.first, patience.longest)

        def pause(state: tenacity.RetryCallState) -> float:
            return max(waiting(state), min(state.outcome.exception().after, patience.longest))

        def sleep(seconds: float) -> None:
            if self._stop.wait(seconds):
                raise StoppedError

        def tell(state: tenacity.RetryCallState) -> None:
            if state.attempt_number >= TOLD_FROM:
                again = f"try {state.attempt_number + 1} of {tries} in {state.next_action.sleep:.0f} s"
                log.info("%s: %s; %s", what, state.outcome.exception(), again)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(tries),
            wait=pause,
            sleep=sleep,
            before_sleep=tell,
            reraise=True,
            retry=tenacity.retry_if_exception_type(TransientError),
        )
        try:
            return retrying(one)
        except TransientError as error:
            kind = FetchError if error.own else StuckError
            raise kind(f"{what}: {error} ({tries} {'tries' if tries > 1 else 'try'})") from None

    def json(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask once for JSON, by POST where there is a body.

        Raises:
            TransientError: no answer, or one that is no JSON object.
            FetchError: the server does not understand the question.

        """
        with self.open(path, body=body) as response:
            text = b"".join(self.chunks(response))
        try:
            found = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError):
            found = None
        if not isinstance(found, dict):
            raise TransientError("answered with something that is not JSON")
        return found

    @contextmanager
    def open(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        with_token: bool = False,
    ) -> Iterator[Response]:
        """Ask once, and give the answer before its body has come.

        Raises:
            TransientError: no answer, or one that says to come again.
            FetchError: an answer that another try would not change.

        """
        url = f"{self.server.url.rstrip('/')}/{path}"
        headers = dict(headers or {})
        if with_token:
            headers["X-Auth-Token"] = read_token(self.server.token_file)
        waits = (self._patience.connect, self._patience.silence)
        method = "GET" if body is None else "POST"
        try:
            response = self._session.request(method, url, json=body, headers=headers, timeout=waits, stream=True)
        except requests.exceptions.SSLError as error:
            if any(isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error)):
                raise FetchError(
                    f"{self.server.url}: its certificate can't be verified; behind a proxy that has its own, "
                    "set REQUESTS_CA_BUNDLE to that one"
                ) from None
            raise TransientError("the connection broke") from None
        except requests.exceptions.TooManyRedirects:
            raise FetchError(f"{url}: redirects without end") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, HTTPError, ValueError):
            # of requests' own and urllib3's making, where the address that a redirect names is none
            raise FetchError(f"{url}: no address that can be asked, or a redirect to one") from None
        except requests.exceptions.Timeout:
            raise TransientError("no answer in time") from None
        except requests.exceptions.RequestException as error:
            raise TransientError(f"no connection{_told(error)}") from None
        except OSError as error:  # certificates that are not there
            raise FetchError(f"{url}: {error}") from None
        try:
            if response.request.method != method:
                # a redirect has turned the question into another one
                raise FetchError(f"{url} redirects to {_origin(response.url)}; set data.gdc.url to the right address")
            _check(response, url, headers.get("X-Auth-Token"))
            yield response
        finally:
            response.close()

    def chunks(self, response: Response) -> Iterator[bytes]:
        """Give an answer's body as it comes.

        Raises:
            TransientError: it breaks off, or comes too slowly.
            StoppedError: it is to stop.

        """
        patience = self._patience
        since, came = time.monotonic(), 0
        while True:
            try:
                data = response.raw.read1(CHUNK)
            except (HTTPError, OSError):
                raise TransientError("the connection broke") from None
            if self._stop.is_set():
                raise StoppedError
            if not data:
                return
            yield data
            came += len(data)
            passed = time.monotonic() - since
            if passed >= patience.window:
                if came < patience.slowest * passed:
                    raise TransientError(f"slower than {patience.slowest:g} bytes a second")
                since, came = time.monotonic(), 0


def read_token(file: Path | None) -> str:
    """Read the token for controlled data.

    Raises:
        FetchError: there is no such file, it holds no token, or others can read it.

    """
    if file is None:
        raise FetchError("data.gdc.token_file: is null, and there are controlled data")
    try:
        token = file.read_text(encoding="utf-8").strip()
        open_to_others = file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    except (OSError, UnicodeDecodeError):
        raise FetchError(f"data.gdc.token_file: {file} can't be read") from None
    if not re.fullmatch(r"[!-~]+", token):
        raise FetchError(f"data.gdc.token_file: {file} holds no token: one line without spaces")
    if open_to_others:
        raise FetchError(f"data.gdc.token_file: {file} can be read by others; chmod 600 {file}")
    return token


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it holds, as urllib3 and requests wrap them."""
    seen: list[Any] = []
    todo: list[Any] = [error]
    while todo:
        one = todo.pop(0)
        if isinstance(one, BaseException) and not any(one is other for other in seen):
            seen.append(one)
            todo += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
            yield one


def _told(error: BaseException) -> str:
    """The system's own words about a connection that failed."""
    return next((f": {one.strerror}" for one in _causes(error) if isinstance(one, OSError) and one.strerror), "")


def _origin(url: str) -> str:
    """An address without what may be secret in it."""
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc.rsplit('@', 1)[-1]}"


def _check(response: Response, url: str, token: str | None) -> None:
    status = response.status_code
    if status < 400:
        return
    if status in AGAIN or status >= 500:
        after = response.headers.get("Retry-After", "")
        hint = ": refused; is it controlled data, or is the token too old?" if status == 403 else ""
        raise TransientError(
            f"status {status}{hint}", float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0, status, status == 403
        )
    if status == 416:
        return  # of a range: the caller knows what it asked for
    if status == 401:
        remedy = "is not accepted; get a new one" if token else "is asked for; see data.gdc.token_file"
        raise FetchError(f"{url}: status 401: a token {remedy}")
    try:
        told = response.raw.read(500, decode_content=True).decode("utf-8", "replace")
    except (HTTPError, OSError):
        told = ""
    told = " ".join(told.split())
    raise FetchError(f"{url}: status {status} {told.replace(token, '***') if token else told}")
