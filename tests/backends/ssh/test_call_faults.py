"""Networks that fail while calls run: each call ends once, with what it may count on, and the next runner goes on."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallTimeoutError, RunnerLostError
from dragonfly_executor.backends.ssh import node
from tests.backends.ssh.calls import digest_of, free, hold, hold_the_interpreter, hold_with_family, log_run, make_bytes
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.backends.ssh.test_life import family
from tests.support.helpers import (
    PATIENCE,
    SOON,
    Events,
    Gate,
    Mailbox,
    Settled,
    all_ended,
    ended_of,
    error_of,
    values,
    watching,
)
from tests.support.sshd.faults import FaultyConnection, nothing_stays
from tests.support.sshd.host import Host

QUICK: dict[str, Any] = {"heartbeat": 0.1, "dead_after": 0.6, "lease": 1.0}
LARGE = 12 << 20
"""Bytes: more than all on the way can hold."""
AT_ONCE: dict[str, Any] = {"retry_wait": lambda state: 0.0}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that says nothing more is not given five seconds to end its runner."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", 0.2)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where calls say that they ran."""
    path = tmp_path / "runs"
    path.touch()
    return path


def runs(log: Path) -> Counter[str]:
    """How often each has run."""
    return Counter(line.split()[0] for line in log.read_text().splitlines())


# -- the link ends, or nothing comes through any more ------------------------------------------------------------------

FAULTS: dict[str, Callable[[FaultyConnection], object]] = {
    "cut": lambda way: way.cut(),
    "reset": lambda way: way.reset(),
    "nothing comes through": lambda way: way.silence(),
    "nothing comes back": lambda way: way.silence(way.down),
    "nothing gets there": lambda way: way.silence(way.up),
    "nothing is taken here": lambda way: way.stick(way.down),
    "nothing is taken there": lambda way: way.stick(way.up),
}


