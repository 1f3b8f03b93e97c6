"""Between HTTP and the API: who may ask, how often, what goes wrong on the way, and what is noted of it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.support.fly_simulator import errors
from tests.support.fly_simulator.api import Api
from tests.support.fly_simulator.calls import Call, Reply
from tests.support.fly_simulator.faults import Fault, Faults, http_date
from tests.support.fly_simulator.history import History
from tests.support.fly_simulator.openapi import OpenApi
from tests.support.fly_simulator.state import World
from tests.support.fly_simulator.timing import Rates

APPS = "/v1/apps/{app_name}"
MACHINE = APPS + "/machines/{machine_id}"
ENDPOINTS = (
    ("POST", APPS + "/machines", "create"),
    ("GET", APPS + "/machines", "list"),
    ("GET", MACHINE, "get"),
    ("DELETE", MACHINE, "destroy"),
    ("GET", MACHINE + "/wait", "wait"),
    ("POST", MACHINE + "/start", "start"),
    ("POST", MACHINE + "/stop", "stop"),
    ("POST", MACHINE + "/signal", "signal"),
    ("GET", MACHINE + "/events", "events"),
    *((method, MACHINE + "/metadata", "metadata") for method in ("GET", "PUT", "PATCH")),
    *((method, MACHINE + "/metadata/{key}", "metadata_key") for method in ("GET", "POST", "DELETE")),
    *((method, MACHINE + "/lease", "lease") for method in ("GET", "POST", "DELETE")),
    ("GET", APPS, "app"),
    ("GET", "/v1/orgs/{org_slug}/machines", "org_list"),
    ("GET", "/v1/platform/regions", "regions"),
    ("POST", "/v1/platform/placements", "placements"),
)
SCHEMES = ("bearer", "flyv1")


class Connections(Protocol):
    """Where the handler finds the connection that a request came on."""

    def transport(self, peer: tuple[str, int]) -> asyncio.Transport | None:
        """The connection from there."""


class RequestHandler:
    """Answers requests, one at a time or many.

    Args:
        tokens: the texts of the tokens that are valid, each with the apps that it is good for (None: all).

    Attributes:
        troubles: tracebacks of this simulator's own failures; a test that ends with some fails.
    """

    def __init__(
        self,
        world: World,
        api: Api,
        rates: Rates,
        faults: Faults,
        history: History,
        openapi: OpenApi,
        tokens: dict[str, frozenset[str] | None],
        connections: Connections,
    ) -> None:
        self._world = world
        self._api = api
        self._rates = rates
        self._faults = faults
        self._history = history
        self._openapi = openapi
        self._tokens = tokens
        self._connections = connections
        self._tasks: set[asyncio.Task[Any]] = set()
        self.troubles: list[str] = []

    async def close(self) -> None:
        """Give up on requests that are still held."""
        tasks = [task for task in self._tasks if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- one request ---------------------------------------------------------------------------------------------------

    async def answer(self, request: Request, action: str, template: str) -> Answer:
        """From arrival to answer. Never raises."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            call = self._noted(request, await request.body(), action, template)
            fault = self._faults.take(call) or Fault()
            return await self._answer(call, fault, self._connections.transport(tuple(request.scope["client"])))
        except (asyncio.CancelledError, ClientDisconnect):
            # `close` cancels, and a client cuts the request of a boot that is given up.
            return Answer(None, Fault(cut=True), self._connections.transport(tuple(request.scope["client"])))
        except Exception:
            self.troubles.append(traceback.format_exc())
            return Answer(Reply(500, "the simulator failed"), Fault(), None)
        finally:
            self._tasks.discard(task)

    async def _answer(self, call: Call, fault: Fault, transport: asyncio.Transport | None) -> Answer:
        if fault.before is not None:
            await _aside(fault.before, call)
        await asyncio.sleep(fault.delay)
        reply = await self._carry_out(call) if fault.commit else Reply()
        if fault.after is not None:
            await _aside(fault.after, call)
        await asyncio.sleep(fault.late)
        if fault.reply is not None:
            body = fault.reply.body
            body = body.body(self._world.switches) if isinstance(body, errors.ErrorPage) else body
            reply = Reply(fault.reply.status, body, dict(fault.reply.headers))
        if fault.change is not None:
            reply.body = fault.change(reply.body)
        self._sign(call, reply)
        if not (fault.cut or fault.reset or fault.hang):
            self._history.answered(call, reply)
        return Answer(reply, fault, transport)

    def _noted(self, request: Request, raw: bytes, action: str, template: str) -> Call:
        parameters = dict(request.path_params)
        if "org_slug" in parameters:
            parameters["slug"] = parameters["org_slug"]
        headers = dict(request.headers)
        call = Call(
            len(self._history.calls) + 1, action, request.method, request.url.path, template,
            parameters.get("app_name", ""), parameters.get("machine_id", ""), parameters,
            request.query_params.multi_items(), headers, raw, self._world.now(),
            authorization=headers.pop("authorization", ""),
        )  # fmt: skip
        if raw:
            try:
                call.body = json.loads(raw)
            except ValueError:
                call.malformed = True
        self._history.came(call)
        if action:
            self._openapi.check_request(call)
        return call

    async def _carry_out(self, call: Call) -> Reply:
        try:
            self._admit(call)
            if not call.action:
                raise errors.ApiError(404, "not_found: no such endpoint")
            reply = await self._api.handle(call)
        except errors.ApiError as error:
            return Reply(error.status, error.body, dict(error.headers))
        self._openapi.check_reply(call, reply)
        return reply

    def _admit(self, call: Call) -> None:
        """Whether its sender may ask that, and now."""
        allowed = [self._tokens[token] for token in tokens_in(call.authorization) if token in self._tokens]
        if not allowed:
            raise errors.unauthorized()
        if call.app and not any(apps is None or call.app in apps for apps in allowed):
            raise errors.forbidden(call.app)
        self._admit_rate(call)
        if call.malformed:
            raise errors.invalid("json: invalid character")

    def _admit_rate(self, call: Call) -> None:
        switches = self._world.switches
        if call.action == "wait" and not switches.wait_takes_from_rate:
            return
        now = self._world.now()
        seconds = self._rates.take(call.action, call.app, call.machine, now)
        if seconds:
            form = switches.retry_after
            at = {"seconds": str(max(1, round(seconds))), "date": http_date(now + max(1.0, seconds))}
            raise errors.rate_limited({"Retry-After": at[form]} if form else None, plain=switches.rate_body_is_plain)

    def _sign(self, call: Call, reply: Reply) -> None:
        """What every answer carries (reference 1.1)."""
        reply.headers |= {
            "fly-request-id": f"{self._world.ulid()}-{self._api.default_region}",
            "server": "Fly/1a2b3c4d (2026-08-20)",
            "via": "1.1 fly.io",
        }
        if call.app:
            reply.headers["set-cookie"] = f"fly_flaps_affinity=node-1; Path=/v1/apps/{call.app}; HttpOnly"


