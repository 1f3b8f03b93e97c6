"""Runners of several kinds in one pool: each call runs on its kind, and no kind starves at `max`."""

from __future__ import annotations

import pytest

from dragonfly_executor.core import events, placement
from dragonfly_executor.core.events import ShutdownMode
from tests.support.story import Story


@pytest.fixture(autouse=True)
def no_call_is_sent_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """So runners are full once each slot has a call."""
    monkeypatch.setattr(placement, "prefetch", lambda *_: 0)


def test_a_call_waits_for_a_runner_of_its_kind() -> None:
    story = Story(max=3).up(2)
    assert story.submit_calls(1, kinds=["gpu"]) == ["boot 3 of gpu"]
    assert story.submit_calls(1) == ["send 5.1 to 1"]
    assert story.boots(3) == ["send 4.1 to 3"]


def test_calls_of_one_batch_go_to_their_kinds_in_order() -> None:
    story = Story(max=2, slots_hint=3).up(2)
    story.submit_calls(1, kinds=["gpu"])
    story.boots(2)
    story.results(2, 4)
    assert story.submit_calls(6, kinds=["", "gpu", "gpu"]) == [
        "send 5.1 to 1", "send 8.1 to 1", "send 6.1 to 2", "send 7.1 to 2",
    ]  # fmt: skip
    assert story.results(2, 6) == ["send 9.1 to 2", "6 = result of 6.1"]


def test_each_kind_has_its_own_slots_hint() -> None:
    story = Story(max=9)
    story.submit_calls(1)
    story.boots(1, 8)
    assert story.submit_calls(4, kinds=["gpu"]) == ["boot 2 of gpu", "boot 3 of gpu"]


# -- room at max -------------------------------------------------------------------------------------------------------


def test_the_runner_that_is_idle_longest_makes_room_for_another_kind() -> None:
    story = Story(max=2).up(2, 2)
    story.now = 1.0
    story.submit_calls(1)
    story.results(1, 7)
    assert story.submit_calls(1, kinds=["gpu"]) == ["stop 2: room for another kind"]
    assert story.is_gone(2) == ["boot 3 of gpu"]
    assert story.boots(3) == ["send 8.1 to 3"]


def test_no_more_runners_make_room_than_are_needed() -> None:
    story = Story(max=3).up(2, 2, 2)
    assert story.submit_calls(3, kinds=["gpu"]) == ["stop 1: room for another kind", "stop 2: room for another kind"]
    assert story.submit_calls(1, kinds=["gpu"]) == []
    assert story.is_gone(1) == ["boot 4 of gpu"]
    assert story.is_gone(2) == ["boot 5 of gpu"]


def test_idle_runners_within_min_stay_while_the_other_kind_has_a_runner() -> None:
    story = Story(max=2, min=1)
    story.tell(events.Tick())
    story.boots(1)
    assert story.submit_calls(1, kinds=["gpu"]) == ["boot 2 of gpu"]
    story.boots(2)
    assert story.submit_calls(4, kinds=["gpu"]) == ["send 2.1 to 2"]
    assert story.nodes[1].stopped is False


def test_min_gives_way_to_a_kind_without_a_runner_and_is_kept_again_afterwards() -> None:
    story = Story(max=1, min=1)
    story.tell(events.Tick())
    story.boots(1)
    assert story.submit_calls(1, kinds=["gpu"]) == ["stop 1: room for another kind"]
    assert story.is_gone(1) == ["boot 2 of gpu"]
    assert story.boots(2) == ["send 1.1 to 2"]
    assert story.results(2, 1) == ["1 = result of 1.1", "stop 2: room for another kind"]
    assert story.is_gone(2) == ["boot 3"]


def test_a_boot_that_no_call_needs_any_more_makes_room() -> None:
    story = Story(max=2)
    story.submit_calls(4)
    story.tell(events.CancelRequested([3, 4]))
    assert story.submit_calls(1, kinds=["gpu"]) == ["stop 2: room for another kind"]
    assert story.submit_calls(1, kinds=["gpu"]) == []
    assert story.is_gone(2) == ["boot 3 of gpu"]


