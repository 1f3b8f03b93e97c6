"""One request to the Machines API and whatever comes of it, without a judgement. Any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from dragonfly_executor.backends.fly.connection import Connection
from dragonfly_executor.backends.fly.deadline import Patience
from dragonfly_executor.backends.fly.errors import OutOfTimeError
from dragonfly_executor.backends.fly.rate_limit import Pacer
from dragonfly_executor.backends.fly.responses import Reply, Verdict
from dragonfly_executor.backends.fly.settings import Access
from dragonfly_executor.protocol.versions import __version__

CREATE = "create"
"""The action that makes a machine."""
CONNECT_TIMEOUT = 5.0
KEPT_CONNECTIONS = 8
"""Those that nobody uses, at most."""
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
        self._idle: list[Connection] = []
        self._cookies = httpx.Cookies()
        self._pacer = Pacer()
        self._clock_began: float | None = None
        """When the monotonic clock stood at nought, as the API dates its answers."""
        # It reads all certificates of this machine, which takes a while: once.
        self._verify = httpx.create_ssl_context() if access.host.startswith("https:") else False

    def __enter__(self) -> Self:
        with self._lock:
            self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            unused, self._idle = ([], self._idle) if self._users else (self._idle, [])
        for connection in unused:
            connection.close()

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
            verify=self._verify,
            transport=self._transport,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
        )

    def _take(self) -> Connection:
        """A connection that nobody else has meanwhile."""
        with self._lock:
            connection = self._idle.pop() if self._idle else Connection(self._make_client())
            # A copy: each has cookies of its own while it is used.
            connection.client.cookies = self._cookies
        return connection

    def _give_back(self, connection: Connection, *, may_be_kept: bool) -> None:
        with self._lock:
            self._cookies = httpx.Cookies(connection.client.cookies)
            if may_be_kept and len(self._idle) < KEPT_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

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
            patience: for waiting for the turn and for the answer together. If it is given up the connection is cut.
            timeout: seconds that each step of the answer may take.
            params, body: of the request.

        Raises:
            OutOfTimeError: its turn would come too late, or nobody wants the answer. Nothing was sent.
        """
        waited = patience.take_turn() if action == CREATE else None
        if waited is None:
            self.wait_for_turn(action, thing, patience)
        else:
            with self._lock:
                self._pacer.was_late(action, thing, time.monotonic(), waited)
        with self:
            connection, reply = self._take(), None
            try:
                with patience.ending(connection.cut):
                    if action == CREATE:
                        patience.asks()
                    reply = self._ask(connection, method, path, patience, timeout, params, body)
                return reply
            finally:
                whole = reply is not None and reply.status > 0
                self._give_back(connection, may_be_kept=whole and not patience.is_cut_short)

    def wait_for_turn(self, action: str, thing: str, patience: Patience) -> None:
        """Wait until something may be asked.

        Raises:
            OutOfTimeError: its turn would come too late, or nobody wants the answer.
        """
        with self._lock:
            turn = self._pacer.reserve(action, thing, time.monotonic())
        if turn > 0:
            (patience.wait_for_turn if action == CREATE else patience.pause)(turn)
        if patience.is_cut_short or (turn > 0 and patience.over):
            why = "nobody wanted to ask Fly any more" if patience.is_cut_short else "there was no time left to ask Fly"
            raise OutOfTimeError(f"{why} ({action})", verdict=Verdict.TRANSIENT)

    def _ask(
        self,
        connection: Connection,
        method: str,
        path: str,
        patience: Patience,
        timeout: float,
        params: Sequence[tuple[str, str]],
        body: Mapping[str, Any] | None,
    ) -> Reply:
        limit = max(0.1, patience.left(timeout))
        end = time.monotonic() + limit
        try:
            with connection.client.stream(
                method,
                path,
                params=list(params),
                json=body,
                # Not among the client's own headers, which its repr and a debugger show.
                headers={"Authorization": self._access.token.header()},
                timeout=httpx.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT)),
                extensions={"trace": connection.trace},
            ) as response:
                return self._read(response, end)
        except NOTHING_SENT as error:
            return Reply(0, failure=self._words(error, patience), sent=False)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict, OSError) as error:
            return Reply(0, failure=self._words(error, patience))

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

    def _words(self, error: Exception, patience: Patience) -> str:
        if patience.given_up:
            return "it was given up before there was an answer"
        return self._access.token.blot(f"{type(error).__name__}: {error}".rstrip(": "))
