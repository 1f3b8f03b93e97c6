"""The life of each call: queued, sent, started, settled once.

The ledger holds every unsettled call, the queue, the retries that wait, and the alarms of budgets. Nothing is ever
searched for: what a call has left behind in a queue or heap is passed over when it comes up, and swept out once it is
the larger part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from enum import IntEnum
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.record import Record

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Final, TypeVar

    Entry = TypeVar("Entry", tuple[int, "Call"], tuple[float, int])


# How many leftovers a queue or heap may hold before sweeping is worth looking at.
SLACK: Final = 64


class CallState(IntEnum):
    """Where a call is."""

    QUEUED = 0
    DELAYED = 1
    """Waits for the end of a retry's delay."""
    SENT = 2
    STARTED = 3
    SETTLED = 4


SENT: Final = CallState.SENT
STARTED: Final = CallState.STARTED
"""As plain names: looking a member up in its enum takes longer than comparing with it."""


class CallLimits(Record):
    """What a call may take. One object serves all calls of a view of an executor.

    Args:
        timeout: seconds from submission to result, waiting included; None = no limit.
        queue_timeout: seconds from submission (for a retry: from the end of its delay) to being sent; None = no limit.
        run_timeout: seconds that it may run, kept by the agent; None = no limit.
        retries: how often it may run again after its slot was lost, or after an error that allows it.
        retry_delays: seconds before each retry, in order; a missing one is 0.
    """

    __slots__ = __match_args__ = ("timeout", "queue_timeout", "run_timeout", "retries", "retry_delays")

    def __init__(
        self,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        run_timeout: float | None = None,
        retries: int = 0,
        retry_delays: tuple[float, ...] = (),
    ) -> None:
        self.timeout = timeout
        self.queue_timeout = queue_timeout
        self.run_timeout = run_timeout
        self.retries = retries
        self.retry_delays = retry_delays


class Call:
    """One accepted call: the only object that the core keeps for it.

    Attributes:
        id: larger than that of every call submitted before; so ids are the order of arrival.
        attempt: 1, and one more for every retry.
        payload: what the driver sends; not looked at here.
        token: whom the driver tells the outcome; not looked at here.
        limits: its budgets and retries.
        state: where it is.
        runner: id of the runner that has it, or None.
        deaths: attempts that ended with the death of their slot.
        false_starts: slots that died before it could begin there.
        submitted_at: when the core accepted it, in monotonic seconds.
        deadline: monotonic seconds at which its whole budget ends, or None; set when it is accepted.
        alarm: when the ledger looks at its budgets next, or None.
    """

    __slots__ = (
        "alarm", "attempt", "deadline", "deaths", "false_starts", "id", "limits", "payload", "runner", "state",
        "submitted_at", "token",
    )  # fmt: skip

    def __init__(self, id: int, payload: object, token: object, limits: CallLimits) -> None:  # noqa: A002
        self.id = id
        self.attempt = 1
        self.payload = payload
        self.token = token
        self.limits = limits
        self.state: CallState = CallState.QUEUED
        self.runner: int | None = None
        self.deaths = 0
        self.false_starts = 0
        self.submitted_at = 0.0
        self.deadline: float | None = None
        self.alarm: float | None = None

    def __repr__(self) -> str:
        where = "" if self.runner is None else f" on runner {self.runner}"
        return f"<Call {self.id}.{self.attempt} {self.state.name.lower()}{where}>"