def test_needless_boots_and_idle_runners_make_room_together() -> None:
    story = Story(max=4, slots_hint=1)
    story.submit_calls(4)
    for runner_id in (1, 2, 3):
        story.boots(runner_id, 1)
    story.results(1, 1)
    story.results(2, 2)
    assert story.submit_calls(2, kinds=["gpu"]) == ["stop 4: room for another kind", "stop 2: room for another kind"]
    assert story.nodes[3].flying, "it is busy"


def test_a_runner_beyond_max_makes_no_room() -> None:
    story = Story(max=4, slots_hint=1)
    story.submit_calls(4, kinds=["", "gpu", "large", "large"])
    for runner_id in (1, 2, 3, 4):
        story.boots(runner_id, 1)
    story.results(4, 4)
    assert story.tell(events.Resized(2, 2)) == ["stop 4: resized"]


def test_a_boot_that_min_needs_makes_no_room() -> None:
    story = Story(max=2, min=2)
    story.tell(events.Tick())
    assert story.submit_calls(1, kinds=["gpu"]) == []


# -- taking turns ------------------------------------------------------------------------------------------------------


def test_a_busy_runner_yields_to_a_kind_without_one_once_older_calls_are_sent() -> None:
    story = Story(max=2).up(2, 2)
    story.submit_calls(5)
    assert story.submit_calls(1, kinds=["gpu"]) == []
    assert story.results(1, 7) == ["send 11.1 to 1", "7 = result of 7.1"]
    assert story.submit_calls(1) == []
    assert story.results(2, 8) == ["8 = result of 8.1"], "runner 2 takes no more calls"
    assert story.results(1, 10) == ["send 13.1 to 1", "10 = result of 10.1"]
    assert story.results(2, 9) == ["9 = result of 9.1", "stop 2: room for another kind"]
    assert story.is_gone(2) == ["boot 3 of gpu"]
    assert story.boots(3) == ["send 12.1 to 3"]


def test_the_kind_with_the_most_runners_yields() -> None:
    story = Story(max=3, slots_hint=1)
    story.submit_calls(3, kinds=["gpu", "large", "large"])
    for runner_id in (1, 2, 3):
        story.boots(runner_id, 1)
    story.submit_calls(1)
    assert story.results(1, 1) == ["1 = result of 1.1", "stop 1: room for another kind"], "an idle one goes before"
    story = Story(max=3, slots_hint=1)
    story.submit_calls(3, kinds=["gpu", "large", "large"])
    for runner_id in (1, 2, 3):
        story.boots(runner_id, 1)
    story.submit_calls(1)
    assert list(story.machine.pool.runner_table.groups["large"][0].yielding) == [3]


def test_a_runner_that_yields_takes_calls_again_if_its_room_is_not_needed_any_more() -> None:
    story = Story(max=1).up(2)
    story.submit_calls(2)
    story.submit_calls(1, kinds=["gpu"])
    assert story.submit_calls(1) == []
    assert story.results(1, 4) == ["4 = result of 4.1"], "it yields"
    assert story.tell(events.CancelRequested([6])) == ["send 7.1 to 1", "6 = cancelled"]


def test_a_runner_that_yields_takes_calls_again_after_a_resize() -> None:
    story = Story(max=1).up(1)
    story.submit_calls(1)
    story.submit_calls(1, kinds=["gpu"])
    story.submit_calls(1)
    assert story.tell(events.Resized(0, 2)) == ["boot 2 of gpu"]
    assert story.results(1, 3) == ["send 5.1 to 1", "3 = result of 3.1"]


def test_runners_beyond_max_retire_when_they_need_not_yield_any_more() -> None:
    story = Story(max=2, slots_hint=1)
    story.submit_calls(2, kinds=["", "gpu"])
    story.boots(1, 1)
    story.boots(2, 1)
    story.submit_calls(2, kinds=["large", "huge"])
    assert story.tell(events.Resized(0, 1)) == [], "both yield"
    assert story.tell(events.CancelRequested([3, 4])) == ["3 = cancelled", "4 = cancelled"]
    assert story.results(2, 2) == ["2 = result of 2.1", "stop 2: resized"]


def test_of_two_runners_that_yield_one_goes_on_if_one_kind_has_no_call_left() -> None:
    story = Story(max=3, slots_hint=1)
    story.submit_calls(3)
    for runner_id in (1, 2, 3):
        story.boots(runner_id, 1)
    story.submit_calls(2, kinds=["gpu", "large"])
    group = story.machine.pool.runner_table.groups[""][0]
    assert list(group.yielding) == [3, 2]
    story.tell(events.CancelRequested([4]))
    assert list(group.yielding) == [3]
    story.submit_calls(1, kinds=["gpu"])
    assert list(group.yielding) == [3, 2]


