"""What the configuration file makes of a host's name."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from dragonfly_executor import BootError
from dragonfly_executor.backends.ssh.config import DEFAULT_KEEPALIVE, SSHConfig, Target
from dragonfly_executor.backends.ssh.hosts import SSHHost


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user whose configuration the test writes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def resolve(home: Path, text: str, host: SSHHost | str, user: str | None = None, port: int | None = None) -> Target:
    (home / ".ssh" / "config").write_text(text)
    return SSHConfig("~/.ssh/config").resolve(SSHHost(host) if isinstance(host, str) else host, user, port)


def test_without_a_configuration_a_host_is_what_it_is_called(home: Path) -> None:
    target = SSHConfig("~/.ssh/config").resolve(SSHHost("gpu1"))
    assert target == Target("gpu1", "gpu1", 22, getpass.getuser(), "gpu1", keepalive=DEFAULT_KEEPALIVE)


def test_an_alias_stands_for_all_that_it_takes(home: Path) -> None:
    target = resolve(
        home,
        """
Host gpu*
  HostName %h.example.com
  Port 2222
  User ann
  IdentityFile ~/.ssh/gpu
  IdentityFile /keys/%r
  IdentitiesOnly yes
  ConnectTimeout 7
  ServerAliveInterval 40
  StrictHostKeyChecking no
Host *
  User nobody
""",
        "gpu1",
    )
    assert target == Target(
        label="gpu1",
        address="gpu1.example.com",
        port=2222,
        user="ann",
        key_name="[gpu1.example.com]:2222",
        key_files=(f"{home}/.ssh/gpu", "/keys/ann"),
        identities_only=True,
        connect_timeout=7.0,
        keepalive=40,
    )


def test_what_the_user_says_comes_before_the_configuration(home: Path) -> None:
    text = "Host *\n  User ann\n  Port 2222\n  ProxyCommand connect %r %h %p\n"
    assert resolve(home, text, SSHHost("bob@gpu1:22"), "carl", 23).proxy_command == "connect bob gpu1 22"
    target = resolve(home, text, "gpu1", "carl", 23)
    assert (target.user, target.port, target.proxy_command) == ("carl", 23, "connect carl gpu1 23")


def test_jumps_come_in_their_order_and_before_a_command(home: Path) -> None:
    text = "Host gpu1\n  ProxyJump ann@gate:2222, inner\n  ProxyCommand connect %h\n"
    target = resolve(home, text, "gpu1")
    assert (target.jumps, target.proxy_command) == (("ann@gate:2222", "inner"), None)


@pytest.mark.parametrize("option", ["ProxyJump", "ProxyCommand"])
def test_none_is_none(home: Path, option: str) -> None:
    target = resolve(home, f"Host gpu1\n  {option} none\nHost *\n  {option} gate\n", "gpu1")
    assert (target.jumps, target.proxy_command) == ((), None)


def test_a_key_may_be_known_under_another_name(home: Path) -> None:
    assert resolve(home, "Host gpu1\n  HostKeyAlias cluster\n  Port 2222\n", "gpu1").key_name == "cluster"


def test_files_are_included_where_they_are_named(home: Path) -> None:
    """paramiko knows no Include."""
    folder = home / ".ssh" / "parts"
    folder.mkdir()
    (folder / "a").write_text("Host gpu1\n  User ann\n")
    (folder / "b").write_text("Host gpu1\n  User bob\n  Include parts/b\n")
    text = 'Host gpu1\n  Include parts/*\n  Port 2222\nHost gpu2\n  Include "parts/a"\n  Port 2223\n'
    with pytest.raises(OSError, match="include each other"):
        resolve(home, text, "gpu1")
    (folder / "b").write_text("Host gpu1\n  User bob\n")
    found = [resolve(home, text, name, port=None) for name in ("gpu1", "gpu2")]
    assert [(target.user, target.port) for target in found] == [("ann", 2222), (getpass.getuser(), 2223)]


@pytest.mark.parametrize("text", ["Host gpu1\n  Port many\n", "Host gpu1\n  Port 0\n", 'Host "gpu1\n'])
def test_what_cannot_be_understood_is_a_boot_error(home: Path, text: str) -> None:
    with pytest.raises(BootError, match="configuration") as caught:
        resolve(home, text, "gpu1")
    assert caught.value.phase == "resolve"
