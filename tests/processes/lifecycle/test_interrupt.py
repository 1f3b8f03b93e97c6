"""Ctrl-C at a terminal, while the main thread waits in a `with` block."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.processes.lifecycle.conftest import Start
from tests.support.helpers import Mailbox, ProcessHandle, all_ended

INTERRUPTED_WITHIN = 5.0
CTRL_C = b"\x03"


class Terminal:
    """A pseudo-terminal: what is typed at one end is a keyboard at the other."""

    def __init__(self) -> None:
        self._keyboard, self.end = os.openpty()

    def type(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def close(self) -> None:
        os.close(self._keyboard)
        os.close(self.end)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with closing(Terminal()) as terminal:
        yield terminal


def watch_calls(mailbox: Mailbox, calls: int) -> list[ProcessHandle]:
    """Watches on the slots, and on what their calls have started."""
    return [ProcessHandle(int(pid)) for _ in range(calls) for pid in mailbox.read().split()]


def end_of(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    stdout, stderr = process.communicate(timeout=INTERRUPTED_WITHIN)
    return stdout, stderr, process.returncode


@pytest.mark.parametrize("kind", ["executor", "pool"])
@pytest.mark.parametrize("where", ["result", "as_completed", "map", "shutdown"])
def test_ctrl_c_stops_the_work_and_is_raised(
    start: Start, mailbox: Mailbox, terminal: Terminal, where: str, kind: str
) -> None:
    """Checklist 33."""
    process = start("interrupted", mailbox.path, where, kind, stdin=terminal.end)
    watches = watch_calls(mailbox, 2)
    sessions = {os.getsid(watch.pid) for watch in watches}
    assert process.pid not in sessions, "the terminal's Ctrl-C reaches a runner"
    terminal.type(CTRL_C)
    stdout, stderr, code = end_of(process)
    assert all_ended(watches)
    for watch in watches:
        watch.close()
    assert (stderr, code) == ("", 0)
    assert stdout == "interrupted done done done done\n"


@pytest.mark.parametrize("program", ["interrupted_for_good", "interrupted_without_a_block"])
def test_ctrl_c_that_nobody_catches_ends_the_program_with_one_traceback(
    start: Start, mailbox: Mailbox, terminal: Terminal, program: str
) -> None:
    """Checklist 33."""
    process = start(program, mailbox.path, stdin=terminal.end)
    watches = watch_calls(mailbox, 1)
    terminal.type(CTRL_C)
    _, stderr, code = end_of(process)
    assert all_ended(watches)
    for watch in watches:
        watch.close()
    assert stderr.count("Traceback") == 1
    assert stderr.endswith("\nKeyboardInterrupt\n")
    assert code in (-2, 130)


def test_a_second_ctrl_c_while_the_first_is_being_dealt_with_leaves_nobody(
    start: Start, mailbox: Mailbox, terminal: Terminal
) -> None:
    """Checklist 33."""
    process = start("interrupted_for_good", mailbox.path, stdin=terminal.end)
    watches = watch_calls(mailbox, 1)
    terminal.type(CTRL_C)
    terminal.type(CTRL_C)
    _, stderr, code = end_of(process)
    assert all_ended(watches)
    for watch in watches:
        watch.close()
    assert "KeyboardInterrupt" in stderr
    assert code in (-2, 130, 1)
