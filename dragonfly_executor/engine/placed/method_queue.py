"""`MethodQueue`: the method calls of one placed worker, in order. Pure: no clock, thread, or frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class QueuedCall(Protocol):
    """A method call, as the queue uses it."""

    size: int
    """Bytes that travel for it."""
    has_arguments: bool
    """False if it waits for its arguments. No call overtakes such a call."""


C = TypeVar("C", bound=QueuedCall)
AHEAD_SECONDS = 0.002
"""Seconds of work that may wait in the slot: about the time in which an answer gets there and back."""
MOST_AHEAD = 128
"""Maximum number of calls that wait in the slot."""
MOST_BYTES = 16 * 1024 * 1024
"""Bytes of calls in the slot, from which on no other one is sent."""
WEIGHT = 0.25
"""Weight of the last call in the mean of the run times."""


class MethodQueue(Generic[C]):
    """The calls that wait in the parent, and the sent calls without an answer.

    The slot begins calls in the order in which they were sent, `concurrency` of them at once. It sends the answer of a
    call before it begins another one. So the calls that may have begun are the first `concurrency` that are not
    answered.

    A few calls are sent ahead, so that the slot need not wait for the next one: more of them, the shorter they are.

    Args:
        concurrency: number of calls that run at once.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._waiting: deque[C] = deque()
        self._sent: dict[int, C] = {}
        self._leaving: set[int] = set()
        self._bytes = 0
        self._count = 0
        self._mean: float | None = None

    def __len__(self) -> int:
        """Return the number of calls that are not answered."""
        return len(self._waiting) + len(self._sent)

    @property
    def ahead(self) -> int:
        """The number of calls that may be sent in addition to the running ones."""
        if self._mean is None:
            return 1
        return max(1, min(MOST_AHEAD, int(AHEAD_SECONDS * self._concurrency / max(self._mean, 1e-9))))

    def add(self, call: C) -> None:
        """Add a call behind all others."""
        self._waiting.append(call)

    def put_back(self, calls: Iterable[C]) -> None:
        """Add calls in front of all others, in their order: they were sent, and have not begun."""
        self._waiting.extendleft(reversed(list(calls)))

    def remove(self, call: C) -> bool:
        """Remove a call that was not sent. Returns False if it does not wait."""
        try:
            self._waiting.remove(call)
        except ValueError:
            return False
        return True

    def take_waiting(self) -> list[C]:
        """Remove and return all calls that were not sent."""
        calls = list(self._waiting)
        self._waiting.clear()
        return calls

    def next(self) -> C | None:
        """Return the call that is to be sent now, or None. It stays in front until `sent` or `remove`."""
        if not self._waiting or len(self._sent) >= self._concurrency + self.ahead:
            return None
        if not self._waiting[0].has_arguments:
            return None
        if self._sent and self._bytes >= MOST_BYTES:
            return None
        return self._waiting[0]

    def sent(self) -> int:
        """Note that the next call is sent. Return the number that it has in the slot."""
        call = self._waiting.popleft()
        self._count += 1
        self._sent[self._count] = call
        self._bytes += call.size
        return self._count

    def find(self, number: int) -> C | None:
        """Return a call that was sent and is not answered."""
        return self._sent.get(number)

    def number_of(self, call: C) -> int:
        """Return the number of a call that was sent and is not answered; 0 if it is none."""
        return next((number for number, each in self._sent.items() if each is call), 0)

    def leaving(self, number: int) -> None:
        """Note that a call has ended, and that its answer follows."""
        if number in self._sent:
            self._leaving.add(number)

    def answered(self, number: int, seconds: float | None) -> C | None:
        """Remove a call that was answered, and return it; None if there is none.

        Args:
            number: its number in the slot.
            seconds: how long it ran; None if it was dropped.
        """
        call = self._sent.pop(number, None)
        if call is None:
            return None
        self._leaving.discard(number)
        self._bytes -= call.size
        if seconds is not None:
            self._mean = seconds if self._mean is None else self._mean + WEIGHT * (seconds - self._mean)
        return call

    def begun(self) -> dict[int, C]:
        """Return the calls that may have begun and have not ended, by number."""
        running = [number for number in self._sent if number not in self._leaving][: self._concurrency]
        return {number: self._sent[number] for number in running}

    def ahead_of_time(self) -> dict[int, C]:
        """Return the calls that were sent and cannot have begun, by number."""
        begun = self.begun()
        return {
            number: call for number, call in self._sent.items() if number not in begun and number not in self._leaving
        }

    def lost(self, *, in_order: bool) -> tuple[list[C], list[C]]:
        """Forget what was sent, because the slot has ended. Numbers begin at 1 again.

        Args:
            in_order: whether all answers that the slot has sent have arrived. Otherwise each call that was sent may
                have begun.

        Returns:
            The calls that may have begun, and the calls that have not.
        """
        fresh = self.ahead_of_time() if in_order else {}
        doubtful = [call for number, call in self._sent.items() if number not in fresh]
        self._sent.clear()
        self._leaving.clear()
        self._bytes = self._count = 0
        return doubtful, list(fresh.values())
