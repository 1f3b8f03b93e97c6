"""Pieces that payloads have in common: known by their content, kept within bounds, sent to a runner once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Backend, LocalBackend
from dragonfly_executor.serialization.payload_parts import LEAST
from dragonfly_executor.serialization.repeated_buffers import RepeatedBuffers
from tests.engine.conftest import MakeExecutor as Make
from tests.engine.conftest import MakePool, make_pool
from tests.engine.conftest import make as make_any  # a fixture
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox, bytes_streamed_since, error_of, values
from tests.support.payloads import hold, wait_at
from tests.support.sharing import Block

__all__ = ["make_any", "make_pool"]

SIZE = 4 * LEAST
MANY = 8
SLOTS = 4


@pytest.fixture
def make(make_any: Make) -> Make:
    """Makes executors whose large payloads travel over the stream, as those of runners elsewhere do."""
    return lambda *args, **options: make_any(*args, **{"backend": LocalBackend(shared_memory=0)} | options)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Tells the bytes of large payloads that went out since it was last asked."""
    return bytes_streamed_since(monkeypatch)


def content(seed: int, size: int = SIZE) -> bytes:
    return bytes([seed]) * size


def array(seed: int, size: int = SIZE) -> Any:
    """An array, if numpy is installed; otherwise memory that travels beside the pickle like one."""
    try:
        import numpy
    except ImportError:
        return Block(bytearray(content(seed, size))).data
    return numpy.full(size, seed, "u1")


class Dialing(DialingBackend):
    """Runners that dial back, with four slots."""

    def default_slots(self) -> int:
        return SLOTS


PLACES: dict[str, Callable[[], Backend]] = {
    "stream": lambda: LocalBackend(slots=SLOTS, shared_memory=0),
    "dial-back": Dialing,
}


def holding(data: Any, mailbox: Mailbox, gate: Gate) -> Callable[[int], tuple[int, int]]:
    """A function that carries data. The first calls wait for each other, so that all slots run some."""
    mailbox_path, gate_path = mailbox.path, gate.path

    def use(index: int) -> tuple[int, int]:
        if index < SLOTS:
            hold(mailbox_path, gate_path)
        return os.getpid(), int(data[index])

    return use


# -- through a pool ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_what_a_function_of_a_map_carries_is_sent_to_a_runner_once(
    make: Make, sent: Callable[[], int], place: str, mailbox: Mailbox, gate: Gate
) -> None:
    """For 1,000 items and four slots, all of which use it."""
    executor = make(SLOTS, backend=PLACES[place]())
    results = executor.map(holding(array(7), mailbox, gate), range(1000), timeout=PATIENCE)
    pids = set(mailbox.numbers(SLOTS))
    gate.open(SLOTS)
    found = list(results)
    assert {pid for pid, _ in found} == pids
    assert [value for _, value in found] == [7] * 1000
    assert len(pids) == SLOTS
    assert SIZE <= sent() < 1.02 * SIZE


def test_it_is_sent_to_each_runner_once(
    make_pool: MakePool, sent: Callable[[], int], mailbox: Mailbox, gate: Gate
) -> None:
    pool = make_pool(max=2, max_concurrency=2, backend=LocalBackend(shared_memory=0))
    results = pool.map(holding(array(7), mailbox, gate), range(200), timeout=PATIENCE)
    assert len(set(mailbox.numbers(SLOTS))) == SLOTS
    gate.open(SLOTS)
    assert [value for _, value in results] == [7] * 200
    assert 2 * SIZE <= sent() < 2.04 * SIZE


def test_a_call_alone_sends_what_its_function_carries_once(make: Make, sent: Callable[[], int]) -> None:
    """It is kept for the next calls, also if these come later."""
    executor, data = make(1), array(7)
    for _ in range(4):
        assert executor.submit(lambda: int(data[5])).result(PATIENCE) == 7
    assert SIZE <= sent() < 1.02 * SIZE


@pytest.mark.parametrize("value", [content(7), "\7" * SIZE], ids=["bytes", "text"])
def test_captured_bytes_and_texts_are_made_once_a_slot(make: Make, sent: Callable[[], int], value: Any) -> None:
    executor = make(2)
    results = list(executor.map(lambda index: (os.getpid(), id(value), value[index]), range(50), timeout=PATIENCE))
    assert {item for _, _, item in results} == {value[0]}
    assert len({(pid, place) for pid, place, _ in results}) == len({pid for pid, _, _ in results})
    assert SIZE <= sent() < 1.02 * SIZE


def test_what_a_call_writes_into_a_captured_array_is_gone_with_it(make: Make) -> None:
    """For the next calls of its slot and for those of other slots, on one runner."""
    executor, data = make(2), array(7)

    def write() -> tuple[int, int]:
        before = int(data[5])
        data[:100] = data[100:200]
        data[5] = 9
        return before, int(data[5])

    assert values(executor.submit(write) for _ in range(20)) == [(7, 9)] * 20
    assert data[5] == 7


