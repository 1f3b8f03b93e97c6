"""One HTTP request to the Machines API, with its rate limit. Responses are not judged here. Any thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.errors import OutOfTimeError
from dragonfly_executor.backends.fly.rate_limit import RateLimiter
from dragonfly_executor.backends.fly.responses import APIResponse, ResponseKind
from dragonfly_executor.backends.fly.settings import APIAccess
from dragonfly_executor.backends.http_connection import ConnectionCache, HttpConnection
from dragonfly_executor.protocol.versions import __version__

CONNECT_TIMEOUT = 5.0
MAX_BODY = 16 * 1024 * 1024
"""Bytes. The list of all machines of a large app fits."""
KEPT_HEADERS = ("fly-request-id", "retry-after")
NOTHING_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class HttpConnections(ConnectionCache[httpx.Client]):
    """The connections to the API, with the rate limit and the cookies that route requests to the right Fly host.

    Args:
        access: the API's URL and the token.
        transport: an httpx transport, for tests.
    """

    def __init__(self, access: APIAccess, transport: httpx.BaseTransport | None = None) -> None:
        super().__init__()
        self._access = access
        self._transport = transport
        self._cookies = httpx.Cookies()
        self._rate_limiter = RateLimiter()
        self._clock_began: float | None = None
        """The epoch time at which the monotonic clock was 0, by the ``Date`` of API responses."""
        # Made once, as it reads all certificates of this machine and takes a while.
        self._verify = httpx.create_ssl_context() if access.host.startswith("https:") else False

    def now(self) -> float:
        """Return seconds since the epoch by the API's clock, or by this machine's clock until the first response."""
        began = self._clock_began
        return time.time() if began is None else began + time.monotonic()

    def _make_client(self) -> httpx.Client:
        headers = {
            "User-Agent": f"dragonfly-executor/{__version__}",
            "Accept": "application/json",
            # Not compressed: a decompressed body has no size limit.
            "Accept-Encoding": "identity",
        }
        return httpx.Client(
            base_url=f"{self._access.host}/v1",
            headers=headers,
            verify=self._verify,
            transport=self._transport,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
        )

    def _take(self) -> HttpConnection[httpx.Client]:
        connection = super()._take()
        # httpx copies the cookies: each connection has its own while in use.
        connection.client.cookies = self._cookies
        return connection

    def _give_back(self, connection: HttpConnection[httpx.Client], *, may_be_kept: bool) -> None:
        self._cookies = httpx.Cookies(connection.client.cookies)
        super()._give_back(connection, may_be_kept=may_be_kept)

    def exchange(
        self,
        action: str,
        thing: str,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        timeout: float,
        params: Sequence[tuple[str, str]] = (),
        body: Mapping[str, Any] | None = None,
    ) -> APIResponse:
        """Send one request when the rate limit allows it, and return the reply.

        Args:
            action, thing: the bucket of the rate limit.
            method, path: of the request.
            deadline: the time for the rate limit and the response together. If it is cancelled, the connection is shut
                down.
            timeout: seconds for each step of the response.
            params, body: of the request.

        Raises:
            OutOfTimeError: the turn comes too late, or the response is not wanted any more. Nothing was sent.
        """
        self.wait_for_turn(action, thing, deadline, deadline.pause)
        return self.send(method, path, deadline, timeout=timeout, params=params, body=body)

    def send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        timeout: float,
        params: Sequence[tuple[str, str]] = (),
        body: Mapping[str, Any] | None = None,
        on_send: Callable[[], object] = lambda: None,
    ) -> APIResponse:
        """Send one request, whose turn has come, and return the reply.

        Args:
            method, path: of the request.
            deadline: the time for the response. If it is cancelled, the connection is shut down.
            timeout: seconds for each step of the response.
            params, body: of the request.
            on_send: called right before the request is sent.
        """
        with self:
            connection, reply = self._take(), None
            try:
                with deadline.ending(connection.cut):
                    on_send()
                    reply = self._ask(connection, method, path, deadline, timeout, params, body)
                return reply
            finally:
                whole = reply is not None and reply.status > 0
                self._give_back(connection, may_be_kept=whole and not deadline.is_cancelled)

    def wait_for_turn(self, action: str, thing: str, deadline: Deadline, pause: Callable[[float], None]) -> None:
        """Wait until the rate limit allows a request.

        Args:
            action, thing: the bucket of the rate limit.
            deadline: the time for the wait.
            pause: waits for a number of seconds, or until the deadline is cancelled.

        Raises:
            OutOfTimeError: the turn comes too late, or the response is not wanted any more.
        """
        with self._lock:
            turn = self._rate_limiter.reserve(action, thing, time.monotonic())
        if turn > 0:
            pause(turn)
        if deadline.is_cancelled or (turn > 0 and deadline.is_over):
            cancelled = "the request was cancelled before it was sent to Fly"
            why = cancelled if deadline.is_cancelled else "no time was left to send the request to Fly"
            raise OutOfTimeError(f"{why} ({action})", verdict=ResponseKind.TRANSIENT)

    def turn_was_late(self, action: str, thing: str, seconds: float) -> None:
        """Report to the rate limit that a request is sent `seconds` after its turn."""
        with self._lock:
            self._rate_limiter.was_late(action, thing, time.monotonic(), seconds)

    def _ask(
        self,
        connection: HttpConnection[httpx.Client],
        method: str,
        path: str,
        deadline: Deadline,
        timeout: float,
        params: Sequence[tuple[str, str]],
        body: Mapping[str, Any] | None,
    ) -> APIResponse:
        limit = max(0.1, deadline.left(timeout))
        end = time.monotonic() + limit
        try:
            with connection.client.stream(
                method,
                path,
                params=list(params),
                json=body,
                # Not among the client's own headers, as its repr and debuggers show those.
                headers={"Authorization": self._access.token.header()},
                timeout=httpx.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT)),
                extensions={"trace": connection.trace},
            ) as response:
                return self._read(response, end)
        except NOTHING_SENT as error:
            return APIResponse(0, failure=self._words(error, deadline), sent=False)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict, OSError) as error:
            return APIResponse(0, failure=self._words(error, deadline))

    def _read(self, response: httpx.Response, end: float) -> APIResponse:
        data = bytearray()
        for piece in response.iter_raw():
            data += piece
            if len(data) > MAX_BODY:
                return APIResponse(0, failure=f"the answer is larger than {MAX_BODY} bytes")
            if time.monotonic() > end:
                return APIResponse(0, failure="the answer was not complete in time")
        self._set_clock(response.headers.get("date", ""))
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        body = bytes(data)
        if response.status_code >= 400:
            # Some servers echo the request, and so the token.
            body = self._access.token.blot(body.decode(errors="replace")).encode()
        return APIResponse(response.status_code, body, headers)

    def _set_clock(self, date: str) -> None:
        try:
            self._clock_began = parsedate_to_datetime(date).timestamp() - time.monotonic()
        except (ValueError, TypeError, OverflowError, IndexError):
            return

    def _words(self, error: Exception, deadline: Deadline) -> str:
        if deadline.is_cancelled:
            return "the request was cancelled before Fly answered"
        return self._access.token.blot(f"{type(error).__name__}: {error}".rstrip(": "))
