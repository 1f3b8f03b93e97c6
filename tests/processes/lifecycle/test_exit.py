"""Interpreters that end with a pool still there: what is pending finishes, and nothing is said about it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.processes.lifecycle.conftest import Start
from tests.support.helpers import PATIENCE, Gate, Mailbox

SIX_CALLS = set("012345")


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return process.returncode, stdout, stderr


def logged(log: Path) -> set[str]:
    return {line.split()[0] for line in log.read_text().splitlines()} if log.exists() else set()


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("end", 0),
        ("end_by_exit", 3),
        ("end_without_waiting", 0),
        ("end_without_reference", 0),
        ("end_of_a_pool", 0),
    ],
)
def test_pending_calls_finish_when_the_interpreter_ends(
    start: Start, log: Path, gate: Gate, program: str, code: int
) -> None:
    """Checklist 30, 32: the calls wait until the main thread has come to its end."""
    process = start(program, log, gate.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ends\n"
    assert logged(log) == set()
    gate.open(6)
    assert outcome(process) == (code, "", "")
    assert logged(log) == SIX_CALLS


def test_an_unhandled_exception_is_the_only_thing_that_is_printed(start: Start, log: Path, gate: Gate) -> None:
    """Checklist 32."""
    process = start("end_by_exception", log, gate.path)
    gate.open(6)
    code, _, stderr = outcome(process)
    assert code == 1
    assert stderr.startswith("Traceback")
    assert stderr.count("Traceback") == 1
    assert stderr.endswith("\nLookupError: nobody catches this\n")
    assert logged(log) == SIX_CALLS


def test_done_callbacks_run_before_the_interpreter_has_ended(start: Start, log: Path, gate: Gate) -> None:
    """Checklist 32."""
    process = start("end_with_callbacks", log, gate.path)
    gate.open(6)
    assert outcome(process) == (0, "ends\n", "")
    assert logged(log) == SIX_CALLS | {"callback"}


def test_os_exit_leaves_nobody_behind(start: Start, log: Path, gate: Gate) -> None:
    """Checklist 32: the census around this test sees to the rest."""
    process = start("end_at_once", log, gate.path)
    assert outcome(process) == (4, "ends\n", "")
    assert logged(log) == set()


def test_boots_that_fail_do_not_keep_the_interpreter(start: Start) -> None:
    """Checklist 30."""
    assert outcome(start("end_with_failing_boots", "/nowhere/python")) == (0, "BootError\n", "")


def test_a_boot_that_hangs_does_not_keep_the_interpreter(start: Start, slow_python: str, mailbox: Mailbox) -> None:
    """Checklist 30: no runner says hello, ever."""
    assert outcome(start("end_with_failing_boots", slow_python)) == (0, "BootTimeoutError\n", "")


def test_a_runner_that_dies_does_not_keep_the_interpreter(start: Start) -> None:
    """Checklist 30."""
    assert outcome(start("end_with_a_dying_runner")) == (0, "RunnerLostError\n", "")


def test_a_backend_that_hangs_does_not_keep_the_interpreter(start: Start) -> None:
    """Checklist 30: its `boot` never comes back."""
    code, stdout, stderr = outcome(start("end_with_a_backend_that_hangs"))
    assert (code, stdout) == (0, "BootTimeoutError\n")
    assert "has not ended: its job still blocks" in stderr


def test_a_submit_after_the_end_is_refused(start: Start) -> None:
    """Checklist 32."""
    assert outcome(start("submit_at_exit")) == (0, "cannot schedule new futures after interpreter shutdown\n", "")


@pytest.mark.parametrize("state", ["warm", "unused"])
def test_a_finalizer_that_runs_when_modules_are_cleared_meets_a_runtime_error(start: Start, state: str) -> None:
    """What it has to catch is still there, and what it may do with an executor that is gone is harmless."""
    refused = "cannot schedule new futures after interpreter shutdown\n" * 5
    assert outcome(start("use_in_finalizers", state)) == (0, refused + "fine\n" * 3, "")


def test_a_thread_that_outlives_the_main_thread_can_still_submit(start: Start) -> None:
    """Checklist 32."""
    assert outcome(start("thread_outlives_main")) == (0, "1024\n", "")


def test_idle_runners_go_when_the_interpreter_ends(start: Start) -> None:
    """Checklist 32."""
    assert outcome(start("unused_pool")) == (0, "", "")


def test_sys_exit_in_a_with_block_waits_for_the_calls(start: Start, log: Path, gate: Gate) -> None:
    """As ProcessPoolExecutor does: only a Ctrl-C means that nobody wants to wait."""
    process = start("exit_in_a_with_block", log, gate.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ends\n"
    gate.open(6)
    assert outcome(process) == (5, "", "")
    assert logged(log) == SIX_CALLS
