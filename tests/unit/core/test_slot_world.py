"""A world plays with the scheduler of a runner: whatever happens, in whatever order, its promises hold.

1. Each call is in exactly one place, and ends exactly once.
2. Two calls that wait for each other meet: none stays behind a long one while a slot is idle or could be forked, and if
   there is none, it goes back to the parent within milliseconds.
3. No neighbour is hit: what ends one call ends no other.
4. First come, first served: the queue is in order of arrival, and only its head is handed out.
5. Nothing is handed to a slot that is retired or dying; there are never more slots than allowed.
6. After a close nothing starts, and everything that has not started goes back.
7. A call that requires GPUs runs in a slot that has as many, and no other call sees them, unless it began before.
8. The same log of events and times gives the same actions.

What a state shows is checked in `validate_slots`, what only the course of events shows in `SlotWorld`.
"""

from __future__ import annotations

from itertools import product

import pytest

from tests.support.courses import StateMachine, check_courses, opening, step
from tests.support.slot_world import PlayedSlot, SlotWorld

SMALL = range(8)
BOTH = (False, True)
COSTS = [1e-5, 1e-5, 1e-4, 0.0005, 0.002, 0.05]
INFINITY = float("inf")
LIMITS = [
    None, None, None, (0.0, INFINITY), (0.005, INFINITY), (1.0, 0.5), (INFINITY, 0.002), (INFINITY, 5.0), (0.2, 0.1),
]  # fmt: skip
SOME_HAVE_LIMITS = [list(each) for count in (2, 3, 4) for each in product(BOTH, repeat=count)]