def test_a_kind_whose_boots_pause_gets_no_room() -> None:
    story = Story(max=1, max_boot_failures=9)
    story.submit_calls(1, kinds=["gpu"])
    assert story.fails(1, retry_in=5.0) == []
    story.submit_calls(1)
    story.boots(2)
    assert story.results(2, 2) == ["2 = result of 2.1"]
    assert story.at(5.0) == ["stop 2: room for another kind"]


def test_no_room_is_made_while_the_backend_cannot_boot() -> None:
    story = Story(max=2, max_concurrent_boots=1)
    story.submit_calls(1)
    story.boots(1)
    story.results(1, 1)
    story.submit_calls(3, kinds=["gpu"])
    assert story.nodes[1].stopped is False
    assert story.boots(2) == ["send 2.1 to 2", "send 3.1 to 2", "stop 1: room for another kind"]


def test_no_runner_yields_while_the_backend_cannot_boot() -> None:
    story = Story(max=2, slots_hint=1, max_concurrent_boots=1)
    story.submit_calls(1)
    story.boots(1, 1)
    story.submit_calls(2, kinds=["gpu", "large"])
    group = story.machine.pool.runner_table.groups[""][0]
    assert not group.yielding
    story.boots(2, 1)
    assert list(group.yielding) == [1]


def test_two_kinds_take_turns_with_batches_of_calls() -> None:
    """Without the gate each of these calls would need a boot."""
    story = Story(max=1, slots_hint=1)
    story.submit_calls(40, kinds=["", "gpu"])
    boots = run_to_the_end(story)
    assert boots == ["", "gpu"]


def test_no_kind_waits_for_ever_beside_others_whose_calls_never_end() -> None:
    story = Story(max=1, slots_hint=1)
    done = {"": 0, "gpu": 0, "large": 0}
    story.submit_calls(6, kinds=[*done])
    for _ in range(600):
        for call_id, kind in one_step(story):
            done[kind] += 1
            # Each call that ends has one of its kind follow: none of the queues ever gets empty.
            story.submit_calls(1, kinds=[kind])
            assert call_id
    assert min(done.values()) >= 20
    assert sum(done.values()) > 200, "most of the time goes into calls, not boots"


def test_each_kind_gets_a_runner_before_one_gets_a_second_one() -> None:
    story = Story(max=3, slots_hint=1)
    assert story.submit_calls(4, kinds=["", "", "", "gpu"]) == ["boot 1", "boot 2 of gpu", "boot 3"]


def test_beyond_that_the_kind_whose_call_waits_longest_gets_its_runners_first() -> None:
    story = Story(max=5, slots_hint=1)
    assert story.submit_calls(7, kinds=["gpu", "", "gpu", "gpu", "", "", ""]) == [
        "boot 1 of gpu", "boot 2", "boot 3 of gpu", "boot 4 of gpu", "boot 5",
    ]  # fmt: skip


# -- max_workers -------------------------------------------------------------------------------------------------------


def test_a_kind_gets_a_runner_beside_slots_of_another_kind_that_reach_max_workers() -> None:
    story = Story(max=4, max_workers=2).up(2)
    story.submit_calls(3)
    assert story.submit_calls(1, kinds=["gpu"]) == ["boot 2 of gpu"]
    assert story.boots(2) == [], "two calls run"
    assert story.results(1, 4) == ["send 6.1 to 1", "4 = result of 4.1"], "it came before"
    assert story.results(1, 5) == ["send 7.1 to 2", "5 = result of 5.1"]


def test_the_only_runner_of_a_kind_is_not_idle_while_its_calls_wait_for_their_turn() -> None:
    story = Story(max=4, max_workers=1, idle_after=5.0).up(1)
    story.submit_calls(1)
    story.submit_calls(1, kinds=["gpu"])
    story.boots(2)
    assert story.at(9.0) == []
    assert story.results(1, 3) == ["send 4.1 to 2", "3 = result of 3.1"]


# -- boots that fail, and the end --------------------------------------------------------------------------------------


