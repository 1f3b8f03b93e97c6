"""A folder for the sockets of pools, and programs that run a pool until they are told to end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dragonfly_executor.engine.observing import runtime_directory
from tests.support.helpers import Mailbox

PROGRAM = """
import sys
from dragonfly_executor import Pool
from tests.support.payloads import hold, tell

if __name__ == "__main__":
    mailbox, gate, output = sys.argv[1:]
    pool = Pool("held", min=0, max=1, max_concurrency=2, timeout=None, output=output)
    future = pool.submit(hold, mailbox, gate, 7)
    try:
        tell(mailbox, "value", future.result())
    except BaseException as error:
        tell(mailbox, "error", type(error).__name__)
    pool.shutdown()
"""


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which pools have their sockets during a test."""
    folder = tmp_path / "run"
    monkeypatch.setenv(runtime_directory.VARIABLE, str(folder))
    return folder


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start_program(sockets: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts programs with a pool whose only call waits at a gate."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    started: list[subprocess.Popen[bytes]] = []

    def start(mailbox: str, gate: str, output: str = "inherit") -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, str(path), mailbox, gate, output], cwd=Path.cwd()))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def news(tmp_path: Path) -> Iterator[Mailbox]:
    """Hears what the program has to say."""
    with closing(Mailbox(tmp_path / "news")) as mailbox:
        yield mailbox
