"""The order of calls: by priority, and with keys to where calls of the key were sent last."""

from __future__ import annotations

import pytest

from dragonfly_executor.core import events, key_homes, placement
from dragonfly_executor.core.call_queue import LOOKAHEAD
from dragonfly_executor.core.call_table import CallLimits
from tests.support.story import Story

URGENT = CallLimits(priority=1)
LATE = CallLimits(priority=-0.5)


def keyed(key: int, **limits: float) -> CallLimits:
    return CallLimits(key=key, **limits)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_call_is_sent_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """So runners are full once each slot has a call."""
    monkeypatch.setattr(placement, "prefetch", lambda *_: 0)


# -- priority ----------------------------------------------------------------------------------------------------------


def test_the_larger_priority_is_sent_first_and_arrival_decides_within_one() -> None:
    story = Story(slots_hint=1).up(1)
    story.submit_calls(1)
    for limits in [LATE, CallLimits(), URGENT, LATE, CallLimits(), URGENT]:
        story.submit_calls(1, limits)
    order = []
    last = 3
    for _ in range(6):
        (line,) = [line for line in story.results(1, last) if line.startswith("send")]
        last = int(line.split()[1].split(".")[0])
        order.append(last)
    assert order == [6, 9, 5, 8, 4, 7]


def test_a_call_that_comes_back_keeps_its_place_within_its_priority() -> None:
    story = Story(slots_hint=1).up(1)
    story.submit_calls(1, URGENT)
    story.submit_calls(1, CallLimits(priority=2))
    story.submit_calls(1, URGENT)
    assert story.returns(1, 3) == ["send 4.1 to 1"]
    assert "send 3.1 to 1" in story.results(1, 4)
    assert "send 5.1 to 1" in story.results(1, 3)


def test_a_retry_keeps_its_priority() -> None:
    story = Story(slots_hint=1).up(1)
    story.submit_calls(1, CallLimits(priority=1, retries=1, retry_delays=(5.0,)))
    story.submit_calls(3)
    story.results(1, 3, retryable=True)
    story.at(5.0)
    assert "send 3.2 to 1" in story.results(1, 4)


def test_the_larger_priority_decides_which_kind_boots_first() -> None:
    story = Story(max=1)
    story.submit_calls(1)
    story.boots(1, 1)
    story.submit_calls(1, kinds=["large"])
    story.submit_calls(1, URGENT, kinds=["gpu"])
    story.results(1, 1)
    assert story.is_gone(1) == ["boot 2 of gpu"]


def test_the_larger_priority_decides_who_takes_the_last_worker() -> None:
    story = Story(max=2, max_workers=2).up(1)
    story.submit_calls(1, kinds=["gpu"])
    story.boots(2, 2)
    story.submit_calls(2)
    story.submit_calls(1, URGENT, kinds=["gpu"])
    assert "send 6.1 to 2" in story.results(2, 3)


def test_cancelled_calls_of_each_priority_are_not_kept() -> None:
    story = Story()
    for limits in (LATE, CallLimits(), URGENT):
        story.submit_calls(100, limits)
    story.tell(events.CancelRequested([i for i in range(1, 301) if i % 100]))
    assert [line for line in story.boots(1, 3) if line.startswith("send")] == [
        "send 300.1 to 1", "send 200.1 to 1", "send 100.1 to 1",
    ]  # fmt: skip


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_call_goes_where_a_call_of_its_key_was_sent_last() -> None:
    story = Story(max=2).up(2, 2)
    assert story.submit_calls(1, keyed(7)) == ["send 7.1 to 1"]
    story.submit_calls(1)  # to runner 2
    story.results(1, 7)
    story.submit_calls(1)  # to runner 1, so that runner 2 is not busier
    assert story.submit_calls(1, keyed(7)) == ["send 10.1 to 1"]
    assert story.submit_calls(1, keyed(8)) == ["send 11.1 to 2"]


