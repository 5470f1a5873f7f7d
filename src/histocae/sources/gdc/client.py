"""HTTP requests to the GDC: repeated after failures, closed when slow, with a token that only the GDC gets."""

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
from requests import Response as Response
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from histocae.address import is_loopback
from histocae.errors import FetchError, StuckError, raise_if_machine
from histocae.sources.gdc.remote import Server

CHUNK = 1 << 16
LOGGED_FROM = 3  # failed tries are logged from this number on: the first ones are common
log = logging.getLogger(__name__)
RETRIED = (403, 408, 425, 429)  # and all from 500: the GDC answers so around data releases, for a while
Answer = TypeVar("Answer")


class TransientError(Exception):
    """A try that failed; the next one may succeed.

    Attributes:
        after: seconds that the server asked to wait.
        status: of the server's answer; 0 without an answer.
        own: the requested file is the cause, not the network or the server.

    """

    def __init__(self, message: str, after: float = 0.0, status: int = 0, own: bool = False):
        """Describe a failed try.

        Args:
            message: in one line.
            after: seconds that the server asked to wait.
            status: of the server's answer; 0 without an answer.
            own: the requested file is the cause, not the network or the server.

        """
        super().__init__(message)
        self.after, self.status, self.own = after, status, own


class StoppedError(Exception):
    """Another thread has stopped the work."""


class _LoopbackOnly(HTTPAdapter):
    """Plain HTTP, on this machine only: elsewhere a listener could read and change the traffic."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Response:
        host = urlsplit(str(request.url)).hostname or ""
        if not is_loopback(host):
            raise FetchError(f"http://{host}: plain http is allowed on this machine only; use https")
        return super().send(request, *args, **options | {"proxies": {}})


class _Session(requests.Session):
    """A session that sends the token to the configured server alone, whatever redirects it follows."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: Response) -> None:
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]  # types-requests has none
        # stricter than requests, which keeps credentials on a redirect from http to https
        former, following = (urlsplit(str(url)) for url in (response.request.url, prepared_request.url))
        if (former.scheme, former.hostname, former.port) != (following.scheme, following.hostname, following.port):
            prepared_request.headers.pop("X-Auth-Token", None)


class Client:
    """A connection to a server, for one thread."""

    def __init__(self, server: Server, stop: threading.Event | None = None):
        """Prepare a connection; the first request makes it.

        Args:
            server: to connect to.
            stop: set by another thread to end the work.

        """
        self.server, self._patience = server, server.patience
        self._stop = stop or threading.Event()
        self._session = _Session()
        self._session.mount("http://", _LoopbackOnly())
        # identity: the bytes that arrive are those that are stored and hashed
        self._session.headers.update({"Accept-Encoding": "identity", "User-Agent": "histocae"})

    def again(self, attempt: Callable[[], Answer], subject: str) -> Answer:
        """Repeat a request until it succeeds, with random pauses that grow.

        Args:
            attempt: a try, which raises TransientError where the next one may succeed.
            subject: of the request, for messages.

        Returns:
            The result of the successful try.

        Raises:
            FetchError: all tries failed; StuckError where the network or the server is the cause.
            StoppedError: `stop` is set.

        """
        tries, patience = self.server.tries, self._patience
        waiting = tenacity.wait_random_exponential(patience.first, patience.longest)

        def failure(state: tenacity.RetryCallState) -> BaseException | None:
            return state.outcome.exception() if state.outcome is not None else None

        def pause(state: tenacity.RetryCallState) -> float:
            error = failure(state)
            after = error.after if isinstance(error, TransientError) else 0.0
            return max(waiting(state), min(after, patience.longest))

        def sleep(seconds: float) -> None:
            if self._stop.wait(seconds):
                raise StoppedError

        def report(state: tenacity.RetryCallState) -> None:
            if state.attempt_number >= LOGGED_FROM:
                seconds = state.next_action.sleep if state.next_action is not None else 0.0
                following = f"try {state.attempt_number + 1} of {tries} in {seconds:.0f} s"
                log.info("%s: %s; %s", subject, failure(state), following)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(tries),
            wait=pause,
            sleep=sleep,
            before_sleep=report,
            reraise=True,
            retry=tenacity.retry_if_exception_type(TransientError),
        )
        try:
            return retrying(attempt)
        except TransientError as error:
            kind = FetchError if error.own else StuckError
            raise kind(f"{subject}: {error} ({tries} {'tries' if tries > 1 else 'try'})") from None

    def json(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Request JSON once.

        Args:
            path: below the server's URL.
            body: sent by POST; None for GET.

        Returns:
            The object in the answer.

        Raises:
            TransientError: no answer, or an answer that is no JSON object.
            FetchError: the server rejects the request.

        """
        with self.open(path, body=body) as response:
            text = b"".join(self.chunks(response))
        try:
            answer = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError):
            answer = None
        if not isinstance(answer, dict):
            raise TransientError("answered with something that is not JSON")
        return answer

    @contextmanager
    def open(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        with_token: bool = False,
    ) -> Iterator[Response]:
        """Send a request once; the body of the answer is read later, by `chunks`.

        Args:
            path: below the server's URL.
            headers: of the request.
            body: sent as JSON by POST; None for GET.
            with_token: send the token for controlled data.

        Yields:
            The answer.

        Raises:
            TransientError: no answer, or a status after which the next try may succeed.
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
            if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
                raise FetchError(
                    f"{self.server.url}: its certificate can't be verified; behind a proxy with its own "
                    "certificate, set REQUESTS_CA_BUNDLE to that file"
                ) from None
            raise TransientError("the connection broke") from None
        except requests.exceptions.TooManyRedirects:
            raise FetchError(f"{url}: too many redirects") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, HTTPError, ValueError):
            # raised by requests and urllib3 where a redirect leads to an invalid address
            raise FetchError(f"{url}: an invalid address, or a redirect to one") from None
        except requests.exceptions.Timeout:
            raise TransientError("no answer in time") from None
        except requests.exceptions.RequestException as error:
            raise TransientError(f"no connection{_system_message(error)}") from None
        except OSError as error:  # missing certificates
            raise FetchError(f"{url}: {error}") from None
        try:
            if response.request.method != method:
                # a redirect turned POST into GET
                raise FetchError(f"{url} redirects to {_origin(response.url)}; set data.gdc.url to the right address")
            _check(response, url, headers.get("X-Auth-Token"))
            yield response
        finally:
            response.close()

    def chunks(self, response: Response) -> Iterator[bytes]:
        """Yield the body of an answer as it arrives.

        Raises:
            TransientError: the connection breaks, or is too slow.
            StoppedError: `stop` is set.

        """
        patience = self._patience
        since, received = time.monotonic(), 0
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
            received += len(data)
            passed = time.monotonic() - since
            if passed >= patience.window:
                if received < patience.slowest * passed:
                    raise TransientError(f"slower than {patience.slowest:g} bytes a second")
                since, received = time.monotonic(), 0


