"""Assigns calls to slots: the agent's share of scheduling.

Cheap calls are queued in the slots, so that no slot waits for the agent between two of them. A call that turns out to
sit behind a longer call is taken back within milliseconds. It goes to another slot, or back to the parent if no slot is
free. So two calls that wait for each other always meet, even if they came in one batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dragonfly_executor.protocol.frames import Flag, Frame, Kind, encode
from dragonfly_executor.runner import slot_crash
from dragonfly_executor.runner.call_limits import CallLimitTimers
from dragonfly_executor.runner.idle_check import IdleCheck
from dragonfly_executor.runner.oom_kills import MemoryWatch
from dragonfly_executor.runner.slot_handle import Slot, Work
from dragonfly_executor.runner.slot_selection import Lineup
from dragonfly_executor.transport.loop import Loop, Timer

REVIEW_AFTER = 0.003
"""Seconds after which a running call is reported as started, and calls behind it may count as stuck."""
STUCK_FACTOR = 3.0
"""Multiple of the recent cost of a call, after which a call counts as slow."""


class Dispatcher:
    """The calls on this runner, and the slots that run them."""

    def __init__(self, loop: Loop, send: Callable[[bytes], None], fork_slot: Callable[[], Slot]) -> None:
        self._loop = loop
        self._send = send
        self.lineup = Lineup(loop, fork_slot, self._no_room, self.dispatch)
        self.limits = CallLimitTimers(loop, lambda work, slot: self._stop_in_slot(work, slot, Kind.TIMED_OUT))
        self._idle_check = IdleCheck(loop, send)
        self.slots = self.lineup.slots
        """Living slots by process id."""
        self.max_calls_per_slot = 0
        self.memory: MemoryWatch | None = None
        self.stopped_after: float | None = None
        """Seconds that calls had to finish after an external stop of the runner, once these are over."""
        self.waiting: deque[Work] = deque()
        """Calls that are in no slot."""
        self._held: deque[Work] = deque()
        self.arriving = self.waiting
        """The queue for calls that arrive from the parent: `waiting`, or the held calls during a sync."""
        self.works: dict[tuple[int, int], Work] = {}
        """Calls that are in a slot, by id and attempt."""
        self._review_timer: Timer | None = None
        self._progress = loop.time()
        self._closed = False

    @property
    def is_idle(self) -> bool:
        """Return True if no call is on this runner."""
        return not self.waiting and not self.works and not self._held

    def has_worked_since(self, when: float) -> bool:
        """Return True if a call is here, or if one started since that moment.

        Args:
            when: a time on the loop's clock, in seconds.
        """
        return self._progress >= when or not self.is_idle

    # -- handing out --------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Hand waiting calls to slots, as long as slots take calls."""
        if self._closed:
            self._give_back()
        forked = False
        while self.waiting:
            slot = self.lineup.best_for(self.waiting[0])
            if slot is None:
                # Fork one slot per pass: meanwhile the other slots may empty the queue.
                slot = None if forked else self.lineup.grow()
                if slot is None:
                    break
                forked = True
            work = self.waiting.popleft()
            # A limit that has passed stops the call in here, which hands out the calls that follow.
            if not self._hand(slot, work):
                self.waiting.appendleft(work)
                break
        if self.waiting and forked and self.lineup.may_grow():
            self._loop.call_soon(self.dispatch)
        if not self.waiting and len(self.works) > 1:
            self._balance()
        if self._review_timer is None and (self.works or self.waiting):
            self._arm_review()

    def _no_room(self) -> None:
        """Return waiting calls to the parent, unless calls started recently.

        The parent counts on slots that could not be forked, so waiting calls may sit behind a long one.
        """
        if self._loop.time() - self._progress >= self._stuck_after():
            self._give_back()

    def _stuck_after(self) -> float:
        """Return the seconds of one call after which the calls behind it count as stuck."""
        return max(REVIEW_AFTER, STUCK_FACTOR * (self.lineup.cost or 0.0))

    def _hand(self, slot: Slot, work: Work) -> bool:
        starts_now = not slot.in_flight
        if not slot.hand(work):
            return False
        if work.frame.kind == Kind.CALL:
            self.works[work.call_id, work.attempt] = work
        if starts_now:
            self._became_first(slot)
        if self.max_calls_per_slot and slot.handed >= self.max_calls_per_slot:
            slot.retire()
        return True

    def _became_first(self, slot: Slot) -> None:
        slot.since = self._progress = self._loop.time()
        slot.stuck = False
        work = slot.in_flight[0]
        if work.frame.flags & Flag.LIMITS:
            self.limits.watch(work, slot)
        elif slot.is_checking and slot.ready:
            self._idle_check.begin(slot)

    def _balance(self) -> None:
        """Move half of the calls queued in the fullest slot to an idle slot."""
        uneven = self.lineup.uneven()
        if uneven is None:
            return
        fullest, idle = uneven
        taken = fullest.take_back()
        keep = len(taken) // 2
        for work in taken[:keep]:
            if not fullest.hand(work):
                self._put_back([work])
        for work in taken[keep:]:
            self._hand_or_wait(idle, work)

    def _hand_or_wait(self, slot: Slot, work: Work) -> None:
        if slot.retired or not self._hand(slot, work):
            self._put_back([work])

    def _put_back(self, works: list[Work]) -> None:
        for work in reversed(works):
            self.works.pop((work.call_id, work.attempt), None)
            self.waiting.appendleft(work)

    # -- while files change -------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Hold the calls that arrive from now on, until `release`."""
        if not self._closed:
            self.arriving = self._held

    def release(self, *, fresh: bool) -> None:
        """Start the held calls. If `fresh`, start them only in slots that are forked from now on."""
        if fresh:
            for slot in self.slots.values():
                if not slot.retired and slot.kill_reason is None:
                    self._put_back(slot.take_back())
                    slot.retire()
        self.arriving = self.waiting
        self.waiting.extend(self._held)
        self._held.clear()
        self._progress = self._loop.time()
        self.dispatch()

    def hold_back(self, slot: Slot) -> None:
        """Take back the calls behind the slot's running call, and queue none there until it is answered."""
        slot.stuck = True
        self._put_back(slot.take_back())
        self.dispatch()

    # -- answers ------------------------------------------------------------------------------------------------------

    def slot_is_ready(self, slot: Slot) -> None:
        """Start the clocks of the slot's first call: its initializer is done."""
        if slot.in_flight:
            self._became_first(slot)

    def answered(self, slot: Slot, frame: Frame) -> None:
        """Handle the slot's answer to its first call: a result, or the call itself, unstarted."""
        if not slot.in_flight:
            return
        if frame.kind == Kind.RETURNED:
            self._declined(slot)
            return
        work = slot.in_flight.popleft()
        self._forget(work)
        if slot.shows_call:
            slot.show_call(0)
        slot.stuck = False
        if frame.call_id:
            self.lineup.learn_cost(frame.detail * 1e-6)
        else:
            self._checked(slot, may_go=bool(frame.detail))
        if slot.in_flight:
            self._became_first(slot)
        elif slot.retired:
            slot.expect_end()

    def _declined(self, slot: Slot) -> None:
        """Put the slot's calls back into the queue and retire the slot: it has loaded files that have changed since."""
        work = slot.in_flight.popleft()
        self._forget(work)
        work.slot = None
        self._put_back([work, *slot.take_back()])
        slot.retire()
        slot.expect_end()

    def _forget(self, work: Work) -> None:
        self.works.pop((work.call_id, work.attempt), None)
        if work.timer is not None:
            work.timer.cancel()

    def slot_ended(self, slot: Slot, status: int, *, tell: bool) -> None:
        """Report the end of each call that the slot had started, and put the others back into the queue.

        Args:
            slot: the slot that ended.
            status: its wait status.
            tell: also report the first call of a slot that died before it was ready.
        """
        self.slots.pop(slot.pid, None)
        unstarted = slot.take_back()
        if not slot.ready:
            # A slot that was never ready has not taken a call.
            unstarted = [*slot.in_flight, *unstarted]
            slot.in_flight.clear()
            if tell and unstarted:
                slot.in_flight.append(unstarted.pop(0))
        for work in slot.in_flight:
            self._forget(work)
            self._report_end(work, slot, status)
        slot.in_flight.clear()
        self._put_back(unstarted)
        self.dispatch()

    def _report_end(self, work: Work, slot: Slot, status: int) -> None:
        send = slot.answer or self._send
        if work.frame.kind == Kind.CHECK_IDLE:
            self._checked(slot, may_go=False)
        elif slot.kill_reason == Kind.KILL:
            send(encode(Kind.GONE, work.call_id, attempt=work.attempt))
        elif slot.kill_reason == Kind.TIMED_OUT:
            send(encode(Kind.TIMED_OUT, work.call_id, attempt=work.attempt, detail=work.unopened))
        else:
            told = slot_crash.describe(work, slot, status, self.memory, self.stopped_after)
            send(encode(Kind.LOST, work.call_id, told, attempt=work.attempt))

    # -- stopping calls -----------------------------------------------------------------------------------------------

    def kill(self, call_id: int, attempt: int) -> None:
        """Stop a call without harming other calls. GONE tells the parent that the call is no longer here."""
        work = self.works.get((call_id, attempt))
        if work is None:
            self._drop_waiting(call_id, attempt)
        elif work.slot is not None:
            self._stop_in_slot(work, work.slot, Kind.KILL)

    def _drop_waiting(self, call_id: int, attempt: int) -> None:
        for line in (self.waiting, self._held):
            for work in line:
                if work.call_id == call_id and work.attempt == attempt:
                    line.remove(work)
                    break
        # Sent for an unknown call too, because the parent may still count that call here.
        self._send(encode(Kind.GONE, call_id, attempt=attempt))

    def _stop_in_slot(self, work: Work, slot: Slot, reason: int) -> None:
        """Kill the slot if it is running this call.

        First take back the calls behind it, then read the results that have arrived. If the call is still unanswered
        after that, it is the only call that can be running.
        """
        # Set this first: the reads below make room in the slot, and a call handed to it now dies with this one.
        slot.kill_reason = reason
        taken = slot.take_back()
        answer = Kind.TIMED_OUT if reason == Kind.TIMED_OUT else Kind.GONE
        if work in taken:
            taken.remove(work)
            self._forget(work)
            self._send(encode(answer, work.call_id, attempt=work.attempt))
        self._put_back(taken)
        slot.link.drain_reads()
        if work in self.waiting:  # the slot gave it back in the meantime
            self.waiting.remove(work)
            self._send(encode(answer, work.call_id, attempt=work.attempt))
        if work.slot is slot and work in slot.in_flight:
            slot.kill()
        else:
            slot.kill_reason = None
        self.dispatch()

    def check_idle(self, work: Work) -> None:
        """Run the user's idle check in a slot, unless calls are here."""
        if not self.is_idle:
            self._send(encode(Kind.IDLE))
        elif self._idle_check.ask():
            self.waiting.append(work)

    def _checked(self, slot: Slot | None, *, may_go: bool) -> None:
        """Report the end of the idle check. If the check cannot run, `may_go` is False and the runner stays."""
        self._idle_check.answered(may_go)
        self.lineup.extra = 0
        if slot is not None:
            slot.is_checking = False
            if self.lineup.is_full:
                # The extra slot that was forked during the check takes this slot's place.
                slot.retire()

    # -- review -------------------------------------------------------------------------------------------------------

    def _arm_review(self) -> None:
        if self._review_timer is None:
            self._review_timer = self._loop.call_later(REVIEW_AFTER, self._review)

    def _review(self) -> None:
        """Report calls that have been running for a while, and take back the calls stuck behind them."""
        self._review_timer = None
        now = self._loop.time()
        stuck_after = self._stuck_after()
        again = False
        for slot in self.slots.values():
            if not slot.in_flight or not slot.ready:
                continue
            if now - slot.since < REVIEW_AFTER:
                again = True
                continue
            first = slot.in_flight[0]
            if slot.is_checking:
                self.lineup.extra = 1
            if not first.reported and first.frame.kind == Kind.CALL:
                first.reported = True
                slot.show_call(first.call_id)
                self._send(encode(Kind.STARTED, first.call_id, attempt=first.attempt))
            # Also a slot without calls behind: those of another slot must not go there.
            if now - slot.since >= stuck_after:
                slot.stuck = True
                if len(slot.in_flight) > 1:
                    self._put_back(slot.take_back())
        self.dispatch()
        if self.waiting:
            again = self._return_stuck(now, stuck_after)
        if again or any(map(_is_unreviewed, self.slots.values())):
            self._arm_review()
        elif self._review_timer is not None:
            self._review_timer.cancel()
            self._review_timer = None

    def _return_stuck(self, now: float, stuck_after: float) -> bool:
        """Return calls that no slot here can start to the parent.

        Returns:
            True if another review is needed.
        """
        if now - self._progress < stuck_after:
            return True
        if self.lineup.may_grow():
            # If forking has just failed, its retry calls dispatch again, so no review is needed.
            return self.lineup.has_room
        if any(slot.retired and not slot.in_flight for slot in self.slots.values()):
            return True  # this slot ends soon, which makes room
        self._give_back()
        return bool(any(not slot.ready for slot in self.slots.values()))

    def close(self) -> None:
        """Start no more calls. Calls that slots have not taken, and calls that still arrive, go back to the parent."""
        self._closed = True
        for slot in self.slots.values():
            self._put_back(slot.take_back())
        self.release(fresh=False)

    def _give_back(self) -> None:
        for work in self.waiting:
            if work.frame.kind == Kind.CALL:
                self._send(encode(Kind.RETURNED, work.call_id, attempt=work.attempt))
            else:
                self._checked(None, may_go=False)
        self.waiting.clear()


def _is_unreviewed(slot: Slot) -> bool:
    """Return True if the slot's running call has yet to be reported, or if calls wait behind it."""
    if not slot.in_flight or not slot.ready:
        return False
    first = slot.in_flight[0]
    return len(slot.in_flight) > 1 or (first.frame.kind == Kind.CALL and not first.reported)
