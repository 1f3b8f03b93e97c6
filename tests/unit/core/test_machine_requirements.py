"""Calls that require CPUs, GPUs, memory or labels go where that fits, and boots are asked for it."""

from __future__ import annotations

import pytest

from dragonfly_executor.core import actions, events, placement, state
from dragonfly_executor.core.calls import DEFAULT_KIND, CallLimits
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.core.events import ShutdownMode
from tests.support.story import Story
from tests.support.world import REQUIREMENTS

FOUR_CPUS = Capacity(4.0, memory=8)
TWO_GPUS = Capacity(4.0, 2, 8)


@pytest.fixture(autouse=True)
def no_call_is_sent_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """So runners are full once each slot has a call."""
    monkeypatch.setattr(placement, "prefetch", lambda *_: 0)


def up(story: Story, runner_id: int, slots: int, capacity: Capacity | None) -> list[str]:
    return story.tell(events.BootSucceeded(runner_id, slots, None, capacity))


def pool_of(*capacities: Capacity, slots: int = 4, **limits: int) -> Story:
    """A pool of runners without calls; the next call is number 1001."""
    story = Story(**{"max": len(capacities), "slots_hint": 1, **limits})
    story.submit([CallLimits()] * 1000)
    story.tell(events.CancelRequested(range(1, 1001)))
    for runner_id, capacity in enumerate(capacities, 1):
        up(story, runner_id, slots, capacity)
    return story


# -- where a call goes -------------------------------------------------------------------------------------------------


def test_a_call_goes_to_a_runner_on_which_it_fits() -> None:
    story = pool_of(FOUR_CPUS, TWO_GPUS)
    assert story.submit_calls(1, kinds=["gpu 1"]) == ["send 1001.1 to 2"]
    assert story.submit_calls(1, kinds=["memory"]) == ["send 1002.1 to 1"]


def test_plain_calls_leave_what_others_need_until_there_is_no_other_room() -> None:
    story = pool_of(TWO_GPUS, FOUR_CPUS, slots=2)
    assert story.submit_calls(3) == ["send 1001.1 to 2", "send 1002.1 to 2", "send 1003.1 to 1"]


def test_calls_share_a_runner_as_far_as_they_fit_together() -> None:
    story = pool_of(TWO_GPUS)
    assert story.submit_calls(2, kinds=["cpu 2"]) == ["send 1001.1 to 1", "send 1002.1 to 1"]
    assert story.submit_calls(1) == [], "both together take all four slots"
    assert story.results(1, 1001) == ["send 1003.1 to 1", "1001 = result of 1001.1"]
    assert story.submit_calls(1) == ["send 1004.1 to 1"]


@pytest.mark.parametrize(("kind", "at_once"), [("gpu 1", 2), ("gpu 2", 1), ("memory", 2), ("cpu 3", 1), ("cpu 2", 2)])
def test_no_more_calls_share_a_runner_than_its_devices_and_memory_allow(kind: str, at_once: int) -> None:
    story = pool_of(TWO_GPUS)
    assert len(story.submit_calls(4, kinds=[kind])) == at_once
    assert story.stats.calls_queued == 4 - at_once
    assert story.results(1, 1001)[0] == f"send {1001 + at_once}.1 to 1"


def test_a_call_without_requirements_has_the_share_of_a_slot() -> None:
    story = pool_of(FOUR_CPUS, slots=100)
    assert len(story.submit_calls(1, kinds=["cpu 3"])) == 1
    assert len(story.submit_calls(30)) == 25, "three of four CPUs are three of four slots"


def test_a_call_that_leaves_gives_back_its_share_however_it_ends() -> None:
    story = pool_of(TWO_GPUS)
    story.submit_calls(1, kinds=["gpu 2"])
    story.submit_calls(5, kinds=["gpu 2"])
    assert story.loses(1, 1001)[0] == "send 1002.1 to 1"
    assert story.returns(1, 1002) == ["send 1002.1 to 1"]
    assert story.tell(events.CallTimedOut(1, 1002, 1))[0] == "send 1003.1 to 1"
    story.tell(events.CancelRequested([1003]))
    assert story.tell(events.CallGone(1, 1003, 1))[0] == "send 1004.1 to 1"
    story.loses_runner(1)
    assert story.is_gone(1) == ["boot 2 of gpu 2"]


# -- boots -------------------------------------------------------------------------------------------------------------


def test_a_boot_is_asked_for_what_the_calls_require() -> None:
    story = Story(max=2)
    story.submit_calls(1, kinds=["gpu 1"])
    (boot,) = [action for action in story.last_actions if isinstance(action, actions.Boot)]
    assert boot == actions.Boot(1, "gpu 1", REQUIREMENTS["gpu 1"])


def test_a_runner_that_was_booted_for_one_kind_serves_others() -> None:
    story = Story(max=1)
    story.submit_calls(1, kinds=["gpu 1"])
    assert up(story, 1, 2, TWO_GPUS) == ["send 1.1 to 1"]
    assert story.submit_calls(1) == ["send 2.1 to 1"]


def test_a_kind_boots_as_many_runners_as_its_calls_need() -> None:
    story = Story(max=9)
    story.submit_calls(1, kinds=["gpu 1"])
    up(story, 1, 4, TWO_GPUS)
    assert story.submit_calls(4, kinds=["gpu 1"]) == ["send 2.1 to 1", "boot 2 of gpu 1", "boot 3 of gpu 1"]


def test_what_a_default_runner_has_is_known_in_advance() -> None:
    story = Story(max=9, slots_hint=4, capacity=FOUR_CPUS)
    assert story.submit_calls(5, kinds=["cpu 2"]) == ["boot 1 of cpu 2", "boot 2 of cpu 2", "boot 3 of cpu 2"]


