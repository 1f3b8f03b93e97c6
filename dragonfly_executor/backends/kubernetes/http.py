"""One HTTP request to the API server, or one stream of events. Answers are not judged here. Any thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx2
from lightkube import ConfigError

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.http_connection import ConnectionCache, HttpConnection
from dragonfly_executor.backends.kubernetes.access import ClusterAccess
from dragonfly_executor.backends.kubernetes.answers import APIAnswer
from dragonfly_executor.backends.kubernetes.credentials import DEADLINE, CredentialsError

CONNECT_TIMEOUT = 5.0
MAX_BODY = 64 * 1024 * 1024
"""Bytes. The list of all Pods of a backend fits."""
MAX_LINE = 4 * 1024 * 1024
"""Bytes of one event. The API server stores no object above 1.5 MiB."""
NOTHING_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)
FAILURES = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError)


class APIRequest(NamedTuple):
    """A request to the API server.

    Attributes:
        method, path: of the request.
        params: its query.
        body: an object for its body, as JSON; None for no body.
    """

    method: str
    path: str
    params: Sequence[tuple[str, str]] = ()
    body: Mapping[str, Any] | None = None


class APIConnections(ConnectionCache[httpx2.Client]):
    """Connections to one API server.

    Args:
        access: the server and the credentials.
    """

    def __init__(self, access: ClusterAccess) -> None:
        super().__init__()
        self._access = access

    def _make_client(self) -> httpx2.Client:
        client: httpx2.Client = self._access.client()
        return client

    def send(self, request: APIRequest, deadline: Deadline, *, timeout: float) -> APIAnswer:
        """Send a request and return the answer.

        Args:
            request: the request.
            deadline: the time for the answer. If it is cancelled, the connection is shut down.
            timeout: seconds for the answer.
        """
        with self:
            connection, answer = self._take(), None
            try:
                with deadline.ending(connection.cut):
                    answer = self._ask(connection, request, deadline, timeout)
                return answer
            finally:
                whole = answer is not None and answer.status > 0 and not deadline.is_cancelled
                self._give_back(connection, may_be_kept=whole)

    @contextmanager
    def stream(
        self,
        request: APIRequest,
        deadline: Deadline,
        *,
        silence: float,
        opened: Callable[[HttpConnection[httpx2.Client]], object],
    ) -> Iterator[tuple[APIAnswer, Iterator[bytes]]]:
        """Send a request, and yield its answer without a body, and the lines of the body as they come.

        Args:
            request: the request.
            deadline: its cancellation ends a wait for credentials.
            silence: seconds without data after which the connection counts as dead.
            opened: called with the connection, before it is used. Another thread may cut it.

        Raises:
            ConnectionError: the stream cannot be read, or not any more.
        """
        connection = HttpConnection(self._make_client())
        opened(connection)
        timeout = httpx2.Timeout(silence, connect=CONNECT_TIMEOUT)
        try:
            with self._open(connection, request, timeout, deadline) as response:
                status = response.status_code
                body = b"" if status == 200 else _read(response, time.monotonic() + silence) or b""
                yield APIAnswer(status, body, response.headers.get("retry-after", "")), _lines(response)
        except (ConfigError, CredentialsError) as error:
            raise ConnectionError(f"no credentials: {error}") from None
        except FAILURES as error:
            raise ConnectionError(_words(error)) from None
        finally:
            connection.close()

    def _open(
        self,
        connection: HttpConnection[httpx2.Client],
        request: APIRequest,
        timeout: httpx2.Timeout,
        deadline: Deadline,
    ) -> Any:
        return connection.client.stream(
            request.method,
            request.path,
            params=list(request.params),
            json=request.body,
            timeout=timeout,
            extensions={"trace": connection.trace, DEADLINE: deadline},
        )

    def _ask(
        self, connection: HttpConnection[httpx2.Client], request: APIRequest, deadline: Deadline, timeout: float
    ) -> APIAnswer:
        limit = max(0.1, deadline.left(timeout))
        end = time.monotonic() + limit
        try:
            times = httpx2.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT))
            with self._open(connection, request, times, deadline) as response:
                body = _read(response, end)
                if body is None:
                    return APIAnswer(0, failure="the answer was too large, or not complete in time")
                return APIAnswer(response.status_code, body, response.headers.get("retry-after", ""))
        except (ConfigError, CredentialsError) as error:
            if deadline.is_over:
                return APIAnswer(0, failure=f"no credentials in time: {error}", sent=False)
            # The program that the kubeconfig names for credentials has failed, or their file is gone.
            return APIAnswer(401, failure=f"no credentials: {error}")
        except NOTHING_SENT as error:
            return APIAnswer(0, failure=_words(error, deadline), sent=False)
        except FAILURES as error:
            return APIAnswer(0, failure=_words(error, deadline))


def _read(response: httpx2.Response, end: float) -> bytes | None:
    """Return the body; None if it is too large, or not there in time."""
    data = bytearray()
    for piece in response.iter_raw():
        data += piece
        if len(data) > MAX_BODY or time.monotonic() > end:
            return None
    return bytes(data)


def _lines(response: httpx2.Response) -> Iterator[bytes]:
    rest = bytearray()
    for piece in response.iter_raw():
        rest += piece
        *lines, last = rest.split(b"\n")
        yield from (bytes(line) for line in lines if line)
        rest = bytearray(last)
        if len(rest) > MAX_LINE:
            raise ConnectionError("an event of the watch has no end")


def _words(error: Exception, deadline: Deadline | None = None) -> str:
    if deadline is not None and deadline.is_cancelled:
        return "the request was cancelled before the API server answered"
    return f"{type(error).__name__}: {error}".rstrip(": ")
