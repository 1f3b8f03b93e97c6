"""Shared objects: calls get the object in place of its handle, on each kind of runner, and it is sent once."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import (
    CallDeserializationError,
    CallSerializationError,
    DragonflyExecutor,
    ForkedExecutorError,
    FrameTooLargeError,
    LocalBackend,
    SharedObject,
    SharedObjectError,
)
from tests.processes.conftest import Make
from tests.support import sharing
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of, values
from tests.support.payloads import agent_pid, echo, hold, nothing, pid
from tests.support.sharing import MIDDLE, SIZE, SIZES, Block, CountingBackend, Holder, Opened, Unopenable

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only there slots map the parent's memory")


@pytest.fixture(params=["memory", "stream", "dial-back"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Any]:
    """Makes the backend of a place: slots that map the parent's memory, that ask their agent, on a dialing runner."""
    monkeypatch.setenv("DRAGONFLY_CACHE", str(tmp_path / "cache"))
    if request.param == "stream":
        sharing.without_sealed_memory(monkeypatch)
    return DialingBackend if request.param == "dial-back" else LocalBackend


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Slots get shared objects from their agent. The folder of its cache."""
    monkeypatch.setenv("DRAGONFLY_CACHE", str(tmp_path / "cache"))
    sharing.without_sealed_memory(monkeypatch)
    return tmp_path / "cache"


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("serializer", ["cloudpickle", "dill", "pickle"])
def test_a_call_gets_the_object_in_place_of_the_handle(
    make: Make, place: Callable[[], Any], size: int, serializer: str
) -> None:
    executor = make(2, backend=place(), serializer=serializer)
    data = os.urandom(size)
    handle = executor.share(data)
    assert executor.submit(echo, handle).result(PATIENCE) == data
    assert values(executor.submit(sharing.sum_of, handle, handle) for _ in range(20)) == [2 * size] * 20
    assert executor.submit(sharing.size_of, value=handle).result(PATIENCE) == size


def test_what_type_checkers_take_for_the_object_is_the_handle(make: Make) -> None:
    executor = make(1)
    handle = executor.share(b"data")
    with handle as shared:
        same: list[object] = [shared, handle.as_argument()]
        assert all(each is handle for each in same)
        assert executor.submit(len, shared).result(PATIENCE) == 4
    assert handle.closed


def test_a_handle_stands_at_any_depth(make: Make, place: Callable[[], Any]) -> None:
    """In containers, dataclasses, closures, defaults, partials, chunks of a map; captured by a lambda."""
    executor = make(2, backend=place())
    handle = executor.share(bytes(SIZE))
    deep = executor.submit(echo, [{"a": (handle, Holder([handle]))}]).result(PATIENCE)
    assert len(deep[0]["a"][0]) == len(deep[0]["a"][1].value[0]) == SIZE
    assert executor.submit(lambda: len(handle)).result(PATIENCE) == SIZE  # type: ignore[arg-type]

    def with_default(value: Any = handle) -> int:
        return len(value) + len(handle)  # type: ignore[arg-type]

    assert executor.submit(with_default).result(PATIENCE) == 2 * SIZE
    assert executor.submit(functools.partial(sharing.sum_of, handle), b"1").result(PATIENCE) == SIZE + 1
    assert list(executor.map(sharing.sum_of, [handle] * 30, [b"1"] * 30, chunksize=7)) == [SIZE + 1] * 30
    assert executor.options(retries=1).submit(sharing.size_of, handle).result(PATIENCE) == SIZE


def test_a_handle_among_large_arguments(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place())
    handle, large = executor.share(bytes(MIDDLE)), bytes(4 * 1024 * 1024)
    futures = [executor.submit(sharing.sum_of, handle, large, handle) for _ in range(3)]
    assert values(futures) == [2 * MIDDLE + len(large)] * 3


def test_a_shared_object_inside_a_shared_object(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place())
    inner, small = executor.share(bytes(SIZE)), executor.share([1])
    outer = executor.share({"inner": inner, "small": small, "filler": bytes(SIZE)})
    inner.close()
    small.close()
    opened = executor.submit(echo, outer).result(PATIENCE)
    assert (len(opened["inner"]), opened["small"], len(opened["filler"])) == (SIZE, [1], SIZE)


def test_arrays_are_writable_views_of_one_mapping(make: Make, place: Callable[[], Any]) -> None:
    """What a call writes stays in its slot, and the next call there finds it. The parent's array stays as it is."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1_000_000)
    executor = make(1, backend=place())
    handle = executor.share(array)
    array[0] = 7

    def add_one(found: Any) -> tuple[int, bool, int]:
        found[0] += 1
        return int(found[0]), bool(found.flags.owndata), int(found[-1])

    assert executor.submit(add_one, handle).result(PATIENCE) == (1, False, 999_999)
    assert executor.submit(add_one, handle).result(PATIENCE) == (2, False, 999_999)
    assert array[0] == 7


