"""Something that happens once, and that threads wait for."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Latch:
    """Opens once. Without a lock: whoever waits, or opens it, may be interrupted between any two steps."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: dict[int, SimpleQueue[None]] = {}

    def open(self) -> None:
        """Let all through that wait, now and from now on. Twice is fine."""
        # First the flag: who comes from now on looks at it after having got in line.
        self.is_open = True
        for waiter in list(self._waiting.values()):
            waiter.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it opens, `timeout` seconds at most; whether it is open."""
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
