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

from dragonfly_executor import LocalBackend
from dragonfly_executor.serialization.payload_parts import LEAST
from dragonfly_executor.serialization.repeated_buffers import RepeatedBuffers
from tests.engine.conftest import MakeExecutor as Make
from tests.engine.conftest import make as make_any  # a fixture
from tests.support.helpers import PATIENCE, bytes_streamed, error_of

__all__ = ["make_any"]

SIZE = 4 * LEAST
MANY = 8


@pytest.fixture
def make(make_any: Make) -> Make:
    """Makes executors whose large payloads travel over the stream, as those of runners elsewhere do."""
    return lambda *args, **options: make_any(*args, **{"backend": LocalBackend(shared_memory=0)} | options)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Tells the bytes of large payloads that went out since it was last asked."""
    sizes = bytes_streamed(monkeypatch)

    def ask() -> int:
        total = sum(sizes)
        sizes.clear()
        return total

    return ask


def content(seed: int, size: int = SIZE) -> bytes:
    return bytes([seed]) * size


# -- through a pool ----------------------------------------------------------------------------------------------------


def test_what_a_closure_holds_is_sent_to_a_slot_once(make: Make, sent: Callable[[], int]) -> None:
    executor, data = make(1), content(7)
    # The second time shows that it is worth keeping.
    for _ in range(2):
        assert executor.submit(lambda: (data[0], len(data))).result(PATIENCE) == (7, SIZE)
    assert 2 * SIZE <= sent() < 2.1 * SIZE
    assert list(executor.map(lambda index: data[index], range(MANY), timeout=PATIENCE)) == [7] * MANY
    assert sent() < 0.1 * SIZE


def test_each_slot_gets_it(make: Make, sent: Callable[[], int]) -> None:
    executor, data = make(3), content(7)
    futures = [executor.submit(lambda: (os.getpid(), data[-1])) for _ in range(12 * MANY)]
    results = [future.result(PATIENCE) for future in futures]
    assert {last for _, last in results} == {7}
    assert sent() <= (1 + len({pid for pid, _ in results})) * 1.1 * SIZE


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
    assert sent() <= 6.3 * SIZE


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


def test_a_new_slot_is_sent_it_again(make: Make, sent: Callable[[], int]) -> None:
    executor, data = make(1), content(7)
    for _ in range(3):
        assert executor.submit(lambda: data[1]).result(PATIENCE) == 7
    error_of(executor.submit(lambda: (data[0], os.kill(os.getpid(), signal.SIGKILL))), PATIENCE)
    sent()
    for _ in range(3):
        assert executor.submit(lambda: data[1]).result(PATIENCE) == 7
    assert SIZE <= sent() < 1.1 * SIZE


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
