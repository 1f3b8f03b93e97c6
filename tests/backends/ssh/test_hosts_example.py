"""The example for SSH hosts, on two hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.ssh.conftest import MakeHost
from tests.support.sshd.user_home import make_home

EXAMPLE = Path(__file__).parents[3] / "examples" / "ssh_hosts.py"


@pytest.mark.slow
def test_an_option_is_priced_on_two_hosts(make_host: MakeHost, key: Path, tmp_path: Path) -> None:
    hosts = {"red": make_host(), "blue": make_host()}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *hosts],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(make_home(tmp_path / "user", key, hosts))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *runners, price = done.stdout.splitlines()
    calls = [int(calls) for line in runners for calls in re.findall(r"^runner \d+: (\d+) calls$", line)]
    assert (len(calls), sum(calls)) == (len(runners), 40)
    assert price == "price: 3.84, give or take 0.06"
    assert all(host.processes() == [] for host in hosts.values())
