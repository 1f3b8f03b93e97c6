"""A process that forks keeps its pools; its child is told that it has none."""

from __future__ import annotations

from pathlib import Path

from tests.processes.lifecycle.conftest import Start
from tests.processes.lifecycle.test_exit import outcome
from tests.support.helpers import Gate, Mailbox


def test_a_forked_child_is_refused_at_once_and_the_parent_goes_on(start: Start, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 36."""
    process = start("use_in_fork", mailbox.path, gate.path)
    said = {mailbox.read(), mailbox.read()}
    assert "forked" in said
    gate.open()
    code, stdout, stderr = outcome(process)
    refused = "ForkedExecutorError"
    assert stdout.splitlines() == [
        *(f"{what} {refused}" for what in ("submit", "map", "view", "result", "exception", "resize")),
        "done fine",
        "shutdown fine",
        "kill fine",
        "7",
        "late again",
    ]
    assert (code, stderr) == (0, "")


def test_a_forked_child_can_end_as_programs_do(start: Start, mailbox: Mailbox) -> None:
    """Checklist 36: neither its exit handlers nor the garbage collector do anything to the parent's pool."""
    assert outcome(start("fork_that_returns", mailbox.path)) == (0, "0 True\n", "")


def test_a_forked_child_can_have_a_pool_of_its_own(start: Start) -> None:
    """Checklist 36."""
    assert outcome(start("pool_of_a_fork")) == (0, "1024\n0 2048\n", "")


def test_a_forked_child_keeps_no_descriptor_and_touches_none_that_comes_after(start: Start, tmp_path: Path) -> None:
    """Checklist 36."""
    assert outcome(start("descriptors_of_a_fork", tmp_path / "file")) == (0, "[]\n64 0\n0 2048\n", "")


def test_forks_while_the_pool_is_busy_hang_nobody(start: Start) -> None:
    """Checklist 37."""
    assert outcome(start("hundred_forks")) == (0, "{0} 1024\n", "")


def test_a_fork_on_the_callback_thread_is_as_any_other(start: Start) -> None:
    """Checklist 37."""
    assert outcome(start("fork_in_a_callback")) == (0, "3 1024\n", "")


def test_a_process_forked_by_multiprocessing_is_refused_too(start: Start) -> None:
    """Checklist 36."""
    assert outcome(start("multiprocessing_fork")) == (0, "ForkedExecutorError\n0 1024\n", "")
