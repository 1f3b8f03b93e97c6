"""A web application on Fly.io that transcodes uploads on machines of its own.

    curl --data-binary @clip.mp4 https://APP.fly.dev/transcode --output clip.480p.mp4
    curl https://APP.fly.dev/stats

It runs on one small machine. With the first upload, the pool creates a large machine from the same image, which does
the work. The pool destroys it after a minute without uploads. Outside of Fly, runners are processes of this machine.
The guide is docs/fly.md.

It has no authentication: everyone who knows its address may upload, and see /stats.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import uvicorn
from jobs import describe_place, transcode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dragonfly_executor import (
    BootError,
    Budget,
    BudgetExceeded,
    FlyBackend,
    LocalBackend,
    Parent,
    Pool,
    RunnerLostError,
)

GRACE = 240
"""Seconds that requests have to finish in a deploy. kill_timeout in fly.toml is a minute more, to destroy machines."""
MAX_UPLOAD = 64 * 2**20
"""Bytes. An upload and its result are in this machine's memory, which is small."""


def make_pool() -> Pool:
    """Make the backend. Nothing else in this application knows of machines."""
    return Pool(
        "media",
        min=0,
        max=10,
        max_concurrency=2,
        timeout=600,
        boot_timeout=120,
        idle_shutdown_after=60,
        # A pool that by mistake never ends costs at most this much. Usage counts until the next deploy.
        budget=Budget(machine_time=timedelta(hours=100)),
        backend=FlyBackend(cpus=4, memory_mb=8192) if "FLY_APP_NAME" in os.environ else LocalBackend(),
    )


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Pool]]:
    """Keep the pool while the application lives."""
    pool = make_pool()
    try:
        yield {"pool": pool}
    finally:
        # SIGTERM has arrived: a deploy. Requests are answered by now, or were cancelled after GRACE together with their
        # calls. The shutdown waits for calls without a waiting request (`pool.cast`). When it returns, all machines are
        # destroyed.
        await asyncio.to_thread(pool.shutdown)


async def upload(request: Request) -> bytes:
    """Return the request's body, if it is not too large."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_UPLOAD:
            raise HTTPException(413, f"more than {MAX_UPLOAD} bytes")
    return bytes(body)


async def transcode_upload(request: Request) -> Response:
    """Take an upload, and answer when it is done."""
    future = request.state.pool.submit(transcode, await upload(request))
    try:
        return Response(await asyncio.wrap_future(future), media_type="video/mp4")
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=422)
    except (BootError, BudgetExceeded, RunnerLostError, TimeoutError) as error:
        return JSONResponse({"error": str(error)}, status_code=503)


async def where(request: Request) -> JSONResponse:
    """Return the machine that serves, and one that runs a call."""
    runner = await asyncio.wrap_future(request.state.pool.submit(describe_place))
    return JSONResponse({"server": describe_place(), "runner": runner})


async def stats(request: Request) -> JSONResponse:
    """Return the state of the pool, and its cost."""
    return JSONResponse(dataclasses.asdict(request.state.pool.stats()))


ROUTES = [Route("/transcode", transcode_upload, methods=["POST"]), Route("/where", where), Route("/stats", stats)]


def main() -> None:
    """Serve until SIGTERM."""
    if Parent.get():
        return  # this is a runner, which has the same image and must not serve
    port = int(os.environ.get("PORT", "8080"))
    host = os.environ.get("HOST", "0.0.0.0")  # noqa: S104  # on a Fly machine, only Fly's proxy reaches this
    uvicorn.run(Starlette(routes=ROUTES, lifespan=lifespan), host=host, port=port, timeout_graceful_shutdown=GRACE)


if __name__ == "__main__":
    main()
