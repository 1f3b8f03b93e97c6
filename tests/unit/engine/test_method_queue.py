"""The method calls of a placed worker: their order, how many are sent ahead, and which may have begun."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.engine.placed.method_queue import MOST_AHEAD, MOST_BYTES, MethodQueue
from dragonfly_executor.engine.placed.restart_policy import CALM, RestartPolicy


class Queued:
    def __init__(self, name: int, size: int = 1) -> None:
        self.name = name
        self.size = size
        self.has_arguments = True


def queue_of(count: int, concurrency: int = 1, size: int = 1) -> MethodQueue[Queued]:
    queue: MethodQueue[Queued] = MethodQueue(concurrency)
    for name in range(count):
        queue.add(Queued(name, size))
    return queue


def send_all(queue: MethodQueue[Queued]) -> list[int]:
    numbers = []
    while queue.next() is not None:
        numbers.append(queue.sent())
    return numbers


def names(calls: list[Queued]) -> list[int]:
    return [call.name for call in calls]


def test_one_call_is_sent_ahead_until_a_run_time_is_known() -> None:
    assert send_all(queue_of(5)) == [1, 2]
    assert send_all(queue_of(5, concurrency=3)) == [1, 2, 3, 4]


def test_no_call_overtakes_one_without_arguments() -> None:
    queue: MethodQueue[Queued] = MethodQueue(2)
    first, second, third = (Queued(name) for name in range(3))
    for call in (first, second, third):
        queue.add(call)
    second.has_arguments = False
    assert send_all(queue) == [1]
    queue.answered(1, 0.0001)
    assert queue.next() is None
    second.has_arguments = True
    assert send_all(queue) == [2, 3]


def test_many_short_calls_are_sent_ahead_and_one_long_one() -> None:
    queue = queue_of(1000)
    send_all(queue)
    queue.answered(1, 0.0001)
    assert queue.ahead == 20
    queue.answered(2, 1e-9)
    for number in send_all(queue):
        queue.answered(number, 0.0)
    assert queue.ahead == MOST_AHEAD
    for _ in range(10):
        send_all(queue)
        number = next(iter(queue.begun()))
        queue.answered(number, 10.0)
    assert queue.ahead == 1


def test_large_calls_are_sent_one_by_one() -> None:
    queue = queue_of(3, size=MOST_BYTES)
    assert send_all(queue) == [1]
    queue.answered(1, 0.0)
    assert send_all(queue) == [2]


def test_of_a_slot_that_died_the_first_calls_may_have_begun_and_the_others_wait_again() -> None:
    queue = queue_of(5, concurrency=2)
    assert send_all(queue) == [1, 2, 3]
    doubtful, fresh = queue.lost(in_order=True)
    assert (names(doubtful), names(fresh)) == ([0, 1], [2])
    queue.put_back(fresh)
    assert send_all(queue) == [1, 2, 3]
    found = queue.find(1)
    assert found is not None
    assert found.name == 2


def test_of_a_runner_that_was_lost_each_call_that_was_sent_may_have_begun() -> None:
    queue = queue_of(5)
    send_all(queue)
    doubtful, fresh = queue.lost(in_order=False)
    assert (names(doubtful), fresh) == ([0, 1], [])


def test_a_call_whose_result_is_on_its_way_has_let_the_next_one_begin() -> None:
    queue = queue_of(5)
    send_all(queue)
    queue.leaving(1)
    assert list(queue.begun()) == [2]
    assert queue.ahead_of_time() == {}
    doubtful, fresh = queue.lost(in_order=True)
    assert (names(doubtful), fresh) == ([0, 1], [])


@given(st.lists(st.sampled_from("asdx"), max_size=60), st.integers(1, 3))
def test_no_call_is_lost_or_comes_twice_and_they_begin_in_order(steps: str, concurrency: int) -> None:
    """a: add, s: send, d: the slot ends a call, x: the slot dies. The slot begins what is first, as a real one does."""
    queue: MethodQueue[Queued] = MethodQueue(concurrency)
    ended: list[int] = []
    begun: list[int] = []
    added = 0
    for step in steps:
        if step == "a":
            queue.add(Queued(added))
            added += 1
        elif step == "s":
            send_all(queue)
        running = queue.begun()
        begun += [call.name for call in running.values() if call.name not in begun]
        if step == "d" and running:
            call = queue.answered(next(iter(running)), 0.0)
            assert call is not None
            ended.append(call.name)
        elif step == "x":
            doubtful, fresh = queue.lost(in_order=True)
            ended += names(doubtful)
            assert set(begun) <= set(ended), "a call that had begun begins again"
            queue.put_back(fresh)
    left = names(queue.take_waiting()) + [call.name for call in queue.lost(in_order=False)[0]]
    assert sorted(ended + left) == list(range(added))
    assert begun == sorted(begun)


def test_a_worker_that_is_never_to_begin_again_does_not() -> None:
    assert RestartPolicy("never", None).pause(failed=True, served=1.0) is None


def test_on_failure_a_worker_begins_again_a_few_times() -> None:
    policy = RestartPolicy("on_failure", 2)
    assert policy.pause(failed=False, served=1.0) is None
    assert policy.pause(failed=True, served=1.0) == 0.0
    second = policy.pause(failed=True, served=1.0)
    assert second is not None
    assert second > 0
    assert policy.pause(failed=True, served=1.0) is None
    assert policy.restarts == 2


def test_always_a_worker_begins_again_and_after_a_calm_time_at_once() -> None:
    policy = RestartPolicy("always", None)
    pauses = [policy.pause(failed=False, served=0.0) for _ in range(8)]
    assert all(pause is not None and pause <= 10.1 for pause in pauses)
    assert policy.pause(failed=True, served=CALM) == 0.0
