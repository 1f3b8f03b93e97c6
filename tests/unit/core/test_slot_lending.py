"""Calls that wait for their child calls lend their slots: no depth of nesting stops a runner of any size."""

from __future__ import annotations

import pytest

from dragonfly_executor.core.slot_records import PARKED
from tests.support.courses import check_courses, step
from tests.support.slot_world import PlayedSlot, SlotWorld
from tests.unit.core.test_slot_world import SMALL, SchedulerAndWorld


class NestingWorld(SchedulerAndWorld):
    """The world of `test_slot_world`, whose calls also submit calls and wait for them."""

    @step(which=SMALL)
    def call_waits_for_a_child(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.take(slot)
            if slot.running is not None and slot.waits_for is None and not slot.running.is_check:
                self.last_id += 1
                self.world.wait_for(slot, self.last_id)

    @step(which=SMALL)
    def call_goes_on(self, which: int) -> None:
        slot = self.live_slot(which)
        if slot is not None:
            self.world.go_on(slot)

    @step()
    def each_call_that_runs_waits_for_a_child(self) -> None:
        for which in range(len(self.world.slots)):
            self.call_waits_for_a_child(which)


def test_any_course_of_events_with_children_keeps_the_promises() -> None:
    check_courses(NestingWorld, count=500, length=40)


@pytest.mark.soak
def test_many_courses_of_events_with_children_keep_the_promises() -> None:
    check_courses(NestingWorld, count=50_000, length=40)


def running_slot(world: SlotWorld, call_id: int) -> PlayedSlot:
    """The slot that runs the call."""
    world.advance(0.01)  # the next fork
    for slot in list(world.slots.values()):
        world.get_ready(slot)
        world.take(slot)
    return next(slot for slot in world.slots.values() if slot.running and slot.running.call_id == call_id)


def waiting_call() -> tuple[SlotWorld, PlayedSlot, PlayedSlot]:
    """A world of one slot whose call waits for a child, the slot of this call, and that of the child."""
    world = SlotWorld(1)
    world.arrive(1)
    outer = running_slot(world, 1)
    world.wait_for(outer, 2)
    return world, outer, running_slot(world, 2)


@pytest.mark.parametrize("calls_per_slot", [0, 1])
def test_no_depth_of_nesting_stops_a_runner_of_one_slot(calls_per_slot: int) -> None:
    world = SlotWorld(1, calls_per_slot)
    world.arrive(1)
    for depth in range(1, 30):
        world.wait_for(running_slot(world, depth), depth + 1)
    slot = running_slot(world, 30)
    assert sum(not each.record.is_lending for each in world.slots.values() if each.running) == 1
    world.answer(slot)
    world.play_out()
    assert not world.table.is_lending
    assert {slot.record.number for slot in world.slots.values() if not slot.is_dead} <= {0}


def test_the_slot_of_a_child_runs_the_next_child() -> None:
    """In place of a fork for each child."""
    world, outer, child = waiting_call()
    world.answer(child)
    world.go_on(outer)
    assert child.record.blocked & PARKED
    world.arrive(9)
    assert world.calls[9, 1].slot is None, "two calls run, and the runner has one slot"
    world.wait_for(outer, 3)
    assert world.calls[9, 1].slot is child.record
    assert len(world.slots) == 2
    world.play_out()


def test_after_a_wait_the_call_goes_on_at_once_and_nothing_starts_until_there_is_room() -> None:
    world, outer, other = waiting_call()
    world.go_on(outer)  # its wait had a timeout
    world.arrive(3, 4)
    world.answer(other, 0.05)
    assert world.calls[3, 1].slot is None
    world.answer(outer, 0.05)
    assert world.calls[3, 1].slot is not None
    assert world.calls[4, 1].slot is None
    world.play_out()


def test_calls_behind_one_that_waits_go_elsewhere() -> None:
    world = SlotWorld(1)
    world.arrive(1)
    slot = running_slot(world, 1)
    world.answer(slot)
    world.arrive(2, 3)  # short calls are queued in the slot
    assert [call.call_id for call in slot.record.in_flight] == [2, 3]
    world.wait_for(running_slot(world, 2), 4)
    assert [call.call_id for call in slot.record.in_flight] == [2]
    assert running_slot(world, 3) is not slot
    world.play_out()


def test_a_slot_that_dies_while_its_call_waits_lends_nothing_any_more() -> None:
    world, outer, child = waiting_call()
    outer.is_dead = True
    world.reap(outer)
    assert not world.table.lenders
    world.arrive(3)
    world.answer(child)
    world.play_out()
