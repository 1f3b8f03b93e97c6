"""All unsettled calls of a pool, and their timeouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dragonfly_executor.core.alarms import Alarm, Alarms
from dragonfly_executor.core.call_queue import SLACK, CallQueue
from dragonfly_executor.core.calls import (
    DEFAULT_KIND,
    DELAYED,
    QUEUED,
    SENT,
    SETTLED,
    STARTED,
    Call,
    CallLimits,
    CallState,
    QueueTotal,
)
from dragonfly_executor.core.capacity import Requirements
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["Call", "CallLimits", "CallState", "CallTable"]


class CallTable:
    """The table of all unsettled calls. Each call is queued, sent, started, and settled once.

    Args:
        measures_keys: measure how long calls of each key take.

    Attributes:
        calls: the unsettled calls by id.
        queues: by kind, the calls that wait for a slot, or for the end of a retry's delay.
        total: the counts of all queues together.
        newest: id of the call that arrived last; 0 before the first.
        waiting: number of calls in `queues`, plus calls that were given up there and are still to be settled.
        started: number of calls that slots have begun.
        settled: calls and outcomes that were settled since the driver last took them.
        alarms: the times at which the timeouts of calls are checked. They hold ids and not calls: otherwise a settled
            call's token, with its result, lives as long as its timeout.
    """

    def __init__(self, *, measures_keys: bool = False) -> None:
        self._measures_keys: Final = measures_keys
        self.calls: dict[int, Call] = {}
        self.total = QueueTotal()
        self.queues = {DEFAULT_KIND: self._new_queue()}
        self.newest = 0
        self.waiting = 0
        self.started = 0
        self.settled: list[tuple[Call, object]] = []
        self.alarms = Alarms()

    @property
    def queued(self) -> int:
        """Return the number of calls that wait for a slot."""
        return self.total.queued

    @property
    def delayed(self) -> int:
        """Return the number of calls that wait for the end of a retry's delay, or for their arguments."""
        return self.total.delayed

    def accept(self, calls: Sequence[Call], now: float) -> Mapping[str, Requirements | None]:
        """Queue new calls, and start their timeouts.

        Returns:
            The kinds of the calls, each with its requirements.
        """
        if not calls:
            return {}
        live, kind, are_alike = self.calls, calls[0].kind, True
        queue = self.queue_of(kind)
        for call in calls:
            limits = call.limits
            if call.kind != kind or limits.has_place or call.depth:
                are_alike = False
            live[call.id] = call
            call.queue = queue
            call.submitted_at = call.waits_since = now
            if limits.timeout is not None:
                call.deadline = now + limits.timeout
            elif limits.queue_timeout is None:
                continue
            self._arm(call, now)
        self.newest = calls[-1].id
        self.waiting += len(calls)
        if are_alike:
            queue.add(calls)
            return {kind: calls[0].limits.requirements}
        return self._add_each(calls)

    def _add_each(self, calls: Sequence[Call]) -> Mapping[str, Requirements | None]:
        """Add calls of several kinds, or with a priority or a key, to their queues, and return the kinds."""
        kinds: dict[str, Requirements | None] = {}
        for call in calls:
            limits = call.limits
            kinds[call.kind] = limits.requirements
            queue = call.queue = self.queue_of(call.kind)
            if call.state is DELAYED:
                self._hold(call)
                continue
            if limits.key:
                queue.note_key(limits.key)
            if limits.priority or call.depth:
                queue.add_by_priority(call)
            else:
                queue.add((call,))
        return kinds

    def _hold(self, call: Call) -> None:
        """Add a call that waits for its arguments. Its queue_timeout begins when it has them."""
        queue = call.queue
        queue.dependent.add(call.id)
        queue.delayed += 1
        queue.total.delayed += 1
        if call.alarm != call.deadline:
            call.alarm = call.deadline
            if call.deadline is not None:
                self.alarms.add(call.deadline, call.id)

    def arguments_came(self, call: Call, now: float) -> bool:
        """Queue a call that has its arguments now. Returns False if it did not wait for them, or was given up."""
        queue = self.queues[call.kind]
        if call.queue is not queue or call.id not in queue.dependent:
            return False
        queue.dependent.discard(call.id)
        queue.delayed -= 1
        queue.total.delayed -= 1
        queue.put_back(call)
        call.waits_since = now
        self._rearm(call, now)
        return True

    def queue_of(self, kind: str) -> CallQueue:
        """Return the queue of a kind."""
        queue = self.queues.get(kind)
        if queue is None:
            queue = self.queues[kind] = self._new_queue()
        return queue

    def _new_queue(self) -> CallQueue:
        return CallQueue(self.calls, self.total, measures_keys=self._measures_keys)

    def start(self, call: Call, now: float, slot: int | None = None) -> None:
        """Mark a sent call as begun by a slot; None if the slot's number is unknown."""
        if call.state is SENT:
            call.state = STARTED
            call.began_at, call.slot = now, slot
            self.started += 1

    def requeue(self, call: Call, now: float) -> None:
        """Return a call that never started to its place in the queue."""
        self.started -= call.state is STARTED  # it was reported as started
        self.waiting += 1
        self.queues[call.kind].put_back(call)
        self._rearm(call, call.waits_since if call.attempt == 1 else now)

    def retry(self, call: Call, now: float) -> None:
        """Start the next attempt of a call, after the delay that is set for it."""
        delays = call.limits.retry_delays
        delay = delays[min(call.attempt, len(delays)) - 1] if delays else 0.0
        call.attempt += 1
        self.started -= call.state is STARTED
        self.waiting += 1
        if delay > 0:
            self.queues[call.kind].delay(call, now + delay)
        else:
            self.queues[call.kind].put_back(call)
        call.waits_since = now + max(0.0, delay)
        self._rearm(call, call.waits_since)

    def settle(self, call: Call, outcome: object) -> None:
        """Settle a call in any state with this outcome."""
        state = call.state
        if state <= DELAYED:
            self.waiting -= 1
            queue = call.queue
            if state is QUEUED:
                queue.queued -= 1
                queue.total.queued -= 1
                queue.settled += 1
                if queue.key_costs is not None and call.limits.key:
                    queue.key_costs.unqueued(call.limits.key)
                call.payload = b""  # its entry stays in the queue until it comes up
            else:
                queue.delayed -= 1
                queue.total.delayed -= 1
                queue.dependent.discard(call.id)
        elif state is STARTED:
            self.started -= 1
        call.state = SETTLED
        del self.calls[call.id]
        self.settled.append((call, outcome))

    # -- all at once ---------------------------------------------------------------------------------------------------

    def give_up_waiting(self, kind: str, spare: int = 0) -> Iterator[Call]:
        """Empty the queue of a kind except for its first `spare` calls.

        Returns:
            The removed calls, in order of arrival, for the caller to settle one by one. A call that is settled in
            another way meanwhile is left out.
        """
        given_up = self.queues[kind]
        queue = self.queues[kind] = self._new_queue()
        for call in given_up.take(spare):
            queue.put_back(call)
        given_up.part()
        return given_up.all()

    def give_up_all(self) -> Iterator[Call]:
        """Empty all queues, and cancel all timeouts.

        Returns:
            All calls that are unsettled now, in order of arrival, for the caller to settle one by one.
        """
        for kind, queue in self.queues.items():
            queue.part()
            self.queues[kind] = self._new_queue()
        self.alarms.clear()
        return iter(list(self.calls.values()))

    # -- time ----------------------------------------------------------------------------------------------------------

    def may_be_due(self, now: float) -> bool:
        """Return whether a timeout or a delay may have ended."""
        first = self.alarms.first
        return (first is not None and first[0] <= now) or (self.total.delayed > 0 and self.is_due(now))

    def is_due(self, now: float) -> bool:
        """Return whether the delay of a call has ended."""
        release = self.next_release()
        return release is not None and release <= now

    def next_release(self) -> float | None:
        """Return when the next delay ends, in monotonic seconds; None if no call is delayed."""
        first: float | None = None
        if self.total.delayed:
            for queue in self.queues.values():
                release = queue.next_release() if queue.delayed else None
                if release is not None and (first is None or release < first):
                    first = release
        return first

    def release(self, now: float, at_most: int) -> None:
        """Queue at most `at_most` calls whose delay has ended."""
        for queue in self.queues.values():
            at_most = queue.release(now, at_most)

    def expired(self, now: float, at_most: int) -> list[Call]:
        """Return at most `at_most` calls whose timeout has expired by `now`. They are still unsettled."""
        due: list[Call] = []
        while len(due) < at_most and (alarm := self._next_alarm()) is not None and alarm[0] <= now:
            self.alarms.drop()
            call = self.calls[alarm[1]]
            call.alarm = None
            due.append(call)
        return due

    def is_late(self, now: float) -> bool:
        """Return whether a call's timeout has expired by `now`."""
        alarm = self._next_alarm()
        return alarm is not None and alarm[0] <= now

    def deadline(self) -> float | None:
        """Return when the next timeout or retry's delay ends, in monotonic seconds; None = never."""
        alarm = self._next_alarm() if self.alarms.first is not None else None
        release = self.next_release() if self.total.delayed else None
        if alarm is None:
            return release
        return alarm[0] if release is None else min(alarm[0], release)

    def sweep(self) -> None:
        """Drop stale entries of settled calls, once they outnumber the valid ones."""
        for queue in self.queues.values():
            if queue.settled > SLACK or queue.delays:
                queue.sweep()
        if self.alarms.count > 2 * len(self.calls) + SLACK:
            live = self.calls

            def counts(alarm: Alarm) -> bool:
                """Return whether this alarm is the current one of its call."""
                call = live.get(alarm[1])
                return call is not None and call.alarm == alarm[0]

            self.alarms.keep(counts)

    def _arm(self, call: Call, since: float) -> None:
        """Set the alarm of a waiting call to its timeout, or to its queue_timeout if that ends sooner."""
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
        """Return the first valid alarm. The alarm of a call in flight moves from its queue_timeout to its timeout."""
        alarms, calls = self.alarms, self.calls
        while (alarm := alarms.first) is not None:
            when, call_id = alarm
            call = calls.get(call_id)
            if call is not None and call.alarm == when:
                if call.state <= DELAYED:
                    if call.queue is self.queues[call.kind]:
                        return alarm
                    # The call was given up, and its outcome is decided.
                    call.alarm = None
                elif when == call.deadline:
                    return alarm
                else:
                    call.alarm = call.deadline
                    if call.deadline is not None:
                        alarms.add(call.deadline, call_id)
            alarms.drop()
        return None
