"""Pieces whose transfer stalls or is cut off, and runners that cannot keep them: each call runs, and runs once."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import pytest

from dragonfly_executor import LocalBackend
from tests.processes.conftest import Make
from tests.support import payloads, sharing
from tests.support.helpers import PATIENCE, Stall, TamperingBackend, bytes_streamed, error_of
from tests.support.sharing import SIZE, Block, CountingBackend


class Stalled:
    """A runner with one slot, and a function that carries data whose transfer there stalls half-way."""

    def __init__(self, make: Make, **options: object) -> None:
        self.stall = Stall()
        self.executor = make(1, backend=TamperingBackend(to_runner=lambda: self.stall), **options)
        self.slot = self.executor.submit(payloads.pid).result(PATIENCE)
        self.agent = self.executor.submit(payloads.agent_pid).result(PATIENCE)
        block = Block(bytearray(os.urandom(SIZE)))
        self.function = lambda: len(block.data)
        self.stall.after(SIZE // 2)

    def wait(self) -> None:
        assert self.stall.stalled.wait(PATIENCE)


def test_a_slot_that_is_killed_while_its_call_waits_has_not_begun_it(make: Make) -> None:
    """It runs in the next slot, without retries."""
    stalled = Stalled(make)
    future = stalled.executor.submit(stalled.function)
    stalled.wait()
    os.kill(stalled.slot, signal.SIGKILL)
    stalled.stall.go_on.set()
    assert future.result(PATIENCE) == SIZE


def test_a_runner_that_is_killed_in_the_middle_of_a_transfer_has_not_begun_the_call(make: Make) -> None:
    """The next runner starts from the beginning."""
    stalled = Stalled(make, boot_wait=lambda state: 0.0)
    future = stalled.executor.submit(stalled.function)
    stalled.wait()
    os.kill(stalled.agent, signal.SIGKILL)
    stalled.stall.go_on.set()
    assert future.result(PATIENCE) == SIZE


def test_a_call_that_is_cancelled_while_it_waits_harms_no_other(make: Make) -> None:
    stalled = Stalled(make)
    first, second = (stalled.executor.submit(stalled.function) for _ in range(2))
    stalled.wait()
    assert first.cancel()
    stalled.stall.go_on.set()
    assert second.result(PATIENCE) == SIZE


def test_the_only_call_is_cancelled_in_the_middle_of_a_transfer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing keeps the piece, so the runner is told that it is gone. Another one comes."""
    from dragonfly_executor.serialization.repeated_buffers import RepeatedBuffers

    monkeypatch.setattr(RepeatedBuffers.__init__, "__defaults__", (0,))
    stalled = Stalled(make)
    future = stalled.executor.submit(stalled.function)
    stalled.wait()
    assert future.cancel()
    del future
    stalled.stall.go_on.set()
    assert stalled.executor.submit(stalled.function).result(PATIENCE) == SIZE


def test_the_wait_for_a_piece_counts_towards_the_timeout(make: Make) -> None:
    stalled = Stalled(make)
    future = stalled.executor.options(timeout=0.3).submit(stalled.function)
    stalled.wait()
    assert "timeout" in str(error_of(future))
    stalled.stall.go_on.set()
    assert stalled.executor.submit(stalled.function).result(PATIENCE) == SIZE


def held(block: Block) -> Any:
    return lambda place: (os.getpid(), block.data[place], sum(block.data[:100]))


