"""Payloads that fail, exit or crash when they are pickled or opened, on either side: one call fails, and no other."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.errors import (
    CallDeserializationError,
    CallSerializationError,
    FrameTooLargeError,
    RemoteCallError,
    RemoteTraceback,
    ResultDeserializationError,
    ResultSerializationError,
    RunnerLostError,
)
from dragonfly_executor.protocol.frames import CHUNK_SIZE, Decoder, Kind
from dragonfly_executor.runner.slot_payloads import LARGE_WINDOW
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import (
    PATIENCE,
    SOON,
    Gate,
    Mailbox,
    Settled,
    Stall,
    TamperingBackend,
    all_ended,
    error_of,
    kill_and_wait,
    values,
    watching,
)

ALL = 4096
"""Above each descriptor that a slot has."""


@pytest.fixture
def ex(make: Make, mailbox: Mailbox, gate: Gate) -> Iterator[DragonflyExecutor]:
    """Two slots, of which one runs a neighbour; after the harm both run a hundred good calls."""
    ex = make(2)
    neighbour = ex.submit(payloads.hold, mailbox.path, gate.path, "unharmed")
    mailbox.read()
    yield ex
    assert values(ex.submit(payloads.echo, n) for n in range(100)) == list(range(100))
    gate.open()
    assert neighbour.result(SOON) == "unharmed"
    assert ex.pool.stats().boots_attempted == 1


# -- exceptions that do not travel -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [payloads.NeedsArguments("code", 7), payloads.NeedsKeywords(code=7), payloads.ChangesItsArguments("what")],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_its_own_init_could_not_make_again_comes_back_as_itself(
    ex: DragonflyExecutor, error: Exception
) -> None:
    """Checklist 10."""
    there = error_of(ex.submit(payloads.raise_one, type(error).__name__), SOON)
    assert type(there) is type(error)
    assert (there.args, vars(there), str(there)) == (error.args, vars(error), str(error))
    assert isinstance(there.__cause__, RemoteTraceback)
    assert "raise_one" in str(there.__cause__)
    assert there.__cause__.tb == str(there.__cause__)


def test_an_exception_of_the_standard_library_that_multiprocessing_hangs_on_comes_back(ex: DragonflyExecutor) -> None:
    """Checklist 10."""
    error = error_of(ex.submit(payloads.raise_one, "xmlrpc"), SOON)
    assert isinstance(error, (xmlrpc.client.ProtocolError, RemoteCallError))
    assert "example.org" in str(error)


@pytest.mark.parametrize("name", ["Lock", "Exits", "Recursive", "Unprintable", "Frozen"])
def test_an_exception_that_cannot_be_pickled_or_printed_has_a_stand_in(ex: DragonflyExecutor, name: str) -> None:
    """Checklist 10, 15."""
    error = error_of(ex.submit(payloads.raise_one, name), SOON)
    kind = error.type_name.rpartition(".")[2] if isinstance(error, RemoteCallError) else type(error).__name__
    assert kind == f"{name}Error"
    assert isinstance(error.__cause__, RemoteTraceback)


def test_an_exception_that_would_crash_when_opened_fails_its_own_call(ex: DragonflyExecutor) -> None:
    """Checklist 10, 15. It is opened on the slot for a trial: that one is lost, and the parent lives."""
    assert isinstance(error_of(ex.submit(payloads.raise_one, "Crashes"), SOON), RunnerLostError)


def test_an_exception_whose_class_is_only_on_the_runner_has_a_stand_in(ex: DragonflyExecutor, tmp_path: Path) -> None:
    """Checklist 11."""
    (tmp_path / "only_there.py").write_text("class ThereError(Exception):\n    pass\n")
    error = error_of(ex.submit(payloads.raise_from_module, str(tmp_path), "only_there", "ThereError"), SOON)
    assert isinstance(error, RemoteCallError)
    assert (error.type_name, error.text) == ("only_there.ThereError", "from there")
    assert "raise_from_module" in error.traceback_text
    assert "only_there" not in sys.modules


def test_an_exception_that_exits_when_opened_in_the_parent_does_not_end_it(ex: DragonflyExecutor) -> None:
    """Checklist 11, 15. It opens well on the slot."""
    error = error_of(ex.submit(payloads.raise_one, "ExitsInParent"), SOON)
    assert isinstance(error, RemoteCallError)
    assert error.type_name.endswith("ExitsInParentError")


# -- calls that cannot be pickled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "exit", "recursion", "lock"])
def test_an_argument_that_cannot_be_pickled_fails_its_own_call(ex: DragonflyExecutor, how: str) -> None:
    """Checklist 12, 15."""
    future = ex.submit(payloads.echo, payloads.Harm("pickle", how))
    error = error_of(future, SOON)
    assert isinstance(error, CallSerializationError)
    assert isinstance(error, pickle.PicklingError)
    assert "echo" in str(error)


def test_unpicklable_calls_among_queued_ones_do_not_stop_a_cancelling_shutdown(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 29."""
    ex = make(1)
    running = ex.submit(payloads.hold, mailbox.path, gate.path, "ran")
    mailbox.read()
    futures = [ex.submit(payloads.echo, payloads.Harm("pickle", "raise") if n % 2 else n) for n in range(40)]
    ex.shutdown(wait=False, cancel_futures=True)
    assert not wait(futures, SOON).not_done
    assert all(isinstance(future.exception(0), CallSerializationError) for future in futures[1::2])
    assert all(future.cancelled() for future in futures[::2])
    assert not running.done()
    gate.open()
    ex.shutdown(wait=True)
    assert running.result(SOON) == "ran"