def test_a_change_between_two_submits_reaches_the_second_and_not_the_first(
    make: Make, sent: Callable[[], int], gate: Gate
) -> None:
    executor, data = make(1), array(0)
    executor.submit(wait_at, gate.path)
    found = []
    for number in range(9):
        data[SIZE // 2 + 4321] = number // 3
        found.append(executor.submit(lambda: int(data[SIZE // 2 + 4321])))
    data[SIZE // 2 + 4321] = 99
    gate.open()
    assert values(found) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert 3 * SIZE <= sent() < 3.1 * SIZE


def test_a_payload_with_pieces_may_be_large_besides(make: Make, sent: Callable[[], int]) -> None:
    """Buffers of all sizes, before and behind the pieces, and parts of the pickle."""
    executor, data, odd = make(1), array(7), bytes(range(256)) * (SIZE // 256) + b"odd"
    inside, rest = [b"inside" * LEAST], array(3, 300_001)

    def use(size: int) -> tuple[int, int, bytes, bytes, int, int]:
        return len(data), int(data[-1]), odd[-3:], inside[0][-6:], int(rest[size - 1]), len(rest)

    for _ in range(4):
        assert executor.submit(use, 300_001).result(PATIENCE) == (SIZE, 7, b"odd", b"inside", 3, 300_001)
    # What is inside the pickle counts from the second time on.
    assert sent() < 2 * SIZE + 2 * 6 * LEAST + 5 * 300_001


@pytest.mark.parametrize("kind", [bytes, bytearray], ids=["bytes", "bytearray"])
def test_an_argument_is_sent_to_a_slot_once(make: Make, sent: Callable[[], int], kind: Any) -> None:
    executor, data = make(1), kind(content(7))
    for _ in range(2 + MANY):
        assert executor.submit(len, data).result(PATIENCE) == SIZE
    assert sent() < 2.1 * SIZE


def test_what_has_changed_is_sent_again(make: Make, sent: Callable[[], int]) -> None:
    """It is the content that counts, in each byte, and not the object."""
    executor, data = make(1), bytearray(content(7))
    place = SIZE // 3
    for value in (1, 2, 1, 3, 2):
        data[place] = value
        for _ in range(3):
            assert executor.submit(lambda: data[place]).result(PATIENCE) == value
    # Each of three contents is kept from the second time on.
    assert sent() <= 6.1 * SIZE


def test_what_a_call_writes_into_it_is_its_own(make: Make) -> None:
    executor, data = make(1), bytearray(content(7))

    def write() -> tuple[int, int]:
        before = data[0]
        data[0] += 1
        return before, data[0]

    for _ in range(4):
        assert executor.submit(write).result(PATIENCE) == (7, 8)
    for _ in range(4):
        assert executor.submit(_add_one, data).result(PATIENCE) == 8
    assert data[0] == 7


def _add_one(data: bytearray) -> int:
    data[0] += 1
    return data[0]


def test_a_new_slot_needs_no_transfer(make: Make, sent: Callable[[], int]) -> None:
    executor, data = make(1), array(7)
    first = executor.submit(lambda: (os.getpid(), int(data[1]))).result(PATIENCE)
    error_of(executor.submit(lambda: (int(data[0]), os.kill(os.getpid(), signal.SIGKILL))), PATIENCE)
    sent()
    second = executor.submit(lambda: (os.getpid(), int(data[1]))).result(PATIENCE)
    assert (first[1], second[1]) == (7, 7)
    assert first[0] != second[0]
    assert sent() < 0.02 * SIZE


def test_slots_that_run_one_call_each(make: Make) -> None:
    executor, data = make(2, max_tasks_per_child=1), content(7)
    assert list(executor.map(lambda index: data[index], range(MANY), timeout=PATIENCE)) == [7] * MANY


def test_a_call_that_is_killed_while_it_is_sent_leaves_the_stream_in_step(make: Make) -> None:
    executor, data = make(1), content(7, 8 * SIZE)
    for _ in range(12):
        future = executor.submit(lambda: data[1])
        future.cancel()
        assert executor.submit(lambda: data[2]).result(PATIENCE) == 7


def test_more_than_is_kept_is_sent_each_time(
    make: Make, sent: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RepeatedBuffers.__init__, "__defaults__", (2 * SIZE,))
    executor = make(1)
    contents = [content(number) for number in range(3)]
    for _ in range(4):
        for number, data in enumerate(contents):
            assert executor.submit(lambda data=data: data[0]).result(PATIENCE) == number
    assert sent() >= 9 * SIZE
    large = content(9, 3 * SIZE)
    for _ in range(3):
        assert executor.submit(lambda: large[0]).result(PATIENCE) == 9
    assert sent() >= 9 * SIZE


SCRIPT = """
import sys
from dragonfly_executor import DragonflyExecutor, LocalBackend
from dragonfly_executor.transport.link import Link
sizes = []
send_bulk = Link.send_bulk
def counting(self, header, piece=b""):
    sizes.append(len(piece))
    send_bulk(self, header, piece)
Link.send_bulk = counting
SIZE = 4 << 20
big = KIND(SIZE)
def use(index): return big[index]
with DragonflyExecutor(1, backend=LocalBackend(shared_memory=0)) as executor:
    assert list(executor.map(use, range(6))) == [0] * 6
    assert list(executor.map(lambda index: big[index], range(6))) == [0] * 6
    assert SIZE <= sum(sizes) < 1.1 * SIZE, sum(sizes) / SIZE
    big = KIND(b"x") * SIZE
    assert list(executor.map(use, range(6))) == [120] * 6
    if KIND is bytearray:
        big[SIZE // 3] = 1
        assert executor.submit(use, SIZE // 3).result() == 1
print("all well")
"""


@pytest.mark.parametrize("kind", ["bytes", "bytearray"])
def test_a_global_of_the_script_is_sent_to_a_slot_once(kind: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace("KIND", kind))
    ran = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (ran.stdout, ran.stderr) == ("all well\n", "")


def test_pools_do_not_share_what_slots_keep(make: Make) -> None:
    one, other = make(1), make(1)
    for number, executor in enumerate([one, other, one, other]):
        data = content(number)
        for _ in range(3):
            assert executor.submit(lambda data=data: data[0]).result(PATIENCE) == number