class SchedulerAndWorld(StateMachine):
    """Steps choose by small numbers, taken modulo what there is to choose from: so nearly every step does something."""

    @opening(slots=range(1, 4), calls_per_slot=[0, 0, 0, 1, 3], setup_timeout=[30.0, 0.2], gpus=[0, 0, 1, 2, 3, 5])
    def open(self, slots: int, calls_per_slot: int, setup_timeout: float, gpus: int) -> None:
        self.world = SlotWorld(slots, calls_per_slot, setup_timeout, gpus)
        self.last_id = 0

    def slot(self, which: int) -> PlayedSlot | None:
        slots = list(self.world.slots.values())
        return slots[which % len(slots)] if slots else None

    def live_slot(self, which: int) -> PlayedSlot | None:
        slots = [slot for slot in self.world.slots.values() if not slot.is_dead]
        return slots[which % len(slots)] if slots else None

    @step(count=[1, 1, 2, 5, 12], limits=LIMITS, large=[0, 0, 0, 0, 100], key=[0, 0, 1, 2])
    def calls_arrive(self, count: int, limits: tuple[float, float] | None, large: int, key: int) -> None:
        numbers = range(self.last_id + 1, self.last_id + 1 + count)
        self.last_id += count
        self.world.arrive(*numbers, limits=limits, large=large, key=key)

    @step(limits=LIMITS, kinds=SOME_HAVE_LIMITS)
    def calls_of_two_kinds_arrive(self, limits: tuple[float, float] | None, kinds: list[bool]) -> None:
        for has_limits in kinds:
            self.last_id += 1
            self.world.arrive(self.last_id, limits=limits if has_limits else None)

    @step(each=[1, 1, 2, 3], count=[1, 1, 2], key=[0, 0, 1])
    def calls_that_require_gpus_arrive(self, each: int, count: int, key: int) -> None:
        for _ in range(count):
            # As the parent does, which counts the GPUs of a runner.
            calls = [call for ref, call in self.world.calls.items() if not self.world.outcomes[ref]]
            if sum(call.gpus for call in calls) + each <= self.world.table.gpus:
                self.last_id += 1
                self.world.arrive(self.last_id, gpus=each, key=key)

    @step(which=SMALL)
    def slot_gets_ready(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.get_ready(slot)

    @step()
    def all_slots_get_ready_and_take_calls(self) -> None:
        for slot in list(self.world.slots.values()):
            self.world.get_ready(slot)
            self.world.take(slot)

    @step(which=SMALL, begin=BOTH)
    def slot_takes_a_call(self, which: int, begin: bool) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.take(slot, begin=begin)

    @step(which=SMALL)
    def function_begins(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.begin(slot)

    @step(which=SMALL, cost=COSTS, takes_next=BOTH, count=range(1, 4), reads=BOTH)
    def calls_finish(self, which: int, cost: float, takes_next: bool, count: int, reads: bool) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            for _ in range(count):
                self.world.take(slot)
                self.world.finish(slot, cost, takes_next=takes_next)
            if reads:
                self.world.read(slot)

    @step(cost=COSTS, rounds=range(1, 5))
    def things_go_well(self, cost: float, rounds: int) -> None:
        for _ in range(rounds):
            for slot in list(self.world.slots.values()):
                self.world.get_ready(slot)
                self.world.take(slot)
                self.world.advance(min(cost, 0.001))
                self.world.finish(slot, cost)
                self.world.read(slot)

    @step(which=SMALL)
    def agent_reads(self, which: int) -> None:
        slot = self.slot(which)
        if slot is not None:
            self.world.read(slot)

    @step(which=SMALL, rare=SMALL)
    def slot_declines(self, which: int, rare: int) -> None:
        slot = self.live_slot(which)
        if slot is not None and rare < 3:
            self.world.decline(slot)

    @step(which=SMALL, rare=SMALL, reaped=BOTH, tell=BOTH)
    def slot_dies(self, which: int, rare: int, reaped: bool, tell: bool) -> None:
        slot = self.slot(which)
        if slot is not None and rare < 3:
            slot.is_dead = True
            if reaped:
                self.world.reap(slot, tell=tell)

    @step(tell=BOTH)
    def dead_slots_are_found(self, tell: bool) -> None:
        for slot in list(self.world.slots.values()):
            if slot.is_dead or slot.is_leaving or (slot.expects_end and slot.running is None and not slot.queue):
                slot.is_dead = True
                self.world.reap(slot, tell=tell)

    @step(which=SMALL)
    def setup_fails(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.fail_setup(slot)

    @step(which=range(31), strange=SMALL)
    def call_is_cancelled(self, which: int, strange: int) -> None:
        open_calls = [ref for ref, outcomes in self.world.outcomes.items() if ref[0] and not outcomes]
        if open_calls and strange:
            self.world.kill(*open_calls[which % len(open_calls)])
        else:
            self.world.kill(which + 1)

    @step(which=SMALL)
    def running_call_is_cancelled(self, which: int) -> None:
        running = [slot.running for slot in self.world.slots.values() if slot.running is not None]
        refs = [call.ref for call in running if not call.is_check]
        if refs:
            self.world.kill(*refs[which % len(refs)])

    @step(seconds=[0.0, 0.0005, 0.003, 0.0031, 0.01, 0.1, 0.4, 1.0, 11.0])
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @step()
    def the_deadline_comes(self) -> None:
        deadline = self.world.scheduler.deadline()
        if deadline is not None:
            self.world.advance(max(0.0, deadline - self.world.now))

    @step(rare=SMALL)
    def files_change(self, rare: int) -> None:
        if rare < 4:
            self.world.hold()

    @step(fresh=BOTH)
    def files_have_changed(self, fresh: bool) -> None:
        if self.world.table.is_holding:
            self.world.release(fresh=fresh)

    @step()
    def check_is_requested(self) -> None:
        self.world.request_check()

    @step(fails=BOTH)
    def forks_fail(self, fails: bool) -> None:
        self.world.can_fork = not fails

    @step(which=SMALL, room=[None, None, 0, 0, 1, 3])
    def slot_refuses(self, which: int, room: int | None) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            slot.room = room

    @step(which=SMALL, is_starved=BOTH)
    def slot_lacks_processor_time(self, which: int, is_starved: bool) -> None:
        slot = self.slot(which)
        if slot is not None:
            self.world.starve(slot, is_starved=is_starved)

    @step(which=SMALL)
    def output_is_read(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None and slot.record.is_ready and slot.record.in_flight:
            self.world.hold_back(slot)

    @step(which=SMALL, all_of_it=BOTH)
    def payload_arrives(self, which: int, all_of_it: bool) -> None:
        large = [slot.running for slot in self.world.slots.values() if slot.running is not None]
        large = [call for call in large if call.missing > 0]
        if large:
            call = large[which % len(large)]
            self.world.chunk(call, call.missing if all_of_it else 1)

    @step(rare=range(16))
    def runner_closes(self, rare: int) -> None:
        if rare == 0:
            self.world.close()

    @step(rare=range(32))
    def runner_ends(self, rare: int) -> None:
        if rare == 0:
            self.world.close()
            self.world.end_slots()

    def end(self) -> None:
        self.world.play_out()


def test_any_course_of_events_keeps_the_promises() -> None:
    check_courses(SchedulerAndWorld, count=500, length=40)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "seed",
    [
        # A call waits for the GPUs of a slot that is dead, and whose end nobody has told yet.
        1621919140,
        # A call is stopped at the moment of a review.
        16,
    ],
)
def test_courses_that_failed_once(seed: int) -> None:
    check_courses(SchedulerAndWorld, count=500, length=40, seed=seed)


@pytest.mark.soak
def test_many_courses_of_events_keep_the_promises() -> None:
    check_courses(SchedulerAndWorld, count=50_000, length=40)