# -- calls that cannot be opened ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "exit", "interrupt", "recursion"])
def test_a_call_that_cannot_be_opened_fails_alone_and_the_slot_lives(ex: DragonflyExecutor, how: str) -> None:
    """Checklist 13, 15."""
    slot = ex.submit(payloads.pid).result(SOON)
    error = error_of(ex.submit(payloads.echo, payloads.Harm("open on slot", how)), SOON)
    assert isinstance(error, CallDeserializationError)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert ex.submit(payloads.pid).result(SOON) == slot


def test_a_function_that_the_runner_cannot_import_fails_alone(
    ex: DragonflyExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 13. The runner finds the module, and cannot execute it."""
    assert ex.submit(payloads.echo, 1).result(SOON) == 1
    (tmp_path / "only_here.py").write_text(
        "from dragonfly_executor import Parent\n"
        "if Parent.get(): raise ImportError('only_here is nothing for runners')\n"
        "def here():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("only_here")
    try:
        error = error_of(ex.submit(module.here), SOON)
    finally:
        del sys.modules["only_here"]
    assert isinstance(error, CallDeserializationError)
    assert "only_here" in str(error)


@pytest.mark.parametrize("how", ["segfault", "leave", "kill"])
def test_a_call_that_crashes_the_slot_when_opened_is_lost_alone(ex: DragonflyExecutor, how: str) -> None:
    """Checklist 15."""
    assert isinstance(error_of(ex.submit(payloads.echo, payloads.Harm("open on slot", how)), SOON), RunnerLostError)


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "recursion", "lock"])
def test_a_result_that_cannot_be_pickled_fails_alone_and_the_slot_lives(ex: DragonflyExecutor, how: str) -> None:
    """Checklist 14, 15."""
    slot = ex.submit(payloads.pid).result(SOON)
    error = error_of(ex.submit(payloads.make_harm, "pickle", how), SOON)
    assert isinstance(error, ResultSerializationError)
    assert isinstance(error, pickle.PicklingError)
    assert "Harm" in str(error)
    assert ex.submit(payloads.pid).result(SOON) == slot


@pytest.mark.parametrize(("how", "kind"), [("exit", SystemExit), ("interrupt", KeyboardInterrupt)])
def test_what_exits_while_a_result_is_pickled_exits_in_its_future(
    ex: DragonflyExecutor, how: str, kind: type[BaseException]
) -> None:
    """Checklist 15."""
    slot = ex.submit(payloads.pid).result(SOON)
    assert type(error_of(ex.submit(payloads.make_harm, "pickle", how), SOON)) is kind
    assert ex.submit(payloads.pid).result(SOON) == slot


@pytest.mark.parametrize("how", ["segfault", "leave", "kill"])
def test_a_result_that_crashes_the_slot_when_pickled_is_lost_alone(ex: DragonflyExecutor, how: str) -> None:
    """Checklist 15."""
    assert isinstance(error_of(ex.submit(payloads.make_harm, "pickle", how), SOON), RunnerLostError)


@pytest.mark.parametrize("how", ["raise", "exit", "recursion"])
def test_a_result_that_cannot_be_opened_raises_in_the_thread_that_asks(ex: DragonflyExecutor, how: str) -> None:
    """Checklist 14, 15."""
    future = ex.submit(payloads.make_harm, "open in parent", how)
    for _ in range(2):
        with pytest.raises(ResultDeserializationError):
            future.result(SOON)
    assert isinstance(future.exception(), ResultDeserializationError)


def test_a_result_whose_class_is_only_on_the_runner_says_so(ex: DragonflyExecutor, tmp_path: Path) -> None:
    """Checklist 14."""
    (tmp_path / "thing_there.py").write_text("class Thing:\n    pass\n")
    error = error_of(ex.submit(payloads.make_from_module, str(tmp_path), "thing_there", "Thing"), SOON)
    assert isinstance(error, ResultDeserializationError)
    assert "thing_there" in str(error)


def test_results_nobody_can_open_disturb_no_waiter_and_no_callback(ex: DragonflyExecutor) -> None:
    """Checklist 14. Whether a future is done does not depend on whether its result can be opened."""
    seen: list[str] = []
    called_back = Settled()
    futures = [ex.submit(payloads.make_harm, "open in parent", "raise") for _ in range(5)]
    for future in futures:
        future.add_done_callback(lambda done: seen.append(type(done.exception()).__name__))
        future.add_done_callback(called_back)
    values(ex.submit(payloads.echo, n) for n in range(5))
    for future in futures:
        assert isinstance(error_of(future, SOON), ResultDeserializationError)
    # A waiter is told first, and on another thread than the callbacks.
    assert called_back.wait(5)
    assert seen == ["ResultDeserializationError"] * 5


# -- harm done to the slot itself --------------------------------------------------------------------------------------


def test_junk_on_the_standard_streams_stays_there(capfd: pytest.CaptureFixture[str], make: Make) -> None:
    """Checklist 63. The link is not where a call can write."""
    ex = make(2)
    for fd in (1, 2):
        assert values(ex.submit(payloads.write_junk, fd) for _ in range(20))
    out, err = capfd.readouterr()
    assert (out.count("junk"), err.count("junk")) == (20 * 64, 20 * 64)


def test_a_call_that_closes_the_standard_streams_loses_its_prints_only(ex: DragonflyExecutor) -> None:
    """Checklist 63."""
    assert ex.submit(payloads.print_and_close_standard_streams).result(SOON) == "closed"
    # Whoever prints there meets the error that Python has for it.
    ends = [ex.submit(print, n).exception(SOON) for n in range(20)]
    assert all(end is None or isinstance(end, OSError) for end in ends)


def test_a_call_that_closes_all_descriptors_is_lost_alone(ex: DragonflyExecutor) -> None:
    """Checklist 63. Nothing can be heard from its slot any more. Some of the slot's descriptors have high numbers."""
    assert isinstance(error_of(ex.submit(payloads.close_descriptors, 3, ALL), SOON), RunnerLostError)
    assert isinstance(error_of(ex.submit(payloads.close_descriptors, 0, ALL), SOON), RunnerLostError)


def test_a_call_that_closes_low_descriptors_harms_no_other_call(ex: DragonflyExecutor) -> None:
    """Checklist 63. Its result may still be heard. Its slot ends after that."""
    for first in (3, 0):
        future = ex.submit(payloads.close_descriptors, first, 256)
        end = future.exception(SOON)
        assert end is None or isinstance(end, RunnerLostError)
        assert values(ex.submit(payloads.echo, n) for n in range(100)) == list(range(100))


def test_junk_on_every_descriptor_never_becomes_a_result(make: Make) -> None:
    """Checklist 63. A call that finds the slot's own sockets harms its slot; the agent trusts no byte of it."""
    ex = make(2)
    for _ in range(3):
        future = ex.submit(payloads.write_junk_everywhere)
        end = future.exception(SOON)
        assert end is None or isinstance(end, RunnerLostError)
    assert values(ex.submit(payloads.echo, n) for n in range(100)) == list(range(100))


def test_a_call_that_changes_the_process_leaves_a_slot_that_works(make: Make, tmp_path: Path) -> None:
    """Checklist 64. As in a ProcessPoolExecutor what a call changes stays changed for the next one on its slot."""
    ex = make(1)
    slot = ex.submit(payloads.pid).result(SOON)
    ex.submit(payloads.change_process_state, str(tmp_path)).result(SOON)
    assert ex.submit(payloads.process_state).result(SOON) == (str(tmp_path), 0o777)
    assert ex.submit(payloads.pid).result(SOON) == slot


def test_a_slot_that_ignores_every_signal_can_still_be_stopped(make: Make, tmp_path: Path, mailbox: Mailbox) -> None:
    """Checklist 64. Blocked and ignored: it cannot block the one that is used."""
    ex = make(1)
    ex.submit(payloads.change_process_state, str(tmp_path)).result(SOON)
    running = ex.submit(payloads.hold_for_good, mailbox.path)
    with watching(int(mailbox.read())) as watches:
        assert running.cancel()
        assert all_ended(watches)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


def test_a_slot_leads_its_session(ex: DragonflyExecutor) -> None:
    """Checklist 64. So setsid() says no, and nothing changes."""
    assert isinstance(error_of(ex.submit(payloads.make_session), SOON), PermissionError)


def test_a_call_that_daemonizes_is_lost_with_all_that_it_started(make: Make, mailbox: Mailbox) -> None:
    """Checklist 64, 38. Its slot ends with status 0, as daemons' first processes do; what goes on is killed."""
    ex = make(1)
    future = ex.submit(payloads.daemonize, mailbox.path)
    error = error_of(future, SOON)
    assert isinstance(error, RunnerLostError)
    assert error.exit_code == 0
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


@pytest.mark.parametrize("fn", [payloads.fork_and_return, payloads.fork_and_raise])
def test_a_fork_that_comes_back_from_its_call_ends_there(
    fn: Callable[[str], int], ex: DragonflyExecutor, mailbox: Mailbox
) -> None:
    """Checklist 64. The result is the slot's to give, once."""
    future = ex.submit(fn, mailbox.path)
    child = future.result(SOON)
    assert child > 0
    with watching(child) as watches:
        assert int(mailbox.read()) == child
        assert all_ended(watches)
    assert ex.pool.stats().stale == 0


# -- sizes -------------------------------------------------------------------------------------------------------------

BOUNDARIES = [65_400, 65_536, 65_537, 262_144, 262_145, 1_048_576, 5_000_001]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", BOUNDARIES)
def test_sizes_around_the_limits_of_frames_pass_whole(ex: DragonflyExecutor, size: int) -> None:
    """Checklist 41, 42. Both ways, and with small calls in between."""
    data = os.urandom(size)
    futures: list[Any] = []
    for n in range(3):
        futures += [ex.submit(payloads.digest, data), ex.submit(payloads.echo, n), ex.submit(payloads.echo, data)]
    assert values(futures) == [_digest(data), 0, data, _digest(data), 1, data, _digest(data), 2, data]


def test_a_hundred_megabytes_travel_both_ways(ex: DragonflyExecutor) -> None:
    """Checklist 41."""
    data = os.urandom(1 << 20) * 100
    future = ex.submit(payloads.echo, data)
    small = [ex.submit(payloads.echo, n) for n in range(20)]
    assert values(small) == list(range(20))
    assert future.result(PATIENCE) == data


@pytest.mark.large
def test_three_gibibytes_travel_both_ways(make: Make) -> None:
    """Checklist 41. Past every 32-bit length, in little more room than the value and its bytes take."""
    ex = make(1)
    size = 3 << 30
    assert ex.submit(len, bytes(size)).result(600) == size
    assert ex.submit(payloads.most_memory).result(600) < 2.2 * size
    Path("/proc/self/clear_refs").write_text("5")
    before = payloads.most_memory()
    assert len(ex.submit(payloads.big_result, size).result(600)) == size
    assert payloads.most_memory() - before < 2.2 * size
    assert ex.submit(payloads.echo, 1).result(600) == 1


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_arguments_over_max_payload_are_refused_before_they_are_sent(make: Make, size: int) -> None:
    """Checklist 41, 42."""
    ex = make(1, max_payload=10_000)
    error = error_of(ex.submit(payloads.echo, bytes(size)), SOON)
    assert isinstance(error, FrameTooLargeError)
    assert isinstance(error, ValueError)
    assert "max_payload" in str(error)
    assert "10000" in str(error)
    assert len(ex.submit(payloads.echo, bytes(9_000)).result(SOON)) == 9_000


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_a_result_over_max_payload_is_refused_before_it_is_sent(make: Make, size: int) -> None:
    """Checklist 41, 42."""
    ex = make(1, max_payload=10_000)
    slot = ex.submit(payloads.pid).result(SOON)
    error = error_of(ex.submit(payloads.big_result, size), SOON)
    assert isinstance(error, FrameTooLargeError)
    assert "max_payload" in str(error)
    assert ex.submit(payloads.pid).result(SOON) == slot


def test_a_slot_killed_while_it_takes_a_large_argument_leaves_no_piece_of_it_behind(
    make: Make, mailbox: Mailbox
) -> None:
    """Checklist 23, 44. The call never started, so it goes to another slot; what was on the way must not reach that."""
    stall = Stall()
    ex = make(1, backend=TamperingBackend(to_runner=lambda: stall))
    slot = ex.submit(payloads.pid).result(SOON)
    data = os.urandom(8 << 20)
    stall.after(1 << 20)
    future = ex.submit(payloads.digest, data)
    assert stall.stalled.wait(SOON)
    kill_and_wait(slot)
    stall.go_on.set()
    assert future.result(PATIENCE) == _digest(data)
    assert ex.submit(payloads.pid).result(SOON) != slot


class AfterOnePull:
    """A link to the parent that passes the first request for chunks, and then nothing until `go_on`."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self._decoder = Decoder(one_by_one=True)
        self._is_asked = False

    def __call__(self, data: bytes) -> bytes:
        if self._is_asked:
            assert self.go_on.wait(PATIENCE)
        frames = self._decoder.feed(data)
        while frames:
            self._is_asked |= frames[0].kind == Kind.PULL
            frames = self._decoder.feed(b"") if self._decoder.pending else []
        return data


class CountedChunks:
    """A link to the runner that counts the chunks, and tells when it has seen `enough`."""

    def __init__(self, enough: int) -> None:
        self.count = 0
        self.seen = threading.Event()
        self._enough = enough
        self._decoder = Decoder(one_by_one=True)

    def __call__(self, data: bytes) -> bytes:
        frames = self._decoder.feed(data)
        while frames:
            self.count += frames[0].kind == Kind.CHUNK
            frames = self._decoder.feed(b"") if self._decoder.pending else []
        if self.count >= self._enough:
            self.seen.set()
        return data


def test_chunks_enough_for_a_long_link_are_on_their_way_and_no_more(make: Make) -> None:
    """decisions/0018. 1 Gbit/s with a round trip of 100 ms takes 12.5 MB before the parent hears of the first."""
    pulls, chunks = AfterOnePull(), CountedChunks(LARGE_WINDOW)
    ex = make(1, backend=TamperingBackend(to_runner=lambda: chunks, to_parent=lambda: pulls))
    data = os.urandom((LARGE_WINDOW + 20) * CHUNK_SIZE)
    future = ex.submit(payloads.digest, data)
    assert chunks.seen.wait(SOON)
    on_their_way = chunks.count
    pulls.go_on.set()
    assert future.result(PATIENCE) == _digest(data)
    assert on_their_way == LARGE_WINDOW
    assert LARGE_WINDOW * CHUNK_SIZE >= 12_500_000
