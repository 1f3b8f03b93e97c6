"""The requests of the page, and the checks of who may send them.

A request needs the token of the server as the first part of its path. A web page of another site knows no token. It
could still have the browser connect here under its own name (DNS rebinding), so the name in the Host header must be one
of this machine's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from hmac import compare_digest
from pathlib import Path
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dragonfly_executor.dashboard.source import PoolSource

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""The names that a browser on this machine, or at the other end of an SSH tunnel, may use. The port may be any."""
REFUSAL = "The address is not complete: it must begin with the token that the program has shown."
MAX_BODY = 4096
"""Maximum number of bytes of a request's body."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "tables.js": ("tables.js", "text/javascript"),
    "timeline.js": ("timeline.js", "text/javascript"),
    "text.js": ("text.js", "text/javascript"),
    "call.js": ("call.js", "text/javascript"),
}
"""File and media type by path."""
ROWS = ("runners", "calls")
"""The long parts of a report, which the page gets for the pool that it shows."""


def make_app(source: PoolSource, token: str, *, read_only: bool) -> App:
    """Return the ASGI application.

    Args:
        source: the pools.
        token: what a path must begin with.
        read_only: whether calls cannot be killed, and pools not be resized.
    """
    requests = _Requests(source, read_only=read_only)
    routes = [Route(f"/{path}", _file(*found)) for path, found in FILES.items()]
    routes += [Route("/api/state", requests.state), Route("/api/call", requests.call)]
    routes += [Route(f"/api/{ask}", requests.change, methods=["POST"]) for ask in CHANGES]
    return _guarded(Starlette(routes=routes), token.encode())


def _guarded(app: App, token: bytes) -> App:
    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on requests that may be answered, without the token."""
        headers = dict(scope.get("headers", ()))
        first, slash, rest = scope.get("path", "").lstrip("/").partition("/")
        # The token is compared whatever the host is, so that no request takes less time than others.
        may_pass = compare_digest(first.encode(), token) & _is_here(headers.get(b"host", b""))
        if scope["type"] != "http":
            return
        if not may_pass:
            await _refused(REFUSAL)(scope, receive, send)
        elif scope["method"] == "POST" and not _is_from_page(headers):
            await _refused("Only the page itself may send this.")(scope, receive, send)
        elif not slash:
            # The page names its files relative to this path.
            location = {**HEADERS, "Location": f"/{first}/"}
            await Response(status_code=307, headers=location)(scope, receive, send)
        else:
            path = f"/{rest}"
            await app({**scope, "path": path, "raw_path": path.encode(), "root_path": ""}, receive, send)

    return guard


def _is_here(host: bytes) -> bool:
    name, colon, port = host.decode("latin-1").rpartition(":")
    return (name if colon and port.isdigit() else host.decode("latin-1")) in HOSTS


def _is_from_page(headers: Mapping[bytes, bytes]) -> bool:
    """Return True unless the browser says that a page of another origin sends the request."""
    origin, host = headers.get(b"origin"), headers.get(b"host", b"")
    is_same = headers.get(b"sec-fetch-site", b"same-origin") == b"same-origin"
    return is_same and origin in (None, b"http://" + host) and headers.get(b"content-type") == b"application/json"


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        """Return the file."""
        return Response((PAGE / name).read_bytes(), media_type=media_type, headers=HEADERS)

    return answer


def _refused(text: str) -> Response:
    # Without the close, a client without the token could begin a second request and keep the connection:
    # uvicorn has no time limit there.
    return Response(text, 403, media_type="text/plain", headers={**HEADERS, "Connection": "close"})


def _json(answer: object, status: int = 200) -> Response:
    # Not `JSONResponse`, which refuses infinite numbers: a price may be one.
    return Response(json.dumps(answer), status, media_type="application/json", headers=HEADERS)


def _bounds(body: Mapping[str, Any]) -> dict[str, object]:
    return {"ask": "resize", "min": body.get("min"), "max": body.get("max")}


CHANGES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, object]]] = {
    "kill": lambda body: {"ask": "kill", "call": body.get("call")},
    "resize": _bounds,
}
"""The requests that change a pool, each with what the pool is asked for."""


class _Requests:
    """The handlers of requests for data."""

    def __init__(self, source: PoolSource, *, read_only: bool) -> None:
        self._source = source
        self._read_only = read_only

    async def state(self, request: Request) -> Response:
        """Return all pools in short, and one of them with its rows and its history."""
        reports, silent = await self._source.reports()
        chosen = request.query_params.get("pool", "")
        if chosen not in reports:
            chosen = next(iter(reports), "")
        short = [{"key": key, **_without_rows(report)} for key, report in reports.items()]
        state = {"pools": short, "silent": silent, "read_only": self._read_only, "chosen": chosen}
        if chosen:
            after = {name: _number(request, name) for name in ("calls_after", "tick_after")}
            if request.query_params.get("pool") != chosen:
                after = dict.fromkeys(after, 0)
            history = await self._source.ask(chosen, {"ask": "history", **after})
            state |= {"report": reports[chosen], "history": history}
        return _json(state)

    async def call(self, request: Request) -> Response:
        """Return what is known of a call."""
        ask = {"ask": "call", "call": _number(request, "call")}
        return self._answered(await self._source.ask(request.query_params.get("pool", ""), ask))

    async def change(self, request: Request) -> Response:
        """Kill a call, or resize a pool."""
        if self._read_only:
            return _json({"error": "this page is read-only"}, 403)
        body = await _body(request)
        if body is None:
            return _json({"error": "the request is no JSON object, or too long"}, 400)
        ask = CHANGES[request.url.path.rpartition("/")[2]](body)
        return self._answered(await self._source.ask(str(body.get("pool", "")), ask))

    @staticmethod
    def _answered(answer: Mapping[str, Any]) -> Response:
        return _json(answer, 400 if "error" in answer else 200)


async def _body(request: Request) -> dict[str, Any] | None:
    """Return the body, a JSON object; None if the body is no JSON object, too long, or was cut off."""
    received = b""
    try:
        async for piece in request.stream():
            received += piece
            if len(received) > MAX_BODY:
                return None
        body = json.loads(received)
    except (ClientDisconnect, ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _without_rows(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in ROWS}


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
