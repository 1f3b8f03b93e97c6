"""What a runner's scheduler decides, story by story. For whatever else may happen, see `test_slot_world`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest

from dragonfly_executor.core import slot_idle_check, slot_state
from dragonfly_executor.core.slot_records import SlotRecord
from dragonfly_executor.core.slot_scheduler import FORK_PAUSE
from dragonfly_executor.core.slot_state import MAX_PREFETCH, REVIEW_AFTER, STARVED_FOR
from dragonfly_executor.core.slot_titles import SHOWN_AFTER
from tests.support.slot_world import PlayedSlot, SlotWorld

SHORT, LONG = 1e-5, 0.01
"""Seconds."""
INFINITY = float("inf")


def world(slots: int, *, cost: float | None = SHORT, calls_per_slot: int = 0, opening: float = 30.0) -> SlotWorld:
    """A world with all its slots ready and idle, in which calls took that long lately. The first slot is next."""
    made = SlotWorld(slots, calls_per_slot, opening)
    made.arrive(*range(-slots, 0))
    made.advance(0.001)  # one slot is forked at a time
    for slot in made.slots.values():
        made.get_ready(slot)
    for slot in reversed(made.slots.values()):
        made.answer(slot)
    assert len(made.slots) == slots
    made.table.cost = cost
    made.reports.clear()
    return made


def ids(calls: Iterable[object]) -> list[int]:
    return [call.call_id for call in calls]  # type: ignore[attr-defined]


def in_slots(made: SlotWorld) -> list[list[int]]:
    return [ids(slot.record.in_flight) for slot in made.slots.values()]


def slots_of(made: SlotWorld) -> list[PlayedSlot]:
    return list(made.slots.values())


def numbers(made: SlotWorld) -> list[int]:
    return [slot.record.number for slot in made.slots.values()]


def end(made: SlotWorld, slot: PlayedSlot) -> None:
    slot.is_dead = True
    made.reap(slot)


# -- the numbers of slots ---------------------------------------------------------------------------------------------


def test_slots_are_numbered_from_zero_and_a_slot_that_is_replaced_leaves_its_number() -> None:
    made = world(3, cost=None)
    assert numbers(made) == [0, 1, 2]
    _, second, third = slots_of(made)
    second.is_dead = True
    end(made, third)
    made.arrive(1, 2, 3)
    made.advance(0.001)
    assert numbers(made) == [0, 1, 2], "a slot that is not reaped keeps its number"
    made.reap(second)
    made.advance(0.001)
    assert numbers(made) == [0, 2, 1]


def test_a_slot_that_has_had_its_calls_is_replaced_under_its_number() -> None:
    made = world(2, calls_per_slot=2, cost=None)
    made.arrive(1)
    first, _ = slots_of(made)
    made.answer(first)
    assert first.expects_end
    made.arrive(2, 3)
    assert numbers(made) == [0, 1]
    end(made, first)
    made.advance(0.001)
    assert numbers(made) == [1, 0]


def test_an_extra_slot_has_the_number_behind_the_last() -> None:
    made = world(2)
    first, _ = slots_of(made)
    made.request_check()
    made.take(first)
    made.arrive(1, 2)
    made.advance(2 * REVIEW_AFTER)
    assert numbers(made) == [0, 1, 2]
    made.answer(first)
    made.answer(slots_of(made)[2])
    end(made, slots_of(made)[2])
    made.arrive(3, 4)
    made.advance(0.001)
    assert numbers(made) == [0, 1]


# -- which slot, how many ahead, when another -------------------------------------------------------------------------


def test_a_slot_is_forked_for_a_call_that_waits_until_there_are_enough() -> None:
    made = SlotWorld(2)
    made.arrive(1, 2, 3)
    assert in_slots(made) == [[1]]  # one at a time: meanwhile the others may empty the queue
    made.advance(0.0)
    assert in_slots(made) == [[1], [2]]
    made.advance(0.002)
    assert in_slots(made) == [[1], [2]]
    assert ids(made.table.waiting) == [3]


def test_a_call_goes_to_the_idle_slot_and_then_to_the_one_with_the_fewest() -> None:
    made = world(2)
    made.arrive(1, 2, 3, 4, 5)
    assert in_slots(made) == [[1, 3, 5], [2, 4]]


def test_of_idle_slots_the_one_that_was_busy_last_is_taken() -> None:
    made = world(3, cost=1.0)
    made.arrive(1, 2, 3)
    one, two, three = slots_of(made)
    for slot in (one, three, two):
        made.answer(slot, 1.0)
    made.arrive(4, 5)
    assert in_slots(made) == [[], [4], [5]]


def test_a_call_does_not_go_to_a_slot_that_is_not_ready_while_another_one_is_idle() -> None:
    made = SlotWorld(2)
    made.arrive(1, 2)
    made.advance(0.001)
    one, _ = slots_of(made)
    made.get_ready(one)
    made.answer(one)
    made.kill(2)
    made.arrive(3)
    assert in_slots(made) == [[3], []]


def test_a_call_goes_to_the_idle_slot_that_had_a_call_of_its_key_last() -> None:
    made = world(3, cost=1.0)
    made.arrive(1, 2)
    made.arrive(3, key=7)
    assert in_slots(made) == [[1], [2], [3]]
    for slot in reversed(slots_of(made)):
        made.answer(slot, 1.0)
    made.arrive(4, key=7)
    made.arrive(5, key=8)
    assert in_slots(made) == [[5], [], [4]]


def test_a_call_whose_slot_is_busy_goes_to_another_idle_one_and_is_at_home_there() -> None:
    made = world(2, cost=SHORT)
    made.arrive(1, key=7)
    made.arrive(2, key=7)
    assert in_slots(made) == [[1], [2]]
    for slot in slots_of(made):
        made.answer(slot, SHORT)
    made.arrive(3, key=7)
    assert in_slots(made) == [[], [3]]


def test_if_no_slot_is_idle_a_cheap_call_waits_in_the_slot_of_its_key() -> None:
    made = world(2, cost=SHORT)
    made.arrive(1, key=7)
    made.arrive(2, key=8)
    made.arrive(3, 4, 5, key=8)
    assert in_slots(made) == [[1], [2, 3, 4, 5]]


def test_a_call_does_not_wait_in_a_slot_whose_call_is_slow_or_that_is_gone() -> None:
    made = world(2, cost=SHORT)
    made.arrive(1, key=7)
    made.arrive(2, key=8)
    second = slots_of(made)[1]
    second.record.is_stuck = True
    made.arrive(3, key=8)
    assert in_slots(made) == [[1, 3], [2]]
    end(made, second)
    made.advance(0.01)
    made.arrive(4, key=8)
    assert in_slots(made) == [[1, 3, 4], [2]]


@pytest.mark.parametrize(
    ("cost", "depth"),
    [(None, 0), (1.0, 0), (0.001, 0), (0.00099, 4), (0.0005, 8), (0.0001, 40), (0.00006, 64), (0.0, 64)],
)
def test_only_cheap_calls_are_queued_ahead(cost: float | None, depth: int) -> None:
    assert slot_state.prefetch_depth(cost) == depth
    made = world(1, cost=cost)
    made.arrive(*range(1, 100))
    assert len(slots_of(made)[0].record.in_flight) == 1 + depth


def test_slots_are_filled_again_once_half_of_the_calls_of_one_are_done() -> None:
    """So that many calls are handed over in one step."""
    made = world(2)
    made.arrive(*range(1, 4 * MAX_PREFETCH))
    one, other = slots_of(made)
    for left in range(MAX_PREFETCH, MAX_PREFETCH // 2, -1):
        made.answer(one, SHORT)
        assert [len(slot.record.in_flight) for slot in (one, other)] == [left, MAX_PREFETCH + 1]
    made.answer(other, SHORT)
    assert [len(slot.record.in_flight) for slot in (one, other)] == [MAX_PREFETCH // 2 + 1, MAX_PREFETCH]
    made.answer(one, SHORT)
    assert [len(slot.record.in_flight) for slot in (one, other)] == [MAX_PREFETCH + 1, MAX_PREFETCH + 1]


def test_the_cost_of_a_call_is_learned_and_old_costs_fade() -> None:
    made = world(1, cost=None)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.answer(slot, 0.5)
    assert made.table.cost == 0.5
    made.answer(slot, 0.1)
    assert made.table.cost == pytest.approx(0.46)


def test_a_slot_that_is_not_ready_gets_one_call() -> None:
    made = SlotWorld(1)
    made.table.cost = SHORT
    made.arrive(1, 2)
    assert in_slots(made) == [[1]]


def test_nothing_is_queued_ahead_while_a_slot_may_be_forked() -> None:
    made = world(2)
    first, second = slots_of(made)
    end(made, second)
    made.advance(0.01)
    made.arrive(1, 2)
    assert in_slots(made) == [[1], [2]]
    assert first in made.slots.values()


def test_a_large_call_has_a_slot_for_itself() -> None:
    made = world(1)
    made.arrive(1, large=10)
    made.arrive(2)
    made.arrive(3, large=10)
    assert in_slots(made) == [[1]]
    (slot,) = slots_of(made)
    made.answer(slot)
    assert in_slots(made) == [[2]]
    made.answer(slot)
    assert in_slots(made) == [[3]]


def test_a_slot_ends_after_so_many_calls() -> None:
    made = world(1, calls_per_slot=3)
    made.arrive(1, 2, 3)
    (slot,) = slots_of(made)
    assert slot.is_closed
    assert in_slots(made) == [[1, 2]]
    made.answer(slot)
    assert not slot.expects_end
    made.answer(slot)
    assert slot.expects_end
    end(made, slot)
    made.advance(0.0)
    assert in_slots(made) == [[3]]


def test_a_call_that_was_taken_back_does_not_count_for_its_slot() -> None:
    made = world(1, calls_per_slot=4)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.take(slot)
    made.kill(2)
    made.answer(slot)
    made.arrive(3)
    assert not slot.is_closed
    made.arrive(4)
    assert slot.is_closed


def test_an_idle_check_does_not_count_for_its_slot() -> None:
    made = world(1, calls_per_slot=2)
    made.request_check()
    made.answer(slots_of(made)[0])
    assert not slots_of(made)[0].is_closed
    made.arrive(1)
    assert slots_of(made)[0].is_closed


def test_half_of_a_queue_moves_to_a_slot_that_is_idle() -> None:
    made = world(2)
    made.arrive(*range(1, 9))
    one, other = slots_of(made)
    made.take(one)
    for _ in range(4):
        made.answer(other)
    assert in_slots(made) == [[1, 5], [3, 7]]


def test_the_queue_of_a_slot_that_ends_is_its_own() -> None:
    """It could not get back what it is to keep."""
    made = world(2, calls_per_slot=5)
    ending, other = slots_of(made)
    made.arrive(1, 2)
    made.take(other)
    made.hold_back(other)
    made.arrive(3, 4, 5)
    assert ending.is_closed
    made.answer(other)
    assert in_slots(made) == [[1, 3, 4, 5], []]


def test_a_call_that_a_slot_refuses_goes_to_another_one_and_those_behind_it_stay_behind() -> None:
    made = world(2)
    one, other = slots_of(made)
    one.room = 0
    made.arrive(1, 2, 3)
    assert in_slots(made) == [[], [2, 1, 3]]
    made.take(other)
    one.room = None
    made.advance(2 * REVIEW_AFTER)
    assert in_slots(made) == [[1, 3], [2]]


def test_a_slot_that_has_refused_is_tried_again_once_it_has_answered() -> None:
    made = world(1)
    (slot,) = slots_of(made)
    made.arrive(1)
    made.take(slot)
    slot.room = 0
    made.arrive(2, 3)
    assert ids(made.table.waiting) == [2, 3]
    slot.room = None
    made.answer(slot)
    assert in_slots(made) == [[2, 3]]


def test_a_call_that_every_slot_refuses_goes_back() -> None:
    """To be refused is no start: else the calls would wait here for as long as that lasts."""
    made = world(1)
    slots_of(made)[0].room = 0
    made.advance(1.0)
    made.arrive(1)
    made.advance(4 * REVIEW_AFTER)
    assert made.reports == [("returned", 1)]


def test_a_refusal_hides_no_start_that_came_after_it() -> None:
    made = world(2)
    one, other = slots_of(made)
    made.advance(1.0)
    made.arrive(1)
    made.answer(one)
    one.room = 0
    before = made.table.last_start
    assert before == made.now
    made.advance(0.001)
    made.arrive(2)
    assert other.record.in_flight
    assert made.table.last_start == made.now


# -- stuck calls ------------------------------------------------------------------------------------------------------


def test_a_call_behind_a_long_one_goes_to_another_slot() -> None:
    made = world(2)
    made.arrive(1, 2, 3)
    one, other = slots_of(made)
    made.take(one)
    made.take(other)
    assert in_slots(made) == [[1, 3], [2]]
    made.answer(other)
    assert in_slots(made) == [[1], [3]]
    made.take(other)
    made.advance(3 * REVIEW_AFTER)
    assert made.started == [1, 3]


def test_a_call_behind_a_long_one_goes_back_where_no_slot_is_free() -> None:
    made = world(1)
    made.arrive(1, 2)
    made.take(slots_of(made)[0])
    made.advance(REVIEW_AFTER * 0.9)
    assert made.reports == []
    made.advance(REVIEW_AFTER * 1.2)
    assert made.reports == [("returned", 2)]
    assert made.started == [1]


def test_a_call_whose_slot_lacks_processor_time_is_not_slow_for_a_while() -> None:
    made = world(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.take(slot)
    made.starve(slot, is_starved=True)
    made.advance(STARVED_FOR * 0.9)
    assert (made.reports, made.started) == ([], [])
    assert in_slots(made) == [[1, 2]]
    made.advance(STARVED_FOR * 0.2)
    assert made.reports == [("returned", 2)]
    assert made.started == [1]


def test_a_call_is_slow_once_its_slot_has_had_processor_time() -> None:
    made = world(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.take(slot)
    made.starve(slot, is_starved=True)
    made.advance(2 * REVIEW_AFTER)
    made.starve(slot, is_starved=False)
    made.advance(1.2 * REVIEW_AFTER)
    assert made.reports == [("returned", 2)]
    assert made.started == [1]


def test_the_start_of_a_call_is_reported_before_the_call_is_stopped_and_leaves_its_slot() -> None:
    made = world(1)
    made.arrive(1, limits=(REVIEW_AFTER, INFINITY))
    made.now += 2 * REVIEW_AFTER
    made.tell("tick", made.now)
    made.run()
    assert made.reports == [("timed out", 1)]
    assert made.started == [1]
    assert in_slots(made) == [[]]


def test_calls_wait_for_a_slot_that_lacks_processor_time() -> None:
    """The other slot is busy with a long call, and what waited behind it finds no room."""
    made = world(2)
    one, other = slots_of(made)
    made.arrive(*range(1, 2 * MAX_PREFETCH + 4))
    made.take(one)
    made.take(other)
    made.starve(other, is_starved=True)
    made.advance(2.2 * REVIEW_AFTER)
    assert made.started == [1]
    assert made.reports == []
    assert len(made.table.waiting) > MAX_PREFETCH / 2
    made.starve(other, is_starved=False)
    made.advance(2.2 * REVIEW_AFTER)
    assert made.started == [1, 2]
    assert made.table.waiting == deque()


def test_answers_that_have_arrived_are_read_before_a_call_counts_as_slow() -> None:
    """The agent itself may have lacked processor time, so that answers wait for it."""
    made = world(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.take(slot)
    made.finish(slot, SHORT)
    made.take(slot)
    made.advance(1.2 * REVIEW_AFTER)
    assert made.started == []
    made.advance(2 * REVIEW_AFTER)
    assert made.started == [2]


def test_calls_are_given_three_times_what_they_took_lately() -> None:
    made = world(1, cost=0.01)
    made.arrive(1, 2)
    made.advance(0.029)
    assert made.reports == []
    made.advance(0.005)
    assert made.reports == [("returned", 2)]


def test_a_call_that_is_taken_back_does_not_go_behind_another_long_one() -> None:
    """Both slots run calls that do not end. The third one can start nowhere here, so another runner gets it."""
    made = world(2, cost=LONG)
    made.arrive(1, 2)
    one, other = slots_of(made)
    made.take(one), made.take(other)
    made.advance(1.0)
    made.answer(one)
    made.table.cost = SHORT
    made.arrive(3, 4)
    made.take(one)
    made.advance(1.0)
    assert in_slots(made) == [[3], [2]]
    assert made.reports == [("result", 1), ("returned", 4)]
    assert made.started == [1, 2, 3]


def test_calls_wait_for_a_slot_that_is_about_to_end() -> None:
    made = world(1, calls_per_slot=2)
    (slot,) = slots_of(made)
    made.arrive(1, 2)
    made.answer(slot)
    assert slot.expects_end
    made.advance(1.0)
    assert made.reports == [("result", 1)]
    end(made, slot)
    made.advance(0.0)
    assert in_slots(made) == [[2]]


def test_a_call_is_held_back_from_a_slot_whose_running_call_must_be_certain() -> None:
    made = world(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.take(slot)
    made.hold_back(slot)
    assert in_slots(made) == [[1]]
    made.arrive(3)
    assert in_slots(made) == [[1]]
    made.answer(slot)
    assert in_slots(made) == [[2, 3]]


def test_calls_come_in_the_order_of_their_arrival_also_after_they_were_taken_back() -> None:
    made = world(2)
    made.arrive(*range(1, 7))
    one, other = slots_of(made)
    made.take(one), made.take(other)
    made.hold_back(one)
    made.hold_back(other)
    assert ids(made.table.waiting) == [3, 4, 5, 6]


# -- titles -----------------------------------------------------------------------------------------------------------


def test_a_call_is_shown_once_it_has_run_for_a_tenth_of_a_second() -> None:
    made = world(1, cost=LONG)
    made.arrive(1)
    (slot,) = slots_of(made)
    made.take(slot)
    made.advance(SHOWN_AFTER * 0.99)
    assert made.started == [1]
    assert slot.shows is None
    made.advance(SHOWN_AFTER * 0.02)
    assert slot.shows is not None
    assert slot.shows.call_id == 1
    made.answer(slot)
    assert slot.shows is None


def test_calls_that_end_sooner_are_not_shown_and_cost_no_pass_of_their_own() -> None:
    made = world(4, cost=LONG)
    for call_id in range(200):
        made.arrive(call_id)
        slot = slots_of(made)[-1]
        made.take(slot)
        made.advance(2 * REVIEW_AFTER)
        assert made.table.show_at > made.now
        made.answer(slot)
        assert slot.shows is None
    assert made.started == [*range(200)]
    made.advance(2 * SHOWN_AFTER)
    assert made.scheduler.deadline() is None


def test_each_call_is_shown_in_its_time() -> None:
    made = world(3, cost=LONG)
    slots = slots_of(made)
    for call_id, slot in enumerate(slots):
        made.arrive(call_id)
        made.take(slot)
        made.advance(SHOWN_AFTER / 3)
    shown = []
    for _ in slots:
        made.advance(SHOWN_AFTER * 0.01)
        shown.append([slot.shows is not None for slot in slots])
        made.advance(SHOWN_AFTER / 3)
    assert shown == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_call_that_was_shown_and_goes_to_another_slot_is_shown_there() -> None:
    """A slot that has begun its first call before it died may still have the call in its queue."""
    made = world(2, cost=LONG)
    made.arrive(1)
    one, other = slots_of(made)
    slot, left = (one, other) if one.queue else (other, one)
    made.advance(2 * SHOWN_AFTER)
    assert slot.shows is not None
    slot.is_dead = True
    made.reap(slot)
    assert in_slots(made) == [[1]]
    assert left.shows is None
    made.advance(1.01 * SHOWN_AFTER)
    assert left.shows is not None
    assert made.started == [1]


def test_a_slot_that_gives_a_call_back_shows_it_no_longer() -> None:
    made = world(1, cost=LONG)
    made.arrive(1)
    (slot,) = slots_of(made)
    made.advance(2 * SHOWN_AFTER)
    assert slot.shows is not None
    made.decline(slot)
    made.read(slot)
    assert slot.shows is None


# -- forks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cost", "forks"), [(None, 1), (SHORT, 1), (LONG, slot_state.FORKS_AT_ONCE)])
def test_several_slots_are_forked_between_two_ticks_if_calls_take_longer_than_a_fork(
    cost: float | None, forks: int
) -> None:
    made = SlotWorld(20)
    made.table.cost = cost
    made.arrive(*range(20))
    assert len(made.slots) == forks
    made.scheduler.tick(made.now)
    made.run()
    assert len(made.slots) == 2 * forks


def test_no_more_slots_are_forked_at_once_than_calls_wait() -> None:
    made = SlotWorld(20)
    made.table.cost = LONG
    made.arrive(1, 2)
    made.advance(0.001)
    assert len(made.slots) == 2


def test_a_fork_that_fails_is_tried_again_and_calls_go_back_meanwhile() -> None:
    made = world(2, cost=LONG)
    one, other = slots_of(made)
    other.is_dead = True
    made.can_fork = False
    made.reap(other)
    made.arrive(1)
    made.take(one)
    made.arrive(2)
    made.advance(FORK_PAUSE / 2)
    assert made.reports == []
    made.arrive(3)
    made.advance(FORK_PAUSE)
    assert made.reports == [("returned", 2), ("returned", 3)]
    made.arrive(4)
    made.can_fork = True
    made.advance(FORK_PAUSE)
    assert in_slots(made) == [[1], [4]]


def test_slots_that_are_forked_in_a_row_have_the_lowest_free_numbers() -> None:
    made = world(4, cost=LONG)
    second = slots_of(made)[1]
    second.is_dead = True
    made.reap(second)
    made.table.max_slots = 7
    made.arrive(*range(7))
    assert [slot.record.number for slot in slots_of(made)] == [0, 2, 3, 1, 4, 5, 6]
    assert sorted(in_slots(made)) == [[call] for call in range(7)]


@pytest.mark.parametrize("works", [0, 1, 3])
def test_if_a_fork_of_several_fails_the_slots_before_it_run_calls(works: int) -> None:
    made = world(1, cost=LONG)
    made.table.max_slots = 6
    made.forks_that_work = works
    made.arrive(*range(6))
    assert len(made.slots) == 1 + works
    assert len(made.table.waiting) == 5 - works
    made.advance(FORK_PAUSE * 0.9)
    assert len(made.slots) == 1 + works
    made.forks_that_work = None
    made.arrive(*range(6, 12))
    made.advance(FORK_PAUSE * 0.2)
    assert len(made.slots) == 6


def test_a_fork_that_fails_while_calls_end_keeps_the_calls_that_wait() -> None:
    made = world(2)
    one, other = slots_of(made)
    other.is_dead = True
    made.can_fork = False
    made.reap(other)
    made.arrive(1, 2)
    made.answer(one)
    made.take(one)
    assert made.reports == [("result", 1)]
    assert in_slots(made) == [[2]]


def test_a_runner_without_a_slot_ends() -> None:
    made = SlotWorld(1)
    made.can_fork = False
    made.arrive(1)
    assert made.has_given_up
    assert made.reports == [("returned", 1)]


# -- kills and limits -------------------------------------------------------------------------------------------------


def test_a_call_that_waits_is_killed_and_nothing_else() -> None:
    made = world(1, cost=LONG)
    made.arrive(1, 2, 3)
    made.kill(2)
    assert made.reports == [("gone", 2)]
    assert in_slots(made) == [[1]]
    assert ids(made.table.waiting) == [3]


def test_a_call_that_is_queued_ahead_is_killed_and_nothing_else() -> None:
    made = world(1)
    made.arrive(1, 2, 3)
    (slot,) = slots_of(made)
    made.take(slot)
    made.kill(2)
    assert made.reports == [("gone", 2)]
    assert not slot.is_dead
    assert in_slots(made) == [[1, 3]]


def test_a_call_that_runs_is_killed_with_its_slot_and_nothing_else() -> None:
    made = world(1)
    made.arrive(1, 2, 3)
    (slot,) = slots_of(made)
    made.take(slot)
    made.kill(1)
    assert slot.is_dead
    made.arrive(4)
    assert in_slots(made) == [[1]]
    made.reap(slot)
    made.advance(0.0)
    assert made.reports == [("gone", 1)]
    assert in_slots(made) == [[2]]
    assert ids(made.table.waiting) == [3, 4]


def test_a_call_whose_result_is_on_its_way_is_not_killed_nor_is_the_next_one() -> None:
    made = world(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.take(slot)
    made.finish(slot)
    made.kill(1)
    assert not slot.is_dead
    assert made.reports == [("result", 1)]
    made.answer(slot)
    assert made.reports == [("result", 1), ("result", 2)]


def test_a_call_that_is_killed_while_the_slot_gives_it_back_ends() -> None:
    made = world(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.decline(slot)
    made.kill(1)
    assert made.reports == [("gone", 1)]
    assert not slot.is_dead
    assert slot.expects_end


def test_a_call_that_nobody_knows_is_gone() -> None:
    made = world(1)
    made.kill(7)
    assert made.reports == [("gone", 7)]


@pytest.mark.parametrize("time_left", [0.0, -1.0])
def test_a_call_whose_time_is_over_when_it_is_handed_out_takes_no_neighbour_with_it(time_left: float) -> None:
    made = SlotWorld(1)
    made.arrive(1, limits=(time_left, INFINITY))
    made.arrive(2, 3)
    assert made.reports == [("timed out", 1)]
    assert in_slots(made) == [[2]]
    assert ids(made.table.waiting) == [3]


def test_a_call_is_stopped_when_its_time_is_over() -> None:
    made = world(1)
    made.arrive(1, limits=(0.5, INFINITY))
    made.arrive(2)
    (slot,) = slots_of(made)
    made.take(slot)
    made.advance(0.49)
    assert not slot.is_dead
    made.advance(0.02)
    assert slot.is_dead
    made.reap(slot)
    assert ("timed out", 1) in made.reports


def test_the_clock_of_a_run_timeout_starts_with_the_function() -> None:
    made = world(1)
    made.arrive(1, limits=(INFINITY, 0.5))
    (slot,) = slots_of(made)
    made.take(slot, begin=False)
    made.advance(20.0)
    made.begin(slot)
    made.advance(0.49)
    assert not slot.is_dead
    made.advance(0.02)
    assert slot.is_dead
    (limits,) = [call.limits for call in made.table.calls.values()]
    assert limits is not None
    assert limits.unopened == 0


@pytest.mark.parametrize(("run_timeout", "ends"), [(0.5, 2.0), (3.0, 3.0)])
def test_decoding_has_its_own_limit_unless_the_function_may_run_longer(run_timeout: float, ends: float) -> None:
    made = world(1, opening=2.0)
    made.arrive(1, limits=(INFINITY, run_timeout))
    (slot,) = slots_of(made)
    made.take(slot, begin=False)
    made.advance(ends - 0.01)
    assert not slot.is_dead
    made.advance(0.02)
    assert slot.is_dead
    (limits,) = [call.limits for call in made.table.calls.values()]
    assert limits is not None
    assert limits.unopened == pytest.approx(ends * 1000, abs=20)


def test_the_transfer_of_a_large_call_is_no_part_of_its_decoding() -> None:
    made = world(1, opening=2.0)
    made.arrive(1, limits=(INFINITY, 0.5), large=10)
    (slot,) = slots_of(made)
    made.take(slot, begin=False)
    made.advance(50.0)
    (call,) = made.table.calls.values()
    made.chunk(call, 10)
    made.advance(1.9)
    assert not slot.is_dead
    made.advance(0.7)
    assert slot.is_dead


def test_the_time_of_a_call_goes_on_while_it_is_handed_out_again() -> None:
    made = world(2)
    made.arrive(1, 3)
    made.arrive(2, limits=(0.5, INFINITY))
    one, other = slots_of(made)
    made.take(one), made.take(other)
    made.advance(0.001)
    made.answer(one)
    made.take(one)
    assert one.running is made.calls[2, 1]
    made.advance(0.49)
    assert not one.is_dead
    made.advance(0.02)
    assert one.is_dead


def test_the_time_of_a_call_runs_while_its_slot_is_set_up() -> None:
    made = SlotWorld(1)
    made.arrive(1, limits=(1.0, INFINITY))
    made.advance(0.6)
    made.get_ready(slots_of(made)[0])
    made.take(slots_of(made)[0])
    made.advance(0.39)
    assert not slots_of(made)[0].is_dead
    made.advance(0.02)
    assert slots_of(made)[0].is_dead


# -- the death of a slot ----------------------------------------------------------------------------------------------


def test_only_the_call_that_ran_is_lost_with_its_slot() -> None:
    made = world(1)
    made.arrive(1, 2, 3)
    (slot,) = slots_of(made)
    made.take(slot)
    end(made, slot)
    made.advance(0.0)
    assert made.reports == [("lost", 1)]
    assert in_slots(made) == [[2]]


def test_a_slot_that_dies_before_it_is_ready_loses_no_call() -> None:
    made = SlotWorld(1)
    made.arrive(1)
    (slot,) = slots_of(made)
    end(made, slot)
    made.advance(0.0)
    assert made.reports == []
    assert in_slots(made) == [[1]]


def test_or_its_first_call_if_the_driver_wants_that_told() -> None:
    made = SlotWorld(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    slot.is_dead = True
    made.reap(slot, tell=True)
    made.advance(0.0)
    assert made.reports == [("lost", 1)]
    assert in_slots(made) == [[2]]


def test_a_slot_whose_setup_has_failed_gets_nothing() -> None:
    made = SlotWorld(1)
    made.arrive(1)
    (slot,) = slots_of(made)
    made.fail_setup(slot)
    made.kill(1)
    made.arrive(2)
    assert in_slots(made) == [[]]
    made.reap(slot)
    made.advance(0.0)
    assert in_slots(made) == [[2]]


def test_a_slot_that_declines_ends_and_its_calls_run_elsewhere() -> None:
    made = world(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.decline(slot)
    made.read(slot)
    assert slot.is_closed
    assert slot.expects_end
    assert ids(made.table.waiting) == [1, 2]
    end(made, slot)
    made.advance(0.0)
    assert in_slots(made) == [[1]]


def test_a_slot_that_declines_its_last_call_is_retired_once() -> None:
    made = world(1, calls_per_slot=2)
    made.arrive(1)
    (slot,) = slots_of(made)
    made.decline(slot)
    made.read(slot)
    assert slot.expects_end
    assert ids(made.table.waiting) == [1]


# -- the idle check ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("may_stop", [True, False])
def test_an_idle_check_is_answered_as_it_returns(may_stop: bool) -> None:
    made = world(1)
    made.request_check()
    made.answer(slots_of(made)[0], 1.0 if may_stop else 0.0)
    assert made.checks == [may_stop]


def test_a_runner_with_calls_may_not_stop() -> None:
    made = world(1)
    made.arrive(1)
    made.request_check()
    assert made.checks == [False]
    assert in_slots(made) == [[1]]


def test_a_check_during_which_another_was_requested_keeps_the_runner() -> None:
    """Calls came and went in between. It counts again from the next one on."""
    made = world(1)
    made.request_check()
    made.request_check()
    made.answer(slots_of(made)[0], 1.0)
    assert made.checks == [False]
    made.request_check()
    made.answer(slots_of(made)[0], 1.0)
    assert made.checks == [False, True]


def with_extra_slot() -> tuple[SlotWorld, PlayedSlot, PlayedSlot]:
    """A world whose only slot runs a check that hangs. Call 1 got an extra slot, which is not ready yet."""
    made = world(1)
    (slot,) = slots_of(made)
    made.request_check()
    made.take(slot)
    made.arrive(1)
    made.advance(2 * REVIEW_AFTER)
    _, extra = slots_of(made)
    return made, slot, extra


def test_no_call_waits_behind_a_check_that_hangs() -> None:
    """It runs in an extra slot, which goes when the check has ended and its calls have."""
    made = world(1)
    (slot,) = slots_of(made)
    made.request_check()
    made.take(slot)
    made.arrive(1)
    assert in_slots(made) == [[0]]
    made.advance(2 * REVIEW_AFTER)
    assert in_slots(made) == [[0], [1]]
    made.arrive(2)
    made.advance(0.0)
    assert len(made.slots) == 2
    _, extra = slots_of(made)
    made.get_ready(extra)
    made.answer(slot, 1.0)
    assert made.table.extra == 0
    made.arrive(3)
    assert in_slots(made) == [[], [1, 2]], "no more calls run than may"
    assert extra.is_closed
    made.answer(extra)
    made.answer(extra)
    assert extra.expects_end
    assert in_slots(made) == [[3], []]
    assert not slot.is_closed


def test_an_extra_slot_without_calls_goes_when_its_check_has_ended() -> None:
    made, slot, extra = with_extra_slot()
    made.get_ready(extra)
    made.answer(extra)
    assert not extra.is_closed
    made.answer(slot)
    assert extra.expects_end
    made.arrive(2)
    assert in_slots(made) == [[2], []]


def test_an_extra_slot_that_dies_lets_the_slot_of_the_check_take_calls_again() -> None:
    made, slot, extra = with_extra_slot()
    made.get_ready(extra)
    made.take(extra)
    made.answer(slot)
    made.arrive(2)
    assert in_slots(made) == [[], [1]]
    end(made, extra)
    assert in_slots(made) == [[2]]


def test_a_slot_that_was_killed_for_its_check_is_replaced_under_its_number_once_the_extra_slot_is_gone() -> None:
    made, slot, extra = with_extra_slot()
    made.get_ready(extra)
    made.take(extra)
    made.advance(slot_idle_check.LIMIT)
    made.reap(slot)
    made.arrive(2)
    assert in_slots(made) == [[1]]
    assert extra.is_closed
    made.answer(extra)
    end(made, extra)
    assert in_slots(made) == [[2]]
    assert numbers(made) == [0]


def test_a_slot_whose_check_ends_stays_where_no_other_has_taken_its_place() -> None:
    made = world(1)
    made.request_check()
    made.take(slots_of(made)[0])
    made.advance(2 * REVIEW_AFTER)
    made.answer(slots_of(made)[0], 1.0)
    assert not slots_of(made)[0].is_closed


def test_a_slot_whose_check_ends_stays_while_that_of_the_check_before_is_still_ending() -> None:
    made, slot, other = with_extra_slot()
    made.answer(slot)
    assert other.is_closed
    made.get_ready(other)
    made.answer(other)
    made.request_check()
    made.answer(slot)
    assert not slot.is_closed


def test_a_check_that_takes_too_long_is_killed_with_its_slot() -> None:
    made = world(1)
    (slot,) = slots_of(made)
    made.request_check()
    made.take(slot)
    made.advance(slot_idle_check.LIMIT - 0.01)
    assert not slot.is_dead
    made.advance(0.02)
    assert slot.is_dead
    assert made.table.check.killed == slot.record.pid
    assert made.checks == []
    made.reap(slot)
    assert made.checks == [False]
    assert made.table.check.killed is None


def test_the_time_of_a_check_starts_when_its_slot_is_ready() -> None:
    made = SlotWorld(1)
    made.request_check()
    (slot,) = slots_of(made)
    made.advance(2 * slot_idle_check.LIMIT)
    made.get_ready(slot)
    made.take(slot)
    made.advance(slot_idle_check.LIMIT - 0.01)
    assert not slot.is_dead
    made.advance(0.02)
    assert slot.is_dead


def test_a_check_that_ends_in_time_kills_nothing_later() -> None:
    made = world(1)
    made.request_check()
    made.answer(slots_of(made)[0], 0.0)
    made.advance(2 * slot_idle_check.LIMIT)
    assert not slots_of(made)[0].is_dead


# -- the whole runner -------------------------------------------------------------------------------------------------


def test_calls_wait_while_files_change() -> None:
    made = world(1)
    made.hold()
    made.arrive(1, 2)
    made.request_check()
    assert made.checks == [False]
    made.kill(1)
    assert made.reports == [("gone", 1)]
    made.advance(1.0)
    assert in_slots(made) == [[]]
    made.release(fresh=False)
    assert in_slots(made) == [[2]]


def test_after_a_change_of_code_calls_run_in_new_slots() -> None:
    """Also those that came before: they had not begun. What runs goes on."""
    made = world(1)
    (slot,) = slots_of(made)
    made.arrive(1, 2)
    made.take(slot)
    made.hold()
    made.arrive(3)
    made.release(fresh=True)
    assert in_slots(made) == [[1]]
    assert slot.is_closed
    assert ids(made.table.waiting) == [2, 3]
    made.advance(1.0)
    made.answer(slot)
    assert slot.expects_end


def test_after_a_close_what_runs_goes_on_and_everything_else_goes_back() -> None:
    made = world(1)
    made.arrive(1, 2)
    (slot,) = slots_of(made)
    made.take(slot)
    made.hold()
    made.arrive(3)
    made.close()
    made.arrive(4)
    made.hold()
    made.arrive(5)
    made.request_check()
    assert made.reports == [("returned", number) for number in (2, 3, 4, 5)]
    assert made.checks == [False]
    made.answer(slot)
    assert made.reports[-1] == ("result", 1)


def test_a_check_that_waits_is_answered_at_a_close() -> None:
    made = SlotWorld(1)
    made.request_check()
    made.close()
    assert made.checks == [False]


def test_at_the_end_slots_that_run_calls_are_killed_and_the_others_end_by_themselves() -> None:
    made = world(2)
    busy, idle = slots_of(made)
    made.arrive(1)
    made.take(busy)
    made.end_slots()
    assert busy.is_dead
    assert not busy.is_closed
    assert not idle.is_dead
    assert idle.expects_end


def test_a_runner_is_idle_when_no_call_is_there() -> None:
    made = world(1)
    assert made.table.is_idle
    made.hold()
    made.arrive(1)
    assert not made.table.is_idle
    made.release(fresh=False)
    assert not made.table.is_idle
    made.answer(slots_of(made)[0])
    assert made.table.is_idle


def test_a_scheduler_with_nothing_to_do_wants_nothing() -> None:
    made = SlotWorld(1)
    assert made.scheduler.deadline() is None
    made.arrive(1)
    assert made.scheduler.deadline() == made.now + REVIEW_AFTER
    made.get_ready(slots_of(made)[0])
    made.answer(slots_of(made)[0])
    made.advance(1.0)
    assert made.scheduler.deadline() is None


def test_a_record_says_what_it_is() -> None:
    made = world(1)
    made.arrive(1, attempt=2)
    assert repr(made.table.calls[1, 2]) == "<SlotCall 1.2>"
    assert repr(SlotRecord(7, 0.0)) == "<SlotRecord 7>"
