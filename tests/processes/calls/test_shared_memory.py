"""Large payloads between the parent and slots on this machine: through shared memory, and still snapshots."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallTimeoutError, FrameTooLargeError, LocalBackend, RunnerLostError
from tests.processes.conftest import Make
from tests.support import array_calls as calls
from tests.support import payloads
from tests.support.helpers import (
    PATIENCE,
    Settled,
    all_ended,
    bytes_streamed,
    error_of,
    kill_and_wait,
    values,
    watching,
)

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")
SIZE = 1 << 20


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what the parent sends over the stream, behind all small frames."""
    return bytes_streamed(monkeypatch)


def memory_of(ex: Any) -> Any:
    return ex.pool._engine.payloads.shared_memory()


# -- what arrives ------------------------------------------------------------------------------------------------------


def _arrays() -> dict[str, Any]:
    whole = np.arange(SIZE, dtype="i4").reshape(1024, -1)
    read_only = whole.copy()
    read_only.flags.writeable = False
    return {
        "c": whole,
        "fortran": np.asfortranarray(whole),
        "strided": whole[::2, ::3],
        "reversed": whole[::-1],
        "read-only": read_only,
        "empty": np.empty((0, 5)),
        "objects": np.array([{"n": n, "text": "x" * 100} for n in range(3000)], dtype=object),
        "records": np.zeros(SIZE // 8, dtype=[("a", "u1"), ("b", "f8")]),
    }


@pytest.mark.parametrize("name", list(_arrays()))
def test_arrays_of_every_form_come_back_equal(make: Make, name: str) -> None:
    ex, array = make(1), _arrays()[name]
    back = ex.submit(calls.echo, array).result(PATIENCE)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert (back == array).all()


@pytest.mark.parametrize(
    "value",
    [
        b"x" * SIZE,
        "x" * SIZE,
        "ü" * SIZE,
        bytearray(b"y" * SIZE),
        [b"a" * SIZE, "b" * SIZE, bytearray(SIZE)],
        {"k": b"z" * SIZE},
    ],
    ids=["bytes", "ascii", "str", "bytearray", "list", "dict"],
)
def test_other_large_values_come_back_equal(make: Make, value: Any, streamed: list[int]) -> None:
    back = make(1).submit(calls.echo, value).result(PATIENCE)
    assert type(back) is type(value)
    assert back == value
    assert not streamed


def test_no_byte_of_a_large_argument_or_result_passes_the_stream(make: Make, streamed: list[int]) -> None:
    ex, array = make(2), np.ones(8 * SIZE, "u1")
    for future in [ex.submit(calls.echo, array) for _ in range(10)]:
        assert int(future.result(PATIENCE).sum()) == 8 * SIZE
    assert not streamed


def test_a_list_of_arrays_and_a_map_of_arrays(make: Make) -> None:
    ex = make(2)
    several = [np.full(SIZE, n, "u1") for n in range(5)]
    assert [int(a[0]) for a in ex.submit(calls.echo, several).result(PATIENCE)] == [0, 1, 2, 3, 4]
    assert [int(a[-1]) for a in ex.map(calls.echo, several, timeout=PATIENCE)] == [0, 1, 2, 3, 4]
    assert [int(a[-1]) for a in ex.map(calls.echo, several, timeout=PATIENCE, chunksize=3)] == [0, 1, 2, 3, 4]


def test_a_payload_above_the_limit_is_refused_on_both_ways(make: Make) -> None:
    ex = make(1, max_payload=2 * SIZE)
    assert isinstance(error_of(ex.submit(len, bytes(3 * SIZE))), FrameTooLargeError)
    assert isinstance(error_of(ex.submit(bytes, 3 * SIZE)), FrameTooLargeError)
    assert ex.submit(len, bytes(SIZE)).result(PATIENCE) == SIZE


# -- snapshots and isolation -------------------------------------------------------------------------------------------


def test_arguments_are_a_snapshot_and_the_slot_may_write_into_them(make: Make) -> None:
    ex, array = make(1), np.ones(SIZE, "u1")
    gate = ex.submit(payloads.nap, 0.2)
    waiting = ex.submit(calls.echo, array)
    array[:] = 9
    gate.result(PATIENCE)
    assert int(waiting.result(PATIENCE).max()) == 1
    filled = ex.submit(calls.fill, array, 3).result(PATIENCE)
    assert (int(filled.min()), int(filled.max()), int(array.min())) == (3, 3, 9)
    assert ex.submit(calls.is_writable, array).result(PATIENCE)


def test_a_result_may_be_written_to_and_keeps_its_values_while_others_arrive(make: Make) -> None:
    ex = make(2)
    kept = [ex.submit(calls.echo, np.full(SIZE, n, "u1")).result(PATIENCE) for n in range(20)]
    kept[3][:] = 77
    for n in range(100):
        assert int(ex.submit(calls.echo, np.full(SIZE, n, "u1")).result(PATIENCE)[-1]) == n
    assert [int(a.max()) for a in kept] == [77 if n == 3 else n for n in range(20)]
    assert [int(a.min()) for a in kept] == [77 if n == 3 else n for n in range(20)]


def test_what_a_call_writes_is_not_in_the_memory_of_the_next_call(make: Make) -> None:
    ex = make(1)
    for _ in range(5):
        ex.submit(calls.fill, np.zeros(SIZE, "u1"), 5).result(PATIENCE)
        assert int(ex.submit(calls.echo, np.zeros(SIZE, "u1")).result(PATIENCE).max()) == 0


def test_arguments_that_a_slot_keeps_stay_as_they_are(make: Make) -> None:
    ex = make(1)
    for n in range(4):
        ex.submit(calls.keep, np.full(SIZE, n, "u1")).result(PATIENCE)
    for n in range(40):
        ex.submit(calls.echo, np.full(SIZE, 200 + n % 50, "u1")).result(PATIENCE)
    assert ex.submit(calls.sums_of_kept).result(PATIENCE) == [n * SIZE for n in range(4)]
    ex.submit(calls.drop_kept).result(PATIENCE)


def test_a_retry_finds_the_arguments_unchanged(make: Make, tmp_path: Path) -> None:
    ex = make(1, retries=1)
    array = np.ones(SIZE, "u1")
    assert ex.submit(calls.write_and_die_once, array, str(tmp_path / "mark")).result(PATIENCE) == SIZE


def test_views_in_a_forked_child_of_a_call_stay_as_they_are(make: Make, tmp_path: Path) -> None:
    ex, go_on, result = make(1), tmp_path / "go", tmp_path / "result"
    os.mkfifo(go_on)
    os.mkfifo(result)
    reader = os.open(result, os.O_RDONLY | os.O_NONBLOCK)
    ex.submit(calls.sum_in_forked_child, np.ones(SIZE, "u1"), str(go_on), str(result)).result(PATIENCE)
    for n in range(30):
        ex.submit(calls.echo, np.full(SIZE, n, "u1")).result(PATIENCE)
    go_on.write_bytes(b"go")
    try:
        select.select([reader], [], [], PATIENCE)
        assert int(os.read(reader, 100)) == SIZE
    finally:
        os.close(reader)


FORKS = """
import os, sys
import numpy as np
from dragonfly_executor import DragonflyExecutor
from tests.support import array_calls as calls
with DragonflyExecutor(1) as ex:
    array = ex.submit(calls.echo, np.ones(1 << 20, "u1")).result()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0 if int(array.sum()) == 1 << 20 else 1)
    del array
    for n in range(30):
        ex.submit(calls.echo, np.full(1 << 20, n, "u1")).result()
    os.write(write, b"g")
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
EXITS = """
import numpy as np
from dragonfly_executor import DragonflyExecutor
from tests.support import array_calls as calls
ex = DragonflyExecutor(1)
array = ex.submit(calls.echo, np.ones(1 << 20, "u1")).result()
future = ex.submit(calls.echo, np.ones(1 << 20, "u1"))
print(int(array.sum()) >> 20)
"""


@pytest.mark.parametrize(("program", "said"), [(FORKS, "0\n"), (EXITS, "1\n")], ids=["fork", "exit"])
def test_views_outlive_a_fork_of_the_parent_and_the_end_of_the_interpreter(program: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)


def test_a_result_outlives_its_pool(make: Make) -> None:
    ex = make(1)
    array = ex.submit(calls.echo, np.ones(SIZE, "u1")).result(PATIENCE)
    unopened = ex.submit(calls.echo, np.ones(SIZE, "u1"))
    ex.shutdown()
    assert int(array.sum()) + int(unopened.result(PATIENCE).sum()) == 2 * SIZE
    array[:] = 2


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_slot_killed_while_it_writes_its_result_harms_its_call_alone(make: Make) -> None:
    ex = make(1)
    held = ex.submit(calls.echo, np.ones(SIZE, "u1")).result(PATIENCE)
    assert isinstance(error_of(ex.submit(calls.dies_of_its_pickle, SIZE)), RunnerLostError)
    assert int(held.sum()) == SIZE
    assert int(ex.submit(calls.echo, np.ones(SIZE, "u1")).result(PATIENCE).sum()) == SIZE


def test_killed_slots_give_all_memory_back(make: Make) -> None:
    ex = make(1)
    for _ in range(3):
        slot = ex.submit(calls.keep, np.ones(SIZE, "u1")).result(PATIENCE)
        held = ex.submit(calls.echo, np.ones(SIZE, "u1")).result(PATIENCE)
        kill_and_wait(slot)
        assert int(held.sum()) == SIZE
        del held
    ex.submit(payloads.pid).result(PATIENCE)
    memory = memory_of(ex)
    ex.pool._engine.ask(lambda _machine: memory._pool.trim())
    gc.collect()
    assert memory.account.taken == 0
    assert calls.segments_of() == 0


def test_a_killed_agent_takes_its_slots_memory_with_it(make: Make) -> None:
    ex = make(1)
    agent = ex.submit(payloads.agent_pid).result(PATIENCE)
    held = ex.submit(calls.echo, np.ones(SIZE, "u1")).result(PATIENCE)
    kill_and_wait(agent)
    assert int(ex.submit(calls.echo, np.full(SIZE, 2, "u1")).result(PATIENCE).sum()) == 2 * SIZE
    assert int(held.sum()) == SIZE
    assert {channel.pid for channel in memory_of(ex)._channels.values()} == {ex.submit(payloads.pid).result(PATIENCE)}


def test_cancelled_and_timed_out_calls_harm_no_other(make: Make) -> None:
    ex = make(1)
    array = np.ones(SIZE, "u1")
    gate = ex.submit(payloads.nap, 0.5)
    waiting = [ex.submit(calls.echo, array) for _ in range(10)]
    assert all(future.cancel() for future in waiting[::2])
    gate.result(PATIENCE)
    assert [int(future.result(PATIENCE).sum()) for future in waiting[1::2]] == [SIZE] * 5
    late = ex.options(timeout=0.3).submit(payloads.nap, 30)
    queued = ex.options(timeout=0.3).submit(calls.echo, array)
    assert isinstance(error_of(late), CallTimeoutError)
    assert isinstance(error_of(queued), CallTimeoutError)
    assert int(ex.submit(calls.echo, array).result(PATIENCE).sum()) == SIZE


def test_a_stopped_slot_delays_its_own_call_only(make: Make) -> None:
    """Usually it is the first call. Which one it is depends on when the second slot was forked."""
    ex = make(2)
    slot = ex.submit(calls.keep, np.ones(SIZE, "u1")).result(PATIENCE)
    settled = Settled()
    os.kill(slot, signal.SIGSTOP)
    try:
        futures = [ex.submit(calls.echo, np.full(SIZE, n, "u1")) for n in range(8)]
        for future in futures:
            future.add_done_callback(settled)
        assert settled.wait(7)
    finally:
        os.kill(slot, signal.SIGCONT)
    assert [int(value[0]) for value in values(futures)] == list(range(8))


def test_slots_that_are_replaced_after_each_call(make: Make) -> None:
    ex = make(2, max_tasks_per_child=1)
    results = [ex.submit(calls.echo, np.full(SIZE, n, "u1")) for n in range(12)]
    assert [int(future.result(PATIENCE)[-1]) for future in results] == list(range(12))


def test_many_threads_submit_at_once(make: Make) -> None:
    ex, wrong = make(2), []

    def work(number: int) -> None:
        for n in range(15):
            want = number * 15 + n
            got = ex.submit(calls.echo, np.full(SIZE // 2, want, "u1")).result(PATIENCE)
            if int(got.min()) != want or int(got.max()) != want:
                wrong.append(want)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert not wrong


HOLDS = """
import sys
import numpy as np
from dragonfly_executor import DragonflyExecutor
from tests.support import array_calls as calls
from tests.support import payloads
ex = DragonflyExecutor(1)
array = ex.submit(calls.echo, np.ones(1 << 20, "u1")).result()
slot = ex.submit(calls.keep, array).result()
agent = ex.submit(payloads.agent_pid).result()
running = ex.submit(calls.echo_late, array)
print(slot, agent, flush=True)
sys.stdin.read()
"""


def _segments_in(pid: int | str) -> set[str]:
    """The inodes of the segments that a process maps; none if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {line.split()[4] for line in lines if "memfd:dragonfly-data" in line}


def test_a_killed_parent_leaves_no_process_and_no_memory() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        try:
            slot, agent = map(int, parent.stdout.readline().split())
            segments = _segments_in(parent.pid)
            assert segments & _segments_in(slot)
            with watching(slot, agent) as watches:
                parent.kill()
                assert all_ended(watches)
        finally:
            parent.kill()
    assert not any(segments & _segments_in(path.name) for path in Path("/proc").glob("[0-9]*"))


# -- without room ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, "300kB", "3MB"])
def test_what_does_not_fit_goes_over_the_stream(make: Make, room: Any) -> None:
    ex = make(2, backend=LocalBackend(shared_memory=room))
    futures = [ex.submit(calls.echo, np.full(SIZE, n, "u1")) for n in range(12)]
    assert [int(future.result(PATIENCE)[-1]) for future in futures] == list(range(12))
    if room:
        assert memory_of(ex).account.taken <= memory_of(ex).account.limit
    else:
        assert memory_of(ex) is None


def test_without_memfd_payloads_go_over_the_stream(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> int:
        raise PermissionError("memfd_create is forbidden")

    ex = make(1)
    ex.submit(payloads.pid).result(PATIENCE)
    monkeypatch.setattr(os, "memfd_create", refuse)
    assert int(ex.submit(calls.echo, np.ones(SIZE, "u1")).result(PATIENCE).sum()) == SIZE


def test_a_slot_without_descriptors_gets_its_arguments_over_the_stream(make: Make, streamed: list[int]) -> None:
    ex = make(1)
    slot = ex.submit(calls.forbid_descriptors).result(PATIENCE)
    assert ex.submit(calls.echo, b"x" * SIZE).result(PATIENCE) == b"x" * SIZE
    assert ex.submit(os.getpid).result(PATIENCE) == slot
    assert sum(streamed) > SIZE


def test_a_slot_without_address_space_still_gets_its_arguments(make: Make) -> None:
    ex = make(1)
    ex.submit(payloads.limit_memory, 48 << 20).result(PATIENCE)
    assert ex.submit(len, bytes(4 * SIZE)).result(PATIENCE) == 4 * SIZE


@pytest.mark.parametrize("value", [-1, "many", 1.5])
def test_the_limit_is_checked(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="shared_memory"):
        LocalBackend(shared_memory=value)


def test_programs_without_large_data_load_nothing_of_it() -> None:
    program = """
import sys
from dragonfly_executor import DragonflyExecutor
def modules():
    names = ("ctypes", "dragonfly_executor.transport.received_segments", "dragonfly_executor.runner.slot_memory",
             "dragonfly_executor.engine.shared_memory", "dragonfly_executor.transport.segment_pool")
    return [name for name in names[1:] if name in sys.modules]
if __name__ == "__main__":
    with DragonflyExecutor(1) as ex:
        print(ex.submit(modules).result(), modules(), "ctypes" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr) == ("[] [] False\n", "")


@pytest.mark.soak
def test_three_gib_there_and_back(make: Make) -> None:
    ex, size = make(1, backend=LocalBackend(shared_memory="8GiB")), 3 << 30
    array = np.ones(size, "u1")
    back = ex.submit(calls.echo, array).result(600)
    assert back.nbytes == size
    assert int(back[::4096].sum()) == size // 4096
