"""Runners on hosts that are started by SSH, and then connect to this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import BootError, DragonflyExecutor, RunnerLostError, SSHBackend, SSHHost
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.ssh import node
from dragonfly_executor.sync import Sync
from tests.backends.ssh.calls import hold, hold_with_family, say_on_stderr_of_the_agent
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost, family
from tests.backends.ssh.test_life import QUICK, known_file
from tests.support import projects
from tests.support.census import Census
from tests.support.dialback import RunnerListener, spellings
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, all_ended, error_of, values, watching
from tests.support.sshd.host import Host, free_port
from tests.support.sshd.relay import Relay

ONCE: dict[str, Any] = {"max_boot_failures": 1, "boot_timeout": 3600.0}
"""What fails within a test does not fail because its time is over."""


@pytest.fixture
def backend(host: Host, make_backend: MakeBackend) -> Any:
    """A backend whose runners dial back."""
    return make_backend(host, connect="direct")


# -- calls -------------------------------------------------------------------------------------------------------------


def test_calls_run_over_a_connection_of_their_own(host: Host, backend: Any, make: Make) -> None:
    """Issue 3 §4. By no other than the parent's own is a runner let in, and the door is closed then."""
    executor = make(backend)

    def parent() -> Any:
        from dragonfly_executor import Parent

        found = Parent.get()
        return found and found._asdict()

    described = executor.submit(parent).result(PATIENCE)
    assert (described["backend"], described["pid"], described["token"]) == ("ssh", os.getpid(), None)
    assert values(executor.submit(pow, number, 2) for number in range(50)) == [number**2 for number in range(50)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(described["address"].rpartition(":")[2])))
    executor.shutdown()
    assert host.processes() == []


def test_large_payloads_travel_both_ways(backend: Any, make: Make) -> None:
    executor = make(backend, heartbeat=0.05)
    payloads = [os.urandom(20 << 20) for _ in range(2)]
    echoed = values([executor.submit(lambda data: data, payload) for payload in payloads])
    assert all(ours == theirs for ours, theirs in zip(echoed, payloads, strict=True))