def test_each_slot_opens_an_object_once(make: Make, place: Callable[[], Any], tmp_path: Path) -> None:
    executor = make(2, backend=place())
    handle = executor.share(Opened(str(tmp_path / "opened"), bytes(MIDDLE)))
    ran = values(executor.submit(sharing.opened_by, handle) for _ in range(200))
    assert {size for _, size in ran} == {MIDDLE}
    lines = (tmp_path / "opened").read_text().split()
    assert sorted(lines) == sorted({str(slot) for slot, _ in ran})


def test_the_object_is_a_snapshot(make: Make, place: Callable[[], Any]) -> None:
    data = bytearray(SIZE)
    executor = make(1, backend=place())
    handle = executor.share(data)
    data[0] = 9
    assert executor.submit(echo, handle).result(PATIENCE)[0] == 0
    assert executor.submit(sharing.change, handle).result(PATIENCE)[1] == 1
    assert executor.submit(sharing.change, handle).result(PATIENCE)[1] == 2


def test_an_object_is_sent_once_for_all_slots_and_calls(make: Make, streamed: Path) -> None:
    backend = CountingBackend()
    executor = make(2, backend=backend)
    handle = executor.share(os.urandom(SIZE))
    assert set(values(executor.submit(sharing.size_of, handle) for _ in range(500))) == {SIZE}
    assert SIZE < backend.sent < 2 * SIZE


def test_a_second_runner_and_the_next_boot_are_sent_nothing(make: Make, streamed: Path) -> None:
    data = os.urandom(SIZE)
    for size_sent in (SIZE, 0):
        backend = CountingBackend()
        with DragonflyExecutor(1, backend=backend) as executor:
            assert executor.submit(echo, executor.share(data)).result(PATIENCE) == data
        assert size_sent <= backend.sent < size_sent + SIZE
    assert [path.stat().st_size >= SIZE for path in sharing.blobs(streamed)] == [True]


@linux_only
def test_slots_here_map_one_memory(make: Make) -> None:
    backend = CountingBackend()
    executor = make(2, backend=backend)
    handle = executor.share(Block(bytearray(SIZE)))
    found = dict(values(executor.submit(sharing.mapped, handle) for _ in range(50)))
    assert found
    assert all("memfd:dragonfly-shared" in maps for maps in found.values())
    assert backend.sent < SIZE


# -- handles ----------------------------------------------------------------------------------------------------------


def test_a_handle_says_what_it_is(make: Make) -> None:
    executor = make(1)
    with executor.share([b"x" * MIDDLE]) as handle:
        assert isinstance(handle, SharedObject)
        assert SharedObject[bytes]
        assert MIDDLE < handle.size < MIDDLE + 200
        assert not handle.closed
        assert repr(handle) == f"<SharedObject 1: list, {handle.size} bytes>"
    assert handle.closed
    assert "closed" in repr(handle)
    handle.close()


def test_a_pool_shares_as_its_executors_do(make: Make) -> None:
    executor = make(1)
    handle = executor.pool.share(bytes(MIDDLE))
    assert executor.options(timeout=PATIENCE).submit(sharing.size_of, handle).result(PATIENCE) == MIDDLE
    assert executor.submit(sharing.size_of, executor.options().share(b"12")).result(PATIENCE) == 2


def test_a_closed_handle_is_refused(make: Make) -> None:
    executor = make(1)
    handle = executor.share(bytes(MIDDLE))
    handle.close()
    error = error_of(executor.submit(echo, [handle]))
    assert isinstance(error, SharedObjectError)
    assert "is closed" in str(error)
    with pytest.raises(SharedObjectError, match="is closed"):
        executor.pool.submit(lambda: handle)
    with pytest.raises(SharedObjectError, match="is closed"):
        executor.share([handle])


def test_a_handle_of_another_pool_is_refused(make: Make) -> None:
    handle = make(1).share(bytes(MIDDLE))
    other = make(1)
    for error in (error_of(other.submit(echo, handle)), error_of(other.submit(lambda: handle))):
        assert isinstance(error, SharedObjectError)
        assert "another pool" in str(error)


def test_a_handle_is_not_pickled_elsewhere(make: Make) -> None:
    handle = make(1).share(b"")
    with pytest.raises(SharedObjectError, match="arguments of a call"):
        pickle.dumps(handle)
    assert isinstance(handle, SharedObject)