def read_token(file: Path | None) -> str:
    """Read the token for controlled data.

    Raises:
        FetchError: the file is missing, holds no token, or other users can read it.

    """
    if file is None:
        raise FetchError("data.gdc.token_file: null, but some of the data are controlled")
    try:
        token = file.read_text(encoding="utf-8").strip()
        readable_by_others = file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    except (OSError, UnicodeDecodeError) as error:
        raise_if_machine(error)
        raise FetchError(f"data.gdc.token_file: {file} can't be read") from None
    if not re.fullmatch(r"[!-~]+", token):
        raise FetchError(f"data.gdc.token_file: {file} holds no token: one line without spaces")
    if readable_by_others:
        raise FetchError(f"data.gdc.token_file: {file} can be read by others; chmod 600 {file}")
    return token


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors inside it, as urllib3 and requests wrap them."""
    yielded: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        cause = todo.pop(0)
        if isinstance(cause, BaseException) and not any(cause is former for former in yielded):
            yielded.append(cause)
            todo += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]
            yield cause


def _system_message(error: BaseException) -> str:
    """Return the operating system's message about a failed connection, with a colon before it; else nothing."""
    messages = (cause.strerror for cause in _causes(error) if isinstance(cause, OSError))
    return next((f": {message}" for message in messages if message), "")


def _origin(url: str) -> str:
    """Return scheme and host of an address: path, query and credentials may be secret."""
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc.rsplit('@', 1)[-1]}"


def _check(response: Response, url: str, token: str | None) -> None:
    """Raise an error for the status of a failure; status 416 (range not satisfiable) is left to the caller."""
    status = response.status_code
    if status < 400 or status == 416:
        return
    if status in RETRIED or status >= 500:
        after = response.headers.get("Retry-After", "")
        hint = ": refused; is it controlled data, or is the token too old?" if status == 403 else ""
        raise TransientError(
            f"status {status}{hint}", float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0, status, status == 403
        )
    if status == 401:
        remedy = "is not accepted; get a new one" if token else "is required; see data.gdc.token_file"
        raise FetchError(f"{url}: status 401: a token {remedy}")
    try:
        text = response.raw.read(500, decode_content=True).decode("utf-8", "replace")
    except (HTTPError, OSError):
        text = ""
    text = " ".join(text.split())
    raise FetchError(f"{url}: status {status} {text.replace(token, '***') if token else text}")
