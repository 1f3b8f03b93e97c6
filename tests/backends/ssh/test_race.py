"""The race of a boot over hosts, the places that boots have on hosts, and the time of boots that wait for a turn."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import BootError, BootRequest, HostKeyError, Parent
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.ssh import host_race, node, paramiko_connect
from dragonfly_executor.backends.ssh.boot_deadline import BootTime, SSHBootDeadline
from dragonfly_executor.backends.ssh.host_race import HostRace, time_for
from dragonfly_executor.backends.ssh.host_table import HostPlace, HostTable
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.login_limit import LoginLimit
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.support.helpers import PATIENCE, Mailbox, error_of
from tests.support.sshd.faults import FaultyConnection, nothing_stays

SOON = 0.05
"""Seconds after which the next host is tried, where a test waits for that."""
NEVER = 3600.0


class Clock:
    """Hears of a boot's waits."""

    def __init__(self) -> None:
        self.said: SimpleQueue[str] = SimpleQueue()

    def queued(self) -> None:
        self.said.put("queued")

    def started(self) -> None:
        self.said.put("started")

    def hears(self, word: str) -> None:
        """Wait until it is said."""
        assert self.said.get(timeout=PATIENCE) == word


class Reached:
    """A host that was reached. `close` says so."""

    def __init__(self, host: SSHHost) -> None:
        self.host = host
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Runner:
    """A node of a race, without a host."""

    def __init__(self, host: SSHHost, place: HostPlace) -> None:
        self.host = host
        self.place = place

    def stop(self) -> None:
        self.place.leaving()
        self.place.release()


class Booter:
    """Hosts that answer when a test says so."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[str] = SimpleQueue()
        self.reached: list[Reached] = []
        self.answers: dict[str, Future[None]] = {}
        self.finish_errors: dict[str, BaseException] = {}

    def expect(self, host: str) -> None:
        """Wait until a boot tries a host."""
        assert self.begun.get(timeout=PATIENCE) == host

    def reach(self, host: SSHHost, request: BootRequest, deadline: SSHBootDeadline) -> Reached:
        answer = self.answers.setdefault(str(host), Future())
        self.begun.put(str(host))

        def end() -> None:
            if not answer.done():
                answer.set_exception(BootError("cut", "connect"))

        try:
            with deadline.ending(end):
                answer.result(PATIENCE)
        finally:
            self.answers[str(host)] = Future()
        self.reached.append(Reached(host))
        return self.reached[-1]

    def finish(self, reached: Reached, request: BootRequest, deadline: SSHBootDeadline, place: HostPlace) -> Runner:
        if error := self.finish_errors.get(str(reached.host)):
            raise error
        return Runner(reached.host, place)

    def answer(self, host: str) -> None:
        self.answers.setdefault(host, Future()).set_result(None)

    def fail(self, host: str, error: BaseException) -> None:
        self.answers.setdefault(host, Future()).set_exception(error)


class World:
    """Some hosts, and boots on them."""

    def __init__(self, threads: ThreadPoolExecutor, *names: str, sizes: list[int] | None = None) -> None:
        self.booter = Booter()
        self.places = HostTable([SSHHost(name) for name in names], sizes or [1] * len(names), lambda state: NEVER)
        self.clock = Clock()
        self.given_up = CancelToken()
        self._threads = threads

    def boot(self, timeout: float = PATIENCE) -> Future[Any]:
        request = BootRequest(1, Parent.new("test", 1, "ssh"), timeout, self.given_up, self.clock)
        return self._threads.submit(HostRace(self.places, self.booter, request).run)  # type: ignore[arg-type]

    def carried(self) -> list[int]:
        """How many runners each host carries."""
        return [entry.runners for entry in self.places._selector.entries]

    def aside(self) -> list[bool]:
        """Which hosts are set aside."""
        return [entry.set_aside_until > 0 for entry in self.places._selector.entries]


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    with ThreadPoolExecutor(8) as threads:
        yield lambda *names, **options: World(threads, *names, **options)


MakeWorld = Callable[..., World]


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_race, "STAGGER", SOON)


# -- the race ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_soon")
def test_the_host_that_answers_first_wins_and_a_silent_one_is_set_aside(world: MakeWorld) -> None:
    hosts = world("a", "b", "c")
    boot = hosts.boot()
    for name in "abc":
        hosts.booter.expect(name)
    hosts.booter.answer("b")
    runner = boot.result(PATIENCE)
    assert str(runner.host) == "b"
    assert hosts.carried() == [0, 1, 0]
    assert hosts.aside() == [True, False, False], "c was asked after b, and had no time to answer"
    runner.stop()
    assert hosts.carried() == [0, 0, 0]


@pytest.mark.usefixtures("_soon")
def test_the_first_host_wins_if_it_answers_after_all(world: MakeWorld) -> None:
    hosts = world("a", "b")
    boot = hosts.boot()
    hosts.booter.expect("a")
    hosts.booter.expect("b")
    hosts.booter.answer("a")
    assert str(boot.result(PATIENCE).host) == "a"
    assert hosts.carried() == [1, 0]
    assert hosts.aside() == [False, False]


def test_a_host_that_answers_step_by_step_has_no_rival(world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A far host takes longer than a second for all steps together."""
    monkeypatch.setattr(host_race, "STAGGER", 0.3)
    hosts, steps = world("a", "b"), threading.Semaphore(0)
    reach = hosts.booter.reach

    def far(host: SSHHost, request: BootRequest, deadline: SSHBootDeadline) -> Reached:
        for _ in range(5):
            deadline.pause(0.1)
            deadline.progress()
            steps.release()
        return reach(host, request, deadline)

    monkeypatch.setattr(hosts.booter, "reach", far)
    hosts.booter.answer("a")
    assert str(hosts.boot().result(PATIENCE).host) == "a"
    assert hosts.booter.begun.get_nowait() == "a"
    with pytest.raises(Empty):
        hosts.booter.begun.get_nowait()