class OwnSerializer:
    """A serializer of the user's own."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return pickle.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        return pickle.loads(data)


def test_a_serializer_of_the_users_own_shares_nothing(make: Make) -> None:
    with pytest.raises(SharedObjectError, match="serializer object of its own"):
        make(1, serializer=OwnSerializer()).share(1)


def test_what_cannot_be_pickled_fails_at_share(make: Make) -> None:
    executor = make(1)
    with pytest.raises(CallSerializationError, match="lock"):
        executor.share([threading.Lock()])
    with pytest.raises(FrameTooLargeError, match="max_payload"):
        make(1, max_payload=1000).share(bytes(1001))


def test_nothing_is_shared_after_shutdown(make: Make) -> None:
    executor = make(1)
    handle = executor.share(bytes(SIZE))
    executor.submit(nothing, handle).result(PATIENCE)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.share(1)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(nothing, handle)


# -- lifetime ---------------------------------------------------------------------------------------------------------


def test_calls_that_were_accepted_before_close_get_the_object(
    make: Make, place: Callable[[], Any], mailbox: Mailbox, gate: Gate
) -> None:
    executor = make(1, backend=place())
    first = executor.submit(hold, mailbox.path, gate.path)
    mailbox.read()
    with executor.share(bytes(SIZE)) as handle:
        waiting = [executor.submit(sharing.size_of, handle) for _ in range(3)]
    del handle
    gc.collect()
    gate.open()
    first.result(PATIENCE)
    assert values(waiting) == [SIZE] * 3


@linux_only
@pytest.mark.parametrize("how", ["close", "collect"])
def test_memory_is_freed_when_the_last_use_is_over(make: Make, how: str) -> None:
    """In the parent at once, in idle slots too."""
    executor = make(1)
    handle: Any = executor.share(Block(bytearray(SIZE)))
    slot, maps = executor.submit(sharing.mapped, handle).result(PATIENCE)
    assert "dragonfly-shared" in maps
    assert sharing.open_files("dragonfly-shared")
    if how == "close":
        handle.close()
    handle = None
    gc.collect()
    assert not sharing.open_files("dragonfly-shared")
    # The next packet of the slot is a call behind the one that tells it.
    assert executor.submit(sharing.mapped, 0).result(PATIENCE) == (slot, "")


def test_an_idle_slot_drops_an_object_at_once(make: Make, tmp_path: Path, mailbox: Mailbox) -> None:
    executor = make(1)
    handle = executor.share(_Telling(mailbox.path))
    executor.submit(nothing, handle).result(PATIENCE)
    handle.close()
    assert mailbox.read() == "dropped"


class _Telling:
    """An object that says when its copy in a slot is gone."""

    def __init__(self, mailbox: str) -> None:
        self.mailbox = mailbox
        self.home = os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.home:
            with open(self.mailbox, "w") as box:
                box.write("dropped\n")


def test_the_end_of_a_pool_frees_what_handles_hold(make: Make) -> None:
    executor = make(1)
    handle = executor.share(bytes(SIZE))
    executor.submit(nothing, handle).result(PATIENCE)
    executor.shutdown()
    if sys.platform == "linux":
        assert not sharing.open_files("dragonfly-shared")
    assert not handle.closed


def test_many_handles(make: Make, place: Callable[[], Any]) -> None:
    executor = make(2, backend=place())
    handles = [executor.share([number]) for number in range(10_000)]
    assert executor.submit(sharing.size_of, handles).result(PATIENCE) == 10_000
    last = executor.submit(echo, handles).result(PATIENCE)
    assert last == [[number] for number in range(10_000)]
    if sys.platform == "linux":
        assert not sharing.open_files("dragonfly-shared")


def test_a_handle_that_many_threads_use(make: Make, place: Callable[[], Any]) -> None:
    executor = make(2, backend=place())
    handle = executor.share(bytes(SIZE))
    found: list[int] = []

    def use() -> None:
        found.extend(values(executor.submit(sharing.size_of, handle) for _ in range(5)))

    with ThreadPoolExecutor(100) as threads:
        list(threads.map(lambda _: use(), range(100)))
    assert found == [SIZE] * 500


def test_a_forked_child_is_refused(make: Make) -> None:
    executor = make(1)
    handle = executor.share(bytes(SIZE))
    executor.submit(nothing, handle).result(PATIENCE)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                executor.share(1)
            except ForkedExecutorError:
                status = 2 if sharing.open_files("dragonfly-shared") else 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert executor.submit(sharing.size_of, handle).result(PATIENCE) == SIZE


def test_an_object_that_cannot_be_opened_fails_its_calls_alone(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place())
    bad, good = executor.share(Unopenable(bytes(SIZE))), executor.share(bytes(SIZE))
    slot = executor.submit(pid).result(PATIENCE)
    for _ in range(2):
        error = error_of(executor.submit(echo, [good, bad]))
        assert isinstance(error, CallDeserializationError)
        assert "it stays closed" in str(error)
    assert executor.submit(sharing.identity, good).result(PATIENCE)[0] == slot


def test_an_object_stays_the_same_in_its_slot(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place())
    handle = executor.share([bytes(SIZE)])
    assert len(set(values(executor.submit(sharing.identity, handle) for _ in range(10)))) == 1


def test_a_runner_that_is_replaced_gets_the_object_again(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place(), boot_wait=lambda state: 0.0)
    handle = executor.share(bytes(SIZE))
    assert executor.submit(sharing.size_of, handle).result(PATIENCE) == SIZE
    agent = executor.submit(agent_pid).result(PATIENCE)
    os.kill(agent, 9)
    retried = executor.options(retries=3, retry_on=()).submit(sharing.size_of, handle)
    assert retried.result(PATIENCE) == SIZE
