"""Drives the scheduler of the runner: tells it what happens, and carries out what it decides.

`core/slot_scheduler.py` makes all decisions. This module has the clock, the slots' sockets and the link to the parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from dragonfly_executor.core import slot_actions as actions
from dragonfly_executor.core.slot_idle_check import LIMIT
from dragonfly_executor.core.slot_records import NEVER, RunLimits, SlotCall, SlotRecord
from dragonfly_executor.core.slot_scheduler import SlotScheduler
from dragonfly_executor.protocol.frames import (
    CALL_OPTIONS,
    HEADER_SIZE,
    MAX_DETAIL,
    TOTAL,
    Flag,
    Frame,
    Kind,
    encode,
)
from dragonfly_executor.runner import slot_crash
from dragonfly_executor.runner.oom_kills import MemoryWatch
from dragonfly_executor.runner.slot_handle import Slot
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.runner.memory_cgroups import MemoryCgroups


class Dispatcher:
    """The driver of the scheduler, and the handles of the slots.

    Args:
        loop: the agent's event loop.
        send: sends a frame to the parent.
        fork_slots: forks the slots with these numbers, each with these GPUs, until there is no room for one. Returns
            the slots, and the error if there is one.
    """

    def __init__(
        self,
        loop: Loop,
        send: Callable[[bytes], None],
        fork_slots: Callable[[Sequence[int], frozenset[int] | None], tuple[list[Slot], OSError | None]],
    ) -> None:
        self._loop = loop
        self._send = send
        self._fork_slots = fork_slots
        self._scheduler = SlotScheduler(loop.time())
        self._table = self._scheduler.table
        self.slots: dict[int, Slot] = {}
        """Living slots by process id."""
        self.memory: MemoryWatch | None = None
        self.memory_groups: MemoryCgroups | None = None
        """The cgroups that limit the memory of calls; None if there are none."""
        self.on_memory_required: Callable[[], MemoryCgroups | None] = lambda: None
        """Callback for the first call that requires memory, before a slot gets it: makes the cgroups."""
        self._has_required_memory = False
        self.stopped_after: float | None = None
        """Seconds that calls had to finish after an external stop of the runner, once these are over."""
        self.on_no_slots: Callable[[OSError], object] = lambda error: None
        """Callback for a runner that has no slot and could not fork one."""
        self._fork_error = OSError("no fork has failed")
        self._has_logged_fork_error = False
        self._dead: dict[int, tuple[Slot, int]] = {}
        """Slots whose end is being handled, and their wait status, by process id."""
        self._timer: Timer | None = None
        self._timer_at = NEVER
        self._is_running = False
        self._do: dict[type, Callable[[Any], None]] = {
            actions.HAND: self._hand,
            actions.TakeBack: self._take_back,
            actions.ReadAnswers: self._read_answers,
            actions.LookAtProgress: self._look_at_progress,
            actions.LookAtSlot: self._look_at_slot,
            actions.Fork: self._fork,
            actions.EndRunner: self._end_runner,
            actions.Retire: lambda action: self.slots[action.slot.pid].retire(),
            actions.ExpectEnd: lambda action: self.slots[action.slot.pid].expect_end(),
            actions.KillSlot: lambda action: self.slots[action.slot.pid].kill(),
            actions.ReportStarted: self._report_started,
            actions.ShowCall: lambda action: self.slots[action.slot.pid].show_call(action.call.call_id),
            actions.HideCall: lambda action: self.slots[action.slot.pid].show_call(0),
            actions.ReportLost: self._report_lost,
            actions.ReturnCall: self._return_call,
            actions.ReportGone: self._report_gone,
            actions.ReportTimedOut: self._report_timed_out,
            actions.AnswerCheck: self._answer_check,
        }

    def configure(self, slots: int, calls_per_slot: int, setup_timeout: float, gpus: int = 0) -> None:
        """Apply the limits of the parent's WELCOME.

        Args:
            slots: number of calls that may run at once.
            calls_per_slot: calls after which a slot is replaced; 0 for no limit.
            setup_timeout: seconds for decoding a call that has a `run_timeout`, unless its `run_timeout` is longer.
            gpus: number of GPUs that are given to calls which require some.
        """
        self._table.gpus = gpus
        self._table.max_slots = slots
        self._table.calls_per_slot = calls_per_slot
        self._table.opening = setup_timeout

    @property
    def is_idle(self) -> bool:
        """Return True if no call is on this runner."""
        return self._table.is_idle

    def has_worked_since(self, when: float) -> bool:
        """Return True if a call is here, or if one started since that moment.

        Args:
            when: a time on the loop's clock, in seconds.
        """
        return self._table.last_start >= when or not self._table.is_idle

    def call(self, call_id: int, attempt: int) -> SlotCall | None:
        """Return the call with this id if it is in a slot."""
        return self._table.calls.get((call_id, attempt))

    # -- events: each is followed by `dispatch` -----------------------------------------------------------------------

    def call_arrived(self, frame: Frame) -> None:
        """Accept a call. The caller calls `dispatch` after the last of several."""
        _, flags, attempt, cell, call_id, packet = frame
        call = SlotCall(call_id, attempt, packet, cell)
        if flags:
            memory = _read_flags(call, flags)
            if memory and not self._has_required_memory:
                self._has_required_memory = True
                self.memory_groups = self.on_memory_required()
        self._scheduler.call_arrived(call)

    def waits_for_children(self, slot: Slot, frame: Frame) -> None:
        """Record that a slot's running call waits for calls that it has submitted, or goes on after that."""
        ref, waits = (frame.call_id, frame.attempt), not frame.flags & Flag.END
        self._scheduler.waits_for_children(slot.record, ref, waits=waits)

    def payload_arrived(self, call: SlotCall, size: int) -> None:
        """Record that `size` more bytes of a large payload are in the slot."""
        self._scheduler.payload_arrived(call, size, self._loop.time())

    def shared_requested(self, call: SlotCall) -> None:
        """Record that a call waits for a shared object."""
        self._scheduler.shared_requested(call)

    def shared_answered(self, call: SlotCall) -> None:
        """Record that a call waits for one shared object less."""
        self._scheduler.payload_arrived(call, 1, self._loop.time())

    def answered(self, slot: Slot, times: Iterable[float]) -> None:
        """Record the slot's results of its first calls, and how long these took. The caller then calls `dispatch`."""
        self._scheduler.answered(slot.record, times, self._loop.time())

    def declined(self, slot: Slot) -> None:
        """Handle that the slot gave its first call back. The caller then calls `dispatch`."""
        self._scheduler.declined(slot.record)

    def check_answered(self, slot: Slot, *, may_stop: bool) -> None:
        """Handle the answer of the idle check, which is the slot's first call. The caller then calls `dispatch`."""
        self._scheduler.check_answered(slot.record, may_stop, self._loop.time())

    def check_idle(self, frame: Frame) -> None:
        """Run the user's idle check in a slot, unless calls are here."""
        check = SlotCall(frame.call_id, frame.attempt, frame.raw)
        check.is_check = True
        self._scheduler.check_requested(check)
        self.dispatch()

    def kill(self, call_id: int, attempt: int) -> None:
        """Stop a call without harming other calls. GONE tells the parent that the call is no longer here."""
        self._scheduler.call_cancelled(call_id, attempt)
        self.dispatch()

    def slot_is_ready(self, slot: Slot) -> None:
        """Start the clocks of the slot's first call: its initializer is done."""
        self._scheduler.slot_ready(slot.record, self._loop.time())
        self.dispatch()

    def slot_is_dying(self, slot: Slot) -> None:
        """Hand no more calls to the slot: the caller kills it, or its setup has failed."""
        self._scheduler.slot_dying(slot.record)

    def slot_ended(self, slot: Slot, status: int, *, tell: bool) -> None:
        """Report the end of each call that the slot had started, and put the others back into the queue.

        Args:
            slot: the slot that ended.
            status: its wait status.
            tell: also report the first call of a slot that died before it was ready.
        """
        del self.slots[slot.pid]
        self._dead[slot.pid] = slot, status
        self._scheduler.slot_ended(slot.record, slot.take_back(), tell=tell)
        self.dispatch()
        del self._dead[slot.pid]

    def hold(self) -> None:
        """Hold the calls that arrive from now on, until `release`."""
        self._scheduler.hold()

    def release(self, *, fresh: bool) -> None:
        """Start the held calls. If `fresh`, start them only in slots that are forked from now on."""
        self._scheduler.release(self._loop.time(), fresh=fresh)
        self.dispatch()

    def hold_back(self, slot: Slot) -> None:
        """Take back the calls behind the slot's running call, and queue none there until it is answered."""
        self._scheduler.hold_back(slot.record)
        self.dispatch()

    def close(self) -> None:
        """Start no more calls. Calls that slots have not taken, and calls that still arrive, go back to the parent."""
        self._scheduler.close(self._loop.time())
        self.dispatch()

    def end_slots(self) -> None:
        """End every slot. Slots that run a call are killed, the others end by themselves."""
        self._scheduler.end_slots()
        self.dispatch()

    def dispatch(self) -> None:
        """Carry out the scheduler's decisions, until it has no more to decide now."""
        table = self._table
        # After the last answer there is nothing to decide.
        if table.actions or table.waiting or table.calls:
            self._carry_out()
        if table.wake_at < self._timer_at:
            self._set_timer()

    def _carry_out(self) -> None:
        scheduler, queue, do = self._scheduler, self._table.actions, self._do
        scheduler.is_due = True
        if self._is_running:
            return  # an action has led here: the pass that carries it out goes on with the rest
        self._is_running = True
        while True:
            while queue:
                action = queue.popleft()
                do[type(action)](action)
            if not scheduler.is_due:
                break
            scheduler.schedule(self._loop.time())
        self._is_running = False

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._table.wake_at
        self._timer = None if self._timer_at == NEVER else self._loop.call_at(self._timer_at, self._tick)

    def _tick(self) -> None:
        self._scheduler.tick(self._loop.time())
        self._carry_out()
        self._set_timer()

    # -- actions on slots ---------------------------------------------------------------------------------------------

    def _hand(self, action: actions.Hand) -> None:
        slot, calls = action
        handed = self.slots[slot.pid].hand(calls)
        if handed < len(calls):
            self._scheduler.hand_refused(slot, calls[handed:])

    def _take_back(self, action: actions.TakeBack) -> None:
        self._scheduler.taken_back(action.slot, self.slots[action.slot.pid].take_back())

    def _read_answers(self, action: actions.ReadAnswers) -> None:
        slot, call = action.slot, action.call
        # Also past a full window of output: the slot must not be killed for a call that it has answered. It holds one
        # call behind that at most, so this reads little.
        self.slots[slot.pid].link.drain_until(lambda: call.slot is not slot)
        self._scheduler.answers_read(slot, call)

    def _look_at_progress(self, action: actions.LookAtProgress) -> None:
        call = action.call
        began = self.slots[action.slot.pid].progress.began(call.call_id, call.attempt)
        self._scheduler.progress_seen(action.slot, call, began, self._loop.time())

    def _look_at_slot(self, action: actions.LookAtSlot) -> None:
        slot, call = self.slots[action.slot.pid], action.call
        slot.link.drain_reads()
        self._scheduler.slot_seen(action.slot, call, slot.is_starved(call), self._loop.time())

    def _fork(self, action: actions.Fork) -> None:
        slots, error = self._fork_slots(action.numbers, action.gpus)
        for slot in slots:
            self.slots[slot.pid] = slot
            self._scheduler.slot_forked(slot.record)
        if error is not None:
            if self.slots and not self._has_logged_fork_error:
                self._has_logged_fork_error = True
                # Once, because the fork is retried each second from now on.
                count = len(self.slots)
                os.write(2, f"dragonfly runner: no room for another slot, only for {count}: {error}\n".encode())
            self._fork_error = error
            self._scheduler.fork_failed(self._loop.time())

    def _end_runner(self, action: actions.EndRunner) -> None:
        self.on_no_slots(self._fork_error)

    # -- actions on the parent ----------------------------------------------------------------------------------------

    def _report_started(self, action: actions.ReportStarted) -> None:
        self._send(encode(Kind.STARTED, action.call.call_id, attempt=action.call.attempt, detail=action.slot.number))

    def _return_call(self, action: actions.ReturnCall) -> None:
        self._send(encode(Kind.RETURNED, action.call.call_id, attempt=action.call.attempt))

    def _report_gone(self, action: actions.ReportGone) -> None:
        self._send_end(action.slot, encode(Kind.GONE, action.call_id, attempt=action.attempt))

    def _report_timed_out(self, action: actions.ReportTimedOut) -> None:
        call, unopened = action.call, min(action.unopened, MAX_DETAIL)
        self._send_end(action.slot, encode(Kind.TIMED_OUT, call.call_id, attempt=call.attempt, detail=unopened))

    def _report_lost(self, action: actions.ReportLost) -> None:
        slot, status = self._dead[action.slot.pid]
        call = action.call
        payload = slot_crash.describe(call, slot, status, self.memory, self.memory_groups, self.stopped_after)
        self._send_end(action.slot, encode(Kind.LOST, call.call_id, payload, attempt=call.attempt))

    def _send_end(self, record: SlotRecord | None, frame: bytes) -> None:
        """Send the frame that ends a call: behind the call's output, if the slot that ended ran it."""
        send = None if record is None else self._dead[record.pid][0].answer
        (send or self._send)(frame)

    def _answer_check(self, action: actions.AnswerCheck) -> None:
        warning = (
            ""
            if action.killed is None
            else (
                f"the idle check did not end within {LIMIT:g} s: its slot (process {action.killed}) was killed,"
                " and the runner is kept"
            )
        )
        self._send(encode(Kind.IDLE, payload=warning.encode(), detail=int(action.may_stop)))


def _read_flags(call: SlotCall, flags: int) -> int:
    """Read what the flags of a CALL say is in its payload. Return the bytes of memory that the call requires."""
    packet, memory = call.packet, 0
    if flags & Flag.OPTIONS:
        time_left, run_timeout, call.key, memory, call.gpus = CALL_OPTIONS.unpack_from(packet, HEADER_SIZE)
        if time_left != NEVER or run_timeout != NEVER:
            call.limits = RunLimits(time_left, run_timeout)
    if flags & Flag.LARGE:
        call.is_large = True
        call.missing = TOTAL.unpack(packet[-TOTAL.size :])[0]
    return memory