def test_a_host_that_fails_is_followed_at_once(world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_race, "STAGGER", NEVER)
    hosts = world("a", "b")
    boot = hosts.boot()
    hosts.booter.fail("a", BootError("no route", "connect"))
    hosts.booter.answer("b")
    assert str(boot.result(PATIENCE).host) == "b"
    assert hosts.carried() == [0, 1]
    assert hosts.aside() == [True, False]


@pytest.mark.usefixtures("_soon")
def test_a_host_that_answers_too_late_is_closed(world: MakeWorld) -> None:
    """It answers in the very moment in which another one has won."""
    hosts = world("a", "b")
    reach = hosts.booter.reach

    def reach_though_cut(host: SSHHost, request: BootRequest, deadline: SSHBootDeadline) -> Reached:
        try:
            return reach(host, request, deadline)
        except BootError:
            hosts.booter.reached.append(Reached(host))
            return hosts.booter.reached[-1]

    hosts.booter.reach = reach_though_cut  # type: ignore[method-assign]
    boot = hosts.boot()
    hosts.booter.expect("a")
    hosts.booter.expect("b")
    hosts.booter.answer("a")
    assert str(boot.result(PATIENCE).host) == "a"
    assert [(str(host.host), host.closed.is_set()) for host in hosts.booter.reached] == [("a", False), ("b", True)]
    assert hosts.carried() == [1, 0]


@pytest.mark.usefixtures("_soon")
def test_a_host_that_answers_and_then_fails_leaves_the_boot_to_the_others(world: MakeWorld) -> None:
    hosts = world("a", "b")
    hosts.booter.finish_errors["a"] = BootError("no room", "bootstrap")
    boot = hosts.boot()
    hosts.booter.expect("a")
    hosts.booter.expect("b")
    hosts.booter.answer("a")
    hosts.booter.expect("b")
    hosts.booter.answer("b")
    assert str(boot.result(PATIENCE).host) == "b"
    assert hosts.carried() == [0, 1]


@pytest.mark.usefixtures("_soon")
def test_a_loser_that_shows_a_wrong_key_is_not_used_any_more(world: MakeWorld) -> None:
    hosts = world("a", "b", "c")
    boot = hosts.boot()
    for name in "abc":
        hosts.booter.expect(name)
    hosts.booter.fail("a", HostKeyError("not this key", "host key"))
    hosts.booter.answer("c")
    assert str(boot.result(PATIENCE).host) == "c"
    assert [entry.refused is not None for entry in hosts.places._selector.entries] == [True, False, False]
    assert hosts.carried() == [0, 0, 1]


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("error", [OSError("a bug"), KeyboardInterrupt()], ids=repr)
def test_whatever_ends_a_race_all_of_it_ends(world: MakeWorld, error: BaseException) -> None:
    hosts = world("a", "b")
    boot = hosts.boot()
    hosts.booter.expect("a")
    hosts.booter.expect("b")
    hosts.booter.fail("b", error)
    assert boot.exception(PATIENCE) is error
    assert hosts.carried() == [0, 0]