def test_boots_that_fail_end_the_hope_for_their_kind_alone() -> None:
    story = Story(max=2, max_boot_failures=2)
    story.submit_calls(1)
    story.submit_calls(1, kinds=["gpu"])
    assert story.fails(2, retry_in=0.0) == ["boot 3 of gpu"]
    assert story.fails(3, retry_in=0.0) == ["2 = BootError"]
    assert story.boots(1) == ["send 1.1 to 1"]
    assert story.submit_calls(1, kinds=["gpu"]) == ["boot 4 of gpu"]


def test_a_pause_of_one_kind_does_not_hold_up_another() -> None:
    story = Story(max=2)
    story.submit_calls(1, kinds=["gpu"])
    story.fails(1, retry_in=7.0)
    assert story.submit_calls(1) == ["boot 2"]
    assert story.stats.back_off_until == 7.0
    assert story.at(7.0) == ["boot 3 of gpu"]


def test_the_stats_say_when_the_next_pause_ends() -> None:
    story = Story(max=2)
    story.submit_calls(2, kinds=["gpu", "large"])
    story.fails(1, retry_in=7.0)
    story.fails(2, retry_in=3.0)
    assert story.stats.back_off_until == 3.0
    assert story.stats.limits_that_bind == ("back-off",)


def test_calls_whose_boots_all_hang_fail_and_those_of_another_kind_go_on() -> None:
    story = Story(max=3, max_concurrent_boots=1, max_boot_failures=9)
    story.submit_calls(1)
    story.boots(1)
    story.submit_calls(1, kinds=["gpu"])
    assert story.fails(2, retry_in=0.0, hangs=True) == ["2 = BootError"]
    assert story.results(1, 1) == ["1 = result of 1.1"]


def test_a_runner_goes_on_if_no_boot_can_use_its_room() -> None:
    story = Story(max=1, max_concurrent_boots=1, max_boot_failures=9).up(1)
    story.submit_calls(2)
    assert story.submit_calls(1, kinds=["gpu"]) == []
    assert story.results(1, 3) == ["send 4.1 to 1", "3 = result of 3.1"]


@pytest.mark.parametrize("mode", [ShutdownMode.DRAIN, ShutdownMode.CANCEL_QUEUED])
def test_a_shutdown_keeps_what_calls_of_each_kind_need(mode: ShutdownMode) -> None:
    story = Story(max=3, slots_hint=1)
    story.submit_calls(3, kinds=["gpu", "", "gpu"])
    story.tell(events.CancelRequested([2]))
    assert story.shuts_down(mode) == ["stop 3: shutdown"]
    story.is_gone(3)
    assert story.boots(1, 1) == ["send 1.1 to 1"]
    assert story.boots(2, 1) == ["send 3.1 to 2"]
    story.results(1, 1)
    assert story.results(2, 3) == ["3 = result of 3.1", "stop 2: shutdown"]


def test_a_shutdown_cancels_the_calls_of_a_kind_for_which_nothing_boots() -> None:
    story = Story(max=1, slots_hint=1)
    story.submit_calls(2, kinds=["", "gpu"])
    assert story.shuts_down(ShutdownMode.CANCEL_QUEUED) == ["2 = cancelled"]


def test_the_idle_limit_of_min_is_about_the_default_kind() -> None:
    story = Story(max=2, min=1, idle_after=5.0)
    story.tell(events.Tick())
    story.boots(1)
    story.submit_calls(1, kinds=["gpu"])
    story.boots(2)
    story.results(2, 1)
    assert story.at(5.0) == ["stop 2: idle"]


def one_step(story: Story) -> list[tuple[int, str]]:
    """What comes next where everything works; each runner has one slot. Gives the calls that end: id, kind."""
    for runner_id, node in story.nodes.items():
        if node.stopped:
            story.is_gone(runner_id)
            return []
        if not node.up:
            story.boots(runner_id, 1)
            return []
        if node.flying:
            call_id = next(iter(node.flying))
            story.results(runner_id, call_id)
            return [(call_id, story.call(call_id).kind)]
    story.at(story.now)
    return []


def run_to_the_end(story: Story) -> list[str]:
    """Run until no call is left, and give the kinds that were booted, in order."""
    kinds: dict[int, str] = {}
    while story.machine.unsettled():
        kinds |= {runner_id: node.kind for runner_id, node in story.nodes.items()}
        one_step(story)
    return list(kinds.values())