def test_boots_that_fail_fail_no_calls_while_another_runner_can_serve_them() -> None:
    story = Story(max=2, max_boot_failures=1)
    story.submit_calls(1)
    up(story, 1, 1, TWO_GPUS)
    assert story.submit_calls(1, kinds=["gpu 1"]) == ["boot 2 of gpu 1"]
    assert story.fails(2) == []
    assert "send 2.1 to 1" in story.results(1, 1)


def test_calls_wait_at_max_for_a_runner_on_which_they_fit() -> None:
    story = pool_of(FOUR_CPUS, TWO_GPUS, slots=1)
    story.submit_calls(2)
    assert story.submit_calls(1, kinds=["gpu 1"]) == [], "no runner is stopped: the second one will do"
    assert "send 1003.1 to 2" in story.results(2, 1002)


def test_a_runner_on_which_nothing_fits_makes_room() -> None:
    story = pool_of(FOUR_CPUS)
    assert story.submit_calls(1, kinds=["eu"]) == ["stop 1: room for another kind"]
    assert story.is_gone(1) == ["boot 2 of eu"]


# -- no call waits for ever --------------------------------------------------------------------------------------------


def test_small_calls_that_came_later_do_not_keep_out_a_large_one() -> None:
    story = pool_of(FOUR_CPUS)
    story.submit_calls(4)
    story.submit_calls(1, kinds=["cpu 3"])
    story.submit_calls(4)
    assert story.results(1, 1001) == ["1001 = result of 1001.1"], "the slot that is free is held"
    assert story.results(1, 1002) == ["1002 = result of 1002.1"]
    lines = story.results(1, 1003)
    assert lines[:1] == ["send 1005.1 to 1"]
    assert story.results(1, 1004)[:1] == ["send 1006.1 to 1"], "the others go on beside it"


def test_small_calls_go_on_where_no_room_is_held() -> None:
    story = pool_of(FOUR_CPUS, FOUR_CPUS)
    story.submit_calls(8)
    story.submit_calls(1, kinds=["cpu 3"])
    story.submit_calls(2)
    held = story.machine.pool.runner_table.placements.held
    assert held is not None
    other = 3 - held.id
    (first, *_) = story.nodes[other].flying
    assert story.results(other, first)[0] == f"send 1010.1 to {other}"


def test_a_runner_is_held_no_longer_than_its_call_waits() -> None:
    story = pool_of(FOUR_CPUS)
    story.submit_calls(4)
    story.submit_calls(1, kinds=["cpu 3"])
    story.submit_calls(1)
    assert story.results(1, 1001) == ["1001 = result of 1001.1"]
    assert story.tell(events.CancelRequested([1005]))[0] == "send 1006.1 to 1"


def test_a_runner_that_is_held_and_lost_is_held_no_more() -> None:
    story = pool_of(FOUR_CPUS, FOUR_CPUS)
    story.submit_calls(8)
    story.submit_calls(1, kinds=["cpu 3"])
    held = story.machine.pool.runner_table.placements.held
    assert held is not None
    story.loses_runner(held.id)
    now_held = story.machine.pool.runner_table.placements.held
    assert now_held is not None
    assert now_held.id == 3 - held.id


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_shutdown_keeps_the_runner_that_waiting_calls_of_another_kind_need() -> None:
    story = pool_of(FOUR_CPUS, TWO_GPUS, max_workers=5)
    story.submit_calls(4)
    story.submit_calls(3, kinds=["gpu 1"])
    assert [line for line in story.shuts_down(ShutdownMode.DRAIN) if line.startswith("stop")] == []


def test_kinds_that_are_not_used_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MANY_KINDS", 4)
    story = pool_of(TWO_GPUS)
    for number in range(1, 50):
        required = Requirements(memory=number % 8 + 1, cpus=number / 50)
        monkeypatch.setitem(REQUIREMENTS, required.key, required)
        story.submit_calls(1, kinds=[required.key])
        story.results(1, 1000 + number)
    table = story.machine.pool.runner_table
    assert len(table.groups) <= 5
    assert DEFAULT_KIND in table.groups
    assert story.machine.pool.call_table.queues.keys() <= table.groups.keys()


# -- records -----------------------------------------------------------------------------------------------------------


def test_requirements_that_are_equal_have_one_key() -> None:
    labels = frozenset({"b", "a"})
    assert Requirements(2, 1, 3, labels).key == Requirements(2.0, 1, 3, frozenset({"a", "b"})).key
    assert Requirements().key == ""
    assert Requirements(labels=frozenset({"a, b"})).key != Requirements(labels=labels).key


@pytest.mark.parametrize(
    ("cpus", "slots", "capacity", "taken"),
    [
        (0, 8, FOUR_CPUS, 1),
        (1, 4, FOUR_CPUS, 1),
        (1.5, 4, FOUR_CPUS, 2),
        (4, 4, FOUR_CPUS, 4),
        (0.1 * 3, 10, Capacity(1.0), 3),
        (1, 100, FOUR_CPUS, 25),
        (1, 1, FOUR_CPUS, 1),
        (2, 4, None, 1),
    ],
)
def test_a_call_takes_the_slots_whose_share_it_requires(
    cpus: float, slots: int, capacity: Capacity | None, taken: int
) -> None:
    assert Requirements(cpus).slots_of(slots, capacity) == taken


def test_capacities_and_requirements_are_told_in_words() -> None:
    assert str(Capacity(2.0, 1, 8 * 2**30, frozenset({"eu"}))) == "2 CPUs, 1 GPU, 8 GiB of memory, the label eu"
    assert str(Requirements()) == "nothing"
