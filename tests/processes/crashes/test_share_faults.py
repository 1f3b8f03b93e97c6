"""Shared objects whose transfer is cut off, stalls or is damaged: no call runs twice, and the next gets the object."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dragonfly_executor import CallDeserializationError, DragonflyExecutor, LocalBackend
from dragonfly_executor.engine import shared_contents
from dragonfly_executor.runner import content_cache
from tests.processes.conftest import Make
from tests.support import payloads, sharing
from tests.support.helpers import PATIENCE, Stall, TamperingBackend, error_of
from tests.support.sharing import SIZE, CountingBackend


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Slots get shared objects from their agent. The folder of its cache."""
    monkeypatch.setenv("DRAGONFLY_CACHE", str(tmp_path / "cache"))
    sharing.without_sealed_memory(monkeypatch)
    return tmp_path / "cache"


class Stalled:
    """A runner with one slot, and a call that waits there for a shared object whose transfer has stalled."""

    def __init__(self, make: Make, **options: object) -> None:
        self.stall = Stall()
        self.executor = make(1, backend=TamperingBackend(to_runner=lambda: self.stall), **options)
        self.slot = self.executor.submit(payloads.pid).result(PATIENCE)
        self.agent = self.executor.submit(payloads.agent_pid).result(PATIENCE)
        self.handle = self.executor.share(os.urandom(SIZE))
        self.stall.after(SIZE // 2)

    def wait(self) -> None:
        assert self.stall.stalled.wait(PATIENCE)


def test_a_slot_that_is_killed_while_its_call_waits_has_not_begun_it(make: Make, cache: Path) -> None:
    """It runs in the next slot, without retries."""
    stalled = Stalled(make)
    future = stalled.executor.submit(sharing.size_of, stalled.handle)
    stalled.wait()
    os.kill(stalled.slot, signal.SIGKILL)
    stalled.stall.go_on.set()
    assert future.result(PATIENCE) == SIZE
    assert len(sharing.blobs(cache)) == 1


def test_a_runner_that_is_killed_in_the_middle_of_a_transfer_has_not_begun_the_call(make: Make, cache: Path) -> None:
    """The next runner starts from the beginning."""
    stalled = Stalled(make, boot_wait=lambda state: 0.0)
    future = stalled.executor.submit(sharing.size_of, stalled.handle)
    stalled.wait()
    os.kill(stalled.agent, signal.SIGKILL)
    stalled.stall.go_on.set()
    assert future.result(PATIENCE) == SIZE


def test_a_call_that_is_cancelled_while_it_waits_harms_no_other(make: Make, cache: Path) -> None:
    stalled = Stalled(make)
    future = stalled.executor.submit(sharing.size_of, stalled.handle)
    stalled.wait()
    assert future.cancel()
    stalled.stall.go_on.set()
    assert stalled.executor.submit(sharing.size_of, stalled.handle).result(PATIENCE) == SIZE


def test_a_handle_that_is_closed_in_the_middle_of_a_transfer(make: Make, cache: Path) -> None:
    """The call was accepted, so it gets the object."""
    stalled = Stalled(make)
    future = stalled.executor.submit(sharing.size_of, stalled.handle)
    stalled.wait()
    stalled.handle.close()
    stalled.stall.go_on.set()
    assert future.result(PATIENCE) == SIZE


def test_the_last_call_of_a_closed_handle_is_cancelled_in_the_middle_of_a_transfer(make: Make, cache: Path) -> None:
    """What is incomplete is removed, and another object comes."""
    stalled = Stalled(make)
    future = stalled.executor.submit(sharing.size_of, stalled.handle)
    stalled.wait()
    stalled.handle.close()
    assert future.cancel()
    stalled.stall.go_on.set()
    other = stalled.executor.share(bytes(SIZE))
    assert stalled.executor.submit(sharing.size_of, other).result(PATIENCE) == SIZE
    assert len(sharing.blobs(cache)) == 1


def test_the_wait_for_an_object_counts_towards_the_timeout(make: Make, cache: Path) -> None:
    stalled = Stalled(make)
    future = stalled.executor.options(timeout=0.3).submit(sharing.size_of, stalled.handle)
    stalled.wait()
    assert "timeout" in str(error_of(future))
    stalled.stall.go_on.set()
    assert stalled.executor.submit(sharing.size_of, stalled.handle).result(PATIENCE) == SIZE


PARENT = """
import sys
from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.engine import shared_contents
from tests.support import payloads, sharing
from tests.support.helpers import Stall, TamperingBackend

def none_left(parts):
    raise OSError

shared_contents.SealedMemory = none_left
stall = Stall()
executor = DragonflyExecutor(1, backend=TamperingBackend(to_runner=lambda: stall))
print(executor.submit(payloads.agent_pid).result(), executor.submit(payloads.pid).result(), flush=True)
handle = executor.share(bytes(sharing.SIZE))
stall.after(sharing.SIZE // 2)
executor.submit(sharing.size_of, handle)
stall.stalled.wait()
print("stalled", flush=True)
stall.go_on.wait = lambda timeout: sys.stdin.read()
sys.stdin.read()
"""


def test_a_parent_that_is_killed_in_the_middle_of_a_transfer_leaves_nothing(cache: Path) -> None:
    sharing.kill_when_stalled(PARENT)
    assert sharing.blobs(cache) == []


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut_short, flip, Path.unlink], ids=["cut short", "changed", "removed"])
def test_a_damaged_file_on_the_host_is_received_again(make: Make, cache: Path, harm: Callable[[Path], None]) -> None:
    data = os.urandom(SIZE)
    with DragonflyExecutor(1) as executor:
        assert executor.submit(payloads.echo, executor.share(data)).result(PATIENCE) == data
    harm(*sharing.blobs(cache))
    backend = CountingBackend()
    executor = make(1, backend=backend)
    assert executor.submit(payloads.echo, executor.share(data)).result(PATIENCE) == data
    assert backend.sent > SIZE


