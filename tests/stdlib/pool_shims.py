"""Stand-ins for what some upstream tests look at inside a `multiprocessing.Pool`, so that they can look at ours."""

from __future__ import annotations

import multiprocessing.pool
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from dragonfly_executor.errors import RemoteTraceback


class Workers:
    """The worker processes of a pool, as ``_pool`` shows the other class's."""

    def __init__(self, pool: Any) -> None:
        self._shimmed = pool

    def __len__(self) -> int:
        """How many calls may run at once: slots are forked when calls come."""
        return int(self._shimmed._runner_pool.max_calls)

    def __iter__(self) -> Iterator[SimpleNamespace]:
        """Yield one worker: the slot that runs a call now."""
        yield SimpleNamespace(pid=self._shimmed.apply(os.getpid), is_alive=lambda: True)


def shim(kind: Any) -> Any:
    """The class with the private attributes of the other class that tests of the public contract read."""
    multiprocessing.pool.RemoteTraceback = RemoteTraceback  # type: ignore[attr-defined, unused-ignore]

    class ShimmedPool(kind):  # type: ignore[misc, unused-ignore]
        _pool = property(Workers)

        def _repopulate_pool(self) -> None:
            """Do nothing: slots are replaced when calls come."""

    return ShimmedPool