class Ledger:
    """All unsettled calls of a pool.

    Attributes:
        calls: the unsettled calls by id.
        queued, delayed: how many of them wait for a slot, and for the end of a retry's delay.
        started: how many of them slots have begun.
        settled: what was settled since the driver was told last.
    """

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.queued = 0
        self.delayed = 0
        self.started = 0
        self.settled: list[tuple[Call, object]] = []
        # Calls that were sent before arrived before every call that was not: the two together are in order of arrival.
        self._again: list[tuple[int, Call]] = []
        self._fresh: deque[Call] = deque()
        # Heaps hold ids and not calls: a settled call's token, with its result, must not live as long as its budget.
        self._retries: list[tuple[float, int]] = []
        self._alarms: list[tuple[float, int]] = []

    def accept(self, calls: Sequence[Call], now: float) -> None:
        """Queue new calls; their budgets begin."""
        live = self.calls
        for call in calls:
            live[call.id] = call
            call.submitted_at = now
            limits = call.limits
            if limits.timeout is not None:
                call.deadline = now + limits.timeout
            elif limits.queue_timeout is None:
                continue
            self._arm(call, now)
        self._fresh.extend(calls)
        self.queued += len(calls)

    def take(self, count: int) -> list[Call]:
        """The next calls in order of arrival, at most ``count``. They are no longer queued: the caller places them."""
        fresh, queued = self._fresh, self.queued
        count = min(count, queued)
        self.queued = queued - count
        if not self._again and len(fresh) == queued:
            return [fresh.popleft()] if count == 1 else [fresh.popleft() for _ in range(count)]
        taken: list[Call] = []
        while len(taken) < count:
            call = heappop(self._again)[1] if self._again else fresh.popleft()
            if call.state is CallState.QUEUED:
                taken.append(call)
        return taken

    def start(self, call: Call) -> None:
        """A slot has begun a call that was sent."""
        if call.state is SENT:
            call.state = STARTED
            self.started += 1

    def requeue(self, call: Call, now: float) -> None:
        """Put a call that never started back in its place."""
        self.started -= call.state is STARTED  # it was said to have
        self._enqueue(call)
        self._rearm(call, call.submitted_at if call.attempt == 1 else now)

    def retry(self, call: Call, now: float) -> None:
        """Give a call its next attempt, after the delay that is set for it."""
        delays = call.limits.retry_delays
        delay = delays[call.attempt - 1] if call.attempt <= len(delays) else 0.0
        call.attempt += 1
        self.started -= call.state is STARTED
        if delay > 0:
            call.state = CallState.DELAYED
            call.runner = None
            self.delayed += 1
            heappush(self._retries, (now + delay, call.id))
        else:
            self._enqueue(call)
        self._rearm(call, now + max(0.0, delay))

    def release(self, now: float) -> None:
        """Queue the retries whose delay has ended."""
        retries = self._retries
        while retries and retries[0][0] <= now:
            call = self.calls.get(heappop(retries)[1])
            if call is not None:
                self.delayed -= 1
                self._enqueue(call)

    def settle(self, call: Call, outcome: object) -> None:
        """End a call's life, wherever it is."""
        if call.state is CallState.QUEUED:
            self.queued -= 1
            call.payload = None  # it stays in the queue until it comes up
        elif call.state is CallState.DELAYED:
            self.delayed -= 1
        elif call.state is STARTED:
            self.started -= 1
        call.state = CallState.SETTLED
        del self.calls[call.id]
        self.settled.append((call, outcome))

    def waiting(self) -> list[Call]:
        """The queued and delayed calls, in order of arrival."""
        return [call for call in self.calls.values() if call.state <= CallState.DELAYED]

    def may_be_due(self, now: float) -> bool:
        """Whether `expired` and `release` are worth calling."""
        alarms, retries = self._alarms, self._retries
        if not alarms and not retries:
            return False
        return bool((alarms and alarms[0][0] <= now) or (retries and retries[0][0] <= now))

    def expired(self, now: float) -> list[Call]:
        """The calls of which a budget has ended by now; they are still unsettled."""
        due: list[Call] = []
        while True:
            when = self._next_alarm()
            if when is None or when > now:
                return due
            call = self.calls[heappop(self._alarms)[1]]
            call.alarm = None
            due.append(call)

    def deadline(self) -> float | None:
        """When the next budget or retry's delay ends."""
        retries = self._retries
        if not retries and not self._alarms:
            return None
        while retries and retries[0][1] not in self.calls:
            heappop(retries)
        alarm = self._next_alarm()
        if not retries:
            return alarm
        return retries[0][0] if alarm is None else min(alarm, retries[0][0])

    def sweep(self) -> None:
        """Drop what settled calls have left behind, once it is more than what counts."""
        live = self.calls
        if len(self._fresh) + len(self._again) > 2 * self.queued + SLACK:
            self._fresh = deque(call for call in self._fresh if call.state is CallState.QUEUED)
            self._again = _heap(entry for entry in self._again if entry[1].state is CallState.QUEUED)
        if len(self._retries) > 2 * self.delayed + SLACK:
            self._retries = _heap(entry for entry in self._retries if entry[1] in live)
        if len(self._alarms) > 2 * len(live) + SLACK:
            self._alarms = _heap(entry for entry in self._alarms if self._rings(*entry))

    def _enqueue(self, call: Call) -> None:
        call.state = CallState.QUEUED
        call.runner = None
        self.queued += 1
        heappush(self._again, (call.id, call))

    def _arm(self, call: Call, since: float) -> None:
        """Set the alarm of a call that waits: its budget, or the queue's if that ends sooner."""
        alarm, limit = call.deadline, call.limits.queue_timeout
        if limit is not None and (alarm is None or since + limit < alarm):
            alarm = since + limit
        if alarm != call.alarm:
            call.alarm = alarm
            if alarm is not None:
                heappush(self._alarms, (alarm, call.id))

    def _rearm(self, call: Call, since: float) -> None:
        if call.limits.queue_timeout is not None:
            self._arm(call, since)

    def _rings(self, when: float, call_id: int) -> bool:
        call = self.calls.get(call_id)
        return call is not None and call.alarm == when

    def _next_alarm(self) -> float | None:
        """The first alarm that counts. What a call in flight has left of the queue's budget moves to its own."""
        alarms = self._alarms
        while alarms:
            when, call_id = alarms[0]
            call = self.calls.get(call_id)
            if call is not None and call.alarm == when:
                if call.state <= CallState.DELAYED or when == call.deadline:
                    return when
                call.alarm = call.deadline
                if call.deadline is not None:
                    heappush(alarms, (call.deadline, call_id))
                    # The entry just pushed is later than this one, which therefore still is the first.
            heappop(alarms)
        return None


def _heap(entries: Iterable[Entry]) -> list[Entry]:
    heap = list(entries)
    heapify(heap)
    return heap
