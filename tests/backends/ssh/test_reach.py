"""Ways to a host, and ways to be let in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paramiko
import pytest

from dragonfly_executor import BootError, DragonflyExecutor, HostKeyError, SSHBackend, SSHHost
from dragonfly_executor.backends.ssh.host_keys import fingerprint, parse_key
from tests.backends.ssh.calls import hold, variable
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of, values
from tests.support.sshd.host import Host, find, free_port, make_key, public_half
from tests.support.sshd.paramiko_server import PasswordServer


def home_of(executor: DragonflyExecutor) -> Any:
    """Which host a call runs on."""
    return executor.submit(variable("HOME")).result(PATIENCE)


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_two_hosts_are_two_runners(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Nothing but the list of hosts says so: `max` is their number."""
    hosts = [make_host(), make_host()]
    executor = make(make_backend(*hosts), max_concurrency=1)
    futures = [executor.submit(hold(mailbox.path, gate.path)) for _ in range(2)]
    for _ in futures:
        mailbox.read()
    assert executor.pool.stats().runners_up == 2
    assert all(host.processes() for host in hosts)
    gate.open(2)
    assert len(set(values(futures))) == 2
    executor.shutdown()
    assert not any(host.processes() for host in hosts)


def test_a_runner_sees_nothing_of_the_parents_by_accident(host: Host, make_backend: MakeBackend, make: Make) -> None:
    """Its home, its environment and its interpreter are the host's; what it needs came from the parent."""
    executor = make(make_backend(host))
    os.environ["DRAGONFLY_TEST_SECRET"] = "the parent's"
    try:
        assert home_of(executor) == str(host.home)
        assert executor.submit(variable("DRAGONFLY_TEST_SECRET")).result(PATIENCE) is None
        prefix = executor.submit(lambda: __import__("sys").prefix).result(PATIENCE)
        assert prefix == str(Path(host.path[1]).parent) != sys.prefix
        loaded = executor.submit(lambda: __import__("sys").modules["dragonfly_executor"].__file__).result(PATIENCE)
        assert loaded.startswith(f"{host.archives[0]}/")
    finally:
        del os.environ["DRAGONFLY_TEST_SECRET"]


def test_a_host_may_differ_from_the_others(make_host: MakeHost, make_backend: MakeBackend, make: Make) -> None:
    first, second = make_host(), make_host(programs=[])
    (second.bin / "mypython").symlink_to(Path(first.path[1]) / "python3")
    different = SSHHost(second.spec, python="mypython", env={"WHERE": "there"}, max_concurrency=7, runners=2)
    known = first.folder / "known"
    known.write_text(first.known_as + second.known_as)
    backend = make_backend(first, different, known_hosts=known, env={"WHERE": "here", "ALL": "both"})
    assert backend.default_max == 3
    executor = make(make_backend(different, known_hosts=known, env={"WHERE": "here", "ALL": "both"}))
    found = [executor.submit(variable(name)).result(PATIENCE) for name in ("WHERE", "ALL")]
    assert found == ["there", "both"]
    assert executor.pool.stats().runners[0].slots == 7


def test_a_home_folder_in_pythons_path_is_the_hosts_own(host: Host, make_backend: MakeBackend, make: Make) -> None:
    folder = host.home / "my env"
    folder.mkdir()
    (folder / "py'thon").symlink_to(Path(host.path[1]) / "python3")
    assert home_of(make(make_backend(host, python="~/my env/py'thon"))) == str(host.home)


def test_calls_at_once_are_the_cpus_that_the_host_reports(host: Host, make_backend: MakeBackend, make: Make) -> None:
    executor = make(make_backend(host), max_concurrency=None)
    home_of(executor)
    assert executor.pool.stats().runners[0].slots == len(os.sched_getaffinity(0))


def test_the_node_says_that_it_shares_no_disk(host: Host, make_backend: MakeBackend) -> None:
    from dragonfly_executor.backends.base import BootRequest
    from dragonfly_executor.protocol.parent import Parent

    node = make_backend(host).boot(BootRequest(1, Parent.new("p", 1, "ssh"), PATIENCE))
    try:
        assert not node.shares_disk
        assert node.descriptors()
    finally:
        node.stop()
    assert not node.descriptors()