class Answer(Response):
    """An answer as it goes out, or does not."""

    def __init__(self, reply: Reply | None, fault: Fault, transport: asyncio.Transport | None) -> None:
        self._fault = fault
        self._transport = transport
        reply = reply or Reply()
        body, media_type = reply.encoded()
        super().__init__(body, reply.status, reply.headers, media_type or None)
        if reply.status == 204:
            self.body = b""
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault
        if fault.hang:
            await _until_gone(receive)
        elif fault.cut or fault.reset:
            await self._cut(receive, reset=fault.reset)
        elif fault.truncate is not None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            part = bytes(self.body)[: fault.truncate]
            await send({"type": "http.response.body", "body": part, "more_body": True})
            # What was written is on its way once the loop has come round.
            await asyncio.sleep(0)
            await self._cut(receive, reset=False)
        else:
            await super().__call__(scope, receive, send)
            if fault.cut_after and self._transport is not None:
                self._transport.close()

    async def _cut(self, receive: Receive, *, reset: bool) -> None:
        if self._transport is None:
            return
        if reset:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        await _until_gone(receive)


async def _until_gone(receive: Receive) -> None:
    """Wait until the client has ended the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _aside(hook: Callable[[Call], object], call: Call) -> None:
    """Call a test's hook in a thread of its own: it may wait for what happens here."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            hook(call)
        except BaseException as raised:
            error = raised
        loop.call_soon_threadsafe(settle, error)

    thread = threading.Thread(target=run, name=f"fly-simulator-hook-{call.number}")
    thread.start()
    try:
        await done
    finally:
        thread.join()


def tokens_in(authorization: str) -> list[str]:
    """The tokens of an Authorization header: `Bearer` and `FlyV1` may stand before them in any order (S)."""
    words = authorization.split()
    if not words or words[0].lower() not in SCHEMES:
        return []
    while words and words[0].lower() in SCHEMES:
        words.pop(0)
    return [token.strip() for token in "".join(words).split(",")]


def routes(handler: Callable[[], RequestHandler]) -> list[Route]:
    """The endpoints, and what is none. `handler` is asked for each request: a reset puts up another one."""

    def endpoint(action: str, template: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Answer:
            return await handler().answer(request, action, template)

        return answer

    known = [Route(path, endpoint(action, path), methods=[method]) for method, path, action in ENDPOINTS]
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [*known, Route("/{rest:path}", endpoint("", ""), methods=methods)]
