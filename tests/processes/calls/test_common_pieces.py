"""Large buffers that calls have in common: they lie once in shared memory, and each call gets them unchanged."""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import LocalBackend, RunnerLostError
from dragonfly_executor.engine.common_pieces import LEAST, CommonPieces
from dragonfly_executor.engine.shared_memory import IDLE, SharedSegments
from dragonfly_executor.serialization.payload_parts import PayloadParts
from tests.processes.conftest import Make
from tests.support import array_calls as calls
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, bytes_streamed, error_of, kill_and_wait

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")
SIZE = 2 * LEAST
MANY = 30


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with closing(Gate(tmp_path / "gate")) as gate:
        yield gate


def memory_of(ex: Any) -> SharedSegments:
    memory: SharedSegments = ex.pool._engine.payloads.shared_memory()
    return memory


def held(number: int, size: int = SIZE) -> Callable[[Any], Any]:
    """A function that has captured an array."""
    array = np.full(size, number, "u1")
    return lambda index: int(array[index])


# -- how much memory they take -----------------------------------------------------------------------------------------


def test_a_map_over_a_captured_array_takes_its_memory_twice_at_most(make: Make, gate: Gate, monkeypatch: Any) -> None:
    ex, streamed = make(2, backend=LocalBackend(shared_memory=8 * SIZE)), bytes_streamed(monkeypatch)
    waiting = [ex.submit(payloads.wait_at, gate.path) for _ in range(2)]
    found = ex.map(held(7), range(MANY), timeout=PATIENCE)
    # The first call has it in its own payload, as nothing shows yet that it will come again.
    assert SIZE < memory_of(ex).account.taken < 2.5 * SIZE
    gate.open(2)
    assert list(found) == [7] * MANY
    assert [future.exception(PATIENCE) for future in waiting] == [None] * 2
    assert not streamed


@pytest.mark.parametrize("value", [b"\7" * SIZE, "\7" * SIZE], ids=["bytes", "text"])
def test_captured_bytes_and_texts_lie_there_once_and_are_made_once_a_slot(
    make: Make, gate: Gate, monkeypatch: Any, value: Any
) -> None:
    ex, streamed = make(2, backend=LocalBackend(shared_memory=8 * SIZE)), bytes_streamed(monkeypatch)
    waiting = [ex.submit(payloads.wait_at, gate.path) for _ in range(2)]
    found = ex.map(lambda index: (os.getpid(), id(value), value[index]), range(MANY), timeout=PATIENCE)
    assert SIZE < memory_of(ex).account.taken < 1.5 * SIZE
    gate.open(2)
    results = list(found)
    assert {item for _, _, item in results} == {value[0]}
    assert len({(pid, place) for pid, place, _ in results}) == len({pid for pid, _, _ in results})
    assert [future.exception(PATIENCE) for future in waiting] == [None] * 2
    assert not streamed


def test_a_captured_bytearray_is_a_new_one_for_each_call(make: Make) -> None:
    ex, data = make(1), bytearray(SIZE)

    def write() -> tuple[str, int, int]:
        before = data[7]
        data[7] += 1
        data.append(1)
        return type(data).__name__, before, len(data)

    for _ in range(4):
        assert ex.submit(write).result(PATIENCE) == ("bytearray", 0, SIZE + 1)


GLOBAL = """
import os
import numpy as np
from dragonfly_executor import DragonflyExecutor
if __name__ == "__main__":
    big = np.zeros(1 << 20)
    with DragonflyExecutor(2) as ex:
        memory = ex.pool._engine.payloads.shared_memory()
        calls = [ex.submit(lambda index: float(big[index]), index) for index in range(50)]
        big[7] = 5
        later = [ex.submit(lambda index: float(big[index]), index) for index in range(10)]
        print(memory.account.taken < 5 << 23, end=" ")
        print(sum(call.result() for call in calls), [call.result() for call in later])
"""


def test_a_large_global_lies_there_once_for_each_of_its_states(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(GLOBAL)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr) == (f"True 0.0 {[5.0 if index == 7 else 0.0 for index in range(10)]}\n", "")