RARE = {"reset", "nothing comes back", "nothing is taken here"}


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=pytest.mark.soak if fault in RARE else ()) for fault in FAULTS]
)
def test_a_call_that_runs_is_lost_with_its_runner_and_nothing_of_it_stays(
    way: FaultyConnection, fault: str, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 4, 18, 19, 54. On both sides, whichever of them is told."""
    executor = make(make_backend(way), **QUICK)
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    settled = Settled()
    future.add_done_callback(settled)
    with family(mailbox, way.host) as watches:
        FAULTS[fault](way)
        error = error_of(future)
        assert isinstance(error, RunnerLostError)
        assert error.may_have_started
        assert f"on {way.spec}" in str(error)
        assert all_ended(watches)
    way.heal()
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    # Callbacks have a thread of their own, and may come behind. When the pool has gone, no others come.
    executor.shutdown()
    assert settled.count == 1


def test_a_runner_that_is_cut_off_while_it_is_idle_costs_nobody_anything(
    way: FaultyConnection, make_backend: MakeBackend, make: Make
) -> None:
    """As by a firewall that forgets silent connections, and says so."""
    events = Events()
    executor = make(make_backend(way), on_event=events, **QUICK)
    for number in range(3):
        assert executor.submit(pow, 2, number).result(PATIENCE) == 2**number
        way.cut()
        events.wait("down")
    assert executor.pool.stats().boots_failed == 0


def test_a_call_for_a_runner_that_nobody_hears_any_more_is_lost_or_tried_again(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path
) -> None:
    """Checklist 19, 21, 22. As by a firewall that forgets silent connections, and does not say so."""
    executor = make(make_backend(way), **QUICK)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    way.silence()
    once = executor.submit(log_run(str(log), "once"))
    twice = executor.options(retries=5, **AT_ONCE).submit(free(log_run(str(log), "twice")))
    error = error_of(once)
    assert isinstance(error, RunnerLostError)
    assert "no data for" in str(error)
    way.heal()
    assert twice.result(PATIENCE) == "twice"
    assert runs(log) == {"twice": 1}


def test_the_only_host_is_free_again_as_soon_as_its_silent_runner_is_given_up(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its link is cut, and nobody waits for an answer on it before the next boot."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", 3 * SOON)
    executor = make(make_backend(way), **QUICK)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    way.silence()
    assert isinstance(error_of(executor.submit(pow, 2, 11)), RunnerLostError)
    way.heal()
    given_up = time.monotonic()
    assert executor.submit(pow, 2, 12).result(PATIENCE) == 4096
    assert time.monotonic() - given_up < SOON


def test_a_shutdown_waits_for_no_answer_of_a_host_that_is_silent(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "STOP_TIMEOUT", 3 * SOON)
    executor = make(make_backend(way), shutdown_timeout=60.0, **QUICK)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    way.silence()
    began = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - began < SOON


def test_what_comes_late_from_a_runner_that_was_given_up_is_nobodys(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 20, 65. Its result was under way, and arrives when nobody waits for it."""
    executor = make(make_backend(way), max_concurrency=1, **QUICK)
    settled = Settled()
    future = executor.options(retries=1, **AT_ONCE).submit(free(hold(mailbox.path, gate.path)))
    future.add_done_callback(settled)
    first, _ = mailbox.read().split()
    way.stick(way.down)
    gate.open()
    nothing_stays(way.host)
    way.heal()
    second, _ = mailbox.read().split()
    gate.open()
    assert future.result(PATIENCE) == int(second) != int(first)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    # Callbacks have a thread of their own, and may come behind. When the pool has gone, no others come.
    executor.shutdown()
    assert settled.count == 1


def test_a_timeout_and_a_cancel_hold_though_nobody_can_be_told(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 40."""
    executor = make(make_backend(way), heartbeat=0.1, dead_after=1.5, lease=1.5)
    executor.submit(pow, 2, 10).result(PATIENCE)  # a boot is not to use that second up
    timed = executor.options(timeout=1.0).submit(free(hold(mailbox.path, gate.path)))
    cancelled = executor.submit(hold(mailbox.path, gate.path))
    mailbox.read(), mailbox.read()
    way.silence()
    assert cancelled.cancel()
    assert isinstance(error_of(timed, SOON), CallTimeoutError)
    nothing_stays(way.host)


def test_other_hosts_go_on_and_take_what_may_be_tried_again(
    way: FaultyConnection, lasting_host: Host, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 5, 22, 56. The same host by another way."""
    executor = make(make_backend(way, lasting_host, connect_timeout=0.5), max_concurrency=1, **QUICK)
    futures = [executor.options(retries=1, **AT_ONCE).submit(free(hold(mailbox.path, gate.path))) for _ in range(2)]
    slots = [int(mailbox.read().split()[0]) for _ in futures]
    way.silence()
    with watching(*slots) as watches:
        assert ended_of(watches, 1) == 1
        lost = {watch.pid for watch in watches if watch.ended(0.0)}
        gate.open(2)
        assert len(lost.intersection(values(futures))) == 0
    way.heal()


# -- at most once ------------------------------------------------------------------------------------------------------


def test_a_large_call_that_is_cut_off_on_its_way_goes_to_the_next_runner(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path
) -> None:
    """Checklist 23. It cannot have started, so no retry is needed, and it has run once."""
    executor = make(make_backend(way), **QUICK)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    data = os.urandom(LARGE)
    way.cut_after(way.up, 1 << 20)
    future = executor.submit(digest_of, data, str(log))
    nothing_stays(way.host)
    way.heal()
    assert future.result(PATIENCE) == hashlib.sha256(data).hexdigest()
    assert runs(log) == {"ran": 1}


@pytest.mark.parametrize("retries", [0, 1])
def test_a_large_result_that_is_cut_off_on_its_way_is_lost_or_made_again(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path, mailbox: Mailbox, retries: int
) -> None:
    """Checklist 21, 22. It has run, and says so."""
    executor = make(make_backend(way), max_concurrency=1, **QUICK)
    agents = executor.submit(lambda: __import__("os").getppid()).result(PATIENCE)
    way.cut_after(way.down, 1 << 20)
    options = executor.options(retries=retries, retry_wait=lambda state: 0.3)
    future = options.submit(free(make_bytes), LARGE, mailbox.path, str(log))
    mailbox.read()
    nothing_stays(way.host)
    way.heal()
    if retries:
        assert future.result(PATIENCE) == bytes(range(256)) * (LARGE // 256)
    else:
        error = error_of(future)
        assert isinstance(error, RunnerLostError)
        assert error.may_have_started
    assert runs(log) == {"ran": 1 + retries}
    assert executor.submit(lambda: __import__("os").getppid()).result(PATIENCE) != agents


def test_calls_that_never_left_go_to_the_next_runner(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path
) -> None:
    """Checklist 21, 23. The way there is full when it ends: what could not be written provably did not start."""
    executor = make(make_backend(way), max_concurrency=2)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    way.stick(way.up)
    filler = os.urandom(60_000)
    futures = [executor.submit(log_run(str(log), number, filler)) for number in range(200)]
    with pytest.raises(TimeoutError):
        futures[0].result(0.5)
    way.cut()
    way.heal()
    ends = [future.exception(PATIENCE) for future in futures]
    lost = {number for number, end in enumerate(ends) if end is not None}
    assert all(isinstance(ends[number], RunnerLostError) for number in lost)
    assert len(lost) < 150
    assert runs(log) == {str(number): 1 for number in range(200) if number not in lost}


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))]


