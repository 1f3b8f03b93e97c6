"""A one-time event that threads wait for."""

from __future__ import annotations

from _queue import Empty, SimpleQueue  # the same classes: `queue` takes longer to import


class Latch:
    """A latch that opens once. It has no lock, because an interrupt may stop a thread in it between any two steps."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: dict[int, SimpleQueue[None]] = {}

    def open(self) -> None:
        """Let all threads pass that wait, now or later. Calling it twice is fine."""
        # The flag first: a thread that comes later adds itself to the line, and then checks the flag.
        self.is_open = True
        for waiter in list(self._waiting.values()):
            waiter.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the latch opens, at most `timeout` seconds. Returns whether it is open."""
        waiter: SimpleQueue[None] = SimpleQueue()
        try:
            self._waiting[id(waiter)] = waiter
            if not self.is_open:
                waiter.get(timeout=timeout)
        except Empty:
            return self.is_open
        finally:
            self._waiting.pop(id(waiter), None)
        return True
