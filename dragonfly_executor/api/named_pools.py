"""`call` and `cast`, which find a pool by its name, `pools`, and `configure`, which sets the backend of later pools."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.api.pool import Pool, registry, wait_linked
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from dragonfly_executor.api.registry import Configured
    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.util.validation import Seconds

    T = TypeVar("T")


def call(pool: Pool | str, func: Callable[[], T], *, timeout: Seconds | None = None, link: bool = True) -> T:
    """Run a zero-argument callable on a runner of a pool and return its value.

    In a task of an asyncio event loop it blocks the loop, and the pool warns of that once: use `Pool.acall`.

    Args:
        pool: the pool, or its name.
        func: a closure; its captured variables are sent with it.
        timeout: time limit in seconds for waiting and running together; None for the pool's own.
        link: if the wait is interrupted (Ctrl-C, an exception raised into this thread), stop the remote work too. False
            lets it finish, within the pool's ``shutdown_timeout`` if the pool is shut down.

    Raises:
        KeyError: no pool has this name.
        CallTimeoutError: the time limit has passed; the work has been stopped.
        BudgetExceeded: the pool's ``budget`` is used up; the call was not started.
        Exception: the exception of `func`.
    """
    found = registry.find(pool) if isinstance(pool, str) else pool
    options = found.call_options if timeout is None else found.call_options.change({"timeout": timeout})
    found.check_blocks_no_loop()
    future = found.submit_with(options, func, (), {})
    if not link:
        found.unlink(future)
    return wait_linked(future, link=link)


def cast(pool: Pool | str, func: Callable[[], object]) -> None:
    """Run `func`, a zero-argument callable, on a runner of a pool without a time limit. Drop its result or error.

    Raises:
        KeyError: no pool has this name.
    """
    (registry.find(pool) if isinstance(pool, str) else pool).cast(func)


def pools() -> list[Pool]:
    """Return all pools of this process that have not ended, the oldest first.

    The pools of executors are among them. After a fork, the child has none: they belong to the parent.
    """
    return registry.live_pools()


def configure(*, backend: Backend | Sequence[Backend]) -> Configured:
    """Set the backend, or several in order of preference, of pools that are made without one from now on.

    In ``with configure(backend=...):``, those from before are set again at the end of the block. Pools that were made
    in the block keep their backends.

    Raises:
        TypeError: this is not a backend.
        ValueError: the list is empty, or has a backend twice.
    """
    return registry.configure(backend=backend)