@pytest.mark.parametrize("seed", SEEDS)
def test_whenever_the_network_fails_calls_run_as_often_as_they_may(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, log: Path, seed: int
) -> None:
    """Checklist 21, 22: a history of calls, some with retries, on connections that end again and again."""
    numbers = random.Random(seed)
    executor = make(make_backend(way, host_wait=lambda state: 0.0), max_boot_failures=1000, **QUICK)
    settled = {}
    for turn in range(4):
        futures = {}
        way.cut_after(numbers.choice([way.up, way.down]), numbers.randrange(15_000), abrupt=numbers.random() < 0.5)
        for number in range(15):
            retries = numbers.choice([0, 3])
            filler = numbers.randbytes(numbers.choice([10, 1000, 100_000]))
            name = f"{turn}-{number}-{retries}"
            options = executor.options(retries=retries, **AT_ONCE)
            futures[name] = options.submit(free(log_run(str(log), name, filler)))
        settled |= {name: future.exception(PATIENCE) for name, future in futures.items()}
    assert executor.pool.stats().boots_attempted > 1
    assert all(end is None or isinstance(end, RunnerLostError) for end in settled.values())
    for name, count in runs(log).items():
        assert count <= 1 + int(name.split("-")[2]), name
    assert all(runs(log)[name] >= 1 for name, end in settled.items() if end is None)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


FLIPS = [("up", 0), ("up", 40), ("down", 0), ("down", 40), *(
    pytest.param(way, place, marks=pytest.mark.soak) for way in ("up", "down") for place in (1, 3, 4, 17, 100, 5000)
)]  # fmt: skip


@pytest.mark.parametrize(("direction", "place"), FLIPS)
def test_a_bit_that_turns_over_loses_a_runner_and_never_spoils_a_result(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, direction: str, place: int
) -> None:
    """Checklist 44. The first bytes of a packet are its length: what comes then makes no packet at all."""
    executor = make(make_backend(way), **QUICK)
    executor.submit(pow, 2, 10).result(PATIENCE)
    way.flip_after(getattr(way, direction), place)
    calls = [executor.submit(lambda n, filler: (n, filler), n, bytes([n]) * 1000) for n in range(100)]
    ends = [future.exception(PATIENCE) for future in calls]
    assert any(ends)
    for number, (end, future) in enumerate(zip(ends, calls, strict=True)):
        if end is None:
            assert future.result() == (number, bytes([number]) * 1000)
        else:
            assert isinstance(end, RunnerLostError)
    way.heal()
    assert executor.submit(pow, 2, 11).result(PATIENCE) == 2048
    assert executor.pool.stats().boots_attempted == 2


# -- slow, not dead ----------------------------------------------------------------------------------------------------


def test_on_a_slow_and_uneven_way_nothing_is_lost(way: FaultyConnection, make_backend: MakeBackend, make: Make) -> None:
    """Checklist 47: longer on its way than a heartbeat is long."""
    way.slow(delay=0.02, jitter=0.03)
    executor = make(make_backend(way), heartbeat=0.02, dead_after=1.0)
    assert values(executor.submit(pow, 2, number) for number in range(200)) == [2**number for number in range(200)]
    assert executor.pool.stats().boots_attempted == 1


