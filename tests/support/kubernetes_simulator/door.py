"""Between HTTP and the API server: who asks, what goes wrong on the way, and what is noted of it."""

from __future__ import annotations

import asyncio
import json
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.support.kubernetes_simulator import statuses
from tests.support.kubernetes_simulator.accounts import Account
from tests.support.kubernetes_simulator.api import ApiRequest, ApiServer
from tests.support.kubernetes_simulator.faults import ServerFault, ServerFaults
from tests.support.kubernetes_simulator.statuses import StatusError

VERBS = {"POST": "create", "GET": "get", "DELETE": "delete", "PUT": "update", "PATCH": "patch"}
COLLECTION = "/api/v1/namespaces/{namespace}/{resource}"
ROUTES = (
    COLLECTION,
    COLLECTION + "/{name}",
    "/apis/authorization.k8s.io/v1/{resource}",
    "/{rest:path}",
)


class Asked(NamedTuple):
    """A request, and what was answered; status None if its sender got no answer.

    Attributes:
        raw: the URL and the body, for tests that look for secrets.
    """

    action: str
    name: str
    raw: str
    status: int | None


class ApiDoor:
    """Answers requests.

    Args:
        api: the API server.
        faults: what goes wrong.
        tokens: by token, whose it is.
        changed: called when a request has been answered.

    Attributes:
        asked: all requests.
        troubles: tracebacks of this simulator's own failures; a test that ends with some fails.
        is_away: whether every connection is cut at once, as from a server that restarts.
    """

    def __init__(
        self, api: ApiServer, faults: ServerFaults, tokens: dict[str, Account], changed: Callable[[], None]
    ) -> None:
        self._api = api
        self._faults = faults
        self._tokens = tokens
        self._changed = changed
        self._tasks: set[asyncio.Task[Any]] = set()
        self.asked: list[Asked] = []
        self.troubles: list[str] = []
        self.is_away = False

    async def close(self) -> None:
        """Give up on requests that are still held."""
        tasks = [task for task in self._tasks if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answer(self, request: Request) -> Response:
        """From arrival to answer. Never raises."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await self._answer(request)
        except (asyncio.CancelledError, ClientDisconnect):
            return CutAnswer(hang=False)
        except Exception:
            self.troubles.append(traceback.format_exc())
            return CutAnswer(hang=False)
        finally:
            self._tasks.discard(task)

    async def _answer(self, request: Request) -> Response:
        raw = await request.body()
        try:
            asked = self._parse(request, raw)
        except StatusError as error:
            self._note(request.method, "", request, raw, error.code)
            return json_answer(error)
        fault = self._faults.take(asked.action)
        if self.is_away:
            fault = ServerFault(commit=False, cut=True)
        if fault.before is not None:
            await _aside(fault.before, asked.action)
        answer = self._carry_out(asked) if fault.commit else None
        if fault.after is not None:
            await _aside(fault.after, asked.action)
        if fault.hang or fault.cut:
            self._note(asked.action, asked.name, request, raw, None)
            return CutAnswer(hang=fault.hang)
        if fault.garbage is not None:
            answer = Response(fault.garbage, 200, media_type="application/json")
        if fault.reply is not None:
            answer = json_answer(fault.reply)
        assert answer is not None
        self._note(asked.action, asked.name, request, raw, answer.status_code)
        return answer

    def _note(self, action: str, name: str, request: Request, raw: bytes, status: int | None) -> None:
        self.asked.append(Asked(action, name, f"{request.url}\n{raw.decode(errors='replace')}", status))
        self._changed()

    def _parse(self, request: Request, raw: bytes) -> ApiRequest:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        account = self._tokens.get(token) if scheme == "Bearer" else None
        if account is None:
            raise statuses.unauthorized()
        parts = request.path_params
        if "resource" not in parts:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        verb = VERBS.get(request.method, "")
        query = dict(request.query_params)
        if verb == "get" and "name" not in parts:
            verb = "watch" if query.get("watch") in ("1", "true") else "list"
        if raw and request.headers.get("content-type") != "application/json":
            raise StatusError(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            raise statuses.bad_request(f"invalid character: {error}") from None
        return ApiRequest(
            verb, parts["resource"], parts.get("namespace", ""), parts.get("name", ""), query, body, account
        )

    def _carry_out(self, asked: ApiRequest) -> Response:
        try:
            if asked.verb == "watch":
                return StreamingResponse(self._guarded(self._api.watch(asked)), media_type="application/json")
            status, body = self._api.answer(asked)
        except StatusError as error:
            return json_answer(error)
        return Response(json.dumps(body), status, media_type="application/json")

    async def _guarded(self, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async for line in lines:
                yield line
        except asyncio.CancelledError:
            return
        except Exception:
            self.troubles.append(traceback.format_exc())
        finally:
            self._tasks.discard(task)


def json_answer(error: StatusError) -> Response:
    """The answer of an error."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return Response(json.dumps(error.body()), error.code, headers, "application/json")


class CutAnswer(Response):
    """No answer: the connection is cut, or stays until the client ends it."""

    def __init__(self, *, hang: bool) -> None:
        self._hangs = hang
        super().__init__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["extensions"]["kubernetes.transport"]["get"]()
        if not self._hangs and transport is not None:
            transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


async def _aside(hook: Callable[[str], object], action: str) -> None:
    """Call a test's hook in a thread of its own: it may wait for what happens here."""
    thread_ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def run() -> None:
        try:
            hook(action)
        finally:
            loop.call_soon_threadsafe(thread_ended.set)

    thread = threading.Thread(target=run, name="kubernetes-simulator-hook")
    thread.start()
    try:
        await thread_ended.wait()
    finally:
        thread.join()


def routes(door: Callable[[], ApiDoor], transport: Callable[[tuple[str, int]], Any]) -> list[Route]:
    """The endpoints. `door` is asked for each request: a reset puts up another one."""

    async def answer(request: Request) -> Response:
        peer = tuple(request.scope["client"])
        request.scope.setdefault("extensions", {})["kubernetes.transport"] = {"get": lambda: transport(peer)}
        return await door().answer(request)

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [Route(path, answer, methods=methods) for path in ROUTES]
