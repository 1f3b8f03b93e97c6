"""Spare runners: how many boot ahead of the calls, and when they go."""

from __future__ import annotations

from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.core.usage import UsageCaps
from tests.support.story import Story


def test_a_pool_without_calls_has_no_spare_runner() -> None:
    story = Story(max=4, spare=2)
    assert story.at(1.0) == []
    assert story.submit_calls(1) == ["boot 1", "boot 2", "boot 3"]


def test_spare_runners_are_ahead_of_the_calls() -> None:
    story = Story(max=8, spare=1)
    assert story.submit_calls(2) == ["boot 1", "boot 2"], "two slots each"
    assert story.boots(1) == ["send 1.1 to 1", "send 2.1 to 1"]
    assert story.boots(2) == []
    assert "boot 3" in story.submit_calls(1)
    story.boots(3)
    assert story.submit_calls(1) == ["send 4.1 to 2"] or story.stats.runners_booting == 0
    assert story.stats.runners_up == 3, "four calls fill two runners"


def test_max_and_max_workers_and_a_budget_bound_them() -> None:
    assert Story(max=2, spare=5).submit_calls(1) == ["boot 1", "boot 2"]
    assert Story(max=8, spare=5, max_workers=4).submit_calls(1) == ["boot 1", "boot 2"], "four slots"
    story = Story(max=8, spare=1, caps=UsageCaps(machine_seconds=10.0))
    story.submit_calls(1)
    story.boots(1)
    story.boots(2)
    story.at(5.0)
    assert story.stats.runners_booting == 0
    story.now = 6.0
    assert story.submit_calls(8) == ["8 = BudgetExceeded"] or story.stats.runners_booting == 0


def test_spare_runners_go_when_they_have_been_idle_since_the_last_call() -> None:
    story = Story(max=4, spare=1, idle_after=30.0)
    story.submit_calls(1)
    story.boots(1)
    story.boots(2)
    assert story.at(100.0) == [], "the call runs"
    for call_id in range(1, 10):
        assert story.results(1, call_id) == [f"{call_id} = result of {call_id}.1"]
        assert story.submit_calls(1) == [f"send {call_id + 1}.1 to 1"], "no runner goes between two calls"
    story.now = 110.0
    story.results(1, 10)
    assert story.machine.deadline() == 140.0
    assert story.at(139.0) == []
    assert story.at(140.0) == ["stop 2: idle", "stop 1: idle"]


def test_runners_beyond_the_spare_ones_go_first() -> None:
    story = Story(max=4, spare=1, idle_after=30.0)
    story.submit_calls(6)
    for runner_id in range(1, 5):
        story.boots(runner_id)
    running = [call_id for call_id in (1, 2) if call_id in story.nodes[1].flying]
    done = [call_id for node in story.nodes.values() for call_id in node.flying if call_id not in running]
    for runner_id, node in list(story.nodes.items()):
        ended = [call_id for call_id in node.flying if call_id in done]
        if ended:
            story.results(runner_id, *ended)
    story.at(1000.0)
    assert story.stats.runners_up == 2, "one has the calls, and one is the spare one"


def test_a_spare_runner_leaves_its_room_to_another_kind() -> None:
    story = Story(max=2, spare=1)
    story.submit_calls(1)
    story.boots(1)
    story.boots(2)
    lines = story.submit_calls(1, kinds=("gpu",))
    assert lines == ["stop 2: room for another kind"]
    assert story.is_gone(2) == ["boot 3 of gpu"]


def test_failed_boots_are_tried_again_for_calls_alone() -> None:
    story = Story(max=8, spare=3, max_boot_failures=3)
    assert story.submit_calls(1) == ["boot 1", "boot 2", "boot 3", "boot 4"]
    assert story.fails(1) == []
    assert story.fails(2) == []
    assert story.boots(3) == ["send 1.1 to 3", "boot 5", "boot 6"]
    assert story.stats.runners_up + story.stats.runners_booting == 4


def test_no_spare_runner_boots_during_a_shutdown() -> None:
    story = Story(max=8, spare=1)
    story.submit_calls(1)
    story.boots(1)
    story.boots(2)
    assert story.shuts_down() == ["stop 2: shutdown"]
    story = Story(max=8, spare=1)
    story.submit_calls(1)
    assert "boot" not in " ".join(story.shuts_down(ShutdownMode.KILL))
