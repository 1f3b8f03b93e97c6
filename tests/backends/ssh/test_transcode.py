"""The main job on two hosts, as a user with an ordinary SSH set-up starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.backends.ssh.conftest import MakeHost
from tests.support.sshd import namespaces
from tests.support.sshd.host import Host
from tests.support.sshd.namespaces import Namespace
from tests.support.sshd.user_home import make_home

EXAMPLE = Path(__file__).parents[3] / "examples" / "transcode.py"


@pytest.fixture
def two_hosts(make_host: MakeHost) -> Iterator[list[Host]]:
    """In networks of their own where those can be made; with an ffmpeg, and nothing else that this job needs."""
    with ExitStack() as stack:
        if namespaces.missing():
            hosts = [make_host(), make_host()]
        else:
            nets = [stack.enter_context(closing(Namespace())) for _ in range(2)]
            hosts = [make_host(within=net.within, address=net.address, port=22) for net in nets]
        for host in hosts:
            (host.bin / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
        yield hosts
        for host in hosts:
            host.stop()


@pytest.fixture
def home(tmp_path: Path, key: Path, two_hosts: list[Host]) -> Path:
    """A home in which these hosts have names, and are known."""
    return make_home(tmp_path / "user", key, dict(zip("ab", two_hosts, strict=True)))


@pytest.mark.slow
def test_a_video_is_transcoded_on_two_hosts(two_hosts: list[Host], home: Path, tmp_path: Path) -> None:
    """The script travels, its segments come back, and the frames are counted against the original's."""
    result = tmp_path / "result.mp4"
    arguments = ["--backend", "ssh", "--hosts", "a,b", "--slots", "1", "--quiet", "--no-comparison"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments, "--output", str(result)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"runners +2 ", done.stdout), done.stdout
    assert re.search(r"result .*132 frames", done.stdout), done.stdout
    assert result.stat().st_size > 10_000
    assert all(host.processes() == [] for host in two_hosts)
