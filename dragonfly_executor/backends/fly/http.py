"""One request to the Machines API and whatever comes of it, without a judgement. Any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from dragonfly_executor.backends.fly.errors import OutOfTimeError
from dragonfly_executor.backends.fly.pacing import Pacer
from dragonfly_executor.backends.fly.patience import Patience
from dragonfly_executor.backends.fly.settings import Access
from dragonfly_executor.backends.fly.verdicts import Reply, Verdict
from dragonfly_executor.versions import __version__

CONNECT_TIMEOUT = 10.0
MAX_BODY = 16 * 1024 * 1024
"""Bytes; all machines of a large app fit into it."""
KEPT_HEADERS = ("fly-request-id", "retry-after")
NOTHING_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class Line:
    """The connections to the API, the pace of requests, and the cookies that lead to the host that knows best.

    A context manager: connections are kept while anybody is in it.

    Args:
        access: where, as whom.
        transport: of httpx, for tests.
    """

    def __init__(self, access: Access, transport: httpx.BaseTransport | None = None) -> None:
        self._access = access
        self._transport = transport
        self._lock = threading.Lock()
        self._users = 0
        self._client: httpx.Client | None = None
        self._cookies = httpx.Cookies()
        self._pacer = Pacer()
        self._clock_began: float | None = None
        """When the monotonic clock stood at nought, as the API dates its answers."""
        # It reads all certificates of this machine, which takes a while: once.
        self._verify = httpx.create_ssl_context() if access.host.startswith("https:") else False

    def __enter__(self) -> Self:
        with self._lock:
            self._users += 1
            if self._client is None:
                self._client = self._make_client()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            client, self._client = (self._client, None) if not self._users else (None, self._client)
        if client is not None:
            self._cookies = httpx.Cookies(client.cookies)
            client.close()

    def now(self) -> float:
        """Seconds since the epoch: by the API's clock once it has answered anything, until then by this machine's."""
        began = self._clock_began
        return time.time() if began is None else began + time.monotonic()

    def _make_client(self) -> httpx.Client:
        headers = {
            "User-Agent": f"dragonfly-executor/{__version__}",
            "Accept": "application/json",
            # What is unpacked has no bounds.
            "Accept-Encoding": "identity",
        }
        return httpx.Client(
            base_url=f"{self._access.host}/v1",
            headers=headers,
            cookies=self._cookies,
            verify=self._verify,
            transport=self._transport,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
        )

    def exchange(
        self,
        action: str,
        thing: str,
        method: str,
        path: str,
        patience: Patience,
        *,
        timeout: float,
        params: Sequence[tuple[str, str]] = (),
        body: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Ask once, when it is this one's turn.

        Args:
            action, thing: by which Fly counts requests.
            method, path: of the request.
            patience: for waiting for the turn and for the answer together.
            timeout: seconds that each step of the answer may take.
            params, body: of the request.

        Raises:
            OutOfTimeError: its turn would come too late.
        """
        with self._lock:
            turn = self._pacer.reserve(action, thing, time.monotonic())
        if turn > 0:
            patience.pause(turn)
            if patience.over:
                raise OutOfTimeError(f"there was no time left to ask Fly ({action})", verdict=Verdict.TRANSIENT)
        with self:
            return self._ask(method, path, patience, timeout, params, body)

    def _ask(
        self,
        method: str,
        path: str,
        patience: Patience,
        timeout: float,
        params: Sequence[tuple[str, str]],
        body: Mapping[str, Any] | None,
    ) -> Reply:
        assert self._client is not None  # noqa: S101  # `exchange` is in it
        limit = max(0.1, patience.left(timeout))
        end = time.monotonic() + limit
        try:
            with self._client.stream(
                method,
                path,
                params=list(params),
                json=body,
                # Not among the client's own headers, which its repr and a debugger show.
                headers={"Authorization": self._access.token.header()},
                timeout=httpx.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT)),
            ) as response:
                return self._read(response, end)
        except NOTHING_SENT as error:
            return Reply(0, failure=self._words(error), sent=False)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict, OSError) as error:
            return Reply(0, failure=self._words(error))

    def _read(self, response: httpx.Response, end: float) -> Reply:
        data = bytearray()
        for piece in response.iter_raw():
            data += piece
            if len(data) > MAX_BODY:
                return Reply(0, failure=f"the answer is larger than {MAX_BODY} bytes")
            if time.monotonic() > end:
                return Reply(0, failure="the answer did not come to an end in time")
        self._set_clock(response.headers.get("date", ""))
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        body = bytes(data)
        if response.status_code >= 400:
            # Some servers answer with what they were asked.
            body = self._access.token.blot(body.decode(errors="replace")).encode()
        return Reply(response.status_code, body, headers)

    def _set_clock(self, date: str) -> None:
        try:
            self._clock_began = parsedate_to_datetime(date).timestamp() - time.monotonic()
        except (ValueError, TypeError, OverflowError, IndexError):
            return

    def _words(self, error: Exception) -> str:
        return self._access.token.blot(f"{type(error).__name__}: {error}".rstrip(": "))
