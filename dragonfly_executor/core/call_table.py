"""All unsettled calls of a pool, and when their budgets end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dragonfly_executor.core.call_queue import SLACK, Queue
from dragonfly_executor.core.calls import DELAYED, QUEUED, SENT, SETTLED, STARTED, Call, CallLimits, CallState
from dragonfly_executor.core.deadlines import Alarm, Alarms

__all__ = ["Call", "CallLimits", "CallState", "Ledger"]


class Ledger:
    """The life of each call: queued, sent, started, settled once.

    Attributes:
        calls: the unsettled calls by id.
        queue: those that wait for a slot, or for the end of a retry's delay.
        waiting: how many calls are in `queue`, or were given up while they were there and are still to be settled.
        started: how many calls slots have begun.
        settled: what was settled since the driver was told last.
        alarms: when the budgets of calls are to be looked at. They hold ids and not calls: a settled call's token, with
            its result, must not live as long as its budget.
    """

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.queue = Queue(self.calls)
        self.waiting = 0
        self.started = 0
        self.settled: list[tuple[Call, object]] = []
        self.alarms = Alarms()

    @property
    def queued(self) -> int:
        """How many calls wait for a slot."""
        return self.queue.queued

    @property
    def delayed(self) -> int:
        """How many calls wait for the end of a retry's delay."""
        return self.queue.delayed

    def accept(self, calls: Sequence[Call], now: float) -> None:
        """Queue new calls; their budgets begin."""
        live, queue = self.calls, self.queue
        for call in calls:
            live[call.id] = call
            call.queue = queue
            call.submitted_at = now
            limits = call.limits
            if limits.timeout is not None:
                call.deadline = now + limits.timeout
            elif limits.queue_timeout is None:
                continue
            self._arm(call, now)
        queue.add(calls)
        self.waiting += len(calls)

    def take(self, count: int) -> list[Call]:
        """The next calls in order of arrival, at most ``count``. They are no longer queued: the caller places them."""
        taken = self.queue.take(count)
        self.waiting -= len(taken)
        return taken

    def start(self, call: Call) -> None:
        """A slot has begun a call that was sent."""
        if call.state is SENT:
            call.state = STARTED
            self.started += 1

    def requeue(self, call: Call, now: float) -> None:
        """Put a call that never started back in its place."""
        self.started -= call.state is STARTED  # it was said to have
        self.waiting += 1
        self.queue.put_back(call)
        self._rearm(call, call.submitted_at if call.attempt == 1 else now)

    def retry(self, call: Call, now: float) -> None:
        """Give a call its next attempt, after the delay that is set for it."""
        delays = call.limits.retry_delays
        delay = delays[min(call.attempt, len(delays)) - 1] if delays else 0.0
        call.attempt += 1
        self.started -= call.state is STARTED
        self.waiting += 1
        if delay > 0:
            self.queue.delay(call, now + delay)
        else:
            self.queue.put_back(call)
        self._rearm(call, now + max(0.0, delay))

    def settle(self, call: Call, outcome: object) -> None:
        """End a call's life, wherever it is."""
        state = call.state
        if state <= DELAYED:
            self.waiting -= 1
            queue = call.queue
            if state is QUEUED:
                queue.queued -= 1
                queue.settled += 1
                call.payload = None  # it stays in the queue until it comes up
            else:
                queue.delayed -= 1
        elif state is STARTED:
            self.started -= 1
        call.state = SETTLED
        del self.calls[call.id]
        self.settled.append((call, outcome))

    # -- all at once ---------------------------------------------------------------------------------------------------

    def give_up_waiting(self, spare: int = 0) -> Iterator[Call]:
        """Empty the queue but for its first `spare` calls.

        Returns:
            The calls that were in it, in order of arrival, to be settled one by one. One that is settled in another way
            meanwhile is left out.
        """
        given_up = self.queue
        self.queue = Queue(self.calls)
        for call in given_up.take(spare):
            self.queue.put_back(call)
        return given_up.all()

    def give_up_all(self) -> Iterator[Call]:
        """Empty the queue; no budget counts any more.

        Returns:
            All calls that are unsettled now, in order of arrival, to be settled one by one.
        """
        self.queue = Queue(self.calls)
        self.alarms.clear()
        return iter(list(self.calls.values()))

    # -- time ----------------------------------------------------------------------------------------------------------

    def may_be_due(self, now: float) -> bool:
        """Whether there may be budgets or delays that have ended."""
        first = self.alarms.first
        return (first is not None and first[0] <= now) or (self.queue.delayed > 0 and self.queue.is_due(now))

    def expired(self, now: float, at_most: int) -> list[Call]:
        """Calls of which a budget has ended by now, at most so many; they are still unsettled."""
        due: list[Call] = []
        while len(due) < at_most and (alarm := self._next_alarm()) is not None and alarm[0] <= now:
            self.alarms.drop()
            call = self.calls[alarm[1]]
            call.alarm = None
            due.append(call)
        return due

    def is_late(self, now: float) -> bool:
        """Whether there are calls of which a budget has ended by now."""
        alarm = self._next_alarm()
        return alarm is not None and alarm[0] <= now

    def deadline(self) -> float | None:
        """When the next budget or retry's delay ends."""
        alarm = self._next_alarm() if self.alarms.first is not None else None
        release = self.queue.next_release() if self.queue.delayed else None
        if alarm is None:
            return release
        return alarm[0] if release is None else min(alarm[0], release)

    def sweep(self) -> None:
        """Drop what settled calls have left behind, once it is more than what counts."""
        queue = self.queue
        if queue.settled > SLACK or queue.delays:
            queue.sweep()
        if self.alarms.count > 2 * len(self.calls) + SLACK:
            live = self.calls

            def counts(alarm: Alarm) -> bool:
                """Whether it is the one that the call goes by."""
                call = live.get(alarm[1])
                return call is not None and call.alarm == alarm[0]

            self.alarms.keep(counts)

    def _arm(self, call: Call, since: float) -> None:
        """Set the alarm of a call that waits: its budget, or the queue's if that ends sooner."""
        alarm, limit = call.deadline, call.limits.queue_timeout
        if limit is not None and (alarm is None or since + limit < alarm):
            alarm = since + limit
        if alarm != call.alarm:
            call.alarm = alarm
            if alarm is not None:
                self.alarms.add(alarm, call.id)

    def _rearm(self, call: Call, since: float) -> None:
        if call.limits.queue_timeout is not None:
            self._arm(call, since)

    def _next_alarm(self) -> Alarm | None:
        """The first alarm that counts. What a call in flight has left of the queue's budget moves to its own."""
        alarms, calls = self.alarms, self.calls
        while (alarm := alarms.first) is not None:
            when, call_id = alarm
            call = calls.get(call_id)
            if call is not None and call.alarm == when:
                if call.state <= DELAYED:
                    if call.queue is self.queue:
                        return alarm
                    # It was given up: what it ends with is decided.
                    call.alarm = None
                elif when == call.deadline:
                    return alarm
                else:
                    call.alarm = call.deadline
                    if call.deadline is not None:
                        alarms.add(call.deadline, call_id)
            alarms.drop()
        return None
