"""`dragonfly top` in a real terminal: tmux shows what a user sees, and sends what a user types."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.observing.conftest import Start
from tests.support.helpers import PATIENCE, Gate, Mailbox

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")


class Terminal:
    """A terminal of 100 columns and 30 lines that runs one command."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._socket = str(folder / "tmux")
        self._status = folder / "status"
        shown = f"trap : INT; {shlex.join(command)}; echo $? > {shlex.quote(str(self._status))}; stty -a; cat"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-s", "t", "-x", "100", "-y", "30", "sh", "-c", shown)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(["tmux", "-S", self._socket, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def type(self, *keys: str) -> None:
        self._tmux("send-keys", "-t", "t", *keys)

    def shows(self, *texts: str) -> str:
        """Return the screen once it shows all these texts."""
        deadline = time.monotonic() + PATIENCE
        while not all(text in (screen := self._tmux("capture-pane", "-p", "-t", "t")) for text in texts):
            assert time.monotonic() < deadline, f"the terminal does not show {texts}:\n{screen}"
            time.sleep(0.02)
        return screen

    def status(self) -> int:
        """Return the exit status of the command, once it has ended."""
        deadline = time.monotonic() + PATIENCE
        while not self._status.exists() or not self._status.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return int(self._status.read_text())

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def top(sockets: Path, tmp_path: Path) -> Iterator[Terminal]:
    pytest.importorskip("rich")
    terminal = Terminal(tmp_path, [sys.executable, "-m", "dragonfly_executor", "top", "--interval", "0.1"])
    yield terminal
    terminal.close()


def test_top_shows_sorts_and_kills_calls_and_shows_their_output(
    top: Terminal, start_program: Start, news: Mailbox, gate: Gate
) -> None:
    top.shows("no program of this user runs a pool", "q quit")
    program = start_program(news.path, gate.path, "capture")
    news.read()
    screen = top.shows(f"(process {program.pid}): pool 'held' on local", "running", "hold")
    (row,) = [line.split() for line in screen.splitlines() if line.rstrip().endswith("hold")]
    assert row[:4] == [str(program.pid), "held", "1", "running"]
    top.type("s")
    top.shows("sorted by function")
    top.type("o")
    top.shows("output of call 1 (hold)", "any key: back")
    top.type("x")
    top.shows("sorted by function")
    top.type("k")
    top.shows(f"kill call 1 (hold) of process {program.pid}? y: yes, any other key: no")
    top.type("n")
    top.shows("sorted by function")
    top.type("k")
    top.shows("kill call 1 (hold)")
    top.type("y")
    assert news.read() == "error CancelledError"
    assert program.wait(PATIENCE) == 0
    top.type("p")
    top.shows("(paused)")
    top.type("q")
    assert top.status() == 0
    # The terminal is as it was: it echoes, and it waits for whole lines.
    screen = top.shows(" echo ", " icanon ")
    assert "sorted by" not in screen


def test_ctrl_c_leaves_the_terminal_as_it_was(top: Terminal) -> None:
    top.shows("q quit")
    top.type("C-c")
    assert top.status() == 130
    screen = top.shows(" echo ", " icanon ")
    assert "Traceback" not in screen


def test_top_without_a_terminal_says_what_to_use(sockets: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dragonfly_executor", "top"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "top needs a terminal; use 'dragonfly status' here" in done.stderr
    assert os.environ["DRAGONFLY_RUNTIME_DIR"] == str(sockets)
