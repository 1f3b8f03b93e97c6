"""`SlotLoop`: the asyncio event loop in which a slot runs the coroutines of its calls."""

from __future__ import annotations

import atexit
from contextvars import copy_context

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import Runner
    from types import CoroutineType
    from typing import Any


class SlotLoop:
    """The event loop of a slot. It is made for the first coroutine, and closed when the slot ends.

    It runs only while a call runs. So clients and connection pools that calls keep in it live from call to call.
    """

    def __init__(self) -> None:
        self._runner: Runner | None = None

    def run(self, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, and return its value. Changes of context variables end with it."""
        runner = self._runner
        if runner is None or runner.get_loop().is_closed():
            # Imported for the first coroutine: few calls need asyncio, and it is slow to import.
            from asyncio import Runner

            runner = self._runner = Runner()
            atexit.register(runner.close)
        return runner.run(coroutine, context=copy_context())
