"""A program with little memory left: ``python -m tests.processes.crashes.short_of_memory SHARED``.

Prints what became of its calls. SHARED is the pool's `shared_memory`.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from dragonfly_executor import DragonflyExecutor, LocalBackend
from tests.support import payloads
from tests.support.patience import PATIENCE

LEFT = 64 << 20
"""Bytes that this process can still have."""
TOO_MUCH = 160 << 20
"""Bytes of a result that this process cannot hold at all."""
TWICE_TOO_MUCH = 40 << 20
"""Bytes of a result that fits, and whose value beside it does not."""


def outcome(get: Callable[[], Future[Any]]) -> dict[str, Any]:
    """What became of a call, as JSON."""
    try:
        error = get().exception(PATIENCE)
    except Exception as raised:
        error = raised
    if error is None:
        return {"type": "fine"}
    cause = type(error.__cause__).__name__
    return {"type": type(error).__name__, "text": str(error), "cause": cause, "size": getattr(error, "size", None)}


def main() -> None:
    told: dict[str, Any] = {}
    with DragonflyExecutor(2, backend=LocalBackend(shared_memory=sys.argv[1])) as executor:
        for future in [executor.submit(payloads.nap, 0.2) for _ in range(2)]:
            future.result(PATIENCE)  # both slots are there
        running = executor.submit(payloads.nap, 1.0)
        waiting = [executor.submit(payloads.echo, n) for n in range(5)]
        payloads.limit_memory(LEFT)
        told["too much"] = [outcome(lambda: executor.submit(bytes, TOO_MUCH)) for _ in range(2)]
        both = [executor.submit(bytes, TOO_MUCH) for _ in range(2)]
        told["two at once"] = [outcome(lambda future=future: future) for future in both]
        told["raised"] = outcome(lambda: executor.submit(payloads.fail_at_length, TOO_MUCH))
        told["not unpickled"] = outcome(lambda: executor.submit(bytes, TWICE_TOO_MUCH))
        told["out of band"] = outcome(lambda: executor.submit(payloads.OutOfBand, TOO_MUCH))
        told["argument"] = outcome(lambda: executor.pool.submit(len, payloads.LargePickle(TOO_MUCH)))
        told["copied argument"] = outcome(lambda: executor.pool.submit(len, payloads.OutOfBand(TWICE_TOO_MUCH)))
        told["small"] = outcome(lambda: executor.submit(payloads.echo, 1))
        told["large"] = len(executor.submit(bytes, 1 << 20).result(PATIENCE))
        told["neighbours"] = [outcome(lambda future=future: future) for future in [running, *waiting]]
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        told["memory is back"] = len(executor.submit(bytes, TOO_MUCH).result(PATIENCE))
        told["boots"] = executor.pool.stats().boots_attempted
    print(json.dumps(told))


if __name__ == "__main__":
    main()