# -- the configuration, and ways through -------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user who has nothing but what the test gives."""
    home = tmp_path / "user"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


def test_the_users_own_configuration_keys_and_known_hosts_are_enough(
    home: Path, host: Host, key: Path, make: Make
) -> None:
    """A name is all that a program says."""
    (home / ".ssh" / "config").write_text(f"Host gpu1\n  HostName {host.address}\n  Port {host.port}\n")
    (home / ".ssh" / "known_hosts").write_text(host.known_as)
    (home / ".ssh" / "id_ed25519").write_bytes(key.read_bytes())
    assert home_of(make(SSHBackend(["gpu1"]))) == str(host.home)


def test_the_configuration_names_the_key_file(
    home: Path, host: Host, key: Path, make: Make, make_backend: MakeBackend, tmp_path: Path
) -> None:
    wrong = make_key(tmp_path / "wrong")
    (home / ".ssh" / "id_ed25519").write_bytes(wrong.read_bytes())
    config = tmp_path / "config"
    config.write_text(f"Host gpu1\n  HostName {host.address}\n  Port {host.port}\n  IdentityFile {key}\n")
    known = tmp_path / "known"
    known.write_text(host.known_as)
    assert home_of(make(SSHBackend(["gpu1"], config=config, known_hosts=known))) == str(host.home)


@pytest.mark.parametrize("jumps", [1, 2])
def test_jumps_lead_to_a_host(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, tmp_path: Path, jumps: int
) -> None:
    """The host hears nobody else, and each host on the way is looked at as well."""
    *gates, host = [make_host() for _ in range(jumps + 1)]
    config = tmp_path / "config"
    way = ",".join(f"gate{number}" for number in range(jumps))
    text = f"Host target\n  HostName {host.address}\n  Port {host.port}\n  ProxyJump {way}\n"
    for number, gate in enumerate(gates):
        text += f"Host gate{number}\n  HostName {gate.address}\n  Port {gate.port}\n"
    config.write_text(text)
    known = tmp_path / "known"
    known.write_text("".join(one.known_as for one in (*gates, host)))
    executor = make(make_backend("target", config=config, known_hosts=known))
    assert home_of(executor) == str(host.home)
    ports = {gate.port for gate in gates}
    assert not any(f"port {port}" in line for line in host.log for port in ports)
    assert all(any("Accepted publickey" in line for line in gate.log) for gate in gates)
    executor.shutdown()
    known.write_text("".join(one.known_as for one in (*gates[1:], host)))
    unknown = make(make_backend("target", config=config, known_hosts=known))
    error = error_of(unknown.submit(pow, 2, 10))
    assert isinstance(error, HostKeyError)
    assert "gate0" in str(error)


