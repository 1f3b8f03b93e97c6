"""What becomes of runners on hosts, and of all that they started, when something on the way dies."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, RunnerLostError
from dragonfly_executor.backends.ssh import node
from tests.backends.ssh.calls import (
    close_descriptors,
    free,
    hold,
    hold_with_family,
    runner_id,
    say_on_stderr_of_the_agent,
    variable,
    write,
)
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost, family
from tests.support.census import Census
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, all_ended, error_of, values
from tests.support.sshd.host import Host, public_half
from tests.support.sshd.namespaces import Namespace
from tests.support.sshd.relay import Relay

CANARY = "canary-5e6c1f"
QUICK: dict[str, Any] = {"heartbeat": 0.1, "dead_after": 0.6, "lease": 1.0}
"""Where a network has to be given up on, in the hundredth part of the time."""


# -- an end that is known ----------------------------------------------------------------------------------------------


def test_a_runner_goes_after_its_max_lifetime_and_another_one_comes(
    host: Host, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """It drains first: the second call does not go there."""
    executor = make(make_backend(host, max_lifetime=4, runners_per_host=2), max_concurrency=1)
    lost = executor.submit(hold(mailbox.path, gate.path))
    mailbox.read()
    error = error_of(lost)
    assert isinstance(error, RunnerLostError)
    assert "its max_lifetime of 4 s had passed" in str(error)
    # With such a short life, a replacement may have come and gone by now.
    assert executor.submit(free(runner_id)).result(PATIENCE) > 1
    assert executor.pool.stats().boots_failed == 0


# -- the stream --------------------------------------------------------------------------------------------------------


def test_whatever_calls_print_is_seen_here_and_nothing_of_it_is_on_the_stream(
    host: Host, make_backend: MakeBackend, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checklist 63."""
    executor = make(make_backend(host), max_concurrency=1)
    for fd in (1, 2):
        assert executor.submit(write(fd, b"junk %d\n" % fd)).result(PATIENCE) == 7
    executor.submit(print, "printed").result(PATIENCE)
    executor.submit(write(1, b"\x00" * 100_000 + b"\n")).result(PATIENCE)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    executor.shutdown()
    out, err = capsys.readouterr()
    assert out == f"junk 1\nprinted\n{chr(0) * 100_000}\n"
    assert "junk 2\n" in err