def test_byte_by_byte_everything_gets_there(way: FaultyConnection, make_backend: MakeBackend, make: Make) -> None:
    """Checklist 45, 47. In packets of one byte: what is read at once is never a whole anything."""
    way.tell(lambda: (setattr(way.up, "step", 1), setattr(way.down, "step", 1)))
    executor = make(make_backend(way))
    data = os.urandom(3000)
    assert values(executor.submit(lambda data, n: data * n, data, n) for n in range(3)) == [data * n for n in range(3)]
    assert executor.pool.stats().boots_attempted == 1


def test_a_large_result_on_a_thin_way_keeps_its_runner_and_can_be_stopped(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate, log: Path
) -> None:
    """Checklist 47. It is under way for longer than a runner may be silent; what is said meanwhile gets there."""
    executor = make(make_backend(way), heartbeat=0.1, dead_after=0.6)
    held = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, way.host) as watches:
        way.slow(rate=400_000)
        large = executor.submit(make_bytes, 400_000, mailbox.path, str(log))
        mailbox.read()
        assert held.cancel()
        agent, slot, child, daemon, *_ = watches
        assert all_ended([slot, child, daemon])
        assert not large.done()
        assert large.result(PATIENCE) == bytes(range(256)) * (400_000 // 256)
        assert not agent.ended(0.0)
        executor.shutdown()
    assert executor.pool.stats().boots_attempted == 1


def test_a_parent_that_takes_nothing_for_a_while_gets_all_of_it_then(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, mailbox: Mailbox, log: Path
) -> None:
    """Checklist 48."""
    executor = make(make_backend(way))
    executor.submit(pow, 2, 10).result(PATIENCE)
    way.stick(way.down)
    future = executor.submit(free(make_bytes), LARGE, mailbox.path, str(log))
    mailbox.read()
    with pytest.raises(TimeoutError):
        future.result(0.5)
    way.release(way.down)
    assert future.result(PATIENCE) == bytes(range(256)) * (LARGE // 256)
    assert executor.pool.stats().boots_attempted == 1


def test_a_call_that_holds_the_interpreter_holds_up_nothing_else(
    way: FaultyConnection, make_backend: MakeBackend, make: Make
) -> None:
    """Checklist 39: for twice as long as a runner may be silent."""
    executor = make(make_backend(way), max_concurrency=1, **QUICK)
    assert executor.submit(hold_the_interpreter, 1.2).result(PATIENCE) == "done"
    error = error_of(executor.options(run_timeout=0.3).submit(free(hold_the_interpreter), 60.0), SOON)
    assert isinstance(error, CallTimeoutError)
    assert executor.pool.stats().boots_attempted == 1


# -- one slot of many --------------------------------------------------------------------------------------------------


def test_a_slot_that_is_killed_takes_what_it_started_and_nobody_else(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 5, 38."""
    executor = make(make_backend(way))
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, way.host) as watches:
        agent, slot, child, daemon, *_ = watches
        os.kill(slot.pid, signal.SIGKILL)
        error = error_of(future, SOON)
        assert isinstance(error, RunnerLostError)
        assert error.signal == signal.SIGKILL
        assert all_ended([slot, child, daemon])
        assert executor.submit(lambda: __import__("os").getppid()).result(PATIENCE) == agent.pid
        executor.shutdown()


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_call_that_is_stopped_takes_what_it_started_and_nobody_else(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate, how: str
) -> None:
    """Checklist 40."""
    executor = make(make_backend(way))
    options = executor.options(run_timeout=1.0 if how == "timeout" else None)
    future = options.submit(free(hold_with_family(mailbox.path, gate.path)))
    with family(mailbox, way.host) as watches:
        agent, slot, child, daemon, *_ = watches
        if how == "cancel":
            assert future.cancel()
        else:
            assert isinstance(error_of(future), CallTimeoutError)
        assert all_ended([slot, child, daemon])
        assert executor.submit(lambda: __import__("os").getppid()).result(PATIENCE) == agent.pid
        executor.shutdown()