def test_a_jump_host_that_cannot_go_on_says_so(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    gate = make_host()
    config = tmp_path / "config"
    config.write_text(f"Host target\n  HostName 127.0.0.1\n  Port {free_port()}\n  ProxyJump {gate.spec}\n")
    known = tmp_path / "known"
    known.write_text(gate.known_as)
    error = error_of(make(make_backend("target", config=config, known_hosts=known)).submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase == "connect"
    assert gate.spec in str(error)


def test_jumps_in_a_ring_are_noticed(make_backend: MakeBackend, make: Make, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    error = error_of(make(make_backend("a", config=config)).submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert (error.phase, "check ProxyJump for a cycle" in str(error)) == ("resolve", True)


def test_a_program_may_be_the_connection(host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path) -> None:
    """ProxyCommand, with the placeholders that ssh fills in."""
    program = tmp_path / "connect.py"
    program.write_text(
        "import os, socket, sys, threading\n"
        "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def pump():\n"
        "    while data := os.read(0, 65536): sock.sendall(data)\n"
        "threading.Thread(target=pump, daemon=True).start()\n"
        "while data := sock.recv(65536): os.write(1, data)\n"
    )
    config = tmp_path / "config"
    config.write_text(f"Host target\n  HostName {host.address}\n  Port {host.port}\n")
    with config.open("a") as more:
        more.write(f"  ProxyCommand {sys.executable} '{program}' %h %p\n")
    known = tmp_path / "known"
    known.write_text(host.known_as)
    executor = make(make_backend("target", config=config, known_hosts=known))
    assert home_of(executor) == str(host.home)


def test_a_program_that_ends_is_a_failure_to_connect(make_backend: MakeBackend, make: Make, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host target\n  ProxyCommand exit 3\n")
    error = error_of(make(make_backend("target", config=config)).submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase == "connect"


# -- who the user is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_any_kind_of_key_will_do(host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path, kind: str) -> None:
    key = make_key(tmp_path / "key", kind=kind)
    host.authorize(key)
    assert home_of(make(make_backend(host, key_filename=[tmp_path / "nothing", key]))) == str(host.home)


def test_a_key_file_may_have_a_passphrase(host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", passphrase="open sesame")
    host.authorize(key)
    assert home_of(make(make_backend(host, key_filename=key, passphrase="open sesame"))) == str(host.home)
    for options, said in (({}, "passphrase"), ({"passphrase": "canary"}, "wrong passphrase")):
        error = error_of(make(make_backend(host, key_filename=key, **options)).submit(pow, 2, 10))
        assert isinstance(error, BootError)
        assert (error.phase, said in str(error), "canary" in str(error)) == ("auth", True, False)


def test_a_certificate_beside_a_key_is_used(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, tmp_path: Path, user: str
) -> None:
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "key")
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", user, f"{key}.pub"]
    subprocess.run(sign, check=True)
    trusted = tmp_path / "trusted"
    trusted.write_text(public_half(authority) + "\n")
    host = make_host(settings=[f"TrustedUserCAKeys {trusted}"])
    assert home_of(make(make_backend(host, key_filename=key))) == str(host.home)
    assert any("CERT" in line for line in host.log)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An SSH agent without keys; its socket."""
    program = find("ssh-agent")
    if program is None:
        pytest.skip("no ssh-agent here: install openssh-client")
    path = str(tmp_path / "agent")
    with subprocess.Popen([program, "-D", "-a", path], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        yield path
        process.terminate()


@pytest.mark.parametrize("identities_only", [False, True])
def test_an_agents_keys_will_do(
    agent: str, host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path, identities_only: bool
) -> None:
    """With IdentitiesOnly those alone that a file names, of which the private half need not be there."""
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other")
    host.authorize(key)
    for added in (other, key):
        subprocess.run(["ssh-add", "-q", str(added)], check=True, capture_output=True)
        added.unlink()
    config = tmp_path / "config"
    config.write_text(f"Host *\n  IdentityFile {key}.pub\n  IdentitiesOnly yes\n" if identities_only else "")
    executor = make(make_backend(host, key_filename=None, use_agent=True, config=config))
    assert home_of(executor) == str(host.home)
    tried = [line for line in host.log if "Failed publickey" in line]
    assert bool(tried) != identities_only


def test_a_host_that_lets_nobody_in_says_what_was_tried_and_others_are_used(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """Checklist 56."""
    closed, host = make_host(), make_host()
    (closed.folder / "authorized_keys").write_text("")
    error = error_of(make(make_backend(closed)).submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert (error.phase, error.attempts) == ("auth", 3)
    assert closed.spec in str(error)
    assert "id_test: refused" in str(error)
    assert home_of(make(make_backend(closed, host))) == str(host.home)


@pytest.fixture
def server(tmp_path: Path, bare_python: Path) -> Iterator[PasswordServer]:
    home = tmp_path / "home"
    home.mkdir()
    key = make_key(tmp_path / "server_key")
    with closing(PasswordServer(home, key, "open sesame", f"{bare_python}:/bin")) as server:
        yield server


def known_by(server: PasswordServer, tmp_path: Path) -> Path:
    known = tmp_path / "known"
    known.write_text(server.known_as)
    return known


def test_a_password_is_tried_last(
    server: PasswordServer, make_backend: MakeBackend, make: Make, key: Path, tmp_path: Path
) -> None:
    backend = make_backend(f"127.0.0.1:{server.port}", known_hosts=known_by(server, tmp_path), password="open sesame")
    assert make(backend).submit(pow, 2, 10).result(PATIENCE) == 1024
    assert [method for method, _ in server.shown] == ["publickey", "password"]


def test_a_password_is_not_for_hosts_on_the_way(
    server: PasswordServer, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host target\n  HostName 127.0.0.1\n  ProxyJump 127.0.0.1:{server.port}\n")
    backend = make_backend("target", config=config, known_hosts=known_by(server, tmp_path), password="open sesame")
    error = error_of(make(backend).submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase == "auth"
    assert {method for method, _ in server.shown} == {"publickey"}


def test_a_wrong_password_is_in_no_error(
    server: PasswordServer, make_backend: MakeBackend, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 57."""
    caplog.set_level("DEBUG")
    backend = make_backend(f"127.0.0.1:{server.port}", known_hosts=known_by(server, tmp_path), password="canary-7")
    error = error_of(make(backend, log="debug").submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase == "auth"
    assert ("password", "canary-7") in server.shown
    assert "password: refused" in str(error)
    assert "canary-7" not in repr(backend) + str(error) + repr(error.__dict__) + caplog.text + repr(vars(backend))


# -- whose key it is ---------------------------------------------------------------------------------------------------


def test_an_unknown_host_is_shown_nothing(
    server: PasswordServer, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """Checklist 55: no key, no password; and it is not tried again."""
    backend = make_backend(f"127.0.0.1:{server.port}", password="open sesame")
    error = error_of(make(backend).submit(pow, 2, 10))
    assert isinstance(error, HostKeyError)
    assert error.attempts == 1
    assert fingerprint(parse_key(server.known_as_key)) in str(error)
    assert server.shown == []
    assert isinstance(error_of(make(backend).submit(pow, 2, 10)), HostKeyError)
    assert len(server._transports) == 1, "the second pool was told without asking the host"


def test_a_host_whose_key_has_changed_is_not_used_and_others_are(
    make_host: MakeHost, make_backend: MakeBackend, make: Make
) -> None:
    """Checklist 55."""
    host, other = make_host(), make_host()
    before = fingerprint(parse_key(public_half(host.key)))
    backends = [make_backend(host), make_backend(host, other)]
    host.stop()
    host.change_key()
    host.start()
    error = error_of(make(backends[0]).submit(pow, 2, 10))
    assert isinstance(error, HostKeyError)
    assert before in str(error)
    assert fingerprint(parse_key(public_half(host.key))) in str(error)
    assert home_of(make(backends[1])) == str(other.home)
    assert not any("Accepted" in line for line in host.log)


def test_a_pinned_key_needs_no_file(host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path) -> None:
    pinned = public_half(host.key)
    assert home_of(make(make_backend(host, known_hosts=tmp_path / "nothing", host_key=pinned))) == str(host.home)
    other = public_half(make_key(tmp_path / "other"))
    error = error_of(make(make_backend(host, host_key=other)).submit(pow, 2, 10))
    assert isinstance(error, HostKeyError)


def test_nothing_but_what_is_called_insecure_lets_an_unknown_host_in(
    host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n")
    strict = make_backend(host, known_hosts=[], config=config)
    assert isinstance(error_of(make(strict).submit(pow, 2, 10)), HostKeyError)
    lax = make_backend(host, known_hosts=[], insecure_accept_any_host_key=True)
    assert home_of(make(lax)) == str(host.home)


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "kind"),
    [
        (["gpu1"], {"runners_per_host": 0}, ValueError),
        (["gpu1"], {"connect_timeout": 0}, ValueError),
        (["gpu1"], {"host_key": "nonsense"}, ValueError),
        (["gpu1"], {"port": 0}, ValueError),
        (["gpu1"], {"user": ""}, ValueError),
        (["gpu1"], {"env": {"A": None}}, TypeError),
        (["gpu1"], {"host_wait": 3}, TypeError),
        ([], {}, ValueError),
        ("gpu1", {}, TypeError),
        ([3], {}, TypeError),
    ],
)
def test_arguments_are_checked_when_they_are_given(
    arguments: Any, options: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        SSHBackend(arguments, config=None, **options)


def test_paramiko_is_not_loaded_before_it_is_needed() -> None:
    program = "import sys, dragonfly_executor.api.executor; print('paramiko' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
    assert paramiko.__version__