def test_several_hosts_each_dial_back(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Through one door, two runners from one host among them."""
    hosts = [make_host(), make_host()]
    backend = make_backend(*hosts, connect="direct", runners_per_host=2)
    executor = make(backend, max_concurrency=1)
    futures = [executor.submit(hold(mailbox.path, gate.path)) for _ in range(4)]
    assert len({mailbox.read() for _ in range(4)}) == 4
    gate.open(4)
    values(futures)
    assert executor.pool.stats().runners_up == 4


def test_what_is_printed_there_is_seen_here(
    backend: Any, make: Make, host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of calls over the link, and of the agent itself over the SSH connection."""
    executor = make(backend, max_concurrency=1, output="tag")
    executor.submit(print, "by a call").result(PATIENCE)
    executor.submit(say_on_stderr_of_the_agent()).result(PATIENCE)
    executor.shutdown()
    out, err = capfd.readouterr()
    assert "[runner 1, call 1] by a call\n" in out
    assert f"[{host.spec}] from the agent\n" in err


def test_modules_travel_and_so_do_changes(host: Host, make_backend: MakeBackend, tmp_path: Path) -> None:
    project = tmp_path / "project"
    projects.write(project, {"fees/__init__.py": "", "fees/rule.py": "def fee(): return 'old'\n"})
    backend = make_backend(host, connect="direct", sync=Sync("auto", check_every=0))
    with projects.imported(project, "fees.rule") as (module,), DragonflyExecutor(backend=backend) as executor:
        assert executor.submit(module.fee).result(PATIENCE) == "old"
        projects.write(project, {"fees/rule.py": "def fee(): return 'new and longer'\n"})
        assert executor.submit(module.fee).result(PATIENCE) == "new and longer"


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_an_address_that_leads_nowhere_is_told_at_once(host: Host, make_backend: MakeBackend, make: Make) -> None:
    """Checklist 7. In the runner's own words, long before the boot's time is over, and with nothing left there."""
    address, bound = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    executor = make(make_backend(host, connect="direct", parent_address=address, bind_address=bound), **ONCE)
    error = error_of(executor.submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase == "connect"
    assert f"cannot reach this machine: could not reach the parent at {address} within 1 s" in str(error)
    assert "Connection refused" in str(error)
    assert "parent_address=" in str(error)
    assert host.processes() == []


def test_a_host_that_cannot_reach_the_parent_leaves_the_boot_to_others(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 56: its Python was built without ssl, say."""
    lame, sound = make_host(), make_host()
    hosts = [SSHHost(lame.spec, python=str(without_ssl(lame))), sound.spec]
    executor = make(make_backend(*hosts, known_hosts=known_file([lame, sound]), connect="direct"), max=1)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert f"host {lame.spec} is set aside" in caplog.text
    assert "has a runner that cannot reach this machine: ModuleNotFoundError" in caplog.text


def without_ssl(host: Host) -> Path:
    """A Python there that cannot import it."""
    real = next(path for path in host.path if Path(path, "python3").exists())
    program = host.bin / "python-without-ssl"
    # The last option is -c: what it is given is wrapped.
    program.write_text(
        '#!/bin/sh\noptions=; while [ "$1" != -c ]; do options="$options $1"; shift; done\n'
        "code=\"import sys; sys.modules['ssl'] = None; $2\"; shift 2\n"
        f'exec {real}/python3 $options -c "$code" "$@"\n'
    )
    program.chmod(0o755)
    return program


@contextmanager
def silent_peer() -> Iterator[tuple[str, socket.socket]]:
    """An address at which somebody listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield f"127.0.0.1:{listener.getsockname()[1]}", listener


def test_an_address_that_never_answers_is_told_before_the_boots_time_is_over(
    host: Host, make_backend: MakeBackend, make: Make
) -> None:
    """As behind a firewall that drops what it does not like."""
    with silent_peer() as (address, _):
        options = {"parent_address": address, "bind_address": f"127.0.0.1:{free_port()}", "connect_timeout": 0.7}
        executor = make(make_backend(host, connect="direct", **options), **ONCE)
        error = error_of(executor.submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase == "connect"
    assert f"could not reach the parent at {address} within 0.7 s" in str(error)
    assert "timed out" in str(error)


def test_a_runner_that_is_refused_is_told_so(host: Host, backend: Any) -> None:
    """Checklist 2: with a token that was good for another boot."""
    with closing(RunnerListener(backend)) as reception:
        request = reception.request(1)
        wrong = request.parent._replace(token="00" * 32)
        with pytest.raises(BootError, match="does not expect this runner") as caught:
            backend.boot(request._replace(parent=wrong))
        assert caught.value.phase == "handshake"
        assert host.processes() == []
        # The boot is still the right runner's.
        backend.boot(request).stop()
    assert host.processes() == []


def test_somebody_else_at_the_address_is_told_nothing(host: Host, make_backend: MakeBackend) -> None:
    """Checklist 2: another pool listens there, whose certificate is another one."""
    backend = make_backend(host, connect="direct")
    with closing(RunnerListener(backend)) as ours, closing(RunnerListener(backend)) as other:
        request, elsewhere = ours.request(1), other.request(1).parent.address
        with pytest.raises(BootError, match="the certificate at the parent's address is not the parent's") as caught:
            backend.boot(request._replace(parent=request.parent._replace(address=elsewhere)))
        assert caught.value.phase == "handshake"


def test_what_is_bound_may_differ_from_what_is_dialed(
    host: Host, make_backend: MakeBackend, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 69: behind a port that is forwarded; and every network is listened on only with a warning."""
    bound = free_port()

    class Door:
        address, port = "127.0.0.1", bound
        key = host.key

    forwarded: Any = Relay(Door())  # type: ignore[arg-type]
    with closing(forwarded):
        options = {"parent_address": f"localhost:{forwarded.port}", "bind_address": f"0.0.0.0:{bound}"}
        executor = make(make_backend(host, connect="direct", **options))
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        assert forwarded.connections == 1
        executor.shutdown()
    assert "listens on every network of this machine (0.0.0.0)" in caplog.text


@pytest.mark.parametrize(
    ("options", "bound", "dialed"),
    [
        ({}, ("127.0.0.1", 0), ("127.0.0.1", None)),
        ({"parent_address": "10.1.2.3"}, ("10.1.2.3", 0), ("10.1.2.3", None)),
        ({"parent_address": "here.example:7000"}, ("here.example", 7000), ("here.example", 7000)),
        ({"parent_address": "[fd00::1]:7000"}, ("fd00::1", 7000), ("fd00::1", 7000)),
        ({"parent_address": "fd00::1"}, ("fd00::1", 0), ("fd00::1", None)),
        ({"parent_address": "gate:7000", "bind_address": "0.0.0.0"}, ("0.0.0.0", 7000), ("gate", 7000)),
        ({"parent_address": "gate:7000", "bind_address": "10.1.2.3:22"}, ("10.1.2.3", 22), ("gate", 7000)),
        ({"parent_address": "gate", "bind_address": "[::]:22"}, ("::", 22), ("gate", None)),
    ],
)
def test_addresses_as_a_user_writes_them(
    options: dict[str, str], bound: tuple[str, int], dialed: tuple[str, int | None]
) -> None:
    backend = SSHBackend(["host"], config=None, connect="direct", **options)
    assert backend.dials_back
    assert backend.listen_address() == bound
    assert (backend.advertised_host, backend.advertised_port) == dialed


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"connect": "both"}, ValueError),
        ({"parent_address": "10.1.2.3"}, ValueError),
        ({"bind_address": "10.1.2.3"}, ValueError),
        ({"connect": "direct", "bind_address": "10.1.2.3"}, ValueError),
        ({"connect": "direct", "parent_address": "0.0.0.0"}, ValueError),
        ({"connect": "direct", "parent_address": "[::]:7000"}, ValueError),
        ({"connect": "direct", "parent_address": ""}, ValueError),
        ({"connect": "direct", "parent_address": "ann@here"}, ValueError),
        ({"connect": "direct", "parent_address": "here:port"}, ValueError),
        ({"connect": "direct", "parent_address": "here:70000"}, ValueError),
        ({"connect": "direct", "parent_address": 7000}, TypeError),
    ],
)
def test_addresses_that_make_no_sense(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        SSHBackend(["host"], config=None, **options)


def test_without_it_nothing_listens() -> None:
    """Checklist 69."""
    assert not SSHBackend(["host"], config=None).dials_back


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_calls_outlive_the_ssh_connection(
    host: Host,
    make_backend: MakeBackend,
    make: Make,
    mailbox: Mailbox,
    gate: Gate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checklist 54, for this way: the link is there. And nothing stays on the host when the pool has ended."""
    known = tmp_path / "known"
    warnings: SimpleQueue[str] = SimpleQueue()
    monkeypatch.setattr(node.logger, "warning", lambda form, *values: warnings.put(form % values))
    with closing(Relay(host)) as relay:
        known.write_text(relay.known_as)
        executor = make(make_backend(relay.spec, known_hosts=known, connect="direct"), max_concurrency=2)
        future = executor.submit(hold(mailbox.path, gate.path))
        slot, agent = map(int, mailbox.read().split())
        servers = host.connections()
        with watching(agent, slot, *host.processes()) as watches, watching(*servers) as served:
            relay.cut()
            # What served the connection alone; sshd itself stays.
            assert any(watch.ended(SOON) for watch in served)
            assert f"the SSH connection to {relay.spec} broke" in warnings.get(timeout=PATIENCE)
            assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
            gate.open()
            assert future.result(PATIENCE) == slot
            assert executor.pool.stats().boots_attempted == 1
            executor.shutdown()
            assert all_ended(watches)


def test_a_runner_that_dials_ends_with_the_ssh_connection(
    host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """Checklist 54: there is no link yet, so nobody else would end it before its patience does."""
    known = tmp_path / "known"
    with silent_peer() as (address, listener), closing(Relay(host)) as relay:
        known.write_text(relay.known_as)
        options = {"parent_address": address, "bind_address": f"127.0.0.1:{free_port()}", "connect_timeout": 3600.0}
        executor = make(make_backend(relay.spec, known_hosts=known, connect="direct", **options), **ONCE)
        future = executor.submit(pow, 2, 10)
        with listener.accept()[0], watching(*host.processes()) as watches:
            relay.cut()
            error = error_of(future, SOON)
            assert isinstance(error, BootError)
            assert error.phase == "connect"
            assert "before it had dialed back" in str(error)
            assert all_ended(watches)


def test_a_runner_that_is_killed_while_it_dials_fails_the_boot_at_once(
    host: Host, make_backend: MakeBackend, make: Make
) -> None:
    """Checklist 7: by the kernel, say, since there is no memory left."""
    with silent_peer() as (address, listener):
        options = {"parent_address": address, "bind_address": f"127.0.0.1:{free_port()}", "connect_timeout": 3600.0}
        executor = make(make_backend(host, connect="direct", **options), **ONCE)
        future = executor.submit(pow, 2, 10)
        with listener.accept()[0]:
            # The agent is the last of those that have become each other's children.
            os.kill(host.processes()[-1], signal.SIGKILL)
            error = error_of(future, SOON)
    assert isinstance(error, BootError)
    assert error.phase == "connect"
    assert "ended the runner before it had dialed back" in str(error)
    assert f"exit status {128 + signal.SIGKILL}" in str(error)
    assert host.processes() == []


def test_a_boot_that_is_given_up_ends_the_runner_that_dials(host: Host, make_backend: MakeBackend, make: Make) -> None:
    """Its time is over, as the pool has it."""
    with silent_peer() as (address, listener):
        options = {"parent_address": address, "bind_address": f"127.0.0.1:{free_port()}"}
        backend = make_backend(host, connect="direct", **options)
        executor = make(backend, max_boot_failures=1, boot_timeout=5.0)
        future = executor.submit(pow, 2, 10)
        with listener.accept()[0], watching(*host.processes()) as watches:
            assert isinstance(error_of(future), BootError)
            assert all_ended(watches)


def test_an_agent_that_is_killed_leaves_nothing_on_the_host(
    host: Host, backend: Any, make: Make, mailbox: Mailbox, gate: Gate,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Checklist 5, 38: what its calls started is known to nobody else: not even a daemon stays."""
    executor = make(backend)
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, host) as watches:
        os.kill(watches[0].pid, signal.SIGKILL)
        assert isinstance(error_of(future, SOON), RunnerLostError)
        assert all_ended(watches)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    executor.shutdown()
    # What the keeper says about it would come over the SSH connection.
    assert capfd.readouterr().err == ""
    assert caplog.records == []


@pytest.mark.slow
def test_an_agent_that_is_frozen_is_killed_by_its_keeper(
    host: Host, backend: Any, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 20: the SSH connection still has its word."""
    executor = make(backend, **QUICK)
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, host) as watches:
        os.kill(watches[0].pid, signal.SIGSTOP)
        assert "no data for" in str(error_of(future))
        assert all_ended(watches, PATIENCE)


@pytest.mark.parametrize("fork", [[], ["fork"]], ids=["alone", "with a fork that keeps its descriptors"])
def test_when_the_parent_is_killed_nothing_stays_on_the_host(
    program: Any, host: Host, mailbox: Mailbox, fork: list[str]
) -> None:
    """Checklist 3, 54: at once, long before the lease ends, since the link ends with the parent."""
    parent = program(3600.0, *fork, connect="direct")
    with family(mailbox, host) as watches:
        os.kill(parent.pid, signal.SIGKILL)
        assert all_ended(watches)


def test_when_the_parent_is_frozen_the_lease_ends(program: Any, host: Host, mailbox: Mailbox) -> None:
    """Checklist 52."""
    parent = program(1.0, connect="direct")
    with family(mailbox, host) as watches:
        os.kill(parent.pid, signal.SIGSTOP)
        assert all_ended(watches)


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_the_token_is_in_no_command_line_no_environment_and_no_log(
    host: Host,
    backend: Any,
    make: Make,
    mailbox: Mailbox,
    gate: Gate,
    census: Census,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checklist 57: on neither side, of sshd, shells, keepers, agents, slots, and the parent."""
    caplog.set_level(logging.DEBUG)
    tokens: list[str] = []
    boot = backend.boot

    def remembering(request: BootRequest) -> Any:
        assert request.parent.token is not None
        tokens.append(request.parent.token)
        return boot(request)

    monkeypatch.setattr(backend, "boot", remembering)
    executor = make(backend, log="debug")
    future = executor.submit(hold(mailbox.path, gate.path))
    slot, agent = map(int, mailbox.read().split())
    looked_at = {process.pid for process in census.processes()} | {os.getpid()}
    assert {slot, agent} < looked_at
    (token,) = tokens
    for secret in spellings(token):
        for pid in looked_at:
            for name in ("cmdline", "environ"):
                assert secret not in Path(f"/proc/{pid}/{name}").read_bytes(), name
        for path in (path for path in host.folder.rglob("*") if path.is_file()):
            assert secret not in path.read_bytes(), path
        assert secret not in "".join(host.log).encode()
        assert secret not in caplog.text.encode()
    assert token not in executor.submit(eval, "repr(dict(__import__('os').environ))").result(PATIENCE)
    gate.open()
    values([future])
