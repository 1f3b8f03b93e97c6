"""A web application that does its heavy work on a named pool.

    python examples/web_app.py [--port 8000]        or        uvicorn --app-dir examples web_app:app

    curl localhost:8000/primes/200000
    curl localhost:8000/where
    curl localhost:8000/stats

Runners import this module to find its functions. On a runner, `Parent.get()` returns the parent; then this module does
not build the web application.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dragonfly_executor import CallTimeoutError, Parent, Pool, call

POOL = "numbers"


def count_primes(below: int) -> int:
    """Count the primes below a number. Runs on a runner."""
    sieve = bytearray([1]) * below
    sieve[:2] = bytes(len(sieve[:2]))
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return sum(sieve)


def describe_place() -> dict[str, Any]:
    """Return where this call runs, and whether the web application was built there."""
    parent = Parent.get()
    return {
        "pid": os.getpid(),
        "runner": parent.runner_id if parent else None,
        "pool": parent.pool if parent else None,
        "serves": app is not None,
    }


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Keep the pool while the application lives. Runners boot when a request needs one."""
    async with Pool(POOL, min=0, max=2, max_concurrency=2, timeout=20, idle_shutdown_after=10) as pool:
        yield {"pool": pool}


async def primes(request: Request) -> JSONResponse:
    """Await a call in an asynchronous endpoint."""
    below = request.path_params["below"]
    try:
        found = await request.state.pool.acall(count_primes, below)
    except CallTimeoutError as error:
        return JSONResponse({"error": str(error)}, status_code=503)
    return JSONResponse({"below": below, "primes": found})


def where(request: Request) -> JSONResponse:
    """Serve without async: this runs in a thread, finds the pool by name, and waits for a closure's value."""
    asked_for = request.url.path
    on_runner = call(POOL, lambda: {**describe_place(), "asked_for": asked_for})
    return JSONResponse({"server": describe_place(), "runner": on_runner})


async def stats(request: Request) -> JSONResponse:
    """Return the state of the pool."""
    return JSONResponse(dataclasses.asdict(request.state.pool.stats()))


def build() -> Starlette:
    """Make the web application."""
    routes = [Route("/primes/{below:int}", primes), Route("/where", where), Route("/stats", stats)]
    return Starlette(routes=routes, lifespan=lifespan)


app = None if Parent.get() else build()


def main() -> None:
    """Serve until interrupted."""
    import uvicorn

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: 8000)")
    options = parser.parse_args()
    if app is not None:
        uvicorn.run(app, port=options.port)


if __name__ == "__main__":
    main()
