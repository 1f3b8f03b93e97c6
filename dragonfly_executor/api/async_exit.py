"""The end of an ``async with`` block of a pool: a thread waits, so that the event loop is not blocked."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class LeavablePool(Protocol):
    """A pool, as the end of its ``async with`` block uses it."""

    name: str

    def leave(self, *, interrupted: bool) -> None:
        """End a ``with`` block, and wait until nothing of the pool is left."""

    def kill(self) -> None:
        """Stop all calls and all runners now."""


async def leave_async(pool: LeavablePool, kind: type[BaseException] | None) -> None:
    """End an ``async with`` block as `Pool.leave` ends a ``with`` block.

    A cancelled task counts as interrupted. If the task is cancelled during the wait, everything is stopped, and the
    task still waits until nothing is left. If it is cancelled once more, it does not wait.

    Args:
        pool: the pool.
        kind: the type of the exception that has left the block; None if there is none.
    """
    if kind is not None and issubclass(kind, GeneratorExit):
        # The loop of the task has ended, so nothing can be awaited.
        pool.kill()
        return
    interrupted = kind is not None and issubclass(kind, (asyncio.CancelledError, KeyboardInterrupt))
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    thread = threading.Thread(
        target=lambda: _run(lambda: pool.leave(interrupted=interrupted), ended),
        name=f"dragonfly-{pool.name}-leave",
        daemon=True,
    )
    try:
        # Not a thread of the loop's executor: those may all be busy without end.
        thread.start()
        await asyncio.shield(ended)
    except GeneratorExit:
        pool.kill()
        raise
    except BaseException:
        if not ended.done():
            pool.kill()
            if thread.ident is not None:
                await ended
                thread.join()
        raise
    thread.join()  # it is at its last step


def _run(job: Callable[[], object], ended: asyncio.Future[None]) -> None:
    """Run `job` in a thread, and settle the future that a task awaits."""
    error: BaseException | None = None
    try:
        job()
    except BaseException as raised:
        error = raised
    with suppress(RuntimeError):  # the loop is closed
        ended.get_loop().call_soon_threadsafe(_settle, ended, error)


def _settle(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if ended.done():
        return  # the task does not wait any more
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
