"""The world that a runner's scheduler lives in: a driver, slots, a parent and a clock, as far as it can tell.

Slots are played here: what each has in its queue, runs, and has answered. The scheduler is told of an answer only when
the agent reads it, as in life. What is checked here comes from the slots and the actions, never from the scheduler's
own books; those are checked in `validate_slots`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dragonfly_executor.core import slot_actions as actions
from dragonfly_executor.core.slot_records import FULL, PARKED, RunLimits, SlotCall, SlotRecord
from dragonfly_executor.core.slot_scheduler import SlotScheduler
from dragonfly_executor.core.slot_state import REVIEW_AFTER, STARVED_FOR, SlotTable
from dragonfly_executor.core.slot_titles import SHOWN_AFTER
from tests.support.validate_slots import validate_slots

Ref = tuple[int, int]
SLACK = 2.5 * REVIEW_AFTER
"""Seconds after its time at which a call that is stuck must have gone elsewhere."""


@dataclass
class PlayedSlot:
    """A slot as it is, whatever the scheduler knows of it."""

    record: SlotRecord
    queue: deque[SlotCall] = field(default_factory=deque)
    """Packets that it has not taken."""
    running: SlotCall | None = None
    began: dict[Ref, float] = field(default_factory=dict)
    """When the functions of calls have started."""
    unread: list[tuple[str, float, SlotCall]] = field(default_factory=list)
    """Answers that the agent has not read."""
    is_closed: bool = False
    is_ready: bool = False
    is_dead: bool = False
    is_leaving: bool = False
    """Whether it takes no more, since it has declined a call."""
    room: int | None = None
    """The number of calls that it takes of one order; None if it takes all."""
    is_starved: bool = False
    """Whether it lacks processor time."""
    ran: int = 0
    waits_for: Ref | None = None
    """The child call for which its running call waits."""
    shows: SlotCall | None = None
    """The call in its title."""
    expects_end: bool = False


class SlotWorld:
    """A scheduler and everything around it."""

    def __init__(self, slots: int = 1, calls_per_slot: int = 0, opening: float = 30.0, gpus: int = 0) -> None:
        self.now = 100.0
        self._setup = (slots, calls_per_slot, opening, gpus)
        self.scheduler = self._new_scheduler()
        self.table: SlotTable = self.scheduler.table
        self.slots: dict[int, PlayedSlot] = {}
        self.calls: dict[Ref, SlotCall] = {}
        self.outcomes: dict[Ref, list[str]] = {}
        self.killed: set[Ref] = set()
        """Calls that the parent wants stopped."""
        self.reports: list[tuple[str, int]] = []
        self.started: list[int] = []
        self.checks: list[bool] = []
        self.checks_requested = 0
        self.can_fork = True
        self.forks_that_work: int | None = None
        """Number of forks after which none works; None if there is no such number."""
        self.is_closed = self.is_ending = self.has_given_up = False
        self.is_sound = True
        """Whether no promise was broken so far."""
        self.log: list[tuple[Any, list[str]]] = []
        self._named: list[object] = []
        self._pids = 0
        self._is_running = False
        self._is_advancing = False
        self.quiet_since = self.now
        """Since when nothing has happened but that time passes."""
        self._ended: PlayedSlot | None = None
        self._told: SlotCall | None = None

    def _new_scheduler(self) -> SlotScheduler:
        scheduler = SlotScheduler(100.0)
        table = scheduler.table
        table.max_slots, table.calls_per_slot, table.opening, table.gpus = self._setup
        return scheduler

    # -- the log ------------------------------------------------------------------------------------------------------

    def tell(self, name: str, *args: object, **options: object) -> None:
        """Call a method of the scheduler, and keep for `play_again` what it was told and what it wanted."""
        if not self._is_advancing:
            self.quiet_since = self.now
        before = len(self.table.actions)
        getattr(self.scheduler, name)(*args, **options)
        wanted = [repr(action) for action in list(self.table.actions)[before:]]
        self._named += args  # for as long as the log names a call by its id()
        self.log.append(((name, [_told(arg) for arg in args], options), wanted))
        validate_slots(self.scheduler, self.now)

    def play_again(self) -> None:
        """The same log of events and times gives the same actions."""
        scheduler = self._new_scheduler()
        made: dict[object, object] = {}
        for (name, args, options), wanted in self.log:
            scheduler.table.actions.clear()
            getattr(scheduler, name)(*(arg(made) for arg in args), **options)
            assert [repr(action) for action in scheduler.table.actions] == wanted

    # -- the driver ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry out what the scheduler decides, as `runner/dispatch.py` does."""
        self.scheduler.is_due = True
        if self._is_running:
            return
        self._is_running = True
        self.is_sound = False
        while True:
            while self.table.actions:
                action = self.table.actions.popleft()
                CARRY_OUT[type(action)](self, action)
            if not self.scheduler.is_due:
                break
            self.tell("schedule", self.now)
            self._check_order()
        self._is_running = False
        self._check_that_none_waits_for_nothing()
        self.is_sound = True

    def advance(self, seconds: float) -> None:
        """Let time pass. The scheduler is called whenever it wants to be."""
        end = self.now + seconds
        self._is_advancing = True
        for _ in range(20_000):
            deadline = self.scheduler.deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.tell("tick", self.now)
            self.run()
        else:
            raise AssertionError("the scheduler wants to be called again and again")
        self._is_advancing = False
        self.now = end
        self._check_that_none_is_stuck()
        self._check_titles()
        self._check_limits()

    def _check_order(self) -> None:
        """First come, first served: what is handed out came before all that wait on."""
        orders = [action[1] for action in self.table.actions if isinstance(action, actions.HAND)]
        numbers = [[call.number for call in calls] for calls in orders]
        assert all(each == sorted(each) for each in numbers)
        handed = sorted(number for each in numbers for number in each)
        if handed and self.table.waiting:
            assert handed[-1] < self.table.waiting[0].number, "a call was overtaken"

    def _check_that_none_waits_for_nothing(self) -> None:
        table = self.table
        records = table.slots.values()
        has_free = any(record.is_ready and _is_free(record) and not record.gpus for record in records)
        if table.waiting:
            wanted = min(table.waiting[0].gpus, table.gpus)
            suitable = [record for record in records if not table.gives_gpus or len(record.gpus or ()) == wanted]
            assert not self.is_closed, "a call is kept, and none is started"
            assert not any(map(_is_free, suitable)), "a call waits, and a slot is idle"
            # An idle slot that has the wrong GPUs must end first.
            # So must one that is about to end, and one that has refused a call is tried again at the next tick.
            waits = self._gpus_come_free()
            pauses = table.forks_left == 0 or self.now < table.no_fork_before
            assert not table.may_grow or pauses or waits, "a slot could be forked"
            unsuited = [record for record in records if _is_free(record)]
            assert not unsuited or table.may_grow or waits, "a call waits for the place of a slot that is idle"
            assert self.scheduler.deadline() is not None, "calls wait, and nothing will ever look at them"
        # Answers that are not read yet may hide which slot has calls to give. They are read next.
        if any(slot.unread for slot in self.slots.values()):
            return
        for record in records:
            slot = self.slots[record.pid]
            behind = [call for call in slot.queue if call is not record.in_flight[0]]
            assert not (has_free and behind) or slot.is_closed, "a call waits behind another one, and a slot is idle"

    def _gpus_come_free(self) -> bool:
        """Return whether a slot is to end whose GPUs the calls may need: it is dying, or dead, and takes no call."""
        records = self.table.slots.values()
        return self.table.gives_gpus and any(slot.is_dying or (slot.blocked and not slot.in_flight) for slot in records)

    def _check_that_none_is_stuck(self) -> None:
        """Two calls that wait for each other meet: here, or elsewhere."""
        table = self.table
        latest = self.now - table.stuck_after - SLACK
        if self.quiet_since >= latest:
            return
        for slot in self.slots.values():
            record = slot.record
            if record.in_flight and record.is_ready and record.since < latest - STARVED_FOR * slot.is_starved:
                behind = [call for call in slot.queue if call is not record.in_flight[0]]
                assert not behind, "a call stays behind a long one"
                assert record.in_flight[0].is_reported or record.in_flight[0].is_check
        are_starved = any(slot.is_starved for slot in self.slots.values())
        if table.waiting and table.last_start < latest - STARVED_FOR * are_starved:
            records = table.slots.values()
            ends = any(record.is_retired and not record.in_flight for record in records)
            ends |= self._gpus_come_free()
            pauses = table.may_grow and self.now < table.no_fork_before
            assert ends or pauses, "calls wait here for a long one, and could run elsewhere"

    def _check_titles(self) -> None:
        """A title shows the call that runs, and that runs for long."""
        for slot in self.slots.values():
            record = slot.record
            first = record.in_flight[0] if record.in_flight else None
            assert slot.shows is None or slot.shows is first, "a title shows a call that has ended"
            if first is not None and record.is_ready and record.since < self.now - SHOWN_AFTER - STARVED_FOR - SLACK:
                assert slot.shows is first or first.is_check, "a call that runs for long is not shown"

    def _check_limits(self) -> None:
        for slot in self.slots.values():
            call = slot.running
            if call is None or call.limits is None or slot.record.in_flight[0] is not call:
                continue
            began = slot.began.get(call.ref)
            over = call.limits.ends < self.now - SLACK
            over |= began is not None and began + call.limits.run_timeout < self.now - SLACK
            assert not over or call.end_reason is not None, "a call runs on after its time"

    # -- actions ------------------------------------------------------------------------------------------------------

    def _slot(self, record: SlotRecord) -> PlayedSlot:
        slot = self.slots[record.pid]
        assert slot.record is record
        return slot

    def _dead(self, record: SlotRecord) -> PlayedSlot:
        assert self._ended is not None
        assert self._ended.record is record
        return self._ended

    def _hand(self, action: actions.Hand) -> None:
        slot, calls = self._slot(action[0]), action[1]
        assert not self.is_closed, "a call is started after the end"
        assert not slot.is_closed, "a call goes to a slot that is retired"
        assert not slot.record.is_dying
        assert not slot.record.blocked & FULL, "a call goes to a slot that has refused one"
        self._check_that_not_too_many_run(slot.record)
        assert all(call.is_check or not self.outcomes[call.ref] for call in calls), "a call that has ended is started"
        taken = 0 if slot.is_dead else len(calls) if slot.room is None else min(len(calls), slot.room)
        slot.queue.extend(calls[:taken])
        if taken < len(calls):
            self.tell("hand_refused", slot.record, calls[taken:])

    def _check_that_not_too_many_run(self, record: SlotRecord) -> None:
        """No call is started while as many run as may: those that wait for their child calls do not count."""
        others = [each for each in self.table.slots.values() if each is not record and each.in_flight]
        running = sum(not each.is_lending for each in others)
        assert running < self.table.max_slots + self.table.extra, "too many calls run"

    def _take_back(self, action: actions.TakeBack) -> None:
        slot = self._slot(action.slot)
        refs = {call.ref for call in slot.queue}
        slot.queue.clear()
        self.tell("taken_back", slot.record, refs)

    def _read_answers(self, action: actions.ReadAnswers) -> None:
        slot = self._slot(action.slot)
        self.read(slot)
        self.tell("answers_read", slot.record, action.call)

    def _look_at_progress(self, action: actions.LookAtProgress) -> None:
        slot = self._slot(action.slot)
        self.tell("progress_seen", slot.record, action.call, slot.began.get(action.call.ref), self.now)

    def _look_at_slot(self, action: actions.LookAtSlot) -> None:
        slot = self._slot(action.slot)
        self.read(slot)
        self.tell("slot_seen", slot.record, action.call, slot.is_starved, self.now)

    def _fork(self, action: actions.Fork) -> None:
        assert not self.is_closed, "a slot is forked after the end"
        assert len(action.numbers) <= len(self.table.waiting), "a slot is forked for which no call waits"
        for number in action.numbers:
            if not self.can_fork or self.forks_that_work == 0:
                self.tell("fork_failed", self.now)
                return
            if self.forks_that_work is not None:
                self.forks_that_work -= 1
            self._pids += 1
            slot = PlayedSlot(SlotRecord(self._pids, self.now, number, action.gpus))
            self.slots[self._pids] = slot
            waiting = sum(each.record.is_lending for each in self.slots.values())
            parked = sum(bool(each.record.blocked & PARKED) for each in self.slots.values())
            most = self.table.max_slots + bool(self.table.check.call) + waiting + parked
            assert len(self.slots) <= most, "too many slots"
            self.tell("slot_forked", slot.record)

    def _end_runner(self, action: actions.EndRunner) -> None:
        assert not self.slots
        self.has_given_up = True
        self.close()

    def _retire(self, action: actions.Retire) -> None:
        slot = self._slot(action.slot)
        assert not slot.is_closed, "a slot is retired twice"
        slot.is_closed = True

    def _expect_end(self, action: actions.ExpectEnd) -> None:
        slot = self._slot(action.slot)
        assert slot.is_closed or slot.record.is_retired
        assert slot.running is None or slot.is_dead, "a slot that runs a call is to end"
        assert not slot.queue
        slot.expects_end = True

    def _kill_slot(self, action: actions.KillSlot) -> None:
        """Only the call that is to be stopped may be there."""
        slot = self._slot(action.slot)
        if not self.is_ending:
            assert slot.running is not None, "a slot is killed that runs nothing"
            assert slot.running.end_reason is not None, "a call is killed in place of its neighbour"
            assert not slot.queue, "a call is killed with its neighbour"
        slot.is_dead = True

    def _report_started(self, action: actions.ReportStarted) -> None:
        assert not action.call.is_check
        assert action.slot.in_flight[0] is action.call
        self.started.append(action.call.call_id)

    def _show_call(self, action: actions.ShowCall) -> None:
        slot = self._slot(action.slot)
        assert action.slot.in_flight[0] is action.call
        assert self.now >= action.slot.since + SHOWN_AFTER, "a short call is shown"
        slot.shows = action.call

    def _hide_call(self, action: actions.HideCall) -> None:
        slot = self._slot(action.slot)
        assert slot.shows is not None, "the title of a slot is set again, and shows no call"
        slot.shows = None

    def _report_lost(self, action: actions.ReportLost) -> None:
        slot, call = self._dead(action.slot), action.call
        assert slot.running is call or self._told is call, "a call is lost that the slot did not have"
        self._end(call.ref, "lost")

    def _return_call(self, action: actions.ReturnCall) -> None:
        self._check_unstarted(action.call)
        self._end(action.call.ref, "returned")

    def _report_gone(self, action: actions.ReportGone) -> None:
        ref = (action.call_id, action.attempt)
        assert ref in self.killed
        if action.slot is not None:
            assert self._dead(action.slot).running is self.calls[ref], "a slot was killed for the call of another"
        if ref not in self.calls or self.outcomes[ref]:
            self.reports.append(("gone", action.call_id))  # the parent may not know yet how it has ended
            return
        if action.slot is None:
            self._check_unstarted(self.calls[ref])
        self._end(ref, "gone")

    def _report_timed_out(self, action: actions.ReportTimedOut) -> None:
        call = action.call
        assert call.limits is not None
        if action.slot is None:
            self._check_unstarted(call)
            assert call.limits.ends <= self.now or action.unopened
        else:
            slot = self._dead(action.slot)
            assert slot.running is call
            began = slot.began.get(call.ref)
            is_over = call.limits.ends <= self.now
            is_over |= began is not None and began + call.limits.run_timeout <= self.now
            assert is_over or action.unopened, "a call was stopped before its time"
        self._end(call.ref, "timed out")

    def _answer_check(self, action: actions.AnswerCheck) -> None:
        self.checks.append(action.may_stop)
        assert len(self.checks) <= self.checks_requested

    def _check_unstarted(self, call: SlotCall) -> None:
        for slot in self.slots.values():
            assert slot.running is not call, "a call is returned that runs"
            assert call not in slot.queue, "a call is returned that may still run"

    def _end(self, ref: Ref, how: str) -> None:
        assert not self.outcomes[ref], f"a call ends twice: {self.outcomes[ref]}, {how}"
        self.outcomes[ref].append(how)
        self.reports.append((how, ref[0]))

    # -- the parent ---------------------------------------------------------------------------------------------------

    def arrive(
        self,
        *call_ids: int,
        attempt: int = 1,
        limits: tuple[float, float] | None = None,
        large: int = 0,
        key: int = 0,
        gpus: int = 0,
    ) -> None:
        """Calls come from the parent, all in one read."""
        for call_id in call_ids:
            call = make_call(call_id, attempt, limits, large, key, gpus)
            assert call.ref not in self.calls
            self.calls[call.ref] = call
            self.outcomes[call.ref] = []
            self.tell("call_arrived", call)
        self.run()

    def kill(self, call_id: int, attempt: int = 1) -> None:
        self.killed.add((call_id, attempt))
        self.tell("call_cancelled", call_id, attempt)
        self.run()

    def request_check(self) -> None:
        call = make_call(0, 0, None, 0, is_check=True)
        self.checks_requested += 1
        self.tell("check_requested", call)
        self.run()

    def hold(self) -> None:
        self.tell("hold")

    def release(self, *, fresh: bool) -> None:
        self.tell("release", self.now, fresh=fresh)
        self.run()

    def close(self) -> None:
        self.is_closed = True
        self.tell("close", self.now)
        self.run()

    def end_slots(self) -> None:
        self.is_ending = True
        self.tell("end_slots")
        self.run()

    def chunk(self, call: SlotCall, size: int) -> None:
        self.tell("payload_arrived", call, size, self.now)

    # -- slots --------------------------------------------------------------------------------------------------------

    def get_ready(self, slot: PlayedSlot) -> None:
        """The slot's initializer is done, and the agent has heard that."""
        if not slot.is_ready and not slot.is_dead:
            slot.is_ready = True
            self.tell("slot_ready", slot.record, self.now)
            self.run()

    def take(self, slot: PlayedSlot, *, begin: bool = True) -> None:
        """The slot takes its next call, if it can. The function begins at once, or later."""
        if slot.is_ready and slot.running is None and slot.queue and not slot.is_dead and not slot.is_leaving:
            slot.running = slot.queue.popleft()
            slot.ran += not slot.running.is_check
            self._check_gpus(slot, slot.running)
            if begin:
                self.begin(slot)

    def _check_gpus(self, slot: PlayedSlot, call: SlotCall) -> None:
        """No two calls see a GPU if one of them requires it, unless the other began before any call required some."""
        if not self.table.gives_gpus or (slot.record.is_retired and not call.gpus):
            return
        gpus = slot.record.gpus
        assert gpus is not None
        assert len(gpus) == min(call.gpus, self.table.gpus)
        assert gpus <= set(range(self.table.gpus))
        for other in self.slots.values():
            old = other.running is not None and not other.running.gpus and other.record.is_retired
            lends = {each.running.ref for each in (slot, other) if each.running} & self.table.lenders.keys()
            if other is not slot and other.running is not None and not old and not lends:
                assert not gpus & (other.record.gpus or frozenset()), "two calls have the same GPU"

    def begin(self, slot: PlayedSlot) -> None:
        call = slot.running
        if call is not None and call.missing <= 0 and not slot.is_dead:
            slot.began.setdefault(call.ref, self.now)

    def decline(self, slot: PlayedSlot) -> None:
        """The slot takes its next call, sees that files have changed, and gives it back."""
        if slot.is_ready and slot.running is None and slot.queue and not slot.is_dead and not slot.is_leaving:
            if slot.queue[0].is_check:
                return
            slot.unread.append(("declined", 0.0, slot.queue.popleft()))
            slot.is_leaving = True

    def finish(self, slot: PlayedSlot, seconds: float = 1e-5, *, takes_next: bool = True) -> None:
        """The running call ends: its answer is on its way. The next call is taken, if there is one."""
        call = slot.running
        if call is None or slot.is_dead:
            return
        slot.waits_for = None
        slot.unread.append(("check" if call.is_check else "result", seconds, call))
        slot.running = None
        slot.began.pop(call.ref, None)
        if takes_next:
            self.take(slot)

    def wait_for(self, slot: PlayedSlot, child: int) -> None:
        """The running call submits another call, and waits for it."""
        call = slot.running
        if call is None or call.is_check or slot.is_dead or slot.waits_for is not None:
            return
        self.begin(slot)
        if call.missing <= 0:
            slot.waits_for = (child, 1)
            self.arrive(child)
            self.read(slot)
            self.tell("waits_for_children", slot.record, call.ref, waits=True)
            self.run()

    def go_on(self, slot: PlayedSlot) -> None:
        """The running call waits no longer."""
        if slot.waits_for is not None and slot.running is not None and not slot.is_dead:
            slot.waits_for = None
            self.tell("waits_for_children", slot.record, slot.running.ref, waits=False)
            self.run()

    def starve(self, slot: PlayedSlot, *, is_starved: bool) -> None:
        """The slot lacks processor time from now on, or gets some."""
        slot.is_starved = is_starved
        self.quiet_since = self.now

    def read(self, slot: PlayedSlot) -> None:
        """The agent reads what the slot has answered."""
        unread, slot.unread = slot.unread, []
        times: list[float] = []
        for number, (kind, seconds, call) in enumerate(unread):
            assert slot.record.in_flight[len(times)] is call, "an answer is taken for that of another call"
            if kind == "declined":
                self.tell("declined", slot.record)
            elif kind == "check":
                self.tell("check_answered", slot.record, seconds > 0, self.now)
            else:
                self._end(call.ref, "result")
                times.append(seconds)
                # The results between two other answers are one event.
                if number + 1 == len(unread) or unread[number + 1][0] != "result":
                    self.tell("answered", slot.record, times, self.now)
                    times = []
        self.run()

    def answer(self, slot: PlayedSlot, seconds: float = 1e-5) -> None:
        """The running call ends, and the agent hears of it at once."""
        self.take(slot)
        self.finish(slot, seconds)
        self.read(slot)

    def reap(self, slot: PlayedSlot, *, tell: bool = False) -> None:
        """The agent finds a slot that has ended."""
        assert slot.is_dead
        self.read(slot)
        record = slot.record
        if tell and not record.is_ready and record.in_flight:
            self._told = record.in_flight[0]
        del self.slots[record.pid]
        self._ended = slot
        self.tell("slot_ended", record, {call.ref for call in slot.queue}, tell=tell)
        slot.queue.clear()
        self.run()
        self._told = self._ended = None

    def hold_back(self, slot: PlayedSlot) -> None:
        self.tell("hold_back", slot.record)
        self.run()

    def fail_setup(self, slot: PlayedSlot) -> None:
        if not slot.is_ready:
            self.tell("slot_dying", slot.record)
            slot.is_dead = True

    # -- the end ------------------------------------------------------------------------------------------------------

    def play_out(self) -> None:
        """Be a world in which everything works from now on, and see everything end."""
        self.can_fork, self.forks_that_work = True, None
        if self.table.is_holding:
            self.release(fresh=False)
        for _ in range(10 + 6 * len(self.calls)):
            for slot in list(self.slots.values()):
                self._go_on(slot)
            self.advance(0.2)
            if all(self.outcomes[ref] for ref in self.calls) and len(self.checks) == self._answers_due():
                break
        left = [ref for ref in self.calls if not self.outcomes[ref]]
        assert not left, f"calls that never end: {left}"
        assert all(len(each) == 1 for each in self.outcomes.values())
        assert self.table.is_idle
        self.play_again()

    def _answers_due(self) -> int:
        return len(self.checks) + (self.table.check.call is not None)

    def _go_on(self, slot: PlayedSlot) -> None:
        slot.room = None
        if slot.is_dead:
            self.reap(slot)
            return
        self.get_ready(slot)
        if slot.running is not None:
            slot.running.missing = 0
        self.take(slot)
        if slot.waits_for is not None and not self.outcomes[slot.waits_for]:
            return
        self.go_on(slot)
        self.finish(slot)
        self.read(slot)
        if slot.is_closed and slot.running is None and not slot.queue:
            slot.is_dead = True  # it has come to the end of its queue
        if slot.is_dead and not slot.unread:
            self.reap(slot)