def test_a_file_that_is_gone_when_the_second_slot_opens_it_is_received_again(make: Make, cache: Path) -> None:
    """As if another runner had trimmed the cache."""
    executor = make(1, max_tasks_per_child=1)
    handle = executor.share(bytes(SIZE))
    assert executor.submit(sharing.size_of, handle).result(PATIENCE) == SIZE
    for path in sharing.blobs(cache):
        path.unlink()
    assert executor.submit(sharing.size_of, handle).result(PATIENCE) == SIZE


def test_a_host_without_room_fails_the_call_alone(make: Make, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call with the object tries again."""
    executor = make(1, backend=LocalBackend())
    slot = executor.submit(payloads.pid).result(PATIENCE)
    handle = executor.share(bytes(SIZE))
    # The limit is the agent's, which writes the file.
    import resource

    agent = executor.submit(payloads.agent_pid).result(PATIENCE)
    if not hasattr(resource, "prlimit"):
        pytest.skip("no limit of another process can be set here")
    _, hard = resource.prlimit(agent, resource.RLIMIT_FSIZE)
    resource.prlimit(agent, resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    error = error_of(executor.submit(sharing.size_of, handle))
    assert isinstance(error, CallDeserializationError)
    assert "File too large" in str(error)
    assert sharing.blobs(cache) == []
    resource.prlimit(agent, resource.RLIMIT_FSIZE, (hard, hard))
    assert executor.submit(sharing.identity, handle).result(PATIENCE)[0] == slot


def test_the_parents_memory_of_another_process_is_not_taken(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor that has become another file is noticed, and the call fails with a reason."""
    if sys.platform != "linux":
        pytest.skip("only Linux has sealed memory")
    executor = make(1)
    handle = executor.share(bytes(SIZE))
    content = handle.content_for(executor.pool._engine.codec._main)
    other = shared_contents.SealedMemory([bytes(SIZE)])
    content.entry = content.entry._replace(descriptor=other.descriptor)
    error = error_of(executor.submit(sharing.size_of, handle))
    assert isinstance(error, CallDeserializationError)
    assert "another file" in str(error)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


def test_the_cache_of_a_host_is_bounded(tmp_path: Path) -> None:
    """Least recently used first; a content that was verified counts as used."""
    cache = content_cache.ContentCache(str(tmp_path))
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes(100))
        os.utime(tmp_path / str(number), (number, number))
    import hashlib

    digest = hashlib.sha256(bytes(100)).hexdigest()
    (tmp_path / "0").rename(tmp_path / digest)
    assert cache.verify(digest, 100)
    cache.trim(250)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["3", digest])
