"""The watches of clients: each gets the events after a version, and bookmarks in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from tests.support.kubernetes_simulator.statuses import StatusError, expired
from tests.support.kubernetes_simulator.store import Store, StoredEvent


class WatchHub:
    """All watches.

    Args:
        store: the objects.
        changed: called when a watch begins, and when it ends.

    Attributes:
        bookmark_every: seconds between two bookmarks.
        longest: seconds after which a watch ends at the latest, whatever its client asks for.
        open: how many watches there are.
    """

    def __init__(self, store: Store, changed: Callable[[], object]) -> None:
        self._store = store
        self._tell = changed
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self.bookmark_every = 60.0
        self.longest = 3600.0
        self.open = 0
        store.listeners.append(lambda _: self._changed.set())

    def end_all(self) -> None:
        """End every watch in order, as a server does that restarts."""
        self._ended.set()
        self._ended = asyncio.Event()

    async def events(
        self, version: int, seconds: float, *, bookmarks: bool
    ) -> AsyncIterator[StoredEvent | StatusError | int]:
        """Events after a version, versions for bookmarks, or the error that ends the watch."""
        loop, ended = asyncio.get_running_loop(), self._ended
        end = loop.time() + min(seconds, self.longest)
        bookmark = loop.time() + self.bookmark_every
        self.open += 1
        self._tell()
        try:
            while not ended.is_set():
                if version < self._store.floor:
                    yield expired(version, self._store.floor)
                    return
                for event in [one for one in self._store.events if one.version > version]:
                    version = event.version
                    yield event
                now = loop.time()
                if bookmarks and now >= bookmark:
                    bookmark = now + self.bookmark_every
                    yield self._store.version
                if now >= end:
                    return
                # Others may have taken the wake-up while an event was on its way.
                if not self._store.events or self._store.events[-1].version <= version:
                    await self._wait(min(end, bookmark) - now, ended)
        finally:
            self.open -= 1
            self._tell()

    async def _wait(self, seconds: float, ended: asyncio.Event) -> None:
        changed = self._changed
        if changed.is_set():
            changed = self._changed = asyncio.Event()
            # What has changed meanwhile is looked at first.
            return
        waits = [asyncio.ensure_future(one.wait()) for one in (changed, ended)]
        try:
            await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