def test_memory_is_given_back_when_no_call_has_used_it_for_a_while(make: Make) -> None:
    ex, function = make(1), held(7)
    for _ in range(3):
        ex.submit(function, 0).result(PATIENCE)
    memory = memory_of(ex)
    loop = ex.pool._engine._loop
    now = loop.time()
    assert memory.account.taken >= SIZE
    assert ex.pool._engine.ask(lambda _machine: memory._trim_all(now - IDLE))
    assert memory.account.taken >= SIZE
    ex.submit(payloads.pid).result(SOON)
    gc.collect()
    ex.pool._engine.ask(lambda _machine: memory._trim_all())
    assert memory.account.taken == 0
    assert ex.submit(function, 1).result(PATIENCE) == 7


def test_without_room_for_a_common_buffer_calls_go_on(make: Make) -> None:
    for room in (SIZE // 2, SIZE + (1 << 20), 3 * SIZE):
        ex = make(1, backend=LocalBackend(shared_memory=room))
        functions = [held(number) for number in range(3)]
        for _ in range(3):
            found = [ex.submit(function, -1) for function in functions]
            assert [future.result(PATIENCE) for future in found] == [0, 1, 2]
        assert memory_of(ex).account.taken <= room
        ex.shutdown()


# -- what calls see ----------------------------------------------------------------------------------------------------


def test_a_call_sees_nothing_of_what_earlier_calls_wrote(make: Make) -> None:
    ex, array = make(1), np.zeros(SIZE, "u1")
    for number in range(1, 6):
        assert ex.submit(calls.sums, array).result(PATIENCE) == [0]
        assert int(ex.submit(calls.fill, array, number).result(PATIENCE).min()) == number
    assert int(array.max()) == 0


def test_views_that_a_slot_keeps_are_its_own(make: Make) -> None:
    ex, array = make(1), np.ones(SIZE, "u1")
    for number in range(4):
        ex.submit(calls.fill_and_keep, array, number).result(PATIENCE)
        assert ex.submit(calls.sums, array).result(PATIENCE) == [SIZE]
    assert ex.submit(calls.sums_of_kept).result(PATIENCE) == [number * SIZE for number in range(4)]
    ex.submit(calls.drop_kept).result(PATIENCE)
    for number in range(4):
        assert ex.submit(calls.sums, array).result(PATIENCE) == [SIZE]
        ex.submit(calls.fill, array, number).result(PATIENCE)


@pytest.mark.parametrize("place", [0, SIZE // 2 + 4321, SIZE - 1])
def test_a_change_between_two_calls_reaches_the_second_and_not_the_first(make: Make, gate: Gate, place: int) -> None:
    ex, array = make(1), np.zeros(SIZE, "u1")
    ex.submit(payloads.wait_at, gate.path)
    found = []
    for number in range(12):
        array[place] = number // 3
        found.append(ex.submit(calls.item, array, place))
    array[place] = 99
    gate.open()
    assert [future.result(PATIENCE) for future in found] == [number // 3 for number in range(12)]


def test_several_of_odd_sizes_and_other_buffers_between_them(make: Make) -> None:
    ex = make(1)
    sizes = [SIZE + 1, 5000, LEAST + 63, 100, LEAST + 64, 70_001, LEAST - 1]
    arrays = [np.full(size, number, "u1") for number, size in enumerate(sizes)] + [np.arange(SIZE // 8)]
    for _ in range(4):
        back = ex.submit(calls.echo, arrays).result(PATIENCE)
        assert all((one == other).all() for one, other in zip(back, arrays, strict=True))
        assert ex.submit(calls.are_aligned, arrays).result(PATIENCE)


def test_they_are_read_only_if_the_user_wants_that(make: Make) -> None:
    ex, array = make(1, read_only_arguments=True), np.ones(SIZE, "u1")
    for _ in range(4):
        assert ex.submit(calls.writable_arrays, [array]).result(PATIENCE) == [False]


def test_they_travel_with_handles_of_shared_objects(make: Make) -> None:
    ex, array = make(1), np.ones(SIZE, "u1")
    with ex.share([1, 2]) as handle:
        for _ in range(4):
            assert ex.submit(calls.echo_two, array, handle).result(PATIENCE)[1] == [1, 2]


# -- ends --------------------------------------------------------------------------------------------------------------


def test_slots_that_die_and_retries_harm_none(make: Make, tmp_path: Path) -> None:
    ex, array = make(1, retries=1), np.ones(SIZE, "u1")
    for number in range(3):
        assert ex.submit(calls.write_and_die_once, array, str(tmp_path / str(number))).result(PATIENCE) == SIZE
    slot = ex.submit(calls.keep, array).result(PATIENCE)
    kill_and_wait(slot)
    assert ex.submit(calls.sums, array).result(PATIENCE) == [SIZE]
    assert isinstance(error_of(ex.options(retries=0).submit(calls.fill_and_die, array)), RunnerLostError)
    assert ex.submit(calls.sums, array).result(PATIENCE) == [SIZE]


def test_a_forked_child_of_a_call_keeps_what_it_has(make: Make, tmp_path: Path) -> None:
    ex, go_on, result, array = make(1), tmp_path / "go", tmp_path / "result", np.ones(SIZE, "u1")
    os.mkfifo(go_on)
    os.mkfifo(result)
    reader = os.open(result, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for _ in range(3):
            ex.submit(calls.sums, array).result(PATIENCE)
        ex.submit(calls.sum_in_forked_child, array, str(go_on), str(result)).result(PATIENCE)
        for number in range(6):
            ex.submit(calls.fill, array, number).result(PATIENCE)
            assert ex.submit(calls.sums, array).result(PATIENCE) == [SIZE]
        go_on.write_bytes(b"go")
        select.select([reader], [], [], PATIENCE)
        assert int(os.read(reader, 100)) == SIZE
    finally:
        os.close(reader)


def test_a_slot_that_cannot_map_them_gets_the_whole_call_over_the_stream(make: Make, monkeypatch: Any) -> None:
    ex, array, streamed = make(1), np.arange(SIZE, dtype="u1"), bytes_streamed(monkeypatch)
    value = [np.ones(100_001, "u1"), array, np.ones(5003, "u1"), array[: LEAST + 7]]
    expected = [int(one.sum()) for one in value]
    for _ in range(3):
        assert ex.submit(calls.sums, value).result(PATIENCE) == expected
    assert not streamed
    ex.submit(calls.forbid_new_mappings).result(PATIENCE)
    for times in range(1, 4):
        assert ex.submit(calls.sums, value).result(PATIENCE) == expected
        assert sum(streamed) > times * sum(array.nbytes for array in value)


# -- which are looked up -----------------------------------------------------------------------------------------------


def test_an_array_that_changes_a_little_before_each_call_is_seldom_copied_for_nothing() -> None:
    memory, published = SharedSegments(1 << 30), []
    numbers = count()

    def publish(part: Any) -> Any:
        published.append(next(numbers))
        return memory._publish(part)

    pieces, array = CommonPieces(publish, 1 << 29), bytearray(LEAST)
    for number in range(300):
        array[LEAST // 2 + 4321] = number % 251
        parts = PayloadParts([b"head", memoryview(array)])
        parts.pieces, parts.buffers_from = {}, 1
        found = pieces.find(parts)
        assert all(piece.view() == memoryview(array) for piece in found.values())
    assert 1 <= len(published) <= 12
    pieces.trim()
    gc.collect()
    assert memory.account.taken == 0


def test_no_more_is_kept_than_the_limit() -> None:
    memory = SharedSegments(1 << 30)
    pieces = CommonPieces(memory._publish, 3 * LEAST)
    arrays = [bytearray([number]) * LEAST for number in range(6)]
    for _ in range(3):
        for array in arrays:
            parts = PayloadParts([b"head", memoryview(array)])
            parts.pieces, parts.buffers_from = {}, 1
            pieces.find(parts)
    gc.collect()
    assert 0 < memory.account.taken <= 3 * LEAST
    assert pieces.trim(0.0)
    assert not pieces.trim()
    gc.collect()
    assert memory.account.taken == 0