def test_what_the_agent_itself_says_is_on_stderr_with_the_hosts_name(
    host: Host, make_backend: MakeBackend, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    """Descriptor 2 of a call is not the agent's: that one belongs to the slot's parent."""
    executor = make(make_backend(host), max_concurrency=1)
    executor.submit(say_on_stderr_of_the_agent()).result(PATIENCE)
    executor.shutdown()
    assert f"[{host.spec}] from the agent\n" in capfd.readouterr().err


def test_a_call_that_closes_what_is_open_harms_itself_alone(host: Host, make_backend: MakeBackend, make: Make) -> None:
    """Checklist 63."""
    executor = make(make_backend(host), max_concurrency=1)
    assert executor.submit(close_descriptors(0, 3)).result(PATIENCE) is None
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert isinstance(error_of(executor.submit(close_descriptors(3, 1024))), RunnerLostError)
    assert executor.submit(pow, 2, 11).result(PATIENCE) == 2048
    assert executor.pool.stats().boots_attempted == 1


def test_large_payloads_come_back_whole(host: Host, make_backend: MakeBackend, make: Make) -> None:
    """More than any window on the way, both ways at once."""
    executor = make(make_backend(host))
    payloads = [os.urandom(20 << 20) for _ in range(2)]
    echoed = values([executor.submit(lambda data: data, payload) for payload in payloads])
    assert echoed == payloads


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_sshd_is_killed_in_the_middle_of_a_call(
    host: Host, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 54: the process that serves the connection; the next call gets another runner."""
    executor = make(make_backend(host), max_concurrency=1)
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, host) as watches:
        for pid in host.connections():
            os.kill(pid, signal.SIGKILL)
        error = error_of(future, SOON)
        assert isinstance(error, RunnerLostError)
        assert error.may_have_started
        assert all_ended(watches)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


def test_the_connection_is_cut_in_the_middle_of_a_call(
    host: Host, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate, tmp_path: Path
) -> None:
    """Checklist 54."""
    known = tmp_path / "known"
    with closing(Relay(host)) as relay:
        known.write_text(relay.known_as)
        executor = make(make_backend(relay.spec, known_hosts=known))
        future = executor.submit(hold_with_family(mailbox.path, gate.path))
        with family(mailbox, host) as watches:
            relay.cut()
            assert isinstance(error_of(future, SOON), RunnerLostError)
            assert all_ended(watches)
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        executor.shutdown()


def test_an_agent_that_is_killed_leaves_nothing_on_the_host(
    host: Host, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """What its calls started is known to nobody else: not even a daemon stays."""
    executor = make(make_backend(host))
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, host) as watches:
        os.kill(watches[0].pid, signal.SIGKILL)
        assert isinstance(error_of(future, SOON), RunnerLostError)
        assert all_ended(watches)


def test_an_agent_that_is_frozen_is_given_up_on_and_goes_when_it_thaws(
    host: Host,
    make_backend: MakeBackend,
    make: Make,
    mailbox: Mailbox,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checklist 20: SIGSTOP for longer than `dead_after`."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", 0.2)
    executor = make(make_backend(host), **QUICK)
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, host) as watches:
        os.kill(watches[0].pid, signal.SIGSTOP)
        error = error_of(future)
        assert isinstance(error, RunnerLostError)
        assert "no data for" in str(error)
        assert not watches[0].ended(0.0)
        os.kill(watches[0].pid, signal.SIGCONT)
        assert all_ended(watches)


@pytest.mark.parametrize("fork", [[], ["fork"]], ids=["alone", "with a fork that keeps its descriptors"])
def test_when_the_parent_is_killed_nothing_stays_on_the_host(
    program: Any, host: Host, mailbox: Mailbox, fork: list[str]
) -> None:
    """Checklist 3, 54: at once, long before the lease ends, since the connection ends with the parent."""
    parent = program(3600.0, *fork)
    with family(mailbox, host) as watches:
        os.kill(parent.pid, signal.SIGKILL)
        assert all_ended(watches)


def test_when_the_parent_is_frozen_the_lease_ends(program: Any, host: Host, mailbox: Mailbox) -> None:
    """Checklist 52: sshd is there, and so is the connection."""
    parent = program(1.0)
    with family(mailbox, host) as watches:
        os.kill(parent.pid, signal.SIGSTOP)
        assert all_ended(watches)
        assert host.connections()


def test_a_parent_that_slept_for_longer_than_a_lease_boots_a_new_runner(
    program: Any, host: Host, mailbox: Mailbox
) -> None:
    """Checklist 52: its call is lost, which it learns when it wakes."""
    parent = program(1.0, "wait")
    with family(mailbox, host) as watches:
        os.kill(parent.pid, signal.SIGSTOP)
        assert all_ended(watches)
    os.kill(parent.pid, signal.SIGCONT)
    assert mailbox.read() == "RunnerLostError 1024"


def test_a_nap_of_the_parent_costs_no_runner(program: Any, host: Host, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 52: shorter than a lease."""
    parent = program(4.0, "wait")
    with family(mailbox, host) as watches:
        os.kill(parent.pid, signal.SIGSTOP)
        assert not watches[0].ended(1.0)
        os.kill(parent.pid, signal.SIGCONT)
        gate.open()
        assert mailbox.read() == "NoneType 1024"
        assert not watches[0].ended(0.0)


# -- the network -------------------------------------------------------------------------------------------------------


def test_two_hosts_with_networks_of_their_own(
    namespace: Namespace, make_host: MakeHost, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """On the port that needs no saying."""
    with closing(Namespace()) as second:
        hosts = [make_host(within=one.within, address=one.address, port=22) for one in (namespace, second)]
        backend = make_backend(hosts[0].address, hosts[1].address, known_hosts=known_file(hosts))
        executor = make(backend, max_concurrency=1)
        futures = [executor.submit(hold(mailbox.path, gate.path)) for _ in range(2)]
        mailbox.read(), mailbox.read()
        gate.open(2)
        values(futures)
        assert executor.pool.stats().runners_up == 2
        executor.shutdown()
        for host in hosts:
            host.stop()


def known_file(hosts: list[Host]) -> Path:
    known = hosts[0].folder / "known"
    known.write_text("".join(host.known_as for host in hosts))
    return known


@pytest.mark.parametrize("connect", ["channel", "direct"])
def test_a_cable_is_pulled(
    connect: str,
    namespace: Namespace,
    make_host: MakeHost,
    make_backend: MakeBackend,
    make: Make,
    mailbox: Mailbox,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checklist 4, 18, 54: nobody is told, and both ends notice, the host's by its lease."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", 0.2)
    host = make_host(within=namespace.within, address=namespace.address, port=22)
    address = namespace.ours if connect == "direct" else None
    executor = make(make_backend(host, connect=connect, parent_address=address), **QUICK)
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, host) as watches:
        namespace.cut()
        assert isinstance(error_of(future), RunnerLostError)
        assert all_ended(watches)
    executor.kill_workers()
    executor.shutdown()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("dragonfly")]
    host.stop()


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_command_line_and_no_environment(
    host: Host, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate, census: Census, key: Path
) -> None:
    """Checklist 57: on neither side, of sshd, shells, agents, slots, and the parent."""
    backend = make_backend(host, env={"TOKEN": CANARY}, password=f"{CANARY}-password", passphrase=f"{CANARY}-phrase")
    executor = make(backend)
    assert executor.submit(variable("TOKEN")).result(PATIENCE) == CANARY
    future = executor.submit(hold(mailbox.path, gate.path))
    slot, agent = map(int, mailbox.read().split())
    looked_at = {process.pid for process in census.processes()} | {os.getpid()}
    assert {slot, agent} < looked_at
    for pid in looked_at:
        for name in ("cmdline", "environ"):
            assert CANARY.encode() not in Path(f"/proc/{pid}/{name}").read_bytes(), name
    for path in (path for path in host.folder.rglob("*") if path.is_file()):
        assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in "".join(host.log)
    assert CANARY not in repr(backend) + repr(backend.hosts) + repr(executor.pool.stats())
    gate.open()
    values([future])
    assert public_half(key) in (host.folder / "authorized_keys").read_text()


def test_a_runner_says_who_booted_it(host: Host, make_backend: MakeBackend, make: Make) -> None:
    executor: DragonflyExecutor = make(make_backend(host))

    def parent() -> Any:
        from dragonfly_executor import Parent

        found = Parent.get()
        return found and found._asdict()

    described = executor.submit(parent).result(PATIENCE)
    assert (described["backend"], described["pid"], described["depth"]) == ("ssh", os.getpid(), 1)
    assert executor.submit(variable("DRAGONFLY_PARENT_PID")).result(PATIENCE) is None


def test_a_runner_may_boot_runners_of_its_own(host: Host, make_backend: MakeBackend, make: Make) -> None:
    """From the archive, though the host knows nothing of this package."""
    executor = make(make_backend(host))

    def nested() -> Any:
        from dragonfly_executor import DragonflyExecutor

        with DragonflyExecutor(1) as inner:
            return inner.submit(pow, 2, 12).result(30)

    assert executor.submit(nested).result(PATIENCE) == 4096
