"""`place`: methods of an object that stays in a slot."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

from dragonfly_executor import (
    CallSerializationError,
    DragonflyExecutor,
    FrameTooLargeError,
    PlacedWorker,
    ResultSerializationError,
)
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.processes.workers.objects import Attached, Counter, Several, nap
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of, values
from tests.support.payloads import pid


def test_methods_run_on_one_object_in_its_slot_in_order(make: Make) -> None:
    executor = make()
    worker = executor.place(Counter, 10)
    assert values([worker.add(number) for number in range(200)]) == [10 + sum(range(n + 1)) for n in range(200)]
    assert len(set(values([worker.pid() for _ in range(10)]))) == 1
    assert worker.pid().result(PATIENCE) not in values([executor.submit(pid) for _ in range(10)])


def test_pools_and_views_place_workers_too(make: Make, make_pool: MakePool) -> None:
    view = make().options(retries=1)
    assert view.place(Counter, start=1).add(2).result(PATIENCE) == 3
    assert make_pool().place(Counter).add().result(PATIENCE) == 1


def test_a_function_may_make_the_object_and_a_callable_one_is_called(make: Make) -> None:
    def load() -> Any:
        return functools.partial(pow, 2)

    executor = make()
    assert executor.place(load)(10).result(PATIENCE) == 1024
    assert executor.place(Counter)(21).result(PATIENCE) == 42


def test_a_method_that_the_class_has_not_is_refused_and_can_be_called_by_its_name(make: Make) -> None:
    worker = make().place(Counter)
    with pytest.raises(AttributeError, match="Counter has no method 'extra'"):
        _ = worker.extra
    assert worker.call_method("extra", 3).result(PATIENCE) == 3
    assert isinstance(error_of(worker.call_method("no_such")), AttributeError)


def test_errors_of_methods_come_back_and_the_worker_goes_on(make: Make) -> None:
    worker = make().place(Counter)
    error = error_of(worker.fail(ValueError("boom")))
    assert (type(error), str(error)) == (ValueError, "boom")
    assert "objects.py" in str(error.__cause__)
    assert type(error_of(worker.unpicklable())) is ResultSerializationError
    assert isinstance(error_of(worker.fail(SystemExit(3))), SystemExit)
    with pytest.raises(CallSerializationError, match=r"argument 1 of echo\(\)"):
        worker.echo(threading.Lock())
    assert worker.add().result(PATIENCE) == 1


def test_what_cannot_be_placed_is_refused_at_once(make: Make) -> None:
    executor = make()
    with pytest.raises(CallSerializationError, match=r"argument 1 of Counter\(\)"):
        executor.place(Counter, threading.Lock())
    with pytest.raises(TypeError, match="place"):
        executor.place(3)  # type: ignore[call-overload]
    with pytest.raises(CallSerializationError, match="cannot travel"):
        executor.submit(pid, executor.place(Counter)).result(PATIENCE)


@pytest.mark.parametrize("size", [0, 60_000, 70_000, 3_000_000])
def test_arguments_and_results_of_any_size(make: Make, size: int) -> None:
    worker = make().place(Counter)
    data = bytes(range(256)) * (size // 256)
    assert all(found == data for found in values([worker.echo(data) for _ in range(3)]))


def test_large_arguments_without_shared_memory_keep_their_place(make: Make) -> None:
    from dragonfly_executor import LocalBackend

    worker = make(backend=LocalBackend(shared_memory=0)).place(Counter)
    sizes = [3_000_000, 10, 1_000_000, 20, 400_000]
    futures = [future for size in sizes for future in (worker.echo(bytes(size)), worker.add())]
    found = values(futures)
    assert [len(value) for value in found[::2]] == sizes
    assert found[1::2] == [1, 2, 3, 4, 5]


def test_a_result_beyond_max_payload_fails_alone(make: Make) -> None:
    worker = make(max_payload=1 << 20).place(Counter)
    assert type(error_of(worker.zeros(2 << 20))) is FrameTooLargeError
    with pytest.raises(FrameTooLargeError):
        worker.echo(bytes(2 << 20))
    assert worker.add().result(PATIENCE) == 1


def test_shared_objects_are_arguments_of_methods(make: Make) -> None:
    executor = make()
    worker = executor.place(Counter)
    with executor.share(list(range(1000))) as shared:
        assert worker.echo(shared).result(PATIENCE) == list(range(1000))


def test_a_child_that_a_method_forks_answers_nothing(make: Make) -> None:
    worker = make().place(Counter)
    assert worker.fork().result(PATIENCE) > 0
    assert values([worker.add() for _ in range(3)]) == [1, 2, 3]


def test_tasks_await_methods_and_leave_the_worker(make: Make) -> None:
    async def main(executor: DragonflyExecutor) -> list[int]:
        async with executor.place(Counter) as worker:
            await worker.ready
            found = await asyncio.gather(*(worker.add() for _ in range(50)))
        with pytest.raises(RuntimeError, match="stopped"):
            worker.add()
        return found

    assert asyncio.run(main(make())) == list(range(1, 51))


def test_a_call_that_waits_can_be_cancelled_and_one_that_was_sent_cannot(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    worker = make().place(Counter)
    first = worker.hold(mailbox.path, gate.path, "held")
    mailbox.read()
    ahead, *others = [worker.add() for _ in range(5)]
    assert not first.cancel()
    assert others[-1].cancel()
    assert wait([others[-1]], PATIENCE).not_done == set()
    with pytest.raises(CancelledError):
        others[-1].result()
    gate.open()
    assert first.result(PATIENCE) == "held"
    assert values([ahead, *others[:-1]]) == [1, 2, 3, 4]


def test_several_methods_run_at_once_in_threads_and_in_the_loop(make: Make) -> None:
    worker = make().options(concurrency=3).place(Several)
    assert len(set(values([worker.meet() for _ in range(3)]))) == 3
    waiting = [worker.wait() for _ in range(2)]
    worker.wake().result(PATIENCE)
    assert values(waiting) == ["woken", "woken"]
    assert str(error_of(worker.fail())) == "several"
    worker.stop(timeout=PATIENCE)


def test_a_worker_is_stopped_by_its_block_and_its_slot_is_free_again(make: Make, mailbox: Mailbox) -> None:
    executor = make(1)
    with executor.place(Attached, mailbox.path) as worker:
        made, where = mailbox.read().split()
        assert made == "made"
        last = worker.pid()
    assert last.result() == int(where)
    assert mailbox.read() == f"gone {where}"
    assert executor.submit(pid).result(PATIENCE) == int(where)
    assert worker.ended.result() is None
    assert "ended" in repr(worker)


def test_a_worker_that_nothing_refers_to_is_stopped_after_its_calls(make: Make, mailbox: Mailbox) -> None:
    executor = make(1)
    worker: PlacedWorker[Attached] = executor.place(Attached, mailbox.path)
    view = worker.options(timeout=PATIENCE)
    where = mailbox.read().split()[1]
    del worker
    gc.collect()
    future = view.pid()
    del view
    gc.collect()
    assert mailbox.read() == f"gone {where}"
    assert future.result(PATIENCE) == int(where)


def test_a_worker_keeps_its_pool(make: Make) -> None:
    worker = DragonflyExecutor(1).place(Counter)
    gc.collect()
    assert worker.add().result(PATIENCE) == 1
    owner: Any = worker._owner
    worker.stop(timeout=PATIENCE)
    owner.shutdown()


def test_methods_of_options_see_them(make: Make) -> None:
    worker = make().place(Seeded)
    seeded = worker.options(seed=7)
    assert seeded.draw().result(PATIENCE) == seeded.draw().result(PATIENCE)


class Seeded:
    def draw(self) -> float:
        import random

        return random.random()


def test_calls_beside_a_worker_go_on(make: Make) -> None:
    executor = make(2)
    worker = executor.place(Counter)
    assert worker.add().result(PATIENCE) == 1
    assert len(values([executor.submit(nap, 0) for _ in range(50)])) == 50


def test_a_future_keeps_no_arguments(make: Make) -> None:
    executor = make()
    worker = executor.place(Counter)
    data = bytes(3_000_000)
    futures = []
    for _ in range(20):
        futures.append(worker.echo(data))
        assert len(futures[-1].result(PATIENCE)) == len(data)
    assert taken(executor) < 10 * len(data)


def taken(executor: DragonflyExecutor) -> int:
    """The bytes of shared memory that the pool and its slots have."""
    memory = executor.pool._engine.payloads.shared_memory()
    assert memory is not None
    return memory.account.taken


def test_the_next_call_uses_the_memory_of_the_one_before(make: Make) -> None:
    executor = make(1)
    worker = executor.place(Counter)
    size = 3_000_000
    for _ in range(10):
        assert worker.size(bytes(size)).result(PATIENCE) == size
    assert taken(executor) < 2 * size


def test_the_next_result_uses_the_memory_of_the_one_before(make: Make) -> None:
    executor = make(1)
    worker = executor.place(Counter)
    size = 9_000_000  # more than a segment of several blocks has
    for _ in range(5):
        assert len(worker.zeros(size).result(PATIENCE)) == size
    assert taken(executor) < 2 * size


def test_the_errors_of_attempts_give_their_memory_back(make: Make) -> None:
    executor = make(1)
    worker = executor.place(Counter).options(retries=30, retry_on=ValueError, retry_wait=lambda state: 0)
    assert worker.fail_until(30, 1_000_000).result(PATIENCE) == 30
    assert taken(executor) < 15_000_000
