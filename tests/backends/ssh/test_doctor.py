"""``dragonfly doctor --backend ssh``: what somebody sees who asks why a host does not work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dragonfly_executor.cli.main import main
from tests.backends.ssh.conftest import MakeHost
from tests.support.sshd.host import Host, make_key


@pytest.fixture
def known_hosts(tmp_path: Path, host: Host) -> Path:
    path = tmp_path / "known_hosts"
    path.write_text(host.known_as)
    return path


@pytest.fixture
def ways(tmp_path: Path, key: Path, known_hosts: Path) -> list[str]:
    """How to get there without a look at the user's own files."""
    empty = tmp_path / "config"
    empty.write_text("IdentityAgent none\n")
    return ["--config", str(empty), "--known-hosts", str(known_hosts), "--key-filename", str(key)]


def test_a_healthy_host_is_told_step_by_step(host: Host, ways: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--backend", "ssh", *ways, "--json", host.spec]) == 0
    told = json.loads(capsys.readouterr().out)
    findings = {finding["name"]: finding for finding in told["hosts"][host.spec]}
    assert all(finding["ok"] for finding in findings.values())
    assert "SHA256:" in findings["host key"]["text"]
    assert findings["python"]["text"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert findings["bootstrap"]["text"].startswith("sent ")
    assert findings["bandwidth"]["figures"]["bytes_per_second"] > 0
    assert list(findings) == [
        "resolve", "connect", "host key", "auth", "python", "bootstrap", "handshake", "sync", "requirements",
        "first result", "node", "resources", "round trip", "bandwidth",
    ]  # fmt: skip


def test_each_host_has_its_own_report_and_one_that_fails_makes_the_status(
    host: Host, make_host: MakeHost, ways: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Checklist 55, 56."""
    unknown, down = make_host(), make_host(started=False)
    assert main(["doctor", "--backend", "ssh", *ways, host.spec, unknown.spec, down.spec]) == 1
    said = capsys.readouterr().out
    well, strange, gone = (said[said.index(other.spec) :] for other in (host, unknown, down))
    assert "FAILED" not in well[: well.index(unknown.spec)]
    lines = strange[: strange.index(down.spec)].splitlines()
    assert [line.split()[2] if line.startswith("  host key") else "" for line in lines].count("FAILED") == 1
    assert any("known_hosts" in line and "→" in line for line in lines)
    assert "connect        FAILED" in gone
    assert "not reached" in gone


def test_a_key_that_is_not_let_in_fails_at_auth(
    host: Host, ways: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_key(tmp_path / "id_other")
    assert main(["doctor", "--backend", "ssh", *ways[:-1], str(other), host.spec]) == 1
    assert "auth           FAILED" in capsys.readouterr().out


def test_without_hosts_it_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--backend", "ssh"])
    assert ended.value.code == 2
    assert "at least one host" in capsys.readouterr().err


def test_a_host_that_cannot_be_reached_is_told_of_once(tmp_path: Path) -> None:
    """No line of the log repeats what the finding says."""
    empty = tmp_path / "config"
    empty.write_text("IdentityAgent none\n")
    command = [sys.executable, "-m", "dragonfly_executor", "doctor", "--backend", "ssh", "--config", str(empty)]
    ended = subprocess.run([*command, "127.0.0.1:1"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "connect        FAILED" in ended.stdout
