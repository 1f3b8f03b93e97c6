"""Programs that backends run: their output, whenever they end."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor.backends import child_processes
from dragonfly_executor.backends.child_processes import Program, answer_of
from dragonfly_executor.backends.deadline import Deadline
from tests.support.helpers import PATIENCE


@pytest.mark.parametrize("text", [b"", b"input"])
def test_a_program_that_ends_before_its_input_is_sent_has_answered(
    monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    """`ssh -G` may be faster than this process, which is busy."""

    def ended(*arguments: Any) -> Program:
        program = Program(*arguments)
        assert program.status(PATIENCE) == 0
        return program

    monkeypatch.setattr(child_processes, "Program", ended)
    answer = answer_of(["sh", "-c", "echo said; echo complained >&2"], Deadline(PATIENCE), PATIENCE, text)
    assert answer == (0, "said\n", "complained\n")


def test_a_program_gets_its_input_and_its_environment() -> None:
    answer = answer_of(["sh", "-c", 'cat; echo "$NAME"'], Deadline(PATIENCE), PATIENCE, b"line\n", {"NAME": "value"})
    assert answer.output == "line\nvalue\n"


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(TimeoutError, match=r"sleep did not answer within 0\.1 s"):
        answer_of(["sleep", "1000"], Deadline(PATIENCE), 0.1)


def test_a_program_that_does_not_read_its_input_is_heard_all_the_same() -> None:
    """Its end resets the socket, as its input is still there."""
    for size in (10, 5_000):
        answer = answer_of(["sh", "-c", "echo said; exit 3"], Deadline(PATIENCE), PATIENCE, b"x" * size)
        assert (answer.status, answer.output) == (3, "said\n")