def _is_free(record: SlotRecord) -> bool:
    return not record.in_flight and not record.blocked


def make_call(
    call_id: int,
    attempt: int,
    limits: tuple[float, float] | None,
    large: int,
    key: int = 0,
    gpus: int = 0,
    *,
    is_check: bool = False,
) -> SlotCall:
    call = SlotCall(call_id, attempt, b"packet")
    call.key, call.gpus = key, gpus
    call.is_check = is_check
    call.is_large, call.missing = large > 0, large
    if limits is not None:
        call.limits = RunLimits(*limits)
    return call


def _told(arg: object) -> Callable[[dict[object, object]], object]:
    """How to say the same to another scheduler, which has its own slots and calls."""
    if isinstance(arg, SlotRecord):
        pid, since, number, gpus = arg.pid, arg.since, arg.number, arg.gpus
        return lambda made: made.setdefault(("slot", pid), SlotRecord(pid, since, number, gpus))
    if isinstance(arg, SlotCall):
        ref, is_check = arg.ref, arg.is_check
        limits = None if arg.limits is None else (arg.limits.time_left, arg.limits.run_timeout)
        large, key, wanted, same = arg.missing, arg.key, arg.gpus, id(arg)
        return lambda made: made.setdefault(same, make_call(*ref, limits, large, key, wanted, is_check=is_check))
    if isinstance(arg, list):
        parts = [_told(each) for each in arg]
        return lambda made: [part(made) for part in parts]
    return lambda made: arg


CARRY_OUT: dict[type, Callable[[SlotWorld, Any], None]] = {
    actions.HAND: SlotWorld._hand,
    actions.TakeBack: SlotWorld._take_back,
    actions.ReadAnswers: SlotWorld._read_answers,
    actions.LookAtProgress: SlotWorld._look_at_progress,
    actions.LookAtSlot: SlotWorld._look_at_slot,
    actions.Fork: SlotWorld._fork,
    actions.EndRunner: SlotWorld._end_runner,
    actions.Retire: SlotWorld._retire,
    actions.ExpectEnd: SlotWorld._expect_end,
    actions.KillSlot: SlotWorld._kill_slot,
    actions.ReportStarted: SlotWorld._report_started,
    actions.ShowCall: SlotWorld._show_call,
    actions.HideCall: SlotWorld._hide_call,
    actions.ReportLost: SlotWorld._report_lost,
    actions.ReturnCall: SlotWorld._return_call,
    actions.ReportGone: SlotWorld._report_gone,
    actions.ReportTimedOut: SlotWorld._report_timed_out,
    actions.AnswerCheck: SlotWorld._answer_check,
}
