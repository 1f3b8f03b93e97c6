"""`Remote`: objects in results of methods that stay in the slot of their worker."""

from __future__ import annotations

import gc
from typing import Any

from dragonfly_executor import CallDeserializationError, PlacedWorker, Remote, RemoteObject, ResultSerializationError
from dragonfly_executor.serialization.remote_object import RemoteStore
from tests.processes.conftest import Make
from tests.processes.workers.objects import Counter
from tests.support.helpers import PATIENCE, Mailbox, becomes_true, error_of, values
from tests.support.payloads import echo


class Silent:
    """Has no text."""

    def __len__(self) -> int:
        return 3

    def __str__(self) -> str:
        raise ValueError("no text")


class Store:
    """Hands out objects that stay."""

    def make(self, start: int) -> Remote:
        return Remote(Counter(start))

    def several(self) -> dict[str, Any]:
        return {"first": Remote(Counter(1)), "others": [Remote(Counter(2)), 3, lambda: 4]}

    def total(self, counters: list[Any], more: int) -> int:
        assert all(type(counter) is Counter for counter in counters)
        return sum(counter.count for counter in counters) + more

    def bad(self) -> Any:
        return [Remote(Counter()), object.__reduce_ex__, (each for each in ())]

    def again(self) -> list[Remote]:
        """Return the same `Remote` each time."""
        self.remote = getattr(self, "remote", None) or Remote(Counter(1))
        return [self.remote, self.remote]

    def silent(self) -> Remote:
        return Remote(Silent())

    async def kept(self) -> int:
        store = RemoteStore.of_worker.get()
        assert store is not None
        return len(store)


def kept(worker: PlacedWorker[Store]) -> int:
    gc.collect()
    found: int = worker.kept().result(PATIENCE)
    return found


def test_calls_with_a_handle_go_to_where_the_object_is(make: Make) -> None:
    worker = make().place(Store)
    counter = worker.make(5).result(PATIENCE)
    assert type(counter) is RemoteObject
    assert "Counter" in repr(counter)
    assert values([counter.add(number) for number in range(4)]) == [5, 6, 8, 11]
    assert counter(4).result(PATIENCE) == 8
    error = error_of(counter.fail(KeyError("there")))
    assert repr(error) == "KeyError('there')"
    assert kept(worker) == 1


def test_methods_that_run_at_once_use_objects_that_stay(make: Make) -> None:
    executor = make()
    worker = executor.options(concurrency=2).place(Store)
    counter = worker.make(5).result(PATIENCE)
    assert counter.add().result(PATIENCE) == 6
    assert kept(worker) == 1
    assert worker.silent().result(PATIENCE).call_method("__len__").result(PATIENCE) == 3
    del counter
    assert becomes_true(executor.pool, lambda: kept(worker) == 0)


def test_handles_are_arguments_of_their_worker_at_any_depth(make: Make) -> None:
    executor = make()
    worker = executor.place(Store)
    found = worker.several().result(PATIENCE)
    first, (second, three, four) = found["first"], found["others"]
    assert (three, four()) == (3, 4)
    assert worker.total([first, second], more=10).result(PATIENCE) == 13
    assert type(error_of(executor.submit(echo, first))) is CallDeserializationError
    assert type(error_of(executor.place(Store).total([first], 0))) is CallDeserializationError


def test_the_slot_lets_go_of_objects_without_a_handle(make: Make) -> None:
    worker = make().place(Store)
    for _ in range(3):
        found = worker.several().result(PATIENCE)
        assert kept(worker) == 2
        del found
        assert kept(worker) == 0
    unread = worker.make(1)
    assert kept(worker) == 1
    del unread
    assert kept(worker) == 0
    assert type(error_of(worker.bad())) is ResultSerializationError
    assert kept(worker) == 0


def test_a_remote_that_is_returned_again_stays_for_each_result(make: Make) -> None:
    worker = make().place(Store)
    first, same = worker.again().result(PATIENCE)
    assert first is same
    second, _ = worker.again().result(PATIENCE)
    assert values([first.add(), second.add()]) == [2, 3]
    del first, same
    assert kept(worker) == 1
    assert second.add().result(PATIENCE) == 4
    del second, _
    assert kept(worker) == 0


def test_another_attempt_still_finds_the_object(make: Make) -> None:
    worker = make().place(Store).options(retries=1, retry_on=ValueError, retry_wait=lambda state: 0)
    future = worker.make(0).result(PATIENCE).fails_once()
    assert future.result(PATIENCE) == 2
    assert kept(worker) == 0


def test_a_call_before_the_end_of_a_handle_still_finds_the_object(make: Make) -> None:
    worker = make().place(Store)
    futures = []
    for number in range(50):
        counter = worker.make(number).result(PATIENCE)
        futures.append(counter.add())
        del counter
    assert values(futures) == list(range(1, 51))
    assert kept(worker) == 0


def test_a_worker_lives_while_a_handle_does(make: Make) -> None:
    executor = make(1)
    counter = executor.place(Store).make(1).result(PATIENCE)
    gc.collect()
    assert counter.add().result(PATIENCE) == 2
    ended = counter._lease.worker.ended
    del counter
    gc.collect()
    assert ended.result(PATIENCE) is None


def test_an_object_is_lost_with_its_slot(make: Make, mailbox: Mailbox) -> None:
    worker = make().options(restart="always").place(Store)
    counter = worker.make(1).result(PATIENCE)
    error_of(counter.exit(3))
    worker.make(2).result(PATIENCE)
    error = error_of(counter.add())
    assert type(error) is CallDeserializationError
    assert "has not begun again" in str(error)


def test_only_methods_of_workers_return_what_stays(make: Make) -> None:
    error = error_of(make().submit(Remote, 1))
    assert type(error) is ResultSerializationError
    assert "place()" in str(error)