@pytest.mark.usefixtures("_soon")
def test_a_race_that_is_given_up_holds_nothing_against_the_hosts(world: MakeWorld) -> None:
    hosts = world("a", "b")
    boot = hosts.boot()
    hosts.booter.expect("a")
    hosts.booter.expect("b")
    hosts.given_up.set()
    assert "given up" in str(boot.exception(PATIENCE))
    assert hosts.carried() == [0, 0]
    assert hosts.aside() == [False, False]


def test_a_rival_that_no_thread_can_be_had_for_does_not_race(world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = world("a", "b")
    start = threading.Thread.start

    def start_all_but_b(thread: threading.Thread) -> None:
        if thread.name == "dragonfly-ssh-boot-b":
            hosts.booter.answer("a")
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_all_but_b)
    monkeypatch.setattr(host_race, "STAGGER", SOON)
    assert str(hosts.boot().result(PATIENCE).host) == "a"
    assert hosts.carried() == [1, 0]


# -- with hosts --------------------------------------------------------------------------------------------------------

REQUEST = BootRequest(1, Parent.new("test", 1, "ssh"), PATIENCE)


@contextmanager
def mute() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """A server that takes connections and says nothing; its name, and a function that waits for its client's end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def last() -> bytes:
            with listener.accept()[0] as sock:
                sock.settimeout(PATIENCE)
                while sock.recv(4096):
                    continue
                return b""

        yield f"127.0.0.1:{listener.getsockname()[1]}", last


def test_a_silent_host_costs_a_boot_a_second_and_not_its_timeout(
    make_host: MakeHost, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dragonfly_executor")
    host = make_host()
    with mute() as (silent, last):
        backend = make_backend(silent, host, connect_timeout=NEVER)
        booted = backend.boot(REQUEST._replace(timeout=NEVER))
        assert booted.host == host.spec
        assert last() == b""
        assert f"host {silent} is set aside" in caplog.text
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        booted.stop()


def test_a_host_whose_profile_hangs_is_overtaken_and_nothing_stays_on_it(
    make_host: MakeHost, make_backend: MakeBackend, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets the user in, and then its home folder does not answer, say."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", NEVER)
    hangs, works = make_host(), make_host()
    hangs.profile(f"echo > {mailbox.path}; read -r line")
    backend = make_backend(hangs, works, connect_timeout=NEVER, host_wait=lambda state: 0.0)
    first = backend.boot(REQUEST._replace(timeout=NEVER))
    mailbox.read()
    assert first.host == works.spec
    nothing_stays(hangs)
    hangs.profile("")
    second = backend.boot(REQUEST)
    assert second.host == hangs.spec
    first.stop()
    second.stop()


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("connect_by", ["channel", "direct"])
def test_a_rival_of_a_host_that_wins_leaves_nothing(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, connect_by: str
) -> None:
    """Both are quick, and both are asked: the runner's token is for one alone."""
    hosts = [make_host(), make_host()]
    backend = make_backend(*hosts, connect=connect_by)
    executor = make(backend, max=2)
    for number in range(3):
        assert executor.submit(pow, 2, number).result(PATIENCE) == 2**number
    executor.shutdown()
    for host in hosts:
        nothing_stays(host)
    assert [entry.runners for entry in backend._places._selector.entries] == [0, 0]


# -- places ------------------------------------------------------------------------------------------------------------


def test_a_boot_waits_for_a_place_while_a_runner_there_is_being_stopped(world: MakeWorld) -> None:
    hosts = world("a")
    hosts.booter.answer("a")
    runner = hosts.boot().result(PATIENCE)
    runner.place.leaving()
    boot = hosts.boot()
    hosts.clock.hears("queued")
    hosts.booter.answer("a")
    runner.place.release()
    hosts.clock.hears("started")
    assert str(boot.result(PATIENCE).host) == "a"
    assert hosts.carried() == [1]


@pytest.fixture
def two_boots(world: MakeWorld) -> tuple[World, Future[Any], Future[Any]]:
    """One that is under way, and one that waits for the only place there is."""
    hosts = world("a")
    first = hosts.boot()
    hosts.booter.expect("a")
    second = hosts.boot()
    hosts.clock.hears("queued")
    return hosts, first, second


def test_a_boot_waits_for_a_place_while_another_boot_may_fail(
    two_boots: tuple[World, Future[Any], Future[Any]],
) -> None:
    hosts, first, second = two_boots
    hosts.booter.fail("a", BootError("no route", "connect"))
    assert "no route" in str(first.exception(PATIENCE))
    hosts.booter.expect("a")
    hosts.given_up.set()
    assert second.exception(PATIENCE)
    assert hosts.carried() == [0]


