"""A world plays with the scheduler of a runner: whatever happens, in whatever order, its promises hold.

1. Each call is in exactly one place, and ends exactly once.
2. Two calls that wait for each other meet: none stays behind a long one while a slot is idle or could be forked, and if
   there is none, it goes back to the parent within milliseconds.
3. No neighbour is hit: what ends one call ends no other.
4. First come, first served: the queue is in order of arrival, and only its head is handed out.
5. Nothing is handed to a slot that is retired or dying; there are never more slots than allowed.
6. After a close nothing starts, and everything that has not started goes back.
7. The same log of events and times gives the same actions.

What a state shows is checked in `validate_slots`, what only the course of events shows in `SlotWorld`.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.support.slot_world import PlayedSlot, SlotWorld

SMALL = st.integers(0, 7)
COSTS = st.sampled_from([1e-5, 1e-5, 1e-4, 0.0005, 0.002, 0.05])
INFINITY = float("inf")
LIMITS = st.sampled_from(
    [None, None, None, (0.0, INFINITY), (0.005, INFINITY), (1.0, 0.5), (INFINITY, 0.002), (INFINITY, 5.0), (0.2, 0.1)]
)


class SchedulerAndWorld(RuleBasedStateMachine):
    """Rules choose by small numbers, taken modulo what there is to choose from: so nearly every step does something."""

    @initialize(
        slots=st.integers(1, 3), calls_per_slot=st.sampled_from([0, 0, 0, 1, 3]), opening=st.sampled_from([30.0, 0.2])
    )
    def open(self, slots: int, calls_per_slot: int, opening: float) -> None:
        self.world = SlotWorld(slots, calls_per_slot, opening)
        self.last_id = 0

    def slot(self, which: int) -> PlayedSlot | None:
        slots = list(self.world.slots.values())
        return slots[which % len(slots)] if slots else None

    def live_slot(self, which: int) -> PlayedSlot | None:
        slots = [slot for slot in self.world.slots.values() if not slot.is_dead]
        return slots[which % len(slots)] if slots else None

    @rule(count=st.sampled_from([1, 1, 2, 5, 12]), limits=LIMITS, large=st.sampled_from([0, 0, 0, 0, 100]))
    def calls_arrive(self, count: int, limits: tuple[float, float] | None, large: int) -> None:
        numbers = range(self.last_id + 1, self.last_id + 1 + count)
        self.last_id += count
        self.world.arrive(*numbers, limits=limits, large=large)

    @rule(limits=LIMITS, kinds=st.lists(st.booleans(), min_size=2, max_size=4))
    def calls_of_two_kinds_arrive(self, limits: tuple[float, float] | None, kinds: list[bool]) -> None:
        for has_limits in kinds:
            self.last_id += 1
            self.world.arrive(self.last_id, limits=limits if has_limits else None)

    @rule(which=SMALL)
    def slot_gets_ready(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.get_ready(slot)

    @rule()
    def all_slots_get_ready_and_take_calls(self) -> None:
        for slot in list(self.world.slots.values()):
            self.world.get_ready(slot)
            self.world.take(slot)

    @rule(which=SMALL, begin=st.booleans())
    def slot_takes_a_call(self, which: int, begin: bool) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.take(slot, begin=begin)

    @rule(which=SMALL)
    def function_begins(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.begin(slot)

    @rule(which=SMALL, cost=COSTS, takes_next=st.booleans(), count=st.integers(1, 3), reads=st.booleans())
    def calls_finish(self, which: int, cost: float, takes_next: bool, count: int, reads: bool) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            for _ in range(count):
                self.world.take(slot)
                self.world.finish(slot, cost, takes_next=takes_next)
            if reads:
                self.world.read(slot)

    @rule(cost=COSTS, rounds=st.integers(1, 4))
    def things_go_well(self, cost: float, rounds: int) -> None:
        for _ in range(rounds):
            for slot in list(self.world.slots.values()):
                self.world.get_ready(slot)
                self.world.take(slot)
                self.world.advance(min(cost, 0.001))
                self.world.finish(slot, cost)
                self.world.read(slot)

    @rule(which=SMALL)
    def agent_reads(self, which: int) -> None:
        slot = self.slot(which)
        if slot is not None:
            self.world.read(slot)

    @rule(which=SMALL, rare=SMALL)
    def slot_declines(self, which: int, rare: int) -> None:
        slot = self.live_slot(which)
        if slot is not None and rare < 3:
            self.world.decline(slot)

    @rule(which=SMALL, rare=SMALL, reaped=st.booleans(), tell=st.booleans())
    def slot_dies(self, which: int, rare: int, reaped: bool, tell: bool) -> None:
        slot = self.slot(which)
        if slot is not None and rare < 3:
            slot.is_dead = True
            if reaped:
                self.world.reap(slot, tell=tell)

    @rule(tell=st.booleans())
    def dead_slots_are_found(self, tell: bool) -> None:
        for slot in list(self.world.slots.values()):
            if slot.is_dead or slot.is_leaving or (slot.expects_end and slot.running is None and not slot.queue):
                slot.is_dead = True
                self.world.reap(slot, tell=tell)

    @rule(which=SMALL)
    def setup_fails(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.fail_setup(slot)

    @rule(which=st.integers(0, 30), strange=SMALL)
    def call_is_cancelled(self, which: int, strange: int) -> None:
        open_calls = [ref for ref, outcomes in self.world.outcomes.items() if ref[0] and not outcomes]
        if open_calls and strange:
            self.world.kill(*open_calls[which % len(open_calls)])
        else:
            self.world.kill(which + 1)

    @rule(which=SMALL)
    def running_call_is_cancelled(self, which: int) -> None:
        running = [slot.running for slot in self.world.slots.values() if slot.running is not None]
        refs = [call.ref for call in running if not call.is_check]
        if refs:
            self.world.kill(*refs[which % len(refs)])

    @rule(seconds=st.sampled_from([0.0, 0.0005, 0.003, 0.0031, 0.01, 0.1, 0.4, 1.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def the_deadline_comes(self) -> None:
        deadline = self.world.scheduler.deadline()
        if deadline is not None:
            self.world.advance(max(0.0, deadline - self.world.now))

    @rule(rare=SMALL)
    def files_change(self, rare: int) -> None:
        if rare < 4:
            self.world.hold()

    @rule(fresh=st.booleans())
    def files_have_changed(self, fresh: bool) -> None:
        if self.world.table.is_holding:
            self.world.release(fresh=fresh)

    @rule()
    def check_is_requested(self) -> None:
        self.world.request_check()

    @rule(fails=st.booleans())
    def forks_fail(self, fails: bool) -> None:
        self.world.can_fork = not fails

    @rule(which=SMALL, refuses=st.booleans())
    def slot_refuses(self, which: int, refuses: bool) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            slot.refuses = refuses

    @rule(which=SMALL)
    def output_is_read(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None and slot.record.is_ready and slot.record.in_flight:
            self.world.hold_back(slot)

    @rule(which=SMALL, all_of_it=st.booleans())
    def payload_arrives(self, which: int, all_of_it: bool) -> None:
        large = [slot.running for slot in self.world.slots.values() if slot.running is not None]
        large = [call for call in large if call.missing > 0]
        if large:
            call = large[which % len(large)]
            self.world.chunk(call, call.missing if all_of_it else 1)

    @rule(rare=st.integers(0, 15))
    def runner_closes(self, rare: int) -> None:
        if rare == 0:
            self.world.close()

    @rule(rare=st.integers(0, 31))
    def runner_ends(self, rare: int) -> None:
        if rare == 0:
            self.world.close()
            self.world.end_slots()

    def teardown(self) -> None:
        if hasattr(self, "world") and self.world.is_sound:
            self.world.play_out()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_course_of_events_keeps_the_promises() -> None:
    course = settings(max_examples=1000, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(SchedulerAndWorld, settings=course)
