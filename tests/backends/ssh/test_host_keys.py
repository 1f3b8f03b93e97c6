"""Who vouches for a key: files as OpenSSH writes them, patterns, revoked keys, pinned ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dragonfly_executor import HostKeyError
from dragonfly_executor.backends.ssh.host_keys import HostKeys, fingerprint, known_as, parse_key
from tests.support.sshd.host import find, make_key, public_half

pytestmark = pytest.mark.skipif(find("ssh-keygen") is None, reason="no ssh-keygen here: install openssh-client")


class Key:
    def __init__(self, path: Path, kind: str = "ed25519") -> None:
        self.path = make_key(path, kind=kind)
        self.line = public_half(self.path)
        self.blob = parse_key(self.line)


@pytest.fixture
def first(tmp_path: Path) -> Key:
    return Key(tmp_path / "first")


@pytest.fixture
def second(tmp_path: Path) -> Key:
    return Key(tmp_path / "second")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


def verify(file: Path, name: str, key: Key) -> None:
    HostKeys([str(file)]).verify("the host", name, key.blob)


def test_a_fingerprint_is_what_ssh_keygen_shows(first: Key) -> None:
    shown = subprocess.run(["ssh-keygen", "-lf", f"{first.path}.pub"], capture_output=True, text=True, check=True)
    assert fingerprint(first.blob) == shown.stdout.split()[1]


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        ("gpu1", "gpu1"),
        ("GPU1", "gpu1"),
        ("other,gpu1,10.0.0.7", "10.0.0.7"),
        ("*.example.com", "gpu1.example.com"),
        ("gpu?", "gpu1"),
        ("[gpu1]:2222", "[gpu1]:2222"),
    ],
)
def test_a_line_is_about_the_hosts_that_it_names(file: Path, first: Key, second: Key, patterns: str, name: str) -> None:
    file.write_text(f"# a comment\n\nnonsense\n{patterns} {first.line} comment\n")
    verify(file, name, first)
    with pytest.raises(HostKeyError):
        verify(file, name, second)


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        ("gpu1", "gpu11"),
        ("*.example.com,!bad.example.com", "bad.example.com"),
        ("!gpu1", "gpu1"),
        ("gpu1", "[gpu1]:2222"),
        ("[g]pu1", "gpu1"),
        ("@cert-authority gpu2", "gpu1"),
        ("@somebody gpu1", "gpu1"),
    ],
)
def test_a_line_is_about_no_other(file: Path, first: Key, patterns: str, name: str) -> None:
    file.write_text(f"{patterns} {first.line}\n")
    with pytest.raises(HostKeyError, match="is in none of"):
        verify(file, name, first)


def test_the_key_of_a_certificate_authority_is_no_host_key(file: Path, first: Key, second: Key) -> None:
    """The error says that certificates of hosts are not read, and what to do."""
    file.write_text(f"@cert-authority gpu? {first.line}\n")
    assert HostKeys([str(file)]).types("gpu1") == []
    for key in (first, second):
        with pytest.raises(HostKeyError, match=r"only @cert-authority lines.*does not read certificates.*host_key="):
            verify(file, "gpu1", key)
    HostKeys([str(file)], [second.blob]).verify("the host", "gpu1", second.blob)
    HostKeys([str(file)], accept_any=True).verify("the host", "gpu1", second.blob)


def test_a_plain_line_counts_beside_one_of_a_certificate_authority(file: Path, first: Key, second: Key) -> None:
    file.write_text(f"@cert-authority * {first.line}\ngpu1 {second.line}\n")
    assert HostKeys([str(file)]).types("gpu1") == ["ssh-ed25519"]
    verify(file, "gpu1", second)
    with pytest.raises(HostKeyError, match="but is known with"):
        verify(file, "gpu1", first)


def test_names_may_be_hashed(file: Path, first: Key, second: Key) -> None:
    file.write_text(f"[gpu1]:2222 {first.line}\n")
    subprocess.run(["ssh-keygen", "-Hf", str(file)], capture_output=True, check=True)
    assert "gpu1" not in file.read_text()
    verify(file, known_as("gpu1", 2222), first)
    with pytest.raises(HostKeyError, match="but is known with"):
        verify(file, known_as("gpu1", 2222), second)


def test_any_of_several_lines_will_do(file: Path, first: Key, second: Key) -> None:
    """As in the days after a host has got a new key."""
    file.write_text(f"gpu1 {first.line}\ngpu1 {second.line}\n")
    verify(file, "gpu1", first)
    verify(file, "gpu1", second)


def test_a_revoked_key_is_refused_whoever_else_vouches_for_it(file: Path, first: Key, second: Key) -> None:
    file.write_text(f"@revoked * {first.line}\ngpu1 {first.line}\ngpu1 {second.line}\n")
    with pytest.raises(HostKeyError, match="revoked"):
        verify(file, "gpu1", first)
    verify(file, "gpu1", second)
    with pytest.raises(HostKeyError, match="revoked"):
        HostKeys([str(file)], accept_any=True).verify("the host", "gpu1", first.blob)


def test_a_key_under_another_type_than_its_own_vouches_for_nothing(file: Path, first: Key) -> None:
    file.write_text(f"gpu1 ssh-rsa {first.line.split()[1]}\n")
    with pytest.raises(HostKeyError):
        verify(file, "gpu1", first)


def test_an_error_names_the_host_the_keys_and_what_to_do(file: Path, first: Key, second: Key) -> None:
    """Checklist 55."""
    file.write_text(f"gpu1 {first.line}\n")
    with pytest.raises(HostKeyError) as caught:
        verify(file, "gpu1", second)
    text = str(caught.value)
    assert caught.value.phase == "host key"
    expected = ("the host", fingerprint(first.blob), fingerprint(second.blob), "ssh-keygen -R")
    assert all(part in text for part in expected)
    with pytest.raises(HostKeyError) as unknown:
        verify(file, "gpu2", second)
    assert all(part in str(unknown.value) for part in ("gpu2", fingerprint(second.blob), str(file), "host_key="))


def test_a_pinned_key_is_the_only_one(file: Path, first: Key, second: Key) -> None:
    file.write_text(f"gpu1 {second.line}\n")
    keys = HostKeys([str(file)], [first.blob])
    keys.verify("the host", "gpu1", first.blob)
    with pytest.raises(HostKeyError, match="host_key= expects"):
        keys.verify("the host", "gpu1", second.blob)


def test_types_of_the_known_keys_come_first(file: Path, tmp_path: Path, first: Key) -> None:
    """So that a host with several keys shows one that can be recognized."""
    ecdsa = Key(tmp_path / "ecdsa", "ecdsa")
    file.write_text(f"gpu1 {ecdsa.line}\n@revoked gpu1 {first.line}\n")
    assert HostKeys([str(file)]).types("gpu1") == ["ecdsa-sha2-nistp256"]
    assert HostKeys([str(file)], [first.blob]).types("gpu1") == ["ssh-ed25519"]


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 !!!", "aGVsbG8=", "/etc/ssh/ssh_host_key.pub"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a public key"):
        parse_key(text)