def test_a_boot_that_no_place_can_come_free_for_fails(two_boots: tuple[World, Future[Any], Future[Any]]) -> None:
    """At once if all runners are up; and when the boot succeeds that it has waited for."""
    hosts, first, second = two_boots
    hosts.booter.answer("a")
    first.result(PATIENCE)
    for boot in (second, hosts.boot()):
        assert "a has its maximum of runners" in str(boot.exception(PATIENCE))


def test_a_wait_for_a_place_ends_when_the_boot_is_given_up(world: MakeWorld) -> None:
    hosts = world("a")
    hosts.booter.answer("a")
    hosts.boot().result(PATIENCE).place.leaving()
    boot = hosts.boot()
    hosts.clock.hears("queued")
    hosts.given_up.set()
    assert "given up while it waited for a place" in str(boot.exception(PATIENCE))
    assert hosts.carried() == [1]


def test_the_boot_after_one_that_is_still_being_cleared_away_waits_for_its_place(
    way: FaultyConnection, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool does not wait for what the backend clears away; and the host is not full."""
    cleared, waits, close = threading.Event(), threading.Event(), paramiko_connect.SSHConnection.close
    may_come_free = HostTable.may_come_free

    def close_late(connection: paramiko_connect.SSHConnection) -> None:
        cleared.wait(PATIENCE)
        close(connection)

    def told(places: HostTable) -> bool:
        waits.set()
        return may_come_free(places)

    backend = make_backend(way, connect_timeout=0.1)
    with make(backend) as first:
        # What a first boot loads and looks up would take all of the time that the next one has.
        assert first.submit(pow, 2, 10).result(PATIENCE) == 1024
    monkeypatch.setattr(paramiko_connect.SSHConnection, "close", close_late)
    hasty = make(backend, boot_timeout=0.5, max_boot_failures=1)
    way.silence()
    assert "returned no node within 0.5 s" in str(error_of(hasty.submit(pow, 2, 10)))
    way.heal()
    monkeypatch.setattr(HostTable, "may_come_free", told)
    future = make(backend).submit(pow, 2, 10)
    assert waits.wait(PATIENCE)
    cleared.set()
    assert future.result(PATIENCE) == 1024


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_boot_has_no_deadline_while_it_waits_for_a_turn_and_all_of_its_time_after_that() -> None:
    clock = Clock()
    deadline = SSHBootDeadline(0.0, None, clock)
    with deadline.time.working():
        assert deadline.is_over
        with deadline.time.waiting():
            clock.hears("queued")
            assert not deadline.is_over
            assert deadline.left() == float("inf")
            assert deadline.left(5.0) == 5.0
        clock.hears("started")
    assert deadline.is_over
    assert clock.said.empty()


def test_a_boot_waits_for_a_turn_only_if_all_of_its_attempts_do() -> None:
    clock = Clock()
    time = BootTime(60.0, clock)
    with time.working(), time.working(), time.waiting():
        assert clock.said.empty()
        with time.waiting():
            clock.hears("queued")
        clock.hears("started")
    with time.working():
        rival = time.working()
        with time.waiting():
            clock.hears("queued")
            rival.__enter__()
            clock.hears("started")
            rival.__exit__(None, None, None)
            clock.hears("queued")
        clock.hears("started")


def test_a_turn_to_log_in_is_waited_for_in_no_boots_time() -> None:
    limit, clock = LoginLimit(), Clock()
    deadline = SSHBootDeadline(0.2, None, clock)
    logged_in: SimpleQueue[bool] = SimpleQueue()

    def log_in() -> None:
        with deadline.time.working(), limit.login(deadline):
            logged_in.put(deadline.is_over)

    with limit.login(SSHBootDeadline(PATIENCE)):
        limit.refused()
        waiting = threading.Thread(target=log_in)
        waiting.start()
        clock.hears("queued")
        assert logged_in.empty()
    assert logged_in.get(timeout=PATIENCE) is False
    clock.hears("started")
    waiting.join()


@pytest.mark.parametrize(
    ("timeout", "share"), [(600.0, 540.0), (60.0, 54.0), (5.0, 4.5), (3.0, 2.5), (2.0, 1.6), (0.5, 0.4)]
)
def test_a_backend_leaves_time_for_clearing_away(timeout: float, share: float) -> None:
    """Else the pool's own error comes first, and that knows of no host."""
    assert time_for(timeout) == pytest.approx(share)
