"""Programs, mailboxes and gates for tests of how programs end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_client import AgentClient
from tests.support.helpers import Gate, Mailbox

ROOT = Path(__file__).parents[3]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs of `programs`, strict about warnings, and kills those that are there when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.processes.lifecycle.programs", name]
        settings: dict[str, Any] = {
            "cwd": ROOT,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
        }
        process = subprocess.Popen([*command, *map(str, arguments)], **settings | options)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that calls add lines to."""
    return tmp_path / "log"


@pytest.fixture
def slow_python(tmp_path: Path, mailbox: Mailbox, gate: Gate) -> str:
    """An interpreter that says its process id, and starts when the gate is opened."""
    script = tmp_path / "slow-python"
    script.write_text(f'#!/bin/sh\necho $$ > {mailbox.path}\nread -r line < {gate.path}\nexec {sys.executable} "$@"\n')
    os.chmod(script, 0o755)  # noqa: PTH101
    return str(script)


@pytest.fixture
def talk() -> Iterator[Callable[[float], AgentClient]]:
    """Starts agents to talk with, which give calls so many seconds when they are told to go."""
    made: list[AgentClient] = []

    def make(grace: float) -> AgentClient:
        made.append(AgentClient(grace))
        return made[-1]

    yield make
    for each in made:
        each.close()