@pytest.mark.parametrize("limit", ["RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_a_runner_without_room_gets_the_whole_payload(make: Make, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Each call that needs it, as long as there is no room."""
    import resource

    if not hasattr(resource, "prlimit"):
        pytest.skip("no limit of another process can be set here")
    sizes = bytes_streamed(monkeypatch)
    executor = make(1, backend=LocalBackend(shared_memory=0))
    slot = executor.submit(payloads.pid).result(PATIENCE)
    agent = executor.submit(payloads.agent_pid).result(PATIENCE)
    kind = getattr(resource, limit)
    old = resource.prlimit(agent, kind)
    # The limit is the agent's, which makes and writes the memory.
    resource.prlimit(agent, kind, (SIZE // 2 if limit == "RLIMIT_FSIZE" else 3, old[1]))
    function = held(Block(bytearray(b"\1") * SIZE))
    for _ in range(2):
        assert executor.submit(function, SIZE - 1).result(PATIENCE) == (slot, 1, 100)
        assert sum(sizes) >= SIZE
        sizes.clear()
    resource.prlimit(agent, kind, old)
    for _ in range(3):
        assert executor.submit(function, SIZE - 1).result(PATIENCE) == (slot, 1, 100)
    assert SIZE <= sum(sizes) < 1.1 * SIZE


def test_a_slot_that_cannot_open_the_piece_gets_the_whole_payload(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    executor = make(1, backend=LocalBackend(shared_memory=0))
    function = held(Block(bytearray(b"\1") * SIZE))
    # This loads the modules of the test.
    slot, _, _ = executor.submit(held(Block(bytearray(b"\1") * 200)), 5).result(PATIENCE)
    if not hasattr(resource, "prlimit"):
        pytest.skip("no limit of another process can be set here")
    old = resource.prlimit(slot, resource.RLIMIT_NOFILE)
    resource.prlimit(slot, resource.RLIMIT_NOFILE, (3, old[1]))
    assert executor.submit(function, 5).result(PATIENCE) == (slot, 1, 100)
    resource.prlimit(slot, resource.RLIMIT_NOFILE, old)
    assert executor.submit(function, 5).result(PATIENCE) == (slot, 1, 100)


PARENT = """
import sys
from dragonfly_executor import DragonflyExecutor
from tests.support import payloads, sharing
from tests.support.helpers import Stall, TamperingBackend

stall = Stall()
executor = DragonflyExecutor(1, backend=TamperingBackend(to_runner=lambda: stall))
print(executor.submit(payloads.agent_pid).result(), executor.submit(payloads.pid).result(), flush=True)
stall.after(sharing.SIZE // 2)
block = sharing.Block(bytearray(sharing.SIZE))
executor.submit(lambda: len(block.data))
stall.stalled.wait()
print("stalled", flush=True)
stall.go_on.wait = lambda timeout: sys.stdin.read()
sys.stdin.read()
"""


def test_a_parent_that_is_killed_in_the_middle_of_a_transfer_leaves_nothing() -> None:
    sharing.kill_when_stalled(PARENT)


def test_a_piece_that_no_call_needs_is_freed_everywhere(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from dragonfly_executor.serialization.repeated_buffers import RepeatedBuffers

    if sys.platform != "linux":
        pytest.skip("only Linux shows the descriptors of another process")
    monkeypatch.setattr(RepeatedBuffers.__init__, "__defaults__", (SIZE + 1000,))
    backend = CountingBackend()
    executor = make(1, backend=backend)
    agent, slot = (executor.submit(fn).result(PATIENCE) for fn in (payloads.agent_pid, payloads.pid))

    def opened() -> list[int]:
        return [len(sharing.open_files_of(pid, "dragonfly-piece")) for pid in (agent, slot)]

    assert executor.submit(held(Block(bytearray([7]) * SIZE)), 5).result(PATIENCE)[1] == 7
    of_one = opened()
    assert 0 not in of_one
    # The second takes the place of the first.
    for number in range(3):
        function = held(Block(bytearray([number]) * SIZE))
        assert executor.submit(function, 5).result(PATIENCE)[1] == number
        deadline = time.monotonic() + PATIENCE
        # The engine may let go of the last call only after it has sent the next one. Each call lets it go on.
        while opened() != of_one:
            assert time.monotonic() < deadline
            assert executor.submit(payloads.nothing).result(PATIENCE) is None
