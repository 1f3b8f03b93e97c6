"""The configuration as the installed ssh reads it, and as the parser does where there is none."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ssh import openssh_config
from dragonfly_executor.backends.ssh.config import Target
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.openssh_config import SSHConfigResolver
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.support.helpers import PATIENCE, Mailbox, all_ended, killing
from tests.support.sshd.host import Host, make_key

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here: install openssh-client")
Resolve = Callable[..., Target]


@pytest.fixture(params=["ssh", "parser"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who reads the file."""
    if request.param == "ssh" and shutil.which("ssh") is None:
        pytest.skip("no ssh here: install openssh-client")
    if request.param == "parser":
        monkeypatch.setattr(openssh_config.shutil, "which", lambda name: None)  # type: ignore[attr-defined]
    return str(request.param)


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    """Reads a configuration."""

    def resolve(text: str, name: str = "gpu1", user: str | None = None, port: int | None = None) -> Target:
        (tmp_path / "config").write_text(text)
        return SSHConfigResolver(str(tmp_path / "config")).resolve(SSHHost(name), user, port, Deadline(PATIENCE))

    return resolve


def test_a_host_is_what_the_file_makes_of_it(reader: str, resolve: Resolve) -> None:
    text = "Host gpu*\n  HostName %h.example.com\n  User ann # not bob\n  Port 2222 # not 22\n  ConnectTimeout 7\n"
    target = resolve(text)
    assert (target.address, target.port, target.user) == ("gpu1.example.com", 2222, "ann")
    assert (target.key_name, target.connect_timeout, target.key_files) == ("[gpu1.example.com]:2222", 7.0, ())


@needs_ssh
@pytest.mark.parametrize(
    ("text", "is_configured"),
    [
        (None, False),
        ("Host gpu1\n  Port 2222\n", False),
        ("Host gpu1\n  Ciphers aes256-ctr,aes128-gcm@openssh.com\n", True),
        ("Host gpu1\n  Ciphers ^aes256-ctr\n", True),
        ("Host other\n  Ciphers aes256-ctr\n", False),
    ],
)
def test_ssh_prefers_aes_gcm_unless_ciphers_are_configured(
    tmp_path: Path, text: str | None, is_configured: bool
) -> None:
    path = None if text is None else tmp_path / "config"
    if path is not None and text is not None:
        path.write_text(text)
    resolver = SSHConfigResolver(None if path is None else str(path), has_parser=False)
    ciphers = resolver.resolve(SSHHost("gpu1"), None, None, Deadline(PATIENCE)).ciphers
    assert ciphers[:2] == (() if is_configured else openssh_config.FAST_CIPHERS)
    # A host without AES-GCM must still find its cipher in the list.
    assert is_configured or "chacha20-poly1305@openssh.com" in ciphers


def test_a_port_stands_in_the_name_of_a_key(reader: str, resolve: Resolve) -> None:
    assert resolve("Host *\n  Port 2222\n  IdentityFile /keys/%h-%p\n").key_files == ("/keys/gpu1-2222",)


def test_canonical_names_without_domains(reader: str, resolve: Resolve) -> None:
    assert resolve("CanonicalizeHostname yes\nHost gpu1\n  Port 2222\n").port == 2222


def test_a_command_may_have_a_hash_in_it(reader: str, resolve: Resolve) -> None:
    assert resolve("Host gpu1\n  ProxyCommand connect # %h %p\n").proxy_command == "connect # gpu1 22"


def test_what_the_caller_says_comes_first(reader: str, resolve: Resolve) -> None:
    target = resolve("Host *\n  User ann\n  Port 2222\n  ProxyJump a,bob@b:23\n", "carl@gpu1", "bob", 24)
    assert (target.user, target.port, target.jumps) == ("carl", 24, ("a", "bob@b:23"))
    assert target.label == "carl@gpu1"


@pytest.mark.parametrize("text", ["Host gpu1\n  Port many\n", "Host gpu1\n  Port 0\n"])
def test_what_cannot_be_understood_is_a_boot_error(reader: str, resolve: Resolve, text: str) -> None:
    with pytest.raises(BootError, match="configuration cannot be parsed") as caught:
        resolve(text)
    assert caught.value.phase == "resolve"


@needs_ssh
def test_what_only_ssh_knows_of(resolve: Resolve) -> None:
    target = resolve(
        "Match exec true\n  IdentityAgent /run/%r/agent\n  CertificateFile /keys/cert\n"
        "  UserKnownHostsFile /known/%h\n  GlobalKnownHostsFile /known/all\n",
        user="ann",
    )
    assert (target.agent, target.certificate_files) == ("/run/ann/agent", ("/keys/cert",))
    assert target.known_hosts == ("/known/gpu1", "/known/all")


@needs_ssh
def test_a_host_is_asked_for_once(tmp_path: Path) -> None:
    count = tmp_path / "count"
    (tmp_path / "config").write_text(f'Match exec "echo >> {count}"\n  User ann\n')
    resolver = SSHConfigResolver(str(tmp_path / "config"))
    asked = [resolver.resolve(SSHHost("gpu1"), None, None, Deadline(PATIENCE)) for _ in range(3)]
    assert {target.user for target in asked} == {"ann"}
    assert count.read_text() == "\n"


@needs_ssh
def test_a_command_of_the_configuration_that_hangs_ends_with_the_boot(
    tmp_path: Path, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openssh_config, "LIMIT", 3600.0)
    (tmp_path / "config").write_text(f"Match exec \"trap '' TERM; echo $$ > {mailbox.path}; sleep 3600\"\n  User ann\n")
    given_up, errors = CancelToken(), list[BootError]()

    def ask() -> None:
        try:
            SSHConfigResolver(str(tmp_path / "config")).resolve(SSHHost("gpu1"), None, None, Deadline(3600.0, given_up))
        except BootError as error:
            errors.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    with killing(int(mailbox.read())) as processes:
        given_up.set()
        asking.join(PATIENCE)
        assert [error.phase for error in errors] == ["resolve"]
        assert all_ended(processes)


@needs_ssh
def test_a_host_is_known_by_the_files_that_the_configuration_names(
    host: Host, key: Path, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """And its user by the key that it names."""
    known, config = tmp_path / "known by configuration", tmp_path / "config"
    known.write_text(host.known_as)
    config.write_text(
        f'Host gpu1\n  HostName {host.address}\n  Port {host.port}\n  IdentityFile "{key}" # mine\n'
        f"  UserKnownHostsFile {tmp_path}/none {tmp_path}/known\n  GlobalKnownHostsFile /dev/null\n"
    )
    known.rename(tmp_path / "known")
    options: dict[str, Any] = {"config": config, "known_hosts": None, "key_filename": None}
    assert make(make_backend("gpu1", **options)).submit(pow, 2, 10).result(PATIENCE) == 1024


@needs_ssh
def test_a_certificate_that_the_configuration_names_lets_a_user_in(
    host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path, user: str
) -> None:
    import subprocess

    authority, own = make_key(tmp_path / "authority"), make_key(tmp_path / "own")
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", user, f"{own}.pub"]
    subprocess.run(sign, check=True, capture_output=True)
    (tmp_path / "own-cert.pub").rename(tmp_path / "elsewhere.pub")
    host.authorize(authority, "cert-authority")
    config = tmp_path / "config"
    config.write_text(f"Host 127.0.0.1\n  IdentityFile {own}\n  CertificateFile {tmp_path}/elsewhere.pub\n")
    executor = make(make_backend(host, config=config, key_filename=None))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