def test_without_room_there_it_goes_anywhere_and_is_at_home_there_from_then_on() -> None:
    story = Story(max=2).up(1, 1)
    assert story.submit_calls(1, keyed(7)) == ["send 5.1 to 1"]
    assert story.submit_calls(1, keyed(7)) == ["send 6.1 to 2"]
    story.results(1, 5)
    story.results(2, 6)
    assert story.submit_calls(1, keyed(7)) == ["send 7.1 to 2"]


def test_short_calls_may_wait_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "prefetch", lambda cost, *_: 2 if cost is not None and cost < 0.1 else 0)
    story = Story(max=2).up(1, 1)
    story.submit_calls(1, keyed(7))
    story.results(1, 5, cost=0.001)
    assert story.submit_calls(2, keyed(7)) == ["send 6.1 to 1", "send 7.1 to 1"]
    story.results(1, 6, 7, cost=9.0)
    assert story.submit_calls(2, keyed(7)) == ["send 8.1 to 1", "send 9.1 to 2"]


def test_a_lost_home_is_no_home() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(1, keyed(7))
    story.results(1, 5)
    story.loses_runner(1)
    assert story.submit_calls(1, keyed(7)) == ["send 6.1 to 2"]


def test_a_full_pool_sends_each_key_home() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(1, keyed(7))
    story.submit_calls(1, keyed(8))
    story.submit_calls(1, keyed(8))
    story.submit_calls(1, keyed(7))
    assert "send 8.1 to 1" in story.results(1, 5)
    assert "send 7.1 to 2" in story.results(2, 6)


def test_a_call_lets_no_more_calls_pass_than_there_are_slots() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(1, keyed(7))
    story.submit_calls(1, keyed(8))
    story.submit_calls(1, keyed(8))
    story.submit_calls(5, keyed(7))
    assert "send 8.1 to 1" in story.results(1, 5)
    assert "send 9.1 to 1" in story.results(1, 8)
    assert "send 7.1 to 1" in story.results(1, 9)


def test_calls_without_a_key_are_not_overtaken() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(1, keyed(7))
    story.submit_calls(1, keyed(8))
    story.submit_calls(1)
    story.submit_calls(1, keyed(7))
    assert "send 7.1 to 1" in story.results(1, 5)


def test_a_key_does_not_change_the_priority() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(1, keyed(7))
    story.submit_calls(1, keyed(8))
    story.submit_calls(1, keyed(7))
    story.submit_calls(1, keyed(8, priority=1))
    assert "send 8.1 to 1" in story.results(1, 5)


def test_only_calls_that_are_near_are_looked_at() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(1, keyed(7))
    story.submit_calls(1, keyed(8))
    story.submit_calls(LOOKAHEAD, keyed(8))
    story.submit_calls(1, keyed(7))
    assert "send 7.1 to 1" in story.results(1, 5)


def test_calls_of_the_next_batch_go_home_one_by_one() -> None:
    story = Story(max=2).up(2, 2)
    story.submit([keyed(7), keyed(8), keyed(7), keyed(8)])
    assert [sorted(node.flying) for node in story.nodes.values()] == [[7, 9], [8, 10]]


def test_the_keys_used_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_homes, "MAX_KEYS", 2)
    homes = key_homes.KeyHomes()
    for key, place in [(1, 10), (2, 20), (1, 30), (3, 40)]:
        homes.put(key, place)
    assert [homes.get(key) for key in (1, 2, 3)] == [30, 0, 40]


def test_keys_hold_within_max_workers() -> None:
    story = Story(max=2, max_workers=3, slots_hint=1).up(2, 2)
    for key in (7, 8, 8):
        story.submit_calls(1, keyed(key))
    assert story.submit_calls(1, keyed(8)) == []
    assert story.submit_calls(1, keyed(7)) == []
    assert "send 11.1 to 1" in story.results(1, 7)
