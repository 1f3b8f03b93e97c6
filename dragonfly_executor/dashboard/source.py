"""The pools that a page shows, as the server asks them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Answer: TypeAlias = Mapping[str, Any]

TIMEOUT = 2.0
"""Seconds to wait for the answer of a pool."""
ENDED = "the pool has ended"


class PoolSource(Protocol):
    """The pools that a page shows. Only the thread of the server uses it."""

    async def reports(self) -> tuple[dict[str, Answer], list[str]]:
        """Return the status of each pool by its key, and for each pool that does not answer, why."""
        ...

    async def ask(self, key: str, request: Mapping[str, object]) -> Answer:
        """Return the answer of the pool with this key. A request that is refused has an answer with ``error``."""
        ...

    def close(self) -> None:
        """Answer all requests that wait for an answer with an error, from now on. The server ends."""


class OnePool:
    """A pool of this process.

    Args:
        answer: returns the answer to a request, on the pool's own thread.
        call_soon: has a function called on that thread. Any thread may call it.
    """

    KEY = "0"

    def __init__(
        self, answer: Callable[[Mapping[str, Any]], Answer], call_soon: Callable[[Callable[[], object]], object]
    ) -> None:
        self._answer = answer
        self._call_soon = call_soon
        self._waiting: set[asyncio.Future[Answer]] = set()
        self._has_ended = False

    async def reports(self) -> tuple[dict[str, Answer], list[str]]:
        """Return the status of the pool."""
        report = await self.ask(self.KEY, {"ask": "status"})
        error = report.get("error")
        return ({self.KEY: report}, []) if error is None else ({}, [str(error)])

    async def ask(self, key: str, request: Mapping[str, object]) -> Answer:
        """Ask the pool on its thread."""
        if key != self.KEY:
            return {"error": f"there is no pool {key!r} here"}
        if self._has_ended:
            return {"error": ENDED}
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def answer_it() -> None:
            """Compute the answer, on the pool's thread."""
            try:
                answer = self._answer(request)
            except Exception as error:  # the pool must go on, whatever the page sends
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                loop.call_soon_threadsafe(_give, future, answer)
            except RuntimeError:
                return  # the server has ended meanwhile

        self._waiting.add(future)
        try:
            self._call_soon(answer_it)
            async with asyncio.timeout(TIMEOUT):
                return await future
        except TimeoutError:
            return {"error": f"the pool has not answered for {TIMEOUT:g} s"}
        finally:
            self._waiting.discard(future)

    def close(self) -> None:
        """Answer all requests with an error from now on."""
        self._has_ended = True
        for future in self._waiting:
            _give(future, {"error": ENDED})


def _give(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
